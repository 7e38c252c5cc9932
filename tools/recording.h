/* A whole recording in memory, and where in it somebody speaks. */
#ifndef CAPTIOND_TOOLS_RECORDING_H
#define CAPTIOND_TOOLS_RECORDING_H

#include <stdint.h>

#include "daemon/base/err.h"
#include "decoder/longform.h"

#define RECORDING_RATE 16000

struct recording {
    float *pcm; /* RECORDING_RATE, mono */
    int64_t n_samples;
};

/* Reads a file of any format, rate and channel count that libsndfile knows. 0; -ENOENT; -EINVAL for what is no
 * audio; -EIO; -ENOMEM. Nothing is left to free on failure. */
int recording_read(const char *path, struct recording *, struct err *);
void recording_free(struct recording *); /* zeroed objects are accepted */

/* Finds the spans with speech, ascending and apart, in an array that the caller frees (NULL if there are none). Only
 * pauses of more than three seconds are left out, and of these not the first and the last one. Returns the number of
 * spans or -ENOMEM. */
int recording_find_speech(const struct recording *, struct longform_region **, struct err *);

#endif
