/* The captioner with a scripted model and inputs that the test fills: rings, marks and clocks as an intake would leave
 * them. */
#include "tests/support/support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "daemon/batcher.h"
#include "daemon/captioner.h"
#include "tests/support/script_model.h"

#define MS(x)      ((int64_t)(x)*16)
#define N_WORDS    60
#define EVENTS_MAX 2048
#define TEXT_BYTES 8192
#define PATIENCE   20 /* seconds that a thread is waited for: far above what any test needs */

struct stage {
    struct script_model model;
    struct batcher *batcher;
    struct script_word words[N_WORDS];
    struct intake in[2];
    struct intake *inputs[2];
    int n_inputs;
    sem_t wakes[2], woken;
    struct captioner *captioner;
    struct event *events;
    int n_events, n_before_ended; /* the latter: that came before an input's state was told to be ended */
    char text[2][TEXT_BYTES];     /* of the commits */
    int n_statuses;
    enum stream_state state; /* of the last status */
    enum status_use use;     /* the same */
    int n_news;              /* statuses that every client is told */
    char early_message[256]; /* the last that came before the end was told */
    float rtf;               /* the same as `state` */
    float level_db;          /* the same */
    int64_t t0_unix_ms;      /* the same */
};

static void on_wake(void *ctx)
{
    sem_post(&((struct stage *)ctx)->woken);
}

static void init_input(struct intake *in, sem_t *wake)
{
    memset(in, 0, sizeof(*in));
    in->options.name = "mic";
    in->options.wake = wake;
    size_t capacity = (size_t)INTAKE_RING_SECONDS * SAMPLE_RATE;
    in->storage = malloc(ring_storage_bytes(capacity));
    ring_init(&in->ring, in->storage, capacity);
    assert_int_equal(spsc_init(&in->marks, sizeof(struct mark), 256), 0);
    sem_init(&in->room, 0, 0);
    pthread_mutex_init(&in->text_lock, NULL);
    strcpy(in->device, "scripted");
    in->state = STREAM_LISTENING;
    in->origin_ns = clock_now_ns();
}

static void finish_input(struct intake *in)
{
    free(in->storage);
    spsc_finish(&in->marks);
    sem_destroy(&in->room);
    pthread_mutex_destroy(&in->text_lock);
}

/* Words of 250 ms, one every 350 ms from 500 ms on, with a pause of 1 s after the twentieth, which ends at 7.4 s; the last
 * ends at 22.4 s. */
static void write_script(struct script_word *words)
{
    for (int i = 0; i < N_WORDS; i++) {
        int64_t at = MS(500 + 350 * i + (i < 20 ? 0 : 1000));
        words[i] = (struct script_word){SCRIPT_WORD + i, at, at + MS(250)};
    }
}

static void open_stage_with(struct stage *s, int n_inputs, struct captioner_options options, int n_vocab,
                            struct batcher_options batcher)
{
    memset(s, 0, sizeof(*s));
    write_script(s->words);
    script_model_init(&s->model, n_vocab, s->words, N_WORDS);
    sem_init(&s->woken, 0, 0);
    for (s->n_inputs = 0; s->n_inputs < n_inputs; s->n_inputs++) {
        sem_init(&s->wakes[s->n_inputs], 0, 0);
        init_input(&s->in[s->n_inputs], &s->wakes[s->n_inputs]);
        s->inputs[s->n_inputs] = &s->in[s->n_inputs];
    }
    s->events = malloc(EVENTS_MAX * sizeof(*s->events));
    options.wake = on_wake;
    options.wake_ctx = s;
    options.step_ms = options.step_ms ? options.step_ms : 500;
    options.max_buffer_ms = options.max_buffer_ms ? options.max_buffer_ms : 15000;
    options.max_lag_ms = options.max_lag_ms ? options.max_lag_ms : 5000;
    options.max_utterance_ms = options.max_utterance_ms ? options.max_utterance_ms : 60000;
    options.draft = true;
    options.n_text_slots = options.n_text_slots ? options.n_text_slots : 1;
    struct err err = {0};
    batcher.n_clients = n_inputs;
    struct text_model *models[2];
    if (batcher_create(&batcher, &s->model.base, &s->batcher, &err) < 0)
        fail_msg("%s", err.msg);
    for (int i = 0; i < n_inputs; i++)
        models[i] = batcher_client(s->batcher, i);
    if (captioner_create(&options, models, s->model.tokenizer, s->inputs, n_inputs, &s->captioner, &err) < 0)
        fail_msg("%s", err.msg);
}

static void open_stage(struct stage *s, int n_inputs, struct captioner_options options)
{
    open_stage_with(s, n_inputs, options, options.settings.language ? 51865 : 51864, /* multilingual or not */
                    (struct batcher_options){.n_clients = n_inputs});
}

static void start(struct stage *s)
{
    struct err err = {0};
    assert_int_equal(captioner_start(s->captioner, &err), 0);
}

