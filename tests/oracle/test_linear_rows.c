/* linear_rows and embed against sums in double precision, with the bound of the rounding errors as the tolerance. */
#include "tests/oracle/rows.h"

enum { WIDE = 8203 }; /* outputs: as many as a vocabulary has */
enum { UNIT = 64 };   /* weights of an output that share the unit of their 8 bits */

struct layer {
    int n_out, n_in;
    float *weight, *bias, *gamma, *beta;
    struct engine_weight *packed;
};

/* exact: the weights are half floats, as published ones are, and even whole numbers of 127ths of the greatest of their unit. */
static struct layer make_layer(struct engine *e, struct test_rng *rng, int n_out, int n_in, bool exact)
{
    struct layer l = {.n_out = n_out, .n_in = n_in};
    size_t n = (size_t)n_out * (size_t)n_in;
    l.weight = malloc(n * sizeof(float));
    l.bias = take(e, (size_t)n_out * sizeof(float));
    l.gamma = take(e, (size_t)n_in * sizeof(float));
    l.beta = take(e, (size_t)n_in * sizeof(float));
    fill(rng, l.weight, n, 0.1f);
    for (size_t i = 0; exact && i < n; i++)
        l.weight[i] = i % (size_t)n_in % UNIT
                          ? rintf(fminf(fmaxf(400.0f * l.weight[i], -127.0f), 127.0f)) / 1024.0f
                          : 127.0f / 1024.0f;
    fill(rng, l.bias, (size_t)n_out, 1.0f);
    fill(rng, l.gamma, (size_t)n_in, 1.0f);
    fill(rng, l.beta, (size_t)n_in, 0.3f);
    struct err err = {0};
    if (e->v->weight_create(e, WEIGHT_ROWS, n_out, n_in, l.weight, &l.packed, &err) < 0)
        fail_msg("%s", err.msg);
    return l;
}

static void drop_layer(struct engine *e, struct layer *l)
{
    free(l->weight);
    e->v->free(e, l->bias);
    e->v->free(e, l->gamma);
    e->v->free(e, l->beta);
    e->v->weight_destroy(e, l->packed);
}

struct variant {
    bool norm, bias, gelu, add;
};

/* How an engine rounds what it multiplies: greatest relative errors, and that of a weight in the greatest of its unit; and what is
 * added: the error of a chunk's sum in fixed point (gpu/cuda/fixed.cuh). */
struct rounding {
    double weight, input, of_greatest, of_chunk;
};
enum { CHUNK = 16 };

typedef struct engine *open_function(const char *isa, int n_threads, enum engine_precision);
static open_function *const openers[] = {open_engine, open_engine_of_many, open_engine_of_bytes};
enum { N_OPENERS = sizeof(openers) / sizeof(openers[0]) };
/* Weights that are no half floats stay single when f32 was asked for, and are rounded otherwise; two half floats for an input
 * are 22 bits. */
static struct rounding rounding_of(int opener, bool half)
{
    const double of_chunk = strcmp(isa_names[0], "cuda") != 0 || opener == 1 ? 0.0 : 0x1p-28;
    return opener == 2 ? (struct rounding){.of_greatest = 1.01 / 254.0, .of_chunk = of_chunk}
                       : (struct rounding){.weight = half ? 1.01 * F16_EPS : 0.0,
                                           .input = opener ? 0x1p-22 : 0.0,
                                           .of_chunk = of_chunk};
}

static double greatest_of(const float *w, int first, int n)
{
    double greatest = 0.0;
    for (int k = first; k < n && k < first + UNIT; k++)
        greatest = fmax(greatest, fabs((double)w[k]));
    return greatest;
}

