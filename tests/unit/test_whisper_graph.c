/* The Whisper graph on the engine, with a small random model: against double precision, and against itself in every
 * way of asking for the same thing. */
#include "tests/support/support.h"

#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/whisper.h"
#include "tests/support/tiny_model.h"

#define N_AUDIO_CTX 60
#define N_TEXT_CTX  100
#define WINDOW      (320 * N_AUDIO_CTX)
#define N_SAMPLES   (WINDOW - 2000)
#define EOT         50256
#define SOT         50257
#define NO_STAMPS   50362
#define STAMPS      50363

static struct tiny_model model;
static char folder[256], ct2[300], half[300], single[300];
static float pcm[2][WINDOW]; /* silence at the end */

static int setup(void **state)
{
    struct test_rng rng = {3};
    tiny_model_init(&model, 3, N_AUDIO_CTX, N_TEXT_CTX);
    snprintf(folder, sizeof(folder), "%s", tiny_folder());
    snprintf(ct2, sizeof(ct2), "%s/ct2", folder);
    snprintf(half, sizeof(half), "%s/half.bin", folder);
    snprintf(single, sizeof(single), "%s/single.bin", folder);
    model.n_words = 300;
    tiny_model_write_ct2(&model, ct2, true, NULL);
    tiny_model_write_ggml(&model, half, true, NULL);
    tiny_model_write_ggml(&model, single, false, NULL);
    for (int i = 0; i < N_SAMPLES; i++) {
        float t = (float)i / 16000.0f, noise = test_rng_normal(&rng);
        pcm[0][i] = 0.3f * sinf(2500.0f * t * (1.0f + t)) + 0.02f * noise;
        pcm[1][i] = 0.3f * sinf(9000.0f * t * (1.0f - 0.3f * t)) + 0.1f * noise * sinf(12.0f * t);
    }
    return 0;
}

static int teardown(void **state)
{
    tiny_folder_remove(folder);
    tiny_model_finish(&model);
    return 0;
}

static struct whisper *open_model(const char *path, enum engine_precision precision, int n_threads,
                                  bool deferred)
{
    const struct whisper_options options = {.engine = "host",
                                            .n_threads = n_threads,
                                            .precision = precision,
                                            .deferred = deferred,
                                            .n_audio_slots = 2,
                                            .n_text_slots = 4};
    struct whisper *w = NULL;
    struct err err = {0};
    if (whisper_open(path, &options, &w, &err) < 0)
        fail_msg("%s", err.msg);
    return w;
}

static void wait_ok(struct whisper *w)
{
    struct err err = {0};
    if (whisper_wait(w, &err) < 0)
        fail_msg("%s", err.msg);
}

static void encode(struct whisper *w, int audio_slot, int recording)
{
    const struct whisper_audio audio = {
        .pcm = pcm[recording], .n_samples = N_SAMPLES, .scale = MEL_SCALE_OWN};
    whisper_encode(w, audio_slot, &audio);
}

/* A run and the room for its results. */
struct sample {
    struct text_run run;
    int32_t tokens[N_TEXT_CTX], out[N_TEXT_CTX];
    float logprobs[N_TEXT_CTX];
    float align[(N_TEXT_CTX + 1) * 2 * RUN_AUDIO_FRAMES];
};

/* A prompt of n_prompt tokens (the same for the same seed) that may produce max_tokens. */
static struct sample *new_sample(int slot, int audio, uint64_t seed, int n_prompt, int max_tokens)
{
    struct sample *s = calloc(1, sizeof(*s));
    struct test_rng rng = {seed};
    for (int i = 0; i < n_prompt; i++)
        s->tokens[i] = i == n_prompt - 1 ? NO_STAMPS : test_rng_int(&rng, 0, EOT - 1);
    s->run = (struct text_run){.slot = slot,
                               .audio = audio,
                               .n_prompt = n_prompt,
                               .tokens = s->tokens,
                               .sample_begin = n_prompt,
                               .max_tokens = max_tokens,
                               .rules = {.eot = EOT,
                                         .timestamp_begin = STAMPS,
                                         .no_timestamps = NO_STAMPS,
                                         .max_initial_timestamp = -1,
                                         .mask = -1,
                                         .first_mask = -1},
                               .probe_token = 50361,
                               .probe_index = 0,
                               .want_align = 1,
                               .out_capacity = N_TEXT_CTX,
                               .out_tokens = s->out,
                               .out_logprobs = s->logprobs,
                               .out_align = s->align};
    return s;
}

static void run(struct whisper *w, struct sample *s)
{
    struct err err = {0};
    if (whisper_run(w, &s->run, 1, &err) < 0)
        fail_msg("%s", err.msg);
    wait_ok(w);
}

