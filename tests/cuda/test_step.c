/* A step in one kernel against the same step as a graph of kernels: tokens, probabilities, caches and alignment must have the
 * same bits, for any number of rows, on any number of multiprocessors, in any order of blocks.
 * tests/run: 120 s */
#include "tests/oracle/rows.h"

#include <errno.h>

void harness_seed(unsigned);
void harness_cooperative(bool has, int multiprocessors);
void harness_fail(const char *call, int after, int error);
bool harness_has_failed(void);

enum {
    HEADS = 2,
    STATE = 64 * HEADS,
    LAYERS = 2,
    FRAMES = 300,
    CTX = 12,
    VOCAB = 203,
    STAMPS = 150,
    SLOTS = 8
};
enum { TOO_LARGE = 720, NOT_READY = 600 };

struct layer {
    float *gamma[3], *beta[3]; /* before qkv, query and fc1 */
    float *bias[6];
    struct engine_weight *weight[6]; /* qkv, out, query, cross_out, fc1, fc2 */
};

static const int outs[6] = {3 * STATE, STATE, STATE, STATE, 4 * STATE, STATE};
static const int ins[6] = {STATE, STATE, STATE, STATE, STATE, 4 * STATE};

/* A decoder that is made of operations alone. */
struct world {
    struct engine *e;
    struct layer layers[LAYERS];
    float *gamma, *beta, *positions;
    struct engine_weight *tokens;
    struct engine_kv *self, *cross;
    struct slot_state *slots;
    uint32_t *masks;
    int32_t *n_active, *chosen;
    float *logprob, *align;
    struct rows rows;
    struct mat x, qkv, attention, query, hidden, logits;
};

static float *take_random(struct engine *e, struct test_rng *rng, int n, float scale, float offset)
{
    float *x = take(e, (size_t)n * sizeof(float));
    fill(rng, x, (size_t)n, scale);
    for (int i = 0; i < n; i++)
        x[i] += offset;
    return x;
}

static struct engine_weight *take_weight(struct engine *e, struct test_rng *rng, int n_out, int n_in,
                                         float scale)
{
    float *values = malloc((size_t)n_out * (size_t)n_in * sizeof(float));
    struct engine_weight *w = NULL;
    struct err err = {0};
    fill(rng, values, (size_t)n_out * (size_t)n_in, scale / sqrtf((float)n_in));
    if (e->v->weight_create(e, WEIGHT_ROWS, n_out, n_in, values, &w, &err) < 0)
        fail_msg("%s", err.msg);
    free(values);
    return w;
}

static void make_layer(struct engine *e, struct test_rng *rng, struct layer *l)
{
    for (int i = 0; i < 3; i++) {
        l->gamma[i] = take_random(e, rng, STATE, 0.2f, 1.0f);
        l->beta[i] = take_random(e, rng, STATE, 0.2f, 0.0f);
    }
    for (int i = 0; i < 6; i++) {
        l->bias[i] = take_random(e, rng, outs[i], 0.2f, 0.0f);
        l->weight[i] = take_weight(e, rng, outs[i], ins[i], 1.0f);
    }
}

/* A window of random keys and values for each slot. */
static void fill_windows(struct world *w, struct test_rng *rng)
{
    struct mat k_v = take_mat(w->e, FRAMES, 2 * STATE, 2 * STATE);
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int slot = 0; slot < SLOTS; slot++) {
            fill_mat(rng, k_v, 1.0f);
            w->e->v->kv_store(w->e, &(struct kv_store_args){w->cross, layer, slot, k_v});
            wait_for(w->e);
        }
    }
    give_mat(w->e, k_v);
}

