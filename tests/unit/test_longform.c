/* Offline transcription over a scripted text model: what windows are heard, what is asked, what is made of the answers. */
#include "tests/support/support.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/longform.h"
#include "decoder/quality.h"
#include "decoder/segment.h"
#include "decoder/window.h"

enum { SECOND = 16000, N_VOCAB = 51865, N_TEXT_CTX = 448 };
enum { EOT = 50257, SOT = 50258, ENGLISH = 50259, GERMAN = 50261, TRANSLATE = 50358, TRANSCRIBE = 50359 };
enum { PREV = 50361, NO_SPEECH = 50362, NO_TIMESTAMPS = 50363, STAMP = 50364 };

#define AT(seconds) (STAMP + (int)((seconds)*50 + 0.5))

/* --- the scripted model: the text of a token is its byte -------------------------------------------------------- */

/* What the model says to a window, at a temperature. */
struct answer {
    double start;      /* seconds; the window must begin there; −1: anywhere */
    float temperature; /* −1: any */
    float logprob;     /* of every token */
    float no_speech_prob;
    int32_t tokens[256];
    int n_tokens; /* without eot, which is added where they are fewer than 64: the others break off */
    const struct answer *second; /* not NULL: what the sample in slot 1 says instead */
};

struct heard {
    double start, seconds;
    int n_before;
    enum audio_scale scale;
};

struct script {
    struct text_model base;
    struct tokenizer *tokenizer;
    const float *pcm;
    const struct answer *answers;
    int n_answers;
    struct test_rng *babble; /* not NULL: any tokens whatever */
    int32_t language;
    int lost_in; /* calls after which the engine is gone, and with it all that it held; 0: never */
    bool lost, scanned, encoded, masked[2];
    struct heard heard[400];
    int n_heard, n_runs, n_copies, n_detections;
    double window; /* what the audio slot holds */
    int32_t prompts[400][N_TEXT_CTX];
    int n_prompt[400];
    float temperatures[400];
    uint64_t seeds[400];
    struct beam_search beams[400];
    bool cached[8]; /* slot: it holds the prompt of this window */
    int timestamps; /* what the rules are expected to say */
};

static char byte_tokens[256];

static const char *vocabulary(const void *ctx, int32_t id, size_t *n_bytes)
{
    (void)ctx;
    if (id > 255)
        return NULL;
    byte_tokens[id] = (char)id;
    *n_bytes = 1;
    return &byte_tokens[id];
}

/* What each call is asked first: has the engine gone, at this call or before? */
static int ask(struct script *s, struct err *err)
{
    s->lost = s->lost || (s->lost_in > 0 && --s->lost_in == 0);
    return s->lost ? err_set(err, -EIO, "the engine is gone") : 0;
}

static void encode(struct text_model *m, int audio_slot, const float *pcm, int n_samples, int n_before,
                   enum audio_scale scale)
{
    struct script *s = (struct script *)m;
    assert_int_equal(audio_slot, 0);
    assert_true(s->n_heard < 400);
    ask(s, NULL);
    assert_true(s->lost || scale != AUDIO_SCALE_GIVEN || s->scanned);
    s->scanned = s->scanned || (!s->lost && scale == AUDIO_SCALE_SCAN);
    double start = (double)(pcm - s->pcm) / SECOND;
    s->heard[s->n_heard++] = (struct heard){start, (double)n_samples / SECOND, n_before, scale};
    if (scale != AUDIO_SCALE_SCAN) {
        s->window = start;
        s->encoded = !s->lost;
    }
    memset(s->cached, 0, sizeof(s->cached));
}

static void reset_scale(struct text_model *m, int audio_slot)
{
    assert_int_equal(audio_slot, 0);
    assert_false(((struct script *)m)->scanned); /* once is enough */
}

static void babble(struct script *s, struct text_run *r)
{
    int n = test_rng_int(s->babble, 1, r->max_tokens);
    for (int i = 0; i < n; i++) {
        int kind = test_rng_int(s->babble, 0, 5);
        r->out_tokens[i] = kind < 3   ? test_rng_int(s->babble, 0, 255)
                           : kind < 5 ? STAMP + test_rng_int(s->babble, 0, kind == 3 ? 5 : 1500)
                                      : test_rng_int(s->babble, 256, STAMP - 1);
        if (r->out_tokens[i] == EOT)
            r->out_tokens[i] = 'x';
        r->out_logprobs[i] = -0.5f;
    }
    r->n_out = n;
    r->stop = RUN_STOP_LIMIT;
    if (n < r->max_tokens && test_rng_int(s->babble, 0, 3)) {
        r->out_tokens[n - 1] = EOT;
        r->stop = RUN_STOP_EOT;
    }
    r->probe_prob = test_rng_uniform(s->babble);
}

static const struct answer *answer_to(const struct script *s, const struct text_run *r)
{
    for (int i = 0; i < s->n_answers; i++) {
        const struct answer *a = &s->answers[i];
        if ((a->start < 0.0 || fabs(a->start - s->window) < 1e-6) &&
            (a->temperature < 0.0f || fabsf(a->temperature - r->rules.temperature) < 1e-3f))
            return a;
    }
    fail_msg("nothing is scripted for %.3f s at temperature %.1f", s->window, (double)r->rules.temperature);
    return NULL;
}

/* Sample i of several is less probable than the first but for slot 3, which is the best and says "best". */
static void say(const struct answer *a, struct text_run *r)
{
    bool second = a->second && r->slot == 1;
    a = second ? a->second : a;
    float shift = r->slot == 0 || second ? 0.0f : r->slot == 3 ? 0.05f : -0.05f;
    memcpy(r->out_tokens, a->tokens, (size_t)a->n_tokens * sizeof(int32_t));
    r->n_out = a->n_tokens;
    r->stop = RUN_STOP_LIMIT;
    if (r->slot == 3)
        for (int i = 0; i < 4; i++)
            r->out_tokens[1 + i] = (unsigned char)"best"[i];
    if (a->n_tokens < 64) {
        r->out_tokens[r->n_out++] = EOT;
        r->stop = RUN_STOP_EOT;
    }
    for (int i = 0; i < r->n_out; i++)
        r->out_logprobs[i] = a->logprob + shift;
    r->probe_prob = a->no_speech_prob;
}

