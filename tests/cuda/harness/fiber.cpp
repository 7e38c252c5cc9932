/* Blocks of CUDA threads as fibers: the scheduler, barriers, warp operations, shared memory, tensor-core fragments. */
#include "tests/cuda/harness/harness.h"
#include "tests/cuda/harness/races.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define ASAN 1
#else
#define ASAN 0
#endif

#define STACK_BYTES ((size_t)128 << 10)
/* Stacks that all began at the same place in a page would share a few lines of the caches. */
#define STACK_BEGIN(thread) (STACK_BYTES - (thread) % 64 * (size_t)320)
#define FRAMES_BYTES        2048 /* of fiber_entry and leave */
#define CANARY              16
#define WARP                32u

/* --- switching ---------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
/* Saves the registers that a call preserves, stores the stack pointer and goes on with another stack. */
extern "C" void harness_switch(void **save, void *to);
asm(".text\n"
    ".globl harness_switch\n"
    ".type harness_switch, @function\n"
    "harness_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size harness_switch, .-harness_switch\n");

struct context {
    void *sp;
};

static void context_init(struct context *c, char *stack, size_t bytes, void (*entry)(void))
{
    void **sp = (void **)(void *)(stack + bytes - 64);
    *--sp = nullptr; /* where a return address would be: the entry never returns */
    *--sp = (void *)entry;
    c->sp = sp - 6;
}

static void context_switch(struct context *from, struct context *to)
{
    harness_switch(&from->sp, to->sp);
}
#else
#include <ucontext.h>

struct context {
    ucontext_t u;
};

static void context_init(struct context *c, char *stack, size_t bytes, void (*entry)(void))
{
    getcontext(&c->u);
    c->u.uc_stack.ss_sp = stack;
    c->u.uc_stack.ss_size = bytes;
    makecontext(&c->u, entry, 0);
}

static void context_switch(struct context *from, struct context *to)
{
    swapcontext(&from->u, &to->u);
}
#endif

/* --- a block ------------------------------------------------------------------------------------------------------ */

/* What a fiber stopped at; whether it can go on, its warp knows. */
enum fiber_state { NOWHERE, AT_BARRIER, IN_WARP, SPINNING, ENDED };

struct async_copy {
    void *to;
    const void *from;
    int bytes, room, group; /* zeros behind the bytes, up to the room */
};

struct fiber {
    struct harness_thread thread;
    struct context context;
    char *stack;
    enum fiber_state state;
    unsigned warp;
    const void *site; /* of the barrier it waits at */
    std::vector<struct async_copy> copies;
    int n_groups; /* of copies committed */
    void *asan;
};

struct warp {
    unsigned ready; /* lanes that can run */
    unsigned arrived;
    char *order;
    /* of the operation that each lane waits in */
    void *args[WARP];
    void (*fn[WARP])(void **, unsigned);
    unsigned mask[WARP];
};

struct shared_array {
    const void *key;
    char *memory;
    size_t bytes;
};

/* A block that runs. Those of a cooperative launch are all there at once, the others come one after the other. */
struct block {
    struct harness_block index;
    std::vector<struct fiber> fibers;
    std::vector<struct warp> warps;
    std::vector<struct shared_array> arrays;
    unsigned n_alive, n_at_barrier;
    char *barrier_order;
    size_t shared_bytes;
};

static std::vector<struct block> running;
static struct block *block; /* whose turn it is */
static bool cooperative;
static std::deque<char *> stacks; /* that nobody uses */
static struct context scheduler;
static struct fiber *now;
/* The warp that runs: its number, and its lanes in the order of their turns. */
static unsigned warp_now, turn;
static std::vector<unsigned> lanes;
static size_t shared_limit;
static void (*block_body)(void *);
static void *block_arg;
/* What threads release and acquire (races.h). Each meeting has another, or a thread that is resumed late would acquire what
 * the others did behind it. */
static char launch_order, end_order, orders[1 << 12];
static size_t n_orders;
#if ASAN
static void *scheduler_asan;
static const void *scheduler_stack;
static size_t scheduler_stack_bytes;
static bool from_scheduler;
#endif

struct harness_thread *harness_thread;
struct harness_block *harness_block;

static char *next_order(void)
{
    return &orders[n_orders++ % sizeof(orders)];
}

