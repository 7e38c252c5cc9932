/* The parts of offline decoding by themselves: prompts, loops, times of words, text where nobody spoke. */
#include "tests/support/support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/hallucination.h"
#include "decoder/loop.h"
#include "decoder/prompt.h"
#include "decoder/word_times.h"

enum {
    N_VOCAB = 51865,
    EOT = 50257,
    SOT = 50258,
    PREV = 50361,
    NO_TIMESTAMPS = 50363,
    STAMP = 50364,
    SECOND = 16000
};

/* --- prompts: the text of a token is its byte --- */

static const char *byte_of(const void *ctx, int32_t id, size_t *n_bytes)
{
    static char byte;
    (void)ctx;
    if (id > 255)
        return NULL;
    byte = (char)id;
    *n_bytes = 1;
    return &byte;
}

static struct tokenizer *tokenizer;

static int make_tokenizer(void **state)
{
    struct err err;
    (void)state;
    return tokenizer_create(N_VOCAB, byte_of, NULL, &tokenizer, &err);
}

static int drop_tokenizer(void **state)
{
    (void)state;
    tokenizer_destroy(tokenizer);
    return 0;
}

static void expect_prompt(const struct prompt *p, const char *text)
{
    int32_t out[RUN_TOKENS_MAX];
    int n = prompt_build(p, PREV, out);
    assert_int_equal(n, (int)strlen(text) + (text[0] != '\0'));
    if (n > 0)
        assert_int_equal(out[0], PREV);
    for (int i = 1; i < n; i++)
        assert_int_equal(out[i], text[i - 1]);
}

static void remember(struct prompt *p, const char *text)
{
    int32_t tokens[RUN_TOKENS_MAX];
    int n = (int)strlen(text);
    for (int i = 0; i < n; i++)
        tokens[i] = (unsigned char)text[i];
    prompt_remember(p, tokens, n);
}

static void prompts_have_their_order(void **state)
{
    (void)state;
    struct prompt p;
    struct err err;
    assert_int_equal(prompt_init(&p, tokenizer, 448, NULL, NULL, false, &err), 0);
    expect_prompt(&p, "");
    assert_int_equal(prompt_init(&p, tokenizer, 448, " Ann \n", "\tBob", false, &err), 0);
    remember(&p, " and");
    expect_prompt(&p, " Ann Bob and");
    prompt_forget(&p); /* an initial prompt is output; hotwords stay */
    expect_prompt(&p, " Ann");
    assert_int_equal(prompt_init(&p, tokenizer, 448, NULL, "Bob", true, &err), 0);
    remember(&p, " and");
    prompt_forget(&p);
    expect_prompt(&p, " Bob");
    assert_int_equal(prompt_init(&p, tokenizer, 448, " ", "", true, &err), 0);
    expect_prompt(&p, "");
}

/* Room for 19 tokens. Of hotwords the first 9 stay, of all else the newest. */
static void prompts_are_cut(void **state)
{
    (void)state;
    struct prompt p;
    struct err err;
    assert_int_equal(prompt_init(&p, tokenizer, 40, "abcdefghijklmnop", NULL, false, &err), 0);
    expect_prompt(&p, " abcdefgh");
    remember(&p, "0123456");
    remember(&p, "ABCDEF");
    expect_prompt(&p, " abcdefgh3456ABCDEF");
    remember(&p, "abcdefghijklmnopqrstuvwxyz");
    expect_prompt(&p, " abcdefghqrstuvwxyz");
    assert_int_equal(prompt_init(&p, tokenizer, 40, NULL, "abcdefghijklmnopqrstuvwxyz", false, &err), 0);
    expect_prompt(&p, "hijklmnopqrstuvwxyz");
    assert_int_equal(p.n_cut, 8); /* the blank is a token, too */
    assert_int_equal(prompt_init(&p, tokenizer, 40, NULL, "abcdefghijklmnopqrstuvwxyz", true, &err), 0);
    expect_prompt(&p, " abcdefghijklmnopqr");
    assert_int_equal(p.n_cut, 8);
    remember(&p, "lost");
    expect_prompt(&p, " abcdefghijklmnopqr");
}

