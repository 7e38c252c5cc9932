/* Order, deferred work, recorded graphs and errors of an engine, seen through memory alone: copies are the operations
 * with which a graph can count and stop itself. */
#include "tests/support/support.h"
#include "tests/support/engines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { N = 16 };

static void *room(struct engine *e, size_t bytes)
{
    void *p = e->v->alloc(e, bytes, NULL);
    assert_non_null(p);
    return p;
}

static void memory(struct engine *e)
{
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 3000001};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        unsigned char *p = room(e, sizes[i]), *copy = malloc(sizes[i] + 1);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(copy, 0xff, sizes[i] + 1);
        e->v->download(e, copy, p, sizes[i]);
        test_engine_wait(e);
        size_t zeros = 0;
        while (copy[zeros] == 0)
            zeros++;
        assert_int_equal(zeros, sizes[i]); /* and no byte more was copied */
        free(copy);
        e->v->free(e, p);
    }
    e->v->free(e, NULL);
}

static void test_memory(void **state)
{
    test_engines(memory);
}

/* A queue in engine memory that a graph moves up by one: queue[0] counts as n_active. */
struct shifter {
    struct engine_graph *graph;
    int32_t *queue;
    int32_t *staging;
};

static void shifter_init(struct engine *e, struct shifter *s, const int32_t *values)
{
    s->queue = room(e, (N + 1) * sizeof(int32_t));
    e->v->upload(e, s->queue, values, N * sizeof(int32_t));
    s->staging = room(e, N * sizeof(int32_t));
    test_engine_wait(e);
    e->v->graph_begin(e);
    e->v->upload(e, s->staging, s->queue + 1, N * sizeof(int32_t));
    e->v->upload(e, s->queue, s->staging, N * sizeof(int32_t));
    s->graph = e->v->graph_end(e);
    assert_non_null(s->graph);
}

static void shifter_finish(struct engine *e, struct shifter *s)
{
    e->v->graph_destroy(e, s->graph);
    e->v->free(e, s->queue);
    e->v->free(e, s->staging);
}

/* Launches and returns by how many places the queue 0 1 2 … or its like has moved. */
static int moved(struct engine *e, struct shifter *s, const int32_t *values, const int32_t *n_active,
                 int max_times)
{
    int32_t after[N];
    e->v->upload(e, s->queue, values, N * sizeof(int32_t));
    e->v->graph_launch(e, s->graph, n_active, max_times);
    e->v->download(e, after, s->queue, sizeof(after));
    test_engine_wait(e);
    for (int by = 0; by < N; by++) {
        if (!memcmp(after, values + by, (size_t)(N - by) * sizeof(int32_t)))
            return by;
    }
    return -1;
}

