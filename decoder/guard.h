/* What text is spared, live and of recordings: words where nobody speaks, and more of them than can be said.
 *
 * Structural rules only, from probabilities, times and levels; no list of phrases. Pure
 * functions. */
#ifndef CAPTIOND_DECODER_GUARD_H
#define CAPTIOND_DECODER_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#define GUARD_FRAME 320 /* samples: 20 ms, in which levels are measured */

/* Most tokens that a window of this many samples can hold: speech has at most 22.5 a second. */
int guard_max_tokens(int64_t n_samples);

/* True when a window holds no speech, by OpenAI's rule: no-speech probability above 0.6 and mean log-probability below
 * −1. */
bool guard_no_speech(float no_speech_prob, float avg_logprob);

/* Mean power of each frame in dB relative to full scale, at least −120. The last frame may be short. Returns
 * the number of frames. */
int guard_levels(const float *pcm, int n_samples, float *levels);

/* True when no frame in [first, last] comes near the loudest one: where a word is said to be, nothing is heard. */
bool guard_inaudible(const float *levels, int n_levels, int first, int last);

/* Number of frames from `first` on that are as loud as speech: within 25 dB of the loudest of all. */
int guard_loud_frames(const float *levels, int n_levels, int first);

/* The first frame of [first, end) that is as loud as speech; `first` when there is none. */
int guard_first_loud(const float *levels, int n_levels, int first, int end);

/* Samples that n_letters take to say at most, be it a word or a text: 1 s, and 0.12 s a letter, which is slow speech. */
int64_t guard_slowest(int n_letters);

/* True when frames [first, end) hold far more sound than a word of n_letters takes to say. The model has left something
 * out there. */
bool guard_left_out(const float *levels, int n_levels, int first, int end, int n_letters);

/* The quietest place in frames [first, last]: the middle of the five frames whose loudest is least, the last of several.
 * Frames beyond the levels do not count. */
int guard_quietest(const float *levels, int n_levels, int first, int last);

#endif
