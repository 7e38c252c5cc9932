/* Trained weights and vocabulary of a Whisper model file, checked before use.
 *
 * Formats, told apart by what is there and by what a file begins with:
 *   ggml .bin file               f32, f16, q4_0, q4_1, q5_0, q5_1, q8_0
 *   Hugging Face folder          f32, f16, bf16; model.safetensors, or several files and their index; config.json,
 *                                generation_config.json, tokenizer.json or vocab.json
 *   CTranslate2 folder           f32, f16, bf16, int8, int8_float*, int16; model.bin, config.json, tokenizer.json or
 *                                vocabulary.json
 *
 * Tensors are asked for by OpenAI's names (encoder.blocks.0.attn.query.weight …), whatever the file calls them and
 * however it fuses them, and are delivered as f32 in OpenAI's layout. One thread at a time. */
#ifndef CAPTIOND_GPU_WEIGHTS_H
#define CAPTIOND_GPU_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/base/err.h"
#include "daemon/base/run.h"
#include "gpu/whisper.h"

#define WHISPER_LAYERS_MAX 64 /* large has 32 */

struct weights;

struct align_head {
    int layer, head;
};

/* Opens and checks a model, given as its folder or file: every size and offset lies within a file, every tensor of the
 * graph is there with the expected shape, every number of the header is plausible. 0; -ENOENT; -EINVAL with a message
 * that names the file, the field and the offset; -ENOMEM. */
int weights_open(const char *path, struct weights **, struct err *);
void weights_close(struct weights *); /* NULL is accepted; invalidates all that was borrowed */

/* What weights_open says of a model, of which nothing stays open. */
int weights_check(const char *path, struct err *);

/* Closes the files once their tensors have been read. Dims, heads, filters and vocabulary stay. */
void weights_close_files(struct weights *);

/* What the model consists of: its folder, NULL for a ggml file; and its files of tensors, the i-th or NULL from their number
 * on, until they are closed. Borrowed. */
const char *weights_folder(const struct weights *);
const char *weights_file(const struct weights *, int i);

const struct whisper_dims *weights_dims(const struct weights *);

/* The end of text, which is the first id that is no text, in a vocabulary of n_vocab; −1 for a size that is no
 * Whisper's. */
int whisper_eot(int n_vocab);

/* Alignment heads: config.json's, else OpenAI's table for the known sizes, else the later half of all heads.
 * Sorted by layer, then head. Returns their number, at most RUN_ALIGN_HEADS. */
int weights_align_heads(const struct weights *, const struct align_head **heads);

/* Copies tensor `name`, which must have n elements, to dst. 0; -ENOENT; -EINVAL (other size, NaN or
 * infinity, a file that has become shorter); another negative errno of a read that failed. */
int weights_read(const struct weights *, const char *name, float *dst, size_t n, struct err *);

/* The mel filterbank [n_mels, 201] of the file if it carries one (ggml), else NULL. */
const float *weights_mel_filters(const struct weights *);

/* The bytes of text token `id` (0 ≤ id < eot), borrowed; NULL for special tokens and ids that the vocabulary
 * lacks. */
const char *weights_token_bytes(const struct weights *, int32_t id, size_t *n_bytes);

#endif