/* Nothing is cut of what live passes are told: it fits or is refused. */
static void passes_are_told_of_all_or_nothing(void **state)
{
    (void)state;
    int32_t out[12];
    struct err err;
    assert_int_equal(prompt_tell(tokenizer, NULL, " ", out, 12, &err), 0);
    assert_int_equal(prompt_tell(tokenizer, " Ann ", "abcdefg", out, 12, &err), 12);
    for (int i = 0; i < 12; i++)
        assert_int_equal(out[i], " Ann abcdefg"[i]);
    assert_int_equal(prompt_tell(tokenizer, "Ann", "abcdefgh", out, 12, &err), -E2BIG);
    assert_non_null(strstr(err.msg, "13 tokens of the model, but only 12 fit"));
    assert_int_equal(prompt_tell(tokenizer, "abcdefghijklm", NULL, out, 12, &err), -E2BIG);
}

static void endless_prompts_are_refused(void **state)
{
    (void)state;
    size_t n = (1 << 16) + 1;
    int32_t out[12];
    struct err err;
    char *text = malloc(n + 1);
    memset(text, 'a', n);
    text[n] = '\0';
    assert_int_equal(prompt_tell(tokenizer, NULL, text, out, 12, &err), -E2BIG);
    assert_non_null(strstr(err.msg, "65537 bytes: at most 65536"));
    free(text);
}

/* --- loops --- */

static int fill(int32_t *tokens, const char *pattern, int times, int n)
{
    for (int k = 0; k < times; k++) {
        for (const char *c = pattern; *c; c++, n++)
            tokens[n] = *c == '|' ? STAMP + n : *c;
    }
    return n;
}

static void loops_are_found(void **state)
{
    (void)state;
    int32_t t[RUN_TOKENS_MAX] = {0};
    assert_false(loop_present(t, 0, EOT));
    assert_true(loop_present(t, fill(t, "abcd", 4, 0), EOT));
    assert_false(loop_present(t, fill(t, "abcde", 3, 0), EOT)); /* three times are no loop */
    assert_false(loop_present(t, fill(t, "ab", 7, 0), EOT));    /* 14 tokens are none either */
    assert_true(loop_present(t, fill(t, "|a|", 16, 0), EOT));   /* timestamps between do not count */
    int n = fill(t, "a sentence before ", 1, 0);
    n = fill(t, "xyz!", 5, n);
    assert_true(loop_present(t, fill(t, "and after", 1, n), EOT));
}

static void a_long_loop_is_cut_to_one(void **state)
{
    (void)state;
    int32_t t[RUN_TOKENS_MAX] = {0};
    float p[RUN_TOKENS_MAX];
    for (int i = 0; i < RUN_TOKENS_MAX; i++)
        p[i] = (float)-i;
    int n = fill(t, "|head|", 1, 0);
    n = fill(t, "|thanks|", 12, n);
    n = fill(t, "|over|", 1, n);
    int last = n - 1, first_stamp = t[8 + 6];
    n = loop_cut(t, p, n, EOT);
    char text[RUN_TOKENS_MAX + 1];
    int n_text = 0, n_stamps = 0;
    for (int i = 0; i < n; i++) {
        if (t[i] < EOT)
            text[n_text++] = (char)t[i];
        else
            n_stamps++;
    }
    text[n_text] = '\0';
    assert_string_equal(text, "headthanksover");
    assert_int_equal(n_stamps, 2 * 14); /* all of them */
    assert_int_equal(t[8 + 6], first_stamp);
    assert_float_equal(p[n - 1], -last, 0.0); /* probabilities go with their tokens */
    n = fill(t, "abcdefghijklmno", 4, 0);     /* 60 tokens may have been said */
    assert_int_equal(loop_cut(t, p, n, EOT), n);
}

/* --- times of words --- */

struct timed {
    struct spoken_segment segments[4];
    struct word *words;
    int n;
};

/* A model whose attention is scripted: the row that predicts text token i looks at the frames from starts[i] to
 * starts[i + 1], 20 ms each; starts ends with the end of text's. */
struct attentive {
    struct text_model base;
    const int *starts;
    int n_text, n_runs;
};