static void close_stage(struct stage *s)
{
    captioner_stop(s->captioner, clock_now_ns());
    captioner_destroy(s->captioner);
    batcher_destroy(s->batcher);
    for (int i = 0; i < s->n_inputs; i++) {
        finish_input(&s->in[i]);
        sem_destroy(&s->wakes[i]);
    }
    script_model_finish(&s->model);

    sem_destroy(&s->woken);
    free(s->events);
    free(s);
}

static void put_mark(struct intake *in, enum mark_type type, int64_t at, int64_t known, int64_t skip)
{
    struct mark mark = {.type = type, .at = at, .known = known, .skip = skip, .cause = GAP_DEVICE};
    assert_int_equal(spsc_push(&in->marks, &mark, 1), 1);
}

/* Writes the next n samples of the scripted audio; the captioner sees them when it is woken. */
static void fill(struct intake *in, int64_t n)
{
    float *pcm = malloc((size_t)n * sizeof(float));
    script_audio(pcm, ring_head(&in->ring), (int)n);
    assert_int_equal(ring_write(&in->ring, pcm, (size_t)n), n);
    free(pcm);
    atomic_store_explicit(&in->judged, ring_head(&in->ring), memory_order_release);
}

static void hear(struct intake *in, int64_t n)
{
    fill(in, n);
    sem_post(in->options.wake);
}

/* Takes what has been put out so far; statuses are counted, not kept. */
static void collect(struct stage *s)
{
    struct event *e = &s->events[s->n_events];
    while (s->n_events < EVENTS_MAX && captioner_next_event(s->captioner, e)) {
        if (e->type == EVENT_STATUS) {
            if (e->state == STREAM_ENDED)
                s->n_before_ended = s->n_events;
            else
                strcpy(s->early_message, e->message);
            s->n_statuses++;
            s->state = e->state;
            s->use = e->use;
            s->n_news += e->use == STATUS_NEWS;
            s->level_db = e->level_db;
            s->rtf = e->rtf;
            s->t0_unix_ms = e->t0_unix_ms;
            continue;
        }
        if (e->type == EVENT_COMMIT)
            strcat(s->text[e->stream], e->text);
        e = &s->events[++s->n_events];
    }
}

/* Collects until the latest event of this type is there `count` times. */
static void await_events(struct stage *s, enum event_type type, int count)
{
    struct timespec until; /* whatever else comes, statuses for example */
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE;
    for (;;) {
        int n = 0;
        collect(s);
        for (int i = 0; i < s->n_events; i++)
            n += s->events[i].type == type;
        if (n >= count)
            return;
        if (sem_timedwait(&s->woken, &until) < 0)
            fail_msg("only %d of %d events of type %d came", n, count, type);
    }
}

static void await_flag(struct stage *s, bool (*flag)(const struct captioner *))
{
    int64_t deadline = clock_now_ns() + PATIENCE * 1000000000LL;
    while (!flag(s->captioner)) {
        collect(s);
        assert_true(clock_now_ns() < deadline);
        struct timespec ms = {.tv_nsec = 1000000};
        nanosleep(&ms, NULL);
    }
    collect(s);
}

static const struct event *nth(const struct stage *s, enum event_type type, int n)
{
    for (int i = 0; i < s->n_events; i++) {
        if (s->events[i].type == type && n-- == 0)
            return &s->events[i];
    }
    fail_msg("event %d of type %d is missing", n, type);
    return NULL;
}

static int count(const struct stage *s, enum event_type type)
{
    int n = 0;
    for (int i = 0; i < s->n_events; i++)
        n += s->events[i].type == type;
    return n;
}

static void expect_words(const char *text, int first, int n)
{
    char want[TEXT_BYTES] = "";
    for (int i = first; i < first + n; i++)
        sprintf(want + strlen(want), " w%d", i);
    assert_string_equal(text, want);
}

/* Two utterances, then the end of the file. */
static void script_two_utterances(struct intake *in)
{
    put_mark(in, MARK_START, MS(300), MS(640), 0);
    put_mark(in, MARK_END, MS(7600), MS(8100), 0); /* 20 words */
    put_mark(in, MARK_START, MS(8200), MS(8700), 0);
    put_mark(in, MARK_EOF, MS(23000), MS(23000), 0);
}

