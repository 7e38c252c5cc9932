/* The whole model on the CUDA engine, on the processor: from samples to tokens, held against the host engine in f32. Real
 * speech needs tiny.en.
 * tests/run: 240 s */
#include "tests/support/support.h"

#include <errno.h>
#include <math.h>
#include <sndfile.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/whisper_model.h"
#include "tests/support/host_run.h"
#include "gpu/whisper.h"
#include "tests/cuda/linked_engine.h"
#include "tests/support/tiny_model.h"

#define FIXTURE "tests/fixtures/speech.flac"
#define SECONDS 5

/* tests/cuda/harness/ */
void harness_seed(unsigned);
void harness_hide_cublas(bool hide);
void harness_fail(const char *call, int after, int error);
bool harness_has_failed(void);
void harness_cooperative(bool has, int multiprocessors);

enum { NOT_SUPPORTED = 801 };

struct kind {
    enum engine_precision precision;
    int n_slots;
    double most; /* that a logit of the toy may be off by */
};

static struct whisper *open_kind(const char *path, const char *engine, struct kind kind)
{
    const struct whisper_options options = {.engine = engine,
                                            .n_threads = 1,
                                            .precision = kind.precision,
                                            .n_audio_slots = 1,
                                            .n_text_slots = kind.n_slots};
    struct whisper *w = NULL;
    struct err err = {0};
    if (whisper_open(path, &options, &w, &err) < 0)
        fail_msg("%s", err.msg);
    return w;
}

static struct whisper *open_model(const char *path, const char *engine)
{
    enum engine_precision precision = strcmp(engine, "cuda") ? PRECISION_F32 : PRECISION_AUTO;
    return open_kind(path, engine, (struct kind){.precision = precision, .n_slots = 1});
}

static void encode(struct whisper *w, const float *pcm, int n)
{
    struct err err = {0};
    whisper_encode(w, 0, &(struct whisper_audio){.pcm = pcm, .n_samples = n, .scale = MEL_SCALE_OWN});
    if (whisper_wait(w, &err) < 0)
        fail_msg("%s", err.msg);
}

/* --- tokens -------------------------------------------------------------------------------------------------------- */

struct text {
    int32_t tokens[RUN_TOKENS_MAX]; /* a prompt and what follows it */
    float logprobs[RUN_TOKENS_MAX];
    int n_prompt, n;
    int32_t eot;
    enum run_stop stop;
    int n_accepted;
};

/* Continues tokens[0 … n_given − 1] up to `limit` tokens in all; what lies behind as a draft of n_draft. */
static void decode(struct whisper *w, struct text *t, int n_given, int n_draft, int limit)
{
    const struct whisper_dims *d = whisper_dims(w);
    int32_t in[RUN_TOKENS_MAX];
    memcpy(in, t->tokens, (size_t)(n_given + n_draft) * sizeof(*in));
    struct text_run run = {.n_prompt = n_given,
                           .n_draft = n_draft,
                           .tokens = in,
                           .sample_begin = t->n_prompt,
                           .max_tokens = limit - n_given,
                           .rules = {.eot = t->eot,
                                     .timestamp_begin = d->n_vocab - 1501,
                                     .no_timestamps = d->n_vocab - 1502,
                                     .max_initial_timestamp = -1,
                                     .mask = -1,
                                     .first_mask = -1},
                           .probe_token = -1,
                           .out_capacity = RUN_TOKENS_MAX - n_given,
                           .out_tokens = t->tokens + n_given,
                           .out_logprobs = t->logprobs + n_given};
    struct err err = {0};
    if (whisper_run(w, &run, 1, &err) < 0 || whisper_wait(w, &err) < 0)
        fail_msg("%s", err.msg);
    t->n = n_given + run.n_out;
    t->stop = run.stop;
    t->n_accepted = run.n_accepted;
}