/* Bit for bit the same results. */
static void assert_same(const struct sample *a, const struct sample *b)
{
    assert_int_equal(a->run.n_out, b->run.n_out);
    assert_int_equal(a->run.stop, b->run.stop);
    assert_int_equal(a->run.n_align_rows, b->run.n_align_rows);
    assert_memory_equal(a->out, b->out, (size_t)a->run.n_out * sizeof(int32_t));
    assert_memory_equal(a->logprobs, b->logprobs, (size_t)a->run.n_out * sizeof(float));
    assert_memory_equal(&a->run.probe_prob, &b->run.probe_prob, sizeof(float));
    for (int i = 0; i < 2 * a->run.n_align_rows; i++)
        assert_memory_equal(a->align + (size_t)i * RUN_AUDIO_FRAMES, b->align + (size_t)i * RUN_AUDIO_FRAMES,
                            N_AUDIO_CTX * sizeof(float));
}

/* The same tokens, and numbers that agree to `tolerance`. */
static void assert_close(const struct sample *a, const struct sample *b, double tolerance)
{
    assert_int_equal(a->run.n_out, b->run.n_out);
    assert_int_equal(a->run.stop, b->run.stop);
    assert_memory_equal(a->out, b->out, (size_t)a->run.n_out * sizeof(int32_t));
    for (int i = 0; i < a->run.n_out; i++)
        assert_true(fabs(a->logprobs[i] - b->logprobs[i]) < tolerance);
    assert_true(fabs(a->run.probe_prob - b->run.probe_prob) < tolerance);
}

/* --- against double precision ------------------------------------------------------------------------------------- */

struct naive {
    double *mel, *audio, *logits, *cross;
};

static void naive_results(const struct tiny_model *m, struct naive *n, int recording, const int32_t *tokens,
                          int n_tokens)
{
    size_t vocab = (size_t)m->dims.n_vocab;
    n->mel = calloc(2 * N_AUDIO_CTX * 128, sizeof(double));
    n->audio = calloc(N_AUDIO_CTX * 128, sizeof(double));
    n->logits = calloc((size_t)n_tokens * vocab, sizeof(double));
    n->cross = calloc((size_t)n_tokens * 2 * 2 * N_AUDIO_CTX, sizeof(double));
    naive_mel(m, pcm[recording], N_SAMPLES, n->mel);
    naive_encode(m, n->mel, n->audio);
    naive_decode(m, n->audio, tokens, n_tokens, n->logits, n->cross);
}

static void naive_free(struct naive *n)
{
    free(n->mel);
    free(n->audio);
    free(n->logits);
    free(n->cross);
}

/* Largest and root mean square difference, relative to the root mean square of what is expected. */
static void difference(const float *x, const double *expected, size_t n, double *most, double *rms)
{
    double size = 0.0, sum = 0.0;
    *most = 0.0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs(x[i] - expected[i]);
        *most = d > *most || isnan(d) ? d : *most;
        sum += d * d;
        size += expected[i] * expected[i];
    }
    *rms = sqrt(sum / size);
    *most /= sqrt(size / (double)n);
}

/* Logits of n tokens fed at once, and of some of them fed one by one. */
static void compare_logits(const struct tiny_model *m, const char *path, int n,
                           enum engine_precision precision, double most_allowed, double rms_allowed)
{
    struct sample *s = new_sample(1, 1, 4, n, 1);
    struct naive naive;
    naive_results(m, &naive, 0, s->tokens, n);
    struct whisper *w = open_model(path, precision, 2, false);
    size_t vocab = (size_t)m->dims.n_vocab;
    float *logits = malloc((size_t)n * vocab * sizeof(float));
    struct err err = {0};
    double most, rms;
    encode(w, 0, 1); /* another recording in the other slot */
    encode(w, 1, 0);
    assert_int_equal(whisper_logits(w, 1, 1, s->tokens, n, 0, logits, &err), 0);
    difference(logits, naive.logits, (size_t)n * vocab, &most, &rms);
    print_message("%s: largest error %.2g, rms %.2g of the logits' size\n", whisper_engine_name(w), most,
                  rms);
    assert_true(most < most_allowed);
    assert_true(rms < rms_allowed);
    float *one = malloc(vocab * sizeof(float));
    for (int i = 0; i < n; i += i < 3 ? 1 : 29) {
        assert_int_equal(whisper_logits(w, 1, 1, s->tokens + i, 1, i, one, &err), 0);
        difference(one, naive.logits + (size_t)i * vocab, vocab, &most, &rms);
        assert_true(most < most_allowed);
        assert_true(rms < rms_allowed);
    }
    free(one);
    free(logits);
    naive_free(&naive);
    free(s);
    whisper_close(w);
}

/* Single precision throughout: each rounding is 2⁻²⁵ of its number at most, and some hundred of them, in sums of up to
 * 512 products and ten normalisations, lie behind a logit. Measured 5e-6 and 7e-7; a wrong tap, head or position shows
 * as 1e-2 and more. */
static void single_precision_agrees_with_double(void **state)
{
    compare_logits(&model, ct2, 90, PRECISION_F32, 3e-5, 3e-6); /* more tokens than a pass takes */
}

/* With bf16 in the encoder where the processor has it: a dozen roundings of 2⁻⁹ at most lie behind each value, 0.004 if
 * they are random, and the largest of 4.7 million differences is five or six times that. Measured 0.025 and 0.005. */
