/* Everything behind the resampler is mono at this rate, which Whisper was trained with; positions are samples. */
#ifndef CAPTIOND_BASE_SAMPLE_RATE_H
#define CAPTIOND_BASE_SAMPLE_RATE_H

#define SAMPLE_RATE 16000 /* Hz */

#endif
