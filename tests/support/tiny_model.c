#include "tests/support/tiny_model.h"

#include <assert.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/blocks.h"
#include "tests/support/support.h"

/* --- the weights -------------------------------------------------------------------------------------------------- */

static void add(struct tiny_model *m, struct test_rng *rng, const char *name, int n_dims, const int *dims,
                float mean, float deviation)
{
    struct tiny_tensor *t = &m->tensors[m->n_tensors++];
    size_t n = 1;
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->n_dims = n_dims;
    for (int i = 0; i < n_dims; i++)
        n *= (size_t)(t->dims[i] = dims[i]);
    t->values = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        t->values[i] = from_half(to_half(mean + deviation * test_rng_normal(rng)));
}

static void add_linear(struct tiny_model *m, struct test_rng *rng, const char *prefix, const char *name,
                       int n_out, int n_in, bool bias)
{
    char full[64];
    snprintf(full, sizeof(full), "%s.%s.weight", prefix, name);
    add(m, rng, full, 2, (int[]){n_out, n_in}, 0.0f, 1.5f / sqrtf((float)n_in));
    snprintf(full, sizeof(full), "%s.%s.bias", prefix, name);
    if (bias)
        add(m, rng, full, 1, (int[]){n_out}, 0.0f, 0.1f);
}

static void add_norm(struct tiny_model *m, struct test_rng *rng, const char *prefix, const char *name)
{
    char full[64];
    snprintf(full, sizeof(full), "%s.%s.weight", prefix, name);
    add(m, rng, full, 1, &m->dims.n_text_state, 1.0f, 0.2f);
    snprintf(full, sizeof(full), "%s.%s.bias", prefix, name);
    add(m, rng, full, 1, &m->dims.n_text_state, 0.0f, 0.1f);
}

static void add_attention(struct tiny_model *m, struct test_rng *rng, const char *prefix, const char *name)
{
    char full[64];
    int n = m->dims.n_text_state;
    snprintf(full, sizeof(full), "%s.%s", prefix, name);
    add_linear(m, rng, full, "query", n, n, true);
    add_linear(m, rng, full, "key", n, n, false);
    add_linear(m, rng, full, "value", n, n, true);
    add_linear(m, rng, full, "out", n, n, true);
}

static void add_layers(struct tiny_model *m, struct test_rng *rng, const char *side, int n_layers, bool cross)
{
    int n = m->dims.n_text_state;
    for (int i = 0; i < n_layers; i++) {
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "%s.blocks.%d", side, i);
        add_norm(m, rng, prefix, "attn_ln");
        add_attention(m, rng, prefix, "attn");
        if (cross) {
            add_norm(m, rng, prefix, "cross_attn_ln");
            add_attention(m, rng, prefix, "cross_attn");
        }
        add_norm(m, rng, prefix, "mlp_ln");
        add_linear(m, rng, prefix, "mlp.0", 4 * n, n, true);
        add_linear(m, rng, prefix, "mlp.2", n, 4 * n, true);
    }
}

static void init(struct tiny_model *m, uint64_t seed, int n_mels, int n_vocab, int n_audio_ctx,
                 int n_text_ctx)
{
    struct test_rng rng = {seed};
    *m = (struct tiny_model){.dims = {.n_mels = n_mels,
                                      .n_audio_ctx = n_audio_ctx,
                                      .n_audio_state = 128,
                                      .n_audio_head = 2,
                                      .n_audio_layer = 2,
                                      .n_vocab = n_vocab,
                                      .n_text_ctx = n_text_ctx,
                                      .n_text_state = 128,
                                      .n_text_head = 2,
                                      .n_text_layer = 2},
                             .n_words = 50257};
    m->tensors = calloc(256, sizeof(*m->tensors));
    int n = m->dims.n_text_state;
    add(m, &rng, "encoder.conv1.weight", 3, (int[]){n, n_mels, 3}, 0.0f, 0.1f);
    add(m, &rng, "encoder.conv1.bias", 1, &n, 0.0f, 0.1f);
    add(m, &rng, "encoder.conv2.weight", 3, (int[]){n, n, 3}, 0.0f, 0.1f);
    add(m, &rng, "encoder.conv2.bias", 1, &n, 0.0f, 0.1f);
    add(m, &rng, "encoder.positional_embedding", 2, (int[]){n_audio_ctx, n}, 0.0f, 0.5f);
    add_layers(m, &rng, "encoder", 2, false);
    add_norm(m, &rng, "encoder", "ln_post");
    /* Small against what the layers add, or every token would be followed by itself. */
    add(m, &rng, "decoder.token_embedding.weight", 2, (int[]){m->dims.n_vocab, n}, 0.0f, 0.05f);
    add(m, &rng, "decoder.positional_embedding", 2, (int[]){n_text_ctx, n}, 0.0f, 0.3f);
    add_layers(m, &rng, "decoder", 2, true);
    add_norm(m, &rng, "decoder", "ln");
}

