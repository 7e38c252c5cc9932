/* A bounded queue between exactly two threads: one pushes, one pops, neither ever waits or allocates.
 *
 * Elements are of one fixed size and are copied in and out. The storage is taken at init, so that push and
 * pop can run on an audio callback. Indices grow without wrapping (64 bits) and live on cache lines of their
 * own; release and acquire order the copies. */
#ifndef CAPTIOND_BASE_SPSC_H
#define CAPTIOND_BASE_SPSC_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/cache_line.h"

struct spsc {
    unsigned char *data; /* capacity × elem_size bytes, owned */
    size_t elem_size;
    size_t capacity;                            /* elements, a power of two */
    _Alignas(CACHE_LINE) _Atomic uint64_t head; /* elements ever pushed: written by the producer */
    _Alignas(CACHE_LINE) _Atomic uint64_t tail; /* elements ever popped: written by the consumer */
};

/* Takes storage for at least `min_capacity` elements (rounded up to a power of two). 0 or -ENOMEM. */
int spsc_init(struct spsc *q, size_t elem_size, size_t min_capacity);

/* Frees the storage. NULL and zeroed objects are accepted. Neither thread may be in a call. */
void spsc_finish(struct spsc *q);

/* Producer: copies in up to n elements, all that fit, and returns how many went in. */
size_t spsc_push(struct spsc *q, const void *elems, size_t n);

/* Consumer: copies out up to n elements and returns how many came. */
size_t spsc_pop(struct spsc *q, void *elems, size_t n);

/* Either thread: elements waiting. A lower bound for the consumer, an upper bound for the producer. */
size_t spsc_count(const struct spsc *q);

#endif
