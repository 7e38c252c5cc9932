/* Attention of all heads against double precision. */
#include "tests/support/support.h"
#include "tests/support/engines.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD = 64 };

enum data {
    DATA_NORMAL,
    DATA_NEGATIVE, /* every true score is about −200: a padded key's 0 would win */
    DATA_EQUAL,    /* all keys alike: the output is the mean of the values */
    DATA_PEAK,     /* one key takes all, another one for each query */
    DATA_LARGE,    /* scores of ±1e4: the greatest must be found before the exponentials */
    DATA_RISING,   /* scores grow with the key: the running maximum rises in every block */
    DATA_KINDS
};

struct problem {
    int n, n_head, n_state;
    float *qkv;   /* [n, 3 · n_state] */
    double *want; /* [chosen rows, n_state] */
    double *tolerance;
};

static float *element(const struct problem *p, int row, int part, int head)
{
    return p->qkv + (size_t)row * 3 * (size_t)p->n_state + (size_t)(part * p->n_state + head * HEAD);
}

static void fill_row(const struct problem *p, struct test_rng *rng, enum data kind, int row, int head)
{
    float *q = element(p, row, 0, head), *k = element(p, row, 1, head), *v = element(p, row, 2, head);
    for (int d = 0; d < HEAD; d++) {
        q[d] = test_rng_normal(rng);
        k[d] = test_rng_normal(rng);
        v[d] = test_rng_normal(rng);
        if (kind == DATA_NEGATIVE) {
            q[d] = 5.0f + 0.1f * q[d];
            k[d] = -5.0f + 0.1f * k[d];
        } else if (kind == DATA_EQUAL) {
            k[d] = 0.5f;
        } else if (kind == DATA_PEAK) {
            k[d] = 4.0f * test_rng_normal(rng);
        } else if (kind == DATA_LARGE) {
            q[d] *= 100.0f;
            k[d] *= 100.0f;
        } else if (kind == DATA_RISING) {
            q[d] = 1.0f;
            k[d] = 4.0f * (float)row / (float)p->n + 0.01f * k[d];
        }
    }
}

/* Each query's greatest score is at a key of its own. Runs through the first and last keys of blocks, too. */
static void peak(const struct problem *p)
{
    for (int row = 0; row < p->n; row++) {
        for (int head = 0; head < p->n_head; head++)
            memcpy(element(p, row, 0, head), element(p, (row * 7 + p->n - 1) % p->n, 1, head),
                   HEAD * sizeof(float));
    }
}

/* With δ the error of a score's exponent, each probability errs by δ relative, and so do output and sum of
 * probabilities: 2 δ Σ p|v|. δ is 64 roundings of Σ |q k| / 8 for the products and a few of the greatest exponents. The
 * sums over keys have at most n roundings, one lane after another. In a narrow type each probability is rounded, and the
 * output. */
static void oracle_row(const struct problem *p, int row, int head, enum dtype type, double *want,
                       double *tolerance)
{
    const float *q = element(p, row, 0, head);
    double *score = malloc((size_t)p->n * sizeof(*score));
    double max = -HUGE_VAL, total = 0.0, delta = 0.0, sum[HEAD] = {0}, size[HEAD] = {0}, values[HEAD] = {0};
    assert_non_null(score);
    for (int j = 0; j < p->n; j++) {
        const float *k = element(p, j, 1, head);
        double s = 0.0, products = 0.0;
        for (int d = 0; d < HEAD; d++) {
            s += (double)q[d] * k[d] / 8.0;
            products += fabs((double)q[d] * k[d]) / 8.0;
        }
        score[j] = s;
        max = fmax(max, s);
        delta = fmax(delta, (HEAD * products + 4.0 * fabs(s)) * EPS_F32);
    }
    for (int j = 0; j < p->n; j++) {
        const float *v = element(p, j, 2, head);
        double e = exp(score[j] - max);
        total += e;
        for (int d = 0; d < HEAD; d++) {
            sum[d] += e * v[d];
            size[d] += e * fabs(v[d]);
            values[d] += test_rounding(type, e) * fabs(v[d]);
        }
    }
    for (int d = 0; d < HEAD; d++) {
        want[d] = sum[d] / total;
        tolerance[d] = (2.0 * delta + (p->n + 16) * EPS_F32) * size[d] / total + 1e-30;
        tolerance[d] += values[d] / total + test_rounding(type, fabs(want[d]));
    }
    free(score);
}

