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
 * SLOT_DONE_CTX. An accepted draft token goes through the same checks.
 *
 * A beam search has the slots first_slot … first_slot + n_beams − 1, and the beam_state of its first slot. Each slot
 * holds one hypothesis; all of them have the same length and are in order, the most probable first. The host
 * uploads the prompt to all of them and feeds it to the first one alone, whose row's candidates the first
 * beam_advance makes into hypotheses. Later passes feed a row for each hypothesis, which stores its key and value in
 * its own slot at its position. When hypotheses change places, histories move and keys stay where they are: kv_slot
 * tells for each position of a hypothesis which slot's cache (and which slot's alignment) has it. At the end the
 * first slot's state is that of the best hypothesis. */
#ifndef CAPTIOND_GPU_SLOT_H
#define CAPTIOND_GPU_SLOT_H

#include <stdint.h>

#include "daemon/base/run.h"

enum {
    SLOT_ACTIVE = 0,
    SLOT_DONE_EOT = 1,
    SLOT_DONE_LIMIT = 2,
    SLOT_DONE_CTX = 3,
    SLOT_DONE_EMPTY = 4, /* no hypothesis is left for this beam */
};

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
    int32_t n_beams;    /* 0 or 1: none */
    int32_t first_slot; /* of the beam search */
    float sum_logprob;  /* of the produced tokens; with beams only */
    int32_t tokens[RUN_TOKENS_MAX];
    float logprobs[RUN_TOKENS_MAX];  /* of the produced tokens, by index */
    uint8_t kv_slot[RUN_TOKENS_MAX]; /* by position, up to the newest token's; with beams only */
};

/* A beam search, beside its first slot's state. */
struct beam_state {
    int32_t n_wanted; /* finished hypotheses that end the search */
    float length_penalty;
    int32_t n_finished;
    /* The best of the finished ones so far; the others need not be kept. */
    float best_score;
    int32_t n_tokens;
    int32_t tokens[RUN_TOKENS_MAX]; /* from n_prompt on, as the next two */
    float logprobs[RUN_TOKENS_MAX];
    uint8_t kv_slot[RUN_TOKENS_MAX];
};

/* A continuation that a hypothesis offers. */
struct beam_candidate {
    int32_t token; /* −1: none, and none after it */
    float logprob;
};

#endif
