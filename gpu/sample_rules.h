/* What choosing a token means on every engine: which ids the timestamp rules leave, the random number of a position, and
 * what the choice does to its slot. After ApplyTimestampRules of OpenAI's whisper/decoding.py. Included by the engines'
 * rules.h and rules.cuh, in the language of which SAMPLE_FUNCTION says what a function is. */
#ifndef CAPTIOND_GPU_SAMPLE_RULES_H
#define CAPTIOND_GPU_SAMPLE_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "gpu/slot.h"

#ifndef SAMPLE_FUNCTION
#define SAMPLE_FUNCTION static inline
#endif

/* What the rules leave of a vocabulary: two ranges of ids. */
struct id_ranges {
    int text_first, text_last;   /* below timestamp_begin */
    int stamp_first, stamp_last; /* from it on */
};

SAMPLE_FUNCTION int least(int a, int b)
{
    return a < b ? a : b;
}

/* Timestamps come in pairs (an end, then the start of the next segment), except directly before the end of text; they
 * never decrease, and a segment is never empty. `tokens` is the history [n], sampled from `begin` on. */
SAMPLE_FUNCTION void apply_timestamp_pairs(const struct token_rules *rules, const int32_t *tokens, int begin,
                                           int n, struct id_ranges *ids)
{
    int stamps = rules->timestamp_begin;
    bool last_is_stamp = n > begin && tokens[n - 1] >= stamps;
    bool before_is_stamp = n - begin < 2 || tokens[n - 2] >= stamps;
    if (last_is_stamp && before_is_stamp)
        ids->stamp_last = ids->stamp_first; /* a pair is complete: text must follow */
    else if (last_is_stamp)
        ids->text_first = least(rules->eot, ids->text_last); /* half a pair: no text */
    int i = n - 1;
    while (i >= begin && tokens[i] < stamps)
        i--;
    if (i >= begin) /* the end of a segment is later than its start; the start of the next may equal it */
        ids->stamp_first =
            least(last_is_stamp && !before_is_stamp ? tokens[i] : tokens[i] + 1, ids->stamp_last);
    if (n == begin) {
        ids->text_first = ids->text_last; /* the first token is a timestamp */
        if (rules->max_initial_timestamp >= 0)
            ids->stamp_last = least(stamps + rules->max_initial_timestamp + 1, ids->stamp_last);
    }
}

/* 0 ≤ u < 1, counter-based (SplitMix64's finalizer): the same seed and position give the same number anywhere. */
SAMPLE_FUNCTION double uniform(uint64_t seed, uint64_t position)
{
    uint64_t z = seed + (position + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

/* One more certain token at the end. */
SAMPLE_FUNCTION void append_token(struct slot_state *s, int32_t token, float logprob)
{
    s->tokens[s->n_tokens] = token;
    s->logprobs[s->n_tokens] = logprob;
    s->n_tokens++;
    if (token == s->rules.eot)
        s->done = SLOT_DONE_EOT;
    else if (s->n_tokens - s->n_prompt >= s->max_tokens)
        s->done = SLOT_DONE_LIMIT;
    else if (s->n_tokens >= s->n_ctx)
        s->done = SLOT_DONE_CTX;
}

/* chosen, logprob: [n] of the slot's rows from position n_tokens − 1 on; the draft's follow the newest certain token's. */
SAMPLE_FUNCTION void advance_slot(struct slot_state *s, const int32_t *chosen, const float *logprob, int n)
{
    s->n_steps++;
    for (int i = 0; i < n && s->done == SLOT_ACTIVE; i++) {
        bool accepted = s->n_draft > 0 && s->tokens[s->n_tokens] == chosen[i];
        append_token(s, chosen[i], logprob[i]);
        if (!accepted)
            break;
        s->n_accepted++;
        s->n_draft--;
    }
    s->n_draft = 0;
}

#undef SAMPLE_FUNCTION

#endif
