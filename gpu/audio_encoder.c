#include "gpu/audio_encoder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct encoder_layer {
    struct norm attn_norm;
    struct linear qkv, out;
    struct norm mlp_norm;
    struct linear fc1, fc2;
};

struct audio_encoder {
    struct engine *engine;
    struct whisper_dims dims;
    struct engine_kv *cross;
    struct linear conv1, conv2;
    float *positions; /* engine memory [n_ctx, n_state] */
    struct encoder_layer layers[WHISPER_LAYERS_MAX];
    struct norm norm;
    struct linear cross_kv[WHISPER_LAYERS_MAX]; /* keys and values of each decoder layer */
    /* Activations of windows_max windows, with n_ctx rows each. Those of an input of a convolution have a row of zeros at each
     * end. */
    void *mel;       /* wide [windows_max][2 · n_ctx + 2, n_mels] */
    void *frames;    /* wide [windows_max][2 · n_ctx + 2, n_state] */
    float *x;        /* [rows, n_state]: the residual stream */
    void *normed;    /* wide [rows, n_state] */
    void *qkv;       /* wide [rows, 3 · n_state] */
    void *attention; /* wide [rows, n_state] */
    void *hidden;    /* wide [rows, 4 · n_state]; or f32 [rows, 2 · n_state] */
};

static void load_layer(struct layer_loader *l, struct encoder_layer *layer, int index, int n_state)
{
    static const char *const qkv[] = {"attn.query", "attn.key", "attn.value"}, *const out[] = {"attn.out"};
    static const char *const fc1[] = {"mlp.0"}, *const fc2[] = {"mlp.2"};
    char prefix[48], name[64];
    snprintf(prefix, sizeof(prefix), "encoder.blocks.%d", index);
    snprintf(name, sizeof(name), "%s.attn_ln", prefix);
    layer->attn_norm = load_norm(l, name, n_state);
    layer->qkv = load_linear(l, WEIGHT_WIDE, prefix, qkv, 3, n_state, n_state);
    layer->out = load_linear(l, WEIGHT_WIDE, prefix, out, 1, n_state, n_state);
    snprintf(name, sizeof(name), "%s.mlp_ln", prefix);
    layer->mlp_norm = load_norm(l, name, n_state);
    layer->fc1 = load_linear(l, WEIGHT_WIDE, prefix, fc1, 1, 4 * n_state, n_state);
    layer->fc2 = load_linear(l, WEIGHT_WIDE, prefix, fc2, 1, n_state, 4 * n_state);
}

static void load_cross_kv(struct layer_loader *l, struct linear *linear, int index, int n_state)
{
    static const char *const stems[] = {"cross_attn.key", "cross_attn.value"};
    char prefix[48];
    snprintf(prefix, sizeof(prefix), "decoder.blocks.%d", index);
    *linear = load_linear(l, WEIGHT_WIDE, prefix, stems, 2, n_state, n_state);
}