static int attend(struct text_model *m, struct text_run *runs, int n, struct err *err)
{
    struct attentive *a = (struct attentive *)m;
    struct text_run *r = &runs[0];
    a->n_runs++;
    assert_int_equal(n, 1);
    assert_int_equal(r->sample_begin, 1);
    assert_int_equal(r->n_prompt, 4 + a->n_text + 1);
    assert_int_equal(r->tokens[3], NO_TIMESTAMPS);
    assert_int_equal(r->tokens[r->n_prompt - 1], EOT);
    r->n_align_rows = r->n_prompt;
    for (int row = 0; row < r->n_prompt; row++) {
        int text = row - 3, begin = text < 0 ? 0 : text <= a->n_text ? a->starts[text] : 499;
        int end = text < 0 ? 1 : text < a->n_text ? a->starts[text + 1] : 500;
        for (int f = 0; f < RUN_AUDIO_FRAMES; f++)
            r->out_align[(size_t)row * RUN_AUDIO_FRAMES + (size_t)f] = f >= begin && f < end ? 0.2f : 1e-4f;
    }
    return 0;
}

static int done(struct text_model *m, struct err *err)
{
    return 0;
}

static const struct text_model_ops attentive_ops = {.run = attend, .wait = done};

static struct word_timer *make_timer(struct attentive *a, const int *starts, int n_text)
{
    struct word_timer *timer = NULL;
    struct err err = {0};
    *a = (struct attentive){
        .base = {.ops = &attentive_ops, .n_vocab = N_VOCAB, .n_text_ctx = 448, .n_align = 1},
        .starts = starts,
        .n_text = n_text};
    if (word_timer_create(&a->base, tokenizer, &timer, &err) < 0)
        fail_msg("%s", err.msg);
    return timer;
}

static void time_words(struct word_timer *timer, const int32_t *tokens, int n_tokens,
                       const struct segment *segments, int n_segments, struct timed *out)
{
    static float logprobs[64];
    struct err err = {0};
    const int32_t start[] = {SOT, SOT + 1, 50359};
    for (int i = 0; i < 64; i++)
        logprobs[i] = -0.1f * (float)(i + 1);
    const struct word_times_request q = {.start = start,
                                         .n_start = 3,
                                         .tokens = tokens,
                                         .n_tokens = n_tokens,
                                         .logprobs = logprobs,
                                         .segments = segments,
                                         .n_segments = n_segments,
                                         .spaced = true,
                                         .n_frames = 1000,
                                         .end = 10 * SECOND};
    out->n = word_timer_run(timer, &q, out->segments, &out->words, &err);
    if (out->n < 0)
        fail_msg("%s", err.msg);
}

#define AT(second) ((int64_t)((second)*SECOND + 0.5))

/* " a", "," of 100 ms, " b", " c", "." that swallows the pause, " d", " e": 500 ms the rest. Bytes are tokens, and a space
 * takes no time of its own. The times are worked out by hand from the rules in whisper/timing.py. */
static void words_get_their_times(void **state)
{
    (void)state;
    const int32_t tokens[] = {STAMP + 50, ' ',         'a',         ',', ' ', 'b', ' ', 'c',
                              '.',        STAMP + 125, STAMP + 300, ' ', 'd', ' ', 'e', STAMP + 350};
    static const int starts[] = {50, 55, 75, 80, 85, 105, 110, 130, 300, 305, 325, 330, 350};
    const struct segment segments[] = {{0, 10, 100, 250}, {10, 6, 600, 700}};
    struct attentive a;
    struct word_timer *timer = make_timer(&a, starts, 12);
    struct timed t;
    time_words(timer, tokens, 16, segments, 2, &t);
    assert_int_equal(t.n, 5);
    assert_int_equal(t.segments[0].n_words, 3);
    assert_int_equal(t.segments[1].first_word, 3);
    assert_string_equal(t.words[0].text, " a,");
    assert_string_equal(t.words[2].text, " c.");
    assert_string_equal(t.words[3].text, " d");
    assert_int_equal(t.words[2].n_tokens, 3);
    assert_float_equal(t.words[0].probability, (0.818731 + 0.740818) / 2,
                       1e-5); /* its own, not the comma's */
    static const double times[][2] = {{1, 1.5}, {1.6, 2.1}, {2.1, 2.6}, {6, 6.5}, {6.5, 7}};
    for (int i = 0; i < 5; i++) {
        /* The median over 7 frames moves the edges of a row by at most 3 frames of 20 ms. */
        assert_true(llabs(t.words[i].start - AT(times[i][0])) <= 3 * 320);
        assert_true(llabs(t.words[i].end - AT(times[i][1])) <= 3 * 320);
    }
    assert_int_equal(t.segments[0].start, t.words[0].start);
    assert_int_equal(t.segments[0].end, t.words[2].end);
    assert_int_equal(t.segments[1].end, t.words[4].end);
    assert_int_equal(word_times_end(t.segments, 2, t.words), t.words[4].end);
    assert_int_equal(word_times_end(t.segments, 0, t.words), -1);
    word_timer_destroy(timer);
}