[[noreturn]] void harness_die(const char *what)
{
    const struct harness_block *b = harness_block;
    if (b)
        fprintf(stderr, "CUDA on the host: %s: block (%u, %u, %u), thread %u\n", what, b->index.x, b->index.y,
                b->index.z, now ? now->thread.index.x : 0);
    else
        fprintf(stderr, "CUDA on the host: %s\n", what);
    abort();
}

static void set_ready(struct fiber *f)
{
    f->state = NOWHERE;
    block->warps[f->warp].ready |= 1u << f->thread.lane;
}

static void set_waiting(struct fiber *f, enum fiber_state state)
{
    f->state = state;
    block->warps[f->warp].ready &= ~(1u << f->thread.lane);
}

/* The lane of this warp that can run and whose turn is next; NULL: there is none. */
static struct fiber *next_lane(void)
{
    unsigned ready = block->warps[warp_now].ready;
    for (unsigned i = 0; ready && i < WARP; i++) {
        unsigned lane = lanes[turn++ % WARP];
        if (ready >> lane & 1)
            return &block->fibers[warp_now * WARP + lane];
    }
    return nullptr;
}

/* A fiber has the processor, first of all or again. */
static void arrive(void *asan)
{
#if ASAN
    const void *stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(asan, &stack, &bytes);
    if (from_scheduler) {
        scheduler_stack = stack;
        scheduler_stack_bytes = bytes;
        from_scheduler = false;
    }
#endif
    (void)asan;
}

/* On to the next lane of the warp, without a detour, or to the scheduler. */
static void leave(void)
{
    struct fiber *f = now, *next = next_lane();
#if ASAN
    __sanitizer_start_switch_fiber(f->state == ENDED ? nullptr : &f->asan,
                                   next ? next->stack : scheduler_stack,
                                   next ? STACK_BYTES : scheduler_stack_bytes);
#endif
    if (next) {
        now = next;
        harness_thread = &next->thread;
        races_switch((void **)next->stack);
    } else {
        races_switch_back();
    }
    context_switch(&f->context, next ? &next->context : &scheduler);
    arrive(f->asan);
}

static void fiber_entry(void)
{
    arrive(nullptr);
    races_acquire(&launch_order);
    block_body(block_arg);
    races_release(&end_order);
    if (!now->copies.empty())
        harness_die("a thread ends with asynchronous copies that it has not waited for");
    set_waiting(now, ENDED);
    block->n_alive--;
    leave();
    abort();
}

/* Runs a fiber, and whatever lanes of its warp are next, until none of them can go on. */
static void resume(struct fiber *f)
{
    now = f;
    warp_now = f->warp;
    harness_thread = &f->thread;
#if ASAN
    from_scheduler = true;
    __sanitizer_start_switch_fiber(&scheduler_asan, f->stack, STACK_BYTES);
#endif
    races_switch((void **)f->stack); /* the far end, which nobody reaches */
    context_switch(&scheduler, &f->context);
#if ASAN
    __sanitizer_finish_switch_fiber(scheduler_asan, nullptr, nullptr);
#endif
    now = nullptr;
}

static void release_barrier(void)
{
    const void *site = nullptr;
    for (struct fiber &f : block->fibers) {
        if (f.state != AT_BARRIER)
            continue;
        if (site && f.site != site)
            harness_die("threads of a block wait at different barriers");
        site = f.site;
        set_ready(&f);
    }
    block->n_at_barrier = 0;
    block->barrier_order = next_order();
}

void harness_barrier(const void *site)
{
    char *order = block->barrier_order;
    now->site = site;
    set_waiting(now, AT_BARRIER);
    block->n_at_barrier++;
    races_release(order);
    leave();
    races_acquire(order);
}

/* The other blocks have their turn before the value is looked at. */
unsigned load_counter(const unsigned *p)
{
    if (!cooperative)
        harness_die("a thread waits for other blocks, which a launch like this one does not have running");
    set_waiting(now, SPINNING);
    leave();
    races_acquire((void *)(uintptr_t)p);
    return *p;
}

void add_to_counter(unsigned *p, unsigned n)
{
    races_release(p);
    __atomic_fetch_add(p, n, __ATOMIC_ACQ_REL);
}

