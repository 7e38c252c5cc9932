/* CTranslate2 folders: model.bin with the tensors, config.json with the alignment heads, tokenizer.json with the
 * vocabulary. Variables that the graph does not need are ignored. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/weights_file.h"
#include "gpu/weights_json.h"

#define STRING_MAX 1024 /* with the NUL */

/* --- model.bin -------------------------------------------------------------------------------------------------- */

/* A length that counts the final NUL, then the bytes. */
static int read_string(struct cursor *c, const char *what, char text[STRING_MAX])
{
    uint16_t n = 0;
    const unsigned char *p;
    size_t at = c->at;
    int r = cursor_u16(c, what, &n);
    if (r == 0 && (n < 2 || n > STRING_MAX))
        return weights_damaged(c->file, at, what, c->err, "a text of %d bytes", n - 1);
    if (r == 0)
        r = cursor_bytes(c, n, what, &p);
    if (r != 0)
        return r;
    if (memchr(p, 0, n) != p + n - 1)
        return weights_damaged(c->file, at, what, c->err, "not a text with a NUL at its end");
    memcpy(text, p, n);
    return 0;
}

static int read_header(struct cursor *c, uint32_t *n_variables)
{
    uint32_t version = 0, revision = 0;
    char spec[STRING_MAX] = "";
    int r = cursor_u32(c, "version", &version);
    if (r == 0 && version != 6)
        return weights_damaged(c->file, 0, "version", c->err,
                               "%u is not 6: convert the model with a newer CTranslate2", version);
    size_t at = c->at;
    if (r == 0)
        r = read_string(c, "specification", spec);
    if (r == 0 && strcmp(spec, "WhisperSpec") != 0)
        return weights_damaged(c->file, at, "specification", c->err, "not a Whisper model");
    at = c->at;
    if (r == 0)
        r = cursor_u32(c, "revision", &revision);
    if (r == 0 && revision != 3)
        return weights_damaged(c->file, at, "revision", c->err, "%u is not 3", revision);
    at = c->at;
    if (r == 0)
        r = cursor_u32(c, "number of variables", n_variables);
    if (r == 0 && (*n_variables == 0 || *n_variables > TENSORS_MAX))
        return weights_damaged(c->file, at, "number of variables", c->err, "%u is not between 1 and %d",
                               *n_variables, TENSORS_MAX);
    return r;
}

static const struct codec *codec_of(uint8_t type)
{
    static const struct codec *const codecs[] = {&codec_f32, &codec_i8,  &codec_i16,
                                                 &codec_i32, &codec_f16, &codec_bf16};
    return type < sizeof(codecs) / sizeof(codecs[0]) ? codecs[type] : NULL;
}

/* A name that is cut is none that will be asked for. */
static void set_name(struct tensor *t, const char *name)
{
    snprintf(t->name, sizeof(t->name), "%s", name);
}

static int read_variable(struct cursor *c, struct tensor *t)
{
    uint8_t n_dims = 0, type = 0;
    uint32_t bytes = 0;
    char name[STRING_MAX] = "";
    int r = read_string(c, "name of a variable", name);
    size_t at = c->at;
    if (r == 0)
        r = cursor_u8(c, "number of dimensions", &n_dims);
    if (r == 0 && n_dims > TENSOR_DIMS_MAX)
        return weights_damaged(c->file, at, "number of dimensions", c->err, "%u is more than %d", n_dims,
                               TENSOR_DIMS_MAX);
    for (int i = 0; i < n_dims && r == 0; i++)
        r = cursor_u32(c, "dimension of a variable", &t->dims[i]);
    if (r != 0)
        return r;
    at = c->at;
    r = cursor_u8(c, "type of a variable", &type);
    if (r == 0 && !(t->codec = codec_of(type)))
        return weights_damaged(c->file, at, "type of a variable", c->err, "%u is unknown", type);
    at = c->at;
    if (r == 0)
        r = cursor_u32(c, "size of a variable", &bytes);
    if (r != 0)
        return r;
    set_name(t, name);
    t->file = c->file;
    t->n_dims = n_dims;
    t->offset = c->at;
    if (!tensor_bytes(t->codec, t->dims, t->n_dims, &t->bytes) || t->bytes != bytes)
        return weights_damaged(c->file, at, name, c->err, "the size %u does not fit shape and type", bytes);
    return cursor_skip(c, t->bytes, name);
}