/* One row in double precision, and how far single precision may be from it. */
static void reference(const struct layer *l, struct variant v, struct rounding eps, const float *x,
                      const float *add, double *y, double *tolerance)
{
    double *in = malloc((size_t)l->n_in * sizeof(double)), *error = calloc((size_t)l->n_in, sizeof(double));
    double mean = 0.0, variance = 0.0, n = l->n_in;
    for (int k = 0; k < l->n_in; k++)
        mean += x[k] / n;
    for (int k = 0; k < l->n_in; k++)
        variance += (x[k] - mean) * (x[k] - mean) / n;
    for (int k = 0; k < l->n_in; k++) {
        double normed = (x[k] - mean) / sqrt(variance + 1e-5) * l->gamma[k] + l->beta[k];
        in[k] = v.norm ? normed : x[k];
        /* Mean and variance are sums of n terms over at least 4 lanes; then a handful of roundings. */
        if (v.norm)
            error[k] =
                (n / 4 + 8) * F32_EPS *
                ((fabs(x[k]) + fabs(mean)) / sqrt(variance + 1e-5) * fabs(l->gamma[k]) + fabs(l->beta[k]));
    }
    for (int o = 0; o < l->n_out; o++) {
        const float *w = l->weight + (size_t)o * (size_t)l->n_in;
        double sum = 0.0, magnitude = 0.0, carried = 0.0, greatest = 0.0;
        for (int k = 0; k < l->n_in; k++) {
            sum += in[k] * w[k];
            magnitude += fabs(in[k] * w[k]);
            greatest = k % UNIT ? greatest : greatest_of(w, k, l->n_in);
            carried += error[k] * fabs(w[k]) + eps.of_greatest * greatest * fabs(in[k]);
        }
        if (v.bias) {
            sum += l->bias[o];
            magnitude += fabs((double)l->bias[o]);
        }
        double bound = (n + 4) * F32_EPS * magnitude + (eps.weight + eps.input) * magnitude + carried;
        if (v.gelu) {
            bound = 1.13 * bound + 3e-7 * (1.0 + fabs(sum)); /* steepest slope; stated error of erf */
            sum = 0.5 * sum * (1.0 + erf(sum / sqrt(2.0)));
        }
        y[o] = v.add ? sum + add[o] : sum;
        bound += v.add ? (l->n_in + CHUNK - 1) / CHUNK * eps.of_chunk : 0.0;
        tolerance[o] = bound + 2 * F32_EPS * fabs(y[o]) + 1e-30;
    }
    free(in);
    free(error);
}

static void run(struct engine *e, const struct layer *l, struct variant v, struct rows rows, struct mat in,
                struct mat add, struct mat out)
{
    e->v->linear_rows(e, &(struct linear_rows_args){.rows = rows,
                                                    .in = in,
                                                    .gamma = v.norm ? l->gamma : NULL,
                                                    .beta = v.norm ? l->beta : NULL,
                                                    .weight = l->packed,
                                                    .bias = v.bias ? l->bias : NULL,
                                                    .gelu = v.gelu,
                                                    .add = v.add ? add : (struct mat){0},
                                                    .out = out});
    wait_for(e);
}

static void check_rows(struct engine *e, struct test_rng *rng, const struct layer *l, struct variant v,
                       int n_rows, struct rounding eps)
{
    enum { PAD = 5 };
    struct rows rows = take_rows(e, n_rows);
    struct mat in = take_mat(e, n_rows, l->n_in, l->n_in + 3);
    struct mat out = take_mat(e, n_rows, l->n_out, l->n_out + PAD);
    struct mat before = take_mat(e, n_rows, l->n_out, l->n_out + PAD);
    fill_mat(rng, in, test_rng_int(rng, 0, 1) ? 2.0f : 0.003f); /* a variance like the norm's 1e-5, too */
    for (int r = 0; r < n_rows; r++) {                          /* what lies between rows is nobody's */
        for (int k = l->n_in; k < in.stride; k++)
            ((float *)in.data)[(size_t)r * (size_t)in.stride + (size_t)k] = NAN;
    }
    fill_mat(rng, out, 1.0f);
    memcpy(before.data, out.data, (size_t)n_rows * (size_t)out.stride * sizeof(float));
    for (int r = 0; r < n_rows; r++)
        rows.pos[r] = test_rng_int(rng, 0, 3) ? r : -1; /* every fourth is idle */
    run(e, l, v, rows, in, out, out);                   /* adds to itself, as the residual stream does */
    double *y = malloc((size_t)l->n_out * sizeof(double)),
           *tolerance = malloc((size_t)l->n_out * sizeof(double));
    for (int r = 0; r < n_rows; r++) {
        assert_memory_equal(at(out, r) + l->n_out, at(before, r) + l->n_out, PAD * sizeof(float));
        if (rows.pos[r] < 0)
            continue;
        reference(l, v, eps, at(in, r), at(before, r), y, tolerance);
        for (int o = 0; o < l->n_out; o++) {
            if (!(fabs(at(out, r)[o] - y[o]) <= tolerance[o]))
                fail_msg("%d rows, %d × %d, norm %d bias %d gelu %d add %d: row %d output %d is %.9g, not "
                         "%.9g ± %.2g",
                         n_rows, l->n_out, l->n_in, v.norm, v.bias, v.gelu, v.add, r, o, at(out, r)[o], y[o],
                         tolerance[o]);
        }
    }
    free(y);
    free(tolerance);
    give_rows(e, rows);
    give_mat(e, in);
    give_mat(e, out);
    give_mat(e, before);
}