/* A first word that takes the silence before it along is cut to twice the usual length, 2 · 0.5 s. */
static void the_first_word_after_a_pause_is_shortened(void **state)
{
    (void)state;
    const int32_t tokens[] = {' ', 'a', ' ', 'b', ' ', 'c', ' ', 'd'};
    static const int starts[] = {0, 10, 200, 205, 225, 230, 250, 255, 275};
    const struct segment segment = {0, 8, 0, 560};
    struct attentive a;
    struct word_timer *timer = make_timer(&a, starts, 8);
    struct timed t;
    time_words(timer, tokens, 8, &segment, 1, &t);
    assert_int_equal(t.n, 4);
    assert_true(llabs(t.words[0].end - AT(4)) <= 3 * 320);
    assert_true(llabs(t.words[0].end - t.words[0].start - AT(1)) <= 2 * 3 * 320);
    assert_int_equal(t.segments[0].start, t.words[0].start);
    word_timer_destroy(timer);
}

static void no_text_has_no_words(void **state)
{
    (void)state;
    const int32_t tokens[] = {STAMP, STAMP + 100};
    const struct segment segment = {0, 2, 0, 200};
    struct attentive a;
    struct word_timer *timer = make_timer(&a, NULL, 0);
    struct timed t;
    struct err err;
    time_words(timer, tokens, 2, &segment, 1, &t);
    assert_int_equal(t.n, 0);
    assert_int_equal(a.n_runs, 0);
    assert_int_equal(t.segments[0].end, 2 * SECOND);
    assert_int_equal(word_times_end(t.segments, 1, t.words), 2 * SECOND);
    word_timer_destroy(timer);
    a.base.n_align = 0;
    assert_true(word_timer_create(&a.base, tokenizer, &timer, &err) < 0);
}

/* --- what nobody said --- */

static void voices_are_measured(void **state)
{
    (void)state;
    const struct longform_region spans[] = {{100, 200}, {210, 300}, {500, 600}};
    assert_int_equal(longform_region_within(spans, 3, 0, 1000, 0), 290);
    assert_int_equal(longform_region_within(spans, 3, 150, 550, 0), 190);
    assert_int_equal(longform_region_within(spans, 3, 0, 1000, 10),
                     220 + 120); /* margins that meet count once */
    assert_int_equal(longform_region_within(spans, 3, 310, 490, 0), 0);
    assert_int_equal(longform_region_within(spans, 0, 0, 1000, 10), 0);
}

static void unheard_text_goes_if_it_is_improbable(void **state)
{
    (void)state;
    const struct longform_region spans[] = {{10 * SECOND, 12 * SECOND}};
    const struct quality_limits limits = {.avg_logprob = -1.0f, .no_speech_prob = 0.6f};
    const struct quality sure = {.avg_logprob = -0.3f, .no_speech_prob = 0.1f},
                         silent = {.no_speech_prob = 0.7f}, vague = {.avg_logprob = -1.2f};
    assert_true(hallucination_unheard(spans, 1, 20 * SECOND, 25 * SECOND, true, &silent, &limits));
    assert_true(hallucination_unheard(spans, 1, 20 * SECOND, 25 * SECOND, true, &vague, &limits));
    assert_false(hallucination_unheard(spans, 1, 20 * SECOND, 25 * SECOND, true, &sure, &limits));
    assert_false(hallucination_unheard(spans, 1, 9 * SECOND, 15 * SECOND, true, &silent, &limits));
    /* Half a second of five is within half a second of a voice, which is enough for a tenth, but none of it is voice. */
    assert_false(hallucination_unheard(spans, 1, 12 * SECOND, 17 * SECOND, true, &silent, &limits));
    assert_true(hallucination_unheard(spans, 1, 12 * SECOND, 17 * SECOND, true, &vague, &limits));
    assert_false(hallucination_unheard(spans, 1, 11 * SECOND, 15 * SECOND, true, &vague, &limits));
    assert_true(hallucination_unheard(spans, 1, 11 * SECOND, 15 * SECOND + 1, true, &vague, &limits));
}