int audio_encoder_create(struct layer_loader *l, struct engine_kv *cross, struct audio_encoder **out)
{
    struct audio_encoder *a = calloc(1, sizeof(*a));
    if (!a)
        return err_set(l->err, -ENOMEM, "out of memory for the encoder");
    const struct whisper_dims *d = &a->dims;
    a->engine = l->engine;
    a->dims = *weights_dims(l->weights);
    a->cross = cross;
    size_t n_ctx = (size_t)d->n_audio_ctx, n_state = (size_t)d->n_audio_state;
    size_t rows = (size_t)l->engine->windows_max * n_ctx, wide = dtype_bytes(l->engine->wide_type);
    a->conv1 = load_convolution(l, "encoder.conv1", d->n_audio_state, d->n_mels);
    a->conv2 = load_convolution(l, "encoder.conv2", d->n_audio_state, d->n_audio_state);
    a->positions = load_vector(l, "encoder.positional_embedding", d->n_audio_ctx * d->n_audio_state);
    for (int i = 0; i < d->n_audio_layer; i++)
        load_layer(l, &a->layers[i], i, d->n_audio_state);
    a->norm = load_norm(l, "encoder.ln_post", d->n_audio_state);
    for (int i = 0; i < d->n_text_layer; i++)
        load_cross_kv(l, &a->cross_kv[i], i, d->n_audio_state);
    size_t padded = (size_t)l->engine->windows_max * (2 * n_ctx + 2);
    a->mel = load_alloc(l, padded * (size_t)d->n_mels, wide);
    a->frames = load_alloc(l, padded * n_state, wide);
    a->x = load_alloc(l, rows * n_state, sizeof(float));
    a->normed = load_alloc(l, rows * n_state, wide);
    a->qkv = load_alloc(l, 3 * rows * n_state, wide);
    a->attention = load_alloc(l, rows * n_state, wide);
    a->hidden = load_alloc(l, 4 * rows * n_state, wide);
    if (l->code < 0) {
        audio_encoder_destroy(a);
        return l->code;
    }
    *out = a;
    return 0;
}

void audio_encoder_destroy(struct audio_encoder *a)
{
    if (!a)
        return;
    struct engine *e = a->engine;
    linear_free(e, &a->conv1);
    linear_free(e, &a->conv2);
    for (int i = 0; i < a->dims.n_audio_layer; i++) {
        struct encoder_layer *layer = &a->layers[i];
        norm_free(e, &layer->attn_norm);
        linear_free(e, &layer->qkv);
        linear_free(e, &layer->out);
        norm_free(e, &layer->mlp_norm);
        linear_free(e, &layer->fc1);
        linear_free(e, &layer->fc2);
    }
    norm_free(e, &a->norm);
    for (int i = 0; i < a->dims.n_text_layer; i++)
        linear_free(e, &a->cross_kv[i]);
    void *const buffers[] = {a->positions, a->mel, a->frames,    a->x,
                             a->normed,    a->qkv, a->attention, a->hidden};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        e->v->free(e, buffers[i]);
    free(a);
}

/* A dense matrix in the wide type, and one in f32. */
static struct mat wide(const struct audio_encoder *a, void *data, int rows, int cols)
{
    return mat_view(data, a->engine->wide_type, rows, cols, cols);
}

static struct mat single(float *data, int rows, int cols)
{
    return mat_view(data, DTYPE_F32, rows, cols, cols);
}

/* n windows of a convolution's input or output: the rows behind the zero row of the first one. */
static struct mat padded(const struct audio_encoder *a, void *data, int cols, int n)
{
    return mat_rows(wide(a, data, 2 * a->dims.n_audio_ctx + 2, cols), 1, n * 2 * a->dims.n_audio_ctx);
}

struct mat audio_encoder_mel(const struct audio_encoder *a, int window)
{
    int n_mels = a->dims.n_mels, rows = 2 * a->dims.n_audio_ctx;
    char *data = (char *)a->mel +
                 (size_t)window * (size_t)(rows + 2) * (size_t)n_mels * dtype_bytes(a->engine->wide_type);
    return padded(a, data, n_mels, 1);
}

struct mat audio_encoder_residual(const struct audio_encoder *a)
{
    return single(a->x, a->dims.n_audio_ctx, a->dims.n_audio_state);
}

struct mat audio_encoder_output(const struct audio_encoder *a)
{
    return wide(a, a->normed, a->dims.n_audio_ctx, a->dims.n_audio_state);
}

static void submit_linear(const struct audio_encoder *a, struct mat in, const struct linear *linear,
                          bool gelu, struct mat add, struct mat out)
{
    a->engine->v->linear(
        a->engine,
        &(struct linear_args){
            .in = in, .weight = linear->weight, .bias = linear->bias, .gelu = gelu, .add = add, .out = out});
}

