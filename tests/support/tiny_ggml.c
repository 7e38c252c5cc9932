/* ggml files as whisper.cpp's converter and quantiser write them. */
#include <stdbool.h>
#include <string.h>

#include "tests/support/support.h"
#include "tests/support/tiny_writer.h"

static void put_blocks(struct writer *w, const struct block_type *type, const float *values, size_t n)
{
    unsigned char block[BLOCK_BYTES_MAX];
    for (size_t i = 0; i < n; i += 32) {
        block_quantise(type, values + i, block);
        assert_int_equal(fwrite(block, (size_t)type->n_bytes, 1, w->f), 1);
    }
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
    put_values(w, filters, (size_t)d->n_mels * 201, TINY_F32);
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
        put_blocks(w, type, t->values, tiny_tensor_count(t));
    else
        put_values(w, t->values, tiny_tensor_count(t), as_half ? TINY_F16 : TINY_F32);
}

static void write_ggml(const struct tiny_model *m, const char *path, bool half, const struct block_type *type,
                       struct tiny_layout *layout)
{
    struct writer w;
    writer_open(&w, path, layout);
    put_ggml_header(&w, m, type ? 2000 : half);
    for (int i = 0; i < m->n_tensors; i++)
        put_ggml_tensor(&w, &m->tensors[i], half, type);
    writer_close(&w);
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
