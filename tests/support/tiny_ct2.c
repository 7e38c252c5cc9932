/* CTranslate2 folders as its converter writes them. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/support/support.h"
#include "tests/support/tiny_writer.h"

static void put_string(struct writer *w, const char *what, const char *text)
{
    uint16_t n = (uint16_t)(strlen(text) + 1);
    put(w, "string length", &n, sizeof(n));
    put(w, what, text, n);
}

struct ct2 {
    struct writer w;
    const struct tiny_model *m;
    enum tiny_type type; /* of what is not quantised */
    int bits;            /* of whole numbers: 8, 16; 0: nothing is quantised */
    int n_variables;
};

static void put_head(struct ct2 *c, const char *name, int n_dims, const int *dims, uint8_t type, size_t bytes)
{
    uint8_t n = (uint8_t)n_dims;
    put_string(&c->w, "variable", name);
    put(&c->w, "dimensions", &n, 1);
    for (int i = 0; i < n_dims && i < 3; i++)
        put_int(&c->w, "dimension", dims[i]);
    put(&c->w, "type", &type, 1);
    put_int(&c->w, "bytes", (int32_t)bytes);
    put(&c->w, "data", NULL, 0);
    c->n_variables++;
}

float tiny_ct2_scale(int bits, const float *values, size_t n)
{
    float largest = 0.0f;
    for (size_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(values[i]));
    return largest == 0.0f ? 1.0f : (bits == 8 ? 127.0f : 1024.0f) / largest;
}

/* One scale for each row of 8 bits, one for all numbers of 16. */
static void put_quantised(struct ct2 *c, const char *name, const int *dims, int n_dims, const float *values,
                          size_t n)
{
    size_t n_rows = c->bits == 8 ? (size_t)dims[0] : 1, row = n / n_rows;
    float *scales = malloc(n_rows * sizeof(float));
    char scale_name[128];
    put_head(c, name, n_dims, dims, c->bits == 8 ? 1 : 2, n * (size_t)c->bits / 8);
    for (size_t r = 0; r < n_rows; r++) {
        scales[r] = tiny_ct2_scale(c->bits, values + r * row, row);
        for (size_t i = 0; i < row; i++) {
            int q = (int)rintf(values[r * row + i] * scales[r]);
            putc(q & 0xff, c->w.f);
            if (c->bits == 16)
                putc(q >> 8 & 0xff, c->w.f);
        }
    }
    snprintf(scale_name, sizeof(scale_name), "%s_scale", name);
    const int scale_dims[3] = {(int)n_rows, 1, 1};
    put_head(c, scale_name, c->bits == 8, scale_dims, 0, n_rows * sizeof(float));
    put_values(&c->w, scales, n_rows, TINY_F32);
    free(scales);
}

/* A variable of the rows of up to three tensors, or of zeros where one of them is NULL (the bias of keys). */
static void put_variable(struct ct2 *c, const char *name, const struct tiny_tensor *const *parts, int n_parts)
{
    assert(n_parts > 1 || parts[0]);
    const struct tiny_tensor *shape = parts[0] ? parts[0] : parts[1];
    static const uint8_t types[] = {[TINY_F32] = 0, [TINY_F16] = 4, [TINY_BF16] = 5};
    int dims[3] = {n_parts * shape->dims[0], shape->dims[1], shape->dims[2]};
    size_t n = tiny_tensor_count(shape), total = (size_t)n_parts * n;
    float *values = calloc(total, sizeof(float));
    for (int i = 0; i < n_parts; i++) {
        if (parts[i])
            memcpy(values + (size_t)i * n, parts[i]->values, n * sizeof(float));
    }
    if (c->bits && shape->n_dims > 1 && strstr(name, "weight")) {
        put_quantised(c, name, dims, shape->n_dims, values, total);
    } else {
        put_head(c, name, shape->n_dims, dims, types[c->type], total * (c->type == TINY_F32 ? 4 : 2));
        put_values(&c->w, values, total, c->type);
    }
    free(values);
}

static void put_scalar(struct ct2 *c, const char *name, int16_t value)
{
    struct writer *w = &c->w;
    uint8_t n_dims = 0, type = 2;
    c->n_variables++;
    put_string(w, "optional variable", name);
    put(w, "dimensions", &n_dims, 1);
    put(w, "type", &type, 1);
    put_int(w, "bytes", 2);
    put(w, name, &value, sizeof(value));
}

struct fusion {
    const char *ct2, *openai[3];
    int n;
};

static const struct fusion top[] = {
    {"encoder/conv1/weight", {"encoder.conv1.weight"}, 1},
    {"encoder/conv1/bias", {"encoder.conv1.bias"}, 1},
    {"encoder/conv2/weight", {"encoder.conv2.weight"}, 1},
    {"encoder/conv2/bias", {"encoder.conv2.bias"}, 1},
    {"encoder/position_encodings/encodings", {"encoder.positional_embedding"}, 1},
    {"encoder/layer_norm/gamma", {"encoder.ln_post.weight"}, 1},
    {"encoder/layer_norm/beta", {"encoder.ln_post.bias"}, 1},
    {"decoder/embeddings/weight", {"decoder.token_embedding.weight"}, 1},
    {"decoder/position_encodings/encodings", {"decoder.positional_embedding"}, 1},
    {"decoder/layer_norm/gamma", {"decoder.ln.weight"}, 1},
    {"decoder/layer_norm/beta", {"decoder.ln.bias"}, 1},
};

