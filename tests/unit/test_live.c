/* Live transcription against a scripted model: whatever the rhythm of ticks, trimming and failures, the transcript
 * is the script. */
#include "tests/support/support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/live.h"
#include "decoder/live_buffer.h"
#include "tests/support/script_model.h"

#define SECOND     16000
#define TEXT_BYTES 65536
#define MS(x)      ((x)*16)

/* One listener: the model, the live object, and everything it has put out. */
struct listener {
    struct script_model model;
    struct live *live;
    struct live_output out;
    struct test_rng rng;
    float *pcm; /* the whole recording */
    int n_pcm;
    char text[TEXT_BYTES];
    int64_t last_start, last_end;
    int64_t ends[SCRIPT_WORDS]; /* of committed words */
    int n_words, n_steps, n_passes, n_accepted, n_draft;
};

static struct script_word *make_words(struct test_rng *rng, int n, int64_t first, int min_ms, int max_ms,
                                      int gap_ms)
{
    struct script_word *words = calloc((size_t)n, sizeof(*words));
    int64_t at = first;
    for (int i = 0; i < n; i++) {
        int64_t length = MS(test_rng_int(rng, min_ms, max_ms));
        words[i] = (struct script_word){SCRIPT_WORD + i, at, at + length};
        at += length + MS(test_rng_int(rng, 0, gap_ms));
    }
    return words;
}

static void open_listener_vocab(struct listener *t, const struct script_word *words, int n_words, int n_vocab,
                                struct live_options options)
{
    memset(t, 0, sizeof(*t));
    test_rng_init(&t->rng, 7);
    script_model_init(&t->model, n_vocab, words, n_words);
    if (!options.max_buffer_ms)
        options.max_buffer_ms = 15000;
    struct err err = {0};
    if (live_create(&t->model.base, t->model.tokenizer, &options, &t->live, &err) < 0)
        fail_msg("%s", err.msg);
    t->n_pcm = n_words ? (int)words[n_words - 1].end + 4 * SECOND : 40 * SECOND;
    t->pcm = malloc((size_t)t->n_pcm * sizeof(float));
    script_audio(t->pcm, 0, t->n_pcm);
}

static void open_listener(struct listener *t, const struct script_word *words, int n_words, int max_buffer_ms)
{
    open_listener_vocab(t, words, n_words, 51864,
                        (struct live_options){.draft = true, .max_buffer_ms = max_buffer_ms});
}

static void close_listener(struct listener *t)
{
    live_destroy(t->live);
    script_model_finish(&t->model);
    free(t->pcm);
}

/* Takes what an update has put out and checks what holds for every update. */
static void take(struct listener *t)
{
    for (int i = 0; i < t->out.n_committed; i++) {
        const struct word *w = &t->out.committed[i];
        assert_true(w->start >= t->last_end);
        assert_true(w->end >= w->start);
        t->last_start = w->start;
        t->last_end = w->end;
        t->ends[t->n_words++] = w->end;
        assert_true(strlen(t->text) + strlen(w->text) < TEXT_BYTES);
        strcat(t->text, w->text);
    }
    assert_true(t->out.partial_end >= t->out.partial_start);
    t->n_steps += t->out.n_steps;
    t->n_passes += t->out.n_passes;
    t->n_draft += t->out.n_draft;
    t->n_accepted += t->out.n_accepted;
}

static int update(struct listener *t, int64_t end, enum live_update_kind kind)
{
    struct err err = {0};
    int64_t start = live_buffer_start(t->live);
    int before = start < 200 ? (int)start : 200;
    int r = live_update(t->live, t->pcm + start, (int)(end - start), before, kind, &t->out, &err);
    if (r == 0)
        take(t);
    return r;
}

/* An utterance in ticks of random or fixed length. */
static void speak(struct listener *t, int64_t start, int64_t end, int step_min_ms, int step_max_ms)
{
    t->last_end = start > t->last_end ? start : t->last_end;
    live_begin(t->live, start, start);
    int64_t at = start;
    for (;;) {
        at += MS(test_rng_int(&t->rng, step_min_ms, step_max_ms));
        if (at >= end)
            break;
        int64_t buffer = live_buffer_start(t->live);
        assert_int_equal(update(t, at, LIVE_TICK), 0);
        assert_true(live_buffer_start(t->live) >= buffer);
    }
    assert_int_equal(update(t, end, LIVE_FINAL), 0);
    assert_string_equal(t->out.partial, "");
}

