/* CTranslate2 folders: model.bin with the tensors, config.json with the alignment heads, tokenizer.json with the
 * vocabulary. Variables that the graph does not need are ignored. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "gpu/weights_file.h"

#define JSON_BYTES_MAX (64 << 20)
#define ALIASES_MAX    1024

/* --- model.bin -------------------------------------------------------------------------------------------------- */

/* A length that counts the final NUL, then the bytes. The text is borrowed from the mapping. */
static int read_string(struct cursor *c, const char *what, const char **text)
{
    uint16_t n = 0;
    const unsigned char *p;
    size_t at = c->at;
    int r = cursor_u16(c, what, &n);
    if (r == 0)
        r = cursor_bytes(c, n, what, &p);
    if (r != 0)
        return r;
    if (n < 2 || memchr(p, 0, n) != p + n - 1)
        return weights_damaged(c->w, at, what, c->err, "not a text with a NUL at its end");
    *text = (const char *)p;
    return 0;
}

static int read_header(struct cursor *c, uint32_t *n_variables)
{
    uint32_t version = 0, revision = 0;
    const char *spec = "";
    int r = cursor_u32(c, "version", &version);
    if (r == 0 && version != 6)
        return weights_damaged(c->w, 0, "version", c->err,
                               "%u is not 6: convert the model with a newer CTranslate2", version);
    size_t at = c->at;
    if (r == 0)
        r = read_string(c, "specification", &spec);
    if (r == 0 && strcmp(spec, "WhisperSpec") != 0)
        return weights_damaged(c->w, at, "specification", c->err, "not a Whisper model");
    at = c->at;
    if (r == 0)
        r = cursor_u32(c, "revision", &revision);
    if (r == 0 && revision != 3)
        return weights_damaged(c->w, at, "revision", c->err, "%u is not 3", revision);
    at = c->at;
    if (r == 0)
        r = cursor_u32(c, "number of variables", n_variables);
    if (r == 0 && (*n_variables == 0 || *n_variables > TENSORS_MAX))
        return weights_damaged(c->w, at, "number of variables", c->err, "%u is not between 1 and %d",
                               *n_variables, TENSORS_MAX);
    return r;
}

static const struct codec *codec_of(uint8_t type)
{
    static const struct codec *const codecs[] = {&codec_f32, &codec_i8,  &codec_i16,
                                                 &codec_i32, &codec_f16, &codec_bf16};
    return type < sizeof(codecs) / sizeof(codecs[0]) ? codecs[type] : NULL;
}

static int read_variable(struct cursor *c, struct tensor *t)
{
    uint8_t n_dims = 0, type = 0;
    uint32_t bytes = 0;
    const unsigned char *data;
    int r = read_string(c, "name of a variable", &t->name);
    size_t at = c->at;
    if (r == 0)
        r = cursor_u8(c, "number of dimensions", &n_dims);
    if (r == 0 && n_dims > TENSOR_DIMS_MAX)
        return weights_damaged(c->w, at, "number of dimensions", c->err, "%u is more than %d", n_dims,
                               TENSOR_DIMS_MAX);
    for (int i = 0; i < n_dims && r == 0; i++)
        r = cursor_u32(c, "dimension of a variable", &t->dims[i]);
    if (r != 0)
        return r;
    at = c->at;
    r = cursor_u8(c, "type of a variable", &type);
    if (r == 0 && !(t->codec = codec_of(type)))
        return weights_damaged(c->w, at, "type of a variable", c->err, "%u is unknown", type);
    at = c->at;
    if (r == 0)
        r = cursor_u32(c, "size of a variable", &bytes);
    if (r != 0)
        return r;
    t->name_length = strlen(t->name);
    t->n_dims = n_dims;
    t->offset = c->at;
    if (!tensor_bytes(t->codec, t->dims, t->n_dims, &t->bytes) || t->bytes != bytes)
        return weights_damaged(c->w, at, t->name, c->err, "the size %u does not fit shape and type", bytes);
    return cursor_bytes(c, t->bytes, t->name, &data);
}

