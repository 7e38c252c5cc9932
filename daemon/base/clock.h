/* Time that never jumps. Any thread. */
#ifndef CAPTIOND_BASE_CLOCK_H
#define CAPTIOND_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_A_SECOND 1000000000LL
#define NS_A_MS     1000000LL

/* Nanoseconds on CLOCK_MONOTONIC. */
int64_t clock_now_ns(void);

/* Such a time in the form that system calls take. */
struct timespec clock_timespec(int64_t ns);

/* Returns at such a time, whatever signals come. */
void clock_sleep_until(int64_t ns);

/* Milliseconds since the Unix epoch, for the edge only: inside, the sample index is the clock. */
int64_t clock_unix_ms(void);

/* The same at a time on CLOCK_MONOTONIC, as the two stand now: one stops while the computer sleeps, the other is set. */
int64_t clock_unix_ms_at(int64_t ns);

#endif
