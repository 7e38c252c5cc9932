/* The CUDA engine on the processor, for the oracle tests: the host engine's tests are linked with this file in the place of
 * tests/support/engine_cases.c, with gpu/cuda/ compiled for the host, and with the harness. */
#include "tests/support/support.h"
#include "tests/support/engines.h"

#include <string.h>

#include "gpu/cuda/plugin.h"

#define N_SEEDS       2
#define AMPERE_SHARED ((size_t)99 << 10)
#define TURING_SHARED ((size_t)64 << 10)

const bool test_engines_emulated = true;
const char *const isa_names[N_ISAS] = {"cuda"};

int captiond_cuda_open(const struct cuda_plugin_terms *, const struct engine_options *, struct engine **,
                       struct err *);
/* tests/cuda/harness/ */
void harness_seed(unsigned);
void harness_open_memory(bool open);
void harness_hide_cublas(bool hide);
void harness_cooperative(bool has, int multiprocessors);
void harness_shared_bytes(size_t of_a_block);
void __tsan_acquire(void *) __attribute__((weak)); /* under ThreadSanitizer */
/* tests/cuda/device.cu, on a real GPU */
void *test_device_alloc(struct engine *, size_t bytes, struct err *) __attribute__((weak));

bool test_on_gpu(void)
{
    return test_device_alloc;
}

int test_rounds(int own, int emulated)
{
    return __tsan_acquire ? (emulated + 3) / 4 : emulated;
}

static struct engine *open_seeded(unsigned seed, const struct engine_options *options)
{
    const struct cuda_plugin_terms terms = cuda_plugin_ours();
    struct engine *e = NULL;
    struct err err = {0};
    harness_seed(seed);
    harness_hide_cublas(seed == 0); /* then all products are our own */
    if (captiond_cuda_open(&terms, options, &e, &err) < 0)
        fail_msg("%s", err.msg);
    return e;
}

/* Seed 0 is the order that is hardest for most mistakes, on a card with the shared memory of Ampere's least; the others are random,
 * with that of Turing. */
void test_engines(void (*fn)(struct engine *))
{
    for (unsigned i = 0; i < N_SEEDS; i++) {
        unsigned seed = i ? (unsigned)(test_seed() + i) : 0;
        if (!test_on_gpu())
            harness_shared_bytes(seed ? TURING_SHARED : AMPERE_SHARED);
        struct engine *e = open_seeded(seed, &(struct engine_options){.n_mels = 80});
        printf("%s, seed %u\n", e->name, seed);
        fn(e);
        engine_close(e);
    }
    if (!test_on_gpu())
        harness_shared_bytes(AMPERE_SHARED);
}

struct engine *test_engine_open(const struct engine_case *c, int n_mels)
{
    return open_seeded((unsigned)c->n_threads, &(struct engine_options){.n_mels = n_mels});
}

struct engine *open_engine_for(int multiprocessors, int n_windows)
{
    harness_cooperative(true, multiprocessors);
    struct engine *e = open_seeded(n_windows > 1 ? (unsigned)test_seed() | 1 : 0,
                                   &(struct engine_options){.n_mels = 80, .n_windows = n_windows});
    harness_cooperative(true, 4);
    return e;
}

bool test_keeps_half(const char *isa, enum engine_precision precision)
{
    return true;
}

/* --- an engine whose memory can be looked at after a wait ---------------------------------------------------------------
 *
 * Device memory is closed to the host; these operations open it when a wait has returned and close it when the next one
 * is submitted. */

static const struct engine_vtable *real;
static bool is_open;

static void show(bool open)
{
    if (open != is_open)
        harness_open_memory(open);
    is_open = open;
}

#define OPERATION(name)                                                                                      \
    static void open_##name(struct engine *e, const struct name##_args *args)                                \
    {                                                                                                        \
        show(false);                                                                                         \
        real->name(e, args);                                                                                 \
    }

ENGINE_OPERATIONS(OPERATION)

static void open_kv_copy(struct engine *e, struct engine_kv *kv, int src_slot, int dst_slot, int n_ctx)
{
    show(false);
    real->kv_copy(e, kv, src_slot, dst_slot, n_ctx);
}

static void open_graph_launch(struct engine *e, struct engine_graph *g, const int32_t *n_active,
                              int max_times)
{
    show(false);
    real->graph_launch(e, g, n_active, max_times);
}

static int open_wait(struct engine *e, struct err *err)
{
    show(false);
    int r = real->wait(e, err);
    show(true);
    return r;
}

static void open_destroy(struct engine *e)
{
    show(false);
    real->destroy(e);
}

/* n_threads chooses the seed. */
static struct engine *open_looked_at(const char *isa, int n_threads, enum engine_precision precision,
                                     const struct engine_options *options)
{
    static struct engine_vtable v;
    if (!isa || strcmp(isa, isa_names[0]) != 0 || precision != PRECISION_AUTO || n_threads > N_SEEDS)
        return NULL;
    struct engine *e =
        open_seeded(n_threads > 1 ? (unsigned)(test_seed() + (unsigned)n_threads) : 0, options);
    real = e->v;
    v = *real;
    if (test_device_alloc)
        v.alloc = test_device_alloc;
    v.destroy = open_destroy;
    v.wait = open_wait;
    v.graph_launch = open_graph_launch;
#define ENTRY(name) v.name = open_##name;
    ENGINE_OPERATIONS(ENTRY)
    v.kv_copy = open_kv_copy;
    e->v = &v;
    show(true);
    return e;
}

struct engine *open_engine(const char *isa, int n_threads, enum engine_precision precision)
{
    return open_looked_at(isa, n_threads, precision, &(struct engine_options){.n_mels = 80});
}

struct engine *open_engine_of_many(const char *isa, int n_threads, enum engine_precision precision)
{
    return open_looked_at(isa, n_threads, precision, &(struct engine_options){.n_mels = 80, .n_slots = 64});
}

struct engine *open_engine_of_bytes(const char *isa, int n_threads, enum engine_precision precision)
{
    return open_looked_at(isa, n_threads, precision,
                          &(struct engine_options){.n_mels = 80, .precision = PRECISION_INT8});
}
