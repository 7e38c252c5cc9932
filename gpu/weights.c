/* Opening a model, and the check that every tensor of the graph is there. */
#include "gpu/weights.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gpu/weights_file.h"

/* --- what the graph needs --------------------------------------------------------------------------------------- */

enum dim { NONE, MELS, AUDIO_CTX, AUDIO, AUDIO_4, VOCAB, TEXT_CTX, TEXT, TEXT_4, TAPS, N_DIM };
enum repeat { ONCE, ENCODER_LAYER, DECODER_LAYER };

struct requirement {
    enum repeat repeat;
    const char *name; /* after encoder.blocks.N. or decoder.blocks.N. for layers */
    enum dim dims[3];
};

static const struct requirement requirements[] = {
    {ONCE, "encoder.conv1.weight", {AUDIO, MELS, TAPS}},
    {ONCE, "encoder.conv1.bias", {AUDIO}},
    {ONCE, "encoder.conv2.weight", {AUDIO, AUDIO, TAPS}},
    {ONCE, "encoder.conv2.bias", {AUDIO}},
    {ONCE, "encoder.positional_embedding", {AUDIO_CTX, AUDIO}},
    {ONCE, "encoder.ln_post.weight", {AUDIO}},
    {ONCE, "encoder.ln_post.bias", {AUDIO}},
    {ENCODER_LAYER, "attn_ln.weight", {AUDIO}},
    {ENCODER_LAYER, "attn_ln.bias", {AUDIO}},
    {ENCODER_LAYER, "attn.query.weight", {AUDIO, AUDIO}},
    {ENCODER_LAYER, "attn.query.bias", {AUDIO}},
    {ENCODER_LAYER, "attn.key.weight", {AUDIO, AUDIO}},
    {ENCODER_LAYER, "attn.value.weight", {AUDIO, AUDIO}},
    {ENCODER_LAYER, "attn.value.bias", {AUDIO}},
    {ENCODER_LAYER, "attn.out.weight", {AUDIO, AUDIO}},
    {ENCODER_LAYER, "attn.out.bias", {AUDIO}},
    {ENCODER_LAYER, "mlp_ln.weight", {AUDIO}},
    {ENCODER_LAYER, "mlp_ln.bias", {AUDIO}},
    {ENCODER_LAYER, "mlp.0.weight", {AUDIO_4, AUDIO}},
    {ENCODER_LAYER, "mlp.0.bias", {AUDIO_4}},
    {ENCODER_LAYER, "mlp.2.weight", {AUDIO, AUDIO_4}},
    {ENCODER_LAYER, "mlp.2.bias", {AUDIO}},
    {ONCE, "decoder.token_embedding.weight", {VOCAB, TEXT}},
    {ONCE, "decoder.positional_embedding", {TEXT_CTX, TEXT}},
    {ONCE, "decoder.ln.weight", {TEXT}},
    {ONCE, "decoder.ln.bias", {TEXT}},
    {DECODER_LAYER, "attn_ln.weight", {TEXT}},
    {DECODER_LAYER, "attn_ln.bias", {TEXT}},
    {DECODER_LAYER, "attn.query.weight", {TEXT, TEXT}},
    {DECODER_LAYER, "attn.query.bias", {TEXT}},
    {DECODER_LAYER, "attn.key.weight", {TEXT, TEXT}},
    {DECODER_LAYER, "attn.value.weight", {TEXT, TEXT}},
    {DECODER_LAYER, "attn.value.bias", {TEXT}},
    {DECODER_LAYER, "attn.out.weight", {TEXT, TEXT}},
    {DECODER_LAYER, "attn.out.bias", {TEXT}},
    {DECODER_LAYER, "cross_attn_ln.weight", {TEXT}},
    {DECODER_LAYER, "cross_attn_ln.bias", {TEXT}},
    {DECODER_LAYER, "cross_attn.query.weight", {TEXT, TEXT}},
    {DECODER_LAYER, "cross_attn.query.bias", {TEXT}},
    {DECODER_LAYER, "cross_attn.key.weight", {TEXT, AUDIO}},
    {DECODER_LAYER, "cross_attn.value.weight", {TEXT, AUDIO}},
    {DECODER_LAYER, "cross_attn.value.bias", {TEXT}},
    {DECODER_LAYER, "cross_attn.out.weight", {TEXT, TEXT}},
    {DECODER_LAYER, "cross_attn.out.bias", {TEXT}},
    {DECODER_LAYER, "mlp_ln.weight", {TEXT}},
    {DECODER_LAYER, "mlp_ln.bias", {TEXT}},
    {DECODER_LAYER, "mlp.0.weight", {TEXT_4, TEXT}},
    {DECODER_LAYER, "mlp.0.bias", {TEXT_4}},
    {DECODER_LAYER, "mlp.2.weight", {TEXT, TEXT_4}},
    {DECODER_LAYER, "mlp.2.bias", {TEXT}},
};