static void loops(struct engine *e)
{
    const int32_t values[N] = {5, 4, 3, 2, 1, 0, 9, -1, 8, 7, 6, 11, 12, 13, 14, 15};
    const int32_t nothing[N] = {0, 3, 2, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const int32_t negative[N] = {3, -2, 2, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    struct shifter s;
    shifter_init(e, &s, values);
    int32_t untouched[N];
    e->v->download(e, untouched, s.staging, sizeof(untouched));
    test_engine_wait(e);
    for (int i = 0; i < N; i++)
        assert_int_equal(untouched[i], 0);                  /* recording has run nothing */
    assert_int_equal(moved(e, &s, values, s.queue, 10), 5); /* until the counter is 0 */
    assert_int_equal(moved(e, &s, values, s.queue, 3), 3);  /* or max_times */
    assert_int_equal(moved(e, &s, values, s.queue, 0), 0);
    assert_int_equal(moved(e, &s, nothing, s.queue, 10),
                     0); /* the counter is looked at before the first time */
    assert_int_equal(moved(e, &s, negative, s.queue, 10), 1);
    assert_int_equal(moved(e, &s, values, NULL, 7), 7); /* no counter: exactly so often */
    assert_int_equal(moved(e, &s, values, NULL, 0), 0);
    shifter_finish(e, &s);
    e->v->graph_destroy(e, NULL);
}

static void test_graph_loops(void **state)
{
    test_engines(loops);
}

/* A graph inside a graph, and other work on either side of it, in order. */
static void nested(struct engine *e)
{
    const int32_t values[N] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 10, 11, 12, 13, 14, 15};
    struct shifter s;
    int32_t after[N];
    shifter_init(e, &s, values);
    e->v->graph_begin(e);
    e->v->graph_launch(e, s.graph, NULL, 2);
    struct engine_graph *twice = e->v->graph_end(e);
    assert_non_null(twice);
    e->v->graph_launch(e, twice, s.queue, 3);
    if (test_engines_emulated) { /* engines on a device refuse it */
        assert_int_equal(e->v->wait(e, NULL), -ENOTSUP);
    } else {
        e->v->download(e, after, s.queue, sizeof(after));
        test_engine_wait(e);
        assert_int_equal(after[0], values[6]);
    }
    e->v->graph_destroy(e, twice);
    shifter_finish(e, &s);
}

static void test_graph_in_graph(void **state)
{
    test_engines(nested);
}

static void record_many(struct engine *e)
{
    enum { MANY = 1000 };
    int32_t *counters = room(e, (MANY + 1) * sizeof(int32_t)), one = 1, zero = 0, after[MANY + 1];
    e->v->upload(e, counters, &one, sizeof(one));
    test_engine_wait(e);
    e->v->graph_begin(e);
    for (int i = 0; i < MANY;
         i++) /* each copies the one before it: out of order the 1 would not reach the end */
        e->v->download(e, counters + i + 1, counters + i, sizeof(int32_t));
    struct engine_graph *graph = e->v->graph_end(e);
    e->v->graph_launch(e, graph, NULL, 1);
    e->v->upload(e, counters, &zero, sizeof(zero));
    e->v->download(e, after, counters, sizeof(after));
    test_engine_wait(e);
    assert_int_equal(after[0], 0);
    for (int i = 1; i <= MANY; i++)
        assert_int_equal(after[i], 1);
    e->v->graph_destroy(e, graph);
    e->v->free(e, counters);
}

static void test_order(void **state)
{
    test_engines(record_many);
}

/* A shape that no layer norm accepts. */
static void submit_bad(struct engine *e, float *p)
{
    struct mat in = mat_view(p, DTYPE_F32, 1, 4, 4), out = mat_view(p, DTYPE_F32, 1, 3, 3);
    e->v->layer_norm(e, &(struct layer_norm_args){.in = in, .gamma = p, .beta = p, .out = out});
}

static void errors(struct engine *e)
{
    float *p = room(e, N * sizeof(float)), first[N] = {1.0f}, second[N] = {2.0f}, seen[N] = {7.0f};
    struct err err = {0};
    e->v->upload(e, p, first, sizeof(first));
    submit_bad(e, p);
    e->v->upload(e, p, second, sizeof(second)); /* is skipped */
    e->v->download(e, seen, p, sizeof(seen));   /* and so is this */
    assert_int_equal(e->v->wait(e, &err), -EINVAL);
    assert_int_equal(err.code, -EINVAL);
    assert_non_null(strstr(err.msg, "layer_norm"));
    assert_true(seen[0] == 7.0f);
    e->v->download(e, seen, p, sizeof(seen)); /* the error has been reported: work goes on */
    assert_int_equal(e->v->wait(e, &err), 0);
    assert_true(seen[0] == 1.0f);
    submit_bad(e, p);
    assert_int_equal(e->v->wait(e, NULL), -EINVAL);
    assert_int_equal(e->v->wait(e, &err), 0);
    e->v->free(e, p);
}

static void test_errors_stick_until_reported(void **state)
{
    test_engines(errors);
}

/* An error in a graph ends its loop: the counter that would stop it is never reached. */
static void error_in_graph(struct engine *e)
{
    float *p = room(e, N * sizeof(float));
    int32_t *active = room(e, sizeof(int32_t)), one = 1;
    struct err err = {0};
    e->v->upload(e, active, &one, sizeof(one));
    e->v->graph_begin(e);
    submit_bad(e, p);
    struct engine_graph *graph = e->v->graph_end(e);
    assert_int_equal(e->v->wait(e, &err), 0); /* recorded only */
    e->v->graph_launch(e, graph, active, INT32_MAX);
    assert_int_equal(e->v->wait(e, &err), -EINVAL);
    assert_int_equal(e->v->wait(e, &err), 0);
    e->v->graph_destroy(e, graph);
    e->v->free(e, p);
    e->v->free(e, active);
}

static void test_errors_end_graphs(void **state)
{
    test_engines(error_in_graph);
}

static void test_deferred_work_waits(void **state)
{
    if (test_on_gpu())
        test_skip("a driver may read what it copies at once");
    struct engine *e =
        test_engine_open(&(struct engine_case){.isa = "best", .n_threads = 2, .deferred = true}, 80);
    int32_t *p = room(e, sizeof(int32_t)), value = 5, seen = 0;
    e->v->upload(e, p, &value, sizeof(value));
    e->v->download(e, &seen, p, sizeof(seen));
    assert_int_equal(seen, 0); /* nothing has run */
    value = 6;                 /* as a caller must not: it shows that the upload reads late */
    test_engine_wait(e);
    assert_int_equal(seen, 6);
    seen = 0;
    test_engine_wait(e); /* nothing runs twice */
    assert_int_equal(seen, 0);
    e->v->free(e, p);
    engine_close(e);
}

static void test_open_refuses(void **state)
{
    static const struct {
        const char *name, *word;
        struct engine_options options;
        int code;
    } cases[] = {
        {"abacus", "abacus", {.n_mels = 80}, -EINVAL},
        {"cuda", "there is no libcaptiond-cuda.so", {.n_mels = 80}, -ENOENT}, /* beside a test program */
        {"host", "81", {.n_mels = 81}, -EINVAL},
        {"host", "threads", {.n_mels = 80, .n_threads = -1}, -EINVAL},
        {"host", "threads", {.n_mels = 80, .n_threads = 65}, -EINVAL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct engine *e = NULL;
        struct err err = {0};
        assert_int_equal(engine_open(cases[i].name, &cases[i].options, &e, &err), cases[i].code);
        assert_null(e);
        assert_non_null(strstr(err.msg, cases[i].word));
    }
    engine_close(NULL);
}

static void test_threads_by_default(void **state)
{
    struct engine *e = test_engine_open(&(struct engine_case){.isa = "best"}, 128);
    engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_graph_loops),
        cmocka_unit_test(test_graph_in_graph),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_errors_stick_until_reported),
        cmocka_unit_test(test_errors_end_graphs),
        cmocka_unit_test(test_deferred_work_waits),
        cmocka_unit_test(test_open_refuses),
        cmocka_unit_test(test_threads_by_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
