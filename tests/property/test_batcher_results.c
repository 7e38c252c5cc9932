/* Streams that come and go at random on one engine: each gets, bit for bit, what it gets alone. */
#include "tests/support/support.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/batcher.h"
#include "daemon/whisper_model.h"
#include "tests/support/tiny_model.h"

#define N_CLIENTS 3
#define N_PASSES  8
#define N_SAMPLES 6400
#define MOST      40

struct result {
    int32_t tokens[MOST];
    float logprobs[MOST];
    int n;
};

struct stream {
    struct text_model *model;
    int index;
    struct result results[N_PASSES];
    uint64_t pauses; /* 0: none */
    pthread_t thread;
    int failed;
};

/* Sound, prompt and length of a pass depend on its number and the stream's alone. */
static void make_pass(struct stream *s, int pass)
{
    struct test_rng rng = {1000 + 100 * (uint64_t)s->index + (uint64_t)pass};
    struct result *result = &s->results[pass];
    float pcm[N_SAMPLES];
    int32_t tokens[30];
    struct err err;
    for (int i = 0; i < N_SAMPLES; i++)
        pcm[i] = 0.2f * test_rng_normal(&rng);
    int n_prompt = test_rng_int(&rng, 1, 30);
    for (int i = 0; i < n_prompt; i++)
        tokens[i] = test_rng_int(&rng, 0, 50000);
    struct text_run run = {.slot = s->index,
                           .audio = s->index,
                           .n_prompt = n_prompt,
                           .tokens = tokens,
                           .sample_begin = n_prompt,
                           .max_tokens = test_rng_int(&rng, 1, MOST),
                           .rules = {.eot = 50256,
                                     .timestamp_begin = 50363,
                                     .no_timestamps = -1,
                                     .max_initial_timestamp = -1,
                                     .mask = -1,
                                     .first_mask = -1},
                           .probe_token = -1,
                           .out_capacity = MOST,
                           .out_tokens = result->tokens,
                           .out_logprobs = result->logprobs};
    const struct text_model_ops *ops = s->model->ops;
    ops->encode(s->model, s->index, pcm, N_SAMPLES, 0, AUDIO_SCALE_OWN);
    int r = ops->run(s->model, &run, 1, &err);
    int waited = ops->wait(s->model, &err);
    s->failed |= r < 0 || waited < 0;
    result->n = run.n_out;
}

static void *make_passes(void *arg)
{
    struct stream *s = arg;
    struct test_rng rng = {s->pauses};
    for (int pass = 0; pass < N_PASSES; pass++) {
        struct timespec pause = {.tv_nsec = s->pauses ? test_rng_int(&rng, 0, 5) * 1000000 : 0};
        nanosleep(&pause, NULL);
        make_pass(s, pass);
    }
    return NULL;
}

static void a_stream_among_others_is_as_alone(void **state)
{
    static struct stream alone[N_CLIENTS], together[N_CLIENTS];
    struct tiny_model tiny;
    struct whisper_model model;
    struct batcher *batcher;
    struct err err = {0};
    char path[300];
    const char *folder = tiny_folder();
    tiny_model_init(&tiny, 3, 60, 100);
    snprintf(path, sizeof(path), "%s/model.bin", folder);
    tiny_model_write_ggml(&tiny, path, true, NULL);
    const struct whisper_options options = {
        .engine = "host", .n_threads = 2, .n_audio_slots = N_CLIENTS, .n_text_slots = N_CLIENTS};
    if (whisper_model_open(&model, path, &options, &err) < 0)
        fail_msg("%s", err.msg);
    for (int i = 0; i < N_CLIENTS; i++) {
        alone[i] = (struct stream){.model = &model.base, .index = i};
        make_passes(&alone[i]);
        assert_int_equal(alone[i].failed, 0);
    }
    const struct batcher_options many = {.n_clients = N_CLIENTS};
    assert_int_equal(batcher_create(&many, &model.base, &batcher, &err), 0);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < N_CLIENTS; i++) {
            together[i] = (struct stream){.model = batcher_client(batcher, i),
                                          .index = i,
                                          .pauses = round ? test_seed() + (uint64_t)(10 * round + i) : 0};
            assert_int_equal(pthread_create(&together[i].thread, NULL, make_passes, &together[i]), 0);
        }
        for (int i = 0; i < N_CLIENTS; i++) {
            pthread_join(together[i].thread, NULL);
            assert_int_equal(together[i].failed, 0);
            for (int k = 0; k < N_PASSES; k++) {
                const struct result *a = &alone[i].results[k], *b = &together[i].results[k];
                assert_true(a->n > 0);
                assert_int_equal(a->n, b->n);
                assert_memory_equal(a->tokens, b->tokens, (size_t)a->n * sizeof(*a->tokens));
                assert_memory_equal(a->logprobs, b->logprobs, (size_t)a->n * sizeof(*a->logprobs));
            }
        }
    }
    batcher_destroy(batcher);
    whisper_model_close(&model);
    tiny_folder_remove(folder);
    tiny_model_finish(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_stream_among_others_is_as_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