/* Some writers give biases a further dimension of 1, which says nothing. */
static bool same_shape(const struct tensor *t, const enum dim *dims, const uint32_t *sizes)
{
    int i = 0, k = 0;
    for (;;) {
        while (i < t->n_dims && t->dims[i] == 1)
            i++;
        while (k < 3 && dims[k] != NONE && sizes[dims[k]] == 1)
            k++;
        bool more = i < t->n_dims, wanted = k < 3 && dims[k] != NONE;
        if (!more || !wanted)
            return more == wanted;
        if (t->dims[i++] != sizes[dims[k++]])
            return false;
    }
}

static int check_tensor(const struct weights *w, const char *name, const struct requirement *q,
                        const uint32_t *sizes, struct err *err)
{
    struct tensor t;
    if (!w->format->find(w, name, &t))
        return err_set(err, -EINVAL, "%s: tensor %s is missing", w->path, name);
    if (!same_shape(&t, q->dims, sizes)) {
        char found[64] = "", wanted[64] = "";
        for (int i = 0, n = 0; i < t.n_dims; i++)
            n += snprintf(found + n, sizeof(found) - (size_t)n, "%s%u", i ? " × " : "", t.dims[i]);
        for (int i = 0, n = 0; i < 3 && q->dims[i] != NONE; i++)
            n += snprintf(wanted + n, sizeof(wanted) - (size_t)n, "%s%u", i ? " × " : "", sizes[q->dims[i]]);
        return weights_damaged(t.file, t.offset, name, err, "the shape is %s instead of %s", found, wanted);
    }
    if (!t.codec->decode)
        return weights_damaged(t.file, t.offset, name, err, "numbers of type %s are not supported",
                               t.codec->name);
    if (t.codec->scaled && !t.n_scales)
        return weights_damaged(t.file, t.offset, name, err, "numbers of type %s without a scale",
                               t.codec->name);
    return 0;
}

static int check_tensors(const struct weights *w, struct err *err)
{
    const struct whisper_dims *d = &w->dims;
    const uint32_t sizes[N_DIM] = {
        [MELS] = (uint32_t)d->n_mels,
        [AUDIO_CTX] = (uint32_t)d->n_audio_ctx,
        [AUDIO] = (uint32_t)d->n_audio_state,
        [AUDIO_4] = 4 * (uint32_t)d->n_audio_state,
        [VOCAB] = (uint32_t)d->n_vocab,
        [TEXT_CTX] = (uint32_t)d->n_text_ctx,
        [TEXT] = (uint32_t)d->n_text_state,
        [TEXT_4] = 4 * (uint32_t)d->n_text_state,
        [TAPS] = 3,
    };
    int n_needed = 0;
    for (size_t i = 0; i < sizeof(requirements) / sizeof(requirements[0]); i++) {
        const struct requirement *q = &requirements[i];
        int n = q->repeat == ONCE ? 1 : q->repeat == ENCODER_LAYER ? d->n_audio_layer : d->n_text_layer;
        n_needed += n;
        for (int layer = 0; layer < n; layer++) {
            char name[96];
            if (q->repeat == ONCE)
                snprintf(name, sizeof(name), "%s", q->name);
            else
                snprintf(name, sizeof(name), "%s.blocks.%d.%s",
                         q->repeat == ENCODER_LAYER ? "encoder" : "decoder", layer, q->name);
            int r = check_tensor(w, name, q, sizes, err);
            if (r < 0)
                return r;
        }
    }
    if (w->format->exact && w->n_tensors != n_needed)
        return err_set(err, -EINVAL, "%s: %d tensors instead of the %d that its header asks for", w->path,
                       w->n_tensors, n_needed);
    return 0;
}

