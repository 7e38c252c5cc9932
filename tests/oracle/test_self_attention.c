/* Self-attention of rows against double precision over a cache that the test keeps itself. */
#include "tests/oracle/rows.h"

#include "tests/oracle/attention_reference.h"

enum { LAYERS = 2, SLOTS = 5, CTX = 448, HEADS = 3, STATE = HEADS * HEAD_SIZE, ROWS = 40 };

/* Keys and values as stored: [layer][slot][position][K, V of all heads]. */
struct mirror {
    double *data;
    bool half;
};

static double *stored(const struct mirror *m, int layer, int slot, int pos)
{
    return m->data + (((size_t)layer * SLOTS + (size_t)slot) * CTX + (size_t)pos) * 2 * STATE;
}

static void store(const struct mirror *m, int layer, struct rows rows, struct mat qkv)
{
    for (int r = 0; r < rows.n; r++) {
        for (int i = 0; i < 2 * STATE && rows.pos[r] >= 0; i++) {
            float x = at(qkv, r)[STATE + i];
            stored(m, layer, rows.slot[r], rows.pos[r])[i] = m->half ? test_half(x) : x;
        }
    }
}

static void check_row(const struct mirror *m, int layer, struct rows rows, int r, const float *qkv,
                      const float *out)
{
    double p[CTX], y[HEAD_SIZE], magnitude[HEAD_SIZE];
    const double *cache = stored(m, layer, rows.slot[r], 0);
    for (int h = 0; h < HEADS; h++) {
        double error =
            attention_reference(qkv + h * HEAD_SIZE, cache + h * HEAD_SIZE, cache + STATE + h * HEAD_SIZE,
                                rows.pos[r] + 1, 2 * STATE, p, y, magnitude);
        for (int d = 0; d < HEAD_SIZE; d++) {
            if (!(fabs(out[h * HEAD_SIZE + d] - y[d]) <= error * magnitude[d] + 1e-30))
                fail_msg("layer %d slot %d pos %d head %d: output %d is %.9g, not %.9g ± %.2g", layer,
                         rows.slot[r], rows.pos[r], h, d, out[h * HEAD_SIZE + d], y[d], error * magnitude[d]);
        }
    }
}

/* Up to ROWS rows of ascending slots: ascending positions from where a slot is, some slots with idle rows. */
static int draw_rows(struct test_rng *rng, struct rows *rows, int *length)
{
    int n = 0;
    for (int slot = 0; slot < SLOTS; slot++) {
        int want = test_rng_int(rng, 0, 3) ? test_rng_int(rng, 0, 3) : test_rng_int(rng, 0, 20);
        for (int i = 0; i < want && n < ROWS; i++, n++) {
            bool idle = length[slot] == CTX || test_rng_int(rng, 0, 9) == 0;
            rows->slot[n] = slot;
            rows->pos[n] = idle ? -1 : length[slot]++;
        }
    }
    return n;
}

/* Values that a softmax finds hard: all equal, all very negative, one far above the others. */
static void draw_qkv(struct test_rng *rng, struct mat qkv, int n)
{
    for (int r = 0; r < n; r++) {
        int kind = test_rng_int(rng, 0, 5);
        fill(rng, at(qkv, r), 3 * STATE, kind == 0 ? 8.0f : 1.0f);
        for (int i = 0; i < STATE; i++) {
            if (kind == 1)
                at(qkv, r)[i] = 0.0f;
            if (kind == 2) /* scores near −1000 with keys of 10 */
                at(qkv, r)[i] = -12.5f, at(qkv, r)[STATE + i] = 10.0f;
        }
    }
}

