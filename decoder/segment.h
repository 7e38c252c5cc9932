/* Cuts the tokens of a window at their timestamps, after OpenAI's whisper/transcribe.py. */
#ifndef CAPTIOND_DECODER_SEGMENT_H
#define CAPTIOND_DECODER_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#define MEL_FRAME 160 /* samples: 10 ms, in which segments and windows are counted */

/* Greatest index of a window's first timestamp: 1.00 s, as in OpenAI's whisper/decoding.py. */
#define FIRST_STAMP_MAX 50

/* Most segments that n tokens can give, whatever they are. */
#define SEGMENTS_MAX(n) ((n) + 1)

struct segment {
    int first, n_tokens; /* its tokens, timestamps included */
    int start, end;      /* 10 ms frames from the start of the window */
};

/* tokens: [n_tokens] a window's output without the final eot; n_frames: the audio in the window, 10 ms each.
 * Writes at most SEGMENTS_MAX(n_tokens) segments and returns their number. *advance gets the frames up to the start of
 * the next window: where the last complete segment ends, so that what the window cut off is decoded again, or n_frames
 * where nothing was cut off. */
int segment_tokens(const int32_t *tokens, int n_tokens, int32_t timestamp_begin, int n_frames,
                   struct segment *segments, int *advance);

/* True where the tokens end with one timestamp after text: no speech follows it. */
bool segment_ends_with_single(const int32_t *tokens, int n_tokens, int32_t timestamp_begin);

#endif