/* Variables that are equal are written once by the converter: most often the output projection, which is the token
 * embedding, but in an untrained model also its biases. The tensors are sorted. */
static int read_aliases(struct cursor *c, struct weights *w)
{
    uint32_t n = 0;
    int n_variables = w->n_tensors,
        n_aliases = 0; /* not counted in w until all are there: they are not sorted */
    size_t at = c->at;
    int r = cursor_u32(c, "number of aliases", &n);
    if (r == 0 && n > (uint32_t)(TENSORS_MAX - n_variables))
        return weights_damaged(c->file, at, "number of aliases", c->err, "%u is more than %d", n,
                               TENSORS_MAX - n_variables);
    for (uint32_t i = 0; i < n && r == 0; i++) {
        char alias[STRING_MAX], target[STRING_MAX];
        r = read_string(c, "alias", alias);
        at = c->at;
        if (r == 0)
            r = read_string(c, "target of an alias", target);
        if (r != 0)
            break;
        const struct tensor *t = weights_lookup(w, target);
        if (!t)
            return weights_damaged(c->file, at, "target of an alias", c->err, "there is no variable %.64s",
                                   target);
        struct tensor *copy = &w->tensors[n_variables + n_aliases++];
        *copy = *t;
        set_name(copy, alias);
    }
    w->n_tensors += n_aliases;
    if (r == 0 && c->at != c->file->size)
        return weights_damaged(c->file, c->at, "end", c->err, "%zu more bytes follow", c->file->size - c->at);
    return r;
}

/* A quantised variable NAME is divided by NAME_scale: one number for each row (int8) or for all (int16). */
static int attach_scales(struct weights *w, struct err *err)
{
    for (int i = 0; i < w->n_tensors; i++) {
        struct tensor *t = &w->tensors[i];
        char name[TENSOR_NAME_MAX + 8];
        size_t n;
        if (!t->codec->scaled || t->n_dims == 0)
            continue; /* a flag or a count */
        snprintf(name, sizeof(name), "%s_scale", t->name);
        const struct tensor *scale = weights_lookup(w, name);
        if (!scale)
            continue; /* refused if the graph needs it */
        if (scale->codec != &codec_f32 || !tensor_count(scale->dims, scale->n_dims, &n) ||
            (n != t->dims[0] && n != 1))
            return weights_damaged(scale->file, scale->offset, name, err,
                                   "neither one number of f32 nor one for each of %u rows", t->dims[0]);
        t->scales = scale->offset;
        t->n_scales = n;
    }
    return 0;
}

static int read_model(struct weights *w, struct err *err)
{
    struct cursor c;
    uint32_t n = 1;
    cursor_init(&c, &w->files[0], err);
    int r = read_header(&c, &n);
    if (r == 0)
        r = weights_take_tensors(w, err);
    while (w->n_tensors < (int)n && r == 0) {
        r = read_variable(&c, &w->tensors[w->n_tensors]);
        w->n_tensors += r == 0;
    }
    if (r == 0)
        r = weights_sort(w, err);
    if (r == 0)
        r = read_aliases(&c, w);
    if (r == 0)
        r = weights_sort(w, err);
    return r < 0 ? r : attach_scales(w, err);
}

/* --- the model's shape ------------------------------------------------------------------------------------------ */

