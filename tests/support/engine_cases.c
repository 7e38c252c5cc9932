/* The host engine in all its forms, for the oracle tests. */
#include "tests/support/support.h"
#include "tests/support/engines.h"

#include <stdlib.h>
#include <string.h>

#include "gpu/host/host.h"

const bool test_engines_emulated = false;

bool test_on_gpu(void)
{
    return false;
}

int test_rounds(int own, int emulated)
{
    return own;
}

const char *const isa_names[N_ISAS] = {"generic", "avx2", "avx512", "avx512bf16"};

struct engine *test_engine_open(const struct engine_case *c, int n_mels)
{
    struct engine *e = NULL;
    struct err err = {0};
    const struct engine_options options = {
        .n_threads = c->n_threads, .precision = c->precision, .n_mels = n_mels, .deferred = c->deferred};
    assert_int_equal(setenv("CAPTIOND_ISA", c->isa, 1), 0);
    if (engine_open("host", &options, &e, &err) < 0)
        fail_msg("%s", err.msg);
    unsetenv("CAPTIOND_ISA");
    printf("%s %s, %d threads%s\n", c->isa, e->wide_type == DTYPE_BF16 ? "bf16" : "f32", c->n_threads,
           c->deferred ? ", deferred" : "");
    return e;
}

static void run_case(const struct engine_case *c, void (*fn)(struct engine *))
{
    struct engine *e = test_engine_open(c, 80);
    fn(e);
    engine_close(e);
}

void test_engines(void (*fn)(struct engine *))
{
    for (int isa = 0; isa <= (int)isa_detect(); isa++) {
        struct engine_case c = {.isa = isa_name((enum isa)isa), .n_threads = 1 + isa % 2};
        run_case(&c, fn);
        if (isa != (int)isa_detect())
            continue;
        for (c.n_threads = 1; c.n_threads <= 4; c.n_threads++)
            run_case(&c, fn);
        c.n_threads = 2;
        c.deferred = true;
        run_case(&c, fn);
        c.precision = PRECISION_F32;
        run_case(&c, fn);
    }
}

struct engine *open_engine(const char *isa, int n_threads, enum engine_precision precision)
{
    assert_int_equal(setenv("CAPTIOND_ISA", isa, 1), 0);
    struct engine_options options = {.n_threads = n_threads, .precision = precision, .n_mels = 80};
    struct engine *e = NULL;
    struct err err = {0};
    if (host_engine_open(&options, &e, &err) < 0)
        fail_msg("%s", err.msg);
    if (strcmp(isa_name(((struct host_engine *)e)->isa), isa) != 0) {
        engine_close(e);
        return NULL;
    }
    return e;
}

struct engine *open_engine_of_many(const char *isa, int n_threads, enum engine_precision precision)
{
    return NULL;
}

struct engine *open_engine_of_bytes(const char *isa, int n_threads, enum engine_precision precision)
{
    return NULL;
}

struct engine *open_engine_for(int multiprocessors, int n_windows)
{
    return NULL;
}

/* In the generic form nothing converts in hardware. */
bool test_keeps_half(const char *isa, enum engine_precision precision)
{
    return precision == PRECISION_AUTO && strcmp(isa, "generic") != 0;
}