static void check_engine(struct engine *e, struct test_rng *rng, struct rounding eps)
{
    static const int outs[] = {1, 15, 16, 17, 100, 129, 384, 1000}, ins[] = {64, 384, 37, 512};
    for (size_t i = 0; i < sizeof(outs) / sizeof(outs[0]); i++) {
        for (size_t j = 0; j < sizeof(ins) / sizeof(ins[0]); j++) {
            bool exact = (i + j) % 2;
            struct layer l = make_layer(e, rng, outs[i], ins[j], exact);
            for (int t = 0; t < test_rounds(3, 3); t++) {
                int bits = test_rng_int(rng, 0, 15), n_rows = test_rng_int(rng, 1, t ? 9 : 40);
                struct variant v = {bits & 1, bits & 2, bits & 4, bits & 8};
                check_rows(e, rng, &l, v, n_rows,
                           exact ? (struct rounding){.input = eps.input, .of_chunk = eps.of_chunk} : eps);
            }
            drop_layer(e, &l);
        }
    }
}

/* More outputs than there are warps: each has some of them to itself. */
static void check_wide(struct engine *e, struct test_rng *rng, struct rounding eps)
{
    struct layer l = make_layer(e, rng, WIDE, 165, true);
    for (int n_rows = 3; n_rows <= 17; n_rows += 7)
        check_rows(e, rng, &l, (struct variant){n_rows > 3, true, n_rows > 10, n_rows <= 10}, n_rows,
                   (struct rounding){.input = eps.input});
    drop_layer(e, &l);
}

static void test_against_double(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (int isa = 0; isa < N_ISAS; isa++) {
        for (int threads = 1; threads <= 4; threads++) {
            enum engine_precision precision = threads % 2 ? PRECISION_F32 : PRECISION_AUTO;
            for (int i = 0; i < N_OPENERS; i++) {
                struct engine *e = openers[i](isa_names[isa], threads, precision);
                if (!e)
                    continue;
                check_engine(e, &rng, rounding_of(i, test_keeps_half(isa_names[isa], precision)));
                if (threads == 1 && openers[i] == open_engine_of_many)
                    check_wide(e, &rng, rounding_of(i, test_keeps_half(isa_names[isa], precision)));
                engine_close(e);
            }
        }
    }
}

/* Every output picks one input, of 22 significant bits: nothing of it may be lost. The first input of each
 * unit, a zero, has the greatest weight. */
static int picked(int out, int n_in)
{
    int k = out * 5 % n_in;
    return k % UNIT ? k : k + 1;
}

static void check_picks(struct engine *e, struct test_rng *rng, int n_rows, int n_out, int n_in)
{
    struct mat in = take_mat(e, n_rows, n_in, n_in), out = take_mat(e, n_rows, n_out, n_out + 1);
    struct rows rows = take_rows(e, n_rows);
    float *picks = calloc((size_t)n_out * (size_t)n_in, sizeof(float));
    struct engine_weight *weight;
    struct err err = {0};
    for (int o = 0; o < n_out; o++) {
        for (int k = 0; k < n_in; k += UNIT)
            picks[o * n_in + k] = 127.0f;
        picks[o * n_in + picked(o, n_in)] = 1.0f;
    }
    for (int i = 0; i < n_rows * n_in; i++)
        ((float *)in.data)[i] =
            i % n_in % UNIT
                ? ldexpf((float)test_rng_int(rng, -(1 << 22) + 1, (1 << 22) - 1), test_rng_int(rng, -30, -7))
                : 0.0f;
    if (e->v->weight_create(e, WEIGHT_ROWS, n_out, n_in, picks, &weight, &err) < 0)
        fail_msg("%s", err.msg);
    e->v->linear_rows(e, &(struct linear_rows_args){.rows = rows, .in = in, .weight = weight, .out = out});
    wait_for(e);
    for (int r = 0; r < n_rows; r++) {
        for (int o = 0; o < n_out; o++)
            assert_true(at(out, r)[o] == at(in, r)[picked(o, n_in)]);
    }
    e->v->weight_destroy(e, weight);
    free(picks);
    give_rows(e, rows);
    give_mat(e, in);
    give_mat(e, out);
}