/* Text that is fed once more for its words' times: a token begins every 80 ms. */
static void attend(struct text_run *r)
{
    r->n_out = 0;
    r->n_align_rows = r->n_prompt;
    for (int row = 0; row < r->n_prompt; row++) {
        int text = row - 3, begin = text < 0 ? 0 : 4 * text; /* row 3 predicts the first token of text */
        int end = row + 1 < r->n_prompt ? begin + 4 : RUN_AUDIO_FRAMES;
        for (int f = 0; f < RUN_AUDIO_FRAMES; f++)
            r->out_align[(size_t)row * RUN_AUDIO_FRAMES + (size_t)f] = f >= begin && f < end ? 0.2f : 1e-4f;
    }
}

static int run(struct text_model *m, struct text_run *runs, int n, struct err *err)
{
    struct script *s = (struct script *)m;
    int lost = ask(s, err);
    if (lost)
        return lost;
    assert_true(s->encoded && s->masked[0] && s->masked[1]);
    if (runs->want_align) {
        attend(runs);
        return 0;
    }
    for (int i = 0; i < n; i++) {
        struct text_run *r = &runs[i];
        assert_true(s->n_runs < 400);
        assert_true(r->n_cached == 0 || (s->cached[r->slot] && r->n_cached == r->n_prompt - 1));
        assert_int_equal(r->sample_begin, r->n_prompt);
        assert_int_equal(r->max_tokens, 224);
        assert_true(r->out_capacity >= r->max_tokens);
        assert_int_equal(r->rules.eot, EOT);
        assert_int_equal(r->rules.timestamp_begin, STAMP);
        assert_int_equal(r->rules.no_timestamps, NO_TIMESTAMPS);
        assert_int_equal(r->rules.timestamps, s->timestamps);
        assert_int_equal(r->rules.max_initial_timestamp, 50);
        if (r->probe_token >= 0) {
            assert_int_equal(r->probe_token, NO_SPEECH);
            assert_int_equal(r->tokens[r->probe_index], SOT);
        }
        memcpy(s->prompts[s->n_runs], r->tokens, (size_t)r->n_prompt * sizeof(int32_t));
        s->n_prompt[s->n_runs] = r->n_prompt;
        s->beams[s->n_runs] = r->beam;
        s->seeds[s->n_runs] = r->rules.seed;
        s->temperatures[s->n_runs++] = r->rules.temperature;
        s->cached[r->slot] = true;
        r->n_steps = 1;
        if (s->babble)
            babble(s, r);
        else
            say(answer_to(s, r), r);
        if (r->probe_token < 0)
            r->probe_prob = 0.0f;
    }
    return 0;
}

static int logits(struct text_model *m, int slot, int audio_slot, const int32_t *tokens, int n, int pos,
                  float *out, struct err *err)
{
    struct script *s = (struct script *)m;
    int lost = ask(s, err);
    if (lost)
        return lost;
    assert_true(n == 1 && pos == 0 && tokens[0] == SOT && s->encoded);
    for (int i = 0; i < N_VOCAB; i++)
        out[i] = i < ENGLISH || i >= TRANSLATE ? 9.0f : 0.0f; /* what is no language does not count */
    out[s->language] = 5.0f;
    s->n_detections++;
    return 0;
}

static void copy_slot(struct text_model *m, int src, int dst, int n)
{
    struct script *s = (struct script *)m;
    assert_int_equal(n, s->n_prompt[s->n_runs - 1] - 1);
    ask(s, NULL);
    s->cached[dst] = s->cached[src];
    s->n_copies++;
}

static int set_mask(struct text_model *m, int index, const int32_t *tokens, int n, struct err *err)
{
    struct script *s = (struct script *)m;
    assert_in_range(index, 0, 1);
    int lost = ask(s, err);
    s->masked[index] = !lost;
    return lost;
}

static int wait(struct text_model *m, struct err *err)
{
    return ask((struct script *)m, err);
}

static const struct text_model_ops ops = {.encode = encode,
                                          .reset_scale = reset_scale,
                                          .run = run,
                                          .logits = logits,
                                          .copy_slot = copy_slot,
                                          .set_mask = set_mask,
                                          .wait = wait};

/* --- a transcription and what came of it ------------------------------------------------------------------------- */

struct outcome {
    struct script script;
    struct longform_options options;
    struct longform_result result;
    struct err err;
    float *pcm;
    int64_t n_samples;
    char text[20000];
    struct longform_segment segments[400];
    int n_segments, stop_after;
    int64_t done;
};

static int on_segment(void *ctx, const struct longform_segment *segment)
{
    struct outcome *o = ctx;
    assert_true(o->n_segments < 400);
    assert_true(segment->start >= 0 && segment->start <= segment->end && segment->end <= o->n_samples);
    o->segments[o->n_segments++] = *segment;
    size_t used = strlen(o->text);
    snprintf(o->text + used, sizeof(o->text) - used, "[%s]", segment->text);
    return o->n_segments == o->stop_after ? 77 : 0;
}

static int on_progress(void *ctx, int64_t done, int64_t total)
{
    struct outcome *o = ctx;
    assert_true(done > o->done || done == total);
    assert_true(done <= total && total == o->n_samples);
    o->done = done;
    return 0;
}

static struct outcome *prepare(double seconds, const struct answer *answers, int n_answers)
{
    struct outcome *o = calloc(1, sizeof(*o));
    assert_non_null(o);
    o->n_samples = (int64_t)(seconds * SECOND + 0.5);
    o->pcm = calloc((size_t)o->n_samples + 1, sizeof(float));
    assert_non_null(o->pcm);
    longform_defaults(&o->options);
    o->options.language = "en";
    o->options.on_segment = on_segment;
    o->options.on_progress = on_progress;
    o->options.ctx = o;
    o->script = (struct script){
        .base = {.ops = &ops,
                 .n_vocab = N_VOCAB,
                 .n_text_ctx = N_TEXT_CTX,
                 .n_audio_slots = 1,
                 .n_text_slots = 5},
        .pcm = o->pcm,
        .answers = answers,
        .n_answers = n_answers,
        .language = GERMAN,
        .timestamps = 1,
    };
    assert_int_equal(tokenizer_create(N_VOCAB, vocabulary, NULL, &o->script.tokenizer, &o->err), 0);
    return o;
}

static int transcribe(struct outcome *o)
{
    return longform_transcribe(&o->script.base, o->script.tokenizer, &o->options, o->pcm, o->n_samples,
                               &o->result, &o->err);
}

static void finish(struct outcome *o)
{
    tokenizer_destroy(o->script.tokenizer);
    free(o->pcm);
    free(o);
}

