/* Copies of a slot's cache, seen through self-attention, and what the cache refuses. */
#include "tests/oracle/rows.h"

#include <errno.h>

enum { LAYERS = 2, SLOTS = 4, CTX = 448, HEADS = 2, STATE = HEADS * 64 };

struct world {
    struct engine *e;
    struct engine_kv *kv;
    struct mat qkv, out; /* [CTX, …] */
    struct rows rows;
};

/* Feeds rows r … r + n − 1 of qkv at positions pos … of a slot in one layer; returns what the first sees. */
static const float *feed(struct world *w, int layer, int slot, int pos, int r, int n)
{
    struct rows rows = w->rows;
    rows.n = n;
    for (int i = 0; i < n; i++) {
        rows.pos[i] = pos + i;
        rows.slot[i] = slot;
    }
    w->e->v->self_attention(w->e,
                            &(struct self_attention_args){rows, w->kv, layer, NULL, mat_rows(w->qkv, r, n),
                                                          mat_rows(w->out, r, n)});
    wait_for(w->e);
    return at(w->out, r);
}

static struct world make_world(const char *isa, int threads, enum engine_precision precision)
{
    struct world w = {.e = open_engine(isa, threads, precision)};
    if (!w.e)
        return w;
    struct err err;
    struct test_rng rng;
    test_rng_init(&rng, 8);
    assert_int_equal(w.e->v->kv_create(w.e, LAYERS, SLOTS, CTX, HEADS, &w.kv, &err), 0);
    w.qkv = take_mat(w.e, CTX, 3 * STATE, 3 * STATE);
    w.out = take_mat(w.e, CTX, STATE, STATE);
    w.rows = take_rows(w.e, CTX);
    fill_mat(&rng, w.qkv, 1.0f);
    return w;
}

static void drop_world(struct world *w)
{
    give_mat(w->e, w->qkv);
    give_mat(w->e, w->out);
    give_rows(w->e, w->rows);
    w->e->v->kv_destroy(w->e, w->kv);
    engine_close(w->e);
}

/* What a later position sees of a slot in each layer. Rows from 300 on are the questions. */
static void look(struct world *w, int slot, int pos, float *seen)
{
    for (int layer = 0; layer < LAYERS; layer++)
        memcpy(seen + layer * STATE, feed(w, layer, slot, pos, 300 + layer, 1), STATE * sizeof(float));
}

static void check_copy(struct world *w, int n)
{
    enum { OTHER = 150 };
    float expected[LAYERS * STATE], seen[LAYERS * STATE], untouched[LAYERS * STATE];
    for (int layer = 0; layer < LAYERS; layer++) {
        feed(w, layer, 0, 0, 0, OTHER);   /* the source */
        feed(w, layer, 1, 0, 100, OTHER); /* the destination has something else */
        feed(w, layer, 2, 0, 100, OTHER); /* a neighbour */
        feed(w, layer, 3, 0, 100, OTHER); /* what the destination should become */
        if (n > 0)
            feed(w, layer, 3, 0, 0, n);
    }
    look(w, 2, OTHER, untouched);
    w->e->v->kv_copy(w->e, w->kv, 0, 1, n);
    wait_for(w->e);
    look(w, 3, OTHER, expected);
    look(w, 1, OTHER, seen);
    assert_memory_equal(expected, seen, sizeof(seen));
    look(w, 2, OTHER, seen);
    assert_memory_equal(untouched, seen, sizeof(seen));
}

/* The first n positions are copied and nothing else changes, whatever n is to the layout's blocks. */
static void test_copy(void **state)
{
    static const int lengths[] = {17, 0, 150, 16, 1, 100, 15};
    for (int isa = 0; isa < N_ISAS; isa++) {
        for (int precision = PRECISION_AUTO; precision <= PRECISION_F32; precision++) {
            struct world w = make_world(isa_names[isa], 1 + isa % 4, precision);
            if (!w.e)
                continue;
            for (int i = 0; i < test_rounds(7, 4); i++)
                check_copy(&w, lengths[i]);
            drop_world(&w);
        }
    }
}