static void check_engine(struct engine *e, struct test_rng *rng, bool half)
{
    struct engine_kv *kv;
    struct err err;
    assert_int_equal(e->v->kv_create(e, LAYERS, SLOTS, CTX, HEADS, &kv, &err), 0);
    struct mirror m = {calloc((size_t)LAYERS * SLOTS * CTX * 2 * STATE, sizeof(double)), half};
    struct rows rows = take_rows(e, ROWS);
    struct mat qkv = take_mat(e, ROWS, 3 * STATE, 3 * STATE), out = take_mat(e, ROWS, STATE, STATE);
    int length[SLOTS] = {0, 0, 0, 440, 431};
    for (int step = 0; step < 14; step++) {
        int layer = step % LAYERS, start[SLOTS];
        memcpy(start, length, sizeof(start));
        struct rows now = rows;
        now.n = draw_rows(rng, &rows, length);
        if (layer + 1 < LAYERS) /* every layer gets the same positions in turn */
            memcpy(length, start, sizeof(start));
        draw_qkv(rng, qkv, now.n);
        e->v->self_attention(e, &(struct self_attention_args){now, kv, layer, NULL, qkv, out});
        wait_for(e);
        store(&m, layer, now, qkv);
        for (int r = 0; r < now.n; r++) {
            if (now.pos[r] >= 0)
                check_row(&m, layer, now, r, at(qkv, r), at(out, r));
        }
    }
    free(m.data);
    give_rows(e, rows);
    give_mat(e, qkv);
    give_mat(e, out);
    e->v->kv_destroy(e, kv);
}

static void test_against_double(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 4);
    for (int isa = 0; isa < N_ISAS; isa++) {
        for (int threads = 1; threads <= 4; threads++) {
            enum engine_precision precision = threads % 2 ? PRECISION_AUTO : PRECISION_F32;
            struct engine *e = open_engine(isa_names[isa], threads, precision);
            if (!e)
                continue;
            check_engine(e, &rng, test_keeps_half(isa_names[isa], precision));
            engine_close(e);
        }
    }
}

/* A draft fed at once gives the bits that its tokens give one by one. */
static void test_batch_invariance(void **state)
{
    for (int isa = 0; isa < N_ISAS; isa++) {
        struct engine *e = open_engine(isa_names[isa], 3, PRECISION_AUTO);
        if (!e)
            continue;
        struct test_rng rng;
        test_rng_init(&rng, 5);
        struct engine_kv *kv;
        struct err err;
        assert_int_equal(e->v->kv_create(e, 1, 2, CTX, HEADS, &kv, &err), 0);
        struct rows rows = take_rows(e, ROWS);
        struct mat qkv = take_mat(e, ROWS, 3 * STATE, 3 * STATE);
        struct mat batch = take_mat(e, ROWS, STATE, STATE), single = take_mat(e, ROWS, STATE, STATE);
        fill_mat(&rng, qkv, 1.0f);
        for (int r = 0; r < ROWS; r++)
            rows.pos[r] = r;
        e->v->self_attention(e, &(struct self_attention_args){rows, kv, 0, NULL, qkv, batch});
        wait_for(e);
        for (int r = 0; r < ROWS; r++) {
            rows.slot[r] = 1;
            struct rows one = {1, rows.token + r, rows.pos + r, rows.slot + r};
            e->v->self_attention(e, &(struct self_attention_args){one, kv, 0, NULL, mat_rows(qkv, r, 1),
                                                                  mat_rows(single, r, 1)});
            wait_for(e);
        }
        assert_memory_equal(batch.data, single.data, sizeof(float) * ROWS * STATE);
        give_rows(e, rows);
        give_mat(e, qkv);
        give_mat(e, batch);
        give_mat(e, single);
        e->v->kv_destroy(e, kv);
        engine_close(e);
    }
}

enum { BEAMS = 3, FIRST_BEAM = 1, OTHER = 4, PROMPT = 9, LONG = 75 };

/* Fills positions of the caches with values that depend on the row of `source` alone. */
static void feed(struct engine *e, struct engine_kv *kv, struct rows rows, int slot, int pos,
                 struct mat source, int source_row, struct mat out)
{
    rows.n = 1;
    rows.slot[0] = slot;
    rows.pos[0] = pos;
    e->v->self_attention(e, &(struct self_attention_args){rows, kv, 0, NULL, mat_rows(source, source_row, 1),
                                                          mat_rows(out, 0, 1)});
    wait_for(e);
}