/* Dimension `index` of a variable of n_dims; absurd ones become 0 and are refused with the other dims. */
static int read_dim(const struct weights *w, const char *name, int n_dims, int index, int *value,
                    struct err *err)
{
    const struct tensor *t = weights_lookup(w, name);
    if (!t)
        return err_set(err, -EINVAL, "%s: variable %s is missing", w->path, name);
    if (t->n_dims != n_dims)
        return weights_damaged(t->file, t->offset, name, err, "it has %d dimensions instead of %d", t->n_dims,
                               n_dims);
    *value = t->dims[index] <= INT32_MAX ? (int)t->dims[index] : 0;
    return 0;
}

/* A flag or count; `fallback` where the file does not have it. */
static int read_scalar(const struct weights *w, const char *name, int fallback, int *value, struct err *err)
{
    const struct tensor *t = weights_lookup(w, name);
    *value = fallback;
    if (!t)
        return 0;
    const struct codec *codec = t->codec;
    if ((codec != &codec_i8 && codec != &codec_i16 && codec != &codec_i32) || t->bytes != codec->block_bytes)
        return weights_damaged(t->file, t->offset, name, err, "not a whole number");
    uint32_t bits = 0;
    int r = model_file_read(t->file, t->offset, &bits, t->bytes, err);
    if (r == 0)
        *value = codec == &codec_i8 ? (int8_t)bits : codec == &codec_i16 ? (int16_t)bits : (int32_t)bits;
    return r;
}

static int require_scalar(const struct weights *w, const char *name, int wanted, struct err *err)
{
    int value, r = read_scalar(w, name, wanted, &value, err);
    if (r == 0 && value != wanted)
        return err_set(err, -EINVAL, "%s: %s: %d is not Whisper's %d", w->path, name, value, wanted);
    return r;
}

/* One more than the greatest index of a layer that any variable names, so that a missing layer is found missing. */
static int count_layers(const struct weights *w, const char *side)
{
    int n = 0;
    for (int i = 0; i < w->n_tensors; i++) {
        const char *name = w->tensors[i].name;
        size_t length = strlen(side);
        if (strncmp(name, side, length) != 0 || strncmp(name + length, "/layer_", 7) != 0)
            continue;
        long index = strtol(name + length + 7, NULL, 10);
        if (index >= n)
            n = index < WHISPER_LAYERS_MAX ? (int)index + 1
                                           : WHISPER_LAYERS_MAX + 1; /* refused with the dims */
    }
    return n;
}

static int read_dims(struct weights *w, struct err *err)
{
    struct whisper_dims *d = &w->dims;
    d->n_audio_layer = count_layers(w, "encoder");
    d->n_text_layer = count_layers(w, "decoder");
    int r = read_dim(w, "encoder/conv1/weight", 3, 0, &d->n_audio_state, err);
    if (r == 0)
        r = read_dim(w, "encoder/conv1/weight", 3, 1, &d->n_mels, err);
    if (r == 0)
        r = read_dim(w, "encoder/position_encodings/encodings", 2, 0, &d->n_audio_ctx, err);
    if (r == 0)
        r = read_dim(w, "decoder/position_encodings/encodings", 2, 0, &d->n_text_ctx, err);
    if (r == 0)
        r = read_dim(w, "decoder/embeddings/weight", 2, 0, &d->n_vocab, err);
    if (r == 0)
        r = read_dim(w, "decoder/embeddings/weight", 2, 1, &d->n_text_state, err);
    if (r == 0)
        r = read_scalar(w, "encoder/num_heads", d->n_audio_state / 64, &d->n_audio_head, err);
    if (r == 0)
        r = read_scalar(w, "decoder/num_heads", d->n_text_state / 64, &d->n_text_head, err);
    if (r == 0)
        r = require_scalar(w, "decoder/activation", 3, err); /* the erf GELU */
    if (r == 0)
        r = require_scalar(w, "decoder/pre_norm", 1, err);
    if (r == 0)
        r = require_scalar(w, "decoder/scale_embeddings", 0, err);
    return r;
}

/* --- names ------------------------------------------------------------------------------------------------------ */

struct renaming {
    const char *openai, *ct2;
    int part, n_parts; /* of the rows of a fused tensor */
    bool norm;         /* weight and bias are called gamma and beta */
};