/* Logits after each of the first n tokens. */
static float *logits_of(struct whisper *w, const struct text *t, int n)
{
    float *logits = malloc((size_t)n * (size_t)whisper_dims(w)->n_vocab * sizeof(float));
    struct err err = {0};
    if (whisper_logits(w, 0, 0, t->tokens, n, 0, logits, &err) < 0)
        fail_msg("%s", err.msg);
    return logits;
}

static int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* Both engines over the host's text, token by token. Wherever they would choose differently, the host's logits of the two
 * tokens must be nearer to one another than the engines' logits can explain: each is off by at most `most`, so two that are
 * more than 2 · most apart cannot change places. Returns the greatest difference of a logit. */
static double compare(struct whisper *host, struct whisper *cuda, const struct text *t, double most)
{
    int n = t->n - 1, n_vocab = whisper_dims(host)->n_vocab, n_ties = 0;
    float *a = logits_of(host, t, n), *b = logits_of(cuda, t, n);
    double worst = 0.0;
    for (int i = 0; i < n; i++) {
        const float *x = a + (size_t)i * (size_t)n_vocab, *y = b + (size_t)i * (size_t)n_vocab;
        for (int k = 0; k < n_vocab; k++) {
            assert_true(isfinite(y[k]));
            worst = fmax(worst, fabs((double)x[k] - y[k]));
        }
        int first = argmax(x, n_vocab), second = argmax(y, n_vocab);
        if (i < t->n_prompt - 1 || first == second)
            continue;
        printf("near-tie behind token %d: %d (host) and %d (cuda), %.4f apart\n", i, first, second,
               (double)x[first] - x[second]);
        n_ties++;
    }
    printf("%d tokens, %d near-ties, logits differ by %.4f at most\n", n - t->n_prompt + 1, n_ties, worst);
    free(a);
    free(b);
    if (!(worst <= most))
        fail_msg("logits differ by %g", worst);
    return n_ties;
}

static void assert_same_tokens(const struct text *a, const struct text *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->stop, b->stop);
    assert_memory_equal(a->tokens, b->tokens, (size_t)a->n * sizeof(*a->tokens));
}

static void assert_same(const struct text *a, const struct text *b)
{
    assert_same_tokens(a, b);
    assert_memory_equal(a->logprobs + a->n_prompt, b->logprobs + b->n_prompt,
                        (size_t)(a->n - a->n_prompt) * sizeof(*a->logprobs));
}

/* --- a toy ------------------------------------------------------------------------------------------------------------ */

enum { TOY_AUDIO = 70, TOY_TEXT = 14 }; /* a tile of attention and a part of one */

/* *whole: the text of such an engine, up to `limit` tokens. */
static void check_toy(const char *path, const float *pcm, struct whisper *host, const struct text *text,
                      struct kind kind, int limit, struct text *whole)
{
    struct whisper *cuda = open_kind(path, "cuda", kind);
    encode(cuda, pcm, TOY_AUDIO * 320);
    printf("%s: ", whisper_engine_name(cuda));
    compare(host, cuda, text, kind.most);
    *whole = *text;
    decode(cuda, whole, 2, 0, limit);
    assert_true(whole->n > 4);
    struct text again = *whole; /* its own text as a draft: everything is accepted, with the same bits */
    int n_draft = whole->n - 2 < limit - 3 ? whole->n - 2 : limit - 3;
    decode(cuda, &again, 2, n_draft, limit);
    assert_int_equal(again.n_accepted, n_draft);
    assert_same(whole, &again);
    again.tokens[6] = (again.tokens[6] + 1) % 50000; /* and a draft that is wrong from there on */
    decode(cuda, &again, 2, n_draft, limit);
    assert_int_equal(again.n_accepted, 4);
    assert_same(whole, &again);
    whisper_close(cuda);
}

