/* Linear layers against double precision. */
#include "tests/support/support.h"
#include "tests/support/engines.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct shape {
    int rows, n_in, n_out;
    int in_stride;  /* 0: dense; less than n_in: rows overlap */
    int out_stride; /* 0: dense */
    enum { ADD_NOTHING, ADD_OUT, ADD_OTHER } add;
    bool bias, gelu;
    bool narrow; /* output in the engine's wide type */
};

struct layer {
    struct shape s;
    float *in;     /* the memory the rows lie in */
    float *weight; /* [n_out, n_in] */
    float *bias;   /* [n_out] */
    float *add;    /* [rows, n_out] */
    int in_floats, in_stride;
};

static double gelu(double x)
{
    return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
}

/* A sum of n products in any order errs by at most n roundings of Σ |a w|. GELU's slope is below 1.13; its own error is that
 * of erf after Abramowitz and Stegun 7.1.26, 1.5e-7 and a few roundings: below 1e-6, times x/2. */
static void oracle_row(const struct layer *l, int row, enum dtype out, double *want, double *tolerance)
{
    const float *x = l->in + (size_t)row * (size_t)l->in_stride;
    for (int o = 0; o < l->s.n_out; o++) {
        const float *w = l->weight + (size_t)o * (size_t)l->s.n_in;
        double sum = l->s.bias ? l->bias[o] : 0.0, total = fabs(sum);
        for (int i = 0; i < l->s.n_in; i++) {
            sum += (double)x[i] * w[i];
            total += fabs((double)x[i] * w[i]);
        }
        double t = (l->s.n_in + 2) * EPS_F32 * total;
        if (l->s.gelu) {
            t = 1.13 * t + 0.5e-6 * fabs(sum) + 2.0 * EPS_F32 * fabs(gelu(sum));
            sum = gelu(sum);
        }
        if (l->s.add != ADD_NOTHING) {
            sum += l->add[(size_t)row * (size_t)l->s.n_out + (size_t)o];
            t += EPS_F32 * fabs(sum);
        }
        t += test_rounding(out, fabs(sum) + t);
        want[o] = sum;
        tolerance[o] = t + 1e-30;
    }
}

static void fill(struct test_rng *rng, float *x, size_t n, double scale, enum dtype type)
{
    for (size_t i = 0; i < n; i++)
        x[i] = test_round(type, (float)(scale * test_rng_normal(rng)));
}

static void layer_init(struct layer *l, const struct shape *s, double scale, enum dtype type)
{
    struct test_rng rng;
    test_rng_init(&rng, (uint64_t)s->rows * 8191 + (uint64_t)s->n_in * 64 + (uint64_t)s->n_out);
    *l = (struct layer){.s = *s, .in_stride = s->in_stride ? s->in_stride : s->n_in};
    l->in_floats = (s->rows - 1) * l->in_stride + s->n_in;
    size_t n_weight = (size_t)s->n_in * (size_t)s->n_out, n_out = (size_t)s->rows * (size_t)s->n_out;
    l->in = malloc((size_t)l->in_floats * sizeof(float));
    l->weight = malloc(n_weight * sizeof(float));
    l->bias = malloc((size_t)s->n_out * sizeof(float));
    l->add = malloc(n_out * sizeof(float));
    fill(&rng, l->in, (size_t)l->in_floats, scale, type);
    fill(&rng, l->weight, n_weight, 1.0 / sqrt(s->n_in), type);
    fill(&rng, l->bias, (size_t)s->n_out, scale, DTYPE_F32);
    fill(&rng, l->add, n_out, scale, DTYPE_F32);
}

static void layer_finish(struct layer *l)
{
    free(l->in);
    free(l->weight);
    free(l->bias);
    free(l->add);
}