static void fast_precision_agrees_with_double(void **state)
{
    compare_logits(&model, ct2, 90, PRECISION_AUTO, 0.06, 0.01);
}

static void the_shape_of_large_v3_works_too(void **state)
{
    struct tiny_model v3;
    tiny_model_init_v3(&v3, 9, N_AUDIO_CTX, N_TEXT_CTX);
    v3.n_words = 300;
    tiny_model_write_ggml(&v3, single, true, NULL);
    compare_logits(&v3, single, 5, PRECISION_F32, 3e-5, 3e-6);
    tiny_model_write_ct2(&v3, ct2, true, NULL);
    compare_logits(&v3, ct2, 5, PRECISION_AUTO, 0.06, 0.01);
    tiny_model_finish(&v3);
    tiny_model_write_ggml(&model, single, false, NULL);
    tiny_model_write_ct2(&model, ct2, true, NULL);
}

static void alignment_rows_are_the_attention_of_the_heads(void **state)
{
    struct sample *s = new_sample(0, 0, 5, 10, 12);
    struct whisper *w = open_model(ct2, PRECISION_F32, 2, false);
    encode(w, 0, 0);
    s->run.sample_begin = 7; /* three of the prompt's tokens count as earlier output */
    run(w, s);
    assert_int_equal(s->run.n_align_rows, 10 - 7 + s->run.n_out);
    memcpy(s->tokens + 10, s->out, (size_t)s->run.n_out * sizeof(int32_t));
    struct naive naive;
    naive_results(&model, &naive, 0, s->tokens, 10 + s->run.n_out - 1);
    for (int row = 0; row < s->run.n_align_rows; row++) {
        for (int head = 0; head < 2; head++) { /* both of layer 1 */
            const double *expected = naive.cross + ((size_t)(row + 6) * 4 + 2 + (size_t)head) * N_AUDIO_CTX;
            const float *got = s->align + (size_t)(2 * row + head) * RUN_AUDIO_FRAMES;
            for (int t = 0; t < N_AUDIO_CTX; t++)
                assert_true(fabs(got[t] - expected[t]) < 1e-5);
        }
    }
    /* Greedy choices and their probabilities are those of the double-precision logits. */
    for (int i = 0; i < s->run.n_out; i++) {
        const double *logits = naive.logits + (size_t)(9 + i) * (size_t)model.dims.n_vocab;
        double sum = 0.0, best = -INFINITY;
        for (int v = 0; v < model.dims.n_vocab; v++) {
            best = fmax(best, logits[v]);
            sum += exp(logits[v]);
        }
        assert_true(logits[s->out[i]] > best - 1e-4);
        assert_true(fabs(s->logprobs[i] - (logits[s->out[i]] - log(sum))) < 1e-4);
    }
    double probe = 0.0;
    for (int v = 0; v < model.dims.n_vocab; v++)
        probe += exp(naive.logits[v] - naive.logits[50361]);
    assert_true(fabs(s->run.probe_prob * probe - 1.0) < 1e-3);
    naive_free(&naive);
    free(s);
    whisper_close(w);
}

/* --- against itself ----------------------------------------------------------------------------------------------- */

static struct sample *result_of(const char *path, enum engine_precision precision, int n_threads,
                                bool deferred)
{
    struct whisper *w = open_model(path, precision, n_threads, deferred);
    struct sample *s = new_sample(2, 1, 6, 70, 25);
    encode(w, 1, 0);
    run(w, s);
    assert_int_equal(s->run.n_out, 25);
    whisper_close(w);
    return s;
}

static void formats_threads_and_deferral_change_no_bit(void **state)
{
    static const enum engine_precision precisions[] = {PRECISION_F32, PRECISION_AUTO};
    for (int p = 0; p < 2; p++) {
        struct sample *first = result_of(ct2, precisions[p], 2, false);
        struct sample *others[] = {
            result_of(half, precisions[p], 2, false), result_of(single, precisions[p], 2, false),
            result_of(ct2, precisions[p], 1, false),  result_of(ct2, precisions[p], 3, false),
            result_of(ct2, precisions[p], 2, true),
        };
        for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
            assert_same(first, others[i]);
            free(others[i]);
        }
        free(first);
    }
}

/* A draft changes the number of steps and nothing else, whether right, wrong somewhere, wrong at once, or too long. */
static void drafts_give_what_greedy_decoding_gives(void **state)
{
    struct whisper *w = open_model(ct2, PRECISION_F32, 2, false);
    encode(w, 0, 1);
    struct sample *greedy = new_sample(0, 0, 7, 6, 20);
    run(w, greedy);
    assert_int_equal(greedy->run.n_steps, 20);
    for (int wrong = 0; wrong <= 20; wrong += 5) {
        for (int n_draft = 1; n_draft <= 90; n_draft += 13) {
            struct sample *s = new_sample(1, 0, 7, 6, 20);
            for (int i = 0; i < n_draft; i++)
                s->tokens[6 + i] = i < 20 && i != wrong ? greedy->out[i] : 11;
            s->run.n_draft = n_draft;
            run(w, s);
            assert_close(greedy, s, 1e-4); /* rows in another grouping round differently */
            int right = wrong < n_draft ? wrong : n_draft;
            assert_int_equal(s->run.n_accepted, right);
            assert_int_equal(s->run.n_steps, right == 20 ? 1 : 20 - right);
            assert_int_equal(s->run.n_align_rows, greedy->run.n_align_rows);
            for (int i = 0; i < 2 * s->run.n_align_rows; i++) {
                for (int t = 0; t < N_AUDIO_CTX; t++)
                    assert_true(fabsf(s->align[i * RUN_AUDIO_FRAMES + t] -
                                      greedy->align[i * RUN_AUDIO_FRAMES + t]) < 1e-5f);
            }
            free(s);
        }
    }
    free(greedy);
    whisper_close(w);
}