static struct world make_world(unsigned seed)
{
    struct world w = {.e = open_engine("cuda", (int)seed, PRECISION_AUTO)};
    struct engine *e = w.e;
    struct test_rng rng;
    struct err err = {0};
    test_rng_init(&rng, 77);
    assert_non_null(e);
    for (int i = 0; i < LAYERS; i++)
        make_layer(e, &rng, &w.layers[i]);
    w.gamma = take_random(e, &rng, STATE, 0.2f, 1.0f);
    w.beta = take_random(e, &rng, STATE, 0.2f, 0.0f);
    w.positions = take_random(e, &rng, CTX * STATE, 1.0f, 0.0f);
    w.tokens = take_weight(e, &rng, VOCAB, STATE, 8.0f);
    assert_int_equal(e->v->kv_create(e, LAYERS, SLOTS, CTX, HEADS, &w.self, &err), 0);
    assert_int_equal(e->v->kv_create(e, LAYERS, SLOTS, FRAMES, HEADS, &w.cross, &err), 0);
    w.slots = take(e, SLOTS * sizeof(*w.slots));
    w.masks = take(e, RUN_TOKEN_MASKS * ((VOCAB + 31) / 32) * sizeof(uint32_t));
    w.masks[2] = 0x10f0; /* some tokens of the first mask */
    w.n_active = take(e, sizeof(int32_t));
    w.chosen = take(e, SLOTS * sizeof(int32_t));
    w.logprob = take(e, SLOTS * sizeof(float));
    w.align = take(e, (size_t)SLOTS * RUN_TOKENS_MAX * LAYERS * RUN_AUDIO_FRAMES * sizeof(float));
    w.rows = take_rows(e, SLOTS);
    w.x = take_mat(e, SLOTS, STATE, STATE);
    w.qkv = take_mat(e, SLOTS, 3 * STATE, 3 * STATE);
    w.attention = take_mat(e, SLOTS, STATE, STATE);
    w.query = take_mat(e, SLOTS, STATE, STATE);
    w.hidden = take_mat(e, SLOTS, 4 * STATE, 4 * STATE);
    w.logits = take_mat(e, SLOTS, VOCAB, VOCAB);
    fill_windows(&w, &rng);
    return w;
}

static void drop_world(struct world *w)
{
    struct engine *e = w->e;
    for (int i = 0; i < LAYERS; i++) {
        for (int k = 0; k < 6; k++) {
            e->v->weight_destroy(e, w->layers[i].weight[k]);
            e->v->free(e, w->layers[i].bias[k]);
        }
        for (int k = 0; k < 3; k++) {
            e->v->free(e, w->layers[i].gamma[k]);
            e->v->free(e, w->layers[i].beta[k]);
        }
    }
    e->v->weight_destroy(e, w->tokens);
    e->v->kv_destroy(e, w->self);
    e->v->kv_destroy(e, w->cross);
    void *const memory[] = {w->gamma,    w->beta,       w->positions,      w->slots,       w->masks,
                            w->n_active, w->chosen,     w->logprob,        w->align,       w->x.data,
                            w->qkv.data, w->query.data, w->attention.data, w->hidden.data, w->logits.data};
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++)
        e->v->free(e, memory[i]);
    give_rows(e, w->rows);
    engine_close(e);
}

/* --- a step ----------------------------------------------------------------------------------------------------------- */

static void linear(struct world *w, struct rows rows, int layer, int index, int norm, struct mat in,
                   struct mat add, struct mat out)
{
    const struct layer *l = &w->layers[layer];
    w->e->v->linear_rows(w->e, &(struct linear_rows_args){.rows = rows,
                                                          .in = in,
                                                          .gamma = norm < 0 ? NULL : l->gamma[norm],
                                                          .beta = norm < 0 ? NULL : l->beta[norm],
                                                          .weight = l->weight[index],
                                                          .bias = index == 1 ? NULL : l->bias[index],
                                                          .gelu = index == 4,
                                                          .add = add,
                                                          .out = out});
}

