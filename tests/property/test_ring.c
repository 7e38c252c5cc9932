/* The ring is a FIFO that never shows a seam: against a model, and between two threads. */
#include "tests/support/support.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "stream/ring.h"

static float value(int64_t index)
{
    return (float)(index % 1000003); /* below 2^24: exact */
}

static void storage_is_doubled(void **state)
{
    assert_int_equal(ring_storage_bytes(1000), 2 * 1000 * sizeof(float));
}

/* Every operation against what the header promises, for capacities from one sample on. */
static void operations_match_a_model(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (int round = 0; round < 200; round++) {
        int capacity = test_rng_int(&rng, 1, 100);
        float *storage = malloc(ring_storage_bytes((size_t)capacity)), pcm[150];
        struct ring ring;
        int64_t head = 0, tail = 0;
        ring_init(&ring, storage, (size_t)capacity);
        for (int op = 0; op < 500; op++) {
            int n = test_rng_int(&rng, 0, 150);
            int room = capacity - (int)(head - tail);
            assert_int_equal(ring_room(&ring), room);
            assert_int_equal(ring_head(&ring), head);
            assert_int_equal(ring_tail(&ring), tail);
            if (test_rng_int(&rng, 0, 1)) {
                for (int i = 0; i < n; i++)
                    pcm[i] = value(head + i);
                int written = (int)ring_write(&ring, pcm, (size_t)n);
                assert_int_equal(written, n < room ? n : room);
                head += written;
            } else {
                int64_t index = tail + test_rng_int(&rng, -20, capacity + 20);
                ring_release(&ring, index);
                index = index > head ? head : index;
                tail = index > tail ? index : tail;
            }
            int64_t from = tail + test_rng_int(&rng, -3, capacity + 3);
            n = test_rng_int(&rng, 0, capacity + 3);
            const float *span = ring_span(&ring, from, (size_t)n);
            if (from < tail || from + n > head) {
                assert_null(span);
            } else {
                assert_non_null(span);
                for (int i = 0; i < n; i++)
                    assert_true(span[i] == value(from + i));
            }
        }
        free(storage);
    }
}

#define SHARED_CAPACITY 1000
#define SHARED_TOTAL    2000000

static void *produce(void *arg)
{
    struct ring *ring = arg;
    struct test_rng rng;
    float pcm[300];
    test_rng_init(&rng, 2);
    for (int64_t at = 0; at < SHARED_TOTAL;) {
        int n = test_rng_int(&rng, 1, 300);
        if (n > SHARED_TOTAL - at)
            n = (int)(SHARED_TOTAL - at);
        for (int i = 0; i < n; i++)
            pcm[i] = value(at + i);
        size_t written = ring_write(ring, pcm, (size_t)n);
        at += (int64_t)written;
        if (written == 0)
            sched_yield();
    }
    return NULL;
}

/* The consumer keeps looking at overlapping spans, as live passes do, and lets go of what is behind them. */
static void two_threads_see_one_stream(void **state)
{
    struct test_rng rng;
    struct ring ring;
    pthread_t thread;
    float *storage = malloc(ring_storage_bytes(SHARED_CAPACITY));
    int64_t wrong = 0, spans = 0;
    test_rng_init(&rng, 3);
    ring_init(&ring, storage, SHARED_CAPACITY);
    pthread_create(&thread, NULL, produce, &ring);
    while (ring_tail(&ring) < SHARED_TOTAL) {
        int64_t tail = ring_tail(&ring), head = ring_head(&ring);
        if (head == tail) {
            sched_yield();
            continue;
        }
        const float *span = ring_span(&ring, tail, (size_t)(head - tail));
        for (int64_t i = 0; span && i < head - tail; i++)
            wrong += span[i] != value(tail + i);
        wrong += span == NULL;
        spans++;
        ring_release(&ring, tail + test_rng_int(&rng, 1, (int)(head - tail)));
    }
    pthread_join(thread, NULL);
    printf("%lld spans\n", (long long)spans);
    assert_int_equal(wrong, 0);
    free(storage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(storage_is_doubled),
        cmocka_unit_test(operations_match_a_model),
        cmocka_unit_test(two_threads_see_one_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
