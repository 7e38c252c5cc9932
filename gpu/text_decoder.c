#include "gpu/text_decoder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct decoder_layer {
    struct norm attn_norm;
    struct linear qkv, out;
    struct norm cross_norm;
    struct linear cross_query, cross_out;
    struct norm mlp_norm;
    struct linear fc1, fc2;
    uint32_t align_heads; /* bits */
    int align_first;
};

struct text_decoder {
    struct engine *engine;
    struct whisper_dims dims;
    struct text_decoder_options options;
    struct engine_weight *tokens; /* [n_vocab, n_state]: embedding and output projection */
    float *positions;             /* engine memory [n_text_ctx, n_state] */
    struct decoder_layer layers[WHISPER_LAYERS_MAX];
    struct norm norm;
    struct engine_kv *self;
    float *align; /* engine memory [n_slots, RUN_TOKENS_MAX, n_align, RUN_AUDIO_FRAMES] */
    struct row_arrays rows;
    struct rows step; /* [n_slots]: the rows of a step */
    /* Activations, f32, for PASS_ROWS_MAX rows. */
    float *x, *qkv, *attention, *query, *hidden, *logits;
    int32_t *chosen; /* [rows_max] */
    float *logprob;
    struct beam_candidate *candidates; /* [rows_max, RUN_BEAMS_MAX + 1] */
    bool searches;                     /* the engine has beam search */
    struct engine_graph **steps[2][2]; /* [alignment][beams][n_slots]: entry n − 1 steps n slots */
};

/* --- loading ---------------------------------------------------------------------------------------------------- */

static void load_layer(struct layer_loader *l, struct decoder_layer *layer, int index, int n_state)
{
    static const char *const qkv[] = {"attn.query", "attn.key", "attn.value"}, *const out[] = {"attn.out"};
    static const char *const query[] = {"cross_attn.query"}, *const cross_out[] = {"cross_attn.out"};
    static const char *const fc1[] = {"mlp.0"}, *const fc2[] = {"mlp.2"};
    char prefix[48], name[64];
    snprintf(prefix, sizeof(prefix), "decoder.blocks.%d", index);
    snprintf(name, sizeof(name), "%s.attn_ln", prefix);
    layer->attn_norm = load_norm(l, name, n_state);
    layer->qkv = load_linear(l, WEIGHT_ROWS, prefix, qkv, 3, n_state, n_state);
    layer->out = load_linear(l, WEIGHT_ROWS, prefix, out, 1, n_state, n_state);
    snprintf(name, sizeof(name), "%s.cross_attn_ln", prefix);
    layer->cross_norm = load_norm(l, name, n_state);
    layer->cross_query = load_linear(l, WEIGHT_ROWS, prefix, query, 1, n_state, n_state);
    layer->cross_out = load_linear(l, WEIGHT_ROWS, prefix, cross_out, 1, n_state, n_state);
    snprintf(name, sizeof(name), "%s.mlp_ln", prefix);
    layer->mlp_norm = load_norm(l, name, n_state);
    layer->fc1 = load_linear(l, WEIGHT_ROWS, prefix, fc1, 1, 4 * n_state, n_state);
    layer->fc2 = load_linear(l, WEIGHT_ROWS, prefix, fc2, 1, n_state, 4 * n_state);
}

static void set_align_heads(struct text_decoder *t, const struct weights *weights)
{
    const struct align_head *heads;
    int n = weights_align_heads(weights, &heads);
    for (int i = n - 1; i >= 0; i--) {
        t->layers[heads[i].layer].align_heads |= 1u << heads[i].head;
        t->layers[heads[i].layer].align_first = i;
    }
}

static void load_weights(struct layer_loader *l, struct text_decoder *t)
{
    const struct whisper_dims *d = &t->dims;
    t->tokens = load_embedding(l, "decoder.token_embedding.weight", d->n_vocab, d->n_text_state);
    t->positions = load_vector(l, "decoder.positional_embedding", d->n_text_ctx * d->n_text_state);
    for (int i = 0; i < d->n_text_layer; i++)
        load_layer(l, &t->layers[i], i, d->n_text_state);
    t->norm = load_norm(l, "decoder.ln", d->n_text_state);
    set_align_heads(t, l->weights);
}