static void expect_words(const char *text, int n)
{
    char *want = calloc(1, TEXT_BYTES);
    size_t used = 0;
    for (int i = 0; i < n; i++)
        used += (size_t)snprintf(want + used, TEXT_BYTES - used, " w%d", i);
    assert_string_equal(text, want);
    free(want);
}

/* Random scripts, random ticks, random limits of the buffer: none lost, none twice, none misheard. */
static void transcript_is_the_script(void **state)
{
    for (int round = 0; round < 40; round++) {
        struct test_rng rng;
        test_rng_init(&rng, 100 + (uint64_t)round);
        int n = test_rng_int(&rng, 1, 200);
        struct script_word *words = make_words(&rng, n, MS(400), 80, 600, 300);
        struct listener *t = malloc(sizeof(*t));
        open_listener(t, words, n, test_rng_int(&rng, 3000, 20000));
        t->rng = rng;
        int step = test_rng_int(&rng, 100, 1200);
        speak(t, 0, words[n - 1].end + MS(300), step / 2, step);
        expect_words(t->text, n);
        assert_int_equal(t->model.n_overlong, 0);
        close_listener(t);
        free(t);
        free(words);
    }
}

/* Several utterances: what was said before comes back as the prompt and nowhere else. */
static void utterances_follow_one_another(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 3);
    struct script_word *words = make_words(&rng, 60, MS(400), 200, 400, 200);
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 60, 15000);
    speak(t, 0, words[19].end, 250, 250);
    expect_words(t->text, 20);
    assert_int_equal(t->model.n_prompt_text, 0);
    speak(t, words[19].end, words[39].end, 250, 250);
    expect_words(t->text, 40);
    assert_int_equal(t->model.n_prompt_text, 20);
    speak(t, words[39].end, words[59].end, 500, 500);
    expect_words(t->text, 60);
    close_listener(t);
    free(t);
    free(words);
}

/* After a short pause the model still hears what came before it; after a long one it does not. */
static void short_pauses_keep_the_buffer(void **state)
{
    for (int long_pause = 0; long_pause < 2; long_pause++) {
        struct test_rng rng;
        test_rng_init(&rng, 11);
        struct script_word *words = make_words(&rng, 40, MS(400), 200, 400, 200);
        int64_t pause = long_pause ? MS(LIVE_JOIN_MS + 500) : MS(LIVE_JOIN_MS - 500);
        for (int i = 20; i < 40; i++) {
            words[i].start += pause;
            words[i].end += pause;
        }
        struct listener *t = malloc(sizeof(*t));
        open_listener(t, words, 40, 15000);
        speak(t, 0, words[19].end, 250, 250);
        int64_t buffer = live_buffer_start(t->live);
        live_begin(t->live, words[20].start, 0);
        assert_int_equal(live_buffer_start(t->live), long_pause ? words[20].start : buffer);
        for (int64_t at = words[20].start + MS(500); at < words[39].end; at += MS(500))
            assert_int_equal(update(t, at, LIVE_TICK), 0);
        assert_int_equal(update(t, words[39].end, LIVE_FINAL), 0);
        expect_words(t->text, 40);
        close_listener(t);
        free(t);
        free(words);
    }
}

/* A language that is chosen once more, for one. */
static void new_settings_forget_the_text_before(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 4);
    struct script_word *words = make_words(&rng, 20, MS(400), 200, 400, 200);
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 20, 15000);
    speak(t, 0, words[9].end, 300, 300);
    live_set(t->live, &(struct live_settings){.language_choice = 1});
    live_begin(t->live, words[9].end, words[9].end);
    assert_int_equal(update(t, words[19].end, LIVE_FINAL), 0);
    assert_int_equal(t->model.n_prompt_text, 0);
    expect_words(t->text, 20);
    close_listener(t);
    free(t);
    free(words);
}

