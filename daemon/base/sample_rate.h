/* Everything behind the resampler is mono at this rate, which Whisper was trained with; positions are samples. */
#ifndef CAPTIOND_BASE_SAMPLE_RATE_H
#define CAPTIOND_BASE_SAMPLE_RATE_H

#include "daemon/base/clock.h"

#define SAMPLE_RATE 16000 /* Hz */
#define NS_A_SAMPLE (NS_A_SECOND / SAMPLE_RATE)

/* The nearest millisecond. */
static inline int64_t sample_to_ms(int64_t sample)
{
    return (sample * 1000 + SAMPLE_RATE / 2) / SAMPLE_RATE;
}

#endif
