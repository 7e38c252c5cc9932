#include "stream/ring.h"

#include <assert.h>
#include <string.h>

size_t ring_storage_bytes(size_t capacity)
{
    return 2 * capacity * sizeof(float);
}

void ring_init(struct ring *ring, float *storage, size_t capacity)
{
    assert(capacity > 0);
    ring->data = storage;
    ring->capacity = capacity;
    atomic_init(&ring->head, 0);
    atomic_init(&ring->tail, 0);
}

static void store_twice(struct ring *ring, size_t at, const float *pcm, size_t n)
{
    memcpy(ring->data + at, pcm, n * sizeof(*pcm));
    memcpy(ring->data + at + ring->capacity, pcm, n * sizeof(*pcm));
}

size_t ring_room(const struct ring *ring)
{
    int64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    /* Acquire: the consumer's reads of what it released come before our overwriting it. */
    int64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    return ring->capacity - (size_t)(head - tail);
}

size_t ring_write(struct ring *ring, const float *pcm, size_t n)
{
    size_t room = ring_room(ring);
    if (n > room)
        n = room;
    if (n == 0)
        return 0;
    int64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    size_t at = (size_t)head % ring->capacity;
    size_t first = ring->capacity - at < n ? ring->capacity - at : n;
    store_twice(ring, at, pcm, first);
    store_twice(ring, 0, pcm + first, n - first);
    atomic_store_explicit(&ring->head, head + (int64_t)n, memory_order_release);
    return n;
}

int64_t ring_head(const struct ring *ring)
{
    return atomic_load_explicit(&ring->head, memory_order_acquire);
}

int64_t ring_tail(const struct ring *ring)
{
    return atomic_load_explicit(&ring->tail, memory_order_acquire);
}

const float *ring_span(const struct ring *ring, int64_t from, size_t n)
{
    int64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    int64_t head = ring_head(ring);
    if (from < tail || from > head || n > (size_t)(head - from))
        return NULL;
    return ring->data + (size_t)from % ring->capacity;
}

void ring_release(struct ring *ring, int64_t index)
{
    int64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    int64_t head = ring_head(ring);
    if (index > head)
        index = head;
    if (index > tail)
        atomic_store_explicit(&ring->tail, index, memory_order_release);
}