int whisper_eot(int n_vocab)
{
    return n_vocab == 51864 ? 50256 : n_vocab == 51865 || n_vocab == 51866 ? 50257 : -1;
}

static int check_dims(const struct weights *w, struct err *err)
{
    const struct whisper_dims *d = &w->dims;
    const struct {
        const char *name;
        int value, low, high;
    } limits[] = {
        {"audio context", d->n_audio_ctx, 1, RUN_AUDIO_FRAMES},
        {"text context", d->n_text_ctx, 2, RUN_TOKENS_MAX},
        {"audio layers", d->n_audio_layer, 1, WHISPER_LAYERS_MAX},
        {"text layers", d->n_text_layer, 1, WHISPER_LAYERS_MAX},
        {"audio state", d->n_audio_state, 64, 2048},
        {"text state", d->n_text_state, 64, 2048},
        {"audio heads", d->n_audio_head, 1, 32},
        {"text heads", d->n_text_head, 1, 32},
    };
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        if (limits[i].value < limits[i].low || limits[i].value > limits[i].high)
            return err_set(err, -EINVAL, "%s: %s: %d is not between %d and %d", w->path, limits[i].name,
                           limits[i].value, limits[i].low, limits[i].high);
    }
    if (whisper_eot(d->n_vocab) < 0)
        return err_set(err, -EINVAL, "%s: vocabulary: %d tokens are not Whisper's 51864, 51865 or 51866",
                       w->path, d->n_vocab);
    if (d->n_mels != 80 && d->n_mels != 128)
        return err_set(err, -EINVAL, "%s: mel bins: %d are not Whisper's 80 or 128", w->path, d->n_mels);
    if (d->n_audio_state != d->n_text_state)
        return err_set(err, -EINVAL, "%s: audio state %d and text state %d differ", w->path, d->n_audio_state,
                       d->n_text_state);
    if (d->n_audio_state != 64 * d->n_audio_head || d->n_text_state != 64 * d->n_text_head)
        return err_set(err, -EINVAL, "%s: heads: %d and %d heads of 64 do not make up a state of %d", w->path,
                       d->n_audio_head, d->n_text_head, d->n_audio_state);
    return 0;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static bool has(const char *folder, const char *file)
{
    char *path;
    struct stat st;
    bool found = asprintf(&path, "%s/%s", folder, file) >= 0;
    if (!found)
        return false;
    found = stat(path, &st) == 0;
    free(path);
    return found;
}

static int choose_in_folder(struct weights *w, const char *folder, struct err *err)
{
    static const struct {
        const char *file;
        const struct weights_format *format;
    } choices[] = {
        {"model.bin", &weights_ct2},
        {"model.safetensors.index.json", &weights_safetensors},
        {"model.safetensors", &weights_safetensors},
    };
    for (size_t i = 0; i < sizeof(choices) / sizeof(choices[0]); i++) {
        if (!has(folder, choices[i].file))
            continue;
        w->format = choices[i].format;
        if (!(w->folder = strdup(folder)))
            return err_set(err, -ENOMEM, "%s: out of memory", folder);
        if (asprintf(&w->path, "%s/%s", folder, choices[i].file) >= 0)
            return 0;
        w->path = NULL;
        return err_set(err, -ENOMEM, "%s: out of memory", folder);
    }
    return err_set(
        err, -ENOENT, "%s: there is neither a model.bin (CTranslate2) nor a model.safetensors%s", folder,
        has(folder, "pytorch_model.bin") ? ": pytorch_model.bin has to be converted to safetensors" : "");
}

