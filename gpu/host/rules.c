#include "gpu/host/rules.h"

#include <math.h>

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

/* The greatest logit among those allowed. When all timestamps together are more probable than the best text token, text
 * is no longer allowed. */
static float weigh(const struct rows_kernels *k, const struct token_rules *rules, const float *logits,
                   struct id_ranges *allowed)
{
    const float *stamps = logits + allowed->stamp_first;
    int n_stamps = allowed->stamp_last - allowed->stamp_first;
    float text = k->maximum(logits + allowed->text_first, allowed->text_last - allowed->text_first);
    float stamp = k->maximum(stamps, n_stamps);
    if (!rules->timestamps || stamp == -INFINITY)
        return text > stamp ? text : stamp;
    if (stamp + logf(k->sum_exp(stamps, n_stamps, stamp, 1.0f)) <= text)
        return text > stamp ? text : stamp;
    allowed->text_first = allowed->text_last;
    return stamp;
}

void host_rules_probe(const struct rows_kernels *k, struct slot_state *s, const float *logits, int n_vocab)
{
    if (s->probe_token < 0 || s->probe_token >= n_vocab)
        return;
    float greatest = k->maximum(logits, n_vocab);
    s->probe_prob = expf(logits[s->probe_token] - greatest) / k->sum_exp(logits, n_vocab, greatest, 1.0f);
}

struct id_ranges host_rules_apply(const struct rows_kernels *k, const struct token_masks *masks,
                                  const struct slot_state *s, int n, float *logits, int n_vocab,
                                  float *greatest)
{
    const struct token_rules *rules = &s->rules;
    int stamps = least(rules->timestamp_begin, n_vocab);
    struct id_ranges allowed = {0, stamps, stamps, n_vocab};
    if (rules->mask >= 0)
        suppress(logits, n_vocab, masks->masks + (size_t)rules->mask * (size_t)masks->words);
    if (rules->first_mask >= 0 && n == s->sample_begin)
        suppress(logits, n_vocab, masks->masks + (size_t)rules->first_mask * (size_t)masks->words);
    if (rules->timestamps) {
        if (rules->no_timestamps >= 0 && rules->no_timestamps < n_vocab)
            logits[rules->no_timestamps] = -INFINITY;
        apply_timestamp_pairs(rules, s->tokens, s->sample_begin, n, &allowed);
    }
    *greatest = weigh(k, rules, logits, &allowed);
    return allowed;
}

float host_rules_log_sum(const struct rows_kernels *k, const float *logits, const struct id_ranges *allowed,
                         float greatest)
{
    int n_text = allowed->text_last - allowed->text_first;
    int n_stamps = allowed->stamp_last - allowed->stamp_first;
    double sum = (double)k->sum_exp(logits + allowed->text_first, n_text, greatest, 1.0f) +
                 k->sum_exp(logits + allowed->stamp_first, n_stamps, greatest, 1.0f);
    return (float)log(sum);
}