/* Aliases only say that the output projection is the token embedding, which it is in every Whisper. */
static int read_aliases(struct cursor *c)
{
    uint32_t n = 0;
    size_t at = c->at;
    int r = cursor_u32(c, "number of aliases", &n);
    if (r == 0 && n > ALIASES_MAX)
        return weights_damaged(c->w, at, "number of aliases", c->err, "%u is more than %d", n, ALIASES_MAX);
    for (uint32_t i = 0; i < n && r == 0; i++) {
        const char *alias, *target;
        r = read_string(c, "alias", &alias);
        if (r == 0)
            r = read_string(c, "target of an alias", &target);
    }
    if (r == 0 && c->at != c->w->size)
        return weights_damaged(c->w, c->at, "end", c->err, "%zu more bytes follow", c->w->size - c->at);
    return r;
}

static int read_model(struct weights *w, struct err *err)
{
    struct cursor c = {.w = w, .err = err};
    uint32_t n = 1;
    int r = read_header(&c, &n);
    if (r != 0)
        return r;
    w->tensors = calloc(n, sizeof(*w->tensors));
    if (!w->tensors)
        return err_set(err, -ENOMEM, "%s: out of memory", w->path);
    for (; w->n_tensors < (int)n && r == 0; w->n_tensors++)
        r = read_variable(&c, &w->tensors[w->n_tensors]);
    if (r == 0)
        r = read_aliases(&c);
    return r < 0 ? r : weights_sort(w, err);
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
        return weights_damaged(w, t->offset, name, err, "it has %d dimensions instead of %d", t->n_dims,
                               n_dims);
    *value = t->dims[index] <= INT32_MAX ? (int)t->dims[index] : 0;
    return 0;
}

/* A flag or count; `fallback` where the file does not have it. */
static int read_scalar(const struct weights *w, const char *name, int fallback, int *value, struct err *err)
{
    const struct tensor *t = weights_lookup(w, name);
    int16_t i16;
    int32_t i32;
    *value = fallback;
    if (!t)
        return 0;
    const unsigned char *p = w->data + t->offset;
    if (t->codec == &codec_i8 && t->bytes == 1) {
        *value = p[0] < 128 ? p[0] : p[0] - 256;
    } else if (t->codec == &codec_i16 && t->bytes == sizeof(i16)) {
        memcpy(&i16, p, sizeof(i16));
        *value = i16;
    } else if (t->codec == &codec_i32 && t->bytes == sizeof(i32)) {
        memcpy(&i32, p, sizeof(i32));
        *value = i32;
    } else {
        return weights_damaged(w, t->offset, name, err, "not a whole number");
    }
    return 0;
}

static int require_scalar(const struct weights *w, const char *name, int wanted, struct err *err)
{
    int value, r = read_scalar(w, name, wanted, &value, err);
    if (r == 0 && value != wanted)
        return weights_damaged(w, weights_lookup(w, name)->offset, name, err, "%d is not Whisper's %d", value,
                               wanted);
    return r;
}