static void test_exact(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 4);
    for (int i = 0; i < N_OPENERS; i++) {
        for (int threads = 1; threads <= 2; threads++) {
            struct engine *e = openers[i](isa_names[0], threads, PRECISION_AUTO);
            if (!e)
                continue;
            check_picks(e, &rng, 1, 1, 2);
            check_picks(e, &rng, 64, 150, 203); /* all rows in a block, some tiles of outputs a block */
            check_picks(e, &rng, 70, 40, 520);
            if (openers[i] == open_engine_of_many)
                check_picks(e, &rng, 40, WIDE, 66);
            check_picks(e, &rng, 9, 33, 3600); /* more than a block's shared memory holds at once */
            engine_close(e);
        }
    }
}

/* An input that is too large for what an engine multiplies in is told by outputs that are no numbers, and is no other one. */
static void check_large(struct engine *e, bool normed)
{
    enum { N_IN = 64, N_OUT = 9, PICKED = 5 };
    static const float values[] = {65504.0f, -65504.0f, 65505.0f, -7e4f, 1e9f, -1e30f, NAN};
    enum { ROWS = sizeof(values) / sizeof(values[0]) };
    struct mat in = take_mat(e, ROWS, N_IN, N_IN), out = take_mat(e, ROWS, N_OUT, N_OUT);
    struct rows rows = take_rows(e, ROWS);
    float *picks = calloc(N_OUT * N_IN, sizeof(float)), *gamma = take(e, N_IN * sizeof(float)),
          *beta = take(e, N_IN * sizeof(float));
    struct engine_weight *weight;
    struct err err = {0};
    for (int o = 0; o < N_OUT; o++)
        picks[o * N_IN + PICKED] = 1.0f;
    if (e->v->weight_create(e, WEIGHT_ROWS, N_OUT, N_IN, picks, &weight, &err) < 0)
        fail_msg("%s", err.msg);
    for (int r = 0; r < ROWS; r++)
        at(in, r)[PICKED] = normed ? NAN : values[r];
    e->v->linear_rows(e, &(struct linear_rows_args){.rows = rows,
                                                    .in = in,
                                                    .gamma = normed ? gamma : NULL,
                                                    .beta = normed ? beta : NULL,
                                                    .weight = weight,
                                                    .out = out});
    wait_for(e);
    for (int r = 0; r < ROWS; r++) {
        for (int o = 0; o < N_OUT; o++) {
            if (normed || isnan(values[r]))
                assert_true(isnan(at(out, r)[o]));
            else if (!isnan(at(out, r)[o]) || fabsf(values[r]) <= 65504.0f)
                assert_true(at(out, r)[o] == values[r]);
        }
    }
    e->v->weight_destroy(e, weight);
    free(picks);
    e->v->free(e, gamma);
    e->v->free(e, beta);
    give_rows(e, rows);
    give_mat(e, in);
    give_mat(e, out);
}

static void test_large(void **state)
{
    for (int i = 0; i < N_OPENERS; i++) {
        struct engine *e = openers[i](isa_names[0], 1, PRECISION_AUTO);
        if (!e)
            continue;
        check_large(e, false);
        check_large(e, true);
        engine_close(e);
    }
}