/* A model that errs at random still gives every word a place: as many as were said, in order, each at most misheard. */
static void mistakes_lose_no_place(void **state)
{
    for (int round = 0; round < 20; round++) {
        struct test_rng rng;
        test_rng_init(&rng, 300 + (uint64_t)round);
        int n = 80;
        struct script_word *words = make_words(&rng, n, MS(400), 100, 500, 200);
        struct listener *t = malloc(sizeof(*t));
        open_listener(t, words, n, 8000);
        t->model.rng = &rng;
        t->model.substitute = 0.2f;
        t->model.punctuate = 0.1f;
        /* The gate lets sound through behind the last word; within the last 100 ms nothing begins. */
        speak(t, 0, words[n - 1].end + MS(200), 200, 800);
        int at = 0, right = 0;
        for (char *save = NULL, *w = strtok_r(t->text, " ,", &save); w; w = strtok_r(NULL, " ,", &save)) {
            int id = atoi(w + 1);
            assert_true(id == at || id > SCRIPT_WORDS - 1001);
            right += id == at++;
        }
        assert_int_equal(at, n);
        /* Two hypotheses in a row must agree, and random mistakes seldom do. */
        assert_true(right > n / 2);
        close_listener(t);
        free(t);
        free(words);
    }
}

/* A word is committed when two passes agree on it, and shown before. */
static void words_show_first_and_commit_next(void **state)
{
    struct script_word words[] = {{SCRIPT_WORD, MS(400), MS(700)}, {SCRIPT_WORD + 1, MS(800), MS(1000)}};
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 2, 15000);
    live_begin(t->live, 0, 0);
    assert_int_equal(update(t, MS(900), LIVE_TICK), 0);
    assert_string_equal(t->text, "");
    assert_true(strncmp(t->out.partial, " w0", 3) == 0);
    assert_int_equal(update(t, MS(1500), LIVE_TICK), 0);
    assert_string_equal(t->text, " w0");
    assert_string_equal(t->out.partial, " w1");
    assert_int_equal(t->out.partial_start, MS(800));
    assert_int_equal(update(t, MS(2000), LIVE_TICK), 0);
    assert_string_equal(t->text, " w0 w1");
    assert_string_equal(t->out.partial, "");
    close_listener(t);
    free(t);
}

/* "no, no, no": the same word three times, agreed on by place. */
static void repeats_survive(void **state)
{
    struct script_word words[12];
    for (int i = 0; i < 12; i++)
        words[i] = (struct script_word){SCRIPT_WORD, MS(400 + 400 * i), MS(700 + 400 * i)};
    for (int step = 200; step <= 1000; step += 200) {
        struct listener *t = malloc(sizeof(*t));
        open_listener(t, words, 12, 3000);
        speak(t, 0, words[11].end + MS(200), step, step);
        assert_int_equal(t->n_words, 12);
        close_listener(t);
        free(t);
    }
}

static void drafts_save_steps(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 5);
    struct script_word *words = make_words(&rng, 60, MS(400), 200, 400, 100);
    int steps[2];
    for (int draft = 0; draft < 2; draft++) {
        struct listener *t = malloc(sizeof(*t));
        open_listener_vocab(t, words, 60, 51864, (struct live_options){.draft = draft != 0});
        speak(t, 0, words[59].end, 250, 250);
        expect_words(t->text, 60);
        steps[draft] = t->n_steps;
        assert_true(draft ? t->n_accepted > 0 : t->n_draft == 0);
        close_listener(t);
        free(t);
    }
    assert_true(steps[1] < steps[0]);
    free(words);
}

/* An engine that fails once: the same audio is given again and nothing is lost or said twice. */
static void failures_change_nothing(void **state)
{
    for (int when = 1; when < 30; when++) {
        struct test_rng rng;
        test_rng_init(&rng, 600 + (uint64_t)when);
        struct script_word *words = make_words(&rng, 40, MS(400), 200, 400, 100);
        struct listener *t = malloc(sizeof(*t));
        open_listener(t, words, 40, 6000);
        t->model.fail_in = when;
        live_begin(t->live, 0, 0);
        int failed = 0;
        for (int64_t at = MS(500); at < words[39].end; at += MS(500)) {
            while (update(t, at, LIVE_TICK) < 0)
                failed++;
        }
        while (update(t, words[39].end, LIVE_FINAL) < 0)
            failed++;
        assert_true(failed <= 1);
        expect_words(t->text, 40);
        close_listener(t);
        free(t);
        free(words);
    }
}