/* One more than the greatest index of a layer that any variable names, so that a missing layer is found missing. */
static int count_layers(const struct weights *w, const char *side)
{
    int n = 0;
    for (int i = 0; i < w->n_tensors; i++) {
        const char *name = w->tensors[i].name; /* NUL-terminated in this format */
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
    return true;
}

static bool find_file_name(const struct weights *w, const char *file_name, const struct renaming *r,
                           struct tensor *t)
{
    const struct tensor *found = weights_lookup(w, file_name);
    if (!found)
        return false;
    *t = *found;
    return take_part(t, r->part, r->n_parts);
}

static bool find(const struct weights *w, const char *name, struct tensor *t)
{
    static const struct renaming whole = {.n_parts = 1};
    char file_name[128], layer[32] = "";
    int index, length = 0;
    const char *side = !strncmp(name, "encoder.", 8)   ? "encoder"
                       : !strncmp(name, "decoder.", 8) ? "decoder"
                                                       : NULL;
    if (!side)
        return false;
    const char *stem = name + 8;
    if (!strcmp(stem, "positional_embedding")) {
        snprintf(file_name, sizeof(file_name), "%s/position_encodings/encodings", side);
        return find_file_name(w, file_name, &whole, t);
    }
    bool layered = sscanf(stem, "blocks.%d.%n", &index, &length) == 1 && length > 0;
    if (layered)
        snprintf(layer, sizeof(layer), "layer_%d/", index);
    stem += length;
    const char *kind = strrchr(stem, '.');
    const struct renaming *r = layered ? in_layer : once;
    size_t n = layered ? sizeof(in_layer) / sizeof(in_layer[0]) : sizeof(once) / sizeof(once[0]);
    if (!kind)
        return false;
    for (; n > 0; n--, r++) {
        if (strlen(r->openai) == (size_t)(kind - stem) && !strncmp(r->openai, stem, (size_t)(kind - stem)))
            break;
    }
    bool weight = !strcmp(kind, ".weight");
    if (n == 0 || (!weight && strcmp(kind, ".bias") != 0))
        return false;
    if (!strcmp(kind, ".bias") && strstr(r->openai, "attn.key"))
        return false; /* zeros in the file; OpenAI's model has none */
    snprintf(file_name, sizeof(file_name), "%s/%s%s/%s", side, layer, r->ct2,
             r->norm ? (weight ? "gamma" : "beta") : (weight ? "weight" : "bias"));
    return find_file_name(w, file_name, r, t);
}

/* --- config.json and tokenizer.json ----------------------------------------------------------------------------- */

static int load_json(const struct weights *w, const char *file, json_t **root, struct err *err)
{
    char *path;
    if (asprintf(&path, "%s/%s", w->folder, file) < 0)
        return err_set(err, -ENOMEM, "%s: out of memory", w->folder);
    struct stat st;
    json_error_t error;
    int r = 0;
    if (stat(path, &st) < 0)
        r = err_set(err, -errno, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode) || st.st_size > JSON_BYTES_MAX)
        r = err_set(err, -EINVAL, "%s: not a file of at most %d bytes", path, JSON_BYTES_MAX);
    else if (!(*root = json_load_file(path, 0, &error)))
        r = err_set(err, -EINVAL, "%s: byte %d: %s", path, error.position, error.text);
    free(path);
    return r;
}

static int add_head(struct weights *w, const json_t *pair, int index, struct err *err)
{
    const json_t *layer = json_array_get(pair, 0), *head = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(layer) || !json_is_integer(head))
        return err_set(err, -EINVAL, "%s/config.json: alignment_heads[%d] is not a pair of numbers",
                       w->folder, index);
    json_int_t l = json_integer_value(layer), h = json_integer_value(head);
    if (l < 0 || l >= w->dims.n_text_layer || h < 0 || h >= w->dims.n_text_head)
        return err_set(err, -EINVAL, "%s/config.json: alignment_heads[%d]: the model has no such head",
                       w->folder, index);
    for (int i = 0; i < w->n_align; i++) {
        if (w->align[i].layer == (int)l && w->align[i].head == (int)h)
            return err_set(err, -EINVAL, "%s/config.json: alignment_heads[%d] is there twice", w->folder,
                           index);
    }
    w->align[w->n_align++] = (struct align_head){(int)l, (int)h};
    return 0;
}

static int read_heads(struct weights *w, const json_t *heads, struct err *err)
{
    if (!heads || json_is_null(heads))
        return 0;
    if (!json_is_array(heads) || json_array_size(heads) > RUN_ALIGN_HEADS)
        return err_set(err, -EINVAL, "%s/config.json: alignment_heads is not an array of at most %d",
                       w->folder, RUN_ALIGN_HEADS);
    int r = 0;
    for (size_t i = 0; i < json_array_size(heads) && r == 0; i++)
        r = add_head(w, json_array_get(heads, i), (int)i, err);
    return r;
}