/* By what a single file begins with. */
static int choose_by_content(struct weights *w, struct err *err)
{
    unsigned char head[18] = {0};
    const struct model_file *file = &w->files[0];
    int r = model_file_read(file, 0, head, file->size < sizeof(head) ? file->size : sizeof(head), err);
    if (r < 0)
        return r;
    bool safetensors = head[8] == '{' && !memcmp(head + 4, "\0\0\0\0", 4);
    if (!memcmp(head, "lmgg", 4)) {
        w->format = &weights_ggml;
        return 0;
    }
    if (!memcmp(head, "GGUF", 4))
        return err_set(err, -EINVAL, "%s: GGUF is not supported: whisper.cpp's own .bin files are", w->path);
    if (!memcmp(head, "PK\3\4", 4) || !memcmp(head, "\x80\2", 2))
        return err_set(err, -EINVAL, "%s: PyTorch's files are not supported: convert it to safetensors",
                       w->path);
    if (!safetensors && memcmp(head + 6, "WhisperSpec", 12) != 0)
        return err_set(err, -EINVAL, "%s: no model file: neither ggml, CTranslate2 nor safetensors", w->path);
    w->format = safetensors ? &weights_safetensors : &weights_ct2;
    const char *slash = strrchr(w->path, '/');
    w->folder = slash ? strndup(w->path, (size_t)(slash - w->path) + (slash == w->path)) : strdup(".");
    return w->folder ? 0 : err_set(err, -ENOMEM, "%s: out of memory", w->path);
}

static int choose_format(struct weights *w, const char *path, struct err *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        int r = choose_in_folder(w, path, err);
        assert(r < 0 || w->path);
        bool listed =
            r == 0 && strstr(w->path + strlen(path), ".index.json"); /* the format opens what is listed */
        return r < 0 || listed ? r : weights_add_file(w, w->path, err);
    }
    if (!(w->path = strdup(path)))
        return err_set(err, -ENOMEM, "%s: out of memory", path);
    int r = weights_add_file(w, path, err);
    return r < 0 ? r : choose_by_content(w, err);
}

/* Messages quote what a file says; a terminal or a log must not take it for its own. */
static void make_printable(char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
    }
}

int weights_open(const char *path, struct weights **out, struct err *err)
{
    struct weights *w = calloc(1, sizeof(*w));
    if (!w)
        return err_set(err, -ENOMEM, "%s: out of memory", path);
    int r = choose_format(w, path, err);
    assert(r < 0 || w->format);
    if (r == 0)
        r = w->format->parse(w, err);
    if (r == 0)
        r = check_dims(w, err);
    if (r == 0)
        r = check_tensors(w, err);
    if (r < 0) {
        if (err)
            make_printable(err->msg);
        weights_close(w);
        return r;
    }
    weights_choose_align_heads(w);
    *out = w;
    return 0;
}

int weights_check(const char *path, struct err *err)
{
    struct weights *w = NULL;
    int r = weights_open(path, &w, err);
    weights_close(w);
    return r;
}

void weights_close_files(struct weights *w)
{
    for (; w->n_files > 0; w->n_files--) {
        close(w->files[w->n_files - 1].fd);
        free(w->files[w->n_files - 1].path);
    }
    free(w->tensors);
    w->tensors = NULL;
    w->n_tensors = 0;
}

