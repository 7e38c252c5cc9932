/* Blocks of CUDA threads as fibers: the scheduler, barriers, warp operations, shared memory, tensor-core fragments. */
#include "tests/cuda/harness/harness.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define ASAN 1
#else
#define ASAN 0
#endif

#define STACK_BYTES ((size_t)128 << 10)
#define CANARY      16
#define WARP        32u

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

static void context_init(struct context *c, char *stack, void (*entry)(void))
{
    void **sp = (void **)(void *)(stack + STACK_BYTES - 64);
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

static void context_init(struct context *c, char *stack, void (*entry)(void))
{
    getcontext(&c->u);
    c->u.uc_stack.ss_sp = stack;
    c->u.uc_stack.ss_size = STACK_BYTES;
    makecontext(&c->u, entry, 0);
}

static void context_switch(struct context *from, struct context *to)
{
    swapcontext(&from->u, &to->u);
}
#endif

/* --- a block ------------------------------------------------------------------------------------------------------ */

enum fiber_state { READY, AT_BARRIER, IN_WARP, ENDED };

struct async_copy {
    void *to;
    const void *from;
    int bytes, group;
};

struct fiber {
    struct harness_thread thread;
    struct context context;
    enum fiber_state state;
    unsigned warp;
    const void *site; /* of the barrier it waits at */
    void (*fn)(void **, unsigned);
    unsigned mask;
    std::vector<struct async_copy> copies;
    int n_groups; /* of copies committed */
    void *asan;
};

struct warp {
    unsigned arrived;
    void *args[WARP];
};

struct shared_array {
    const void *key;
    char *memory;
    size_t bytes;
};

static std::vector<struct fiber> fibers;
static std::vector<struct warp> warps;
static std::vector<struct shared_array> arrays;
static char *stacks;
static size_t n_stacks;
static struct context scheduler;
static struct fiber *now;
static unsigned n_threads, n_alive, n_at_barrier;
static size_t shared_bytes, shared_limit;
static void (*block_body)(void *);
static void *block_arg;
#if ASAN
static void *scheduler_asan;
static const void *scheduler_stack;
static size_t scheduler_stack_bytes;
#endif

struct harness_thread *harness_thread;
struct harness_block *harness_block;

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

static void to_scheduler(bool last)
{
    struct fiber *f = now;
#if ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &f->asan, scheduler_stack, scheduler_stack_bytes);
#endif
    context_switch(&f->context, &scheduler);
#if ASAN
    __sanitizer_finish_switch_fiber(f->asan, nullptr, nullptr);
#endif
    (void)last;
}

static void fiber_entry(void)
{
#if ASAN
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
    block_body(block_arg);
    if (!now->copies.empty())
        harness_die("a thread ends with asynchronous copies that it has not waited for");
    now->state = ENDED;
    n_alive--;
    to_scheduler(true);
    abort();
}

static void resume(struct fiber *f)
{
    now = f;
    harness_thread = &f->thread;
#if ASAN
    __sanitizer_start_switch_fiber(&scheduler_asan, stacks + (size_t)(f - fibers.data()) * STACK_BYTES,
                                   STACK_BYTES);
#endif
    context_switch(&scheduler, &f->context);
#if ASAN
    __sanitizer_finish_switch_fiber(scheduler_asan, nullptr, nullptr);
#endif
    now = nullptr;
}

static void release_barrier(void)
{
    const void *site = nullptr;
    for (unsigned i = 0; i < n_threads; i++) {
        struct fiber *f = &fibers[i];
        if (f->state != AT_BARRIER)
            continue;
        if (site && f->site != site)
            harness_die("threads of a block wait at different barriers");
        site = f->site;
        f->state = READY;
    }
    n_at_barrier = 0;
}

void harness_barrier(const void *site)
{
    now->site = site;
    now->state = AT_BARRIER;
    n_at_barrier++;
    to_scheduler(false);
}

void harness_meet(unsigned mask, void *arg, void (*fn)(void **, unsigned))
{
    struct fiber *f = now;
    struct warp *w = &warps[f->warp];
    unsigned first = f->warp * WARP, lane = f->thread.lane;
    unsigned exist = n_threads - first >= WARP ? ~0u : (1u << (n_threads - first)) - 1;
    if (!(mask >> lane & 1))
        harness_die("a warp operation's mask leaves out a lane that takes part");
    if (mask & ~exist)
        harness_die("a warp operation's mask names lanes that do not exist");
    f->fn = fn;
    f->mask = mask;
    w->args[lane] = arg;
    w->arrived |= 1u << lane;
    if ((w->arrived & mask) != mask) {
        f->state = IN_WARP;
        to_scheduler(false);
        return;
    }
    for (unsigned i = 0; i < WARP; i++) {
        if ((mask >> i & 1) && (fibers[first + i].fn != fn || fibers[first + i].mask != mask))
            harness_die("lanes of a warp meet in different operations");
    }
    fn(w->args, mask);
    w->arrived &= ~mask;
    for (unsigned i = 0; i < WARP; i++) {
        if ((mask >> i & 1) && i != lane)
            fibers[first + i].state = READY;
    }
}

/* --- shared memory ------------------------------------------------------------------------------------------------ */

static void *new_array(const void *key, size_t bytes)
{
    size_t margin = ASAN ? 0 : CANARY;
    struct shared_array a = {key, nullptr, bytes};
    shared_bytes += (bytes + 15) / 16 * 16;
    if (shared_bytes > shared_limit)
        harness_die("more shared memory than the kernel may have");
    if (posix_memalign((void **)&a.memory, 16, bytes + 2 * margin) != 0)
        harness_die("out of memory");
    memset(a.memory, 0xfb, bytes + 2 * margin);
    memset(a.memory + margin, 0xff, bytes);
    arrays.push_back(a);
    return a.memory + margin;
}

void *harness_shared(const void *key, size_t bytes)
{
    for (const struct shared_array &a : arrays) {
        if (a.key == key)
            return a.memory + (ASAN ? 0 : CANARY);
    }
    return new_array(key, bytes);
}

static void drop_arrays(void)
{
    for (const struct shared_array &a : arrays) {
        for (size_t i = 0; i < CANARY && !ASAN; i++) {
            if ((unsigned char)a.memory[i] != 0xfb || (unsigned char)a.memory[CANARY + a.bytes + i] != 0xfb)
                harness_die("written beyond an array in shared memory");
        }
        free(a.memory);
    }
    arrays.clear();
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

static void start_fibers(const struct harness_block *b)
{
    dim3 d = b->threads;
    n_threads = n_alive = d.x * d.y * d.z;
    n_at_barrier = 0;
    if (fibers.size() < n_threads)
        fibers.resize(n_threads);
    warps.assign((n_threads + WARP - 1) / WARP, {});
    if (n_stacks < n_threads) {
        if (stacks)
            munmap(stacks, n_stacks * STACK_BYTES);
        stacks = (char *)mmap(nullptr, n_threads * STACK_BYTES, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        n_stacks = n_threads;
    }
    for (unsigned i = 0; i < n_threads; i++) {
        struct fiber *f = &fibers[i];
        f->thread.index = {i % d.x, i / d.x % d.y, i / (d.x * d.y)};
        f->thread.lane = i % WARP;
        f->warp = i / WARP;
        f->state = READY;
        f->copies.clear();
        f->n_groups = 0;
        context_init(&f->context, stacks + i * STACK_BYTES, fiber_entry);
    }
}

/* Runs a warp until each of its lanes waits or has ended. Returns whether anything ran. */
static bool run_warp(unsigned warp, const std::vector<unsigned> &lanes)
{
    bool any = false;
    for (bool again = true; again;) {
        again = false;
        for (unsigned lane : lanes) {
            unsigned i = warp * WARP + lane;
            if (i >= n_threads || fibers[i].state != READY)
                continue;
            resume(&fibers[i]);
            any = again = true;
        }
    }
    return any;
}

static void run_block(struct harness_block *b, size_t dynamic)
{
    static const char dynamic_key = 0;
    harness_block = b;
    shared_bytes = 0;
    start_fibers(b);
    b->dynamic = dynamic ? new_array(&dynamic_key, dynamic) : nullptr;
    std::vector<unsigned> order = count_to((unsigned)warps.size()), lanes = count_to(WARP);
    while (n_alive > 0) {
        bool any = false;
        shuffle(&order);
        shuffle(&lanes);
        for (unsigned w : order)
            any |= run_warp(w, lanes);
        if (n_alive > 0 && n_at_barrier == n_alive)
            release_barrier(); /* threads that have ended do not count */
        else if (n_alive > 0 && !any)
            harness_die("deadlock: a barrier or a warp operation waits for threads that will not come");
    }
    drop_arrays();
    harness_block = nullptr;
}

void harness_run_kernel(dim3 blocks, dim3 threads, size_t shared, const void *kernel, void (*body)(void *),
                        void *arg)
{
    block_body = body;
    block_arg = arg;
    shared_limit = harness_shared_limit(kernel);
    std::vector<unsigned> order = count_to(blocks.x * blocks.y * blocks.z);
    shuffle(&order);
    for (unsigned i : order) {
        struct harness_block b = {
            {i % blocks.x, i / blocks.x % blocks.y, i / (blocks.x * blocks.y)}, threads, blocks, nullptr};
        run_block(&b, shared);
    }
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
    float a[16][16], b[16][8], c[16][8];
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
        for (int k = 0; k < 16; k++) {
            for (int j = 0; j < 8; j++)
                c[i][j] += a[i][k] * b[k][j];
        }
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

static void land(const struct async_copy *c)
{
    memcpy(c->to, c->from, (size_t)c->bytes);
    memset((char *)c->to + c->bytes, 0, (size_t)(16 - c->bytes));
}

void cp_async_16(void *shared, const void *global, int bytes)
{
    if ((uintptr_t)shared % 16 || (bytes > 0 && (uintptr_t)global % 16) || bytes < 0 || bytes > 16)
        harness_die("an asynchronous copy that is not aligned to 16 bytes, or too long");
    struct async_copy c = {shared, global, bytes, now->n_groups};
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