/* Four runs of different lengths, windows, rules and drafts, alone and as one batch. */
static void a_batch_gives_what_single_runs_give(void **state)
{
    struct whisper *w = open_model(ct2, PRECISION_F32, 2, false);
    encode(w, 0, 0);
    encode(w, 1, 1);
    struct sample *alone[4], *batch[4];
    struct text_run runs[4];
    for (int i = 0; i < 4; i++) {
        static const int n_prompt[] = {3, 80, 20, 1}, most[] = {30, 10, 1, 17};
        struct sample **both[] = {&alone[i], &batch[i]};
        for (int k = 0; k < 2; k++) {
            struct sample *s = *both[k] = new_sample(3 - i, i / 2, 8 + (uint64_t)i, n_prompt[i], most[i]);
            s->run.rules.timestamps = i == 1;
            s->run.rules.temperature = i == 3 ? 0.7f : 0.0f;
            s->run.rules.seed = 99;
            s->run.want_align = i != 2;
            s->run.n_draft = i == 0 ? 5 : 0;
        }
        run(w, alone[i]);
    }
    for (int i = 0; i < 4; i++)
        runs[i] = batch[i]->run;
    struct err err = {0};
    assert_int_equal(whisper_run(w, runs, 4, &err), 0);
    /* Slots that have not been waited for cannot be asked again. */
    assert_int_equal(whisper_run(w, runs + 2, 1, &err), -EINVAL);
    wait_ok(w);
    for (int i = 0; i < 4; i++) {
        batch[i]->run = runs[i];
        assert_close(alone[i], batch[i], 1e-4);
        assert_int_equal(alone[i]->run.n_steps, runs[i].n_steps);
        assert_int_equal(alone[i]->run.n_align_rows, runs[i].n_align_rows);
        free(alone[i]);
        free(batch[i]);
    }
    whisper_close(w);
}

/* Rows of the alignment and log-probabilities of a search are those of its result when that is given as a prompt, to the
 * bit: keys are found wherever they were written. And what runs beside a search changes nothing in it. */
static void a_search_is_as_its_result_alone(void **state)
{
    struct whisper *w = open_model(ct2, PRECISION_F32, 2, false);
    encode(w, 0, 0);
    encode(w, 1, 1);
    for (int width = 2; width <= 3; width++) {
        struct sample *search = new_sample(0, 0, 30, 6, 25), *beside = new_sample(0, 0, 30, 6, 25);
        struct sample *told = new_sample(3, 0, 30, 6, 1), *greedy = new_sample(3, 1, 31, 9, 12);
        struct err err = {0};
        search->run.beam = beside->run.beam = (struct beam_search){.width = width, .length_penalty = -1.0f};
        run(w, search);
        assert_int_equal(search->run.n_out, 25);
        memcpy(told->tokens + 6, search->out, 25 * sizeof(int32_t));
        told->run.n_prompt = 6 + 24; /* the last token was not fed */
        run(w, told);
        assert_int_equal(told->run.n_align_rows, search->run.n_align_rows);
        for (int i = 0; i < 2 * told->run.n_align_rows; i++)
            assert_memory_equal(told->align + (size_t)i * RUN_AUDIO_FRAMES,
                                search->align + (size_t)i * RUN_AUDIO_FRAMES, N_AUDIO_CTX * sizeof(float));
        struct text_run runs[2] = {greedy->run, beside->run};
        assert_int_equal(whisper_run(w, runs, 2, &err), 0);
        wait_ok(w);
        beside->run = runs[1];
        assert_same(search, beside);
        assert_int_equal(runs[0].n_out, 12);
        free(search);
        free(beside);
        free(told);
        free(greedy);
    }
    whisper_close(w);
}

/* A run of the kind `i`: different lengths, windows, rules, drafts, and every third a search over two beams. */
static struct sample *new_mixed(int slot, int i)
{
    static const int n_prompt[] = {3, 70, 20, 1, 9}, most[] = {30, 10, 1, 17, 8};
    struct sample *s = new_sample(slot, i / 2 % 2, 80 + (uint64_t)i, n_prompt[i % 5], most[i % 5]);
    s->run.want_align = i % 4 != 1;
    s->run.rules.timestamps = i % 4 == 2;
    s->run.n_draft = i % 5 == 0 ? 4 : 0;
    if (i % 3 == 2) {
        s->run.n_draft = 0;
        s->run.beam = (struct beam_search){.width = 2, .length_penalty = -1.0f};
    }
    return s;
}

