/* What a window's transcript is told about: hotwords, an initial prompt, and the text before it.
 *
 * All of it stands between <|startofprev|> and <|startoftranscript|>, after OpenAI's whisper/transcribe.py; hotwords
 * come first in every window, as in faster-whisper. Plain data; any thread, one at a time. */
#ifndef CAPTIOND_DECODER_PROMPT_H
#define CAPTIOND_DECODER_PROMPT_H

#include "daemon/base/err.h"
#include "daemon/base/run.h"
#include "decoder/tokenizer.h"

struct prompt {
    int most;                      /* text tokens that there is room for: n_text_ctx / 2 − 1 */
    int32_t fixed[RUN_TOKENS_MAX]; /* what every window is told */
    int n_fixed;
    int32_t history[RUN_TOKENS_MAX]; /* the newest output */
    int n_history;
    int n_cut; /* tokens that prompt_init was given and had no room for */
};

/* hotwords and initial may be NULL. The initial prompt counts as the output before the first window; where `carry` is
 * set every window is told of it. What does not fit is cut: of hotwords and of a
 * carried prompt the last tokens, else of the prompt the first.
 * 0; -E2BIG for more than 64 KiB of text; -ENOMEM. */
int prompt_init(struct prompt *, const struct tokenizer *, int n_text_ctx, const char *hotwords,
                const char *initial, bool carry, struct err *);

/* For passes that are always told of the same: the tokens of hotwords and then of a prompt, in out [room]; either may be NULL.
 * Returns their number; -E2BIG, naming both numbers, where there are more (nothing is cut); -ENOMEM. */
int prompt_tell(const struct tokenizer *, const char *hotwords, const char *prompt, int32_t *out, int room,
                struct err *);

/* Adds output; forgets all output and what counts as such. */
void prompt_remember(struct prompt *, const int32_t *tokens, int n);
void prompt_forget(struct prompt *);

/* Writes the prompt with its <|startofprev|>, if there is anything to tell, to out (room for most + 1). Returns the
 * number of tokens. */
int prompt_build(const struct prompt *, int32_t sot_prev, int32_t *out);

#endif
