#include "daemon/base/spsc.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int spsc_init(struct spsc *q, size_t elem_size, size_t min_capacity)
{
    size_t capacity = 1;
    while (capacity < min_capacity)
        capacity *= 2;
    q->data = capacity > SIZE_MAX / elem_size ? NULL : malloc(capacity * elem_size);
    if (!q->data)
        return -ENOMEM;
    /* So that every page is there. Not 0: compilers make a calloc of that. */
    memset(q->data, 0xff, capacity * elem_size);
    q->elem_size = elem_size;
    q->capacity = capacity;
    atomic_init(&q->head, 0);
    atomic_init(&q->tail, 0);
    return 0;
}

void spsc_finish(struct spsc *q)
{
    if (!q)
        return;
    free(q->data);
    q->data = NULL;
    q->capacity = 0;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t spsc_push(struct spsc *q, const void *elems, size_t n)
{
    uint64_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&q->tail, memory_order_acquire);
    n = min_size(n, q->capacity - (size_t)(head - tail));
    size_t at = (size_t)head & (q->capacity - 1);
    size_t first = min_size(n, q->capacity - at);
    if (n) {
        memcpy(q->data + at * q->elem_size, elems, first * q->elem_size);
        memcpy(q->data, (const unsigned char *)elems + first * q->elem_size, (n - first) * q->elem_size);
    }
    atomic_store_explicit(&q->head, head + n, memory_order_release);
    return n;
}

size_t spsc_pop(struct spsc *q, void *elems, size_t n)
{
    uint64_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&q->head, memory_order_acquire);
    n = min_size(n, (size_t)(head - tail));
    size_t at = (size_t)tail & (q->capacity - 1);
    size_t first = min_size(n, q->capacity - at);
    if (n) {
        memcpy(elems, q->data + at * q->elem_size, first * q->elem_size);
        memcpy((unsigned char *)elems + first * q->elem_size, q->data, (n - first) * q->elem_size);
    }
    atomic_store_explicit(&q->tail, tail + n, memory_order_release);
    return n;
}

size_t spsc_count(const struct spsc *q)
{
    uint64_t tail = atomic_load_explicit(&q->tail, memory_order_acquire);
    uint64_t head = atomic_load_explicit(&q->head, memory_order_acquire);
    return (size_t)(head - tail);
}