#define ANSWER(at, ...)                                                                                      \
    {                                                                                                        \
        .start = (at), .temperature = -1.0f, .logprob = -0.3f, .tokens = {__VA_ARGS__},                      \
        .n_tokens = sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t)                                       \
    }
#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* --- windows ----------------------------------------------------------------------------------------------------- */

static void check_heard(const struct heard *h, double start, double seconds, int n_before,
                        enum audio_scale scale)
{
    assert_float_equal(h->start, start, 1e-6);
    assert_float_equal(h->seconds, seconds, 1e-6);
    assert_int_equal(h->n_before, n_before);
    assert_int_equal(h->scale, scale);
}

/* A window's unfinished segment is heard again in the next one; a single timestamp at the end finishes the window. */
static void test_seeks_by_timestamps(void **state)
{
    const struct answer answers[] = {
        ANSWER(0, AT(0), ' ', 'a', AT(4.5), AT(5), ' ', 'b', AT(27.3), AT(27.3), ' ', 'x'),
        ANSWER(27.3, AT(0.5), ' ', 'c', AT(2), AT(2), ' ', 'd', AT(29)),
        ANSWER(57.3, AT(0), ' ', 'e', AT(3.36)),
    };
    struct outcome *o = prepare(62.005, answers, 3);
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ a][ b][ c][ d][ e]");
    static const double times[][2] = {{0, 4.5}, {5, 27.3}, {27.8, 29.3}, {29.3, 56.3}, {57.3, 60.66}};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(o->segments[i].start, (int64_t)(times[i][0] * SECOND + 0.5));
        assert_int_equal(o->segments[i].end, (int64_t)(times[i][1] * SECOND + 0.5));
    }
    assert_int_equal(o->result.n_windows, 3);
    assert_int_equal(o->result.n_fallbacks, 0);
    assert_string_equal(o->result.language, "en");
    assert_true(o->script.masked[0] && o->script.masked[1]);
    /* The maximum is sought in the whole recording first. A window sees 200 samples beyond itself where they are. */
    const double edge = 200.0 / SECOND;
    const struct heard *h = o->script.heard;
    assert_int_equal(o->script.n_heard, 6);
    check_heard(&h[0], 0, 30 + edge, 0, AUDIO_SCALE_SCAN);
    check_heard(&h[1], 30, 30 + edge, 200, AUDIO_SCALE_SCAN);
    check_heard(&h[2], 60, 2.005, 200, AUDIO_SCALE_SCAN);
    check_heard(&h[3], 0, 30 + edge, 0, AUDIO_SCALE_GIVEN);
    check_heard(&h[4], 27.3, 30 + edge, 200, AUDIO_SCALE_GIVEN);
    check_heard(&h[5], 57.3, 4.705, 200, AUDIO_SCALE_GIVEN);
    assert_int_equal(o->done, o->n_samples);
    finish(o);
}

/* Without a pair of timestamps the window is one segment up to its last timestamp, and is not heard again. */
static void test_windows_without_pairs(void **state)
{
    const struct answer answers[] = {
        ANSWER(0, ' ', 'a'),
        ANSWER(30, AT(0), ' ', 'b', AT(7)),
        ANSWER(60, AT(0), ' ', ' '), /* nothing said */
        ANSWER(90, AT(0), ' ', 'd'),
    };
    struct outcome *o = prepare(93, answers, 4);
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ a][ b][ d]");
    assert_int_equal(o->segments[0].end, 30 * SECOND);
    assert_int_equal(o->segments[1].end, 37 * SECOND);
    assert_int_equal(o->segments[2].end, 93 * SECOND);
    finish(o);
}

static void test_only_regions_are_heard(void **state)
{
    const struct answer answers[] = {
        ANSWER(2, AT(0), ' ', 'a', AT(3)),
        ANSWER(40, AT(0), ' ', 'b', AT(20), AT(20), ' ', 'x'),
        ANSWER(60, AT(0), ' ', 'c', AT(12)),
        ANSWER(80, AT(0), ' ', 'd', AT(4)),
    };
    struct outcome *o = prepare(100, answers, 4);
    const struct longform_region regions[] = {
        {2 * SECOND, 5 * SECOND + 40}, {40 * SECOND, 75 * SECOND}, {80 * SECOND, 90 * SECOND}};
    o->options.regions = regions;
    o->options.n_regions = 3;
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ a][ b][ c][ d]");
    const struct heard *h = o->script.heard + 4; /* after the scan */
    assert_int_equal(o->script.n_heard, 8);
    /* Less than a frame more than the region: its last frame sees it. */
    check_heard(&h[0], 2, 3.01 + 159.0 / SECOND, 200, AUDIO_SCALE_GIVEN);
    check_heard(&h[1], 40, 30 + 200.0 / SECOND, 200, AUDIO_SCALE_GIVEN);
    check_heard(&h[2], 60, 15 + 159.0 / SECOND, 200, AUDIO_SCALE_GIVEN);
    check_heard(&h[3], 80, 10 + 159.0 / SECOND, 200, AUDIO_SCALE_GIVEN);
    finish(o);
}

static void test_nothing_to_hear(void **state)
{
    static const struct longform_region none[1];
    struct outcome *o = prepare(100, NULL, 0);
    o->options.regions = none;
    o->options.n_regions = 0;
    assert_int_equal(transcribe(o), 0);
    assert_int_equal(o->script.n_heard + o->n_segments, 0);
    finish(o);
    o = prepare(0, NULL, 0);
    o->options.language = NULL;
    assert_int_equal(transcribe(o), 0);
    assert_int_equal(o->script.n_heard + o->script.n_detections + o->n_segments, 0);
    finish(o);
}

/* A model that stammers would be asked 1500 times for each window. */
static void test_does_not_get_stuck(void **state)
{
    struct answer answers[64];
    for (int i = 0; i < 64; i++) {
        int whole = i / 4, part = i % 4;
        /* Wherever a window begins, its first 20 ms are a segment and the rest is cut off. After two of them the third
         * is passed over: it began 40 ms late, and so does what follows. */
        answers[i] =
            (struct answer)ANSWER(30.04 * whole + 0.02 * part, AT(0), ' ', 'a', AT(0.02), AT(0.02), ' ', 'x');
    }
    struct outcome *o = prepare(60, answers, 64);
    assert_int_equal(transcribe(o), 0);
    assert_int_equal(o->result.n_windows, 6);
    finish(o);
}

