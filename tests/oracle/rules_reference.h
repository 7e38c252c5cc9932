/* What the rules leave of a row of logits: a transcription, in plain double precision, of the logit filters of OpenAI's
 * whisper/decoding.py (SuppressBlank, SuppressTokens, ApplyTimestampRules), and slots and logits to try them with. */
#ifndef CAPTIOND_TESTS_ORACLE_RULES_REFERENCE_H
#define CAPTIOND_TESTS_ORACLE_RULES_REFERENCE_H

#include "tests/oracle/rows.h"

/* Logits below 32 in magnitude: the maximum, the logarithm of the sum and their difference round by 2^-20 each, the
 * exponentials by 2 ulp, and partial sums of about a thousand of them by some 30 roundings of 2^-24. Together under 6e-6,
 * and the references' f32 logits add as much again. */
#define LOGPROB_ERROR 1e-5

struct vocab {
    int n, eot, no_timestamps, timestamp_begin;
};

static const struct vocab small = {.n = 203, .eot = 100, .no_timestamps = 112, .timestamp_begin = 113};
static const struct vocab large = {
    .n = 51865, .eot = 50257, .no_timestamps = 50363, .timestamp_begin = 50364};

/* The vocabulary, and the masks in engine memory. */
struct filters {
    struct vocab v;
    int mask_words;
    uint32_t *masks; /* [RUN_TOKEN_MASKS, mask_words] */
};

static inline struct filters take_filters(struct engine *e, struct vocab v)
{
    int words = (v.n + 31) / 32;
    return (struct filters){v, words, take(e, sizeof(uint32_t) * RUN_TOKEN_MASKS * (size_t)words)};
}

static inline void draw_masks(struct test_rng *rng, const struct filters *w)
{
    for (int i = 0; i < RUN_TOKEN_MASKS * w->mask_words; i++)
        w->masks[i] =
            test_rng_int(rng, 0, 3) ? (uint32_t)test_rng_next(rng) & (uint32_t)test_rng_next(rng) : 0;
}

/* --- the transcription ---------------------------------------------------------------------------------------------- */

static inline double logsumexp(const double *x, int first, int last)
{
    double greatest = -INFINITY, sum = 0.0;
    for (int i = first; i < last; i++)
        greatest = fmax(greatest, x[i]);
    for (int i = first; i < last && greatest > -INFINITY; i++)
        sum += exp(x[i] - greatest);
    return greatest > -INFINITY ? greatest + log(sum) : -INFINITY;
}

static inline void set(double *x, int first, int last)
{
    for (int i = first; i < last; i++)
        x[i] = -INFINITY;
}

static inline void set_masked(const struct filters *w, int mask, double *x)
{
    for (int i = 0; mask >= 0 && i < w->v.n; i++) {
        if (w->masks[mask * w->mask_words + i / 32] >> (i % 32) & 1)
            x[i] = -INFINITY;
    }
}

/* ApplyTimestampRules.apply for one sequence. Returns how near the last comparison was to a tie. */
static inline double timestamp_rules(const struct filters *w, const struct slot_state *s,
                                     const int32_t *tokens, int n, double *x)
{
    int begin = w->v.timestamp_begin;
    const int32_t *seq = tokens + s->sample_begin;
    int len = n - s->sample_begin;
    x[w->v.no_timestamps] = -INFINITY;
    bool last_was_timestamp = len >= 1 && seq[len - 1] >= begin;
    bool penultimate_was_timestamp = len < 2 || seq[len - 2] >= begin;
    if (last_was_timestamp) {
        if (penultimate_was_timestamp)
            set(x, begin, w->v.n);
        else
            set(x, 0, w->v.eot);
    }
    int last_stamp = -1;
    for (int i = 0; i < len; i++)
        last_stamp = seq[i] >= begin ? seq[i] : last_stamp;
    if (last_stamp >= 0) {
        int timestamp_last = last_was_timestamp && !penultimate_was_timestamp ? last_stamp : last_stamp + 1;
        set(x, begin, timestamp_last);
    }
    if (len == 0) {
        set(x, 0, begin);
        if (s->rules.max_initial_timestamp >= 0)
            set(x, begin + s->rules.max_initial_timestamp + 1, w->v.n);
    }
    double stamps = logsumexp(x, begin, w->v.n), text = -INFINITY;
    for (int i = 0; i < begin; i++)
        text = fmax(text, x[i]);
    if (stamps > text)
        set(x, 0, begin);
    return fabs(stamps - text);
}

