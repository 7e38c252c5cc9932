#include "daemon/base/clock.h"

#include <errno.h>

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * NS_A_SECOND + ts.tv_nsec;
}

int64_t clock_now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

void clock_sleep_until(int64_t ns)
{
    const struct timespec until = clock_timespec(ns);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        continue;
}

int64_t clock_unix_ms(void)
{
    return read_clock(CLOCK_REALTIME) / NS_A_MS;
}

int64_t clock_unix_ms_at(int64_t ns)
{
    return clock_unix_ms() - (clock_now_ns() - ns) / NS_A_MS;
}

struct timespec clock_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / NS_A_SECOND, .tv_nsec = ns % NS_A_SECOND};
}