/* Text alone: a window ends in the pause within its last 5 s, and the last one with the recording. */
static void test_windows_without_timestamps_end_in_pauses(void **state)
{
    const struct answer answers[] = {ANSWER(0, ' ', 'a'), ANSWER(27.04, ' ', 'b')};
    struct outcome *o = prepare(40, answers, 2);
    for (int64_t i = 0; i < o->n_samples; i++)
        o->pcm[i] = i >= 26.9 * SECOND && i < 27.1 * SECOND ? 0.0f : i % 2 ? 0.1f : -0.1f;
    o->options.without_timestamps = true;
    o->script.timestamps = 0;
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ a][ b]");
    /* The middle of the last five quiet frames of 20 ms. */
    assert_int_equal(o->segments[0].end, 27.04 * SECOND);
    assert_int_equal(o->segments[1].start, o->segments[0].end);
    assert_int_equal(o->segments[1].end, 40 * SECOND);
    static const int32_t prompt[] = {SOT, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS};
    assert_int_equal(o->script.n_prompt[0], 4);
    assert_memory_equal(o->script.prompts[0], prompt, sizeof(prompt));
    finish(o);
}

/* What is improbable where nobody was heard goes; a rest of a region without a voice is not decoded. */
static void test_voices_are_minded(void **state)
{
    struct answer answers[] = {
        ANSWER(0, AT(0), ' ', 'a', AT(5), AT(10), ' ', 'm', 'a', 'd', 'e', AT(15), AT(15)),
        ANSWER(15, AT(0), ' ', 'b', AT(4), AT(4), ' ', 'c', AT(13), AT(13))};
    for (int i = 0; i < 2; i++)
        answers[i].logprob = -1.1f;
    struct outcome *o = prepare(30, answers, 2);
    const struct longform_region all = {0, 30 * SECOND},
                                 voice[] = {{0, 5 * SECOND}, {16 * SECOND, 25 * SECOND}};
    o->options.n_temperatures = 1;
    o->options.regions = &all;
    o->options.n_regions = 1;
    o->options.voice = voice;
    o->options.n_voice = 2;
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ a][ b][ c]"); /* nothing is scripted for 28 s: it is not asked for */
    assert_int_equal(o->result.n_windows, 2);
    assert_int_equal(o->done, o->n_samples);
    finish(o);
}

/* --- prompts ----------------------------------------------------------------------------------------------------- */

static void test_previous_text_is_the_prompt(void **state)
{
    const struct answer answers[] = {
        ANSWER(0, AT(0), ' ', 'a', AT(10), AT(10), ' ', AT(12), AT(12), ' ', 'b', AT(20), AT(20), ' ', 'x'),
        ANSWER(20, AT(0), ' ', 'c', AT(8)),
    };
    struct outcome *o = prepare(40, answers, 2);
    o->options.translate = true;
    assert_int_equal(transcribe(o), 0);
    static const int32_t first[] = {SOT, ENGLISH, TRANSLATE};
    assert_int_equal(o->script.n_prompt[0], 3);
    assert_memory_equal(o->script.prompts[0], first, sizeof(first));
    /* Timestamps go along; the blank segment and the unfinished one do not. */
    const int32_t second[] = {PREV, AT(0), ' ',    'a', AT(10),  AT(12),
                              ' ',  'b',   AT(20), SOT, ENGLISH, TRANSLATE};
    assert_int_equal(o->script.n_prompt[1], COUNT(second));
    assert_memory_equal(o->script.prompts[1], second, sizeof(second));
    finish(o);

    o = prepare(40, answers, 2);
    o->options.condition_on_previous_text = false;
    assert_int_equal(transcribe(o), 0);
    assert_int_equal(o->script.n_prompt[1], 3);
    finish(o);
}

static void test_a_prompt_keeps_the_newest_223_tokens(void **state)
{
    enum { WINDOWS = 6 };
    struct answer answers[WINDOWS];
    for (int w = 0; w < WINDOWS; w++) {
        answers[w] = (struct answer)ANSWER(30.0 * w, AT(0));
        for (int i = 1; i < 60; i++)
            answers[w].tokens[i] = 'a' + (w * 60 + i * i) % 26;
        answers[w].n_tokens = 60;
    }
    struct outcome *o = prepare(30 * WINDOWS, answers, WINDOWS);
    o->options.compression_ratio_threshold = 0.0f;
    assert_int_equal(transcribe(o), 0);
    int32_t all[60 * WINDOWS];
    for (int w = 0; w < WINDOWS; w++) {
        int n = 60 * w, kept = n < 223 ? n : 223;
        assert_int_equal(o->script.n_prompt[w], (kept > 0) + kept + 3);
        assert_memory_equal(o->script.prompts[w] + (kept > 0), all + n - kept,
                            (size_t)kept * sizeof(int32_t));
        memcpy(all + n, answers[w].tokens, sizeof(int32_t) * 60);
    }
    finish(o);
}

/* --- fallback ---------------------------------------------------------------------------------------------------- */

static struct answer at_temperature(struct answer a, float temperature, float logprob)
{
    a.temperature = temperature;
    a.logprob = logprob;
    return a;
}

static void test_improbable_text_is_decoded_again(void **state)
{
    const struct answer bad = ANSWER(0, AT(0), ' ', 'b', 'a', 'd', ' ', AT(29));
    const struct answer good = ANSWER(0, AT(0), ' ', 'g', 'o', 'o', 'd', AT(29));
    const struct answer answers[] = {at_temperature(bad, 0.0f, -1.2f), at_temperature(bad, 0.2f, -1.1f),
                                     at_temperature(good, 0.4f, -1.02f)};
    struct outcome *o = prepare(30, answers, 3);
    assert_int_equal(transcribe(o), 0);
    /* Of five samples the most probable counts: slot 3's, which alone is above −1. */
    assert_string_equal(o->text, "[bestd]");
    assert_float_equal(o->segments[0].avg_logprob, -0.97f, 1e-5);
    assert_float_equal(o->segments[0].temperature, 0.4f, 1e-6);
    assert_int_equal(o->script.n_runs, 1 + 5 + 5);
    assert_int_equal(o->script.n_copies, 8);
    assert_int_equal(o->result.n_fallbacks, 1);
    assert_int_equal(o->result.n_steps, 11);
    finish(o);

    o = prepare(30, answers, 3);
    o->script.base.n_text_slots = 2; /* no room for five */
    o->options.n_temperatures = 2;   /* the last one is taken, good or not */
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ bad ]");
    assert_int_equal(o->script.n_runs, 1 + 2);
    finish(o);
}

