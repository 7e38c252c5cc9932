/* The host engine's threads. */
#include "tests/support/support.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gpu/host/host.h"

static void test_shares_cover_all_once(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (int i = 0; i < 20000; i++) {
        int n = test_rng_int(&rng, 0, 4000), grain = test_rng_int(&rng, 1, 64),
            workers = test_rng_int(&rng, 1, 64);
        int next = 0;
        for (int w = 0; w < workers; w++) {
            int first, last;
            pool_share(n, grain, w, workers, &first, &last);
            assert_int_equal(first, next);
            assert_true(last >= first);
            assert_true(first % grain == 0 || first == n);
            assert_true(last - first <= (n / grain / workers + 2) * grain);
            next = last;
        }
        assert_int_equal(next, n);
    }
}

struct job {
    _Atomic int calls[HOST_THREADS_MAX];
    int64_t plain
        [HOST_THREADS_MAX]; /* written by its worker, read by the caller afterwards: ThreadSanitizer looks */
    int n_workers;
};

static void count(void *arg, int worker, int n_workers)
{
    struct job *job = arg;
    atomic_fetch_add(&job->calls[worker], 1);
    job->plain[worker]++;
    if (worker == 0)
        job->n_workers = n_workers;
}

static void test_every_worker_runs_once_a_call(void **state)
{
    for (int n = 1; n <= 9; n++) { /* more workers than processors, too */
        struct pool *pool = NULL;
        struct job job;
        int calls = n <= 2 ? 5000 : 200;
        memset(&job, 0, sizeof(job));
        assert_int_equal(pool_create(n, &pool), 0);
        assert_int_equal(pool_size(pool), n);
        for (int i = 0; i < calls; i++) {
            pool_run(pool, count, &job);
            for (int w = 0; w < n; w++)
                assert_int_equal(job.plain[w], i + 1);
        }
        for (int w = 0; w < HOST_THREADS_MAX; w++)
            assert_int_equal(atomic_load(&job.calls[w]), w < n ? calls : 0);
        assert_int_equal(job.n_workers, n);
        pool_destroy(pool);
    }
}

struct ticket_job {
    struct tickets tickets;
    _Atomic int taken[1000];
    int slow; /* this worker sleeps over its first item: the others must do the rest of its share */
    int by[HOST_THREADS_MAX];
};

static void sleep_ns(int64_t ns)
{
    nanosleep(&(struct timespec){ns / 1000000000, ns % 1000000000}, NULL);
}

static void take(void *arg, int worker, int n_workers)
{
    struct ticket_job *job = arg;
    for (int item; tickets_take(&job->tickets, worker, &item);) {
        atomic_fetch_add(&job->taken[item], 1);
        if (worker == job->slow && job->by[worker]++ == 0)
            sleep_ns(50000000);
        else
            sleep_ns(10000);
    }
}

static void test_tickets_are_taken_once_by_whoever_is_free(void **state)
{
    static const int counts[] = {0, 1, 2, 3, 7, 100};
    for (int workers = 1; workers <= 4; workers++) {
        struct pool *pool = NULL;
        assert_int_equal(pool_create(workers, &pool), 0);
        for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
            struct ticket_job job;
            memset(&job, 0, sizeof(job));
            job.slow = workers - 1;
            tickets_init(&job.tickets, pool, counts[c]);
            pool_run(pool, take, &job);
            for (int i = 0; i < 1000; i++)
                assert_int_equal(atomic_load(&job.taken[i]), i < counts[c]);
            if (workers > 1 && counts[c] == 100)
                assert_true(job.by[job.slow] < 100 / workers);
        }
        pool_destroy(pool);
    }
}

/* A worker that does not get to begin is not waited for: the caller runs its part. */
struct late_job {
    pthread_t by[HOST_THREADS_MAX];
    _Atomic int runs[HOST_THREADS_MAX];
};

static void note_thread(void *arg, int worker, int n_workers)
{
    struct late_job *job = arg;
    job->by[worker] = pthread_self();
    atomic_fetch_add(&job->runs[worker], 1);
}

static void test_parts_not_begun_are_taken_over(void **state)
{
    enum { WORKERS = 16, CALLS = 2000 }; /* far more than processors: most cannot begin in time */
    struct pool *pool = NULL;
    struct late_job job;
    int taken_over = 0;
    memset(&job, 0, sizeof(job));
    assert_int_equal(pool_create(WORKERS, &pool), 0);
    for (int i = 0; i < CALLS; i++) {
        pool_run(pool, note_thread, &job);
        for (int w = 0; w < WORKERS; w++) {
            assert_int_equal(atomic_load(&job.runs[w]), i + 1);
            taken_over += w > 0 && pthread_equal(job.by[w], pthread_self());
        }
    }
    pool_destroy(pool);
    printf("%d of %d parts taken over\n", taken_over, CALLS * (WORKERS - 1));
    if (processor_count() < WORKERS / 2)
        assert_true(taken_over > CALLS);
}

/* The kernel's word for a thread that does not want a processor. */
static bool is_asleep(const char *task)
{
    char path[300], state = '?';
    snprintf(path, sizeof(path), "/proc/self/task/%s/stat", task);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%*d %*[^)]) %c", &state) != 1)
        state = '?';
    if (f)
        fclose(f);
    return state == 'S';
}

static bool others_are_asleep(void)
{
    char own[16];
    DIR *tasks = opendir("/proc/self/task");
    bool asleep = true;
    assert_non_null(tasks);
    snprintf(own, sizeof(own), "%ld", (long)gettid());
    for (const struct dirent *d; (d = readdir(tasks));) {
        if (d->d_name[0] != '.' && strcmp(d->d_name, own) != 0)
            asleep &= is_asleep(d->d_name);
    }
    closedir(tasks);
    return asleep;
}

/* One that went on spinning would never be seen asleep. */
static void test_idle_workers_sleep_and_wake(void **state)
{
    struct pool *pool = NULL;
    struct job job;
    memset(&job, 0, sizeof(job));
    assert_int_equal(pool_create(4, &pool), 0);
    for (int i = 0; i < 50; i++) {
        for (int wait = 0; wait < 10000 && !others_are_asleep(); wait++)
            sleep_ns(1000000);
        assert_true(others_are_asleep());
        pool_run(pool, count, &job);
    }
    for (int w = 0; w < 4; w++)
        assert_int_equal(job.plain[w], 50);
    pool_destroy(pool);
}

static void test_create_and_destroy(void **state)
{
    pool_destroy(NULL);
    for (int i = 0; i < 50; i++) {
        struct pool *pool = NULL;
        assert_int_equal(pool_create(1 + i % 5, &pool), 0);
        if (i % 2)
            sleep_ns(500000); /* asleep or still spinning */
        pool_destroy(pool);
    }
}

static void test_processor_count(void **state)
{
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
    assert_in_range(processor_count(), 1, CPU_COUNT(&all));
    int first = 0;
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(processor_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares_cover_all_once),
        cmocka_unit_test(test_every_worker_runs_once_a_call),
        cmocka_unit_test(test_parts_not_begun_are_taken_over),
        cmocka_unit_test(test_idle_workers_sleep_and_wake),
        cmocka_unit_test(test_create_and_destroy),
        cmocka_unit_test(test_tickets_are_taken_once_by_whoever_is_free),
        cmocka_unit_test(test_processor_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
