/* The state of a text slot, in engine memory: what sampling reads and advances from token to token.
 *
 * Plain data with fixed widths, laid out alike for C and for device code. Uploaded when a run begins,
 * advanced by engine operations, downloaded when it ends.
 *
 * Life of a run: the host uploads tokens = prompt + draft, n_tokens = n_prompt, n_draft, limits and rules. The
 * first pass feeds positions n_cached … n_prompt + n_draft − 1 at once. select() chooses for the rows from
 * n_prompt − 1 on; advance() compares with the draft: while chosen == tokens[n_tokens] the token is accepted
 * (n_tokens++, n_accepted++); then the choice itself is appended (n_tokens++) and n_draft becomes 0. Each later
 * pass feeds tokens[n_tokens − 1] and appends one token. After each append, in this order: a token equal to
 * eot sets done = SLOT_DONE_EOT; n_tokens − n_prompt == max_tokens sets SLOT_DONE_LIMIT; n_tokens == n_ctx sets
 * SLOT_DONE_CTX. An accepted draft token goes through the same checks. */
#ifndef CAPTIOND_GPU_SLOT_H
#define CAPTIOND_GPU_SLOT_H

#include <stdint.h>

#include "daemon/base/run.h"

enum { SLOT_ACTIVE = 0, SLOT_DONE_EOT = 1, SLOT_DONE_LIMIT = 2, SLOT_DONE_CTX = 3 };

struct slot_state {
    struct token_rules rules;
    int32_t audio;    /* audio slot */
    int32_t n_frames; /* valid positions of the audio slot */
    int32_t n_ctx;    /* text context */
    int32_t n_prompt;
    int32_t n_tokens; /* tokens that are certain */
    int32_t n_draft;  /* guesses after them */
    int32_t n_accepted;
    int32_t n_steps; /* passes that advanced this slot */
    int32_t sample_begin;
    int32_t max_tokens;
    int32_t done;
    int32_t probe_token, probe_index;
    float probe_prob;
    int32_t tokens[RUN_TOKENS_MAX];
    float logprobs[RUN_TOKENS_MAX]; /* of the produced tokens, by index */
};

#endif
