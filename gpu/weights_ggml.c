/* ggml .bin files, as whisper.cpp publishes them: a header, the mel filterbank, the bytes of the text tokens, then
 * tensors under OpenAI's names until the end. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/weights_file.h"

#define MAGIC          0x67676d6cu
#define N_BINS         201 /* of a spectrum over 400 samples */
#define NAME_BYTES_MAX 128

static int read_header(struct cursor *c, struct whisper_dims *d)
{
    uint32_t magic = 0;
    int r = cursor_u32(c, "magic", &magic), ftype;
    if (r == 0 && magic != MAGIC)
        return weights_damaged(c->w, 0, "magic", c->err, "0x%08x is no ggml file's 0x%08x", magic, MAGIC);
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
        {"ftype", 0, 99999, &ftype}, /* each tensor says its own */
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]) && r == 0; i++)
        r = cursor_i32(c, fields[i].name, fields[i].low, fields[i].high, fields[i].value);
    return r;
}

static int read_filters(struct cursor *c, struct weights *w)
{
    int rows, cols;
    const unsigned char *p;
    int r = cursor_i32(c, "mel filter rows", w->dims.n_mels, w->dims.n_mels, &rows);
    if (r == 0)
        r = cursor_i32(c, "mel filter columns", N_BINS, N_BINS, &cols);
    if (r != 0)
        return r;
    size_t n = (size_t)rows * (size_t)cols, at = c->at;
    r = cursor_bytes(c, n * sizeof(float), "mel filters", &p);
    if (r != 0)
        return r;
    w->mel_filters = malloc(n * sizeof(float));
    if (!w->mel_filters)
        return err_set(c->err, -ENOMEM, "%s: out of memory", w->path);
    if (!codec_f32.decode(p, n, w->mel_filters))
        return weights_damaged(w, at, "mel filters", c->err, "not all of the numbers are finite");
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

static const struct codec *codec_of(int type)
{
    return type == 0 ? &codec_f32 : type == 1 ? &codec_f16 : NULL;
}

static int read_tensor(struct cursor *c, struct tensor *t)
{
    const unsigned char *name, *data;
    int name_length, type, dim;
    size_t at;
    int r = cursor_i32(c, "number of dimensions", 1, TENSOR_DIMS_MAX, &t->n_dims);
    if (r == 0)
        r = cursor_i32(c, "length of a tensor's name", 1, NAME_BYTES_MAX, &name_length);
    at = c->at;
    if (r == 0)
        r = cursor_i32(c, "type of a tensor", 0, INT32_MAX, &type);
    for (int i = 0; i < t->n_dims && r == 0; i++) {
        r = cursor_i32(c, "dimension of a tensor", 1, INT32_MAX, &dim);
        t->dims[t->n_dims - 1 - i] = (uint32_t)dim; /* the file has the fastest first */
    }
    if (r == 0)
        r = cursor_bytes(c, (size_t)name_length, "name of a tensor", &name);
    if (r != 0)
        return r;
    t->name = (const char *)name;
    t->name_length = (size_t)name_length;
    t->codec = codec_of(type);
    if (!t->codec)
        return weights_damaged(c->w, at, "type of a tensor", c->err,
                               "%d is not supported: f32 (0) and f16 (1) are", type);
    t->offset = c->at;
    if (!tensor_bytes(t->codec, t->dims, t->n_dims, &t->bytes))
        return weights_damaged(c->w, at, "dimensions of a tensor", c->err, "absurdly large");
    return cursor_bytes(c, t->bytes, "tensor", &data);
}

static int parse(struct weights *w, struct err *err)
{
    struct cursor c = {.w = w, .err = err};
    int r = read_header(&c, &w->dims);
    if (r == 0)
        r = read_filters(&c, w);
    if (r == 0)
        r = read_vocabulary(&c, w);
    if (r != 0)
        return r;
    w->tensors = calloc(TENSORS_MAX, sizeof(*w->tensors));
    if (!w->tensors)
        return err_set(err, -ENOMEM, "%s: out of memory", w->path);
    while (c.at < w->size) {
        if (w->n_tensors == TENSORS_MAX)
            return weights_damaged(w, c.at, "tensor", err, "there are more than %d", TENSORS_MAX);
        r = read_tensor(&c, &w->tensors[w->n_tensors]);
        if (r < 0)
            return r;
        w->n_tensors++;
    }
    return weights_sort(w, err);
}

static bool find(const struct weights *w, const char *name, struct tensor *t)
{
    const struct tensor *found = weights_lookup(w, name);
    if (found)
        *t = *found;
    return found;
}

const struct weights_format weights_ggml = {.parse = parse, .find = find, .exact = true};
