/* Runs of the engine against runs composed on the host from single steps: rules, drafts, limits, probes, sampling. */
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "daemon/whisper_model.h"
#include "tests/support/host_run.h"
#include "tests/support/rules.h"

enum { EOT = 50256, SOT = 50257, NO_SPEECH = 50361, NO_TIMESTAMPS = 50362, STAMP = 50363, N_VOCAB = 51864 };
enum { N_AUDIO_CTX = 60, N_TEXT_CTX = 64, N_SAMPLES = 320 * N_AUDIO_CTX, N_SLOTS = 1 + RUN_BEAMS_MAX };

static struct tiny_model tiny;
static char folder[256], file[300];
static struct whisper_model model;
static struct host_run *host;
static float pcm[N_SAMPLES];
static int n_compared, n_near_ties;

static int setup(void **state)
{
    (void)state;
    struct err err;
    struct test_rng rng = {7};
    const struct whisper_options options = {.engine = "host",
                                            .n_threads = 2,
                                            .precision = PRECISION_F32,
                                            .n_audio_slots = 1,
                                            .n_text_slots = N_SLOTS};
    tiny_model_init(&tiny, 11, N_AUDIO_CTX, N_TEXT_CTX);
    snprintf(folder, sizeof(folder), "%s", tiny_folder());
    snprintf(file, sizeof(file), "%s/model.bin", folder);
    tiny.n_words = 300;
    tiny_model_write_ggml(&tiny, file, true, NULL);
    for (int i = 0; i < N_SAMPLES; i++)
        pcm[i] = 0.2f * sinf(0.1f * (float)i * (1.0f + 1e-5f * (float)i)) + 0.05f * test_rng_normal(&rng);
    if (whisper_model_open(&model, file, &options, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(host_run_create(&model.base, &host, &err), 0);
    model.base.ops->encode(&model.base, 0, pcm, N_SAMPLES, 0, AUDIO_SCALE_OWN);
    return model.base.ops->wait(&model.base, &err);
}

static int teardown(void **state)
{
    (void)state;
    printf("%d tokens compared, %d near-ties\n", n_compared, n_near_ties);
    host_run_destroy(host);
    whisper_model_close(&model);
    tiny_folder_remove(folder);
    tiny_model_finish(&tiny);
    return 0;
}

static void set_mask(int index, const int32_t *tokens, int n)
{
    struct err err;
    assert_int_equal(model.base.ops->set_mask(&model.base, index, tokens, n, &err), 0);
    assert_int_equal(host_run_set_mask(host, index, tokens, n, &err), 0);
}

struct output {
    int32_t tokens[N_TEXT_CTX];
    float logprobs[N_TEXT_CTX];
};

static void direct(struct text_run *r, struct output *out)
{
    r->out_tokens = out->tokens;
    r->out_logprobs = out->logprobs;
    r->out_capacity = N_TEXT_CTX;
}

/* Rows computed together round differently from rows computed one at a time, and the sums of the softmax differ. Logits of
 * the small model are below 10 in size; 64 sums of f32 products and two layers give about 1e-5 of that. */
#define CLOSE 1e-4f

/* Whether two different tokens are a matter of rounding: as probable as one another, or for samples, where any difference
 * moves the cumulated probabilities, as seldom as that. */
static bool near_tie(const struct text_run *r, float a, float b)
{
    return r->rules.temperature > 0.0f || fabsf(a - b) < 2.0f * CLOSE;
}

static void compare(struct text_run *want, struct text_run *got)
{
    int n = want->n_out < got->n_out ? want->n_out : got->n_out;
    for (int i = 0; i < n; i++) {
        n_compared++;
        if (want->out_tokens[i] != got->out_tokens[i]) {
            n_near_ties++;
            if (!near_tie(want, want->out_logprobs[i], got->out_logprobs[i]))
                fail_msg("token %d is %d (%f), not %d (%f)", i, got->out_tokens[i],
                         (double)got->out_logprobs[i], want->out_tokens[i], (double)want->out_logprobs[i]);
            return; /* from here on they tell different stories */
        }
        assert_float_equal(got->out_logprobs[i], want->out_logprobs[i], CLOSE);
    }
    assert_int_equal(got->n_out, want->n_out);
    assert_int_equal(got->stop, want->stop);
    assert_int_equal(got->n_accepted, want->n_accepted);
    assert_int_equal(got->n_steps, want->n_steps);
    assert_float_equal(got->probe_prob, want->probe_prob, CLOSE * want->probe_prob);
}

static void random_rules(struct test_rng *rng, struct token_rules *rules)
{
    *rules = (struct token_rules){
        .eot = EOT,
        .timestamp_begin = STAMP,
        .no_timestamps = NO_TIMESTAMPS,
        .timestamps = test_rng_int(rng, 0, 1),
        .max_initial_timestamp = test_rng_int(rng, 0, 1) ? 50 : -1,
        .mask = test_rng_int(rng, -1, 1),
        .first_mask = test_rng_int(rng, -1, 1),
        .temperature = test_rng_int(rng, 0, 3) ? 0.0f : 0.2f + test_rng_uniform(rng),
        .seed = test_rng_next(rng),
    };
}

/* Random weights are almost sure of nothing; masks that leave few tokens make end of text and timestamps come up. */
static void random_masks(struct test_rng *rng)
{
    static int32_t tokens[N_VOCAB];
    for (int index = 0; index <= 1; index++) {
        int n = 0, keep = test_rng_int(rng, 2, 12);
        for (int32_t i = 0; i < N_VOCAB; i++) {
            bool special = i == EOT || i >= STAMP;
            if (index == 0 ? i % 97 == 5 : !special && i % (4000 / keep) != 3)
                tokens[n++] = i;
        }
        set_mask(index, tokens, n);
    }
}

static void test_runs_are_the_same(void **state)
{
    (void)state;
    struct test_rng rng;
    struct err err = {0};
    test_rng_init(&rng, 1);
    for (int round = 0; round < 20; round++) {
        int32_t tokens[N_TEXT_CTX];
        struct output a, b;
        if (round % 5 == 0)
            random_masks(&rng);
        int n_prompt = test_rng_int(&rng, 1, 20);
        for (int i = 0; i < n_prompt; i++)
            tokens[i] = test_rng_int(&rng, 0, N_VOCAB - 1);
        struct text_run want = {.slot = 0,
                                .n_prompt = n_prompt,
                                .tokens = tokens,
                                .sample_begin = n_prompt,
                                .max_tokens = test_rng_int(&rng, 1, N_TEXT_CTX),
                                .probe_token = NO_SPEECH,
                                .probe_index = test_rng_int(&rng, 0, n_prompt - 1)};
        random_rules(&rng, &want.rules);
        direct(&want, &a);
        struct text_run got = want;
        got.slot = 1;
        direct(&got, &b);
        if (host_run(host, &want, &err) < 0 || model.base.ops->run(&model.base, &got, 1, &err) < 0 ||
            model.base.ops->wait(&model.base, &err) < 0)
            fail_msg("%s", err.msg);
        compare(&want, &got);
        /* The same again as a draft that is right up to some place, with the prompt cached. */
        int n_draft = want.n_out < N_TEXT_CTX - n_prompt ? want.n_out : N_TEXT_CTX - n_prompt;
        memcpy(tokens + n_prompt, want.out_tokens, (size_t)n_draft * sizeof(*tokens));
        if (n_draft > 0 && test_rng_int(&rng, 0, 2))
            tokens[n_prompt + test_rng_int(&rng, 0, n_draft - 1)] = test_rng_int(&rng, 0, 255);
        want.n_draft = got.n_draft = n_draft;
        want.n_cached = got.n_cached = n_prompt - 1;
        want.probe_token = got.probe_token = -1;
        if (host_run(host, &want, &err) < 0 || model.base.ops->run(&model.base, &got, 1, &err) < 0 ||
            model.base.ops->wait(&model.base, &err) < 0)
            fail_msg("%s", err.msg);
        compare(&want, &got);
    }
    assert_true(n_compared > 200);
    assert_true(n_near_ties <= n_compared / 100);
}

static void test_a_draft_changes_no_token(void **state)
{
    (void)state;
    struct err err = {0};
    struct output plain, drafted;
    int32_t tokens[N_TEXT_CTX] = {SOT, 7, 9};
    struct text_run r = {
        .n_prompt = 3, .tokens = tokens, .sample_begin = 3, .max_tokens = 20, .probe_token = -1};
    r.rules = (struct token_rules){.eot = EOT, .timestamp_begin = STAMP, .mask = -1, .first_mask = -1};
    direct(&r, &plain);
    assert_int_equal(host_run(host, &r, &err), 0);
    assert_int_equal(r.n_steps, r.n_out);
    int n = r.n_out;
    memcpy(tokens + 3, plain.tokens, sizeof(int32_t) * 12);
    tokens[3 + 9] ^= 1; /* the tenth is wrong */
    r.n_draft = 12;
    direct(&r, &drafted);
    assert_int_equal(host_run(host, &r, &err), 0);
    assert_int_equal(r.n_accepted, 9);
    assert_int_equal(r.n_out, n);
    assert_int_equal(r.n_steps, n - 9);
    assert_memory_equal(plain.tokens, drafted.tokens, sizeof(int32_t) * (size_t)n);
}

/* --- beam search --- */

static void both(struct text_run *want, struct text_run *got)
{
    struct err err = {0};
    if (host_run(host, want, &err) < 0 || model.base.ops->run(&model.base, got, 1, &err) < 0 ||
        model.base.ops->wait(&model.base, &err) < 0)
        fail_msg("%s", err.msg);
}

static float mean(const struct text_run *r)
{
    float sum = 0.0f;
    for (int i = 0; i < r->n_out; i++)
        sum += r->out_logprobs[i];
    int length = r->n_out - (r->stop == RUN_STOP_EOT);
    float n = length > 0 ? (float)length : 1.0f;
    float alpha = r->beam.length_penalty;
    return sum / (alpha < 0.0f ? n : powf((5.0f + n) / 6.0f, alpha));
}

/* A search goes another way where two of its hypotheses are as good as one another, and may then end elsewhere. What it
 * finds is then about as good at least: random weights make no great differences. */
static void compare_searches(struct text_run *want, struct text_run *got)
{
    n_compared += want->n_out;
    if (got->n_out != want->n_out ||
        memcmp(got->out_tokens, want->out_tokens, sizeof(int32_t) * (size_t)got->n_out) != 0) {
        n_near_ties++;
        if (fabsf(mean(want) - mean(got)) > 2.0f * CLOSE)
            fail_msg("beams %d: %d tokens of %f, not %d of %f", want->beam.width, got->n_out,
                     (double)mean(got), want->n_out, (double)mean(want));
        return;
    }
    for (int i = 0; i < got->n_out; i++) {
        if (want->out_logprobs[i] > -INFINITY)
            assert_float_equal(got->out_logprobs[i], want->out_logprobs[i], CLOSE);
        else
            assert_true(got->out_logprobs[i] == -INFINITY);
    }
    assert_int_equal(got->stop, want->stop);
    assert_int_equal(got->n_steps, want->n_steps);
    assert_int_equal(got->n_accepted, 0);
    assert_float_equal(got->probe_prob, want->probe_prob, CLOSE * want->probe_prob);
}

static void test_searches_are_the_same(void **state)
{
    (void)state;
    struct test_rng rng;
    int stops[3] = {0};
    test_rng_init(&rng, 2);
    n_compared = n_near_ties = 0;
    for (int round = 0; round < 16; round++) {
        int32_t tokens[N_TEXT_CTX];
        struct output a, b;
        if (round % 5 == 0)
            random_masks(&rng);
        int n_prompt = test_rng_int(&rng, 1, round % 8 == 3 ? N_TEXT_CTX - 2 : 20);
        for (int i = 0; i < n_prompt; i++)
            tokens[i] = test_rng_int(&rng, 0, N_VOCAB - 1);
        struct text_run want = {
            .slot = 0,
            .n_prompt = n_prompt,
            .tokens = tokens,
            .sample_begin = n_prompt,
            .max_tokens = test_rng_int(&rng, 1, N_TEXT_CTX),
            .beam = {.width = test_rng_int(&rng, 2, RUN_BEAMS_MAX),
                     .patience = test_rng_int(&rng, 0, 1) ? 0.0f : 0.5f + 2.0f * test_rng_uniform(&rng),
                     .length_penalty = test_rng_int(&rng, 0, 1) ? -1.0f : test_rng_uniform(&rng)},
            .probe_token = NO_SPEECH,
            .probe_index = test_rng_int(&rng, 0, n_prompt - 1)};
        random_rules(&rng, &want.rules);
        want.rules.temperature = 0.0f;
        direct(&want, &a);
        struct text_run got = want;
        got.slot = 1;
        direct(&got, &b);
        both(&want, &got);
        compare_searches(&want, &got);
        stops[got.stop]++;
        /* The prompt is still cached, and nothing of the search: the same again. */
        got.n_cached = n_prompt - 1;
        got.probe_token = -1;
        got.probe_prob = 0.0f;
        struct output c;
        int n = got.n_out;
        direct(&got, &c);
        struct err err;
        assert_int_equal(model.base.ops->run(&model.base, &got, 1, &err), 0);
        assert_int_equal(model.base.ops->wait(&model.base, &err), 0);
        assert_int_equal(got.n_out, n);
        assert_memory_equal(c.tokens, b.tokens, sizeof(int32_t) * (size_t)n);
        assert_memory_equal(c.logprobs, b.logprobs, sizeof(float) * (size_t)n);
    }
    printf("stops: %d end of text, %d limit, %d context\n", stops[RUN_STOP_EOT], stops[RUN_STOP_LIMIT],
           stops[RUN_STOP_CTX]);
    assert_true(stops[RUN_STOP_LIMIT] > 0);
    assert_true(n_near_ties <= 2);
}

static void test_bad_numbers_are_refused(void **state)
{
    (void)state;
    struct err err;
    struct output out;
    int32_t tokens[N_TEXT_CTX] = {SOT};
    const struct text_run good = {.n_prompt = 1, .tokens = tokens, .sample_begin = 1, .max_tokens = 5};
    struct text_run r = good;
    direct(&r, &out);
    r.n_prompt = N_TEXT_CTX;
    assert_int_equal(host_run(host, &r, &err), -EINVAL);
    r.n_prompt = 1;
    r.n_cached = 1;
    assert_int_equal(host_run(host, &r, &err), -EINVAL);
    r.n_cached = 0;
    r.out_capacity = 4;
    assert_int_equal(host_run(host, &r, &err), -EINVAL);
    r.out_capacity = 5;
    r.want_align = 1;
    assert_int_equal(host_run(host, &r, &err), -ENOTSUP);
    const int32_t none = N_VOCAB;
    assert_int_equal(host_run_set_mask(host, RUN_TOKEN_MASKS, tokens, 1, &err), -EINVAL);
    assert_int_equal(host_run_set_mask(host, 0, &none, 1, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_are_the_same),
        cmocka_unit_test(test_a_draft_changes_no_token),
        cmocka_unit_test(test_searches_are_the_same),
        cmocka_unit_test(test_bad_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
