#include "tests/support/rules.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

static void forbid(float *logits, int n_vocab, int first, int end)
{
    for (int i = first < 0 ? 0 : first; i < end && i < n_vocab; i++)
        logits[i] = -INFINITY;
}

static void forbid_mask(float *logits, int n_vocab, const uint32_t *mask)
{
    for (int i = 0; i < n_vocab; i++) {
        if (mask[i / 32] >> (i % 32) & 1)
            logits[i] = -INFINITY;
    }
}

static float greatest(const float *x, int n)
{
    float most = -INFINITY;
    for (int i = 0; i < n; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

/* Σ exp(x / temperature − most / temperature) */
static double sum_exp(const float *x, int n, float most, double temperature)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += exp(((double)x[i] - most) / temperature);
    return sum;
}

/* sampled: [n] the tokens of this transcript so far. */
static void filter_timestamps(const struct token_rules *rules, const int32_t *sampled, int n, float *logits,
                              int n_vocab)
{
    int begin = rules->timestamp_begin;
    forbid(logits, n_vocab, rules->no_timestamps, rules->no_timestamps + 1);
    if (n == 0) { /* a transcript begins with a timestamp, and not with a late one */
        forbid(logits, n_vocab, 0, begin);
        if (rules->max_initial_timestamp >= 0)
            forbid(logits, n_vocab, begin + rules->max_initial_timestamp + 1, n_vocab);
        return;
    }
    bool after_stamp = sampled[n - 1] >= begin;
    bool after_pair = after_stamp && (n == 1 || sampled[n - 2] >= begin);
    if (after_pair)
        forbid(logits, n_vocab, begin, n_vocab);
    else if (after_stamp)
        forbid(logits, n_vocab, 0, rules->eot);
    int last = n - 1;
    while (last >= 0 && sampled[last] < begin)
        last--;
    /* A segment may begin where the last one ended, but it ends later than it begins. */
    if (last >= 0)
        forbid(logits, n_vocab, begin, sampled[last] + (after_stamp && !after_pair ? 0 : 1));
}

/* All timestamps together against the best of the other tokens. */
static bool stamps_win(const struct token_rules *rules, const float *logits, int n_vocab)
{
    int begin = rules->timestamp_begin;
    float most = greatest(logits + begin, n_vocab - begin);
    if (most == -INFINITY)
        return false;
    return most + log(sum_exp(logits + begin, n_vocab - begin, most, 1.0)) > greatest(logits, begin);
}

void rules_filter(const struct token_rules *rules, const uint32_t *masks, const int32_t *tokens, int n,
                  int sample_begin, float *logits, int n_vocab)
{
    size_t words = ((size_t)n_vocab + 31) / 32;
    if (rules->mask >= 0)
        forbid_mask(logits, n_vocab, masks + (size_t)rules->mask * words);
    if (rules->first_mask >= 0 && n == sample_begin)
        forbid_mask(logits, n_vocab, masks + (size_t)rules->first_mask * words);
    if (!rules->timestamps)
        return;
    filter_timestamps(rules, tokens + sample_begin, n - sample_begin, logits, n_vocab);
    if (stamps_win(rules, logits, n_vocab))
        forbid(logits, n_vocab, 0, rules->timestamp_begin);
}

/* SplitMix64 as a function of a counter, so that a sample needs no state: 0 ≤ result < 1. */
static double uniform(uint64_t seed, uint64_t counter)
{
    uint64_t z = seed + (counter + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

/* The first token up to which more than the part u of the probability lies. */
static int32_t sample(const float *logits, int n_vocab, float most, double temperature, double u)
{
    double threshold = u * sum_exp(logits, n_vocab, most, temperature), sum = 0.0;
    int32_t chosen = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        double p = exp(((double)logits[i] - most) / temperature);
        if (p <= 0.0)
            continue;
        chosen = i;
        sum += p;
        if (sum > threshold)
            break;
    }
    return chosen;
}

int32_t rules_choose(const struct token_rules *rules, int n, const float *logits, int n_vocab)
{
    float most = greatest(logits, n_vocab);
    if (rules->temperature > 0.0f)
        return sample(logits, n_vocab, most, rules->temperature, uniform(rules->seed, (uint64_t)n));
    for (int32_t i = 0; i < n_vocab; i++) {
        if (logits[i] == most)
            return i;
    }
    return 0;
}

float rules_logprob(const float *logits, int n_vocab, int32_t token)
{
    float most = greatest(logits, n_vocab);
    return (float)((double)logits[token] - most - log(sum_exp(logits, n_vocab, most, 1.0)));
}