static void take_memory(struct layer_loader *l, struct text_decoder *t)
{
    size_t n_slots = (size_t)t->options.n_slots, rows_max = n_slots * RUN_TOKENS_MAX;
    size_t n_state = (size_t)t->dims.n_text_state, n_pass = PASS_ROWS_MAX;
    t->rows = (struct row_arrays){.token = load_alloc(l, rows_max, sizeof(int32_t)),
                                  .pos = load_alloc(l, rows_max, sizeof(int32_t)),
                                  .slot = load_alloc(l, rows_max, sizeof(int32_t)),
                                  .logit_pos = load_alloc(l, rows_max, sizeof(int32_t)),
                                  .rows_max = (int)rows_max};
    t->step = (struct rows){.token = load_alloc(l, n_slots, sizeof(int32_t)),
                            .pos = load_alloc(l, n_slots, sizeof(int32_t)),
                            .slot = load_alloc(l, n_slots, sizeof(int32_t))};
    t->x = load_alloc(l, n_pass * n_state, sizeof(float));
    t->qkv = load_alloc(l, 3 * n_pass * n_state, sizeof(float));
    t->attention = load_alloc(l, n_pass * n_state, sizeof(float));
    t->query = load_alloc(l, n_pass * n_state, sizeof(float));
    t->hidden = load_alloc(l, 4 * n_pass * n_state, sizeof(float));
    t->logits = load_alloc(l, n_pass * (size_t)t->dims.n_vocab, sizeof(float));
    t->chosen = load_alloc(l, rows_max, sizeof(int32_t));
    t->logprob = load_alloc(l, rows_max, sizeof(float));
    t->searches = l->engine->v->beam_select && l->engine->v->beam_advance;
    if (t->searches)
        t->candidates = load_alloc(l, rows_max * (RUN_BEAMS_MAX + 1), sizeof(struct beam_candidate));
    t->align = load_alloc(l, rows_max * (size_t)t->dims.n_align * RUN_AUDIO_FRAMES, sizeof(float));
    if (l->code == 0)
        l->code = l->engine->v->kv_create(l->engine, t->dims.n_text_layer, t->options.n_slots,
                                          t->dims.n_text_ctx, t->dims.n_text_head, &t->self, l->err);
}

/* --- the graph -------------------------------------------------------------------------------------------------- */

/* One pass over some rows. `wanted` are the same rows, those idle whose logits nobody needs: the last layer behind its
 * keys and values, and the product with the whole vocabulary, are for the others alone. */
struct pass {
    struct rows rows, wanted;
    bool align, beams;
    int n_layers;
};

static struct mat view(float *data, const struct rows *rows, int cols)
{
    return mat_view(data, DTYPE_F32, rows->n, cols, cols);
}

static void submit_linear(const struct text_decoder *t, struct rows rows, struct mat in,
                          const struct norm *norm, const struct linear *linear, bool gelu, struct mat add,
                          struct mat out)
{
    t->engine->v->linear_rows(t->engine, &(struct linear_rows_args){.rows = rows,
                                                                    .in = in,
                                                                    .gamma = norm ? norm->gamma : NULL,
                                                                    .beta = norm ? norm->beta : NULL,
                                                                    .weight = linear->weight,
                                                                    .bias = linear->bias,
                                                                    .gelu = gelu,
                                                                    .add = add,
                                                                    .out = out});
}

static void submit_layer(const struct text_decoder *t, const struct pass *p, int index)
{
    const struct mat none = {0};
    const struct decoder_layer *layer = &t->layers[index];
    const struct engine_vtable *v = t->engine->v;
    int n_state = t->dims.n_text_state;
    struct mat x = view(t->x, &p->rows, n_state), attention = view(t->attention, &p->rows, n_state);
    struct mat qkv = view(t->qkv, &p->rows, 3 * n_state), query = view(t->query, &p->rows, n_state);
    struct mat hidden = view(t->hidden, &p->rows, 4 * n_state);
    submit_linear(t, p->rows, x, &layer->attn_norm, &layer->qkv, false, none, qkv);
    v->self_attention(t->engine, &(struct self_attention_args){.rows = p->rows,
                                                               .kv = t->self,
                                                               .layer = index,
                                                               .slots = p->beams ? t->options.slots : NULL,
                                                               .qkv = qkv,
                                                               .out = attention});
    struct rows rest = index == p->n_layers - 1 && !p->align ? p->wanted : p->rows;
    submit_linear(t, rest, attention, NULL, &layer->out, false, x, x);
    submit_linear(t, rest, x, &layer->cross_norm, &layer->cross_query, false, none, query);
    bool record = p->align && layer->align_heads;
    v->cross_attention(t->engine,
                       &(struct cross_attention_args){.rows = rest,
                                                      .kv = t->options.cross,
                                                      .layer = index,
                                                      .slots = t->options.slots,
                                                      .q = query,
                                                      .out = attention,
                                                      .align_heads = record ? layer->align_heads : 0,
                                                      .align_first = layer->align_first,
                                                      .n_align = t->dims.n_align,
                                                      .align = record ? t->align : NULL});
    submit_linear(t, rest, attention, NULL, &layer->cross_out, false, x, x);
    submit_linear(t, rest, x, &layer->mlp_norm, &layer->fc1, true, none, hidden);
    submit_linear(t, rest, hidden, NULL, &layer->fc2, false, x, x);
}