/* Runs the layer three times: otherwise, as it is, and again with what has been prepared for it. */
static void run(struct engine *e, const struct layer *l, enum dtype out_type, float *y)
{
    const struct shape *s = &l->s;
    struct err err = {0};
    struct engine_weight *weight = NULL;
    float *flat = malloc((size_t)l->in_floats * sizeof(float));
    memcpy(flat, l->in, (size_t)l->in_floats * sizeof(float));
    struct mat memory = test_mat(e, e->wide_type, 1, l->in_floats, l->in_floats);
    test_mat_write(e, memory, flat);
    if (e->v->weight_create(e, WEIGHT_WIDE, s->n_out, s->n_in, l->weight, &weight, &err) < 0)
        fail_msg("%s", err.msg);
    struct linear_args a = {
        .in = mat_view(memory.data, e->wide_type, s->rows, s->n_in, l->in_stride),
        .weight = weight,
        .bias = s->bias ? test_vector(e, l->bias, s->n_out) : NULL,
        .gelu = s->gelu,
        .out = test_mat(e, out_type, s->rows, s->n_out, s->out_stride ? s->out_stride : s->n_out),
    };
    if (s->add != ADD_NOTHING)
        a.add = s->add == ADD_OUT ? a.out : test_mat(e, DTYPE_F32, s->rows, s->n_out, s->n_out + 4);
    for (int i = 0; i < 3; i++) {
        a.gelu = s->gelu ^ (i == 0);
        if (a.add.data)
            test_mat_write(e, a.add, l->add);
        e->v->linear(e, &a);
        test_mat_read(e, a.out, y);
    }
    if (s->add == ADD_OTHER)
        e->v->free(e, a.add.data);
    e->v->free(e, a.out.data);
    e->v->free(e, (void *)a.bias);
    e->v->free(e, memory.data);
    e->v->weight_destroy(e, weight);
    free(flat);
}

/* All rows of a small layer; of a large one the borders of slices and some between. */
static int choose_rows(int n, int *rows)
{
    int count = 0;
    for (int r = 0; r < n; r++) {
        bool border = false;
        for (int workers = 1; workers <= 4; workers++)
            border |= (int64_t)r * workers / n != (int64_t)(r + 1) * workers / n ||
                      (r > 0 && (int64_t)(r - 1) * workers / n != (int64_t)r * workers / n);
        if (n <= 48 || r == 0 || border || r % 397 == 5)
            rows[count++] = r;
    }
    return count;
}

static void check(struct engine *e, const struct shape *s, double scale)
{
    struct layer l;
    layer_init(&l, s, scale, e->wide_type);
    enum dtype out = s->narrow && s->add == ADD_NOTHING ? e->wide_type : DTYPE_F32;
    size_t n_out = (size_t)s->n_out;
    float *y = malloc((size_t)s->rows * n_out * sizeof(float)), *got = malloc(200 * n_out * sizeof(float));
    double *want = malloc(200 * n_out * sizeof(double)), *tolerance = malloc(200 * n_out * sizeof(double));
    int rows[200];
    run(e, &l, out, y);
    int n = choose_rows(s->rows, rows);
    for (int i = 0; i < n; i++) {
        memcpy(got + (size_t)i * n_out, y + (size_t)rows[i] * n_out, n_out * sizeof(float));
        oracle_row(&l, rows[i], out, want + (size_t)i * n_out, tolerance + (size_t)i * n_out);
    }
    test_close("linear", got, want, tolerance, n, s->n_out);
    free(y);
    free(got);
    free(want);
    free(tolerance);
    layer_finish(&l);
}