static void utterances_become_events(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){0});
    script_two_utterances(&s->in[0]);
    hear(&s->in[0], MS(23000));
    s->in[0].state = STREAM_ENDED; /* a file is read long before its words are out */
    strcpy(s->in[0].message, "the input has ended");
    start(s);
    await_flag(s, captioner_ended);
    assert_true(s->n_events > 0 && s->n_before_ended == s->n_events);
    assert_string_equal(s->early_message, "");
    assert_int_equal(s->events[0].type, EVENT_SPEECH_START);
    assert_int_equal(s->events[0].start_ms, 300);
    assert_int_equal(count(s, EVENT_SPEECH_START), 2);
    const struct event *final = nth(s, EVENT_FINAL, 0);
    assert_int_equal(final->reason, FINAL_SILENCE);
    assert_int_equal(final->utt, 1);
    assert_int_equal(final->start_ms, 300);
    assert_int_equal(final->end_ms, 7600);
    final = nth(s, EVENT_FINAL, 1);
    assert_int_equal(final->reason, FINAL_EOF);
    assert_int_equal(final->utt, 2);
    expect_words(s->text[0], 0, N_WORDS);
    assert_int_equal(count(s, EVENT_GAP), 0);
    int64_t last = 0;
    for (int i = 0; i < s->n_events; i++) {
        const struct event *e = &s->events[i];
        if (e->type == EVENT_COMMIT) {
            assert_int_equal(e->lag_ms, -1);
            assert_string_equal(e->language, "en");
            for (int w = 0; w < e->n_words; w++) {
                assert_true(e->words[w].start_ms >= last && e->words[w].end_ms >= e->words[w].start_ms);
                assert_int_equal(e->text[e->words[w].offset], ' ');
                last = e->words[w].end_ms;
            }
        }
    }
    close_stage(s);
}

static bool same_event(const struct event *a, const struct event *b)
{
    return a->type == b->type && a->utt == b->utt && a->rev == b->rev && a->start_ms == b->start_ms &&
           a->end_ms == b->end_ms && a->reason == b->reason && a->n_words == b->n_words &&
           strcmp(a->text, b->text) == 0 &&
           memcmp(a->words, b->words, (size_t)a->n_words * sizeof(a->words[0])) == 0;
}

/* With pace fast the events do not depend on how the sound arrives. Marks come as an intake puts them: in the queue before
 * `judged` passes the sample at which they became known. */
static void fast_pace_is_deterministic(void **state)
{
    struct stage *whole = malloc(sizeof(*whole));
    open_stage(whole, 1, (struct captioner_options){0});
    script_two_utterances(&whole->in[0]);
    hear(&whole->in[0], MS(23000));
    start(whole);
    await_flag(whole, captioner_ended);
    for (int round = 0; round < 5; round++) {
        struct test_rng rng;
        test_rng_init(&rng, 40 + (uint64_t)round);
        struct stage *s = malloc(sizeof(*s));
        open_stage(s, 1, (struct captioner_options){0});
        const struct mark marks[] = {{.type = MARK_START, .at = MS(300), .known = MS(640)},
                                     {.type = MARK_END, .at = MS(7600), .known = MS(8100)},
                                     {.type = MARK_START, .at = MS(8200), .known = MS(8700)},
                                     {.type = MARK_EOF, .at = MS(23000), .known = MS(23000)}};
        start(s);
        for (int next = 0; next < 4;) {
            int64_t head = ring_head(&s->in[0].ring), n = test_rng_int(&rng, 1, 20000);
            n = head + n > MS(23000) ? MS(23000) - head : n;
            for (; next < 4 && marks[next].known <= head + n; next++)
                put_mark(&s->in[0], marks[next].type, marks[next].at, marks[next].known, 0);
            hear(&s->in[0], n);
            struct timespec pause = {.tv_nsec = test_rng_int(&rng, 0, 3) * 1000000};
            nanosleep(&pause, NULL);
        }
        await_flag(s, captioner_ended);
        assert_int_equal(s->n_events, whole->n_events);
        for (int i = 0; i < s->n_events; i++)
            assert_true(same_event(&s->events[i], &whole->events[i]));
        close_stage(s);
    }
    close_stage(whole);
}

static void two_streams_stay_apart(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 2, (struct captioner_options){0});
    for (int i = 0; i < 2; i++) {
        script_two_utterances(&s->in[i]);
        hear(&s->in[i], MS(23000));
    }
    start(s);
    await_flag(s, captioner_ended);
    expect_words(s->text[0], 0, N_WORDS);
    expect_words(s->text[1], 0, N_WORDS);
    close_stage(s);
}

/* 2 s are missing after 5 s: the words before are committed, the gap is told, the clock runs ahead from there on. */
static void a_skip_moves_the_clock(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){0});
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    put_mark(&s->in[0], MARK_SKIP, MS(5000), MS(5000), MS(2000));
    put_mark(&s->in[0], MARK_START, MS(5000), MS(5300), 0);
    put_mark(&s->in[0], MARK_EOF, MS(10000), MS(10000), 0);
    hear(&s->in[0], MS(10000));
    start(s);
    await_flag(s, captioner_ended);
    const struct event *gap = nth(s, EVENT_GAP, 0);
    assert_int_equal(gap->start_ms, 5000);
    assert_int_equal(gap->lost_ms, 2000);
    assert_int_equal(gap->cause, GAP_DEVICE);
    assert_int_equal(nth(s, EVENT_FINAL, 0)->reason, FINAL_DEVICE);
    assert_int_equal(nth(s, EVENT_SPEECH_START, 1)->start_ms, 7000);
    assert_int_equal(nth(s, EVENT_FINAL, 1)->end_ms, 12000);
    close_stage(s);
}

