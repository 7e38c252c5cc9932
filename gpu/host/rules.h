/* The decoding rules of daemon/base/run.h on a row of logits: what is allowed, and how probable it is. Inside gpu/host/
 * only; any worker.
 *
 * The rules are those of OpenAI's whisper/decoding.py (SuppressBlank, SuppressTokens, ApplyTimestampRules). Outside of the
 * ranges that are left nothing is looked at; inside of them what a mask suppresses is −∞. */
#ifndef CAPTIOND_GPU_HOST_RULES_H
#define CAPTIOND_GPU_HOST_RULES_H

#include "gpu/engine.h"
#include "gpu/host/kernels_rows.h"
#include "gpu/sample_rules.h"

/* Where the masks are: engine memory [RUN_TOKEN_MASKS, words]. */
struct token_masks {
    const uint32_t *masks;
    int words;
};

/* Fills s->probe_prob from logits that no rule has touched. */
void host_rules_probe(const struct rows_kernels *, struct slot_state *, const float *logits, int n_vocab);

/* Suppresses in place what may not follow the first n tokens of the slot, and then, if all timestamps together are more
 * probable than the best text token, text as well. *greatest is the greatest logit that is left, −∞ if none is. */
struct id_ranges host_rules_apply(const struct rows_kernels *, const struct token_masks *,
                                  const struct slot_state *, int n, float *logits, int n_vocab,
                                  float *greatest);

/* log Σ e^logit over what is allowed. */
float host_rules_log_sum(const struct rows_kernels *, const float *logits, const struct id_ranges *,
                         float greatest);

#endif
