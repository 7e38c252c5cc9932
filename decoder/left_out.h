/* Speech that a pass without timestamps has passed over, known by its sound.
 *
 * After a sentence the model may take the text for complete and stay deaf to what follows as long as it is held to that sentence,
 * and of several sentences it may take up only the last. Pure functions. */
#ifndef CAPTIOND_DECODER_LEFT_OUT_H
#define CAPTIOND_DECODER_LEFT_OUT_H

#include <stdbool.h>
#include <stdint.h>

#include "decoder/hypothesis.h"
#include "decoder/live_buffer.h"

/* The sample from which to listen once more, or −1 where nothing is missing: the end of the last committed word, or for
 * deafness the quietest place between that and the newest audio in which anything was heard. `levels` are guard_levels' of
 * the buffer, `last` says that there will be no later attempt; others are 2 s apart. */
int64_t left_out_find(const struct live_buffer *, const struct hypothesis *, const float *levels,
                      int n_levels, bool last);

/* Whether a second hypothesis of the same audio brings more than the first. */
bool left_out_found(const struct hypothesis *first, const struct hypothesis *second);

#endif
