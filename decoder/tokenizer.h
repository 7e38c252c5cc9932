/* Whisper's byte-level BPE and its special tokens.
 *
 * The ids of special tokens follow from the size of the vocabulary: 51,864 is English only; 51,865 has 99
 * languages; 51,866 has 100. Merge ranks are token ids, as in OpenAI's tiktoken files, so the bytes of every
 * token are all that is needed to encode. Immutable after create: any thread. */
#ifndef CAPTIOND_DECODER_TOKENIZER_H
#define CAPTIOND_DECODER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/err.h"

struct tokenizer;

/* Gives the bytes of text token `id`, borrowed until create returns; NULL for an id without text. */
typedef const char *(*token_bytes_fn)(const void *ctx, int32_t id, size_t *n_bytes);

/* Copies the vocabulary. 0; -EINVAL for a size that is no Whisper's; -ENOMEM. */
int tokenizer_create(int n_vocab, token_bytes_fn, const void *ctx, struct tokenizer **, struct err *);
void tokenizer_destroy(struct tokenizer *); /* NULL is accepted */

struct special_tokens {
    int32_t eot, sot, first_language, translate, transcribe, sot_lm, sot_prev, no_speech, no_timestamps;
    int32_t timestamp_begin;
    int n_languages; /* 99 or 100; 1 for English only, whose sequence has neither language nor task */
    bool multilingual;
};
const struct special_tokens *tokenizer_special(const struct tokenizer *);
int tokenizer_n_vocab(const struct tokenizer *);

/* The language token of an ISO code ("en", "de", "yue"), or −1 where this vocabulary lacks it; and back (NULL for
 * what is no language token). tokenizer_language_code knows names too: "german" gives "de", NULL if unknown. */
int32_t tokenizer_language_token(const struct tokenizer *, const char *code);
const char *tokenizer_token_language(const struct tokenizer *, int32_t token);
const char *tokenizer_language_code(const char *code_or_name);

/* Bytes of one token, "" for special ones. Not NUL-terminated, not necessarily valid UTF-8 by itself. */
const char *tokenizer_bytes(const struct tokenizer *, int32_t token, size_t *n_bytes);

/* Joins the text tokens (special ones and timestamps add nothing) into out, NUL-terminated and cut at capacity.
 * Returns the length of the whole text. */
size_t tokenizer_decode(const struct tokenizer *, const int32_t *tokens, int n, char *out, size_t capacity);

/* Encodes UTF-8 text as OpenAI's tokenizer does (special tokens in the text are ordinary characters). Returns the
 * number of tokens, at most `capacity` of which are written, or -ENOMEM, which only a run of more than 256 bytes
 * without a space can cause: shorter ones need no memory. */
int tokenizer_encode(const struct tokenizer *, const char *text, size_t n_bytes, int32_t *tokens,
                     int capacity);

#define TOKENIZER_SUPPRESSED_MAX 240

/* Takes lists of a model's own in place of those below; one that is empty leaves the other as it is. At most
 * TOKENIZER_SUPPRESSED_MAX tokens each. Only before others use the object. */
void tokenizer_set_suppressed(struct tokenizer *, const int32_t *tokens, int n, const int32_t *first,
                              int n_first);

/* The tokens that are never sampled: OpenAI's list of non-speech symbols or the model's own, and the special tokens
 * of the prompt, in no order. Returns their number, at most capacity (256 suffices). */
int tokenizer_suppressed(const struct tokenizer *, int32_t *tokens, int capacity);
/* In addition for the first sampled token: " " and eot, or the model's own. */
int tokenizer_suppressed_first(const struct tokenizer *, int32_t *tokens, int capacity);

#endif