/* Every sample of two windows, two temperatures and three seeds draws numbers of its own: no run's seed is another's, nor
 * leads to another's a few positions on. The same seed repeats them; 0 gives those of a version without the option. */
static void test_samples_have_seeds_of_their_own(void **state)
{
    const struct answer bad = ANSWER(-1, AT(0), ' ', 'b', 'a', 'd', ' ', AT(29));
    const struct answer answers[] = {at_temperature(bad, -1.0f, -1.2f)};
    const uint64_t seeds[] = {0, 1, INT32_MAX, 1}, step = 0x9E3779B97F4A7C15u;
    uint64_t drawn[4][20];
    for (int k = 0; k < 4; k++) {
        struct outcome *o = prepare(58, answers, 1);
        o->options.n_temperatures = 3;
        o->options.seed = seeds[k];
        assert_int_equal(transcribe(o), 0);
        assert_int_equal(o->script.n_runs, 2 * (1 + 5 + 5));
        for (int i = 0; i < 20; i++)
            drawn[k][i] = o->script.seeds[1 + i + i / 10];
        finish(o);
    }
    const uint64_t *one = drawn[0];
    assert_int_equal(one[0], WINDOW_SAMPLES);
    assert_int_equal(one[14], ((uint64_t)3000 << 16) + WINDOW_SAMPLES + 4);
    assert_memory_equal(drawn[1], drawn[3], sizeof(drawn[1]));
    for (int i = 0; i < 60; i++)
        for (int k = 0; k < 60; k++)
            for (uint64_t positions = 0; i != k && positions < N_TEXT_CTX; positions++)
                assert_true(one[i] + positions * step != one[k]);
}

static void test_the_best_of_bad_texts_is_taken(void **state)
{
    const struct answer bad = ANSWER(0, AT(0), ' ', 'b', 'a', 'd', ' ', AT(29));
    const struct answer worse = ANSWER(0, AT(0), ' ', 'w', 'o', 'r', 's', AT(29));
    const struct answer answers[] = {at_temperature(bad, 0.0f, -1.2f), at_temperature(worse, 0.2f, -1.5f)};
    struct outcome *o = prepare(30, answers, 2);
    o->options.n_temperatures = 2;
    o->options.best_of = 1;
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ bad ]");
    assert_float_equal(o->segments[0].temperature, 0.0f, 1e-6);
    finish(o);
}

/* Without timestamps a window's text is all that is said in it: five letters are no sample of eight seconds of voice, but may
 * be one of a second, or where it is not known who speaks. */
static void test_a_sample_is_not_too_short(void **state)
{
    const struct answer bad = ANSWER(0, ' ', 'b', 'a', 'd');
    const struct answer few = ANSWER(0, ' ', 'a', ' ', 'f', 'e', 'w');
    const struct answer more =
        ANSWER(0, ' ', 'q', 'u', 'i', 't', 'e', ' ', 'a', ' ', 'l', 'o', 't', ' ', 'o', 'f', ' ', 't', 'h',
               'e', 'm', ' ', 'i', 's', ' ', 's', 'a', 'i', 'd', ' ', 'h', 'e', 'r', 'e', ' ', 'a', 'n', 'd',
               ' ', 't', 'h', 'e', 'r', 'e', ' ', 'b', 'y', ' ', 'a', 'l', 'l', ' ', 'o', 'f', ' ', 'u', 's');
    const struct answer answers[] = {at_temperature(bad, 0.0f, -1.5f), at_temperature(few, 0.2f, -0.3f),
                                     at_temperature(more, 0.4f, -0.6f)};
    const struct longform_region all = {0, 30 * SECOND},
                                 voice[] = {{SECOND, 6 * SECOND}, {20 * SECOND, 21 * SECOND}};
    for (int known = 0; known < 3; known++) {
        struct outcome *o = prepare(30, answers, 3);
        o->options.without_timestamps = true;
        o->script.timestamps = 0;
        o->options.best_of = 1;
        o->options.regions = &all;
        o->options.n_regions = 1;
        o->options.voice = known ? voice + (known == 1) : NULL;
        o->options.n_voice = known ? known == 1 ? 1 : 2 : 0;
        assert_int_equal(transcribe(o), 0);
        if (known == 2)
            assert_non_null(strstr(o->text, "quite a lot"));
        else
            assert_string_equal(o->text, "[ a few]");
        finish(o);
    }
}

/* Samples are ranked by their sum over the tokens without the end of text: −13.3 over 13 before −3.6 over 3, although the mean
 * of all that was sampled is −0.95 there and −0.9 here. */
static void test_samples_are_ranked_by_their_tokens(void **state)
{
    const struct answer bad = ANSWER(0, AT(0), ' ', 'b', 'a', 'd', AT(29));
    const struct answer few = ANSWER(0, AT(0), 'a', AT(29));
    struct answer many = ANSWER(0, AT(0), ' ', 'm', 'a', 'n', 'y', ' ', 'w', 'o', 'r', 'd', 's', AT(29));
    many.logprob = -0.95f;
    struct answer answers[] = {at_temperature(bad, 0.0f, -1.5f), at_temperature(few, 0.2f, -0.9f)};
    answers[1].second = &many;
    struct outcome *o = prepare(30, answers, 2);
    o->options.n_temperatures = 2;
    o->options.best_of = 2;
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ many words]");
    finish(o);
}

static void test_repetition_is_decoded_again(void **state)
{
    struct answer loop = ANSWER(0, AT(0)), fine = ANSWER(0, AT(0), ' ', 'f', 'i', 'n', 'e', '.', AT(29));
    for (int i = 1; i < 60; i++)
        loop.tokens[i] = (unsigned char)"ab "[i % 3];
    loop.n_tokens = 60;
    const struct answer next = ANSWER(30, AT(0), ' ', 'n', AT(2));
    const struct answer answers[] = {at_temperature(loop, 0.0f, -0.1f), at_temperature(loop, 0.2f, -0.1f),
                                     at_temperature(loop, 0.4f, -0.1f), at_temperature(fine, 0.6f, -0.5f),
                                     next};
    struct outcome *o = prepare(33, answers, 5);
    o->options.best_of = 1;
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ fine.][ n]");
    /* What needed a temperature above 0.5 is no prompt. */
    assert_int_equal(o->script.n_prompt[o->script.n_runs - 1], 3);
    finish(o);
}

