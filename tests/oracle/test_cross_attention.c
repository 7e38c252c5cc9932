/* kv_store and cross_attention against double precision, and the rows of the alignment heads. */
#include "tests/oracle/rows.h"

#include "tests/oracle/attention_reference.h"

enum { LAYERS = 2, AUDIO = 3, CTX = 1500, HEADS = 4, STATE = HEADS * HEAD_SIZE, SLOTS = 6, ROWS = 40 };
enum {
    ALIGN_HEADS = 0xb,
    ALIGN_FIRST = 1,
    N_ALIGN = 5
}; /* heads 0, 1 and 3 are the second to fourth of five */

struct world {
    struct engine *e;
    struct engine_kv *kv;
    bool half;
    double *stored; /* [LAYERS][AUDIO][CTX][K, V of all heads], as the cache rounds them */
    struct slot_state *slots;
    float *align;
};

static double *stored(const struct world *w, int layer, int audio)
{
    return w->stored + ((size_t)layer * AUDIO + (size_t)audio) * CTX * 2 * STATE;
}

/* Fills a slot from f32 or from the engine's wide type; the last rows are left away where it is shorter. */
static void encode(struct world *w, struct test_rng *rng, int layer, int audio, int n_ctx, bool wide)
{
    enum { STRIDE = 2 * STATE };
    struct mat f32 = take_mat(w->e, n_ctx, STRIDE, STRIDE);
    uint16_t *bf16 = take(w->e, (size_t)n_ctx * STRIDE * sizeof(uint16_t));
    fill_mat(rng, f32, 1.0f);
    struct mat in = f32;
    for (size_t i = 0; i < (size_t)n_ctx * STRIDE; i++) {
        float *x = (float *)f32.data + i;
        if (wide && w->e->wide_type == DTYPE_BF16) {
            uint32_t bits;
            memcpy(&bits, x, sizeof(bits));
            bf16[i] = (uint16_t)(bits >> 16);
            bits &= 0xffff0000u;
            memcpy(x, &bits, sizeof(bits));
            in = mat_view(bf16, DTYPE_BF16, n_ctx, STRIDE, STRIDE);
        }
        stored(w, layer, audio)[i] = w->half ? test_half(*x) : *x;
    }
    w->e->v->kv_store(w->e, &(struct kv_store_args){w->kv, layer, audio, in});
    wait_for(w->e);
    give_mat(w->e, f32);
    w->e->v->free(w->e, bf16);
}

static struct world make_world(const char *isa, int threads, enum engine_precision precision,
                               struct test_rng *rng)
{
    struct world w = {.e = open_engine(isa, threads, precision)};
    if (!w.e)
        return w;
    struct err err;
    assert_int_equal(w.e->v->kv_create(w.e, LAYERS, AUDIO, CTX, HEADS, &w.kv, &err), 0);
    w.half = test_keeps_half(isa, precision);
    w.stored = calloc((size_t)LAYERS * AUDIO * CTX * 2 * STATE, sizeof(double));
    w.slots = take(w.e, SLOTS * sizeof(*w.slots));
    w.align = take(w.e, sizeof(float) * SLOTS * RUN_TOKENS_MAX * N_ALIGN * RUN_AUDIO_FRAMES);
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int audio = 0; audio < AUDIO; audio++)
            encode(&w, rng, layer, audio, audio == 2 ? 777 : CTX, audio == 1);
    }
    /* Slots 1 and 2 read the same window and differ in how much of it is valid. */
    static const int audio[SLOTS] = {0, 1, 1, 1, 2, 2}, frames[SLOTS] = {1500, 1500, 1500, 1, 777, 17};
    for (int i = 0; i < SLOTS; i++) {
        w.slots[i].audio = audio[i];
        w.slots[i].n_frames = frames[i];
    }
    return w;
}

static void drop_world(struct world *w)
{
    free(w->stored);
    w->e->v->free(w->e, w->slots);
    w->e->v->free(w->e, w->align);
    w->e->v->kv_destroy(w->e, w->kv);
    engine_close(w->e);
}

static void attend(struct world *w, int layer, struct rows rows, struct mat q, struct mat out)
{
    w->e->v->cross_attention(w->e, &(struct cross_attention_args){.rows = rows,
                                                                  .kv = w->kv,
                                                                  .layer = layer,
                                                                  .slots = w->slots,
                                                                  .q = q,
                                                                  .out = out,
                                                                  .align_heads = ALIGN_HEADS,
                                                                  .align_first = ALIGN_FIRST,
                                                                  .n_align = N_ALIGN,
                                                                  .align = w->align});
    wait_for(w->e);
}