/* Tokens to logits. */
static struct mat submit_pass(const struct text_decoder *t, const struct pass *p)
{
    const struct mat none = {0};
    struct mat x = view(t->x, &p->rows, t->dims.n_text_state);
    struct mat logits = view(t->logits, &p->rows, t->dims.n_vocab);
    t->engine->v->embed(
        t->engine,
        &(struct embed_args){.rows = p->rows, .tokens = t->tokens, .positions = t->positions, .out = x});
    for (int i = 0; i < p->n_layers; i++)
        submit_layer(t, p, i);
    submit_linear(t, p->wanted, x, &t->norm, &(struct linear){.weight = t->tokens}, false, none, logits);
    return logits;
}

/* Chooses for the wanted rows; their choices go to chosen[at …]. */
static void submit_select(const struct text_decoder *t, const struct pass *p, struct mat logits, int at)
{
    t->engine->v->select(t->engine, &(struct select_args){.rows = p->wanted,
                                                          .slots = t->options.slots,
                                                          .masks = t->options.masks,
                                                          .mask_words = (t->dims.n_vocab + 31) / 32,
                                                          .logits = logits,
                                                          .chosen = t->chosen + at,
                                                          .logprob = t->logprob + at});
    if (p->beams)
        t->engine->v->beam_select(
            t->engine,
            &(struct beam_select_args){.rows = p->wanted,
                                       .slots = t->options.slots,
                                       .masks = t->options.masks,
                                       .mask_words = (t->dims.n_vocab + 31) / 32,
                                       .logits = logits,
                                       .candidates = t->candidates + (size_t)at * (RUN_BEAMS_MAX + 1)});
}

static void submit_advance(const struct text_decoder *t, struct rows rows, bool beams)
{
    t->engine->v->advance(t->engine, &(struct advance_args){.rows = rows,
                                                            .slots = t->options.slots,
                                                            .chosen = t->chosen,
                                                            .logprob = t->logprob,
                                                            .n_active = t->options.n_active});
    if (beams)
        t->engine->v->beam_advance(t->engine, &(struct beam_advance_args){.rows = rows,
                                                                          .slots = t->options.slots,
                                                                          .beams = t->options.beams,
                                                                          .candidates = t->candidates,
                                                                          .n_active = t->options.n_active});
}

static struct engine_graph *record_step(const struct text_decoder *t, int n, bool align, bool beams)
{
    struct rows rows = t->step;
    rows.n = n;
    struct pass p = {
        .rows = rows, .wanted = rows, .align = align, .beams = beams, .n_layers = t->dims.n_text_layer};
    t->engine->v->graph_begin(t->engine);
    t->engine->v->rows_from_slots(t->engine,
                                  &(struct rows_from_slots_args){.rows = rows, .slots = t->options.slots});
    submit_select(t, &p, submit_pass(t, &p), 0);
    submit_advance(t, rows, beams);
    return t->engine->v->graph_end(t->engine);
}

static int record_steps(struct layer_loader *l, struct text_decoder *t, bool align, bool beams)
{
    struct engine_graph **steps = calloc((size_t)t->options.n_slots, sizeof(struct engine_graph *));
    t->steps[align][beams] = steps;
    for (int n = 1; steps && n <= t->options.n_slots; n++) {
        steps[n - 1] = record_step(t, n, align, beams);
        if (steps[n - 1])
            continue;
        int r = t->engine->v->wait(t->engine, l->err);
        return r < 0 ? r : err_set(l->err, -ENOMEM, "out of memory for the decoder's graphs");
    }
    return steps ? 0 : err_set(l->err, -ENOMEM, "out of memory for the decoder's graphs");
}

