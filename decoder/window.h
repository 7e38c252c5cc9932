/* Decoding of one encoded window of a recording: prompt, temperatures, the best of several samples, after OpenAI's
 * whisper/decoding.py and decode_with_fallback in whisper/transcribe.py. Part of longform.c's state. */
#ifndef CAPTIOND_DECODER_WINDOW_H
#define CAPTIOND_DECODER_WINDOW_H

#include <stddef.h>
#include <stdint.h>

#include "decoder/longform.h"
#include "decoder/prompt.h"
#include "decoder/quality.h"

#define WINDOW_AUDIO_SLOT 0
#define WINDOW_SAMPLES    8                      /* most samples at a temperature above 0 */
#define WINDOW_TEXT_MAX   (RUN_TOKENS_MAX * 128) /* bytes; the longest tokens of the vocabularies have 128 */

/* One decoding of a window. */
struct attempt {
    int32_t tokens[RUN_TOKENS_MAX];
    float logprobs[RUN_TOKENS_MAX];
    int n_tokens; /* without eot */
    float temperature;
    struct quality quality;
};

struct window {
    struct text_model *model;
    const struct tokenizer *tokenizer;
    const struct longform_options *options;
    struct quality_limits limits;
    int n_samples; /* at temperatures above 0 */

    int32_t start[4]; /* start of transcript, language, task, no timestamps */
    int n_start;
    struct prompt before; /* what the window is told */
    int32_t prompt[RUN_TOKENS_MAX];
    int n_prompt;

    struct attempt attempts[WINDOW_SAMPLES]; /* the result is attempts[0] */
    struct attempt best;                     /* of the temperatures that failed */
    char text[WINDOW_TEXT_MAX + 1], clean[3 * WINDOW_TEXT_MAX + 1];
    int n_steps, n_fallbacks; /* in all windows */
};

/* The object is zeroed and the start tokens are set by the caller. */
int window_init(struct window *, struct text_model *, const struct tokenizer *,
                const struct longform_options *, struct err *);

/* Tells the engine the masks, without which it decodes nothing. */
int window_set_masks(struct window *, struct err *);

/* Decodes the audio in WINDOW_AUDIO_SLOT into attempts[0]. The same seed gives the same samples. */
int window_decode(struct window *, uint64_t seed, struct err *);

/* The text of some tokens as valid UTF-8, borrowed until the next call. *blank tells whether it is white space only. */
const char *window_text(struct window *, const int32_t *tokens, int n, bool *blank);

#endif