static const struct shape shapes[] = {
    {.rows = 1, .n_in = 1, .n_out = 1},
    {.rows = 1, .n_in = 384, .n_out = 7, .bias = true},
    {.rows = 2, .n_in = 7, .n_out = 3, .bias = true, .gelu = true, .narrow = true},
    {.rows = 7, .n_in = 65, .n_out = 33, .add = ADD_OUT},
    {.rows = 7, .n_in = 64, .n_out = 64, .bias = true, .gelu = true, .add = ADD_OTHER},
    {.rows = 3, .n_in = 17, .n_out = 40, .out_stride = 47, .bias = true, .narrow = true},
    {.rows = 5, .n_in = 17, .n_out = 40, .out_stride = 47, .bias = true, .add = ADD_OUT},
    {.rows = 9, .n_in = 24, .n_out = 13, .out_stride = 16},
    {.rows = 33, .n_in = 240, .n_out = 48, .in_stride = 80, .bias = true, .gelu = true, .narrow = true},
    {.rows = 20, .n_in = 30, .n_out = 48, .in_stride = 37, .bias = true},
    {.rows = 13, .n_in = 1152, .n_out = 384, .in_stride = 768, .bias = true, .gelu = true, .add = ADD_OTHER},
};

/* The encoder's own, for one instruction set only: they are long. */
static const struct shape long_shapes[] = {
    {.rows = 1500, .n_in = 384, .n_out = 1152, .bias = true, .narrow = true},
    {.rows = 3000, .n_in = 240, .n_out = 384, .in_stride = 80, .bias = true, .gelu = true, .narrow = true},
    {.rows = 1500, .n_in = 2048, .n_out = 512, .bias = true, .add = ADD_OUT},
};

static void all_shapes(struct engine *e)
{
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        if (!test_engines_emulated || i % 2 == 0)
            check(e, &shapes[i], 1.0);
        if (!test_engines_emulated || i % 2 == 1) /* GELU's straight and flat parts */
            check(e, &shapes[i], e->wide_type == DTYPE_F16 ? 1e3 : 1e4);
        if (!test_engines_emulated || i % 4 == 0) /* and its middle */
            check(e, &shapes[i], 1e-4);
    }
}

static void test_against_double(void **state)
{
    test_engines(all_shapes);
}

static void test_encoder_shapes(void **state)
{
    const struct engine_case cases[] = {{.isa = "best", .n_threads = 2},
                                        {.isa = "best", .n_threads = 3, .precision = PRECISION_F32}};
    if (test_engines_emulated && !test_on_gpu())
        test_skip("the encoder's shapes are too large to be emulated");
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct engine *e = test_engine_open(&cases[c], 80);
        for (size_t i = 0; i < sizeof(long_shapes) / sizeof(long_shapes[0]); i++)
            check(e, &long_shapes[i], 1.0);
        engine_close(e);
    }
}

/* Whatever shape of a block is chosen for them, layers have the same bits. */
static const struct shape tiled_shapes[] = {
    {.rows = 129, .n_in = 200, .n_out = 260, .bias = true, .gelu = true, .narrow = true},
    {.rows = 200, .n_in = 72, .n_out = 129, .bias = true, .add = ADD_OUT},
    {.rows = 257, .n_in = 240, .n_out = 136, .in_stride = 80, .bias = true, .gelu = true, .narrow = true},
    {.rows = 140, .n_in = 1152, .n_out = 132, .in_stride = 768, .bias = true, .gelu = true, .add = ADD_OTHER},
    {.rows = 128, .n_in = 33, .n_out = 250, .out_stride = 251, .bias = true, .narrow = true},
};

static void test_every_block(void **state)
{
    for (size_t i = 0; i < sizeof(tiled_shapes) / sizeof(tiled_shapes[0]); i++) {
        const struct shape *s = &tiled_shapes[i];
        size_t n = (size_t)s->rows * (size_t)s->n_out;
        float *y[2];
        for (int large = 0; large < 2; large++) { /* one multiprocessor is soon busy */
            struct engine *e = open_engine_for(large ? 1 : 4, 1);
            struct layer l;
            if (!e)
                test_skip("there is one kernel");
            check(e, s, 1.0);
            y[large] = malloc(n * sizeof(float));
            layer_init(&l, s, 1.0, e->wide_type);
            run(e, &l, s->narrow ? e->wide_type : DTYPE_F32, y[large]);
            layer_finish(&l);
            engine_close(e);
        }
        assert_memory_equal(y[0], y[1], n * sizeof(float));
        free(y[0]);
        free(y[1]);
    }
}

