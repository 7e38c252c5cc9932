/* Whisper's decoding rules on one row of logits, in plain C: what an engine's select must do.
 *
 * The rules are those of OpenAI's whisper/decoding.py (SuppressBlank, SuppressTokens, ApplyTimestampRules); their
 * numbers are explained in daemon/base/run.h. No state: any thread. */
#ifndef CAPTIOND_TESTS_RULES_H
#define CAPTIOND_TESTS_RULES_H

#include <stdint.h>

#include "daemon/base/run.h"

/* Sets the logits of all tokens that may not follow to −∞. masks: [RUN_TOKEN_MASKS, ⌈n_vocab / 32⌉] words, a set bit
 * suppresses its token; tokens: [n] what precedes, of which those from sample_begin on were sampled. */
void rules_filter(const struct token_rules *, const uint32_t *masks, const int32_t *tokens, int n,
                  int sample_begin, float *logits, int n_vocab);

/* The token to follow n tokens: the first of the greatest logits, or with a temperature a sample that depends on the
 * seed and on n alone. */
int32_t rules_choose(const struct token_rules *, int n, const float *logits, int n_vocab);

/* log softmax(logits)[token] */
float rules_logprob(const float *logits, int n_vocab, int32_t token);

#endif