static const struct word good_words[] = {{" all", 40 * SECOND, 40 * SECOND + 8000, 0.9f, 0, 1},
                                         {" good", 40 * SECOND + 8000, 41 * SECOND, 0.9f, 1, 1}};

static void made_up_segments_beside_silence_are_found(void **state)
{
    (void)state;
    struct word words[4] = {good_words[0],
                            good_words[1],
                            {" made", 50 * SECOND, 50 * SECOND + 800, 0.05f, 2, 1},
                            {" up", 50 * SECOND + 800, 50 * SECOND + 1600, 0.05f, 3, 1}};
    const struct spoken_segment segments[] = {{40 * SECOND, 41 * SECOND, 0, 2},
                                              {50 * SECOND, 50 * SECOND + 1600, 2, 2}};
    const struct silence_search q = {.window = 39 * SECOND,
                                     .window_end = 69 * SECOND,
                                     .audio_end = 69 * SECOND,
                                     .recording_end = 200 * SECOND,
                                     .last_speech = 38 * SECOND,
                                     .threshold = 2 * SECOND};
    int64_t seek = -1;
    assert_int_equal(hallucination_find(&q, segments, 2, words, &seek), 1);
    assert_int_equal(seek, 50 * SECOND);
    words[2].probability = words[3].probability = 0.9f; /* short, but sure, and not short enough for both */
    words[2].end = 50 * SECOND + 8000;
    words[3].end = 51 * SECOND;
    seek = -1;
    assert_int_equal(hallucination_find(&q, segments, 2, words, &seek), 2);
    assert_int_equal(seek, -1);
    /* The first one is made up and comes late: what precedes is passed over. */
    words[2] = (struct word){" made", 50 * SECOND, 50 * SECOND + 800, 0.05f, 2, 1};
    words[3] = (struct word){" up", 50 * SECOND + 800, 50 * SECOND + 1600, 0.05f, 3, 1};
    assert_int_equal(hallucination_find(&q, segments + 1, 1, words, &seek), 0);
    assert_int_equal(seek, 50 * SECOND);
    /* Speech right before and after it: it stays. */
    const struct word close[] = {{" all", 49 * SECOND, 49 * SECOND + 8000, 0.9f, 0, 1},
                                 {" made", 50 * SECOND, 50 * SECOND + 800, 0.05f, 1, 1},
                                 {" good", 50 * SECOND + 8000, 51 * SECOND, 0.9f, 2, 1}};
    const struct spoken_segment between[] = {{49 * SECOND, 49 * SECOND + 8000, 0, 1},
                                             {50 * SECOND, 50 * SECOND + 800, 1, 1},
                                             {50 * SECOND + 8000, 51 * SECOND, 2, 1}};
    seek = -1;
    assert_int_equal(hallucination_find(&q, between, 3, close, &seek), 3);
    assert_int_equal(seek, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_have_their_order),
        cmocka_unit_test(prompts_are_cut),
        cmocka_unit_test(passes_are_told_of_all_or_nothing),
        cmocka_unit_test(endless_prompts_are_refused),
        cmocka_unit_test(loops_are_found),
        cmocka_unit_test(a_long_loop_is_cut_to_one),
        cmocka_unit_test(words_get_their_times),
        cmocka_unit_test(the_first_word_after_a_pause_is_shortened),
        cmocka_unit_test(no_text_has_no_words),
        cmocka_unit_test(voices_are_measured),
        cmocka_unit_test(unheard_text_goes_if_it_is_improbable),
        cmocka_unit_test(made_up_segments_beside_silence_are_found),
    };
    return cmocka_run_group_tests(tests, make_tokenizer, drop_tokenizer);
}