/* Rows in batches of any size against one batch of all; *first: what another engine of the kind gave, or NULL. */
static void check_batches(struct engine *e, int n_out, int n_in, int fewest, float **first)
{
    enum { ROWS = 40 };
    struct test_rng rng;
    test_rng_init(&rng, 2);
    const size_t bytes = sizeof(float) * ROWS * (size_t)n_out;
    struct layer l = make_layer(e, &rng, n_out, n_in, true);
    struct variant v = {true, true, true, true};
    struct mat in = take_mat(e, ROWS, n_in, n_in), add = take_mat(e, ROWS, n_out, n_out),
               out = take_mat(e, ROWS, n_out, n_out);
    struct mat one = take_mat(e, ROWS, n_out, n_out);
    struct rows rows = take_rows(e, ROWS);
    fill_mat(&rng, in, 2.0f);
    fill_mat(&rng, add, 2.0f);
    run(e, &l, v, rows, in, add, out);
    for (int n = fewest; n <= ROWS; n = n * 2 + 1) { /* 1, 3, 7, 15, 31 at a time */
        for (int r = 0; r < ROWS; r += n) {
            int m = ROWS - r < n ? ROWS - r : n;
            struct rows some = {m, rows.token, rows.pos, rows.slot};
            run(e, &l, v, some, mat_rows(in, r, m), mat_rows(add, r, m), mat_rows(one, r, m));
        }
        assert_memory_equal(one.data, out.data, bytes);
    }
    if (!*first) {
        *first = malloc(bytes);
        memcpy(*first, out.data, bytes);
    }
    assert_memory_equal(*first, out.data, bytes);
    drop_layer(e, &l);
    give_mat(e, in);
    give_mat(e, out);
    give_mat(e, add);
    give_mat(e, one);
    give_rows(e, rows);
}

/* The same row gives the same bits whatever is computed beside it and by however many threads. */
static void test_batch_invariance(void **state)
{
    for (int isa = 0; isa < N_ISAS; isa++) {
        for (int i = 0; i < N_OPENERS; i++) {
            float *first = NULL, *first_wide = NULL;
            for (int threads = 1; threads <= 4; threads++) {
                struct engine *e = openers[i](isa_names[isa], threads, PRECISION_AUTO);
                if (!e)
                    continue;
                check_batches(e, test_rounds(403, 403), 384, 1, &first);
                if (openers[i] == open_engine_of_many)
                    check_batches(e, test_rounds(WIDE, WIDE), 70, 7, &first_wide);
                engine_close(e);
            }
            free(first);
            free(first_wide);
        }
    }
}

/* Each weight by itself: as it is, or as far off as its rounding allows. */
static void check_embed(struct engine *e, struct test_rng *rng, bool exact, struct rounding eps)
{
    enum { VOCAB = 1003, STATE = 379, CTX = 448, ROWS = 40 };
    struct layer l = make_layer(e, rng, VOCAB, STATE, exact);
    struct rows rows = take_rows(e, ROWS);
    struct mat positions = take_mat(e, CTX, STATE, STATE), out = take_mat(e, ROWS, STATE, STATE);
    fill_mat(rng, positions, 1.0f);
    for (int r = 0; r < ROWS; r++) {
        rows.token[r] = r == 0 ? 0 : r == 1 ? VOCAB - 1 : test_rng_int(rng, 0, VOCAB - 1);
        rows.pos[r] = r == 2 ? CTX - 1 : test_rng_int(rng, -1, CTX - 1);
    }
    e->v->embed(e, &(struct embed_args){rows, l.packed, positions.data, out});
    wait_for(e);
    for (int r = 0; r < ROWS; r++) {
        const float *w = l.weight + rows.token[r] * STATE;
        for (int k = 0; k < STATE && rows.pos[r] >= 0; k++) {
            float sum = w[k] + at(positions, rows.pos[r])[k];
            double off = eps.weight * fabs(w[k]) + eps.of_greatest * greatest_of(w, k / UNIT * UNIT, STATE);
            assert_true(fabs(at(out, r)[k] - sum) <= (exact ? 0.0 : off + 4 * F32_EPS * (1.0 + fabs(sum))));
        }
    }
    drop_layer(e, &l);
    give_rows(e, rows);
    give_mat(e, positions);
    give_mat(e, out);
}

static void test_embed(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 3);
    for (int i = 0; i < N_ISAS * N_OPENERS; i++) {
        const char *isa = isa_names[i % N_ISAS];
        struct engine *e = openers[i / N_ISAS](isa, 2, PRECISION_AUTO);
        if (!e)
            continue;
        struct rounding eps = rounding_of(i / N_ISAS, test_keeps_half(isa, PRECISION_AUTO));
        check_embed(e, &rng, true, eps);
        check_embed(e, &rng, false, eps);
        engine_close(e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),   cmocka_unit_test(test_exact), cmocka_unit_test(test_large),
        cmocka_unit_test(test_batch_invariance), cmocka_unit_test(test_embed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
