/* A small Whisper with random weights, as a file in each format, and a straightforward double-precision
 * implementation of it: what the loaders and the graph are tested against where no real model is. */
#ifndef CAPTIOND_TESTS_TINY_MODEL_H
#define CAPTIOND_TESTS_TINY_MODEL_H

#include <stdbool.h>

#include "gpu/whisper.h"
#include "tests/support/blocks.h"

struct tiny_tensor {
    char name[64]; /* OpenAI's */
    int dims[3], n_dims;
    float *values; /* exactly representable as half floats */
};

struct tiny_model {
    struct whisper_dims dims;
    struct tiny_tensor *tensors;
    int n_tensors;
    int n_words; /* tokens in the vocabulary's file, from id 0 on */
};

/* 2 + 2 layers, 2 heads of 64, 80 mel bins, 51,864 tokens; n_audio_ctx and n_text_ctx as given. */
void tiny_model_init(struct tiny_model *, uint64_t seed, int n_audio_ctx, int n_text_ctx);
/* The same with large-v3's 128 mel bins and 51,866 tokens. */
void tiny_model_init_v3(struct tiny_model *, uint64_t seed, int n_audio_ctx, int n_text_ctx);
void tiny_model_finish(struct tiny_model *);
const float *tiny_model_tensor(const struct tiny_model *, const char *name);

/* The bytes of a token of its vocabulary: one byte for ids below 256, " w" and the id for the others. */
int tiny_model_token(int id, char bytes[16]);

/* Where something of a file's structure lies (not the numbers of the tensors). */
struct tiny_field {
    const char *what;
    size_t offset, n_bytes;
};

struct tiny_layout {
    struct tiny_field *fields;
    int n, capacity;
};

/* Write the model. `layout` may be NULL; it is freed with tiny_layout_finish. */
void tiny_model_write_ggml(const struct tiny_model *, const char *path, bool half,
                           struct tiny_layout *layout);
/* A quantised ggml file. */
void tiny_model_write_blocks(const struct tiny_model *, const char *path, const struct block_type *,
                             struct tiny_layout *layout);
void tiny_model_write_ct2(const struct tiny_model *, const char *folder, bool half,
                          struct tiny_layout *layout);
void tiny_layout_finish(struct tiny_layout *);

/* A new folder under $TMPDIR for a test's files; static storage. Removed with all that is in it by tiny_folder_remove. */
const char *tiny_folder(void);
void tiny_folder_remove(const char *folder);

/* --- the network in double precision ------------------------------------------------------------------------------ */

/* Log-mel [2 · n_audio_ctx, n_mels] of n samples followed by zeros. */
void naive_mel(const struct tiny_model *, const float *pcm, int n, double *mel);
/* The encoder's output [n_audio_ctx, n_state]. */
void naive_encode(const struct tiny_model *, const double *mel, double *out);
/* Logits after each of n tokens, [n, n_vocab], and cross-attention weights [n, n_text_layer, n_head, n_audio_ctx] (may
 * be NULL). */
void naive_decode(const struct tiny_model *, const double *audio, const int32_t *tokens, int n,
                  double *logits, double *cross);

#endif
