/* The voice gate: from frame probabilities to utterances with pre-roll, hangover and merging.
 *
 * Opens at p ≥ threshold, closes when p < threshold − 0.15 for min_silence_ms; the band between holds the state.
 * A start is only told once min_speech_ms of speech have been seen. Times are sample indices on the stream's
 * clock. Belongs to the intake thread. */
#ifndef CAPTIOND_STREAM_GATE_H
#define CAPTIOND_STREAM_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "stream/vad.h"

struct gate_options {
    bool enabled;       /* false: one utterance from the first sample on, never closed */
    float threshold;    /* 0.5 */
    int min_speech_ms;  /* 100: shorter bursts open nothing */
    int min_silence_ms; /* 600: hangover */
    int pre_roll_ms;    /* 400: start lies this much before the first speech frame */
    int pad_ms;         /* 200: end lies this much after the last speech frame */
};

enum gate_event_type { GATE_NONE, GATE_START, GATE_END };

struct gate_event {
    enum gate_event_type type;
    int64_t
        at; /* START: first sample of the utterance; END: sample after the last. Never before an earlier event */
};

struct gate {
    struct gate_options options;
    struct vad vad;
    float frame[VAD_FRAME];
    int n_frame;      /* samples waiting in frame */
    int64_t position; /* index of the next sample to come */
    bool open;
    int64_t speech_since; /* first sample of the burst that may open, −1 */
    int64_t speech_last;  /* sample after the last speech frame */
    int64_t last_end;     /* no start before this */
    float probability;    /* of the last frame */
};

void gate_init(struct gate *, const struct gate_options *, int64_t position);

/* Takes samples at `position` on and returns how many it used (1 to n): up to the first event, which goes to *event
 * (GATE_NONE if there was none). Call again with the rest. */
int gate_process(struct gate *, const float *pcm, int n, struct gate_event *event);

/* The input has ended: the incomplete frame is judged with zeros after it and an open utterance is closed. */
void gate_finish(struct gate *, struct gate_event *event);

#endif
