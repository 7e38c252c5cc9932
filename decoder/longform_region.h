/* A stretch of a recording that holds speech, in samples. Pure functions. */
#ifndef CAPTIOND_DECODER_LONGFORM_REGION_H
#define CAPTIOND_DECODER_LONGFORM_REGION_H

#include <stdint.h>

struct longform_region {
    int64_t start, end;
};

/* Samples of [start, end) that are no further than `margin` from one of the n ascending regions. */
int64_t longform_region_within(const struct longform_region *, int n, int64_t start, int64_t end,
                               int64_t margin);

#endif
