/* A thread that sleeps until there is something to do. */
#ifndef CAPTIOND_BASE_WAKE_H
#define CAPTIOND_BASE_WAKE_H

#include <semaphore.h>

/* Waits until the semaphore is posted, or `ms` have passed, and takes all posts there are: one look at what there is to do
 * answers them all. */
void wake_wait(sem_t *, int ms);

#endif
