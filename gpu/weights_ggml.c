/* ggml .bin files, as whisper.cpp publishes them: a header, the mel filterbank, the bytes of the text tokens, then
 * tensors under OpenAI's names until the end. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/weights_file.h"

#define MAGIC  0x67676d6cu
#define N_BINS 201 /* of a spectrum over 400 samples */
/* ftype counts the layouts that quantised blocks have had in thousands. What the first two looked like is past. */
#define LAYOUT_FACTOR  1000
#define LAYOUT_CURRENT 2

static int read_header(struct cursor *c, struct whisper_dims *d, int *layout)
{
    uint32_t magic = 0;
    int r = cursor_u32(c, "magic", &magic), ftype = 0;
    if (r == 0 && magic != MAGIC)
        return weights_damaged(c->file, 0, "magic", c->err, "0x%08x is no ggml file's 0x%08x", magic, MAGIC);
    const struct {
        const char *name;
        int low, high, *value;
    } fields[] = {
        {"n_vocab", 51864, 51866, &d->n_vocab},
        {"n_audio_ctx", 1, RUN_AUDIO_FRAMES, &d->n_audio_ctx},
        {"n_audio_state", 64, 2048, &d->n_audio_state},
        {"n_audio_head", 1, 32, &d->n_audio_head},
        {"n_audio_layer", 1, WHISPER_LAYERS_MAX, &d->n_audio_layer},
        {"n_text_ctx", 2, RUN_TOKENS_MAX, &d->n_text_ctx},
        {"n_text_state", 64, 2048, &d->n_text_state},
        {"n_text_head", 1, 32, &d->n_text_head},
        {"n_text_layer", 1, WHISPER_LAYERS_MAX, &d->n_text_layer},
        {"n_mels", 80, 128, &d->n_mels},
        {"ftype", 0, 99999, &ftype},
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]) && r == 0; i++)
        r = cursor_i32(c, fields[i].name, fields[i].low, fields[i].high, fields[i].value);
    *layout = ftype / LAYOUT_FACTOR; /* the type itself is said again by each tensor */
    return r;
}

static int read_filters(struct cursor *c, struct weights *w)
{
    int rows, cols;
    int r = cursor_i32(c, "mel filter rows", w->dims.n_mels, w->dims.n_mels, &rows);
    if (r == 0)
        r = cursor_i32(c, "mel filter columns", N_BINS, N_BINS, &cols);
    if (r != 0)
        return r;
    size_t n = (size_t)rows * (size_t)cols, at = c->at;
    r = cursor_skip(c, n * sizeof(float), "mel filters");
    if (r != 0)
        return r;
    w->mel_filters = malloc(n * sizeof(float));
    if (!w->mel_filters)
        return err_set(c->err, -ENOMEM, "%s: out of memory", w->path);
    r = model_file_read(c->file, at, w->mel_filters, n * sizeof(float), c->err);
    if (r != 0)
        return r;
    bool finite = true;
    for (size_t i = 0; i < n; i++)
        finite = finite && isfinite(w->mel_filters[i]);
    if (!finite)
        return weights_damaged(c->file, at, "mel filters", c->err, "not all of the numbers are finite");
    return 0;
}

static int read_vocabulary(struct cursor *c, struct weights *w)
{
    int n, n_bytes, eot = whisper_eot(w->dims.n_vocab);
    int r = cursor_i32(c, "number of tokens", 1, w->dims.n_vocab, &n);
    if (r == 0 && vocabulary_init(&w->vocabulary, eot) < 0)
        return err_set(c->err, -ENOMEM, "%s: out of memory", w->path);
    for (int id = 0; id < n && r == 0; id++) {
        const unsigned char *p;
        r = cursor_i32(c, "length of a token", 0, TOKEN_BYTES_MAX, &n_bytes);
        if (r == 0)
            r = cursor_bytes(c, (size_t)n_bytes, "token", &p);
        if (r == 0 && id < eot && vocabulary_set(&w->vocabulary, id, (const char *)p, (size_t)n_bytes) < 0)
            return err_set(c->err, -ENOMEM, "%s: out of memory", w->path);
    }
    return r;
}