/* Rows of a beam search, whose past lies here and there, get the bits that they get in a slot that has all of it; so do the
 * rows beside them: of a greedy slot, of another search's prompt, and idle. Slot 0 of `whole` has each past in turn. */
static void check_table(struct engine *e, struct test_rng *rng)
{
    struct engine_kv *kv, *whole;
    struct err err;
    assert_int_equal(e->v->kv_create(e, 1, SLOTS, CTX, HEADS, &kv, &err), 0);
    assert_int_equal(e->v->kv_create(e, 1, SLOTS, CTX, HEADS, &whole, &err), 0);
    struct slot_state *slots = take(e, SLOTS * sizeof(*slots));
    struct rows rows = take_rows(e, ROWS);
    struct mat past = take_mat(e, BEAMS * LONG, 3 * STATE, 3 * STATE),
               qkv = take_mat(e, ROWS, 3 * STATE, 3 * STATE);
    struct mat out = take_mat(e, ROWS, STATE, STATE), want = take_mat(e, ROWS, STATE, STATE);
    fill_mat(rng, past, 1.0f);
    fill_mat(rng, qkv, 1.0f);
    for (int beam = 0; beam < BEAMS; beam++) {
        slots[FIRST_BEAM + beam] =
            (struct slot_state){.n_beams = BEAMS, .first_slot = FIRST_BEAM, .n_prompt = PROMPT};
        for (int t = 0; t < LONG; t++) {
            int from = t < PROMPT ? 0 : t == LONG - 1 ? beam : test_rng_int(rng, 0, BEAMS - 1);
            slots[FIRST_BEAM + beam].kv_slot[t] = (uint8_t)(FIRST_BEAM + from);
            feed(e, kv, rows, FIRST_BEAM + beam, t, past, beam * LONG + t, out);
        }
    }
    for (int t = 0; t < LONG; t++) { /* slots whose tables mean nothing */
        feed(e, kv, rows, 0, t, past, t, out);
        feed(e, kv, rows, OTHER, t, past, t, out);
    }
    slots[OTHER] = (struct slot_state){.n_beams = 2, .first_slot = OTHER, .n_prompt = PROMPT};
    memset(slots[0].kv_slot, FIRST_BEAM + 1, LONG);
    memset(slots[OTHER].kv_slot, FIRST_BEAM + 1, LONG);
    for (int beam = 0; beam < BEAMS; beam++) {
        for (int t = 0; t < LONG - 1; t++)
            feed(e, whole, rows, 0, t, past, (slots[FIRST_BEAM + beam].kv_slot[t] - FIRST_BEAM) * LONG + t,
                 out);
        feed(e, whole, rows, 0, LONG - 1, qkv, 1 + beam, mat_rows(want, 1 + beam, 1));
    }
    for (int t = 0; t < LONG - 1; t++)
        feed(e, whole, rows, 0, t, past, t, out);
    feed(e, whole, rows, 0, LONG - 1, qkv, 0, want);
    feed(e, whole, rows, 0, PROMPT - 1, qkv, BEAMS + 1, mat_rows(want, BEAMS + 1, 1));
    memset(out.data, 0, sizeof(float) * STATE * ROWS);
    rows.n = BEAMS + 3;
    for (int r = 0; r < rows.n; r++) { /* greedy, the beams, the other's prompt, an idle one */
        rows.slot[r] = r <= BEAMS ? r : OTHER;
        rows.pos[r] = r <= BEAMS ? LONG - 1 : r == BEAMS + 1 ? PROMPT - 1 : -1;
    }
    e->v->self_attention(e, &(struct self_attention_args){rows, kv, 0, slots, qkv, out});
    wait_for(e);
    for (int r = 0; r < BEAMS + 2; r++)
        assert_memory_equal(at(out, r), at(want, r), sizeof(float) * STATE);
    give_rows(e, rows);
    struct mat mats[] = {past, qkv, out, want};
    for (int i = 0; i < 4; i++)
        give_mat(e, mats[i]);
    e->v->free(e, slots);
    e->v->kv_destroy(e, kv);
    e->v->kv_destroy(e, whole);
}

