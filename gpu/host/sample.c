/* Choosing tokens: the rules of daemon/base/run.h on rows of logits, and a slot's way from token to token.
 *
 * The rules are those of OpenAI's whisper/decoding.py (SuppressBlank, SuppressTokens, ApplyTimestampRules). */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "gpu/host/host.h"
#include "gpu/host/kernels_rows.h"

static void suppress(float *logits, int n_vocab, const uint32_t *mask)
{
    for (int word = 0; word * 32 < n_vocab; word++) {
        for (uint32_t bits = mask[word]; bits; bits &= bits - 1) {
            int id = word * 32 + __builtin_ctz(bits);
            if (id < n_vocab)
                logits[id] = -INFINITY;
        }
    }
}

static void suppress_range(float *logits, int first, int last)
{
    for (int i = first; i < last; i++)
        logits[i] = -INFINITY;
}

/* Timestamps come in pairs (an end, then the start of the next segment), except directly before the end of text; they never
 * decrease, and a segment is never empty. `tokens` is the history, sampled from `begin` on. */
static void apply_timestamp_pairs(const struct token_rules *rules, const int32_t *tokens, int begin, int n,
                                  float *logits, int n_vocab)
{
    int first_stamp = rules->timestamp_begin;
    bool last_is_stamp = n > begin && tokens[n - 1] >= first_stamp;
    bool before_is_stamp = n - begin < 2 || tokens[n - 2] >= first_stamp;
    if (last_is_stamp && before_is_stamp)
        suppress_range(logits, first_stamp, n_vocab); /* a pair is complete: text must follow */
    else if (last_is_stamp)
        suppress_range(logits, 0, rules->eot); /* half a pair: no text */
    for (int i = n - 1; i >= begin; i--) {
        if (tokens[i] < first_stamp)
            continue;
        /* The end of a segment must be later than its start; the start of the next may equal it. */
        int least = last_is_stamp && !before_is_stamp ? tokens[i] : tokens[i] + 1;
        suppress_range(logits, first_stamp, least < n_vocab ? least : n_vocab);
        break;
    }
    if (n == begin) {
        suppress_range(logits, 0, first_stamp); /* the first token is a timestamp … */
        if (rules->max_initial_timestamp >= 0 && first_stamp + rules->max_initial_timestamp + 1 < n_vocab)
            suppress_range(logits, first_stamp + rules->max_initial_timestamp + 1, n_vocab);
    }
}

/* When all timestamps together are more probable than the best text token, a timestamp it is. */
static void prefer_timestamps(const struct rows_kernels *k, const struct token_rules *rules, float *logits,
                              int n_vocab)
{
    int first = rules->timestamp_begin;
    float stamp = k->maximum(logits + first, n_vocab - first);
    float text = k->maximum(logits, first);
    if (stamp == -INFINITY)
        return;
    if (stamp + logf(k->sum_exp(logits + first, n_vocab - first, stamp, 1.0f)) > text)
        suppress_range(logits, 0, first);
}