/* As in transcripts; what follows a gap begins where it ends. */
static void times_are_the_nearest_millisecond(void **state)
{
    const int64_t at = MS(5000) + 8, skip = MS(2000) + 8;
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){0});
    put_mark(&s->in[0], MARK_SKIP, at, at, skip);
    put_mark(&s->in[0], MARK_START, at, MS(5300), 0);
    put_mark(&s->in[0], MARK_EOF, MS(10000), MS(10000), 0);
    hear(&s->in[0], MS(10000));
    start(s);
    await_flag(s, captioner_ended);
    const struct event *gap = nth(s, EVENT_GAP, 0);
    assert_int_equal(gap->start_ms, 5001);
    assert_int_equal(gap->start_ms + gap->lost_ms, 7001);
    assert_int_equal(nth(s, EVENT_SPEECH_START, 0)->start_ms, 7001);
    close_stage(s);
}

/* Real time, and 12 s at once where 5 s of lag are allowed: what is tentative is kept, the rest is told as a gap, and the
 * captions go on with what comes. */
static void overload_becomes_a_gap(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.realtime = true});
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    hear(&s->in[0], MS(1300)); /* two words */
    start(s);
    await_events(s, EVENT_PARTIAL, 1);
    hear(&s->in[0], MS(12000));
    await_events(s, EVENT_FINAL, 1);
    const struct event *gap = nth(s, EVENT_GAP, 0);
    assert_int_equal(gap->cause, GAP_OVERLOAD);
    assert_int_equal(gap->start_ms, 1300);
    assert_int_equal(gap->lost_ms, 12000);
    expect_words(s->text[0], 0, 2);
    hear(&s->in[0], MS(1000));
    hear(&s->in[0], MS(1000));
    put_mark(&s->in[0], MARK_EOF, MS(15300), MS(15300), 0);
    sem_post(&s->wakes[0]);
    await_flag(s, captioner_ended);
    assert_non_null(strstr(s->text[0], " w34 w35 w36"));
    close_stage(s);
}

/* The same where speakers pause: an utterance whose end is known 12 s late is given up, not decoded later still. */
static void late_utterances_become_gaps(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.realtime = true});
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    put_mark(&s->in[0], MARK_END, MS(3000), MS(3600), 0);
    put_mark(&s->in[0], MARK_START, MS(13000), MS(13300), 0);
    hear(&s->in[0], MS(15000));
    start(s);
    await_events(s, EVENT_FINAL, 1);
    const struct event *gap = nth(s, EVENT_GAP, 0);
    assert_int_equal(gap->cause, GAP_OVERLOAD);
    assert_int_equal(gap->start_ms, 300);
    assert_int_equal(gap->lost_ms, 2700);
    await_events(s, EVENT_PARTIAL, 1); /* what is being said now is heard */
    assert_string_equal(s->text[0], "");
    close_stage(s);
}

/* Steps that take the buffer beyond the 30 s of a window: what is cut off on the left has been heard. So it is at the end of
 * an utterance. */
static void a_long_buffer_loses_nothing(void **state)
{
    enum { WORDS = 27 };
    static struct script_word words[WORDS];
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.step_ms = 5000, .max_buffer_ms = 28000});
    for (int i = 0; i < WORDS; i++)
        words[i] = (struct script_word){SCRIPT_WORD + i, MS(500 + 2050 * i), MS(2400 + 2050 * i)};
    s->model.words = words;
    s->model.n_words = WORDS; /* until 55.7 s */
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    put_mark(&s->in[0], MARK_EOF, MS(58000), MS(58000), 0);
    hear(&s->in[0], MS(58000));
    start(s);
    await_flag(s, captioner_ended);
    assert_int_equal(count(s, EVENT_GAP), 0);
    expect_words(s->text[0], 0, WORDS);
    close_stage(s);
}

/* A last pass over one new sample costs what others do, and must not pass for thousands of times the speed of speech. */
static void a_pass_over_nothing_new_is_not_slow(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.step_ms = 3000});
    put_mark(&s->in[0], MARK_START, 0, 0, 0);
    put_mark(&s->in[0], MARK_END, MS(3000) + 1, MS(3600), 0);
    put_mark(&s->in[0], MARK_EOF, MS(4000), MS(4000), 0);
    hear(&s->in[0], MS(4000));
    start(s);
    await_flag(s, captioner_ended);
    assert_true(s->rtf > 0.0f && s->rtf < 0.05f);
    close_stage(s);
}

/* A file that is read faster than it is heard: a flush ends at what has been heard, and loses nothing of the rest. */
static void a_flush_of_a_file_loses_nothing(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){0});
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    hear(&s->in[0], MS(1300));
    start(s);
    await_events(s, EVENT_PARTIAL, 1);
    fill(&s->in[0], MS(48000));
    captioner_flush(s->captioner);
    await_events(s, EVENT_FINAL, 1);
    put_mark(&s->in[0], MARK_EOF, MS(49300), MS(49300), 0);
    sem_post(&s->wakes[0]);
    await_flag(s, captioner_ended);
    assert_int_equal(nth(s, EVENT_FINAL, 0)->reason, FINAL_FLUSH);
    expect_words(s->text[0], 0, N_WORDS);
    for (int i = 0; i < s->n_events; i++)
        assert_int_not_equal(s->events[i].type, EVENT_GAP);
    close_stage(s);
}

