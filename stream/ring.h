/* The last seconds of a stream at 16 kHz mono, between one producer (intake) and one consumer (captioner).
 *
 * Any span inside the ring is contiguous in memory: each sample is stored twice, `capacity` apart, so that the
 * reader never sees a seam and the storage can be registered with an engine as one block. Samples are
 * addressed by their index since the stream began, which is the stream's clock. The consumer says what it no
 * longer needs; the producer never overwrites anything else. The storage is given by the daemon and outlives the
 * ring. */
#ifndef CAPTIOND_STREAM_RING_H
#define CAPTIOND_STREAM_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/cache_line.h"
#include "daemon/base/sample_rate.h"

struct ring {
    float *data;                               /* 2 × capacity samples, not owned */
    size_t capacity;                           /* samples */
    _Alignas(CACHE_LINE) _Atomic int64_t head; /* samples ever written: the producer's */
    _Alignas(CACHE_LINE) _Atomic int64_t tail; /* first sample still needed: the consumer's */
};

/* Bytes of storage for `capacity` samples. */
size_t ring_storage_bytes(size_t capacity);

void ring_init(struct ring *, float *storage, size_t capacity);

/* Producer: writes up to n samples, as many as there is room for, and returns how many. */
size_t ring_write(struct ring *, const float *pcm, size_t n);

/* Producer: samples that can be written now. */
size_t ring_room(const struct ring *);

/* Either thread: index after the newest sample. */
int64_t ring_head(const struct ring *);

/* Consumer: oldest readable index. */
int64_t ring_tail(const struct ring *);

/* Consumer: pointer to samples [from, from + n). NULL unless tail ≤ from and from + n ≤ head. Stays valid until
 * ring_release passes it. */
const float *ring_span(const struct ring *, int64_t from, size_t n);

/* Consumer: samples before `index` are no longer needed. Clamped to [tail, head]. */
void ring_release(struct ring *, int64_t index);

#endif