/* Counter-based generator (SplitMix64's finalizer): the same seed and position give the same number anywhere. */
static double uniform(uint64_t seed, uint64_t position)
{
    uint64_t z = seed + (position + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

static int first_equal(const float *x, int n, float value)
{
    for (int i = 0; i < n; i++) {
        if (x[i] == value)
            return i;
    }
    return n - 1;
}

static int sample(const float *logits, int n, float greatest, float temperature, double u)
{
    double total = 0.0, sum = 0.0;
    for (int i = 0; i < n; i++)
        total += exp(((double)logits[i] - greatest) / temperature);
    int last = 0;
    for (int i = 0; i < n; i++) {
        double p = exp(((double)logits[i] - greatest) / temperature);
        if (p <= 0.0)
            continue;
        last = i;
        sum += p;
        if (sum > u * total)
            break;
    }
    return last;
}

struct select_job {
    const struct rows_kernels *kernels;
    const struct select_args *args;
};

static void probe(const struct rows_kernels *k, struct slot_state *s, const float *logits, int n_vocab)
{
    if (s->probe_token < 0 || s->probe_token >= n_vocab)
        return;
    float greatest = k->maximum(logits, n_vocab);
    s->probe_prob = expf(logits[s->probe_token] - greatest) / k->sum_exp(logits, n_vocab, greatest, 1.0f);
}

static void choose(const struct select_args *a, const struct rows_kernels *k, int r)
{
    struct slot_state *s = &a->slots[a->rows.slot[r]];
    const struct token_rules *rules = &s->rules;
    int n_vocab = a->logits.cols, n = a->rows.pos[r] + 1; /* tokens of history */
    float *logits = (float *)a->logits.data + (size_t)r * (size_t)a->logits.stride;
    if (a->rows.pos[r] == s->probe_index)
        probe(k, s, logits, n_vocab);
    if (n < s->n_prompt)
        return;
    if (rules->mask >= 0)
        suppress(logits, n_vocab, a->masks + (size_t)rules->mask * (size_t)a->mask_words);
    if (rules->first_mask >= 0 && n == s->sample_begin)
        suppress(logits, n_vocab, a->masks + (size_t)rules->first_mask * (size_t)a->mask_words);
    if (rules->timestamps) {
        if (rules->no_timestamps >= 0 && rules->no_timestamps < n_vocab)
            logits[rules->no_timestamps] = -INFINITY;
        apply_timestamp_pairs(rules, s->tokens, s->sample_begin, n, logits, n_vocab);
        prefer_timestamps(k, rules, logits, n_vocab);
    }
    float greatest = k->maximum(logits, n_vocab);
    int token = rules->temperature > 0.0f
                    ? sample(logits, n_vocab, greatest, rules->temperature, uniform(rules->seed, (uint64_t)n))
                    : first_equal(logits, n_vocab, greatest);
    a->chosen[r] = token;
    a->logprob[r] = logits[token] - greatest - logf(k->sum_exp(logits, n_vocab, greatest, 1.0f));
}

static void select_worker(void *arg, int worker, int n_workers)
{
    struct select_job *job = arg;
    int first, last;
    pool_share(job->args->rows.n, 1, worker, n_workers, &first, &last);
    for (int r = first; r < last; r++) {
        if (job->args->rows.pos[r] >= 0)
            choose(job->args, job->kernels, r);
    }
}

int host_select(struct host_engine *h, const struct select_args *a)
{
    struct select_job job = {h->rows, a};
    if (a->rows.n > 1)
        pool_run(h->pool, select_worker, &job);
    else
        select_worker(&job, 0, 1);
    return 0;
}

/* --- from token to token ------------------------------------------------------------------------------------------ */

/* One more certain token at the end. */
static void append(struct slot_state *s, int32_t token, float logprob)
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

/* row: the slot's row at position n_tokens − 1; the draft's rows follow it. */
static void advance_slot(struct slot_state *s, const struct advance_args *a, int row)
{
    s->n_steps++;
    while (s->done == SLOT_ACTIVE) {
        int32_t chosen = a->chosen[row];
        bool accepted = s->n_draft > 0 && s->tokens[s->n_tokens] == chosen;
        append(s, chosen, a->logprob[row]);
        if (!accepted)
            break;
        s->n_accepted++;
        s->n_draft--;
        row++;
    }
    s->n_draft = 0;
}

int host_advance(struct host_engine *h, const struct advance_args *a)
{
    for (int r = 0; r < a->rows.n; r++) {
        struct slot_state *s = &a->slots[a->rows.slot[r]];
        if (a->rows.pos[r] < 0 || s->done != SLOT_ACTIVE || a->rows.pos[r] != s->n_tokens - 1)
            continue;
        int slot = a->rows.slot[r];
        advance_slot(s, a, r);
        if (s->done != SLOT_ACTIVE)
            --*a->n_active;
        while (r + 1 < a->rows.n && a->rows.slot[r + 1] == slot)
            r++;
    }
    return 0;
}
