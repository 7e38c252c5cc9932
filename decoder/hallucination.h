/* Segments that nobody said: judged by the times and probabilities of their words, or by where the voice gate heard
 * somebody. Pure functions. */
#ifndef CAPTIOND_DECODER_HALLUCINATION_H
#define CAPTIOND_DECODER_HALLUCINATION_H

#include <stdbool.h>
#include <stdint.h>

#include "decoder/longform_region.h"
#include "decoder/quality.h"
#include "decoder/word.h"
#include "decoder/word_times.h"

/* Samples. */
struct silence_search {
    int64_t window, window_end; /* where the window begins, and 30 s later */
    int64_t audio_end;          /* where its audio ends */
    int64_t recording_end;
    int64_t last_speech; /* where the last word before the window ended */
    int64_t threshold;   /* length of a silence that is passed over */
};

/* Looks for segments of improbable, very short or very long words beside a silence, by hallucination_silence_threshold
 * of OpenAI's whisper/transcribe.py. Returns how many of the n segments are kept; where that is less than n, *seek is
 * set to the sample from which to go on. */
int hallucination_find(const struct silence_search *, const struct spoken_segment *segments, int n,
                       const struct word *words, int64_t *seek);

/* True for a segment where hardly anybody was heard and that the model does not believe in itself: less than a tenth of
 * it is within half a second of a voice, and the window is improbable or probably no speech, by the limits. An improbable
 * one, which is what remains when no temperature gives better, must also be voice itself for a quarter of its time, where
 * that is known: `timed`, not just the window's. */
bool hallucination_unheard(const struct longform_region *spans, int n, int64_t start, int64_t end, bool timed,
                           const struct quality *, const struct quality_limits *);

#endif