static void submit_layer(struct world *w, struct rows rows, int i)
{
    const struct mat none = {0};
    linear(w, rows, i, 0, 0, w->x, none, w->qkv);
    w->e->v->self_attention(w->e,
                            &(struct self_attention_args){
                                .rows = rows, .kv = w->self, .layer = i, .qkv = w->qkv, .out = w->attention});
    linear(w, rows, i, 1, -1, w->attention, w->x, w->x);
    linear(w, rows, i, 2, 1, w->x, none, w->query);
    w->e->v->cross_attention(w->e, &(struct cross_attention_args){.rows = rows,
                                                                  .kv = w->cross,
                                                                  .layer = i,
                                                                  .slots = w->slots,
                                                                  .q = w->query,
                                                                  .out = w->attention,
                                                                  .align_heads = 1u << i,
                                                                  .align_first = i,
                                                                  .n_align = LAYERS,
                                                                  .align = w->align});
    linear(w, rows, i, 3, -1, w->attention, w->x, w->x);
    linear(w, rows, i, 4, 2, w->x, none, w->hidden);
    linear(w, rows, i, 5, -1, w->hidden, w->x, w->x);
}

static struct engine_graph *record(struct world *w, int n)
{
    struct rows rows = w->rows;
    const struct engine_vtable *v = w->e->v;
    rows.n = n;
    v->graph_begin(w->e);
    v->rows_from_slots(w->e, &(struct rows_from_slots_args){rows, w->slots});
    v->embed(w->e, &(struct embed_args){rows, w->tokens, w->positions, w->x});
    for (int i = 0; i < LAYERS; i++)
        submit_layer(w, rows, i);
    v->linear_rows(w->e, &(struct linear_rows_args){.rows = rows,
                                                    .in = w->x,
                                                    .gamma = w->gamma,
                                                    .beta = w->beta,
                                                    .weight = w->tokens,
                                                    .out = w->logits});
    v->select(w->e, &(struct select_args){rows, w->slots, w->masks, (VOCAB + 31) / 32, w->logits, w->chosen,
                                          w->logprob});
    v->advance(w->e, &(struct advance_args){rows, w->slots, w->chosen, w->logprob, w->n_active});
    struct engine_graph *g = v->graph_end(w->e);
    assert_non_null(g);
    wait_for(w->e);
    return g;
}

/* Slots of all sorts: one samples, one has timestamps, one ends early, one is probed, one has a short window. */
static void set_slots(struct world *w, int n)
{
    for (int r = 0; r < n; r++) {
        int slot = (r * 3 + 1) % SLOTS;
        w->rows.slot[r] = slot;
        w->slots[slot] = (struct slot_state){.audio = (slot + 2) % SLOTS,
                                             .n_frames = slot % 3 == 1 ? FRAMES : 100 + 40 * slot,
                                             .n_ctx = CTX,
                                             .n_prompt = 1,
                                             .n_tokens = 1,
                                             .sample_begin = 1,
                                             .max_tokens = r == 1 ? 2 : CTX,
                                             .probe_token = slot == 4 ? 17 : -1,
                                             .rules = {.eot = STAMPS - 1,
                                                       .timestamp_begin = STAMPS,
                                                       .no_timestamps = STAMPS - 2,
                                                       .timestamps = slot == 7 || slot == 1,
                                                       .max_initial_timestamp = -1,
                                                       .mask = slot % 2 - 1,
                                                       .first_mask = 0,
                                                       .temperature = slot == 2 ? 0.9f : 0.0f,
                                                       .seed = 5}};
        w->slots[slot].tokens[0] = 3 + slot;
    }
    *w->n_active = n;
}

struct outcome {
    struct slot_state slots[SLOTS];
    int32_t n_active;
    float align[SLOTS][CTX][LAYERS][FRAMES];
    float logits[SLOTS][VOCAB];
};