static void test_a_table_of_slots(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 6);
    for (int isa = 0; isa < N_ISAS; isa++) {
        struct engine *e = open_engine(isa_names[isa], 2, PRECISION_AUTO);
        if (!e)
            continue;
        check_table(e, &rng);
        engine_close(e);
    }
}

/* A recorded step, whose rows are the newest tokens of slots, gives the bits of the same rows by themselves, and leaves the same
 * cache: the next step sees it. */
static void check_step(struct engine *e, struct test_rng *rng)
{
    enum { STEPS = 4, ENDED = 3 };
    struct engine_kv *recorded, *plain;
    struct err err;
    assert_int_equal(e->v->kv_create(e, 1, SLOTS, CTX, HEADS, &recorded, &err), 0);
    assert_int_equal(e->v->kv_create(e, 1, SLOTS, CTX, HEADS, &plain, &err), 0);
    struct slot_state *slots = take(e, SLOTS * sizeof(*slots));
    struct rows rows = take_rows(e, SLOTS);
    struct mat qkv = take_mat(e, SLOTS, 3 * STATE, 3 * STATE + 4);
    struct mat out = take_mat(e, SLOTS, STATE, STATE), want = take_mat(e, SLOTS, STATE, STATE);
    for (int i = 0; i < SLOTS; i++) {
        bool beam = i == FIRST_BEAM || i == FIRST_BEAM + 1;
        rows.slot[i] = i;
        slots[i] = (struct slot_state){.n_tokens = beam     ? PROMPT + 2
                                                   : i == 0 ? 1
                                                            : 200,
                                       .n_prompt = beam ? PROMPT : 1,
                                       .n_beams = beam ? 2 : 0,
                                       .first_slot = beam ? FIRST_BEAM : i,
                                       .done = i == ENDED ? SLOT_DONE_EOT : SLOT_ACTIVE};
        for (int t = 0; t < CTX; t++)
            slots[i].kv_slot[t] = (uint8_t)(FIRST_BEAM + test_rng_int(rng, 0, 1));
    }
    e->v->graph_begin(e);
    e->v->rows_from_slots(e, &(struct rows_from_slots_args){.rows = rows, .slots = slots});
    e->v->self_attention(e, &(struct self_attention_args){rows, recorded, 0, slots, qkv, out});
    struct engine_graph *step = e->v->graph_end(e);
    wait_for(e);
    for (int i = 0; i < STEPS; i++) {
        for (int r = 0; r < SLOTS; r++)
            slots[r].kv_slot[slots[r].n_tokens - 1] = (uint8_t)r;
        fill_mat(rng, qkv, 1.0f);
        e->v->graph_launch(e, step, NULL, 1);
        wait_for(e);
        e->v->self_attention(e, &(struct self_attention_args){rows, plain, 0, slots, qkv, want});
        wait_for(e);
        for (int r = 0; r < SLOTS; r++) {
            assert_int_equal(rows.pos[r], r == ENDED ? -1 : slots[r].n_tokens - 1);
            assert_memory_equal(at(out, r), at(want, r), sizeof(float) * STATE);
            slots[r].n_tokens++;
        }
    }
    e->v->graph_destroy(e, step);
    give_rows(e, rows);
    give_mat(e, qkv);
    give_mat(e, out);
    give_mat(e, want);
    e->v->free(e, slots);
    e->v->kv_destroy(e, recorded);
    e->v->kv_destroy(e, plain);
}

static void test_a_recorded_step(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 7);
    for (int isa = 0; isa < N_ISAS; isa++) {
        struct engine *e = open_engine(isa_names[isa], 2, PRECISION_AUTO);
        if (!e)
            continue;
        check_step(e, &rng);
        engine_close(e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_a_table_of_slots),
        cmocka_unit_test(test_a_recorded_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
