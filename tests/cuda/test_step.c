/* A step in one kernel against the same step as a graph of kernels: tokens, probabilities, caches and alignment must have the
 * same bits, for any number of rows, on any number of multiprocessors, in any order of blocks.
 * tests/run: 120 s */
#include "tests/oracle/rows.h"

#include <errno.h>

void harness_seed(unsigned);
void harness_cooperative(bool has, int multiprocessors);
void harness_shared_bytes(size_t of_a_block);
void harness_fail(const char *call, int after, int error);
bool harness_has_failed(void);
bool harness_ptx(int version); /* that kernels were compiled for; false where that cannot be chosen */
void __tsan_acquire(void *) __attribute__((weak)); /* under ThreadSanitizer: races in the step kernel */

enum {
    HEAD = 64,
    LAYERS = 2,
    FRAMES = 300,
    CTX = 140,
    STEPS = 6, /* of a slot, at most */
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

/* Of each layer's weights, in widths of the model. */
static const int outs[6] = {3, 1, 1, 1, 4, 1}, ins[6] = {1, 1, 1, 1, 1, 4};

/* A decoder that is made of operations alone. */
struct world {
    struct engine *e;
    int heads, width;
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
    const float most =
        scale * sqrtf(3.0f / (float)n_in); /* evenly, which is quicker than by the bell curve */
    for (size_t i = 0; i < (size_t)n_out * (size_t)n_in; i++)
        values[i] = most * (2.0f * test_rng_uniform(rng) - 1.0f);
    if (e->v->weight_create(e, WEIGHT_ROWS, n_out, n_in, values, &w, &err) < 0)
        fail_msg("%s", err.msg);
    free(values);
    return w;
}

static void make_layer(struct engine *e, struct test_rng *rng, int width, float out_scale, struct layer *l)
{
    for (int i = 0; i < 3; i++) {
        l->gamma[i] = take_random(e, rng, width, 0.2f, 1.0f);
        l->beta[i] = take_random(e, rng, width, 0.2f, 0.0f);
    }
    for (int i = 0; i < 6; i++) {
        l->bias[i] = take_random(e, rng, outs[i] * width, 0.2f, 0.0f);
        l->weight[i] = take_weight(e, rng, outs[i] * width, ins[i] * width, i == 1 ? out_scale : 1.0f);
    }
}

/* Row r of a step has the slot and the sound: */
static int slot_of(int r)
{
    return (r * 3 + 1) % SLOTS;
}

static int audio_of(int r)
{
    return (slot_of(r) + 2) % SLOTS;
}

/* Random keys and values for each row's slot. The others stay without any number. */
static void fill_cache(struct world *w, struct test_rng *rng, struct engine_kv *kv, int n_ctx, int rows,
                       int (*slot)(int r))
{
    struct mat k_v = take_mat(w->e, n_ctx, 2 * w->width, 2 * w->width);
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int r = 0; r < rows; r++) {
            fill_mat(rng, k_v, 1.0f);
            w->e->v->kv_store(w->e, &(struct kv_store_args){kv, layer, slot(r), k_v});
            wait_for(w->e);
        }
    }
    give_mat(w->e, k_v);
}