/* Random weights have flat logits: a different choice is no fault. The logits themselves must agree. Half floats have 11 bits;
 * a sum of n_state products of activations about 1 and weights of deviation 1/√n_state rounded to them is off by about
 * 2^−11, the residual stream by that for each of the 12 sublayers, and the output layer sums that up again. */
static void test_toy(void **state)
{
    struct tiny_model model;
    struct test_rng rng;
    char path[256];
    float pcm[TOY_AUDIO * 320];
    const char *folder = tiny_folder();
    tiny_model_init(&model, 5, TOY_AUDIO, TOY_TEXT);
    snprintf(path, sizeof(path), "%s/toy.bin", folder);
    tiny_model_write_ggml(&model, path, true, NULL);
    test_rng_init(&rng, 6);
    for (int i = 0; i < TOY_AUDIO * 320; i++)
        pcm[i] = 0.1f * test_rng_normal(&rng);
    struct whisper *host = open_model(path, "host");
    encode(host, pcm, TOY_AUDIO * 320);
    struct text text = {.tokens = {50257, 50362}, .n_prompt = 2, .eot = 50256}, whole, again;
    decode(host, &text, 2, 0, TOY_TEXT);
    for (unsigned seed = 0; seed < 2; seed++) {
        harness_seed(seed ? (unsigned)test_seed() | 1 : 0);
        harness_hide_cublas(seed == 0);
        check_toy(path, pcm, host, &text, (struct kind){PRECISION_AUTO, 1, 0.02}, TOY_TEXT, &whole);
    }
    /* An engine for many slots computes its rows in another way; weights of 8 bits are off by a half of 127ths of the greatest. */
    harness_seed((unsigned)test_seed() | 1);
    check_toy(path, pcm, host, &text, (struct kind){PRECISION_AUTO, 16, 0.02}, 9, &again);
    check_toy(path, pcm, host, &text, (struct kind){PRECISION_INT8, 1, 0.6}, 9, &again);
    /* Where no step is one kernel, and the driver has no conditional nodes, the host asks before each step. */
    harness_seed(0);
    harness_hide_cublas(false);
    harness_cooperative(false, 4);
    harness_fail("cudaGraphConditionalHandleCreate", 0, NOT_SUPPORTED);
    struct whisper *chains = open_model(path, "cuda");
    encode(chains, pcm, TOY_AUDIO * 320);
    again = text;
    again.eot =
        whole.tokens[6]; /* ends early, and leaves a counter of 0 to who does not wait for the next one */
    decode(chains, &again, 2, 0, TOY_TEXT);
    assert_true(harness_has_failed());
    assert_int_equal(again.stop, RUN_STOP_EOT);
    again = text;
    decode(chains, &again, 2, 0, TOY_TEXT);
    assert_same(&whole, &again);
    decode(chains, &again, 2, 0, 5); /* a limit ends it */
    assert_int_equal(again.stop, RUN_STOP_LIMIT);
    assert_int_equal(again.n, 5);
    assert_memory_equal(again.tokens, whole.tokens, 5 * sizeof(int32_t));
    whisper_close(chains);
    harness_cooperative(true, 4);
    whisper_close(host);
    tiny_model_finish(&model);
    tiny_folder_remove(folder);
}

/* --- windows of several streams -------------------------------------------------------------------------------------------- */

/* No tile of 64 rows is one window's. */
enum { WINDOWS = ENGINE_WINDOWS_MAX + 1, FRAMES = 20, WINDOW = FRAMES * 320 };

/* Logits of a few tokens over each of the first n slots. */
static void logits_of_slots(struct whisper *w, int n, float *logits)
{
    static const int32_t tokens[] = {50257, 50362};
    struct err err = {0};
    for (int i = 0; i < n; i++) {
        if (whisper_logits(w, 0, i, tokens, 2, 0, logits + (size_t)i * 2 * (size_t)whisper_dims(w)->n_vocab,
                           &err) < 0)
            fail_msg("%s", err.msg);
    }
}