static void test_copy_to_itself_and_full(void **state)
{
    struct world w = make_world(isa_names[0], 2, PRECISION_AUTO);
    if (!w.e)
        abort(); /* every processor has this one */
    float before[LAYERS * STATE], after[LAYERS * STATE];
    for (int layer = 0; layer < LAYERS; layer++) {
        feed(&w, layer, 0, 0, 0, CTX - 1);
    }
    look(&w, 0, CTX - 1, before);
    w.e->v->kv_copy(w.e, w.kv, 0, 0, CTX);
    wait_for(w.e);
    look(&w, 0, CTX - 1, after);
    assert_memory_equal(before, after, sizeof(after));
    w.e->v->kv_copy(w.e, w.kv, 0, 3, CTX);
    wait_for(w.e);
    look(&w, 3, CTX - 1, after);
    assert_memory_equal(before, after, sizeof(after));
    drop_world(&w);
}

/* A product of two windows that goes to the slots at once leaves there what its rows, stored one window after the other, leave. */
static void check_product(struct world *w)
{
    enum { N = 20, N_IN = 48 };
    static float values[2 * STATE * N_IN], input[2 * N * N_IN];
    struct engine_weight *weight = NULL;
    struct test_rng rng;
    struct err err;
    float stored[LAYERS * STATE], at_once[LAYERS * STATE];
    test_rng_init(&rng, 9);
    fill(&rng, values, 2 * STATE * N_IN, 0.2f);
    fill(&rng, input, 2 * N * N_IN, 1.0f);
    for (int i = 0; i < 2 * STATE * N_IN; i++)
        values[i] = test_round(w->e->wide_type, values[i]);
    assert_int_equal(w->e->v->weight_create(w->e, WEIGHT_WIDE, 2 * STATE, N_IN, values, &weight, &err), 0);
    struct mat in = test_mat(w->e, w->e->wide_type, 2 * N, N_IN, N_IN),
               k_v = take_mat(w->e, 2 * N, 2 * STATE, 2 * STATE);
    test_mat_write(w->e, in, input);
    float *bias = test_vector(w->e, values, 2 * STATE);
    struct linear_args args = {.in = in, .weight = weight, .bias = bias, .out = k_v};
    for (int slot = 0; slot < SLOTS; slot++) {
        for (int layer = 0; layer < LAYERS; layer++)
            feed(w, layer, slot, 0, 100, N); /* something else */
    }
    w->e->v->linear(w->e, &args);
    for (int i = 0; i < 2; i++)
        w->e->v->kv_store(w->e, &(struct kv_store_args){w->kv, 1, 2 * i, mat_rows(k_v, i * N, N)});
    args.n_windows = 2;
    args.kv = w->kv;
    args.layer = 1;
    args.slots[0] = 3;
    args.slots[1] = 1;
    w->e->v->linear(w->e, &args);
    wait_for(w->e);
    for (int i = 0; i < 2; i++) {
        look(w, 2 * i, N, stored);
        look(w, 3 - 2 * i, N, at_once);
        assert_memory_equal(stored, at_once, sizeof(stored));
    }
    w->e->v->free(w->e, bias);
    w->e->v->free(w->e, in.data);
    give_mat(w->e, k_v);
    w->e->v->weight_destroy(w->e, weight);
}

static void test_product(void **state)
{
    for (int isa = 0; isa < N_ISAS; isa++) {
        struct world w = make_world(isa_names[isa], 1 + isa % 4, PRECISION_AUTO);
        if (!w.e)
            continue;
        check_product(&w);
        drop_world(&w);
    }
}

static void expect_error(struct engine *e)
{
    struct err err = {0};
    assert_int_equal(e->v->wait(e, &err), -EINVAL);
    assert_true(err.msg[0]);
}

static void test_refusals(void **state)
{
    struct world w = make_world(isa_names[0], 1, PRECISION_AUTO);
    if (!w.e)
        abort(); /* every processor has this one */
    w.e->v->kv_copy(w.e, w.kv, 0, SLOTS, 1);
    expect_error(w.e);
    w.e->v->kv_copy(w.e, w.kv, -1, 0, 1);
    expect_error(w.e);
    w.e->v->kv_copy(w.e, w.kv, 0, 1, CTX + 1);
    expect_error(w.e);
    w.e->v->kv_store(w.e, &(struct kv_store_args){w.kv, LAYERS, 0, mat_cols(w.qkv, 0, 2 * STATE)});
    expect_error(w.e);
    w.e->v->kv_store(w.e, &(struct kv_store_args){w.kv, 0, SLOTS, mat_cols(w.qkv, 0, 2 * STATE)});
    expect_error(w.e);
    wait_for(w.e); /* an error is reported once */
    drop_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_copy_to_itself_and_full),
        cmocka_unit_test(test_product),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