static const struct renaming once[] = {
    {"conv1", "conv1", 0, 1, false},
    {"conv2", "conv2", 0, 1, false},
    {"ln_post", "layer_norm", 0, 1, true},
    {"ln", "layer_norm", 0, 1, true},
    {"token_embedding", "embeddings", 0, 1, false},
    {"positional_embedding", "position_encodings", 0, 1, false},
};

static const struct renaming in_layer[] = {
    {"attn_ln", "self_attention/layer_norm", 0, 1, true},
    {"attn.query", "self_attention/linear_0", 0, 3, false},
    {"attn.key", "self_attention/linear_0", 1, 3, false},
    {"attn.value", "self_attention/linear_0", 2, 3, false},
    {"attn.out", "self_attention/linear_1", 0, 1, false},
    {"cross_attn_ln", "attention/layer_norm", 0, 1, true},
    {"cross_attn.query", "attention/linear_0", 0, 1, false},
    {"cross_attn.key", "attention/linear_1", 0, 2, false},
    {"cross_attn.value", "attention/linear_1", 1, 2, false},
    {"cross_attn.out", "attention/linear_2", 0, 1, false},
    {"mlp_ln", "ffn/layer_norm", 0, 1, true},
    {"mlp.0", "ffn/linear_0", 0, 1, false},
    {"mlp.2", "ffn/linear_1", 0, 1, false},
};

/* Part `part` of n_parts equal parts of a tensor's rows. */
static bool take_part(struct tensor *t, int part, int n_parts)
{
    if (n_parts == 1)
        return true;
    if (t->n_dims == 0 || t->dims[0] % (uint32_t)n_parts != 0 || t->bytes % (size_t)n_parts != 0)
        return false;
    t->dims[0] /= (uint32_t)n_parts;
    t->bytes /= (size_t)n_parts;
    t->offset += (size_t)part * t->bytes;
    if (t->n_scales > 1) {
        t->n_scales /= (size_t)n_parts;
        t->scales += (size_t)part * t->n_scales * sizeof(float);
    }
    return true;
}

static bool find(const struct weights *w, const char *openai, struct tensor *t)
{
    struct tensor_name name;
    char file_name[TENSOR_NAME_MAX], layer[32] = "";
    if (!tensor_name_parse(openai, &name))
        return false;
    const struct renaming *r = name.layer < 0 ? once : in_layer;
    size_t n = name.layer < 0 ? sizeof(once) / sizeof(once[0]) : sizeof(in_layer) / sizeof(in_layer[0]);
    for (; n > 0 && strcmp(r->openai, name.stem) != 0; n--)
        r++;
    if (n == 0)
        return false;
    if (name.bias && strstr(r->openai, "attn.key"))
        return false; /* zeros in the file; OpenAI's model has none */
    bool positions = !strcmp(name.stem, "positional_embedding");
    const char *kind = positions   ? "encodings"
                       : r->norm   ? (name.bias ? "beta" : "gamma")
                       : name.bias ? "bias"
                                   : "weight";
    if (name.layer >= 0)
        snprintf(layer, sizeof(layer), "layer_%d/", name.layer);
    snprintf(file_name, sizeof(file_name), "%s/%s%s/%s", name.side, layer, r->ct2, kind);
    const struct tensor *found = weights_lookup(w, file_name);
    if (!found)
        return false;
    *t = *found;
    return take_part(t, r->part, r->n_parts);
}

static int parse(struct weights *w, struct err *err)
{
    int r = read_model(w, err);
    if (r == 0)
        r = read_dims(w, err);
    if (r == 0)
        r = weights_check_tied(w, "decoder/projection/weight", "decoder/embeddings/weight", err);
    if (r == 0)
        r = weights_read_heads(w, "config.json", err);
    return r < 0 ? r : weights_read_vocabulary(w, err);
}

const struct weights_format weights_ct2 = {.parse = parse, .find = find, .exact = false};