void harness_meet(unsigned mask, void *arg, void (*fn)(void **, unsigned))
{
    struct fiber *f = now;
    struct warp *w = &block->warps[f->warp];
    char *order = arg ? nullptr : w->order; /* nothing but __syncwarp orders accesses */
    unsigned first = f->warp * WARP, lane = f->thread.lane, n_threads = (unsigned)block->fibers.size();
    unsigned there = w->arrived & mask;
    unsigned exist = n_threads - first >= WARP ? ~0u : (1u << (n_threads - first)) - 1;
    if (!(mask >> lane & 1))
        harness_die("a warp operation's mask leaves out a lane that takes part");
    if (mask & ~exist)
        harness_die("a warp operation's mask names lanes that do not exist");
    unsigned other = there ? (unsigned)__builtin_ctz(there) : lane; /* all that are there agree with it */
    if (there && (w->fn[other] != fn || w->mask[other] != mask))
        harness_die("lanes of a warp meet in different operations");
    w->fn[lane] = fn;
    w->mask[lane] = mask;
    w->args[lane] = arg;
    w->arrived |= 1u << lane;
    if (order)
        races_release(order);
    if ((w->arrived & mask) != mask) {
        set_waiting(f, IN_WARP);
        leave();
        if (order)
            races_acquire(order);
        return;
    }
    if (order)
        races_acquire(order);
    w->order = next_order();
    fn(w->args, mask);
    w->arrived &= ~mask;
    w->ready |= mask;
}

/* --- shared memory ------------------------------------------------------------------------------------------------ */

static void *new_array(const void *key, size_t bytes)
{
    struct races_quiet quiet;
    size_t margin = ASAN ? 0 : CANARY;
    struct shared_array a = {key, nullptr, bytes};
    block->shared_bytes += (bytes + 15) / 16 * 16;
    if (block->shared_bytes > shared_limit)
        harness_die("more shared memory than the kernel may have");
    if (posix_memalign((void **)&a.memory, 16, bytes + 2 * margin) != 0)
        harness_die("out of memory");
    memset(a.memory, 0xfb, bytes + 2 * margin);
    memset(a.memory + margin, 0xff, bytes);
    block->arrays.push_back(a);
    return a.memory + margin;
}

void *harness_shared(const void *key, size_t bytes)
{
    for (const struct shared_array &a : block->arrays) {
        if (a.key == key)
            return a.memory + (ASAN ? 0 : CANARY);
    }
    return new_array(key, bytes);
}

static void drop_arrays(void)
{
    struct races_quiet quiet;
    for (const struct shared_array &a : block->arrays) {
        for (size_t i = 0; i < CANARY && !ASAN; i++) {
            if ((unsigned char)a.memory[i] != 0xfb || (unsigned char)a.memory[CANARY + a.bytes + i] != 0xfb)
                harness_die("written beyond an array in shared memory");
        }
        free(a.memory);
    }
    block->arrays.clear();
}

/* --- running ------------------------------------------------------------------------------------------------------ */

static void shuffle(std::vector<unsigned> *order)
{
    for (size_t i = order->size(); harness_is_random() && i > 1; i--)
        std::swap((*order)[i - 1], (*order)[harness_random((unsigned)i)]);
}

static std::vector<unsigned> count_to(unsigned n)
{
    std::vector<unsigned> order(n);
    for (unsigned i = 0; i < n; i++)
        order[i] = i;
    return order;
}

/* Those that a fiber has never returned from, its first ones: to AddressSanitizer there would still be something between their
 * variables. */
static void forget_frames(char *begin)
{
#if ASAN
    __asan_unpoison_memory_region(begin - FRAMES_BYTES, FRAMES_BYTES);
#endif
    (void)begin;
}

/* The one that somebody used last, for the caches' sake. To races.h a stack is a thread, which is not to be one of the block
 * before: there it is the one that has been free for longest, if more than a block's are. */
static char *take_stack(size_t n_threads)
{
    if (stacks.size() <= (RACES ? n_threads : 0))
        return (char *)mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *stack = RACES ? stacks.front() : stacks.back();
    if (RACES)
        stacks.pop_front();
    else
        stacks.pop_back();
    return stack;
}