#define N_MIXED 15

/* Runs join and leave at any step, beside others of any kind, and each gives to the bit what it gives alone. */
static void a_batch_that_goes_on_changes_no_bit(void **state)
{
    struct sample *alone[N_MIXED], *work[4] = {NULL};
    struct test_rng rng;
    struct err err = {0};
    for (int deferred = 0; deferred < 2; deferred++) {
        struct whisper *w = open_model(ct2, PRECISION_F32, 2, deferred);
        test_rng_init(&rng, 90 + (uint64_t)deferred);
        encode(w, 0, 0);
        encode(w, 1, 1);
        for (int i = 0; i < N_MIXED; i++) {
            alone[i] = new_mixed(0, i);
            run(w, alone[i]);
        }
        int next = 0, n_work = 0, n_shared = 0, kind[4];
        while (next < N_MIXED || n_work > 0) {
            struct text_run *joining[2];
            int n_joining = 0;
            /* Slots 0 and 2, which a search shares with 1 and 3. */
            for (int slot = 0; slot < 4; slot += 2) {
                if (work[slot] || next == N_MIXED || test_rng_int(&rng, 0, 1))
                    continue;
                kind[slot] = next;
                work[slot] = new_mixed(slot, next++);
                joining[n_joining++] = &work[slot]->run;
            }
            if (n_joining && whisper_join(w, joining, n_joining, &err) < 0)
                fail_msg("%s", err.msg);
            n_work += n_joining;
            n_shared += n_work > 1;
            int left = whisper_step(w, test_rng_int(&rng, 0, 6), &err);
            assert_in_range(left, 0, n_work);
            for (int slot = 0; slot < 4; slot += 2) {
                if (!work[slot] || work[slot]->run.stop == RUN_IN_WORK)
                    continue;
                assert_same(work[slot], alone[kind[slot]]);
                assert_int_equal(work[slot]->run.n_steps, alone[kind[slot]]->run.n_steps);
                free(work[slot]);
                work[slot] = NULL;
                n_work--;
            }
            assert_int_equal(left, n_work);
        }
        assert_true(n_shared > 3);
        for (int i = 0; i < N_MIXED; i++)
            free(alone[i]);
        whisper_close(w);
    }
}

/* What is refused leaves the runs in work as they are; so does what else the model is asked for meanwhile. */
static void others_do_not_disturb_a_batch(void **state)
{
    struct whisper *w = open_model(ct2, PRECISION_F32, 2, true);
    struct sample *alone = new_sample(0, 0, 33, 5, 20), *s = new_sample(0, 0, 33, 5, 20);
    struct sample *bad = new_sample(0, 0, 34, 5, 20), *beside = new_sample(2, 1, 35, 5, 3);
    struct text_run *runs[] = {&s->run, &bad->run};
    struct err err = {0};
    float *logits = malloc((size_t)model.dims.n_vocab * sizeof(float));
    int32_t token = SOT;
    assert_int_equal(whisper_step(w, 5, &err), 0); /* nothing in work */
    encode(w, 0, 0);
    encode(w, 1, 1);
    run(w, alone);
    assert_int_equal(whisper_join(w, runs, 2, &err), -EINVAL); /* twice the same slot */
    assert_int_equal(whisper_join(w, runs, 1, &err), 0);
    assert_int_equal(s->run.stop, RUN_IN_WORK);
    assert_int_equal(whisper_step(w, 4, &err), 1);
    assert_int_equal(whisper_join(w, runs + 1, 1, &err), -EINVAL);
    assert_int_equal(whisper_run(w, &bad->run, 1, &err), -EINVAL);
    assert_int_equal(whisper_logits(w, 0, 0, &token, 1, 0, logits, &err), -EINVAL);
    assert_int_equal(whisper_logits(w, 1, 0, &token, 1, 0, logits, &err), 0);
    encode(w, 1, 0);
    run(w, beside);
    assert_int_equal(whisper_set_mask(w, 5, &token, 1, &err), 0);
    assert_int_equal(whisper_step(w, 0, &err), 1);
    assert_int_equal(whisper_step(w, 100, &err), 0);
    assert_same(s, alone);
    free(logits);
    free(alone);
    free(s);
    free(bad);
    free(beside);
    whisper_close(w);
}

/* A step waits for what was submitted although no run has begun: the samples need not stay where they are. */
static void a_step_without_runs_waits(void **state)
{
    struct whisper *w = open_model(ct2, PRECISION_F32, 2, true);
    struct sample *s = new_sample(0, 0, 36, 5, 20), *other = new_sample(0, 0, 36, 5, 20);
    float *own = malloc(N_SAMPLES * sizeof(float));
    const struct whisper_audio audio = {.pcm = own, .n_samples = N_SAMPLES, .scale = MEL_SCALE_OWN};
    struct err err = {0};
    encode(w, 0, 0);
    run(w, s);
    memcpy(own, pcm[0], N_SAMPLES * sizeof(float));
    whisper_encode(w, 0, &audio);
    assert_int_equal(whisper_step(w, 5, &err), 0);
    memcpy(own, pcm[1], N_SAMPLES * sizeof(float));
    run(w, other);
    assert_same(other, s);
    free(own);
    free(s);
    free(other);
    whisper_close(w);
}