/* What an end that cannot wait for the captioner would have to say. */
static void await_undecoded(struct stage *s, int64_t sample)
{
    int64_t deadline = clock_now_ns() + PATIENCE * 1000000000LL;
    while (captioner_undecoded(s->captioner, 0) != sample && clock_now_ns() < deadline)
        usleep(1000);
    assert_int_equal(captioner_undecoded(s->captioner, 0), sample);
}

static void flush_ends_the_utterance(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.realtime = true});
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    hear(&s->in[0], MS(1200));
    start(s);
    await_events(s, EVENT_PARTIAL, 1);
    captioner_flush(s->captioner);
    await_events(s, EVENT_FINAL, 1);
    assert_int_equal(nth(s, EVENT_FINAL, 0)->reason, FINAL_FLUSH);
    expect_words(s->text[0], 0, 2);
    await_undecoded(s, MS(1200)); /* the next is open, though nobody has heard of it */
    hear(&s->in[0], MS(900));
    await_events(s, EVENT_PARTIAL, 2);
    await_undecoded(s, MS(2100));
    assert_int_equal(nth(s, EVENT_SPEECH_START, 1)->start_ms, 1200);
    assert_int_equal(nth(s, EVENT_SPEECH_START, 1)->utt, 2);
    assert_int_equal(nth(s, EVENT_PARTIAL, 1)->utt, 2);
    put_mark(&s->in[0], MARK_END, MS(2100), MS(2100), 0);
    sem_post(&s->wakes[0]);
    await_undecoded(s, -1);
    close_stage(s);
}

/* After a flush nothing more is said, and the device is let go of: clients hear of no second utterance, begun or ended. */
static void nothing_follows_a_flush(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.realtime = true});
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    hear(&s->in[0], MS(800)); /* one word, until 750 ms */
    start(s);
    await_events(s, EVENT_PARTIAL, 1);
    captioner_flush(s->captioner);
    await_events(s, EVENT_FINAL, 1);
    s->model.n_words = 1;
    put_mark(&s->in[0], MARK_SKIP, MS(1400), MS(1400), MS(1000));
    hear(&s->in[0], MS(600));
    await_events(s, EVENT_GAP, 1);
    put_mark(&s->in[0], MARK_EOF, MS(1400), MS(1400), 0);
    sem_post(&s->wakes[0]);
    await_flag(s, captioner_ended);
    assert_int_equal(count(s, EVENT_SPEECH_START), 1);
    assert_int_equal(count(s, EVENT_FINAL), 1);
    expect_words(s->text[0], 0, 1);
    close_stage(s);
}

/* What changes in the middle of an utterance is for the next one, for all of it. */
static void language_and_task_change_between_utterances(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.realtime = true, .settings = {.language = "en"}});
    const struct tokenizer *t = s->model.tokenizer;
    const struct special_tokens *special = tokenizer_special(t);
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    hear(&s->in[0], MS(1200));
    start(s);
    await_events(s, EVENT_PARTIAL, 1);
    captioner_set(s->captioner, &(struct live_settings){.language = "de", .translate = true});
    hear(&s->in[0], MS(700));
    await_events(s, EVENT_PARTIAL, 2);
    assert_int_equal(s->model.language_token, tokenizer_language_token(t, "en"));
    assert_int_equal(s->model.task_token, special->transcribe);
    captioner_flush(s->captioner);
    await_events(s, EVENT_FINAL, 1);
    hear(&s->in[0], MS(1400));
    await_events(s, EVENT_PARTIAL, 3);
    assert_int_equal(s->model.language_token, tokenizer_language_token(t, "de"));
    assert_int_equal(s->model.task_token, special->translate);
    assert_int_equal(s->model.n_prompt_text, 0); /* nothing of the other language */
    captioner_set(s->captioner, &(struct live_settings){.translate = true});
    s->model.language = "fr";
    s->model.language_prob = 0.9f;
    put_mark(&s->in[0], MARK_END, MS(3300), MS(3300), 0);
    put_mark(&s->in[0], MARK_START, MS(3300), MS(3300), 0);
    hear(&s->in[0], MS(2000));
    await_events(s, EVENT_PARTIAL, 4);
    assert_int_equal(s->model.language_token, tokenizer_language_token(t, "fr"));
    close_stage(s);
}

/* Asked to stop with time enough: the last words are decoded. Without: what was tentative is kept, the rest is a gap. */
static void stop_keeps_its_deadline(void **state)
{
    for (int late = 0; late < 2; late++) {
        struct stage *s = malloc(sizeof(*s));
        open_stage(s, 1, (struct captioner_options){.realtime = true, .step_ms = 1000});
        put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
        hear(&s->in[0], MS(1500));
        start(s);
        await_events(s, EVENT_PARTIAL, 1);
        hear(&s->in[0], MS(500)); /* less than a step: no pass has seen it */
        captioner_stop(s->captioner, clock_now_ns() + (late ? 0 : 10000000000LL));
        await_flag(s, captioner_finished);
        assert_int_equal(nth(s, EVENT_FINAL, 0)->reason, FINAL_FLUSH);
        expect_words(s->text[0], 0, late ? 3 : 4);
        assert_int_equal(count(s, EVENT_GAP), late);
        if (late) {
            assert_int_equal(nth(s, EVENT_GAP, 0)->cause, GAP_SHUTDOWN);
            assert_int_equal(nth(s, EVENT_GAP, 0)->lost_ms, 500);
        }
        close_stage(s);
    }
}

