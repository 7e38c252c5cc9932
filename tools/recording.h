/* A whole recording in memory, and where in it somebody speaks. */
#ifndef CAPTIOND_TOOLS_RECORDING_H
#define CAPTIOND_TOOLS_RECORDING_H

#include <stdint.h>

#include "daemon/base/err.h"
#include "daemon/base/sample_rate.h"
#include "decoder/longform.h"

struct recording {
    float *pcm; /* SAMPLE_RATE, mono */
    int64_t n_samples;
    double seconds_told; /* how long it is by its header; -1 where that does not tell */
    struct err damage;   /* code 0; else why it ends before its end */
};

/* Reads a file of any format, rate and channel count that libsndfile knows. 0, also where there is sound before a damaged
 * place; -ENOENT; -EINVAL for what is no audio; -EIO; -ENOMEM. Nothing is left to free on failure. */
int recording_read(const char *path, struct recording *, struct err *);
void recording_free(struct recording *); /* zeroed objects are accepted */

/* The same for what comes from standard input, which is read to its end first, so that any format will do. */
int recording_read_stdin(struct recording *, struct err *);

/* Where somebody speaks: spans, ascending and apart. */
struct recording_speech {
    /* What is to be decoded; NULL for nothing. Pauses of more than 30 s are left out, but for a second beside speech. */
    struct longform_region *regions;
    int n_regions;
    struct longform_region *bursts; /* what the voice gate took for speech, without margins */
    int n_bursts;
};

/* 0 or -ENOMEM, and nothing is left to free then. */
int recording_find_speech(const struct recording *, struct recording_speech *, struct err *);
void recording_speech_free(struct recording_speech *); /* zeroed objects are accepted */

#endif
