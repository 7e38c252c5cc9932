/* A whole recording as the model hears it: windows of up to 30 s in one audio slot, all normalised by the recording's
 * maximum. Positions are mel frames. */
#ifndef CAPTIOND_DECODER_WINDOW_AUDIO_H
#define CAPTIOND_DECODER_WINDOW_AUDIO_H

#include <stdint.h>

#include "daemon/base/err.h"
#include "decoder/longform.h"
#include "decoder/segment.h"
#include "decoder/text_model.h"

#define WINDOW_FRAMES 3000 /* 30 s */

struct window_audio {
    struct text_model *model;
    const float *pcm;
    int64_t n_samples;
    int n_frames;                        /* whole frames of the recording */
    int encoded_first, encoded_n_frames; /* the window that the audio slot holds; 0 frames: none */
};

/* Finds the greatest log-mel value of the recording, by which every window is then normalised. Functions here wait, and
 * return 0 or the engine's error. */
int window_audio_scan(struct window_audio *, struct err *);

/* Encodes n_frames from frame `first` on, unless the audio slot holds them already. What follows them is not heard. */
int window_audio_encode(struct window_audio *, int first, int n_frames, struct err *);

/* Encodes what the language is found out by: the first 30 s of the regions one behind the other where the first window,
 * n_frames from frame `first` on, is a shorter one of several, else that window. NULL: no regions. -ENOMEM. */
int window_audio_encode_for_language(struct window_audio *, const struct longform_region *regions,
                                     int n_regions, int first, int n_frames, struct err *);

#endif