/* Asked to stop while an utterance that has begun is not known yet: it is heard all the same. */
static void what_has_begun_is_finished(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.realtime = true});
    start(s);
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    put_mark(&s->in[0], MARK_END, MS(1200), MS(1800), 0); /* two words */
    put_mark(&s->in[0], MARK_SKIP, MS(1900), MS(1900), MS(1000));
    put_mark(&s->in[0], MARK_START, MS(1900), MS(2200), 0); /* and three */
    fill(&s->in[0], MS(2500));
    captioner_stop(s->captioner, clock_now_ns() + 10000000000LL);
    await_flag(s, captioner_finished);
    assert_int_equal(count(s, EVENT_SPEECH_START), 2);
    assert_int_equal(count(s, EVENT_FINAL), 2);
    assert_int_equal(nth(s, EVENT_GAP, 0)->lost_ms, 1000);
    assert_non_null(strstr(s->text[0], " w0 w1 w4"));
    close_stage(s);
}

/* The engine fails once: what the pass would have heard is told as lost, and the next one works. */
static void engine_failure_becomes_a_gap(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){0});
    s->model.fail_in = 5;
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    put_mark(&s->in[0], MARK_EOF, MS(10000), MS(10000), 0);
    hear(&s->in[0], MS(10000));
    start(s);
    await_flag(s, captioner_ended);
    assert_int_equal(count(s, EVENT_GAP), 1);
    const struct event *gap = nth(s, EVENT_GAP, 0);
    assert_int_equal(gap->cause, GAP_ENGINE);
    assert_int_equal(gap->start_ms, 300 + 4 * 500);
    assert_int_equal(gap->lost_ms, 500);
    assert_true(strncmp(s->text[0], " w0 w1 w2 w3", 12) == 0);
    assert_non_null(strstr(s->text[0], " w22 w23"));
    close_stage(s);
}

/* Has what is logged from here on in a file without a name. Returns where standard error went. */
static int log_to_file(FILE **log)
{
    int before = dup(STDERR_FILENO);
    *log = tmpfile();
    assert_non_null(*log);
    assert_int_equal(dup2(fileno(*log), STDERR_FILENO), STDERR_FILENO);
    return before;
}

/* Ends that. Returns how many lines have `text`. */
static int count_logged(FILE *log, int before, const char *text)
{
    char line[1024];
    int n = 0;
    dup2(before, STDERR_FILENO);
    close(before);
    rewind(log);
    while (fgets(line, sizeof(line), log))
        n += strstr(line, text) != NULL;
    fclose(log);
    return n;
}

/* Why passes fail is logged once, and again where they had worked in between. */
static void a_failure_is_logged_once(void **state)
{
    FILE *log;
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.realtime = true});
    s->model.fail_in = 1;
    s->model.fail_again = 2;
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    int before = log_to_file(&log);
    start(s);
    for (int i = 1; i <= 3; i++) {
        hear(&s->in[0], MS(900));
        await_events(s, EVENT_GAP, i);
    }
    hear(&s->in[0], MS(900));
    await_events(s, EVENT_PARTIAL, 1);
    s->model.fail_in = 1;
    hear(&s->in[0], MS(900));
    await_events(s, EVENT_GAP, 4);
    assert_int_equal(count_logged(log, before, "captiond: warning: mic: a pass has failed: scripted failure"),
                     2);
    close_stage(s);
}

static int use_spare(void *ctx, const struct err *cause, struct text_model **model, struct err *err)
{
    struct script_model *spare = ctx;
    assert_string_equal(cause->msg, "scripted loss");
    *model = &spare->base;
    return 0;
}

/* Two streams in fast pace; at the operation `lose_at` the engine is lost and another takes over. Returns how many operations
 * the first one has seen. */
static int caption_with_loss(int lose_at, char (*text)[TEXT_BYTES], int *n_events)
{
    struct stage *s = calloc(1, sizeof(*s));
    struct script_model spare;
    script_model_init(&spare, 51865, s->words, N_WORDS);
    open_stage_with(s, 2, (struct captioner_options){0}, 51865,
                    (struct batcher_options){.take_over = use_spare, .ctx = &spare});
    s->model.lose_at = lose_at;
    for (int i = 0; i < 2; i++) {
        put_mark(&s->in[i], MARK_START, MS(300), MS(640), 0);
        put_mark(&s->in[i], MARK_END, MS(3600), MS(4100), 0);
        put_mark(&s->in[i], MARK_EOF, MS(5000), MS(5000), 0);
        hear(&s->in[i], MS(5000));
    }
    start(s);
    await_flag(s, captioner_ended);
    memcpy(text, s->text, sizeof(s->text));
    *n_events = s->n_events;
    assert_int_equal(count(s, EVENT_GAP), 0);
    int n = s->model.n_operations;
    assert_int_equal(spare.n_runs > 0, s->model.lost);
    close_stage(s);
    script_model_finish(&spare);
    return n;
}