static const struct fusion layer[] = {
    {"self_attention/layer_norm/gamma", {"attn_ln.weight"}, 1},
    {"self_attention/layer_norm/beta", {"attn_ln.bias"}, 1},
    {"self_attention/linear_0/weight", {"attn.query.weight", "attn.key.weight", "attn.value.weight"}, 3},
    {"self_attention/linear_0/bias", {"attn.query.bias", NULL, "attn.value.bias"}, 3},
    {"self_attention/linear_1/weight", {"attn.out.weight"}, 1},
    {"self_attention/linear_1/bias", {"attn.out.bias"}, 1},
    {"attention/layer_norm/gamma", {"cross_attn_ln.weight"}, 1},
    {"attention/layer_norm/beta", {"cross_attn_ln.bias"}, 1},
    {"attention/linear_0/weight", {"cross_attn.query.weight"}, 1},
    {"attention/linear_0/bias", {"cross_attn.query.bias"}, 1},
    {"attention/linear_1/weight", {"cross_attn.key.weight", "cross_attn.value.weight"}, 2},
    {"attention/linear_1/bias", {NULL, "cross_attn.value.bias"}, 2},
    {"attention/linear_2/weight", {"cross_attn.out.weight"}, 1},
    {"attention/linear_2/bias", {"cross_attn.out.bias"}, 1},
    {"ffn/layer_norm/gamma", {"mlp_ln.weight"}, 1},
    {"ffn/layer_norm/beta", {"mlp_ln.bias"}, 1},
    {"ffn/linear_0/weight", {"mlp.0.weight"}, 1},
    {"ffn/linear_0/bias", {"mlp.0.bias"}, 1},
    {"ffn/linear_1/weight", {"mlp.2.weight"}, 1},
    {"ffn/linear_1/bias", {"mlp.2.bias"}, 1},
};

#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

static void put_layer(struct ct2 *c, const char *side, int index)
{
    for (int i = 0; i < COUNT(layer); i++) {
        const struct tiny_tensor *parts[3] = {NULL};
        char name[96];
        bool any = false;
        for (int k = 0; k < layer[i].n; k++) {
            snprintf(name, sizeof(name), "%s.blocks.%d.%s", side, index,
                     layer[i].openai[k] ? layer[i].openai[k] : "");
            parts[k] = tiny_model_find(c->m, name);
            any = any || parts[k];
        }
        snprintf(name, sizeof(name), "%s/layer_%d/%s", side, index, layer[i].ct2);
        if (any)
            put_variable(c, name, parts, layer[i].n);
    }
}

static void put_variables(struct ct2 *c)
{
    put_scalar(c, "encoder/num_heads", (int16_t)c->m->dims.n_audio_head);
    put_scalar(c, "decoder/num_heads", (int16_t)c->m->dims.n_text_head);
    put_scalar(c, "decoder/pre_norm", 1);
    put_scalar(c, "something/unknown", 7);
    for (int i = 0; i < COUNT(top); i++) {
        const struct tiny_tensor *t = tiny_model_find(c->m, top[i].openai[0]);
        put_variable(c, top[i].ct2, &t, 1);
    }
    for (int i = 0; i < c->m->dims.n_audio_layer; i++)
        put_layer(c, "encoder", i);
    for (int i = 0; i < c->m->dims.n_text_layer; i++)
        put_layer(c, "decoder", i);
}

void tiny_model_write_ct2_as(const struct tiny_model *m, const char *folder, enum tiny_type type, int bits,
                             struct tiny_layout *layout)
{
    struct ct2 c = {.m = m, .type = type, .bits = bits};
    char path[512];
    mkdir(folder, 0700);
    snprintf(path, sizeof(path), "%s/model.bin", folder);
    writer_open(&c.w, path, layout);
    put_int(&c.w, "version", 6);
    put_string(&c.w, "specification", "WhisperSpec");
    put_int(&c.w, "revision", 3);
    long number_at = ftell(c.w.f);
    put_int(&c.w, "variables", 0);
    put_variables(&c);
    put_int(&c.w, "aliases", bits ? 2 : 1);
    put_string(&c.w, "alias", "decoder/projection/weight");
    put_string(&c.w, "target", "decoder/embeddings/weight");
    if (bits) {
        put_string(&c.w, "alias", "decoder/projection/weight_scale");
        put_string(&c.w, "target", "decoder/embeddings/weight_scale");
    }
    int32_t n = c.n_variables;
    assert_int_equal(fseek(c.w.f, number_at, SEEK_SET), 0);
    assert_int_equal(fwrite(&n, sizeof(n), 1, c.w.f), 1);
    writer_close(&c.w);
    snprintf(path, sizeof(path), "%s/tokenizer.json", folder);
    writer_open(&c.w, path, NULL);
    fprintf(c.w.f, "{\"model\":{\"type\":\"BPE\",\"vocab\":");
    put_vocabulary(m, c.w.f);
    fprintf(c.w.f, "}}");
    writer_close(&c.w);
    put_heads(m, folder, "config.json");
}

void tiny_model_write_ct2(const struct tiny_model *m, const char *folder, bool half,
                          struct tiny_layout *layout)
{
    tiny_model_write_ct2_as(m, folder, half ? TINY_F16 : TINY_F32, 0, layout);
}