static void start_block(struct block *b, unsigned index, dim3 threads, dim3 blocks, size_t dynamic)
{
    struct races_quiet quiet;
    static const char dynamic_key = 0;
    unsigned n_threads = threads.x * threads.y * threads.z;
    b->index = {{index % blocks.x, index / blocks.x % blocks.y, index / (blocks.x * blocks.y)},
                threads,
                blocks,
                nullptr};
    b->n_alive = n_threads;
    b->n_at_barrier = 0;
    b->shared_bytes = 0;
    b->fibers.assign(n_threads, {});
    b->warps.assign((n_threads + WARP - 1) / WARP, {});
    b->barrier_order = next_order();
    for (struct warp &w : b->warps)
        w.order = next_order();
    for (unsigned i = 0; i < n_threads; i++) {
        struct fiber *f = &b->fibers[i];
        f->thread.index = {i % threads.x, i / threads.x % threads.y, i / (threads.x * threads.y)};
        f->thread.lane = i % WARP;
        f->warp = i / WARP;
        b->warps[f->warp].ready |= 1u << i % WARP;
        f->stack = take_stack(n_threads);
        context_init(&f->context, f->stack, STACK_BEGIN(i), fiber_entry);
    }
    block = b;
    b->index.dynamic = dynamic ? new_array(&dynamic_key, dynamic) : nullptr;
}

static void finish_block(struct block *b)
{
    block = b;
    drop_arrays();
    for (size_t i = b->fibers.size(); i-- > 0;) { /* each thread will have the same one again */
        forget_frames(b->fibers[i].stack + STACK_BEGIN(i));
        stacks.push_back(b->fibers[i].stack);
    }
    block = nullptr;
    harness_block = nullptr;
}

/* Each warp of the block whose turn it is, once, until each of its lanes waits or has ended; of a cooperative block by a seed
 * some not before its next turn. Returns whether anything ran, or could have. */
static bool run_warps(void)
{
    bool any = false;
    std::vector<unsigned> order = count_to((unsigned)block->warps.size());
    lanes = count_to(WARP);
    shuffle(&order);
    shuffle(&lanes);
    for (unsigned w : order) {
        if (cooperative && harness_is_random() && harness_random(4) == 0) {
            any |= block->warps[w].ready != 0;
            continue;
        }
        warp_now = w;
        turn = 0;
        for (struct fiber *f; (f = next_lane()); any = true)
            resume(f);
    }
    if (block->n_alive > 0 && block->n_at_barrier == block->n_alive) {
        release_barrier(); /* threads that have ended do not count */
        any = true;
    }
    return any;
}

/* A block's turn in a cooperative launch: as far as it can go without the others or, by a seed, one round of its warps.
 * Returns whether anything ran but threads that looked in vain for what others are to do. */
static bool take_turn(struct block *b)
{
    bool any = false, again = true;
    std::vector<struct fiber *> waiting;
    block = b;
    harness_block = &b->index;
    for (struct fiber &f : b->fibers) {
        if (f.state == SPINNING)
            waiting.push_back(&f);
    }
    for (struct fiber *f : waiting) {
        set_ready(f);
        resume(f);
        any |= f->state != SPINNING;
    }
    while (again && b->n_alive > 0) {
        again = run_warps();
        any |= again;
        again &= !harness_is_random();
    }
    return any;
}

static void run_together(void)
{
    for (;;) {
        bool any = false, alive = false;
        std::vector<unsigned> order = count_to((unsigned)running.size());
        shuffle(&order);
        for (unsigned i : order) {
            any |= running[i].n_alive > 0 && take_turn(&running[i]);
            alive |= running[i].n_alive > 0;
        }
        if (!alive)
            return;
        if (!any)
            harness_die("deadlock: blocks wait for one another");
    }
}

static void run_alone(struct block *b)
{
    block = b;
    harness_block = &b->index;
    while (b->n_alive > 0) {
        if (!run_warps())
            harness_die("deadlock: a barrier or a warp operation waits for threads that will not come");
    }
}

void harness_run_kernel(dim3 blocks, dim3 threads, size_t shared, const void *kernel, bool together,
                        void (*body)(void *), void *arg)
{
    block_body = body;
    block_arg = arg;
    shared_limit = harness_shared_most(kernel, shared);
    cooperative = together;
    std::vector<unsigned> order = count_to(blocks.x * blocks.y * blocks.z);
    shuffle(&order);
    running.resize(together ? order.size() : 1);
    races_release(&launch_order);
    for (unsigned i : order) {
        struct block *b = &running[together ? i : 0];
        start_block(b, i, threads, blocks, shared);
        if (together)
            continue;
        run_alone(b);
        finish_block(b);
    }
    if (together) {
        run_together();
        for (struct block &b : running)
            finish_block(&b);
    }
    races_acquire(&end_order);
}

/* --- fragments, after the PTX ISA: group = lane / 4, place = lane % 4 --------------------------------------------- */

struct mma_args {
    float *c;
    const unsigned *a, *b;
};

