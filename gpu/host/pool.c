#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/base/cache_line.h"
#include "daemon/base/clock.h"
#include "gpu/host/host.h"

/* How long a worker looks for more work before it sleeps: longer than the gaps between the operations of a decoding
 * step, short for the battery. */
#define SPIN_NS 100000
/* How often to look between two looks at the clock. */
#define SPINS_A_LOOK 64
/* How often the caller looks for the others' end before it gives way. */
#define SPINS_BEFORE_YIELD 2000

/* Where a worker's part of generation g stands: BEFORE(g), which is AFTER(g − 1); RUNNING(g); AFTER(g). Who moves it
 * from BEFORE to RUNNING runs the part: the worker, or the caller when the worker has not begun by the time that the
 * caller is through with its own. So a processor that is busy with something else is waited for only if it stopped
 * halfway. */
#define BEFORE(g)  (2 * (g)-2)
#define RUNNING(g) (2 * (g)-1)
#define AFTER(g)   (2 * (g))

struct part {
    _Alignas(CACHE_LINE) _Atomic uint32_t state;
};

struct pool {
    /* One more for each call: workers wait for it to change. What they then need is in the same cache line. */
    _Alignas(CACHE_LINE) _Atomic uint32_t generation;
    int n_workers;
    pthread_t *threads; /* [n_workers − 1] */
    void (*fn)(void *arg, int worker, int n_workers);
    void *arg;
    _Atomic bool quit;
    _Alignas(CACHE_LINE) _Atomic int sleepers;
    struct part parts[HOST_THREADS_MAX];
};

struct start {
    struct pool *pool;
    int worker;
};

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Returns the generation that has come after `seen`. */
static uint32_t wait_generation(struct pool *p, uint32_t seen)
{
    uint32_t generation;
    int64_t deadline = clock_now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_A_LOOK; i++) {
            generation = atomic_load_explicit(&p->generation, memory_order_acquire);
            if (generation != seen)
                return generation;
            cpu_relax();
        }
    } while (clock_now_ns() < deadline);
    atomic_fetch_add(&p->sleepers, 1);
    while ((generation = atomic_load(&p->generation)) == seen)
        syscall(SYS_futex, &p->generation, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&p->sleepers, 1);
    return generation;
}

/* Runs a worker's part of a generation unless somebody else does or did. */
static void run_part(struct pool *p, int worker, uint32_t generation)
{
    uint32_t before = BEFORE(generation);
    if (!atomic_compare_exchange_strong_explicit(&p->parts[worker].state, &before, RUNNING(generation),
                                                 memory_order_acq_rel, memory_order_relaxed))
        return;
    p->fn(p->arg, worker, p->n_workers);
    atomic_store_explicit(&p->parts[worker].state, AFTER(generation), memory_order_release);
}

static void *work(void *arg)
{
    struct start start = *(struct start *)arg;
    struct pool *p = start.pool;
    free(arg);
    for (uint32_t seen = 0;;) {
        seen = wait_generation(p, seen);
        if (atomic_load_explicit(&p->quit, memory_order_relaxed))
            return NULL;
        run_part(p, start.worker, seen);
    }
}

static void advance_generation(struct pool *p)
{
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleepers) > 0)
        syscall(SYS_futex, &p->generation, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

int pool_create(int n_workers, struct pool **out)
{
    struct pool *p = aligned_alloc(_Alignof(struct pool), sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->n_workers = 1;
    p->threads = calloc((size_t)n_workers, sizeof(*p->threads));
    atomic_init(&p->generation, 0);
    for (int w = 0; w < HOST_THREADS_MAX; w++)
        atomic_init(&p->parts[w].state, BEFORE(1));
    atomic_init(&p->sleepers, 0);
    atomic_init(&p->quit, false);
    if (!p->threads) {
        free(p);
        return -ENOMEM;
    }
    int started = 0;
    for (; started < n_workers - 1; started++) {
        struct start *start = malloc(sizeof(*start));
        if (!start)
            break;
        *start = (struct start){p, started + 1};
        if (pthread_create(&p->threads[started], NULL, work, start)) {
            free(start);
            break;
        }
    }
    p->n_workers = started + 1;
    if (started < n_workers - 1) {
        pool_destroy(p);
        return -EAGAIN;
    }
    *out = p;
    return 0;
}

void pool_destroy(struct pool *p)
{
    if (!p)
        return;
    atomic_store(&p->quit, true);
    advance_generation(p);
    for (int i = 0; i < p->n_workers - 1; i++)
        pthread_join(p->threads[i], NULL);
    free(p->threads);
    free(p);
}

int pool_size(const struct pool *p)
{
    return p->n_workers;
}

void pool_run(struct pool *p, void (*fn)(void *arg, int worker, int n_workers), void *arg)
{
    if (p->n_workers > 1) {
        p->fn = fn;
        p->arg = arg;
        advance_generation(p);
    }
    fn(arg, 0, p->n_workers);
    uint32_t generation = atomic_load_explicit(&p->generation, memory_order_relaxed);
    for (int w = 1; w < p->n_workers; w++) {
        if (atomic_load_explicit(&p->parts[w].state, memory_order_relaxed) == BEFORE(generation))
            run_part(p, w, generation);
    }
    int64_t spins = 0;
    for (int w = 1; w < p->n_workers; w++) {
        while (atomic_load_explicit(&p->parts[w].state, memory_order_acquire) != AFTER(generation)) {
            cpu_relax();
            if (++spins >= SPINS_BEFORE_YIELD) /* it has lost its processor and shall get one */
                sched_yield();
        }
    }
}

void pool_share(int n, int grain, int worker, int n_workers, int *first, int *last)
{
    int64_t units = (n + grain - 1) / grain;
    int64_t lo = units * worker / n_workers * grain, hi = units * (worker + 1) / n_workers * grain;
    *first = lo < n ? (int)lo : n;
    *last = hi < n ? (int)hi : n;
}

void tickets_init(struct tickets *t, const struct pool *p, int n)
{
    t->n_workers = p->n_workers;
    for (int w = 0; w < p->n_workers; w++) {
        int first;
        pool_share(n, 1, w, p->n_workers, &first, &t->share[w].last);
        atomic_init(&t->share[w].next, first);
    }
}

bool tickets_take(struct tickets *t, int worker, int *item)
{
    for (int i = 0; i < t->n_workers; i++) {
        int w = (worker + i) % t->n_workers;
        /* Looked at first, so that a counter does not run on while others finish. */
        if (atomic_load_explicit(&t->share[w].next, memory_order_relaxed) >= t->share[w].last)
            continue;
        *item = atomic_fetch_add_explicit(&t->share[w].next, 1, memory_order_relaxed);
        if (*item < t->share[w].last)
            return true;
    }
    return false;
}