/* Rows of several windows, with gaps between them, have the bits that each window has alone; the gaps are left as they are. */
static void windows(struct engine *e)
{
    enum { N = 3, ROWS = 70, STRIDE = 16, N_IN = 48, N_OUT = 40, IN_GAP = 32, OUT_GAP = 2 * N_OUT };
    enum { IN = N * ROWS * STRIDE + N * IN_GAP + N_IN, OUT_ROWS = N * (ROWS + 2) };
    static float in[IN], weights[N_OUT * N_IN], bias[N_OUT], add[ROWS * N_OUT], got[OUT_ROWS * N_OUT],
        alone[ROWS * N_OUT];
    struct engine_weight *weight = NULL;
    struct test_rng rng;
    struct err err;
    test_rng_init(&rng, 3);
    fill(&rng, in, IN, 1.0, e->wide_type);
    fill(&rng, weights, N_OUT * N_IN, 0.2, e->wide_type);
    fill(&rng, bias, N_OUT, 1.0, DTYPE_F32);
    fill(&rng, add, ROWS * N_OUT, 1.0, DTYPE_F32);
    assert_int_equal(e->v->weight_create(e, WEIGHT_WIDE, N_OUT, N_IN, weights, &weight, &err), 0);
    struct mat memory = test_mat(e, e->wide_type, 1, IN, IN),
               added = test_mat(e, DTYPE_F32, ROWS, N_OUT, N_OUT);
    struct mat out = test_mat(e, DTYPE_F32, OUT_ROWS, N_OUT, N_OUT), one;
    float *b = test_vector(e, bias, N_OUT);
    test_mat_write(e, memory, in);
    test_mat_write(e, added, add);
    for (int i = 0; i < OUT_ROWS * N_OUT; i++)
        got[i] = 7.0f;
    test_mat_write(e, out, got);
    e->v->linear(e, &(struct linear_args){.in = mat_view(memory.data, e->wide_type, N * ROWS, N_IN, STRIDE),
                                          .weight = weight,
                                          .bias = b,
                                          .gelu = true,
                                          .add = added,
                                          .out = mat_rows(out, 0, N * ROWS),
                                          .n_windows = N,
                                          .in_gap = IN_GAP,
                                          .out_gap = OUT_GAP});
    test_mat_read(e, out, got);
    one = test_mat(e, DTYPE_F32, ROWS, N_OUT, N_OUT);
    for (int i = 0; i < N; i++) {
        size_t first = (size_t)i * (ROWS * STRIDE + IN_GAP) * dtype_bytes(e->wide_type);
        e->v->linear(e, &(struct linear_args){
                            .in = mat_view((char *)memory.data + first, e->wide_type, ROWS, N_IN, STRIDE),
                            .weight = weight,
                            .bias = b,
                            .gelu = true,
                            .add = added,
                            .out = one});
        test_mat_read(e, one, alone);
        float *mine = got + i * (ROWS + 2) * N_OUT;
        assert_memory_equal(mine, alone, sizeof(alone));
        for (int k = ROWS * N_OUT; k < (ROWS + 2) * N_OUT; k++)
            assert_true(mine[k] == 7.0f);
    }
    e->v->free(e, one.data);
    e->v->free(e, out.data);
    e->v->free(e, added.data);
    e->v->free(e, memory.data);
    e->v->free(e, b);
    e->v->weight_destroy(e, weight);
}

static void test_windows(void **state)
{
    test_engines(windows);
}

static void refuse(struct engine *e, const struct linear_args *a)
{
    struct err err = {0};
    e->v->linear(e, a);
    assert_true(e->v->wait(e, &err) < 0);
    assert_true(err.msg[0]);
}