static int record_graphs(struct layer_loader *l, struct text_decoder *t)
{
    for (int align = 0; align < 2; align++) {
        for (int beams = 0; beams <= t->searches; beams++) {
            int r = record_steps(l, t, align, beams);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

void text_decoder_launch_each(const struct text_decoder *t)
{
    for (int align = 0; align < 2; align++) {
        for (int beams = 0; beams <= t->searches; beams++) {
            for (int n = 0; n < t->options.n_slots; n++)
                t->engine->v->graph_launch(t->engine, t->steps[align][beams][n], t->options.n_active, 1);
        }
    }
}

/* --- life ------------------------------------------------------------------------------------------------------- */

int text_decoder_create(struct layer_loader *l, const struct text_decoder_options *options,
                        struct text_decoder **out)
{
    struct text_decoder *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(l->err, -ENOMEM, "out of memory for the decoder");
    t->engine = l->engine;
    t->dims = *weights_dims(l->weights);
    t->options = *options;
    load_weights(l, t);
    take_memory(l, t);
    if (l->code == 0)
        l->code = record_graphs(l, t);
    if (l->code < 0) {
        text_decoder_destroy(t);
        return l->code;
    }
    *out = t;
    return 0;
}

void text_decoder_destroy(struct text_decoder *t)
{
    if (!t)
        return;
    struct engine *e = t->engine;
    for (int kind = 0; kind < 4; kind++) {
        struct engine_graph **steps = t->steps[kind / 2][kind % 2];
        for (int n = 0; steps && n < t->options.n_slots; n++)
            e->v->graph_destroy(e, steps[n]);
        free(steps);
    }
    for (int i = 0; i < t->dims.n_text_layer; i++) {
        struct decoder_layer *layer = &t->layers[i];
        struct norm *norms[] = {&layer->attn_norm, &layer->cross_norm, &layer->mlp_norm};
        struct linear *linears[] = {&layer->qkv,       &layer->out, &layer->cross_query,
                                    &layer->cross_out, &layer->fc1, &layer->fc2};
        for (size_t k = 0; k < sizeof(norms) / sizeof(norms[0]); k++)
            norm_free(e, norms[k]);
        for (size_t k = 0; k < sizeof(linears) / sizeof(linears[0]); k++)
            linear_free(e, linears[k]);
    }
    norm_free(e, &t->norm);
    e->v->weight_destroy(e, t->tokens);
    e->v->kv_destroy(e, t->self);
    void *const buffers[] = {
        t->positions,  t->align,    t->rows.token, t->rows.pos, t->rows.slot, t->rows.logit_pos,
        t->step.token, t->step.pos, t->step.slot,  t->x,        t->qkv,       t->attention,
        t->query,      t->hidden,   t->logits,     t->chosen,   t->logprob,   t->candidates};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        e->v->free(e, buffers[i]);
    free(t);
}

/* --- submitting ------------------------------------------------------------------------------------------------- */

const struct row_arrays *text_decoder_rows(const struct text_decoder *t)
{
    return &t->rows;
}

int32_t *text_decoder_step_slots(const struct text_decoder *t)
{
    return t->step.slot;
}

static struct pass pass_over(const struct text_decoder *t, int first, int n, struct pass_kind kind)
{
    const struct row_arrays *a = &t->rows;
    int n_layers = t->dims.n_text_layer;
    return (struct pass){.rows = {n, a->token + first, a->pos + first, a->slot + first},
                         .wanted = {n, a->token + first, a->logit_pos + first, a->slot + first},
                         .align = kind.align,
                         .beams = kind.beams,
                         .n_layers = kind.n_layers < n_layers ? kind.n_layers : n_layers};
}

void text_decoder_submit_rows(struct text_decoder *t, int n, struct pass_kind kind)
{
    for (int first = 0; first < n; first += PASS_ROWS_MAX) {
        int part = n - first < PASS_ROWS_MAX ? n - first : PASS_ROWS_MAX;
        struct pass p = pass_over(t, first, part, kind);
        submit_select(t, &p, submit_pass(t, &p), first);
    }
    submit_advance(t, pass_over(t, 0, n, kind).rows, kind.beams);
}

void text_decoder_submit_steps(struct text_decoder *t, int n, struct pass_kind kind, int max_steps)
{
    if (max_steps > 0)
        t->engine->v->graph_launch(t->engine, t->steps[kind.align][kind.beams][n - 1], t->options.n_active,
                                   max_steps);
}

bool text_decoder_searches(const struct text_decoder *t)
{
    return t->searches;
}

struct mat text_decoder_submit_logits(struct text_decoder *t, int first, int n)
{
    struct pass p = pass_over(t, first, n, (struct pass_kind){.n_layers = t->dims.n_text_layer});
    return submit_pass(t, &p);
}

void text_decoder_copy_slot(struct text_decoder *t, int src, int dst, int n)
{
    t->engine->v->kv_copy(t->engine, t->self, src, dst, n);
}

const float *text_decoder_alignment(const struct text_decoder *t, int slot, int pos)
{
    size_t row = (size_t)slot * RUN_TOKENS_MAX + (size_t)pos;
    return t->align + row * (size_t)t->dims.n_align * RUN_AUDIO_FRAMES;
}