/* A caller that comes back after more than 30 s: the window is cut on the left, what was tentative there is kept. */
static void overlong_windows_are_cut(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 8);
    struct script_word *words = make_words(&rng, 100, MS(400), 300, 500, 200);
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 100, 15000);
    live_begin(t->live, 0, 0);
    assert_int_equal(update(t, MS(6000), LIVE_TICK), 0);
    assert_int_equal(update(t, MS(42000), LIVE_TICK), 0);
    assert_int_equal(t->model.n_overlong, 0);
    assert_true(live_buffer_start(t->live) >= MS(12000));
    assert_true(strncmp(t->text, " w0 w1 w2", 9) == 0);
    close_listener(t);
    free(t);
    free(words);
}

static void abandon_keeps_tentative_words(void **state)
{
    struct script_word words[] = {{SCRIPT_WORD, MS(400), MS(700)}, {SCRIPT_WORD + 1, MS(800), MS(1000)}};
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 2, 15000);
    live_begin(t->live, 0, 0);
    assert_int_equal(update(t, MS(1200), LIVE_TICK), 0);
    assert_string_equal(t->text, "");
    live_abandon(t->live, &t->out);
    take(t);
    assert_string_equal(t->text, " w0 w1");
    live_abandon(t->live, &t->out);
    assert_int_equal(t->out.n_committed, 0);
    close_listener(t);
    free(t);
}

/* A final without audio of its own commits what was tentative, a tick without any changes nothing. */
static void empty_updates_lose_nothing(void **state)
{
    struct script_word words[] = {{SCRIPT_WORD, MS(400), MS(700)}, {SCRIPT_WORD + 1, MS(800), MS(1000)}};
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 2, 15000);
    live_begin(t->live, 0, 0);
    assert_int_equal(update(t, MS(1200), LIVE_TICK), 0);
    assert_int_equal(update(t, 0, LIVE_TICK), 0);
    assert_string_equal(t->out.partial, " w0 w1");
    assert_string_equal(t->text, "");
    assert_int_equal(update(t, 0, LIVE_FINAL), 0);
    assert_string_equal(t->text, " w0 w1");
    close_listener(t);
    free(t);
}

/* A model that takes the text for complete after a sentence: it is asked again without it, and no word comes late. */
static void stalls_are_overcome(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 12);
    struct script_word *words = make_words(&rng, 41, MS(400), 200, 400, 100);
    words[10].token = SCRIPT_PERIOD;
    for (int i = 11; i < 41; i++)
        words[i].token = SCRIPT_WORD + i - 1;
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 41, 15000);
    t->model.deaf = true;
    live_begin(t->live, 0, 0);
    for (int64_t at = MS(250); at < words[40].end; at += MS(250)) {
        assert_int_equal(update(t, at, LIVE_TICK), 0);
        if (at > MS(4000))
            assert_true(t->last_end > at - MS(4000));
    }
    assert_int_equal(update(t, words[40].end, LIVE_FINAL), 0);
    char *period = strchr(t->text, '.');
    assert_non_null(period);
    memmove(period, period + 1, strlen(period));
    expect_words(t->text, 40);
    close_listener(t);
    free(t);
    free(words);
}

/* A model that passes over sentences, as long as it is not asked for timestamps. */
static void skipped_words_are_found(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 8);
    struct script_word *words = make_words(&rng, 60, MS(400), 200, 400, 0);
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 60, 15000);
    t->model.skips = true;
    speak(t, 0, words[59].end, 3000, 6000);
    expect_words(t->text, 60);
    close_listener(t);
    free(t);
    free(words);
}

/* Speech that never comes to rest in the model's ears: the buffer stays within its limit and the words within reach. */
static void disagreement_is_bounded(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 9);
    struct script_word *words = make_words(&rng, 120, MS(400), 300, 400, 100);
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 120, 10000);
    t->model.rng = &rng;
    t->model.substitute = 1.0f;
    live_begin(t->live, 0, 0);
    for (int64_t at = MS(500); at < words[119].end; at += MS(500)) {
        assert_int_equal(update(t, at, LIVE_TICK), 0);
        assert_true(at - live_buffer_start(t->live) <= MS(10000));
        if (at > MS(8000))
            assert_true(t->last_end >= at - MS(7000));
    }
    close_listener(t);
    free(t);
    free(words);
}