static void refuses(struct engine *e)
{
    struct err err = {0};
    struct engine_weight *w = NULL;
    const float values[12] = {0};
    assert_int_equal(e->v->weight_create(e, WEIGHT_WIDE, 3, 4, values, &w, &err), 0);
    struct mat in = test_mat(e, e->wide_type, 2, 4, 4), out = test_mat(e, DTYPE_F32, 2, 3, 3);
    const struct linear_args good = {.in = in, .weight = w, .out = out};
    struct linear_args a = good;
    a.in.cols = 3;
    refuse(e, &a);
    a = good;
    a.out.rows = 1;
    refuse(e, &a);
    a = good;
    a.in.type = e->wide_type == DTYPE_F16 ? DTYPE_BF16 : DTYPE_F16;
    refuse(e, &a);
    a = good;
    a.add = in;
    refuse(e, &a);
    a = good;
    a.n_windows = 3; /* of two rows */
    refuse(e, &a);
    e->v->linear(e, &good);
    test_engine_wait(e);
    e->v->weight_destroy(e, w);
    e->v->free(e, in.data);
    e->v->free(e, out.data);
}

static void test_refuses_shapes(void **state)
{
    test_engines(refuses);
}

#ifndef PR_SET_MDWE /* Linux 6.3 */
#define PR_SET_MDWE              65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

/* What a process sees that a policy like systemd's MemoryDenyWriteExecute= forbids to compile kernels: 0 for an error that
 * says so, 1 for anything else. */
static int forbidden(void)
{
    static const float values[64 * 64];
    struct err err = {0};
    struct engine_weight *w = NULL;
    struct engine *e = NULL;
    const struct engine_options options = {.n_threads = 1, .n_mels = 80};
    int r = engine_open("host", &options, &e, &err);
    if (r == 0)
        r = e->v->weight_create(e, WEIGHT_WIDE, 64, 64, values, &w, &err);
    if (r == 0) {
        struct mat m = test_mat(e, e->wide_type, 64, 64, 64);
        e->v->linear(e, &(struct linear_args){.in = m, .weight = w, .out = m});
        r = e->v->wait(e, &err);
    }
    return r == -EIO && strstr(err.msg, "MemoryDenyWriteExecute") ? 0 : 1;
}

static void test_says_what_forbids_it(void **state)
{
    int status = 0;
    if (test_engines_emulated)
        test_skip("this is about the host engine");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) < 0 ? 77 : forbidden());
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        test_skip("this kernel cannot forbid executable memory");
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* In a process of its own: oneDNN reads its limit once. */
static int limited(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_double)};
    struct engine *e = NULL;
    const struct engine_options options = {.n_threads = 1, .n_mels = 80};
    if (engine_open("host", &options, &e, NULL) < 0)
        return 1;
    bool f32 = e->wide_type == DTYPE_F32 && strstr(e->name, "f32");
    engine_close(e);
    return f32 ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}

/* oneDNN that is held to AVX2 has no bf16, whatever the processor can do. */
static void test_without_bf16_in_onednn(void **state)
{
    extern char **environ;
    char name[] = "test_linear", what[] = "limited", *argv[] = {name, what, NULL};
    posix_spawn_file_actions_t quiet;
    pid_t child;
    int status;
    if (test_engines_emulated)
        test_skip("this is about the host engine");
    setenv("DNNL_MAX_CPU_ISA", "AVX2", 1);
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    assert_int_equal(posix_spawn(&child, "/proc/self/exe", &quiet, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&quiet);
    unsetenv("DNNL_MAX_CPU_ISA");
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "limited"))
        return limited();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_encoder_shapes),
        cmocka_unit_test(test_every_block),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_refuses_shapes),
        cmocka_unit_test(test_without_bf16_in_onednn),
#if defined(__x86_64__) /* elsewhere oneDNN may have compiled kernels */
        cmocka_unit_test(test_says_what_forbids_it),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