/* out_scale: of the product with self-attention. */
static struct world make_world(bool bytes, int heads, int rows, float out_scale)
{
    struct world w = {.e = (bytes ? open_engine_of_bytes : open_engine)("cuda", 1, PRECISION_AUTO),
                      .heads = heads,
                      .width = HEAD * heads};
    struct engine *e = w.e;
    int width = w.width;
    struct test_rng rng;
    struct err err = {0};
    test_rng_init(&rng, 77);
    assert_non_null(e);
    for (int i = 0; i < LAYERS; i++)
        make_layer(e, &rng, width, out_scale, &w.layers[i]);
    w.gamma = take_random(e, &rng, width, 0.2f, 1.0f);
    w.beta = take_random(e, &rng, width, 0.2f, 0.0f);
    w.positions = take_random(e, &rng, CTX * width, 1.0f, 0.0f);
    w.tokens = take_weight(e, &rng, VOCAB, width, 8.0f);
    assert_int_equal(e->v->kv_create(e, LAYERS, SLOTS, CTX, heads, &w.self, &err), 0);
    assert_int_equal(e->v->kv_create(e, LAYERS, SLOTS, FRAMES, heads, &w.cross, &err), 0);
    w.slots = take(e, SLOTS * sizeof(*w.slots));
    w.masks = take(e, RUN_TOKEN_MASKS * ((VOCAB + 31) / 32) * sizeof(uint32_t));
    w.masks[2] = 0x10f0; /* some tokens of the first mask */
    w.n_active = take(e, sizeof(int32_t));
    w.chosen = take(e, SLOTS * sizeof(int32_t));
    w.logprob = take(e, SLOTS * sizeof(float));
    w.align = take(e, (size_t)SLOTS * RUN_TOKENS_MAX * LAYERS * RUN_AUDIO_FRAMES * sizeof(float));
    w.rows = take_rows(e, SLOTS);
    w.x = take_mat(e, SLOTS, width, width);
    w.qkv = take_mat(e, SLOTS, 3 * width, 3 * width);
    w.attention = take_mat(e, SLOTS, width, width);
    w.query = take_mat(e, SLOTS, width, width);
    w.hidden = take_mat(e, SLOTS, 4 * width, 4 * width);
    w.logits = take_mat(e, SLOTS, VOCAB, VOCAB);
    fill_cache(&w, &rng, w.cross, FRAMES, rows, audio_of);
    fill_cache(&w, &rng, w.self, CTX, rows, slot_of);
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

/* Slots of all sorts, with some tokens: one samples, one has timestamps, one ends early, one is probed, one has a short
 * window. */
static void set_slots(struct world *w, int n, int n_tokens, int n_steps)
{
    for (int r = 0; r < n; r++) {
        int slot = slot_of(r);
        w->rows.slot[r] = slot;
        w->slots[slot] = (struct slot_state){.audio = audio_of(r),
                                             .n_frames = slot % 3 == 1 ? FRAMES : 100 + 40 * slot,
                                             .n_ctx = CTX,
                                             .n_prompt = n_tokens,
                                             .n_tokens = n_tokens,
                                             .sample_begin = n_tokens,
                                             .max_tokens = r == 1 ? 2 : n_steps,
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
        for (int i = 0; i < n_tokens; i++)
            w->slots[slot].tokens[i] = (3 + slot + 7 * i) % STAMPS;
    }
    *w->n_active = n;
}

struct outcome {
    struct slot_state slots[SLOTS];
    int32_t n_active;
    float align[SLOTS][STEPS][LAYERS][FRAMES];
    float logits[SLOTS][VOCAB];
    const char *repeat;
};

/* What is run, and where: with a bias of the first layer's product `flaw` that nothing can be added to, −1: none. */
struct setting {
    int rows, multiprocessors;
    unsigned seed;
    int n_tokens;
    size_t shared_bytes;
    int flaw;
    bool bytes; /* weights of 8 bits */
    int heads;
};

/* A wide model's take long, and those in which each access is looked at. */
static int steps_of(struct setting s)
{
    return s.heads > 2 || __tsan_acquire ? 2 : STEPS;
}

enum { SMALL = 99 << 10, MIDDLE = 120 << 10, LARGE = 227 << 10 }; /* shared memory of a block */

/* Steps in two launches, so that one begins where another one ended. */
static void run(struct setting setting, bool cooperative, struct outcome *o)
{
    int n = setting.rows, n_tokens = setting.n_tokens, n_steps = steps_of(setting);
    harness_cooperative(cooperative, setting.multiprocessors);
    harness_shared_bytes(setting.shared_bytes);
    struct world w = make_world(setting.bytes, setting.heads, n,
                                setting.flaw == 0 ? 16.0f : 1.0f); /* a cache ends at 65,504 */
    harness_seed(setting.seed ? (unsigned)test_seed() + setting.seed : 0);
    for (int i = 0; setting.flaw >= 0 && i < outs[setting.flaw] * w.width; i++)
        w.layers[0].bias[setting.flaw][i] = 1e9f;
    struct engine_graph *g = record(&w, n);
    set_slots(&w, n, n_tokens, n_steps);
    memset(o, 0, sizeof(*o));
    w.e->v->graph_launch(w.e, g, w.n_active, n_steps / 2);
    wait_for(w.e);
    if (setting.flaw < 0)
        assert_int_equal(w.slots[1].n_tokens, n_tokens + n_steps / 2); /* bounded */
    w.e->v->graph_launch(w.e, g, w.n_active, n_steps);
    wait_for(w.e);
    memcpy(o->slots, w.slots, sizeof(o->slots));
    o->n_active = *w.n_active;
    o->repeat = w.e->repeat;
    for (int r = 0; r < n; r++) {
        int slot = w.rows.slot[r];
        memcpy(o->logits[r], at(w.logits, r), sizeof(o->logits[r]));
        for (int pos = n_tokens - 1; pos < w.slots[slot].n_tokens - 1; pos++) {
            for (int i = 0; i < LAYERS; i++)
                memcpy(o->align[slot][pos - n_tokens + 1][i],
                       w.align + (((size_t)slot * RUN_TOKENS_MAX + (size_t)pos) * LAYERS + (size_t)i) *
                                     RUN_AUDIO_FRAMES,
                       (size_t)w.slots[slot].n_frames * sizeof(float));
        }
    }
    w.e->v->graph_destroy(w.e, g);
    drop_world(&w);
    harness_cooperative(true, 4);
    harness_shared_bytes(SMALL);
}

static void compare(int n, const struct outcome *a, const struct outcome *b)
{
    assert_int_equal(a->n_active, 0);
    assert_int_equal(b->n_active, 0);
    for (int slot = 0; slot < SLOTS; slot++) {
        const struct slot_state *s = &a->slots[slot], *t = &b->slots[slot];
        if (s->n_tokens != t->n_tokens)
            fail_msg("%d rows: slot %d: %d and %d tokens", n, slot, s->n_tokens, t->n_tokens);
        assert_memory_equal(s->tokens, t->tokens, sizeof(s->tokens));
        assert_memory_equal(s->logprobs, t->logprobs, sizeof(s->logprobs));
        assert_int_equal(s->done, t->done);
        assert_int_equal(s->n_steps, t->n_steps);
        assert_true(s->probe_prob == t->probe_prob);
    }
    assert_memory_equal(a->align, b->align, sizeof(a->align));
    assert_memory_equal(a->logits, b->logits, sizeof(a->logits));
}

/* Fewer blocks than there is to do for them, and more; the past beside its block, and longer than has room there. */
static void test_same_bits(void **state)
{
    static const struct setting settings[] = {
        {1, 4, 0, 1, SMALL, -1, false, 2},    {2, 3, 5, 61, LARGE, -1, false, 2},
        {5, 3, 6, 1, SMALL, -1, false, 2}, /* these are looked at for races */
        {1, 3, 1, 125, LARGE, -1, false, 2},  {1, 18, 2, 1, LARGE, -1, false, 1},
        {1, 1, 3, 125, MIDDLE, -1, false, 2}, {2, 1, 4, 61, LARGE, -1, false, 2},
        {2, 13, 7, 1, MIDDLE, -1, false, 2},  {3, 4, 0, 1, LARGE, -1, false, 2},
        {4, 7, 8, 30, SMALL, -1, false, 2},   {7, 9, 9, 1, SMALL, -1, false, 2},
        {8, 2, 10, 30, LARGE, -1, false, 2},  {1, 9, 10, 1, SMALL, -1, true, 2},
        {2, 3, 0, 61, LARGE, -1, true, 2},    {6, 4, 11, 1, SMALL, -1, true, 2},
        {2, 5, 12, 30, LARGE, -1, false, 6},  {5, 7, 13, 1, SMALL, -1, true, 6},
        {2, 9, 14, 1, LARGE, -1, false, 20},
    };
    size_t n = sizeof(settings) / sizeof(settings[0]);
    struct outcome *one = malloc(sizeof(*one)), *many = malloc(sizeof(*many));
    for (size_t i = 0; i < (__tsan_acquire ? 3 : n); i++) {
        struct setting graph = settings[i];
        graph.seed = 0;
        graph.multiprocessors = 4;
        run(settings[i], true, one);
        assert_string_equal(one->repeat, "kernel");
        if (__tsan_acquire)
            continue; /* the kernels of the graph have tests of their own */
        run(graph, false, many);
        assert_string_equal(many->repeat, "graph");
        compare(settings[i].rows, many, one);
    }
    free(one);
    free(many);
}

/* What is too large for the sums, of self-attention and of the MLP, is seen in every logit. */
static void test_flaws(void **state)
{
    struct outcome *o = malloc(sizeof(*o));
    for (int i = 0; i < 8; i++) {
        const struct setting setting = {i / 4 ? 3 : 1, 4, 0, 1, SMALL, i % 2 ? 4 : 0, false, 2};
        run(setting, i / 2 % 2, o);
        assert_int_equal(o->n_active, 0);
        for (int k = 0; k < setting.rows * VOCAB; k++)
            assert_true(isnan(o->logits[k / VOCAB][k % VOCAB]));
    }
    free(o);
}

/* The graph where somebody else has a part of the GPU, or where there is no code of a step but an empty one; an error where
 * the GPU is broken. */
static void test_refused(void **state)
{
    struct outcome *graph = malloc(sizeof(*graph)), *refused = malloc(sizeof(*refused));
    struct err err = {0};
    const struct setting setting = {2, 4, 0, 1, SMALL, -1, false, 2};
    run(setting, false, graph);
    harness_fail("cudaLaunchCooperativeKernel", 0, TOO_LARGE);
    run(setting, true, refused);
    assert_true(harness_has_failed());
    assert_string_equal(refused->repeat, "graph");
    compare(2, graph, refused);
    if (harness_ptx(75)) {
        run(setting, true, refused);
        assert_string_equal(refused->repeat, "graph");
        compare(2, graph, refused);
        harness_ptx(80);
        harness_fail("cudaFuncGetAttributes", 0, NOT_READY);
        run(setting, true, refused);
        assert_true(harness_has_failed());
        assert_string_equal(refused->repeat, "graph");
        compare(2, graph, refused);
    }
    struct world w = make_world(false, 2, 1, 1.0f);
    struct engine_graph *g = record(&w, 1);
    set_slots(&w, 1, 1, STEPS);
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

/* --- sums in fixed point ---------------------------------------------------------------------------------------------- */

enum { CHUNK = 16, FIXED_OUTS = 24 };

/* out = x + in · Wᵀ of n_in values, W [FIXED_OUTS, n_in] */
static void add_product(struct engine *e, int n_in, const float *values, struct mat in, struct mat x,
                        struct mat out)
{
    struct engine_weight *w = NULL;
    struct err err = {0};
    struct rows rows = take_rows(e, in.rows);
    assert_int_equal(e->v->weight_create(e, WEIGHT_ROWS, FIXED_OUTS, n_in, values, &w, &err), 0);
    e->v->linear_rows(e,
                      &(struct linear_rows_args){.rows = rows, .in = in, .weight = w, .add = x, .out = out});
    wait_for(e);
    e->v->weight_destroy(e, w);
    give_rows(e, rows);
}

/* The chunks of the inputs in any order: the same bits. */
static void test_any_order(void **state)
{
    enum { ROWS = 5, CHUNKS = 37, IN = CHUNKS * CHUNK };
    struct engine *e = open_engine("cuda", 1, PRECISION_AUTO);
    struct test_rng rng;
    test_rng_init(&rng, 5);
    struct mat in = take_mat(e, ROWS, IN, IN), moved = take_mat(e, ROWS, IN, IN);
    struct mat x = take_mat(e, ROWS, FIXED_OUTS, FIXED_OUTS), y = take_mat(e, ROWS, FIXED_OUTS, FIXED_OUTS),
               z = take_mat(e, ROWS, FIXED_OUTS, FIXED_OUTS);
    float *values = malloc(FIXED_OUTS * IN * sizeof(float)),
          *others = malloc(FIXED_OUTS * IN * sizeof(float));
    fill(&rng, values, FIXED_OUTS * IN, 1.0f);
    fill_mat(&rng, x, 1.0f);
    fill_mat(&rng, in, 30.0f);
    add_product(e, IN, values, in, x, y);
    for (int t = 0; t < 20; t++) {
        int order[CHUNKS];
        for (int i = 0; i < CHUNKS; i++) {
            int k = test_rng_int(&rng, 0, i);
            order[i] = order[k];
            order[k] = i;
        }
        for (int i = 0; i < IN; i++) {
            int from = order[i / CHUNK] * CHUNK + i % CHUNK;
            for (int r = 0; r < ROWS; r++)
                at(moved, r)[i] = at(in, r)[from];
            for (int o = 0; o < FIXED_OUTS; o++)
                others[o * IN + i] = values[o * IN + from];
        }
        add_product(e, IN, others, moved, x, z);
        assert_memory_equal(y.data, z.data, sizeof(float) * ROWS * FIXED_OUTS);
    }
    free(values);
    free(others);
    struct mat *const mats[] = {&in, &moved, &x, &y, &z};
    for (size_t i = 0; i < sizeof(mats) / sizeof(mats[0]); i++)
        give_mat(e, *mats[i]);
    engine_close(e);
}

/* A chunk that is no number, or not below the bound, makes its output a NaN, however many there are; the others, up to the
 * bound, are exact. */
static void test_bound(void **state)
{
    enum { IN = 700 * CHUNK, ROWS = 4 };
    static const float sums[6] = {65536.0f, -65536.0f, 65535.0f, -65535.5f, 1e30f, 0.25f};
    static const bool flaws[6] = {true, true, false, false, true, false};
    struct engine *e = open_engine("cuda", 1, PRECISION_AUTO);
    struct mat in = take_mat(e, ROWS, IN, IN), x = take_mat(e, ROWS, FIXED_OUTS, FIXED_OUTS);
    float *values = calloc(FIXED_OUTS * IN, sizeof(float));
    memset(in.data, 0, sizeof(float) * ROWS * IN);
    memset(x.data, 0, sizeof(float) * ROWS * FIXED_OUTS);
    for (int o = 0; o < 6; o++) { /* an output each has a chunk to itself */
        values[o * IN + o * CHUNK] = 1.0f;
        at(in, 0)[o * CHUNK] = sums[o];
    }
    for (int i = 0; i < IN; i++) { /* and one has all of them */
        values[6 * IN + i] = i % CHUNK == 0;
        at(in, 3)[i] = i % CHUNK == 0 ? 65535.0f : 0.0f;
    }
    at(in, 1)[77] = NAN;
    for (int i = 0; i < IN; i++)
        at(in, 2)[i] = INFINITY;
    add_product(e, IN, values, in, x, x);
    for (int o = 0; o < 6; o++)
        assert_true(flaws[o] ? isnan(at(x, 0)[o]) : at(x, 0)[o] == sums[o]);
    for (int o = 0; o < FIXED_OUTS; o++)
        assert_true(isnan(at(x, 1)[o]) && isnan(at(x, 2)[o]));
    assert_true(at(x, 3)[6] == 65535.0f * 700);
    free(values);
    give_mat(e, in);
    give_mat(e, x);
    engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_flaws), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_any_order), cmocka_unit_test(test_bound),
    };
    if (__tsan_acquire)
        cmocka_set_test_filter("test_same_bits");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