static void submit_norm(const struct audio_encoder *a, struct mat in, const struct norm *norm, struct mat out)
{
    a->engine->v->layer_norm(
        a->engine, &(struct layer_norm_args){.in = in, .gamma = norm->gamma, .beta = norm->beta, .out = out});
}

/* Three taps over adjacent rows are one longer row of overlapping ones: row t of the product reads the padded rows
 * s · t … s · t + 2 for the step s of the convolution. */
static void submit_convolutions(struct audio_encoder *a, int n)
{
    int n_ctx = a->dims.n_audio_ctx, n_state = a->dims.n_audio_state, n_mels = a->dims.n_mels;
    enum dtype type = a->engine->wide_type;
    a->engine->v->linear(
        a->engine, &(struct linear_args){.in = mat_view(a->mel, type, n * 2 * n_ctx, 3 * n_mels, n_mels),
                                         .weight = a->conv1.weight,
                                         .bias = a->conv1.bias,
                                         .gelu = true,
                                         .out = padded(a, a->frames, n_state, n),
                                         .n_windows = n,
                                         .in_gap = 2 * n_mels,
                                         .out_gap = 2 * n_state});
    a->engine->v->linear(
        a->engine, &(struct linear_args){.in = mat_view(a->frames, type, n * n_ctx, 3 * n_state, 2 * n_state),
                                         .weight = a->conv2.weight,
                                         .bias = a->conv2.bias,
                                         .gelu = true,
                                         .add = single(a->positions, n_ctx, n_state),
                                         .out = single(a->x, n * n_ctx, n_state),
                                         .n_windows = n,
                                         .in_gap = 2 * n_state});
}

static void submit_layer(const struct audio_encoder *a, const struct encoder_layer *layer, int n)
{
    const struct mat none = {0};
    int rows = n * a->dims.n_audio_ctx, n_state = a->dims.n_audio_state;
    struct mat x = single(a->x, rows, n_state), normed = wide(a, a->normed, rows, n_state);
    struct mat qkv = wide(a, a->qkv, rows, 3 * n_state), attention = wide(a, a->attention, rows, n_state);
    struct mat hidden = wide(a, a->hidden, rows, 4 * n_state);
    submit_norm(a, x, &layer->attn_norm, normed);
    submit_linear(a, normed, &layer->qkv, false, none, qkv);
    a->engine->v->attention(
        a->engine, &(struct attention_args){
                       .qkv = qkv, .n_head = a->dims.n_audio_head, .n_windows = n, .out = attention});
    submit_linear(a, attention, &layer->out, false, x, x);
    submit_norm(a, x, &layer->mlp_norm, normed);
    submit_linear(a, normed, &layer->fc1, true, none, hidden);
    submit_linear(a, hidden, &layer->fc2, false, x, x);
}

static void submit_cross(const struct audio_encoder *a, struct mat normed, int layer, const int *slots, int n)
{
    struct linear_args args = {.in = normed,
                               .weight = a->cross_kv[layer].weight,
                               .bias = a->cross_kv[layer].bias,
                               .out = single(a->hidden, normed.rows, 2 * a->dims.n_audio_state),
                               .n_windows = n,
                               .kv = a->cross,
                               .layer = layer};
    memcpy(args.slots, slots, (size_t)n * sizeof(*slots));
    a->engine->v->linear(a->engine, &args);
}

void audio_encoder_submit(struct audio_encoder *a, const int *slots, int n, int n_layers)
{
    int rows = n * a->dims.n_audio_ctx, n_state = a->dims.n_audio_state;
    struct mat normed = wide(a, a->normed, rows, n_state);
    submit_convolutions(a, n);
    for (int i = 0; i < a->dims.n_audio_layer && i < n_layers; i++)
        submit_layer(a, &a->layers[i], n);
    submit_norm(a, single(a->x, rows, n_state), &a->norm, normed);
    for (int i = 0; i < a->dims.n_text_layer && i < n_layers; i++)
        submit_cross(a, normed, i, slots, n);
}