/* From a position on whose embedding is too large the text decoder's numbers are none: who comes there has no text but an error,
 * and who does not is none the worse. */
static void numbers_that_are_none_are_an_error(void **state)
{
    enum { FLAW = 80 }; /* behind what is tried when a model is opened */
    const struct tiny_tensor *t = tiny_model_find(&model, "decoder.positional_embedding");
    const size_t width = (size_t)model.dims.n_text_state;
    float *at_flaw = t->values + FLAW * width, *kept = malloc(width * sizeof(float));
    char path[300];
    snprintf(path, sizeof(path), "%s/flawed.bin", folder);
    memcpy(kept, at_flaw, width * sizeof(float));
    for (size_t i = 0; i < width; i++)
        at_flaw[i] = 3e38f;
    tiny_model_write_ggml(&model, path, false, NULL);
    memcpy(at_flaw, kept, width * sizeof(float));
    free(kept);
    struct whisper *w = open_model(path, PRECISION_F32, 1, false);
    struct sample *good = new_sample(0, 0, 7, 5, 6), *alone = new_sample(0, 0, 7, 5, 6),
                  *bad = new_sample(1, 1, 8, FLAW - 2, 6);
    float *logits = malloc((size_t)model.dims.n_vocab * sizeof(float));
    struct err err = {0};
    encode(w, 0, 0);
    encode(w, 1, 1);
    run(w, alone);
    assert_int_equal(whisper_run(w, &bad->run, 1, &err), 0);
    assert_int_equal(whisper_wait(w, &err), -EIO);
    assert_non_null(strstr(err.msg, RUN_FLAW));
    assert_int_equal(whisper_wait(w, &err), 0);
    assert_int_equal(whisper_join(w, (struct text_run *[]){&good->run, &bad->run}, 2, &err), 0);
    for (int left = 2; left > 0;) {
        left = whisper_step(w, 1, &err);
        assert_in_range(left, 0, 2);
    }
    assert_int_equal(bad->run.stop, RUN_STOP_FLAW);
    assert_same(good, alone);
    assert_int_equal(whisper_logits(w, 1, 1, bad->tokens, 1, FLAW - 1, logits, &err), 0);
    assert_int_equal(whisper_logits(w, 1, 1, bad->tokens, 1, FLAW, logits, &err), -ERANGE);
    free(logits);
    free(good);
    free(alone);
    free(bad);
    whisper_close(w);
}

/* Two runs submitted one after the other, and one wait. */
static void runs_wait_together(void **state)
{
    struct whisper *w = open_model(ct2, PRECISION_F32, 2, true);
    struct sample *a = new_sample(0, 0, 20, 5, 9), *b = new_sample(1, 1, 21, 7, 12);
    struct sample *c = new_sample(0, 0, 20, 5, 9), *d = new_sample(1, 1, 21, 7, 12);
    struct err err = {0};
    encode(w, 0, 0);
    encode(w, 1, 1);
    run(w, a);
    run(w, b);
    encode(w, 0, 0); /* again, still to be done */
    assert_int_equal(whisper_run(w, &c->run, 1, &err), 0);
    assert_int_equal(whisper_run(w, &d->run, 1, &err), 0);
    wait_ok(w);
    assert_same(a, c);
    assert_same(b, d);
    free(a);
    free(b);
    free(c);
    free(d);
    whisper_close(w);
}

/* Going on from a cache, the slot's own or a copy, is as good as starting anew. */
static void caches_go_on(void **state)
{
    struct whisper *w = open_model(ct2, PRECISION_F32, 2, false);
    encode(w, 0, 0);
    struct sample *whole = new_sample(0, 0, 30, 10, 20), *half_way = new_sample(1, 0, 30, 10, 8);
    run(w, whole);
    run(w, half_way);
    for (int slot = 1; slot < 3; slot++) {
        struct sample *rest = new_sample(slot, 0, 30, 10, 12);
        if (slot == 2)
            whisper_copy_slot(w, 1, 2, 17);
        memcpy(rest->tokens + 10, half_way->out, 8 * sizeof(int32_t));
        rest->run.n_prompt = 18;
        rest->run.n_cached = 17;
        rest->run.probe_token = -1;
        run(w, rest);
        assert_int_equal(rest->run.n_out, 12);
        assert_memory_equal(rest->out, whole->out + 8, 12 * sizeof(int32_t));
        for (int i = 0; i < 12; i++)
            assert_true(fabsf(rest->logprobs[i] - whole->logprobs[8 + i]) < 1e-4f);
        free(rest);
    }
    free(whole);
    free(half_way);
    whisper_close(w);
}

/* --- the edges ---------------------------------------------------------------------------------------------------- */