/* Noise in which the model makes up a word without believing in it. */
static void no_speech_says_nothing(void **state)
{
    struct script_word none[1] = {{0, 0, 0}};
    for (int round = 0; round < 3; round++) {
        bool believes = round == 1, unguarded = round == 2;
        struct listener *t = malloc(sizeof(*t));
        open_listener_vocab(t, none, 0, 51864,
                            (struct live_options){.draft = true, .settings = {.unguarded = unguarded}});
        t->model.extra[0] = SCRIPT_WORD + 5;
        t->model.n_extra = 1;
        t->model.no_speech_prob = 0.7f;
        t->model.logprob = believes ? -0.5f : -1.1f;
        speak(t, 0, MS(5000), 250, 500);
        assert_string_equal(t->text, believes || unguarded ? " w5" : "");
        close_listener(t);
        free(t);
    }
}

/* A word that the model expects before anything of it was said. */
static void words_past_the_end_wait(void **state)
{
    struct script_word words[] = {{SCRIPT_WORD, MS(400), MS(700)}};
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 1, 15000);
    t->model.extra[0] = SCRIPT_WORD + 5;
    t->model.n_extra = 1;
    speak(t, 0, MS(3000), 250, 250);
    assert_string_equal(t->text, " w0");
    close_listener(t);
    free(t);
}

/* A word in a stretch of digital silence at the end is not said. */
static void words_need_sound(void **state)
{
    struct script_word words[] = {{SCRIPT_WORD, MS(400), MS(700)}, {SCRIPT_WORD + 1, MS(2000), MS(2300)}};
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 2, 15000);
    for (int64_t i = MS(1000); i < MS(3000); i++)
        t->pcm[i] = 0.0f;
    speak(t, 0, MS(3000), 250, 250);
    assert_string_equal(t->text, " w0");
    close_listener(t);
    free(t);
}

/* A loop is cut to its first time, and does not come back through the prompt. */
static void loops_are_cut(void **state)
{
    struct script_word words[] = {{SCRIPT_WORD, MS(400), MS(700)},
                                  {SCRIPT_WORD + 1, MS(800), MS(1100)},
                                  {SCRIPT_WORD + 2, MS(9000), MS(9500)}};
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 3, 15000);
    memset(t->pcm + MS(1300), 0, MS(1700) * sizeof(float));
    t->model.loop = true;
    speak(t, 0, MS(3000), 250, 250);
    assert_string_equal(t->text, " w0 w1");
    speak(t, MS(6000), MS(7000), 250, 250);
    assert_int_equal(t->model.n_prompt_text, 2); /* the words as such are context */
    t->model.loop = false;
    speak(t, MS(8600), MS(10000), 250, 250);
    assert_string_equal(t->text, " w0 w1 w2");
    close_listener(t);
    free(t);
}

/* "é" in two tokens: its first half alone is never put out. */
static void characters_stay_whole(void **state)
{
    struct script_word words[] = {{SCRIPT_WORD, MS(400), MS(700)},
                                  {SCRIPT_HALF_A, MS(800), MS(1000)},
                                  {SCRIPT_HALF_B, MS(1000), MS(1200)},
                                  {SCRIPT_WORD + 1, MS(1400), MS(1700)}};
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 2, 15000); /* the model hears the first two tokens only */
    live_begin(t->live, 0, 0);
    for (int64_t at = MS(500); at <= MS(1300); at += MS(100)) {
        assert_int_equal(update(t, at, LIVE_TICK), 0);
        assert_null(strchr(t->text, '\xC3'));
        assert_null(strchr(t->out.partial, '\xC3'));
    }
    t->model.n_words = 4;
    assert_int_equal(update(t, MS(1800), LIVE_TICK), 0);
    assert_non_null(strstr(t->out.partial, " \xC3\xA9"));
    close_listener(t);
    free(t);
}

