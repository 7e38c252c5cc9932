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
    uint64_t seed;
    struct tiny_tensor *tensors;
    int n_tensors;
    int n_words; /* tokens in the vocabulary's file, from id 0 on */
};

/* Any shape; dims->n_audio_state and n_text_state are the same. */
void tiny_model_init_dims(struct tiny_model *, uint64_t seed, const struct whisper_dims *dims);
/* 2 + 2 layers, 2 heads of 64, 80 mel bins, 51,864 tokens; n_audio_ctx and n_text_ctx as given. */
void tiny_model_init(struct tiny_model *, uint64_t seed, int n_audio_ctx, int n_text_ctx);
/* The same with large-v3's 128 mel bins and 51,866 tokens. */
void tiny_model_init_v3(struct tiny_model *, uint64_t seed, int n_audio_ctx, int n_text_ctx);
/* 70 frames, 448 positions, and a text that is sure: between random weights' tokens, which are nearly as probable as one another,
 * half floats may choose otherwise than single ones. Here the end of text and 40 words alone have logits other than 0, far
 * apart, and which word comes depends on its place and on the sound. */
void tiny_model_init_sure(struct tiny_model *);
void tiny_model_finish(struct tiny_model *);
const struct tiny_tensor *tiny_model_find(const struct tiny_model *, const char *name); /* NULL: not there */
const float *tiny_model_tensor(const struct tiny_model *, const char *name);

/* Nearly normal numbers, always the same ones for a name and a seed; tools/golden/shapes.py makes the same. */
void tiny_model_noise(const char *name, uint64_t seed, float deviation, float *values, size_t n);
size_t tiny_tensor_count(const struct tiny_tensor *);

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

enum tiny_type { TINY_F32, TINY_F16, TINY_BF16 };
uint16_t to_bf16(float); /* of a finite number, rounded to nearest even */

/* Write the model. `layout` may be NULL; it is freed with tiny_layout_finish. */
void tiny_model_write_ggml(const struct tiny_model *, const char *path, bool half,
                           struct tiny_layout *layout);
/* A quantised ggml file. */
void tiny_model_write_blocks(const struct tiny_model *, const char *path, const struct block_type *,
                             struct tiny_layout *layout);
void tiny_model_write_ct2(const struct tiny_model *, const char *folder, bool half,
                          struct tiny_layout *layout);
/* bits: 8 or 16 for quantised matrices, with what is left in `type`; 0 for none. */
void tiny_model_write_ct2_as(const struct tiny_model *, const char *folder, enum tiny_type type, int bits,
                             struct tiny_layout *layout);
/* What quantised numbers are divided by: of a row of 8 bits, of a whole variable of 16. */
float tiny_ct2_scale(int bits, const float *values, size_t n);
/* A Hugging Face folder, as transformers saves it; in several files if n_shards > 1. */
void tiny_model_write_safetensors(const struct tiny_model *, const char *folder, enum tiny_type type,
                                  int n_shards, struct tiny_layout *layout);
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