static float half_of(unsigned pair, int high)
{
    __half_raw raw;
    raw.x = (unsigned short)(high ? pair >> 16 : pair & 0xffff);
    return __half2float(__half(raw));
}

static void mma_all(void **args, unsigned)
{
    typedef float row __attribute__((vector_size(8 * sizeof(float))));
    float a[16][16];
    row b[16], c[16];
    for (int lane = 0; lane < 32; lane++) {
        const struct mma_args *m = (const struct mma_args *)args[lane];
        int group = lane / 4, place = lane % 4;
        for (int r = 0; r < 4; r++) {
            for (int high = 0; high < 2; high++)
                a[group + r % 2 * 8][place * 2 + high + r / 2 * 8] = half_of(m->a[r], high);
            c[group + r / 2 * 8][place * 2 + r % 2] = m->c[r];
        }
        for (int r = 0; r < 2; r++) {
            for (int high = 0; high < 2; high++)
                b[place * 2 + high + r * 8][group] = half_of(m->b[r], high);
        }
    }
    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < 16; k++)
            c[i] += a[i][k] * b[k];
    }
    for (int lane = 0; lane < 32; lane++) {
        for (int r = 0; r < 4; r++)
            ((struct mma_args *)args[lane])->c[r] = c[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
    }
}

void mma_16816(float *c, const unsigned *a, const unsigned *b)
{
    struct mma_args m = {c, a, b};
    harness_meet(~0u, &m, mma_all);
}

struct ldmatrix_args {
    unsigned *r;
    const void *row;
    bool transposed;
};

/* Lane 8 m + i gives row i of matrix m; lane l gets two neighbours of row l / 4, or of column l / 4. */
static void ldmatrix_all(void **args, unsigned)
{
    for (int m = 0; m < 4; m++) {
        for (int lane = 0; lane < 32; lane++) {
            struct ldmatrix_args *l = (struct ldmatrix_args *)args[lane];
            unsigned short pair[2];
            for (int i = 0; i < 2; i++) {
                int row = l->transposed ? lane % 4 * 2 + i : lane / 4;
                int column = l->transposed ? lane / 4 : lane % 4 * 2 + i;
                pair[i] = ((const unsigned short *)((struct ldmatrix_args *)args[m * 8 + row])->row)[column];
            }
            l->r[m] = pair[0] | (unsigned)pair[1] << 16;
        }
    }
}

static void ldmatrix(unsigned *r, const void *row, bool transposed)
{
    struct ldmatrix_args l = {r, row, transposed};
    if ((uintptr_t)row % 16)
        harness_die("ldmatrix of a row that is not aligned to 16 bytes");
    races_read(row, 16);
    harness_meet(~0u, &l, ldmatrix_all);
}

void ldmatrix_4(unsigned *r, const void *row)
{
    ldmatrix(r, row, false);
}

void ldmatrix_4_transposed(unsigned *r, const void *row)
{
    ldmatrix(r, row, true);
}

/* At any time from the copy's begin to its wait: as an access it happens at both. */
static void report(const struct async_copy *c)
{
    races_read(c->from, (size_t)c->bytes);
    races_write(c->to, (size_t)c->room);
}

static void land(const struct async_copy *c)
{
    memcpy(c->to, c->from, (size_t)c->bytes);
    memset((char *)c->to + c->bytes, 0, (size_t)(c->room - c->bytes));
}

void harness_cp_async(void *shared, const void *global, int bytes, int room)
{
    if ((uintptr_t)shared % (unsigned)room || (bytes > 0 && (uintptr_t)global % (unsigned)room) ||
        bytes < 0 || bytes > room)
        harness_die("an asynchronous copy that is not aligned, or too long");
    struct async_copy c = {shared, global, bytes, room, now->n_groups};
    report(&c);
    struct races_quiet quiet;
    now->copies.push_back(c);
    if (harness_is_random() && harness_random(2))
        land(&c); /* and once more at the wait */
}

void cp_async_commit(void)
{
    now->n_groups++;
}

void harness_cp_wait(int groups_left)
{
    for (const struct async_copy &c : now->copies) {
        if (c.group < now->n_groups - groups_left)
            report(&c);
    }
    struct races_quiet quiet;
    std::vector<struct async_copy> left;
    for (const struct async_copy &c : now->copies) {
        if (c.group >= now->n_groups - groups_left) {
            left.push_back(c);
            continue;
        }
        land(&c);
    }
    now->copies = left;
}