/* A translation is English, with spaces between its words, whatever was spoken: tokens without one go on with a word. */
static void translations_have_whole_words(void **state)
{
    struct script_word words[] = {
        {SCRIPT_WORD, MS(400), MS(700)}, {'x', MS(700), MS(900)}, {SCRIPT_WORD + 1, MS(1000), MS(1300)}};
    for (int translate = 0; translate < 2; translate++) {
        struct listener *t = malloc(sizeof(*t));
        struct live_settings settings = {.language = "ja", .translate = translate};
        open_listener_vocab(t, words, 3, 51865, (struct live_options){.draft = true, .settings = settings});
        live_begin(t->live, 0, 0);
        assert_int_equal(update(t, MS(1800), LIVE_FINAL), 0);
        assert_string_equal(t->text, " w0x w1");
        assert_int_equal(t->n_words, translate ? 2 : 3);
        close_listener(t);
        free(t);
    }
}

/* A buffer whose words leave next to no room for more begins anew, and one that is cut behind a word that was first heard
 * earlier holds nothing before its beginning. */
static void buffers_have_room(void **state)
{
    static struct live_buffer b;
    const int32_t tokens[8] = {SCRIPT_WORD, SCRIPT_WORD + 1, SCRIPT_WORD + 2};
    live_buffer_restart(&b, 0, true);
    for (int n = 0; n < 20; n++) {
        live_buffer_add(&b, " word", tokens, 8, MS(100) * (n + 1));
        b.end = MS(100) * (n + 1);
        assert_true(live_buffer_joins(&b, b.end + MS(500), 0));
    }
    live_buffer_add(&b, " word", tokens, 8, MS(2100));
    b.end = MS(2100);
    assert_false(live_buffer_joins(&b, b.end + MS(500), 0));
    b.last_end = b.heard_end = MS(2100);
    live_buffer_cut(&b, MS(3000), b.n_kept);
    assert_int_equal(b.last_end, MS(3000));
    assert_int_equal(b.heard_end, MS(3000));
}

static void language_is_found_and_locked(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 10);
    struct script_word *words = make_words(&rng, 40, MS(400), 200, 400, 100);
    struct listener *t = malloc(sizeof(*t));
    open_listener_vocab(t, words, 40, 51865, (struct live_options){.draft = true});
    t->model.language = "de";
    t->model.language_prob = 0.4f;
    live_begin(t->live, 0, 0);
    for (int64_t at = MS(500); at <= MS(3000); at += MS(500))
        assert_int_equal(update(t, at, LIVE_TICK), 0);
    assert_int_equal(t->model.n_detections, 6);
    assert_string_equal(t->text, ""); /* nothing is final in a language that may yet change */
    assert_string_equal(t->out.partial, "");
    t->model.language_prob = 0.8f;
    assert_int_equal(update(t, MS(3500), LIVE_TICK), 0);
    assert_int_equal(update(t, MS(4000), LIVE_TICK), 0);
    assert_int_equal(t->model.n_detections, 7);
    assert_string_equal(t->out.language, "de");
    assert_true(t->n_words > 0);
    t->model.language = "fr";
    assert_int_equal(update(t, words[39].end, LIVE_FINAL), 0);
    expect_words(t->text, 40);
    assert_int_equal(t->model.language_token, tokenizer_language_token(t->model.tokenizer, "de"));
    /* A new language takes effect with the next utterance. */
    live_set(t->live, &(struct live_settings){.language = "fr"});
    live_begin(t->live, words[39].end, words[39].end);
    assert_int_equal(update(t, words[39].end + SECOND, LIVE_TICK), 0);
    assert_string_equal(t->out.language, "fr");
    close_listener(t);
    free(t);
    free(words);
}

/* What every pass is told of stands before the earlier text. From the next utterance on it is something else, and then without
 * the text from before. */