/* Steps in two launches, so that one begins where another one ended. */
static void run(unsigned seed, bool cooperative, int multiprocessors, int n, struct outcome *o)
{
    harness_cooperative(cooperative, multiprocessors);
    struct world w = make_world(seed);
    struct engine_graph *g = record(&w, n);
    set_slots(&w, n);
    memset(o, 0, sizeof(*o));
    w.e->v->graph_launch(w.e, g, w.n_active, 3);
    wait_for(w.e);
    assert_int_equal(w.slots[1].n_tokens, 4); /* bounded */
    w.e->v->graph_launch(w.e, g, w.n_active, 1000);
    wait_for(w.e);
    memcpy(o->slots, w.slots, sizeof(o->slots));
    o->n_active = *w.n_active;
    for (int r = 0; r < n; r++) {
        int slot = w.rows.slot[r];
        memcpy(o->logits[r], at(w.logits, r), sizeof(o->logits[r]));
        for (int pos = 0; pos < w.slots[slot].n_tokens - 1; pos++) {
            for (int i = 0; i < LAYERS; i++)
                memcpy(o->align[slot][pos][i],
                       w.align + (((size_t)slot * RUN_TOKENS_MAX + (size_t)pos) * LAYERS + (size_t)i) *
                                     RUN_AUDIO_FRAMES,
                       (size_t)w.slots[slot].n_frames * sizeof(float));
        }
    }
    w.e->v->graph_destroy(w.e, g);
    drop_world(&w);
    harness_cooperative(true, 4);
}

static void compare(int n, const struct outcome *a, const struct outcome *b)
{
    assert_int_equal(a->n_active, 0);
    assert_int_equal(b->n_active, 0);
    for (int slot = 0; slot < SLOTS; slot++) {
        const struct slot_state *s = &a->slots[slot], *t = &b->slots[slot];
        if (s->n_tokens != t->n_tokens || s->tokens[1] != t->tokens[1])
            fail_msg("%d rows: slot %d: %d and %d tokens, the second is %d and %d", n, slot, s->n_tokens,
                     t->n_tokens, s->tokens[1], t->tokens[1]);
        assert_memory_equal(s->tokens, t->tokens, sizeof(s->tokens));
        assert_memory_equal(s->logprobs, t->logprobs, sizeof(s->logprobs));
        assert_int_equal(s->done, t->done);
        assert_int_equal(s->n_steps, t->n_steps);
        assert_true(s->probe_prob == t->probe_prob);
    }
    assert_memory_equal(a->align, b->align, sizeof(a->align));
    assert_memory_equal(a->logits, b->logits, sizeof(a->logits));
}

static void test_same_bits(void **state)
{
    static const struct {
        int rows, multiprocessors;
        unsigned seed;
    } cases[] = {
        {1, 4, 1}, {1, 3, 2}, {2, 1, 2}, {3, 4, 2}, {5, 3, 1}, {8, 2, 2},
    };
    struct outcome *one = malloc(sizeof(*one)), *many = malloc(sizeof(*many));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        run(1, false, 4, cases[i].rows, many);
        run(cases[i].seed, true, cases[i].multiprocessors, cases[i].rows, one);
        compare(cases[i].rows, many, one);
    }
    free(one);
    free(many);
}

/* That it is launched at all; and the graph where somebody else has a part of the GPU, or an error where it is broken. */
static void test_refused(void **state)
{
    struct outcome *graph = malloc(sizeof(*graph)), *refused = malloc(sizeof(*refused));
    struct err err = {0};
    run(1, false, 4, 2, graph);
    harness_fail("cudaLaunchCooperativeKernel", 0, TOO_LARGE);
    run(1, true, 4, 2, refused);
    assert_true(harness_has_failed());
    compare(2, graph, refused);
    struct world w = make_world(1);
    struct engine_graph *g = record(&w, 1);
    set_slots(&w, 1);
    harness_fail("cudaLaunchCooperativeKernel", 0, NOT_READY);
    w.e->v->graph_launch(w.e, g, w.n_active, 3);
    assert_int_equal(w.e->v->wait(w.e, &err), -EIO);
    w.e->v->graph_launch(w.e, g, w.n_active, 3);
    wait_for(w.e);
    w.e->v->graph_destroy(w.e, g);
    drop_world(&w);
    free(graph);
    free(refused);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