static void test_a_sample_that_loops_leaves_the_others(void **state)
{
    struct answer loop = ANSWER(0, AT(0));
    const struct answer fine = ANSWER(0, AT(0), ' ', 'f', 'i', 'n', 'e', '.', AT(29)),
                        improbable = at_temperature(fine, 0.2f, -1.3f);
    for (int i = 1; i < 60; i++)
        loop.tokens[i] = (unsigned char)"ab "[i % 3];
    loop.n_tokens = 60;
    struct answer second = at_temperature(fine, 0.2f, -0.5f);
    struct answer answers[] = {at_temperature(loop, 0.0f, -0.1f), at_temperature(loop, 0.2f, -0.1f),
                               at_temperature(fine, 0.4f, -0.5f)};
    for (int k = 0; k < 2; k++) {
        answers[1].second = k == 0 ? &second : &improbable; /* that is no reason to stop */
        struct outcome *o = prepare(30, answers, 3);
        o->options.best_of = 2;
        assert_int_equal(transcribe(o), 0);
        assert_string_equal(o->text, "[ fine.]");
        assert_float_equal(o->segments[0].temperature, k == 0 ? 0.2f : 0.4f, 1e-6);
        finish(o);
    }
}

static struct answer in_characters(const char *text)
{
    struct answer a = ANSWER(0, AT(0));
    for (const char *c = text; *c; c++)
        a.tokens[a.n_tokens++] = (unsigned char)*c;
    a.tokens[a.n_tokens++] = AT(29);
    return a;
}

/* A speaker who repeats is no loop: a sample that repeats nearly as much, though just within the limit, says so. */
static void test_a_speaker_may_repeat(void **state)
{
    const char *spoken = " press one to call, press two to call, press six to call";
    const char *sampled = " press one to call, press two to call, press six to cal";
    const char *other = " some words that are not like one another";
    float ratio = quality_compression_ratio(spoken + 1, strlen(spoken) - 1);
    float below = quality_compression_ratio(sampled + 1, strlen(sampled) - 1);
    assert_true(below < ratio && below > 0.95f * ratio);
    const struct {
        const char *sample;
        float logprob;
        const char *text;
    } cases[] = {{sampled, -0.3f, spoken}, {other, -0.3f, other}, {sampled, -1.3f, sampled}};
    for (int i = 0; i < 3; i++) {
        const struct answer answers[] = {at_temperature(in_characters(spoken), 0.0f, cases[i].logprob),
                                         at_temperature(in_characters(cases[i].sample), 0.2f, -0.5f)};
        struct outcome *o = prepare(30, answers, 2);
        o->options.compression_ratio_threshold = (ratio + below) / 2.0f;
        o->options.best_of = 1;
        assert_int_equal(transcribe(o), 0);
        char text[80];
        snprintf(text, sizeof(text), "[%s]", cases[i].text);
        assert_string_equal(o->text, text);
        assert_int_equal(o->result.n_fallbacks, 1);
        finish(o);
    }
}

static void test_silence_is_skipped(void **state)
{
    struct answer silent = ANSWER(0, AT(0), ' ', 'y', 'o', 'u', AT(29)), sure = silent, next = silent;
    silent.no_speech_prob = sure.no_speech_prob = 0.9f;
    silent.logprob = -1.5f;
    next.start = 30;
    const struct answer skipped[] = {silent, next};
    struct outcome *o = prepare(60, skipped, 2);
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ you]"); /* and not decoded again */
    assert_int_equal(o->segments[0].start, 30 * SECOND);
    assert_int_equal(o->script.n_runs, 2);
    finish(o);
    const struct answer kept[] = {sure, next}; /* probable text overrules */
    o = prepare(60, kept, 2);
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->text, "[ you][ you]");
    finish(o);
}

static void test_quality(void **state)
{
    const struct quality_limits limits = {2.4f, -1.0f, 0.6f, 60, 0};
    assert_true(quality_is_poor(&(struct quality){2.5f, -0.1f, 0.0f, 60, false, 0}, &limits));
    assert_true(quality_is_poor(&(struct quality){1.0f, -1.1f, 0.5f, 60, false, 0}, &limits));
    assert_false(quality_is_poor(&(struct quality){2.5f, -1.1f, 0.7f, 60, false, 0}, &limits));
    assert_true(quality_is_poor(&(struct quality){2.5f, -0.5f, 0.7f, 60, false, 0}, &limits));
    assert_false(quality_is_poor(&(struct quality){2.4f, -1.0f, 0.0f, 60, false, 0}, &limits));
    assert_true(quality_is_poor(&(struct quality){1.0f, -0.1f, 0.0f, 61, false, 0}, &limits));
    assert_true(quality_is_poor(&(struct quality){1.0f, -0.1f, 0.0f, 60, true, 0}, &limits));
    assert_false(quality_is_poor(&(struct quality){1.0f, -1.1f, 0.7f, 61, true, 0}, &limits));
    /* Python: len(s) / len(zlib.compress(s)) */
    const char *text = "And so my fellow Americans ask not what your country can do for you";
    assert_float_equal(quality_compression_ratio(text, strlen(text)), 67.0 / 66.0, 1e-6);
    char loop[400];
    for (int i = 0; i < 400; i++)
        loop[i] = "round and "[i % 10];
    assert_float_equal(quality_compression_ratio(loop, 400), 400.0 / 22.0, 1e-5);
    assert_float_equal(quality_compression_ratio("", 0), 0.0, 0.0);
}

/* A search at temperature 0; above it samples, for which there is none. */
static void test_beams_search_at_temperature_0(void **state)
{
    const struct answer bad = ANSWER(0, AT(0), ' ', 'b', 'a', 'd', ' ', AT(29));
    const struct answer good = ANSWER(0, AT(0), ' ', 'g', 'o', 'o', 'd', AT(29));
    const struct answer answers[] = {at_temperature(bad, 0.0f, -1.2f), at_temperature(good, 0.2f, -0.5f)};
    struct outcome *o = prepare(30, answers, 2);
    o->options.beam_size = 4;
    o->options.patience = 1.5f;
    o->options.length_penalty = 0.6f;
    assert_int_equal(transcribe(o), 0);
    assert_int_equal(o->script.n_runs, 1 + 5);
    assert_int_equal(o->script.beams[0].width, 4);
    assert_float_equal(o->script.beams[0].patience, 1.5f, 0.0);
    assert_float_equal(o->script.beams[0].length_penalty, 0.6f, 0.0);
    for (int i = 1; i < 6; i++)
        assert_int_equal(o->script.beams[i].width, 1);
    finish(o);
}