static void runs_end_as_they_should(void **state)
{
    struct whisper *w = open_model(ct2, PRECISION_F32, 2, false);
    encode(w, 0, 0);
    struct err err = {0};
    struct sample *s = new_sample(0, 0, 40, 5, N_TEXT_CTX);
    run(w, s); /* more than the context has */
    assert_int_equal(s->run.n_out, N_TEXT_CTX - 5);
    assert_int_equal(s->run.stop, RUN_STOP_CTX);
    /* Masks: without what was chosen first, something else is; then nothing but the end of text. */
    int32_t first = s->out[0], *all = malloc((size_t)model.dims.n_vocab * sizeof(int32_t));
    int n = 0;
    assert_int_equal(whisper_set_mask(w, 3, &first, 1, &err), 0);
    for (int v = 0; v < model.dims.n_vocab; v++) {
        if (v != EOT)
            all[n++] = v;
    }
    assert_int_equal(whisper_set_mask(w, 7, all, n, &err), 0);
    s->run.rules.first_mask = 3;
    s->run.max_tokens = 4;
    run(w, s);
    assert_int_not_equal(s->out[0], first);
    assert_int_equal(s->run.stop, RUN_STOP_LIMIT);
    assert_int_equal(s->run.n_out, 4);
    s->run.rules.mask = 7;
    run(w, s);
    assert_int_equal(s->run.n_out, 1);
    assert_int_equal(s->out[0], EOT);
    assert_int_equal(s->run.stop, RUN_STOP_EOT);
    assert_true(s->logprobs[0] == 0.0f);
    assert_int_equal(s->run.n_align_rows, 1);
    free(all);
    free(s);
    whisper_close(w);
}

static void refused(struct whisper *w, struct text_run run, const char *what)
{
    struct err err = {0};
    if (whisper_run(w, &run, 1, &err) != -EINVAL || !strstr(err.msg, "slot"))
        fail_msg("%s: not refused, or without a word: \"%s\"", what, err.msg);
}

static void what_does_not_fit_is_refused(void **state)
{
#define FIELD(name, value)                                                                                   \
    {                                                                                                        \
#name " = " #value, offsetof(struct text_run, name), value                                           \
    }
    static const struct {
        const char *what;
        size_t offset;
        int32_t value;
    } changes[] = {
        FIELD(slot, 4),
        FIELD(slot, -1),
        FIELD(audio, 2),
        FIELD(audio, -1),
        FIELD(n_prompt, 0),
        FIELD(n_prompt, N_TEXT_CTX),
        FIELD(n_cached, 5),
        FIELD(n_cached, -1),
        FIELD(n_draft, N_TEXT_CTX - 4),
        FIELD(n_draft, INT32_MAX),
        FIELD(n_draft, -1),
        FIELD(sample_begin, 0),
        FIELD(sample_begin, 6),
        FIELD(max_tokens, 0),
        FIELD(out_capacity, 2),
        FIELD(probe_token, 51864),
        FIELD(probe_index, 5),
        FIELD(beam.width, 5), /* there are 4 slots */
        FIELD(beam.width, RUN_BEAMS_MAX + 1),
        FIELD(beam.width, -1),
        FIELD(rules.mask, RUN_TOKEN_MASKS),
        FIELD(rules.first_mask, RUN_TOKEN_MASKS),
        FIELD(rules.eot, 51864),
        FIELD(rules.timestamp_begin, -1),
        FIELD(rules.no_timestamps, 51864),
    };
#undef FIELD
    struct whisper *w = open_model(ct2, PRECISION_F32, 1, true);
    struct err err = {0};
    struct sample *good = new_sample(0, 0, 50, 5, 3);
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        struct text_run bad = good->run;
        memcpy((char *)&bad + changes[i].offset, &changes[i].value, sizeof(int32_t));
        refused(w, bad, changes[i].what);
    }
    struct text_run bad = good->run;
    bad.rules.temperature = NAN;
    refused(w, bad, "temperature nan");
    bad.rules.temperature = 1e-40f;
    refused(w, bad, "a temperature whose inverse is infinite");
    bad.rules.temperature = 1.0f;
    bad.beam.width = 2;
    refused(w, bad, "a search with a temperature");
    bad.rules.temperature = 0.0f;
    bad.beam.patience = 0.2f; /* no finished hypothesis at all */
    refused(w, bad, "impatience");
    bad.beam.patience = NAN;
    refused(w, bad, "patience nan");
    bad.beam.patience = 1.0f;
    bad.beam.length_penalty = NAN;
    refused(w, bad, "length penalty nan");
    bad.beam.length_penalty = 0.0f;
    bad.slot = 3;
    refused(w, bad, "a beam without a slot");
    bad.slot = 0;
    bad.n_draft = 1;
    refused(w, bad, "a search with a draft");
    bad.n_draft = 0;
    bad.beam.width = 1;
    bad.rules.temperature = -1.0f;
    refused(w, bad, "temperature -1");
    bad = good->run;
    bad.tokens = (const int32_t[]){0, 1, 2, 3, 51864};
    refused(w, bad, "a token of no vocabulary");
    assert_int_equal(whisper_beams_max(w), 4); /* it has no more slots */
    struct text_run twice[2] = {good->run, good->run};
    assert_int_equal(whisper_run(w, twice, 2, &err), -EINVAL);
    int32_t token = 51864;
    assert_int_equal(whisper_set_mask(w, 0, &token, 1, &err), -EINVAL);
    assert_int_equal(whisper_set_mask(w, RUN_TOKEN_MASKS, &token, 0, &err), -EINVAL);
    wait_ok(w);
    free(good);
    whisper_close(w);
    const struct whisper_options none = {.engine = "host", .n_audio_slots = 0, .n_text_slots = 1};
    assert_int_equal(whisper_open(ct2, &none, &w, &err), -EINVAL);
    const struct whisper_options unknown = {.engine = "abacus", .n_audio_slots = 1, .n_text_slots = 1};
    assert_int_equal(whisper_open(ct2, &unknown, &w, &err), -EINVAL);
}