static const struct {
    const char *name;
    const struct codec *codec; /* NULL: known by name only */
} types[] = {
    {"f32", &codec_f32}, {"f16", &codec_f16},   {"q4_0", &codec_q4_0}, {"q4_1", &codec_q4_1}, {"q4_2", NULL},
    {"q4_3", NULL},      {"q5_0", &codec_q5_0}, {"q5_1", &codec_q5_1}, {"q8_0", &codec_q8_0}, {"q8_1", NULL},
    {"q2_K", NULL},      {"q3_K", NULL},        {"q4_K", NULL},        {"q5_K", NULL},        {"q6_K", NULL},
};

static int find_codec(struct cursor *c, size_t at, int type, int layout, const struct codec **codec)
{
    bool known = type >= 0 && type < (int)(sizeof(types) / sizeof(types[0]));
    *codec = known ? types[type].codec : NULL;
    if (!*codec)
        return weights_damaged(c->file, at, "type of a tensor", c->err,
                               "%d (%s) is not supported: f32, f16, q4_0, q4_1, q5_0, q5_1 and q8_0 are",
                               type, known ? types[type].name : "unknown");
    if ((*codec)->block > 1 && layout != LAYOUT_CURRENT)
        return weights_damaged(
            c->file, at, "type of a tensor", c->err,
            "%s in layout %d instead of %d: quantise the model again with a newer whisper.cpp",
            (*codec)->name, layout, LAYOUT_CURRENT);
    return 0;
}

static int read_tensor(struct cursor *c, int layout, struct tensor *t)
{
    const unsigned char *name;
    int name_length, type, dim;
    size_t at;
    int r = cursor_i32(c, "number of dimensions", 1, TENSOR_DIMS_MAX, &t->n_dims);
    if (r == 0)
        r = cursor_i32(c, "length of a tensor's name", 1, TENSOR_NAME_MAX - 1, &name_length);
    at = c->at;
    if (r == 0)
        r = cursor_i32(c, "type of a tensor", INT32_MIN, INT32_MAX, &type);
    for (int i = 0; i < t->n_dims && r == 0; i++) {
        r = cursor_i32(c, "dimension of a tensor", 1, INT32_MAX, &dim);
        t->dims[t->n_dims - 1 - i] = (uint32_t)dim; /* the file has the fastest first */
    }
    if (r == 0)
        r = cursor_bytes(c, (size_t)name_length, "name of a tensor", &name);
    if (r != 0)
        return r;
    memcpy(t->name, name, (size_t)name_length);
    t->file = c->file;
    t->offset = c->at;
    r = find_codec(c, at, type, layout, &t->codec);
    if (r == 0 && t->codec && !tensor_bytes(t->codec, t->dims, t->n_dims, &t->bytes))
        r = weights_damaged(c->file, at, "dimensions of a tensor", c->err,
                            "absurdly large, or no whole blocks of %s", t->codec->name);
    return r < 0 ? r : cursor_skip(c, t->bytes, "tensor");
}

static int parse(struct weights *w, struct err *err)
{
    struct cursor c;
    int layout = 0;
    cursor_init(&c, &w->files[0], err);
    int r = read_header(&c, &w->dims, &layout);
    if (r == 0)
        r = read_filters(&c, w);
    if (r == 0)
        r = read_vocabulary(&c, w);
    if (r == 0)
        r = weights_take_tensors(w, err);
    while (r == 0 && c.at < c.file->size) {
        if (w->n_tensors == TENSORS_MAX)
            return weights_damaged(c.file, c.at, "tensor", err, "there are more than %d", TENSORS_MAX);
        r = read_tensor(&c, layout, &w->tensors[w->n_tensors]);
        w->n_tensors += r == 0;
    }
    return r < 0 ? r : weights_sort(w, err);
}

static bool find(const struct weights *w, const char *name, struct tensor *t)
{
    const struct tensor *found = weights_lookup(w, name);
    if (found)
        *t = *found;
    return found;
}

const struct weights_format weights_ggml = {.parse = parse, .find = find, .exact = true};
