/* Everything behind the resampler is mono at this rate, which Whisper was trained with; positions are samples. */
#ifndef CAPTIOND_BASE_SAMPLE_RATE_H
#define CAPTIOND_BASE_SAMPLE_RATE_H

#include "daemon/base/clock.h"

#define SAMPLE_RATE 16000 /* Hz */
#define NS_A_SAMPLE (NS_A_SECOND / SAMPLE_RATE)

#endif
