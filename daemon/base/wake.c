#include "daemon/base/wake.h"

#include <time.h>

#include "daemon/base/clock.h"

void wake_wait(sem_t *wake, int ms)
{
    const struct timespec until = clock_timespec(clock_now_ns() + ms * NS_A_MS);
    sem_clockwait(wake, CLOCK_MONOTONIC, &until);
    while (sem_trywait(wake) == 0)
        continue;
}