/* Wherever the engine is lost, both streams say what they say undisturbed: nothing is missing, nothing is said twice. */
static void no_word_goes_with_an_engine(void **state)
{
    static char whole[2][TEXT_BYTES], text[2][TEXT_BYTES];
    int n_whole, n_events, n = caption_with_loss(0, whole, &n_whole);
    assert_non_null(strstr(whole[0], " w0 w1 w2"));
    assert_string_equal(whole[0], whole[1]);
    for (int i = 1; i < n; i++) {
        caption_with_loss(i, text, &n_events);
        assert_string_equal(text[0], whole[0]);
        assert_string_equal(text[1], whole[1]);
        assert_int_equal(n_events, n_whole);
    }
    printf("lost at each of %d operations\n", n);
}

/* Somebody who never pauses gets finals all the same; no word is lost or said twice at the seam. */
static void long_utterances_are_ended(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.max_utterance_ms = 4000});
    put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
    put_mark(&s->in[0], MARK_EOF, MS(23000), MS(23000), 0);
    hear(&s->in[0], MS(23000));
    start(s);
    await_flag(s, captioner_ended);
    expect_words(s->text[0], 0, N_WORDS);
    assert_true(count(s, EVENT_FINAL) >= 4);
    for (int i = 0; i + 1 < count(s, EVENT_FINAL); i++) {
        assert_int_equal(nth(s, EVENT_FINAL, i)->reason, FINAL_MAX_LEN);
        assert_int_equal(nth(s, EVENT_FINAL, i)->end_ms, nth(s, EVENT_SPEECH_START, i + 1)->start_ms);
    }
    close_stage(s);
}

/* Nobody speaks: no pass is made, and the ring is let go of. */
static void silence_costs_nothing(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.realtime = true});
    start(s);
    hear(&s->in[0], MS(30000));
    hear(&s->in[0], MS(30000));
    int64_t deadline = clock_now_ns() + PATIENCE * 1000000000LL;
    while (ring_tail(&s->in[0].ring) < MS(56000) && clock_now_ns() < deadline) {
        struct timespec ms = {.tv_nsec = 1000000};
        nanosleep(&ms, NULL);
    }
    assert_true(ring_tail(&s->in[0].ring) >= MS(56000));
    close_stage(s);
}

/* An utterance may begin so far back as the longest pre-roll and the speech that is waited for reach. */
static void silence_keeps_a_beginning(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.realtime = true});
    start(s);
    hear(&s->in[0], MS(10000));
    int64_t deadline = clock_now_ns() + PATIENCE * 1000000000LL;
    while (ring_tail(&s->in[0].ring) == 0 && clock_now_ns() < deadline) {
        struct timespec ms = {.tv_nsec = 1000000};
        nanosleep(&ms, NULL);
    }
    put_mark(&s->in[0], MARK_START, MS(10000 - 2000 - 1000), MS(10000), 0);
    hear(&s->in[0], MS(100));
    await_events(s, EVENT_SPEECH_START, 1);
    assert_int_equal(nth(s, EVENT_SPEECH_START, 0)->start_ms, 7000);
    assert_true(ring_tail(&s->in[0].ring) < MS(7000));
    close_stage(s);
}

static void silence_makes_no_pass(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){0});
    put_mark(&s->in[0], MARK_EOF, MS(40000), MS(40000), 0);
    hear(&s->in[0], MS(40000));
    start(s);
    await_flag(s, captioner_ended);
    assert_int_equal(s->n_events, 0);
    assert_int_equal(s->model.n_encodes, 0);
    close_stage(s);
}

/* The time of day is the newest sample's; a file that is read at any speed has none, nor has an input without sound. */
static void a_status_tells_the_time_of_day(void **state)
{
    for (int i = 0; i < 3; i++) {
        struct stage *s = malloc(sizeof(*s));
        open_stage(s, 1, (struct captioner_options){.realtime = i != 1});
        s->in[0].origin_ns = i == 2 ? 0 : clock_now_ns() - 3600 * NS_A_SECOND;
        int64_t hour_ago = clock_unix_ms() - 3600 * 1000;
        put_mark(&s->in[0], MARK_EOF, MS(1000), MS(1000), 0);
        hear(&s->in[0], MS(1000));
        start(s);
        await_flag(s, captioner_ended);
        if (i == 0)
            assert_in_range(s->t0_unix_ms, hour_ago - 1, hour_ago + 1000);
        else
            assert_int_equal(s->t0_unix_ms, 0);
        close_stage(s);
    }
}