static void passes_are_told(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 14);
    struct script_word *words = make_words(&rng, 40, MS(400), 200, 400, 200);
    struct listener *t = malloc(sizeof(*t));
    struct live_settings settings = {.told = {SCRIPT_WORD + 500, SCRIPT_WORD + 501}, .n_told = 2};
    open_listener_vocab(t, words, 40, 51864, (struct live_options){.draft = true, .settings = settings});
    settings.n_told = LIVE_TOLD_MAX;
    for (int i = 0; i < LIVE_TOLD_MAX; i++)
        settings.told[i] = SCRIPT_WORD + 600 + i;
    live_begin(t->live, 0, 0);
    live_set(t->live, &settings);
    for (int64_t at = MS(500); at < words[9].end; at += MS(500))
        assert_int_equal(update(t, at, LIVE_TICK), 0);
    assert_int_equal(update(t, words[9].end, LIVE_FINAL), 0);
    assert_int_equal(t->model.n_prompt_text, 2);
    assert_int_equal(t->model.context[1], SCRIPT_WORD + 501);
    speak(t, words[9].end, words[19].end, 250, 250);
    assert_int_equal(t->model.n_prompt_text, LIVE_TOLD_MAX);
    live_set(t->live, &settings); /* the same */
    speak(t, words[19].end, words[29].end, 250, 250);
    assert_int_equal(t->model.n_prompt_text, LIVE_TOLD_MAX + 10);
    for (int i = 0; i < LIVE_TOLD_MAX + 10; i++)
        assert_int_equal(t->model.context[i],
                         i < LIVE_TOLD_MAX ? settings.told[i] : SCRIPT_WORD + 10 + i - LIVE_TOLD_MAX);
    settings.n_told = 0;
    live_set(t->live, &settings);
    speak(t, words[29].end, words[39].end, 250, 250);
    assert_int_equal(t->model.n_prompt_text, 0);
    expect_words(t->text, 40);
    close_listener(t);
    free(t);
    free(words);
}

/* The whole context in use: told of as much as can be, after much text, in a full buffer. */
static void context_is_never_overrun(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 15);
    struct script_word *words = make_words(&rng, 400, MS(400), 110, 190, 20);
    struct listener *t = malloc(sizeof(*t));
    struct live_settings settings = {.n_told = LIVE_TOLD_MAX, .language = "en"};
    for (int i = 0; i < LIVE_TOLD_MAX; i++)
        settings.told[i] = SCRIPT_WORD + 600 + i;
    open_listener_vocab(t, words, 400, 51865,
                        (struct live_options){.draft = true, .max_buffer_ms = 28000, .settings = settings});
    speak(t, 0, words[399].end, 300, 500); /* the model checks that its context suffices */
    expect_words(t->text, 400);
    close_listener(t);
    free(t);
    free(words);
}

/* As many hypotheses as are asked for, from the next utterance on. */
static void beams_change_between_utterances(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 16);
    struct script_word *words = make_words(&rng, 30, MS(400), 200, 400, 200);
    struct listener *t = malloc(sizeof(*t));
    open_listener_vocab(t, words, 30, 51864,
                        (struct live_options){.draft = true, .settings = {.beam_size = 5}});
    speak(t, 0, words[9].end, 250, 250);
    assert_int_equal(t->model.beam_width, 5);
    assert_int_equal(t->n_draft, 0); /* there are none with beams */
    live_set(t->live, &(struct live_settings){.beam_size = 1});
    assert_int_equal(t->model.beam_width, 5);
    speak(t, words[9].end, words[19].end, 250, 250);
    assert_int_equal(t->model.beam_width, 1);
    assert_true(t->n_draft > 0);
    live_set(t->live, &(struct live_settings){.beam_size = 3});
    speak(t, words[19].end, words[29].end, 250, 250);
    assert_int_equal(t->model.beam_width, 3);
    expect_words(t->text, 30);
    close_listener(t);
    free(t);
    free(words);
}

/* Speakers who change the language: each utterance is heard anew, and what was said in another one is no context. One that
 * tells too little stays with the language of those before. */
