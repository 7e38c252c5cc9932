/* Layer norm against double precision. */
#include "tests/support/support.h"
#include "tests/support/engines.h"

#include <math.h>
#include <stdlib.h>

enum data { DATA_NORMAL, DATA_OFFSET, DATA_LARGE, DATA_CONSTANT, DATA_TINY, DATA_KINDS };

static float value(struct test_rng *rng, enum data kind)
{
    float x = test_rng_normal(rng);
    switch (kind) {
    case DATA_OFFSET: /* a mean far from 0 cancels */
        return 100.0f + x;
    case DATA_LARGE:
        return 1e6f * x;
    case DATA_CONSTANT: /* variance 0: the epsilon decides */
        return 3.25f;
    case DATA_TINY: /* variance below the epsilon */
        return 1e-4f * x;
    default:
        return x;
    }
}

/* Mean and variance are sums of n roundings each, relative to the greatest |x|; both reach the output multiplied by
 * 1/σ and gamma. Twice n covers both; the rest are the single operations of the output. */
static void oracle(const float *x, const float *gamma, const float *beta, int n, enum dtype out, double *y,
                   double *tolerance)
{
    double mean = 0.0, variance = 0.0, greatest = 0.0;
    for (int i = 0; i < n; i++) {
        mean += (double)x[i] / n;
        greatest = fmax(greatest, fabs(x[i]));
    }
    for (int i = 0; i < n; i++)
        variance += (x[i] - mean) * (x[i] - mean) / n;
    double scale = 1.0 / sqrt(variance + 1e-5);
    for (int i = 0; i < n; i++) {
        double normed = (x[i] - mean) * scale;
        y[i] = normed * gamma[i] + beta[i];
        /* The summation in lanes has at most n / 4 + 8 roundings in a row. */
        double sums = (n / 4.0 + 8.0) * EPS_F32;
        tolerance[i] = fabs(gamma[i]) * (sums * greatest * scale + (sums + 4.0 * EPS_F32) * fabs(normed)) +
                       2.0 * EPS_F32 * (fabs(y[i]) + fabs(beta[i])) + 1e-30;
        tolerance[i] += test_rounding(out, fabs(y[i]) + tolerance[i]);
    }
}

static void check(struct engine *e, int rows, int cols, int in_gap, int out_gap, enum dtype type,
                  enum data kind)
{
    size_t n = (size_t)rows * (size_t)cols;
    float *x = malloc(n * sizeof(*x)), *y = malloc(n * sizeof(*y));
    float *gamma = malloc((size_t)cols * sizeof(*gamma)), *beta = malloc((size_t)cols * sizeof(*beta));
    double *want = malloc(n * sizeof(*want)), *tolerance = malloc(n * sizeof(*tolerance));
    struct test_rng rng;
    test_rng_init(&rng, (uint64_t)rows * 4096 + (uint64_t)cols);
    for (size_t i = 0; i < n; i++)
        x[i] = value(&rng, kind);
    for (int i = 0; i < cols; i++) {
        gamma[i] = test_rng_normal(&rng);
        beta[i] = test_rng_normal(&rng);
    }
    struct mat in = test_mat(e, DTYPE_F32, rows, cols, cols + in_gap);
    struct mat out = test_mat(e, type, rows, cols, cols + out_gap);
    test_mat_write(e, in, x);
    float *g = test_vector(e, gamma, cols), *b = test_vector(e, beta, cols);
    e->v->layer_norm(e, &(struct layer_norm_args){.in = in, .gamma = g, .beta = b, .out = out});
    test_mat_read(e, out, y);
    for (int r = 0; r < rows; r++)
        oracle(x + r * cols, gamma, beta, cols, type, want + r * cols, tolerance + r * cols);
    test_close("layer norm", y, want, tolerance, rows, cols);
    e->v->free(e, in.data);
    e->v->free(e, out.data);
    e->v->free(e, g);
    e->v->free(e, b);
    free(x);
    free(y);
    free(gamma);
    free(beta);
    free(want);
    free(tolerance);
}

static void all_shapes(struct engine *e)
{
    static const int cols[] = {1, 2, 7, 15, 16, 17, 33, 384, 500, 512, 1280};
    for (size_t c = 0; c < sizeof(cols) / sizeof(cols[0]); c++) {
        for (int kind = 0; kind < DATA_KINDS; kind++) {
            check(e, 5, cols[c], 0, 0, e->wide_type, (enum data)kind);
            check(e, 3, cols[c], 3, 1, DTYPE_F32, (enum data)kind);
            check(e, 1, cols[c], 0, 5, e->wide_type, (enum data)kind);
        }
    }
    check(e, test_engines_emulated && !test_on_gpu() ? 9 : 1500, 384, 0, 0, e->wide_type, DATA_NORMAL);
}

static void test_against_double(void **state)
{
    test_engines(all_shapes);
}

/* A row with a value that is no number is none, in every type; its neighbours know nothing of it. */
static void none_stays_none(struct engine *e)
{
    enum { ROWS = 3, COLS = 48 };
    for (int half = 0; half < 2; half++) {
        float x[ROWS * COLS], y[ROWS * COLS], ones[COLS];
        struct mat in = test_mat(e, DTYPE_F32, ROWS, COLS, COLS);
        struct mat out = test_mat(e, half ? e->wide_type : DTYPE_F32, ROWS, COLS, COLS);
        for (int i = 0; i < ROWS * COLS; i++)
            x[i] = (float)(i % 7);
        for (int i = 0; i < COLS; i++)
            ones[i] = 1.0f;
        x[COLS + 20] = NAN;
        test_mat_write(e, in, x);
        float *g = test_vector(e, ones, COLS);
        e->v->layer_norm(e, &(struct layer_norm_args){.in = in, .gamma = g, .beta = g, .out = out});
        test_mat_read(e, out, y);
        for (int i = 0; i < ROWS * COLS; i++)
            assert_true(isnan(y[i]) == (i / COLS == 1));
        e->v->free(e, in.data);
        e->v->free(e, out.data);
        e->v->free(e, g);
    }
}

static void test_none_stays_none(void **state)
{
    test_engines(none_stays_none);
}

static void refuses(struct engine *e)
{
    struct mat in = test_mat(e, DTYPE_F32, 2, 8, 8), out = test_mat(e, DTYPE_F32, 2, 7, 7);
    struct err err = {0};
    e->v->layer_norm(e, &(struct layer_norm_args){.in = in, .gamma = in.data, .beta = in.data, .out = out});
    assert_true(e->v->wait(e, &err) < 0);
    assert_int_equal(e->v->wait(e, &err), 0);
    e->v->free(e, in.data);
    e->v->free(e, out.data);
}

static void test_refuses_shapes(void **state)
{
    test_engines(refuses);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_none_stays_none),
        cmocka_unit_test(test_refuses_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