/* The computer sleeps for an hour in an utterance: what is said then has its time of day in the history, not only in a heartbeat
 * which that does not keep. A card that drifts, or a pipe that is written in blocks of two seconds, is no news. */
static void a_new_time_of_day_is_news(void **state)
{
    for (int live = 0; live < 2; live++) {
        struct stage *s = malloc(sizeof(*s));
        open_stage(s, 1, (struct captioner_options){.realtime = true});
        s->in[0].live = live;
        put_mark(&s->in[0], MARK_START, MS(300), MS(640), 0);
        hear(&s->in[0], MS(1200));
        start(s);
        await_events(s, EVENT_PARTIAL, 1);
        int n = s->n_news;
        int64_t before = s->t0_unix_ms;
        s->in[0].origin_ns += (live ? 500 : 2500) * NS_A_MS;
        hear(&s->in[0], MS(500));
        await_events(s, EVENT_PARTIAL, 2);
        assert_int_equal(s->n_news, n);
        s->in[0].origin_ns += 3600 * NS_A_SECOND;
        hear(&s->in[0], MS(500));
        await_events(s, EVENT_PARTIAL, 3);
        int64_t deadline = clock_now_ns() + PATIENCE * NS_A_SECOND;
        for (; s->n_news == n && clock_now_ns() < deadline; usleep(1000))
            collect(s);
        assert_int_equal(s->n_news, n + 1);
        assert_in_range(s->t0_unix_ms, before + 3600 * 1000, before + 3604 * 1000);
        close_stage(s);
    }
}

/* At any pace, every half a second, of what there is now. */
static void a_status_comes_from_time_to_time(void **state)
{
    for (int i = 0; i < 2; i++) {
        struct stage *s = malloc(sizeof(*s));
        open_stage(s, 1, (struct captioner_options){.realtime = i});
        int64_t began = clock_now_ns(), deadline = began + PATIENCE * 1000000000LL;
        start(s);
        atomic_store(&s->in[0].level_cdb, -1700);
        while (s->n_statuses < 4 && clock_now_ns() < deadline) {
            struct timespec ms = {.tv_nsec = 1000000};
            nanosleep(&ms, NULL);
            collect(s);
        }
        assert_int_equal(s->n_statuses, 4);
        assert_true(clock_now_ns() - began >= 3 * 500 * NS_A_MS);
        assert_true(s->level_db == -17.0f);
        close_stage(s);
    }
}

/* A status that is written while the device changes has the state and the message of one moment. */
static void a_status_is_of_one_moment(void **state)
{
    struct stage *s = malloc(sizeof(*s));
    open_stage(s, 1, (struct captioner_options){.realtime = true});
    start(s);
    int64_t deadline = clock_now_ns() + PATIENCE * 1000000000LL;
    for (; s->n_statuses == 0 && clock_now_ns() < deadline; usleep(1000))
        collect(s);
    assert_int_equal(s->state, STREAM_LISTENING);
    pthread_mutex_lock(&s->in[0].text_lock);
    usleep(1200000); /* a status is due every half a second: it has begun, and waits */
    strcpy(s->in[0].message, "it is gone");
    s->in[0].state = STREAM_NO_DEVICE;
    pthread_mutex_unlock(&s->in[0].text_lock);
    for (; strcmp(s->early_message, "it is gone") != 0 && clock_now_ns() < deadline; usleep(1000))
        collect(s);
    assert_int_equal(s->state, STREAM_NO_DEVICE);
    assert_int_equal(s->use, STATUS_NEWS);
    close_stage(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utterances_become_events),
        cmocka_unit_test(fast_pace_is_deterministic),
        cmocka_unit_test(two_streams_stay_apart),
        cmocka_unit_test(a_skip_moves_the_clock),
        cmocka_unit_test(times_are_the_nearest_millisecond),
        cmocka_unit_test(overload_becomes_a_gap),
        cmocka_unit_test(late_utterances_become_gaps),
        cmocka_unit_test(a_long_buffer_loses_nothing),
        cmocka_unit_test(a_pass_over_nothing_new_is_not_slow),
        cmocka_unit_test(a_flush_of_a_file_loses_nothing),
        cmocka_unit_test(flush_ends_the_utterance),
        cmocka_unit_test(nothing_follows_a_flush),
        cmocka_unit_test(stop_keeps_its_deadline),
        cmocka_unit_test(what_has_begun_is_finished),
        cmocka_unit_test(engine_failure_becomes_a_gap),
        cmocka_unit_test(a_failure_is_logged_once),
        cmocka_unit_test(no_word_goes_with_an_engine),
        cmocka_unit_test(long_utterances_are_ended),
        cmocka_unit_test(silence_costs_nothing),
        cmocka_unit_test(silence_keeps_a_beginning),
        cmocka_unit_test(silence_makes_no_pass),
        cmocka_unit_test(a_status_tells_the_time_of_day),
        cmocka_unit_test(a_new_time_of_day_is_news),
        cmocka_unit_test(language_and_task_change_between_utterances),
        cmocka_unit_test(a_status_comes_from_time_to_time),
        cmocka_unit_test(a_status_is_of_one_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