/* Text that breaks off at the limit of tokens, with no timestamp to go on from: the next window begins where its last word
 * ends, if that can be known, and else what was not written yet is lost. */
static void test_goes_on_behind_text_that_breaks_off(void **state)
{
    for (int n_align = 0; n_align < 2; n_align++) {
        struct answer answers[] = {ANSWER(0, AT(0)), ANSWER(-1, AT(0), ' ', 'r', 'e', 's', 't', AT(5))};
        struct test_rng rng;
        test_rng_init(&rng, 2);
        for (int i = 1; i < 224; i++)
            answers[0].tokens[i] = i % 6 == 1 ? ' ' : test_rng_int(&rng, 'a', 'z');
        answers[0].n_tokens = 224;
        struct outcome *o = prepare(40, answers, 2);
        o->script.base.n_align = n_align;
        o->options.n_temperatures = 1;
        assert_int_equal(transcribe(o), 0);
        /* 223 tokens of 80 ms end at 17.84 s; a boundary lies within two frames of 20 ms of where attention puts it. */
        double expected = n_align ? 17.84 : 30.0;
        assert_float_equal(o->script.heard[o->script.n_heard - 1].start, expected, 0.04);
        assert_non_null(strstr(o->text, "[ rest]"));
        assert_true(o->segments[0].end <= o->segments[1].start);
        finish(o);
    }
}

/* The last of 15 words is timed to last to the end of the window, but somebody speaks on behind it. */
static void test_hears_again_what_is_left_out(void **state)
{
    const struct longform_region little = {0, 8 * SECOND}, much = {0, 25 * SECOND};
    for (int i = 0; i < 5; i++) {
        struct answer answers[] = {ANSWER(0, AT(0)), ANSWER(-1, AT(0), ' ', 'r', 'e', 's', 't', AT(5))};
        for (int k = 1; k <= 90; k++)
            answers[0].tokens[k] = k % 6 == 1 ? ' ' : "abcdefghij"[(k * k / 7) % 10];
        answers[0].tokens[91] = AT(29);
        answers[0].n_tokens = 92;
        struct outcome *o = prepare(30, answers, 2);
        o->script.base.n_align = 1;
        o->options.n_temperatures = 1;
        o->options.voice = i == 0 ? NULL : i == 1 ? &little : &much;
        o->options.n_voice = i > 0;
        o->options.word_times = i >= 3;                            /* whose ends go with it, … */
        o->options.hallucination_silence_s = i == 4 ? 2.0f : 0.0f; /* … and nothing of it is passed over */
        assert_int_equal(transcribe(o), 0);
        assert_int_equal(o->n_segments, i >= 2 ? 2 : 1);
        if (i >= 2) { /* 90 tokens of 80 ms */
            assert_float_equal(o->script.heard[o->script.n_heard - 1].start, 90 * 0.08, 0.04);
            assert_int_equal(o->segments[0].end, o->segments[1].start);
        }
        finish(o);
    }
}

/* --- language ---------------------------------------------------------------------------------------------------- */

static void test_language_is_detected(void **state)
{
    const struct answer answers[] = {ANSWER(0, AT(0), ' ', 'a', AT(29)), ANSWER(30, AT(0), ' ', 'b', AT(2))};
    struct outcome *o = prepare(40, answers, 2);
    o->options.language = NULL;
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->result.language, "de");
    assert_float_equal(o->result.language_probability, exp(5) / (exp(5) + 98), 1e-6);
    assert_int_equal(o->script.prompts[0][1], GERMAN);
    assert_int_equal(o->script.prompts[0][2], TRANSCRIBE);
    assert_int_equal(o->script.n_detections, 1);
    assert_int_equal(o->script.n_heard, 2 + 2); /* the first window is encoded once */
    finish(o);
}

static void test_languages_and_tasks_are_checked(void **state)
{
    const struct answer answers[] = {ANSWER(0, AT(0), ' ', 'a', AT(2))};
    struct outcome *o = prepare(3, answers, 1);
    o->options.language = "klingon";
    assert_int_equal(transcribe(o), -EINVAL);
    assert_non_null(strstr(o->err.msg, "klingon"));
    o->options.language = "German";
    o->script.n_heard = 0;
    o->script.scanned = false;
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->result.language, "de");
    o->options.language = "yue"; /* larger models have it */
    o->script.n_heard = 0;
    o->script.scanned = false;
    assert_int_equal(transcribe(o), -EINVAL);
    finish(o);
}

/* Where the first region is short, later speech helps to find the language: 2 + 6 + 22 s of 40. */
static void test_language_is_detected_by_speech(void **state)
{
    const struct answer answers[] = {ANSWER(1, AT(0), ' ', 'a', AT(2)), ANSWER(20, AT(0), ' ', 'b', AT(6)),
                                     ANSWER(40, AT(0), ' ', 'c', AT(29))};
    struct outcome *o = prepare(70, answers, 3);
    const struct longform_region regions[] = {
        {SECOND, 3 * SECOND}, {20 * SECOND, 26 * SECOND}, {40 * SECOND, 70 * SECOND}};
    o->options.language = NULL;
    o->options.regions = regions;
    o->options.n_regions = 3;
    assert_int_equal(transcribe(o), 0);
    assert_string_equal(o->result.language, "de");
    assert_string_equal(o->text, "[ a][ b][ c]");
    const struct heard *h = &o->script.heard[3]; /* after the scan */
    assert_float_equal(h->seconds, 30.0, 1e-9);
    assert_int_equal(h->scale, AUDIO_SCALE_OWN);
    assert_int_equal(h->n_before, 0);
    finish(o);
}

/* --- failures ---------------------------------------------------------------------------------------------------- */

static void test_errors_come_through(void **state)
{
    const struct answer answers[] = {ANSWER(0, AT(0), ' ', 'a', AT(29)), ANSWER(30, AT(0), ' ', 'b', AT(29))};
    struct outcome *o = prepare(60, answers, 2);
    o->script.lost_in =
        2 + 2 * 2 + 2 + 2 + 1; /* masks, scan of two windows; the first window, encoded and run; the second */
    o->result.n_windows = -5;
    assert_int_equal(transcribe(o), -EIO);
    assert_string_equal(o->err.msg, "the engine is gone");
    assert_string_equal(o->text, "[ a]");
    assert_int_equal(o->result.n_windows, -5);
    finish(o);
    o = prepare(60, answers, 2);
    o->stop_after = 1;
    assert_int_equal(transcribe(o), 77);
    assert_int_equal(o->n_segments, 1);
    finish(o);
}

