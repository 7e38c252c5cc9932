/* Every frame comes out where it belongs, whatever was lost before it. */
#include "tests/support/support.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "stream/frame_fifo.h"

#define CHANNELS 2
#define BLOCK    100

/* Frame i holds i and −i: below 2^24, exact. */
static void make(float *frames, int64_t first, int n)
{
    for (int i = 0; i < n; i++) {
        frames[CHANNELS * i] = (float)(first + i);
        frames[CHANNELS * i + 1] = -(float)(first + i);
    }
}

/* Takes up to max frames; *at is the index of the next frame by what has come out. Returns how many were wrong. */
static int take(struct frame_fifo *f, int max, int64_t *at, int64_t *n_dropped)
{
    float frames[BLOCK * CHANNELS];
    int64_t dropped;
    int n = frame_fifo_take(f, frames, max, &dropped), n_wrong = 0;
    *n_dropped += dropped;
    *at += dropped;
    for (int i = 0; i < n; i++, (*at)++)
        n_wrong += frames[CHANNELS * i] != (float)*at || frames[CHANNELS * i + 1] != -(float)*at;
    return n_wrong + (f->n_passed != *at);
}

/* Random blocks, some of them lost by the device, some silent, into a queue that is often full. */
static void every_frame_is_where_it_belongs(void **state)
{
    struct test_rng rng;
    struct frame_fifo f;
    float frames[BLOCK * CHANNELS];
    int64_t given = 0, at = 0, dropped = 0, lost_by_device = 0;
    test_rng_init(&rng, 1);
    assert_int_equal(frame_fifo_init(&f, CHANNELS, 500), 0);
    for (int i = 0; i < 100000; i++) {
        int n = test_rng_int(&rng, 0, BLOCK), what = test_rng_int(&rng, 0, 9);
        if (what == 0) {
            frame_fifo_lose(&f, n);
            lost_by_device += n;
            given += n;
        } else if (what < 6) {
            make(frames, given, n);
            frame_fifo_push(&f, what == 1 ? NULL : frames, n);
            given += n;
        } else {
            assert_int_equal(take(&f, n, &at, &dropped), 0);
        }
        assert_int_equal(f.n_delivered, given);
    }
    assert_true(dropped > lost_by_device);
    while (at < given - f.n_lost)
        assert_int_equal(take(&f, BLOCK, &at, &dropped), 0);
    assert_int_equal(at, given - f.n_lost);
    frame_fifo_finish(&f);
}

/* A reader that sleeps through more gaps than are kept loses more sound, but never its place. */
static void many_gaps_are_survived(void **state)
{
    struct frame_fifo f;
    float frames[BLOCK * CHANNELS];
    int64_t at = 0, dropped = 0;
    assert_int_equal(frame_fifo_init(&f, CHANNELS, 100000), 0);
    for (int i = 0; i < 1000; i++) {
        frame_fifo_lose(&f, 1);
        make(frames, 2 * i + 1, 1);
        frame_fifo_push(&f, frames, 1);
    }
    while (f.n_taken < f.n_pushed)
        assert_int_equal(take(&f, BLOCK, &at, &dropped), 0);
    make(frames, 2000, 5);
    frame_fifo_push(&f, frames, 5);
    assert_int_equal(take(&f, BLOCK, &at, &dropped), 0);
    assert_int_equal(at, 2005);
    assert_true(dropped > 1000 && f.n_taken < 1005);
    frame_fifo_finish(&f);
}

#define SHARED_TOTAL 1000000

static _Atomic bool done;

static void *produce(void *arg)
{
    struct frame_fifo *f = arg;
    struct test_rng rng;
    float frames[BLOCK * CHANNELS];
    test_rng_init(&rng, 2);
    while (f->n_delivered < SHARED_TOTAL) {
        int n = test_rng_int(&rng, 1, BLOCK);
        make(frames, f->n_delivered, n);
        frame_fifo_push(f, frames, n);
        if (test_rng_int(&rng, 0, 3) == 0)
            sched_yield();
    }
    atomic_store(&done, true);
    return NULL;
}

static void two_threads_agree(void **state)
{
    struct frame_fifo f;
    pthread_t thread;
    int64_t at = 0, dropped = 0, n_wrong = 0;
    assert_int_equal(frame_fifo_init(&f, CHANNELS, 500), 0);
    pthread_create(&thread, NULL, produce, &f);
    for (bool last = false; !last;) {
        last = atomic_load(&done);
        int64_t before;
        do {
            before = at;
            n_wrong += take(&f, BLOCK, &at, &dropped);
        } while (at > before);
    }
    pthread_join(thread, NULL);
    printf("%lld frames, %lld lost\n", (long long)f.n_taken, (long long)dropped);
    assert_int_equal(n_wrong, 0);
    assert_int_equal(at, f.n_delivered - f.n_lost);
    frame_fifo_finish(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_frame_is_where_it_belongs),
        cmocka_unit_test(many_gaps_are_survived),
        cmocka_unit_test(two_threads_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