static void language_is_followed(void **state)
{
    static const struct {
        const char *heard;
        float how_surely;
        const char *then;
        int context; /* words of the utterances before */
    } utterances[] = {
        {"de", 0.9f, "de", 0}, {"de", 0.9f, "de", 20}, {"fr", 0.9f, "fr", 0}, {"en", 0.4f, "fr", 20}};
    struct test_rng rng;
    test_rng_init(&rng, 17);
    struct script_word *words = make_words(&rng, 80, MS(400), 200, 400, 200);
    struct listener *t = malloc(sizeof(*t));
    open_listener_vocab(t, words, 80, 51865,
                        (struct live_options){.draft = true, .settings = {.follow_language = true}});
    for (int i = 0; i < 4; i++) {
        int64_t start = i ? words[20 * i - 1].end : 0, end = words[20 * i + 19].end;
        t->model.language = utterances[i].heard;
        t->model.language_prob = utterances[i].how_surely;
        live_begin(t->live, start, 0);
        assert_int_equal(live_buffer_start(t->live), start);
        for (int64_t at = start + MS(500); at < end; at += MS(500)) {
            assert_int_equal(update(t, at, LIVE_TICK), 0);
            assert_int_equal(t->model.n_prompt_text, utterances[i].context);
        }
        assert_true(t->n_words > 20 * i); /* nor does it wait for its end to be committed */
        assert_int_equal(update(t, end, LIVE_FINAL), 0);
        assert_string_equal(t->out.language, utterances[i].then);
    }
    expect_words(t->text, 80);
    close_listener(t);
    free(t);
    free(words);
}

/* A period that the model owes to the sentence before is no beginning. */
static void late_periods_are_not_shown(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 13);
    struct script_word *words = make_words(&rng, 7, MS(400), 200, 400, 100);
    words[3].token = SCRIPT_PERIOD;
    for (int i = 4; i < 7; i++)
        words[i].token = SCRIPT_WORD + i - 1;
    struct listener *t = malloc(sizeof(*t));
    open_listener(t, words, 7, 15000);
    live_begin(t->live, 0, 0);
    assert_int_equal(update(t, words[2].end, LIVE_FINAL), 0);
    live_begin(t->live, words[2].end, 0);
    for (int64_t at = words[3].start + MS(250); at < words[6].end; at += MS(250)) {
        assert_int_equal(update(t, at, LIVE_TICK), 0);
        assert_true(t->out.partial[0] != '.');
    }
    assert_int_equal(update(t, words[6].end, LIVE_FINAL), 0);
    expect_words(t->text, 6);
    close_listener(t);
    free(t);
    free(words);
}

static void unknown_language_is_refused(void **state)
{
    struct script_model model;
    script_model_init(&model, 51865, NULL, 0);
    struct live *live = NULL;
    struct err err = {0};
    struct live_options options = {.settings = {.language = "xx"}, .max_buffer_ms = 15000};
    assert_int_equal(live_create(&model.base, model.tokenizer, &options, &live, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "xx"));
    script_model_finish(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transcript_is_the_script),
        cmocka_unit_test(utterances_follow_one_another),
        cmocka_unit_test(short_pauses_keep_the_buffer),
        cmocka_unit_test(new_settings_forget_the_text_before),
        cmocka_unit_test(mistakes_lose_no_place),
        cmocka_unit_test(words_show_first_and_commit_next),
        cmocka_unit_test(repeats_survive),
        cmocka_unit_test(drafts_save_steps),
        cmocka_unit_test(failures_change_nothing),
        cmocka_unit_test(overlong_windows_are_cut),
        cmocka_unit_test(abandon_keeps_tentative_words),
        cmocka_unit_test(stalls_are_overcome),
        cmocka_unit_test(empty_updates_lose_nothing),
        cmocka_unit_test(skipped_words_are_found),
        cmocka_unit_test(disagreement_is_bounded),
        cmocka_unit_test(no_speech_says_nothing),
        cmocka_unit_test(words_past_the_end_wait),
        cmocka_unit_test(words_need_sound),
        cmocka_unit_test(loops_are_cut),
        cmocka_unit_test(characters_stay_whole),
        cmocka_unit_test(translations_have_whole_words),
        cmocka_unit_test(buffers_have_room),
        cmocka_unit_test(language_is_found_and_locked),
        cmocka_unit_test(passes_are_told),
        cmocka_unit_test(context_is_never_overrun),
        cmocka_unit_test(beams_change_between_utterances),
        cmocka_unit_test(language_is_followed),
        cmocka_unit_test(late_periods_are_not_shown),
        cmocka_unit_test(unknown_language_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
