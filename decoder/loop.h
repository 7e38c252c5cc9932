/* Repetition loops in what a model puts out: the same sequence of tokens said again and again.
 *
 * Structure alone counts; timestamps in between do not. Pure functions. */
#ifndef CAPTIOND_DECODER_LOOP_H
#define CAPTIOND_DECODER_LOOP_H

#include <stdbool.h>
#include <stdint.h>

/* True where some sequence of p text tokens (below eot) follows itself r times, r ≥ 4 and p · r ≥ 16. tokens: [n], n ≤
 * RUN_TOKENS_MAX. */
bool loop_present(const int32_t *tokens, int n, int32_t eot);

/* Takes the repetitions of each loop out of the tokens and their log-probabilities but for the first, in place, and
 * returns the new number. Timestamps stay, so that segments keep their places. Only loops of 64 tokens and more: people
 * do say things four times. */
int loop_cut(int32_t *tokens, float *logprobs, int n, int32_t eot);

/* For text that is still being spoken: number of leading tokens without the repetitions of a loop that they end with, of
 * the same r and p, but for its first. n when there is none. tokens: [n], text alone. */
int loop_cut_end(const int32_t *tokens, int n);

#endif