static int n_taken_over;

/* Another engine, which holds nothing yet. */
static int take_over(void *ctx, struct err *err)
{
    struct outcome *o = ctx;
    struct script *s = &o->script;
    assert_true(s->lost);
    assert_string_equal(err->msg, "the engine is gone");
    s->lost = s->scanned = s->encoded = s->masked[0] = s->masked[1] = false;
    memset(s->cached, 0, sizeof(s->cached));
    n_taken_over++;
    return 0;
}

static int nothing_takes_over(void *ctx, struct err *err)
{
    return err_set(err, -ENOMEM, "no memory for another engine");
}

/* What another engine ends with that takes over from one that is lost at this call. */
static struct outcome *transcribe_lost(const struct answer *answers, int n_answers, bool word_times,
                                       int lost_in)
{
    struct outcome *o = prepare(60, answers, n_answers);
    o->script.base.n_align = 1;
    o->script.lost_in = lost_in;
    o->options.language = NULL;
    o->options.word_times = word_times;
    o->options.take_over = take_over;
    n_taken_over = 0;
    assert_int_equal(transcribe(o), 0);
    assert_int_equal(o->done, o->n_samples);
    assert_string_equal(o->result.language, "de");
    return o;
}

/* Wherever an engine is lost, text and times are what they would have been. */
static void test_another_engine_takes_over(void **state)
{
    struct answer answers[] = {ANSWER(0, AT(0), ' ', 'a', AT(29)),
                               ANSWER(29, AT(0), ' ', 'c', AT(12), AT(12), ' ', 'd', AT(21), AT(21)),
                               ANSWER(-1, AT(0), ' ', 'b', AT(29)), ANSWER(-1, AT(0), ' ', 'e', AT(29))};
    answers[2].temperature = 0.0f; /* so improbable that samples are drawn */
    answers[2].logprob = -3.0f;
    for (int word_times = 0; word_times < 2; word_times++) {
        struct outcome *whole = transcribe_lost(answers, COUNT(answers), word_times, 0);
        printf("%s\n", whole->text);
        assert_in_range(whole->n_segments, 2, 8);
        int lost_in = 1;
        for (;; lost_in++) {
            struct outcome *o = transcribe_lost(answers, COUNT(answers), word_times, lost_in);
            assert_string_equal(o->text, whole->text);
            for (int i = 0; i < o->n_segments; i++) {
                assert_int_equal(o->segments[i].start, whole->segments[i].start);
                assert_int_equal(o->segments[i].end, whole->segments[i].end);
            }
            assert_int_equal(o->result.n_windows, whole->result.n_windows);
            assert_int_equal(o->result.n_fallbacks, whole->result.n_fallbacks);
            assert_int_equal(o->result.n_steps, whole->result.n_steps);
            finish(o);
            if (n_taken_over == 0)
                break;
            assert_int_equal(n_taken_over, 1);
        }
        assert_in_range(lost_in, 20, 200);
        finish(whole);
    }
}

static void test_the_last_error_is_told(void **state)
{
    const struct answer answers[] = {ANSWER(0, AT(0), ' ', 'a', AT(29))};
    struct outcome *o = prepare(30, answers, 1);
    o->script.lost_in = 7;
    o->options.take_over = nothing_takes_over;
    assert_int_equal(transcribe(o), -ENOMEM);
    assert_string_equal(o->err.msg, "no memory for another engine");
    finish(o);
}

/* Whatever a model says, the recording is got through and times lie within it. */
static void test_any_answer_ends(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (int round = 0; round < 40; round++) {
        struct outcome *o = prepare(0.013 + 70 * test_rng_uniform(&rng), NULL, 0);
        o->script.babble = &rng;
        o->options.n_temperatures = 1;
        assert_int_equal(transcribe(o), 0);
        finish(o);
    }
}

static void test_segments_fit_their_array(void **state)
{
    struct segment segments[SEGMENTS_MAX(20)];
    int32_t tokens[20];
    int advance;
    for (int i = 0; i < 20; i++)
        tokens[i] = AT(i);
    assert_true(segment_tokens(tokens, 20, STAMP, 3000, segments, &advance) <= SEGMENTS_MAX(20));
    assert_int_equal(segment_tokens(tokens, 0, STAMP, 3000, segments, &advance), 1);
    assert_int_equal(advance, 3000);
    assert_int_equal(segments[0].n_tokens, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seeks_by_timestamps),
        cmocka_unit_test(test_windows_without_pairs),
        cmocka_unit_test(test_only_regions_are_heard),
        cmocka_unit_test(test_nothing_to_hear),
        cmocka_unit_test(test_does_not_get_stuck),
        cmocka_unit_test(test_windows_without_timestamps_end_in_pauses),
        cmocka_unit_test(test_voices_are_minded),
        cmocka_unit_test(test_previous_text_is_the_prompt),
        cmocka_unit_test(test_a_prompt_keeps_the_newest_223_tokens),
        cmocka_unit_test(test_improbable_text_is_decoded_again),
        cmocka_unit_test(test_samples_have_seeds_of_their_own),
        cmocka_unit_test(test_the_best_of_bad_texts_is_taken),
        cmocka_unit_test(test_a_sample_is_not_too_short),
        cmocka_unit_test(test_samples_are_ranked_by_their_tokens),
        cmocka_unit_test(test_repetition_is_decoded_again),
        cmocka_unit_test(test_a_sample_that_loops_leaves_the_others),
        cmocka_unit_test(test_a_speaker_may_repeat),
        cmocka_unit_test(test_silence_is_skipped),
        cmocka_unit_test(test_beams_search_at_temperature_0),
        cmocka_unit_test(test_goes_on_behind_text_that_breaks_off),
        cmocka_unit_test(test_hears_again_what_is_left_out),
        cmocka_unit_test(test_quality),
        cmocka_unit_test(test_language_is_detected),
        cmocka_unit_test(test_language_is_detected_by_speech),
        cmocka_unit_test(test_languages_and_tasks_are_checked),
        cmocka_unit_test(test_errors_come_through),
        cmocka_unit_test(test_another_engine_takes_over),
        cmocka_unit_test(test_the_last_error_is_told),
        cmocka_unit_test(test_any_answer_ends),
        cmocka_unit_test(test_segments_fit_their_array),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