static void check_row(const struct world *w, int layer, int slot, int pos, const float *q, const float *out)
{
    double p[CTX], y[HEAD_SIZE], magnitude[HEAD_SIZE];
    const struct slot_state *s = &w->slots[slot];
    const double *cache = stored(w, layer, s->audio);
    static const int align_index[HEADS] = {0, 1, -1, 2};
    for (int h = 0; h < HEADS; h++) {
        double error =
            attention_reference(q + h * HEAD_SIZE, cache + h * HEAD_SIZE, cache + STATE + h * HEAD_SIZE,
                                s->n_frames, 2 * STATE, p, y, magnitude);
        for (int d = 0; d < HEAD_SIZE; d++) {
            if (!(fabs(out[h * HEAD_SIZE + d] - y[d]) <= error * magnitude[d] + 1e-30))
                fail_msg("layer %d slot %d head %d: output %d is %.9g, not %.9g ± %.2g", layer, slot, h, d,
                         out[h * HEAD_SIZE + d], y[d], error * magnitude[d]);
        }
        const float *row =
            w->align +
            (((size_t)slot * RUN_TOKENS_MAX + (size_t)pos) * N_ALIGN + ALIGN_FIRST) * RUN_AUDIO_FRAMES;
        for (int t = 0; t < s->n_frames && align_index[h] >= 0; t++) {
            double x = row[align_index[h] * RUN_AUDIO_FRAMES + t];
            if (!(fabs(x - p[t]) <= error * p[t] + 1e-37))
                fail_msg("alignment of slot %d pos %d head %d frame %d is %.9g, not %.9g", slot, pos, h, t, x,
                         p[t]);
        }
    }
    /* Other alignment heads' rows are other layers' business. */
    const float *rows = w->align + ((size_t)slot * RUN_TOKENS_MAX + (size_t)pos) * N_ALIGN * RUN_AUDIO_FRAMES;
    for (int t = 0; t < RUN_AUDIO_FRAMES; t++)
        assert_true(rows[t] == 0.0f && rows[(size_t)(N_ALIGN - 1) * RUN_AUDIO_FRAMES + (size_t)t] == 0.0f);
}

/* Rows of ascending slots, up to `most` of each, some idle. */
static int draw_rows(struct test_rng *rng, struct rows *rows, int most)
{
    int n = 0;
    for (int slot = 0; slot < SLOTS; slot++) {
        int want = test_rng_int(rng, 0, most), pos = test_rng_int(rng, 0, 1) ? 0 : 448 - want;
        for (int i = 0; i < want && n < ROWS; i++, n++) {
            rows->slot[n] = slot;
            rows->pos[n] = test_rng_int(rng, 0, 6) ? pos + i : -1;
        }
    }
    return n;
}

static void check_world(struct world *w, struct test_rng *rng)
{
    struct rows rows = take_rows(w->e, ROWS);
    struct mat q = take_mat(w->e, ROWS, STATE, STATE), out = take_mat(w->e, ROWS, STATE, STATE);
    for (int step = 0; step < 3; step++) {
        struct rows now = rows;
        now.n = draw_rows(rng, &rows, step ? 3 : 12);
        fill_mat(rng, q, step == 2 ? 8.0f : 1.0f); /* the last one is sharp */
        attend(w, step % LAYERS, now, q, out);
        for (int r = 0; r < now.n; r++) {
            if (now.pos[r] >= 0)
                check_row(w, step % LAYERS, now.slot[r], now.pos[r], at(q, r), at(out, r));
        }
    }
    give_rows(w->e, rows);
    give_mat(w->e, q);
    give_mat(w->e, out);
}

static void test_against_double(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 6);
    for (int isa = 0; isa < N_ISAS; isa++) {
        for (int precision = PRECISION_AUTO; precision <= PRECISION_F32; precision++) {
            struct world w = make_world(isa_names[isa], 1 + (isa + 2 * precision) % 4, precision, &rng);
            if (!w.e)
                continue;
            check_world(&w, &rng);
            drop_world(&w);
        }
    }
}

static void test_batch_invariance(void **state)
{
    for (int isa = 0; isa < N_ISAS; isa++) {
        struct test_rng rng;
        test_rng_init(&rng, 7);
        struct world w = make_world(isa_names[isa], 1 + isa % 4, PRECISION_AUTO, &rng);
        if (!w.e)
            continue;
        struct rows rows = take_rows(w.e, ROWS);
        struct mat q = take_mat(w.e, ROWS, STATE, STATE), batch = take_mat(w.e, ROWS, STATE, STATE);
        struct mat single = take_mat(w.e, ROWS, STATE, STATE);
        fill_mat(&rng, q, 1.0f);
        for (int r = 0; r < ROWS; r++) {
            rows.slot[r] = r / 17;
            rows.pos[r] = r % 17;
        }
        attend(&w, 0, rows, q, batch);
        for (int r = 0; r < ROWS; r++) {
            struct rows one = {1, rows.token + r, rows.pos + r, rows.slot + r};
            attend(&w, 0, one, mat_rows(q, r, 1), mat_rows(single, r, 1));
        }
        assert_memory_equal(batch.data, single.data, sizeof(float) * ROWS * STATE);
        give_rows(w.e, rows);
        give_mat(w.e, q);
        give_mat(w.e, batch);
        give_mat(w.e, single);
        drop_world(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_batch_invariance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