/* The normalisation by a recording's maximum: a quiet window of a loud recording is not raised. The window is full: past
 * a recording's end the scales see different things. */
static void a_recordings_scale_is_shared(void **state)
{
    struct whisper *w = open_model(ct2, PRECISION_F32, 2, false);
    static float quiet[WINDOW];
    struct sample *a = new_sample(0, 0, 60, 5, 5), *b = new_sample(0, 0, 60, 5, 5),
                  *c = new_sample(0, 0, 60, 5, 5);
    for (int i = 0; i < WINDOW; i++)
        quiet[i] = 1e-3f * pcm[0][i];
    struct whisper_audio audio = {.pcm = pcm[0], .n_samples = WINDOW, .scale = MEL_SCALE_SCAN};
    encode(w, 0, 0);
    run(w, a);
    whisper_reset_scale(w, 0);
    whisper_encode(w, 0, &audio);
    audio.scale = MEL_SCALE_GIVEN; /* the same window by its own maximum, found before */
    whisper_encode(w, 0, &audio);
    run(w, b);
    assert_same(a, b);
    audio.pcm = quiet;
    whisper_encode(w, 0, &audio);
    run(w, c);
    assert_true(c->logprobs[0] != a->logprobs[0]);
    whisper_reset_scale(w, 0);
    audio.scale = MEL_SCALE_SCAN;
    whisper_encode(w, 0, &audio);
    audio.scale = MEL_SCALE_GIVEN;
    whisper_encode(w, 0, &audio);
    run(w, b);
    audio.scale = MEL_SCALE_OWN;
    whisper_encode(w, 0, &audio);
    run(w, c);
    assert_same(b, c);
    free(a);
    free(b);
    free(c);
    whisper_close(w);
}

/* Opening has taken what the largest work needs: after a few small runs, which fill the C library's and oneDNN's caches
 * of small blocks, work of every kind and size leaves the heap as it is. */
static void nothing_is_allocated_after_opening(void **state)
{
    struct whisper *w = open_model(ct2, PRECISION_AUTO, 2, false);
    struct sample *s = new_sample(0, 0, 70, 80, 20), *draft = new_sample(3, 1, 71, 40, 20);
    struct sample *small = new_sample(1, 0, 72, 1, 1);
    struct text_run runs[2];
    struct err err = {0};
    for (int i = 0; i < 5; i++) {
        encode(w, 0, 0);
        run(w, small);
    }
    draft->run.n_draft = 30;
    struct mallinfo2 before = mallinfo2();
    encode(w, 0, 0);
    encode(w, 1, 1);
    runs[0] = s->run;
    runs[1] = draft->run;
    assert_int_equal(whisper_run(w, runs, 2, &err), 0);
    assert_int_equal(whisper_wait(w, &err), 0);
    struct mallinfo2 after = mallinfo2();
    assert_true(after.uordblks < before.uordblks + 4096); /* a page of small blocks, no buffer */
    assert_int_equal(after.hblkhd, before.hblkhd);
    free(s);
    free(draft);
    free(small);
    whisper_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_precision_agrees_with_double),
        cmocka_unit_test(fast_precision_agrees_with_double),
        cmocka_unit_test(the_shape_of_large_v3_works_too),
        cmocka_unit_test(alignment_rows_are_the_attention_of_the_heads),
        cmocka_unit_test(formats_threads_and_deferral_change_no_bit),
        cmocka_unit_test(drafts_give_what_greedy_decoding_gives),
        cmocka_unit_test(a_batch_gives_what_single_runs_give),
        cmocka_unit_test(a_search_is_as_its_result_alone),
        cmocka_unit_test(a_batch_that_goes_on_changes_no_bit),
        cmocka_unit_test(others_do_not_disturb_a_batch),
        cmocka_unit_test(a_step_without_runs_waits),
        cmocka_unit_test(numbers_that_are_none_are_an_error),
        cmocka_unit_test(runs_wait_together),
        cmocka_unit_test(caches_go_on),
        cmocka_unit_test(runs_end_as_they_should),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(a_recordings_scale_is_shared),
        cmocka_unit_test(nothing_is_allocated_after_opening),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