static void encode_several(struct whisper *w, const float *pcm, int first, int n)
{
    for (int i = first; i < first + n; i++)
        whisper_encode(w, i,
                       &(struct whisper_audio){.pcm = pcm + i * WINDOW,
                                               .n_samples = i == 1 ? WINDOW / 3 : WINDOW,
                                               .scale = MEL_SCALE_OWN});
}

/* Two, three and more windows than go together, against one after the other: the same bits, in the right slots. Sound that is
 * shorter than the window is followed by zeros, there as alone. */
static void test_toy_windows(void **state)
{
    static float pcm[WINDOWS * WINDOW];
    struct tiny_model model;
    struct test_rng rng;
    struct whisper *w;
    struct err err = {0};
    char path[256];
    const char *folder = tiny_folder();
    tiny_model_init(&model, 9, FRAMES, TOY_TEXT);
    snprintf(path, sizeof(path), "%s/toy.bin", folder);
    tiny_model_write_ggml(&model, path, true, NULL);
    test_rng_init(&rng, 10);
    for (int i = 0; i < WINDOWS * WINDOW; i++)
        pcm[i] = 0.1f * test_rng_normal(&rng);
    harness_seed(0);
    harness_hide_cublas(false);
    const struct whisper_options options = {
        .engine = "cuda", .n_threads = 1, .n_audio_slots = WINDOWS, .n_text_slots = 1};
    if (whisper_open(path, &options, &w, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(whisper_engine(w)->windows_max, ENGINE_WINDOWS_MAX);
    size_t n_vocab = (size_t)whisper_dims(w)->n_vocab, one = 2 * n_vocab;
    float *alone = malloc(3 * one * sizeof(float)), *got = malloc(3 * one * sizeof(float));
    for (int i = 0; i < 3; i++) {
        encode_several(w, pcm, i, 1);
        assert_int_equal(whisper_wait(w, &err), 0);
    }
    logits_of_slots(w, 3, alone);
    assert_memory_not_equal(alone, alone + one, one * sizeof(float));
    for (int n = 2; n <= 3; n++) {
        encode_several(w, pcm, 3, n); /* other sound, so that what follows is not left over */
        whisper_encode(w, 0, &(struct whisper_audio){.pcm = pcm, .n_samples = 320, .scale = MEL_SCALE_OWN});
        assert_int_equal(whisper_wait(w, &err), 0);
        encode_several(w, pcm, 0, n);
        logits_of_slots(w, n, got);
        assert_memory_equal(got, alone, (size_t)n * one * sizeof(float));
    }
    encode_several(w, pcm, 0, WINDOWS);
    logits_of_slots(w, 3, got);
    assert_memory_equal(got, alone, 3 * one * sizeof(float));
    whisper_close(w);
    free(alone);
    free(got);
    tiny_model_finish(&model);
    tiny_folder_remove(folder);
}

/* --- beam search ------------------------------------------------------------------------------------------------------ */

enum { SEARCH_SLOTS = 6, SEARCH_TOKENS = 4 };

struct search {
    struct text_run run;
    int32_t tokens[TOY_TEXT];
    float logprobs[TOY_TEXT];
};

static void begin_search(struct search *s, int slot, const int32_t *prompt, int width)
{
    s->run = (struct text_run){.slot = slot,
                               .n_prompt = 2,
                               .tokens = prompt,
                               .sample_begin = 2,
                               .max_tokens = SEARCH_TOKENS,
                               .rules = {.eot = 50256,
                                         .timestamp_begin = 50363,
                                         .no_timestamps = 50362,
                                         .timestamps = width % 2,
                                         .max_initial_timestamp = 50,
                                         .mask = -1,
                                         .first_mask = -1},
                               .beam = {.width = width, .length_penalty = -1.0f},
                               .probe_token = -1,
                               .out_capacity = TOY_TEXT,
                               .out_tokens = s->tokens,
                               .out_logprobs = s->logprobs};
}

static void search_all(struct whisper *w, struct search *searches, int n)
{
    struct text_run runs[3];
    struct err err = {0};
    for (int i = 0; i < n; i++)
        runs[i] = searches[i].run;
    if (whisper_run(w, runs, n, &err) < 0 || whisper_wait(w, &err) < 0)
        fail_msg("%s", err.msg);
    for (int i = 0; i < n; i++)
        searches[i].run = runs[i];
}

static double mean(const struct search *s)
{
    double sum = 0.0;
    for (int i = 0; i < s->run.n_out; i++)
        sum += (double)s->logprobs[i];
    return sum / (s->run.n_out - (s->run.stop == RUN_STOP_EOT && s->run.n_out > 1));
}

static void assert_same_search(const struct search *a, const struct search *b)
{
    assert_int_equal(a->run.n_out, b->run.n_out);
    assert_int_equal(a->run.stop, b->run.stop);
    assert_int_equal(a->run.n_steps, b->run.n_steps);
    assert_memory_equal(a->tokens, b->tokens, (size_t)a->run.n_out * sizeof(*a->tokens));
    assert_memory_equal(a->logprobs, b->logprobs, (size_t)a->run.n_out * sizeof(*a->logprobs));
}

/* A search in engine memory against the one that tests/support/host_run.c makes of single steps, whose logits have the same bits:
 * a row does not depend on the batch, nor on where its keys are. The two softmaxes are off by 1e-5 each (tests/oracle), and
 * so may the scores be where a tie has led them apart. */
static void check_search(struct whisper_model *m, struct host_run *host, const int32_t *prompt, int width)
{
    struct search got[3], want, alone;
    struct err err = {0};
    begin_search(&want, 0, prompt, width);
    begin_search(&alone, 1, prompt, width);
    if (host_run(host, &want.run, &err) < 0)
        fail_msg("%s", err.msg);
    search_all(m->whisper, &alone, 1);
    printf("%d beams: %d tokens of %.4f, %d steps\n", width, alone.run.n_out, mean(&alone),
           alone.run.n_steps);
    if (want.run.n_out == alone.run.n_out &&
        memcmp(want.tokens, alone.tokens, (size_t)want.run.n_out * sizeof(*want.tokens)) == 0) {
        assert_int_equal(want.run.n_steps, alone.run.n_steps);
        for (int i = 0; i < want.run.n_out; i++)
            assert_true(fabsf(want.logprobs[i] - alone.logprobs[i]) <= 2e-5f);
    } else if (!(fabs(mean(&want) - mean(&alone)) <= 2e-5)) {
        fail_msg("%d beams: a mean of %g, not %g", width, mean(&alone), mean(&want));
    }
    /* The same beside a greedy run and a narrower search, in other slots. */
    begin_search(&got[0], 0, prompt, 1);
    begin_search(&got[1], 1, prompt + 1, 2);
    begin_search(&got[2], 3, prompt, width);
    search_all(m->whisper, got, 3);
    assert_same_search(&alone, &got[2]);
}

static void test_toy_beams(void **state)
{
    static const int32_t prompt[] = {50257, 1234, 77};
    struct tiny_model model;
    struct whisper_model m;
    struct host_run *host;
    struct test_rng rng;
    struct err err = {0};
    char path[256];
    float pcm[TOY_AUDIO * 320];
    const char *folder = tiny_folder();
    tiny_model_init(&model, 7, TOY_AUDIO, TOY_TEXT);
    model.n_words = 300;
    snprintf(path, sizeof(path), "%s/toy.bin", folder);
    tiny_model_write_ggml(&model, path, true, NULL);
    test_rng_init(&rng, 8);
    for (int i = 0; i < TOY_AUDIO * 320; i++)
        pcm[i] = 0.1f * test_rng_normal(&rng);
    for (unsigned seed = 0; seed < 2; seed++) {
        harness_seed(seed ? (unsigned)test_seed() | 1 : 0);
        harness_hide_cublas(false);
        const struct whisper_options options = {
            .engine = "cuda", .n_threads = 1, .n_audio_slots = 1, .n_text_slots = SEARCH_SLOTS};
        if (whisper_model_open(&m, path, &options, &err) < 0)
            fail_msg("%s", err.msg);
        assert_int_equal(whisper_beams_max(m.whisper), SEARCH_SLOTS);
        assert_int_equal(host_run_create(&m.base, &host, &err), 0);
        encode(m.whisper, pcm, TOY_AUDIO * 320);
        check_search(&m, host, prompt, seed ? 2 : 3);
        host_run_destroy(host);
        whisper_model_close(&m);
    }
    tiny_model_finish(&model);
    tiny_folder_remove(folder);
}

/* --- real speech ------------------------------------------------------------------------------------------------------ */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void read_speech(float *pcm, int n)
{
    SF_INFO info = {0};
    SNDFILE *f = sf_open(FIXTURE, SFM_READ, &info);
    if (!f)
        fail_msg("%s: %s", FIXTURE, sf_strerror(NULL));
    assert_int_equal(info.samplerate, 16000);
    assert_int_equal(info.channels, 1);
    assert_int_equal(sf_readf_float(f, pcm, n), n);
    sf_close(f);
}

static void print_text(const struct whisper *w, const struct text *t)
{
    for (int i = t->n_prompt; i < t->n; i++) {
        size_t n = 0;
        const char *bytes = whisper_token_bytes(w, t->tokens[i], &n);
        if (bytes && t->tokens[i] < t->eot)
            printf("%.*s", (int)n, bytes);
    }
    printf("\n");
}

/* The host's text again. With no near-tie it is the same. */
static void check_speech(const char *path, const float *pcm, struct whisper *host, const struct text *text,
                         struct kind kind)
{
    double begin = seconds();
    struct whisper *cuda = open_kind(path, "cuda", kind);
    double opened = seconds();
    encode(cuda, pcm, SECONDS * 16000);
    double encoded = seconds();
    struct text cuda_text = *text;
    decode(cuda, &cuda_text, 2, 0, 60);
    printf("%s: opened in %.1f s, encoded in %.1f s, decoded in %.1f s\n", whisper_engine_name(cuda),
           opened - begin, encoded - opened, seconds() - encoded);
    print_text(cuda, &cuda_text);
    if (compare(host, cuda, text, kind.most) == 0)
        assert_same_tokens(text, &cuda_text);
    whisper_close(cuda);
}

/* Some seconds of speech in a window of 30. */
static void test_real_speech(void **state)
{
    const char *model = test_model("tiny.en");
    if (!model)
        test_skip("tiny.en is not installed");
    char path[1024];
    snprintf(path, sizeof(path), "%s", model);
    float *pcm = malloc(SECONDS * 16000 * sizeof(float));
    read_speech(pcm, SECONDS * 16000);
    struct whisper *host = open_model(path, "host");
    encode(host, pcm, SECONDS * 16000);
    struct text text = {.tokens = {50257, 50362}, .n_prompt = 2, .eot = 50256};
    decode(host, &text, 2, 0, 60);
    print_text(host, &text);
    assert_int_equal(text.stop, RUN_STOP_EOT);
    assert_true(text.n > 8);
    harness_seed(0);
    harness_hide_cublas(false);
    check_speech(path, pcm, host, &text, (struct kind){PRECISION_AUTO, 1, 0.05});
    check_speech(path, pcm, host, &text, (struct kind){PRECISION_INT8, 1, 1.6});
    whisper_close(host);
    free(pcm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_toy),
        cmocka_unit_test(test_toy_windows),
        cmocka_unit_test(test_toy_beams),
        cmocka_unit_test(test_real_speech),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