static void check(struct engine *e, int n, int n_head, int gap, enum data kind)
{
    struct problem p = {.n = n, .n_head = n_head, .n_state = n_head * HEAD};
    size_t n_out = (size_t)n * (size_t)p.n_state;
    float *out = malloc(n_out * sizeof(float)), *got = malloc(n_out * sizeof(float));
    p.qkv = malloc(3 * n_out * sizeof(float));
    p.want = malloc(n_out * sizeof(double));
    p.tolerance = malloc(n_out * sizeof(double));
    struct test_rng rng;
    test_rng_init(&rng, (uint64_t)n * 64 + (uint64_t)n_head * 8 + (uint64_t)kind);
    for (int row = 0; row < n; row++) {
        for (int head = 0; head < n_head; head++)
            fill_row(&p, &rng, kind, row, head);
    }
    if (kind == DATA_PEAK)
        peak(&p);
    struct mat qkv = test_mat(e, e->wide_type, n, 3 * p.n_state, 3 * p.n_state + gap);
    struct mat y = test_mat(e, e->wide_type, n, p.n_state, p.n_state + gap);
    test_mat_write(e, qkv, p.qkv);
    e->v->attention(e, &(struct attention_args){.qkv = qkv, .n_head = n_head, .n_windows = 1, .out = y});
    test_mat_read(e, y, out);
    int rows = 0;
    for (int row = 0; row < n; row++) {
        if (n > 100 && row % 97 != 5 && row % 48 != 47 && row != n - 1)
            continue;
        size_t at = (size_t)rows++ * (size_t)p.n_state;
        memcpy(got + at, out + (size_t)row * (size_t)p.n_state, (size_t)p.n_state * sizeof(float));
        for (int head = 0; head < n_head; head++)
            oracle_row(&p, row, head, e->wide_type, p.want + at + head * HEAD,
                       p.tolerance + at + head * HEAD);
    }
    test_close("attention", got, p.want, p.tolerance, rows, p.n_state);
    e->v->free(e, qkv.data);
    e->v->free(e, y.data);
    free(out);
    free(got);
    free(p.qkv);
    free(p.want);
    free(p.tolerance);
}

static void all_shapes(struct engine *e)
{
    static const int n[] = {1, 2, 5, 6, 7, 8, 9, 31, 47, 48, 49, 63, 64, 65, 96, 255, 256, 257, 300};
    for (size_t i = 0; i < sizeof(n) / sizeof(n[0]); i++) {
        for (int kind = 0; kind < DATA_KINDS; kind++) {
            if (!test_engines_emulated || (int)i % 3 == kind % 3)
                check(e, n[i], 1 + (int)(i % 3), i % 2 ? 8 : 0, (enum data)kind);
        }
    }
}

static void test_against_double(void **state)
{
    test_engines(all_shapes);
}

static void test_whole_windows(void **state)
{
    const struct engine_case cases[] = {{.isa = "best", .n_threads = 2},
                                        {.isa = "best", .n_threads = 4, .precision = PRECISION_F32},
                                        {.isa = "generic", .n_threads = 2}};
    if (test_engines_emulated && !test_on_gpu())
        test_skip("whole windows are too large to be emulated");
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct engine *e = test_engine_open(&cases[c], 80);
        for (int kind = 0; kind < DATA_KINDS; kind++)
            check(e, 1500, 1, 0, (enum data)kind);
        engine_close(e);
    }
}

/* Several windows at once: each is what it is alone, to the bit, and what that is has been checked. Every window has other
 * numbers, and larger ones than those before it: one that sees a neighbour's keys or values shows it. */