void tiny_model_init(struct tiny_model *m, uint64_t seed, int n_audio_ctx, int n_text_ctx)
{
    init(m, seed, 80, 51864, n_audio_ctx, n_text_ctx);
}

void tiny_model_init_v3(struct tiny_model *m, uint64_t seed, int n_audio_ctx, int n_text_ctx)
{
    init(m, seed, 128, 51866, n_audio_ctx, n_text_ctx);
}

void tiny_model_finish(struct tiny_model *m)
{
    for (int i = 0; i < m->n_tensors; i++)
        free(m->tensors[i].values);
    free(m->tensors);
}

static const struct tiny_tensor *find(const struct tiny_model *m, const char *name)
{
    for (int i = 0; i < m->n_tensors; i++) {
        if (!strcmp(m->tensors[i].name, name))
            return &m->tensors[i];
    }
    return NULL;
}

const float *tiny_model_tensor(const struct tiny_model *m, const char *name)
{
    const struct tiny_tensor *t = find(m, name);
    return t ? t->values : NULL;
}

int tiny_model_token(int id, char bytes[16])
{
    if (id < 256) {
        bytes[0] = (char)id;
        return 1;
    }
    return snprintf(bytes, 16, " w%d", id);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

struct writer {
    FILE *f;
    struct tiny_layout *layout;
};

static void put(struct writer *w, const char *what, const void *p, size_t n)
{
    struct tiny_layout *l = w->layout;
    if (l) {
        if (l->n == l->capacity) {
            l->capacity = 2 * l->capacity + 64;
            l->fields = realloc(l->fields, (size_t)l->capacity * sizeof(*l->fields));
        }
        l->fields[l->n++] = (struct tiny_field){what, (size_t)ftell(w->f), n};
    }
    if (n)
        assert_int_equal(fwrite(p, 1, n, w->f), n);
}

static void put_int(struct writer *w, const char *what, int32_t value)
{
    put(w, what, &value, sizeof(value));
}

static void put_values(struct writer *w, const float *values, size_t n, bool half)
{
    if (!half) {
        assert_int_equal(fwrite(values, sizeof(float), n, w->f), n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h = to_half(values[i]);
        assert_int_equal(fwrite(&h, sizeof(h), 1, w->f), 1);
    }
}

static void put_blocks(struct writer *w, const struct block_type *type, const float *values, size_t n)
{
    unsigned char block[BLOCK_BYTES_MAX];
    for (size_t i = 0; i < n; i += 32) {
        block_quantise(type, values + i, block);
        assert_int_equal(fwrite(block, (size_t)type->n_bytes, 1, w->f), 1);
    }
}

static size_t count(const struct tiny_tensor *t)
{
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= (size_t)t->dims[i];
    return n;
}

static void open_writer(struct writer *w, const char *path, struct tiny_layout *layout)
{
    if (layout)
        *layout = (struct tiny_layout){0};
    w->layout = layout;
    w->f = fopen(path, "wb");
    assert_non_null(w->f);
}

static void put_ggml_header(struct writer *w, const struct tiny_model *m, int ftype)
{
    static const float filters[128 * 201] = {1.0f};
    const struct whisper_dims *d = &m->dims;
    struct tiny_layout *layout = w->layout;
    put_int(w, "magic", 0x67676d6c);
    put_int(w, "n_vocab", d->n_vocab);
    put_int(w, "n_audio_ctx", d->n_audio_ctx);
    put_int(w, "n_audio_state", d->n_audio_state);
    put_int(w, "n_audio_head", d->n_audio_head);
    put_int(w, "n_audio_layer", d->n_audio_layer);
    put_int(w, "n_text_ctx", d->n_text_ctx);
    put_int(w, "n_text_state", d->n_text_state);
    put_int(w, "n_text_head", d->n_text_head);
    put_int(w, "n_text_layer", d->n_text_layer);
    put_int(w, "n_mels", d->n_mels);
    put_int(w, "ftype", ftype);
    put_int(w, "filter rows", d->n_mels);
    put_int(w, "filter columns", 201);
    put_values(w, filters, (size_t)d->n_mels * 201, false);
    put_int(w, "tokens", m->n_words);
    for (int i = 0; i < m->n_words; i++) {
        char bytes[16];
        w->layout = i < 3 ? layout : NULL; /* a few say as much as all of them */
        int n = tiny_model_token(i, bytes);
        put_int(w, "token length", n);
        put(w, "token", bytes, (size_t)n);
    }
    w->layout = layout;
}

/* As whisper.cpp's converter: one-dimensional tensors stay single, a convolution's bias is a column. And as its quantiser:
 * of the matrices, the positions stay what they were. */
static void put_ggml_tensor(struct writer *w, const struct tiny_tensor *t, bool half,
                            const struct block_type *type)
{
    bool column = !strcmp(t->name, "encoder.conv1.bias") || !strcmp(t->name, "encoder.conv2.bias");
    bool as_half = half && t->n_dims > 1;
    bool as_blocks = type && t->n_dims == 2 && !strstr(t->name, "positional");
    put_int(w, "dimensions", t->n_dims + column);
    put_int(w, "name length", (int)strlen(t->name));
    put_int(w, "type", as_blocks ? type->number : as_half);
    if (column)
        put_int(w, "column", 1);
    for (int k = t->n_dims - 1; k >= 0; k--)
        put_int(w, "dimension", t->dims[k]);
    put(w, "name", t->name, strlen(t->name));
    put(w, "data", NULL, 0);
    if (as_blocks)
        put_blocks(w, type, t->values, count(t));
    else
        put_values(w, t->values, count(t), as_half);
}

static void write_ggml(const struct tiny_model *m, const char *path, bool half, const struct block_type *type,
                       struct tiny_layout *layout)
{
    struct writer w;
    open_writer(&w, path, layout);
    put_ggml_header(&w, m, type ? 2000 : half);
    for (int i = 0; i < m->n_tensors; i++)
        put_ggml_tensor(&w, &m->tensors[i], half, type);
    assert_int_equal(fclose(w.f), 0);
}

void tiny_model_write_ggml(const struct tiny_model *m, const char *path, bool half,
                           struct tiny_layout *layout)
{
    write_ggml(m, path, half, NULL, layout);
}

void tiny_model_write_blocks(const struct tiny_model *m, const char *path, const struct block_type *type,
                             struct tiny_layout *layout)
{
    write_ggml(m, path, true, type, layout);
}

static void put_string(struct writer *w, const char *what, const char *text)
{
    uint16_t n = (uint16_t)(strlen(text) + 1);
    put(w, "string length", &n, sizeof(n));
    put(w, what, text, n);
}

/* A variable of the rows of up to three tensors, or of zeros where one of them is NULL (the bias of keys). */
static void put_variable(struct writer *w, const char *name, const struct tiny_tensor *const *parts,
                         int n_parts, bool half)
{
    const struct tiny_tensor *first = parts[0];
    uint8_t n_dims = (uint8_t)first->n_dims, type = half ? 4 : 0;
    size_t n = count(first);
    put_string(w, "variable", name);
    put(w, "dimensions", &n_dims, 1);
    for (int i = 0; i < first->n_dims; i++)
        put_int(w, "dimension", i == 0 ? n_parts * first->dims[0] : first->dims[i]);
    put(w, "type", &type, 1);
    put_int(w, "bytes", (int32_t)((size_t)n_parts * n * (half ? 2 : 4)));
    put(w, "data", NULL, 0);
    float *zeros = calloc(n, sizeof(float));
    for (int i = 0; i < n_parts; i++)
        put_values(w, parts[i] ? parts[i]->values : zeros, n, half);
    free(zeros);
}

static void put_scalar(struct writer *w, const char *name, int16_t value)
{
    uint8_t n_dims = 0, type = 2;
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

/* Writes the variables of one layer and returns their number; counts only if w is NULL. */
static int put_layer(struct writer *w, const struct tiny_model *m, const char *side, int index, bool half)
{
    int n = 0;
    for (int i = 0; i < COUNT(layer); i++) {
        const struct tiny_tensor *parts[3] = {NULL};
        char name[96];
        for (int k = 0; k < layer[i].n; k++) {
            snprintf(name, sizeof(name), "%s.blocks.%d.%s", side, index,
                     layer[i].openai[k] ? layer[i].openai[k] : "");
            parts[k] = find(m, name);
        }
        if (!parts[0])
            continue;
        n++;
        snprintf(name, sizeof(name), "%s/layer_%d/%s", side, index, layer[i].ct2);
        if (w)
            put_variable(w, name, parts, layer[i].n, half);
    }
    /* The fused bias of cross-attention begins with the one that keys do not have. */
    char name[96];
    snprintf(name, sizeof(name), "%s.blocks.%d.cross_attn.value.bias", side, index);
    const struct tiny_tensor *value = find(m, name);
    if (!value)
        return n;
    struct tiny_tensor zero = *value;
    zero.values = calloc(count(value), sizeof(float));
    snprintf(name, sizeof(name), "%s/layer_%d/attention/linear_1/bias", side, index);
    if (w)
        put_variable(w, name, (const struct tiny_tensor *[]){&zero, value}, 2, half);
    free(zero.values);
    return n + 1;
}

static void write_model_bin(const struct tiny_model *m, const char *path, bool half,
                            struct tiny_layout *layout)
{
    struct writer w;
    open_writer(&w, path, layout);
    put_int(&w, "version", 6);
    put_string(&w, "specification", "WhisperSpec");
    put_int(&w, "revision", 3);
    int n = COUNT(top) + 4;
    for (int i = 0; i < 2; i++)
        n += put_layer(NULL, m, "encoder", i, half) + put_layer(NULL, m, "decoder", i, half);
    put_int(&w, "variables", n);
    put_scalar(&w, "encoder/num_heads", (int16_t)m->dims.n_audio_head);
    put_scalar(&w, "decoder/num_heads", (int16_t)m->dims.n_text_head);
    put_scalar(&w, "decoder/pre_norm", 1);
    put_scalar(&w, "something/unknown", 7);
    for (int i = 0; i < COUNT(top); i++) {
        const struct tiny_tensor *t = find(m, top[i].openai[0]);
        put_variable(&w, top[i].ct2, &t, 1, half);
    }
    for (int i = 0; i < 2; i++) {
        put_layer(&w, m, "encoder", i, half);
        put_layer(&w, m, "decoder", i, half);
    }
    put_int(&w, "aliases", 1);
    put_string(&w, "alias", "decoder/projection/weight");
    put_string(&w, "target", "decoder/embeddings/weight");
    assert_int_equal(fclose(w.f), 0);
}

/* GPT-2's bytes_to_unicode, step by step as in its source. */
static void byte_alphabet(int code_point[256])
{
    int next = 256;
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
        code_point[b] = itself ? b : next++;
    }
}

static void write_tokenizer(const struct tiny_model *m, const char *path)
{
    int alphabet[256];
    byte_alphabet(alphabet);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fprintf(f, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int i = 0; i < m->n_words; i++) {
        char bytes[16];
        int n = tiny_model_token(i, bytes);
        fprintf(f, "%s\"", i ? "," : "");
        for (int k = 0; k < n; k++)
            fprintf(f, "\\u%04x", alphabet[(unsigned char)bytes[k]]);
        fprintf(f, "\":%d", i);
    }
    fprintf(f, "}}}");
    assert_int_equal(fclose(f), 0);
}

void tiny_model_write_ct2(const struct tiny_model *m, const char *folder, bool half,
                          struct tiny_layout *layout)
{
    char path[512];
    mkdir(folder, 0700);
    snprintf(path, sizeof(path), "%s/model.bin", folder);
    write_model_bin(m, path, half, layout);
    snprintf(path, sizeof(path), "%s/tokenizer.json", folder);
    write_tokenizer(m, path);
    snprintf(path, sizeof(path), "%s/config.json", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fprintf(f, "{\"alignment_heads\": [[1, 1], [1, 0]], \"lang_ids\": []}");
    assert_int_equal(fclose(f), 0);
}

void tiny_layout_finish(struct tiny_layout *l)
{
    free(l->fields);
}

const char *tiny_folder(void)
{
    static char path[256];
    const char *base = getenv("TMPDIR");
    snprintf(path, sizeof(path), "%s/captiond-test-XXXXXX", base && base[0] ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    return path;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void tiny_folder_remove(const char *folder)
{
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}