static int read_config(struct weights *w, struct err *err)
{
    json_t *root = NULL;
    int r = load_json(w, "config.json", &root, err);
    if (r == -ENOENT)
        return 0; /* the tables know the heads of every published size */
    if (r == 0)
        r = read_heads(w, json_object_get(root, "alignment_heads"), err);
    json_decref(root);
    return r;
}

/* GPT-2's byte-level alphabet: printable bytes stand for themselves, the other ones follow from U+0100 on. Returns
 * the byte for a code point, or −1. */
static int byte_of(uint32_t c)
{
    bool printable = (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
    if (printable)
        return (int)c;
    if (c < 0x100 || c > 0x143)
        return -1;
    uint32_t n = c - 0x100; /* 0–32, 127–160, 173 in this order */
    return n <= 32 ? (int)n : n <= 66 ? (int)(n - 33 + 127) : 173;
}

/* Code points below U+0800 are all that the alphabet has. jansson has checked that the text is UTF-8. Returns the number
 * of bytes, or −1. */
static int decode_token(const char *text, size_t length, char *bytes)
{
    int n = 0;
    for (size_t i = 0; i < length; n++) {
        uint32_t c = (unsigned char)text[i++];
        if (c >= 0x80) {
            if (c >= 0xe0 || i == length)
                return -1;
            c = (c & 0x1f) << 6 | ((unsigned char)text[i++] & 0x3f);
        }
        int byte = byte_of(c);
        if (byte < 0)
            return -1;
        bytes[n] = (char)byte;
    }
    return n;
}

static int add_token(struct weights *w, const char *text, const json_t *id, struct err *err)
{
    struct vocabulary *v = &w->vocabulary;
    char bytes[TOKEN_BYTES_MAX];
    size_t length = strlen(text);
    json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < 0 || value >= w->dims.n_vocab)
        return err_set(err, -EINVAL, "%s/tokenizer.json: the id of token \"%.64s\" is not below %d",
                       w->folder, text, w->dims.n_vocab);
    if (value >= v->n)
        return 0;
    int n = length <= sizeof(bytes) ? decode_token(text, length, bytes) : -1;
    if (n < 0)
        return err_set(err, -EINVAL, "%s/tokenizer.json: token %d is no text of byte-level BPE", w->folder,
                       (int)value);
    if (v->tokens[value].n_bytes)
        return err_set(err, -EINVAL, "%s/tokenizer.json: token %d is there twice", w->folder, (int)value);
    return vocabulary_set(v, (int)value, bytes, (size_t)n) < 0
               ? err_set(err, -ENOMEM, "%s: out of memory", w->folder)
               : 0;
}

static int read_vocabulary(struct weights *w, json_t *vocab, struct err *err)
{
    int eot = whisper_eot(w->dims.n_vocab);
    if (eot < 0)
        return 0; /* refused with the other dims */
    if (json_object_size(vocab) == 0)
        return err_set(err, -EINVAL, "%s/tokenizer.json: model.vocab is missing", w->folder);
    if (vocabulary_init(&w->vocabulary, eot) < 0)
        return err_set(err, -ENOMEM, "%s: out of memory", w->folder);
    const char *text;
    json_t *id;
    json_object_foreach(vocab, text, id)
    {
        int r = add_token(w, text, id, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_tokenizer(struct weights *w, struct err *err)
{
    json_t *root = NULL;
    int r = load_json(w, "tokenizer.json", &root, err);
    if (r == 0)
        r = read_vocabulary(w, json_object_get(json_object_get(root, "model"), "vocab"), err);
    json_decref(root);
    return r;
}

static int parse(struct weights *w, struct err *err)
{
    int r = read_model(w, err);
    if (r == 0)
        r = read_dims(w, err);
    if (r == 0)
        r = read_config(w, err);
    return r < 0 ? r : read_tokenizer(w, err);
}

const struct weights_format weights_ct2 = {.parse = parse, .find = find, .exact = false};
