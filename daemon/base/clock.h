/* Time that never jumps. Any thread. */
#ifndef CAPTIOND_BASE_CLOCK_H
#define CAPTIOND_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds on CLOCK_MONOTONIC. */
int64_t clock_now_ns(void);

/* Milliseconds since the Unix epoch, for the edge only: inside, the sample index is the clock. */
int64_t clock_unix_ms(void);

#endif