/* Fills x with the filtered logits. Returns how near a comparison was to a tie. */
static inline double filter(const struct filters *w, const struct slot_state *s, int pos, const float *logits,
                            double *x)
{
    for (int i = 0; i < w->v.n; i++)
        x[i] = logits[i];
    if (pos + 1 == s->sample_begin)
        set_masked(w, s->rules.first_mask, x);
    set_masked(w, s->rules.mask, x);
    return s->rules.timestamps ? timestamp_rules(w, s, s->tokens, pos + 1, x) : INFINITY;
}

static inline int argmax(const double *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* --- cases ---------------------------------------------------------------------------------------------------------- */

/* Histories as Whisper writes them, and ones it should not write. */
static inline void draw_history(struct test_rng *rng, const struct filters *w, struct slot_state *s, int n)
{
    int stamp = w->v.timestamp_begin, kind = test_rng_int(rng, 0, 3);
    for (int i = 0; i < n; i++) {
        bool is_stamp = i >= s->sample_begin && test_rng_int(rng, 0, kind) == 0;
        if (is_stamp && test_rng_int(rng, 0, 2))
            stamp += test_rng_int(rng, 0, 4);
        stamp = stamp < w->v.n ? stamp : w->v.n - 1;
        s->tokens[i] = is_stamp ? stamp : test_rng_int(rng, 0, w->v.eot - 1);
    }
}

static inline void draw_slot(struct test_rng *rng, const struct filters *w, struct slot_state *s)
{
    *s = (struct slot_state){.rules = {.eot = w->v.eot,
                                       .timestamp_begin = w->v.timestamp_begin,
                                       .no_timestamps = w->v.no_timestamps,
                                       .timestamps = test_rng_int(rng, 0, 3) > 0,
                                       .max_initial_timestamp = test_rng_int(rng, 0, 1) ? 50 : -1,
                                       .mask = test_rng_int(rng, -1, 3),
                                       .first_mask = test_rng_int(rng, -1, RUN_TOKEN_MASKS - 1)},
                             .n_ctx = 448,
                             .probe_token = -1,
                             .probe_index = -1};
    s->n_prompt = test_rng_int(rng, 1, 30);
    s->sample_begin = test_rng_int(rng, 0, 2) ? s->n_prompt : test_rng_int(rng, 1, s->n_prompt);
    draw_history(rng, w, s, 60);
}

static inline void draw_logits(struct test_rng *rng, const struct filters *w, float *x)
{
    int n = w->v.n, begin = w->v.timestamp_begin;
    switch (test_rng_int(rng, 0, 7)) {
    case 0: /* all negative */
        for (int i = 0; i < n; i++)
            x[i] = -100.0f - 10.0f * test_rng_uniform(rng);
        break;
    case 1: /* nothing but one */
        for (int i = 0; i < n; i++)
            x[i] = -INFINITY;
        x[test_rng_int(rng, 0, n - 1)] = -3.0f;
        break;
    case 2: /* ties */
        for (int i = 0; i < n; i++)
            x[i] = (float)test_rng_int(rng, -3, 3);
        break;
    case 3: /* all the same */
        for (int i = 0; i < n; i++)
            x[i] = -7.25f;
        break;
    case 4: /* timestamps are likely, each of them not very */
        fill(rng, x, (size_t)n, 1.0f);
        for (int i = begin; i < n; i++)
            x[i] += 2.0f;
        break;
    case 5: /* the end of text and the ids around the borders */
        fill(rng, x, (size_t)n, 1.0f);
        for (int i = 0; i < 5; i++)
            x[(int[]){w->v.eot, 0, n - 1, begin, begin - 1}[i]] = 20.0f + test_rng_uniform(rng);
        break;
    default:
        fill(rng, x, (size_t)n, 5.0f);
    }
}

#endif
