/* The voice gate: from frame probabilities to utterances with pre-roll, hangover and merging.
 *
 * A frame is speech when p ≥ threshold, silence when p < threshold − 0.15; the band between holds what was. An
 * utterance opens once a burst of speech is min_speech_ms long and sure: one frame of it reached threshold + 0.2
 * (or half the way from the threshold to 1, if that is less), or it has lasted 500 ms. It closes after
 * min_silence_ms of silence, so shorter gaps merge.
 *
 * Times are indices of the samples that the gate was given. Belongs to the intake thread. */
#ifndef CAPTIOND_STREAM_GATE_H
#define CAPTIOND_STREAM_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "stream/vad.h"

/* The defaults, of which the table of settings and the tools are made. */
#define GATE_THRESHOLD      0.5
#define GATE_MIN_SPEECH_MS  100
#define GATE_MIN_SILENCE_MS 600
#define GATE_PRE_ROLL_MS    400
#define GATE_PAD_MS         200

struct gate_options {
    bool enabled; /* false: one utterance from the first sample on, never closed */
    float threshold;
    int min_speech_ms;  /* shorter bursts open nothing */
    int min_silence_ms; /* hangover */
    int pre_roll_ms;    /* start lies this much before the first speech frame */
    int pad_ms;         /* end lies this much after the last speech frame */
};

enum gate_event_type { GATE_NONE, GATE_START, GATE_END };

struct gate_event {
    enum gate_event_type type;
    int64_t at; /* START: the utterance's first sample; END: the one after its last. Never descends */
};

struct gate {
    struct gate_options options;
    struct vad vad;
    float frame[VAD_FRAME];
    int n_frame;          /* samples waiting in frame */
    int64_t position;     /* index of the next sample to come */
    bool open;            /* in an utterance */
    bool speaking;        /* the last frame was speech */
    int64_t speech_since; /* first sample of the burst that may open */
    int64_t speech_last;  /* sample after the last speech frame */
    int64_t last_end;     /* no start before this */
    float peak;           /* highest probability of the burst */
};

void gate_init(struct gate *, const struct gate_options *, int64_t position);

/* Takes samples at `position` on and returns how many it used (1 to n): up to the first event, which goes to *event
 * (GATE_NONE if there was none). Call again with the rest. After an event `position` is the index at which it became
 * known, however the input was cut. */
int gate_process(struct gate *, const float *pcm, int n, struct gate_event *event);

/* The input has ended: the incomplete frame is judged with zeros after it and an open utterance is closed. Call again
 * until *event is GATE_NONE: the last frame may both open and close. Then only gate_init may follow. */
void gate_finish(struct gate *, struct gate_event *event);

/* What gate_process does with each frame: judges the VAD_FRAME samples from `start` on, by their probability. */
void gate_judge(struct gate *, float probability, int64_t start, struct gate_event *event);

#endif