void weights_close(struct weights *w)
{
    if (!w)
        return;
    weights_close_files(w);
    free(w->mel_filters);
    free(w->vocabulary.tokens);
    free(w->vocabulary.bytes);
    free(w->folder);
    free(w->path);
    free(w);
}

const char *weights_folder(const struct weights *w)
{
    return w->folder;
}

const char *weights_file(const struct weights *w, int i)
{
    return i >= 0 && i < w->n_files ? w->files[i].path : NULL;
}

const struct whisper_dims *weights_dims(const struct weights *w)
{
    return &w->dims;
}

int weights_align_heads(const struct weights *w, const struct align_head **heads)
{
    *heads = w->align;
    return w->n_align;
}

const float *weights_mel_filters(const struct weights *w)
{
    return w->mel_filters;
}

/* --- numbers ---------------------------------------------------------------------------------------------------- */

#define CHUNK                                                                                                \
    16384 /* numbers: a whole number of blocks, and what is read stays in the cache until it is decoded */

/* Divides the numbers first … first + n − 1 of a tensor of rows of `row`. */
static int apply_scales(const struct tensor *t, size_t row, size_t first, size_t n, float *dst,
                        struct err *err)
{
    float scale = 1.0f;
    for (size_t i = 0, next = 0; i < n; i++) {
        if (i == next) {
            size_t k = t->n_scales > 1 ? (first + i) / row : 0;
            int r = model_file_read(t->file, t->scales + k * sizeof(scale), &scale, sizeof(scale), err);
            if (r < 0)
                return r;
            if (!(scale > 0.0f && scale <= 3.4e38f))
                return weights_damaged(t->file, t->scales + k * sizeof(scale), "scale", err,
                                       "%g is not positive", (double)scale);
            next = t->n_scales > 1 ? i + row - (first + i) % row : n;
        }
        dst[i] /= scale;
    }
    return 0;
}

static int read_numbers(const struct tensor *t, size_t n, float *dst, struct err *err)
{
    unsigned char bytes[CHUNK * sizeof(float)];
    const struct codec *codec = t->codec;
    size_t row = t->n_dims ? n / t->dims[0] : 1;
    for (size_t done = 0; done < n;) {
        size_t part = n - done < CHUNK ? n - done : CHUNK;
        size_t offset = t->offset + done / codec->block * codec->block_bytes;
        int r = model_file_read(t->file, offset, bytes, part / codec->block * codec->block_bytes, err);
        if (r < 0)
            return r;
        bool finite = codec->decode(bytes, part, dst + done);
        if (finite && codec->scaled)
            r = apply_scales(t, row, done, part, dst + done, err);
        if (r < 0)
            return r;
        for (size_t i = 0; !finite && i < part; i += codec->block) {
            size_t at = i / codec->block * codec->block_bytes;
            if (!codec->decode(bytes + at, codec->block, dst + done + i))
                return weights_damaged(t->file, offset + at, t->name, err, "number %zu is not finite",
                                       done + i);
        }
        done += part;
    }
    return 0;
}

int weights_read(const struct weights *w, const char *name, float *dst, size_t n, struct err *err)
{
    struct tensor t;
    size_t count;
    if (!w->n_tensors || !w->format->find(w, name, &t))
        return err_set(err, -ENOENT, "%s: tensor %s is missing", w->path, name);
    if (!tensor_count(t.dims, t.n_dims, &count) || count != n)
        return weights_damaged(t.file, t.offset, name, err, "it does not have %zu numbers", n);
    return read_numbers(&t, n, dst, err);
}

const char *weights_token_bytes(const struct weights *w, int32_t id, size_t *n_bytes)
{
    const struct vocabulary *v = &w->vocabulary;
    if (id < 0 || id >= v->n || v->tokens[id].n_bytes == 0)
        return NULL;
    *n_bytes = v->tokens[id].n_bytes;
    return v->bytes + v->tokens[id].start;
}