static void check_windows(struct engine *e, int n, int n_windows, int n_head, int gap)
{
    int n_state = n_head * HEAD, rows = n * n_windows;
    size_t n_in = (size_t)rows * 3 * (size_t)n_state, n_out = (size_t)n * (size_t)n_state;
    float *qkv = malloc(n_in * sizeof(float)), *got = malloc((size_t)n_windows * n_out * sizeof(float));
    float *alone = malloc(n_out * sizeof(float));
    struct test_rng rng;
    test_rng_init(&rng, (uint64_t)n * 64 + (uint64_t)n_windows);
    for (size_t i = 0; i < n_in; i++)
        qkv[i] = (float)(1 + i / (n_in / (size_t)n_windows)) * test_rng_normal(&rng);
    struct mat in = test_mat(e, e->wide_type, rows, 3 * n_state, 3 * n_state + gap);
    struct mat out = test_mat(e, e->wide_type, rows, n_state, n_state + gap);
    test_mat_write(e, in, qkv);
    e->v->attention(
        e, &(struct attention_args){.qkv = in, .n_head = n_head, .n_windows = n_windows, .out = out});
    test_mat_read(e, out, got);
    struct mat one = test_mat(e, e->wide_type, n, n_state, n_state + gap);
    for (int i = 0; i < n_windows; i++) {
        e->v->attention(e, &(struct attention_args){
                               .qkv = mat_rows(in, i * n, n), .n_head = n_head, .n_windows = 1, .out = one});
        test_mat_read(e, one, alone);
        assert_memory_equal(got + (size_t)i * n_out, alone, n_out * sizeof(float));
    }
    e->v->free(e, in.data);
    e->v->free(e, out.data);
    e->v->free(e, one.data);
    free(qkv);
    free(got);
    free(alone);
}

static void several_windows(struct engine *e)
{
    check_windows(e, 1, 3, 1, 8);
    check_windows(e, 64, 2, 2, 0);
    check_windows(e, 70, 3, 2, 8);
}

static void test_several_windows(void **state)
{
    test_engines(several_windows);
}

/* The same with few multiprocessors, for which a block has more queries: the bits are the same. */
static void test_every_block(void **state)
{
    enum { N = 200, HEADS = 2 };
    float *got[2];
    for (int large = 0; large < 2; large++) {
        struct engine *e = open_engine_for(large ? 1 : 4, 1);
        struct test_rng rng;
        if (!e)
            test_skip("there is one kernel");
        test_rng_init(&rng, 1);
        for (int kind = 0; kind < DATA_KINDS; kind++)
            check(e, N - 3 * kind, HEADS, 8, (enum data)kind);
        float *qkv = malloc(N * HEADS * 3 * HEAD * sizeof(float));
        for (int i = 0; i < N * HEADS * 3 * HEAD; i++)
            qkv[i] = test_rng_normal(&rng);
        got[large] = malloc(N * HEADS * HEAD * sizeof(float));
        struct mat in = test_mat(e, e->wide_type, N, 3 * HEADS * HEAD, 3 * HEADS * HEAD);
        struct mat out = test_mat(e, e->wide_type, N, HEADS * HEAD, HEADS * HEAD);
        test_mat_write(e, in, qkv);
        e->v->attention(e, &(struct attention_args){.qkv = in, .n_head = HEADS, .n_windows = 1, .out = out});
        test_mat_read(e, out, got[large]);
        e->v->free(e, in.data);
        e->v->free(e, out.data);
        free(qkv);
        engine_close(e);
    }
    assert_memory_equal(got[0], got[1], N * HEADS * HEAD * sizeof(float));
    free(got[0]);
    free(got[1]);
}

static void refuses(struct engine *e)
{
    struct err err = {0};
    struct mat qkv = test_mat(e, e->wide_type, 3, 3 * HEAD, 3 * HEAD),
               out = test_mat(e, e->wide_type, 3, HEAD, HEAD);
    e->v->attention(e, &(struct attention_args){.qkv = qkv, .n_head = 2, .n_windows = 1, .out = out});
    assert_true(e->v->wait(e, &err) < 0);
    e->v->attention(
        e, &(struct attention_args){.qkv = qkv, .n_head = 1, .n_windows = 1, .out = mat_rows(out, 0, 2)});
    assert_true(e->v->wait(e, &err) < 0);
    for (int n_windows = 0; n_windows <= 2; n_windows += 2) { /* none, and halves of three rows */
        e->v->attention(
            e, &(struct attention_args){.qkv = qkv, .n_head = 1, .n_windows = n_windows, .out = out});
        assert_true(e->v->wait(e, &err) < 0);
    }
    e->v->free(e, qkv.data);
    e->v->free(e, out.data);
}

static void test_refuses_shapes(void **state)
{
    test_engines(refuses);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),  cmocka_unit_test(test_whole_windows),
        cmocka_unit_test(test_several_windows), cmocka_unit_test(test_every_block),
        cmocka_unit_test(test_refuses_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
