#include "daemon/captioner.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/base/clock.h"
#include "daemon/base/utf8.h"

#define EVENTS_MAX        512
#define STATUS_PERIOD_NS  500000000LL
#define HEARTBEATS_A_WORD 10 /* a status goes to the clients every 5 s, to `status` every 0.5 s */
#define NS_A_SAMPLE       (1000000000LL / SAMPLE_RATE)
#define IDLE_KEEP         (3 * SAMPLE_RATE) /* behind the newest sample: more than any pre-roll */
#define WINDOW            (30 * SAMPLE_RATE)
#define BEFORE            200 /* samples left of a window that the first frame sees */

struct stream {
    struct intake *in;
    struct live *live;
    int index;
    struct mark mark; /* the next one, taken from the queue */
    bool has_mark;
    bool open, ended;
    bool announced; /* clients know of the open utterance */
    int64_t utt, utt_start;
    int rev;
    bool partial_shown;
    int64_t seen;     /* samples that a pass has seen, or that needed none */
    int64_t word_end; /* end of the last committed word */
    int64_t skipped;  /* clock minus index, in samples */
    bool joinable;    /* the last utterance ended in a pause: the next may go on in its buffer */
    bool stuck_told;
    unsigned settings_taken; /* number of the newest settings that live has */
    int state_told;
    int64_t status_ns;
    int heartbeats;
    float pass_s; /* smoothed duration of a pass */
    float rtf;
};

struct captioner {
    struct captioner_options options;
    struct text_model *model;
    const struct tokenizer *tokenizer;
    struct stream streams[STREAMS_MAX];
    int n_streams;
    sem_t *wake;
    struct spsc events;
    struct event event; /* being written */
    pthread_t thread;
    bool started;
    _Atomic bool flush, stop, ended, finished;
    _Atomic int64_t deadline_ns;
    _Atomic uint64_t progress;
    /* Each stream takes them over where its next utterance begins. */
    pthread_mutex_t settings_lock;
    struct live_settings settings;  /* under the lock */
    _Atomic unsigned settings_told; /* grows with each change, under the lock */
};

/* --- events ------------------------------------------------------------------------------------------------- */

static int64_t to_ms(const struct stream *s, int64_t sample)
{
    return (sample + s->skipped) * 1000 / SAMPLE_RATE;
}

static struct event *begin_event(struct captioner *c, struct stream *s, enum event_type type)
{
    struct event *e = &c->event;
    memset(e, 0, offsetof(struct event, words));
    e->text[0] = '\0';
    e->type = type;
    e->stream = s->index;
    e->utt = s->utt;
    e->lag_ms = -1;
    return e;
}

/* The loop never blocks, so a full queue empties soon; nothing is dropped here. */
static void send_event(struct captioner *c)
{
    while (!spsc_push(&c->events, &c->event, 1)) {
        c->options.wake(c->options.wake_ctx);
        struct timespec ms = {.tv_nsec = 1000000};
        nanosleep(&ms, NULL);
        atomic_fetch_add(&c->progress, 1);
    }
    c->options.wake(c->options.wake_ctx);
}

static void send_gap(struct captioner *c, struct stream *s, int64_t start, int64_t n_samples,
                     enum gap_cause cause)
{
    struct event *e = begin_event(c, s, EVENT_GAP);
    e->start_ms = to_ms(s, start);
    e->lost_ms = n_samples * 1000 / SAMPLE_RATE;
    e->end_ms = e->start_ms + e->lost_ms;
    e->cause = cause;
    send_event(c);
}

/* The device's state as the captions have got to it: an input has ended when its last words are out. */
static enum stream_state state_of(const struct stream *s)
{
    enum stream_state state = atomic_load(&s->in->state);
    if (state == STREAM_ENDED && !s->ended)
        state = STREAM_LISTENING;
    return state == STREAM_LISTENING && s->open ? STREAM_SPEECH : state;
}

static void send_status(struct captioner *c, struct stream *s, bool quiet)
{
    struct event *e = begin_event(c, s, EVENT_STATUS);
    e->quiet = quiet;
    e->state = state_of(s);
    e->start_ms = e->end_ms = to_ms(s, ring_head(&s->in->ring));
    e->queue_ms = s->open ? (int)((atomic_load(&s->in->judged) - s->seen) * 1000 / SAMPLE_RATE) : 0;
    e->rtf = s->rtf;
    e->level_db = (float)atomic_load(&s->in->level_cdb) / 100.0f;
    e->overruns = atomic_load(&s->in->overruns);
    intake_describe(s->in, e->device, sizeof(e->device), e->message, sizeof(e->message));
    s->state_told = (int)e->state;
    s->status_ns = clock_now_ns();
    send_event(c);
}

static void maybe_send_status(struct captioner *c, struct stream *s)
{
    int state = (int)state_of(s);
    bool stuck = atomic_load(&s->in->stuck);
    if (state != s->state_told || stuck != s->stuck_told) {
        s->stuck_told = stuck;
        send_status(c, s, false);
    } else if (c->options.realtime && !s->ended && clock_now_ns() - s->status_ns >= STATUS_PERIOD_NS) {
        s->heartbeats = (s->heartbeats + 1) % HEARTBEATS_A_WORD;
        send_status(c, s, s->heartbeats != 0);
    }
}

static int64_t lag_ms(const struct captioner *c, const struct stream *s, int64_t sample)
{
    if (!c->options.realtime)
        return -1;
    int64_t spoken_ns = atomic_load(&s->in->origin_ns) + (sample + s->skipped) * NS_A_SAMPLE;
    int64_t lag = (clock_now_ns() - spoken_ns) / 1000000;
    return lag > 0 ? lag : 0;
}

static void finish_commit(struct captioner *c, struct stream *s, const struct word *last)
{
    c->event.lag_ms = lag_ms(c, s, last->end);
    send_event(c);
}

/* Tells of an utterance. One that goes on from the one before (after a flush, say) is told with its first word, since perhaps
 * nothing follows; without this there would be an empty `final`. */
static void announce(struct captioner *c, struct stream *s)
{
    if (s->announced)
        return;
    s->announced = true;
    s->utt++;
    s->rev = 0;
    struct event *e = begin_event(c, s, EVENT_SPEECH_START);
    e->start_ms = e->end_ms = to_ms(s, s->utt_start);
    send_event(c);
}

static void send_commits(struct captioner *c, struct stream *s, const struct live_output *out)
{
    struct event *e = NULL;
    size_t used = 0;
    if (out->n_committed > 0)
        announce(c, s);
    for (int i = 0; i < out->n_committed; i++) {
        const struct word *w = &out->committed[i];
        size_t n = strlen(w->text);
        if (n >= EVENT_TEXT_MAX)
            n = utf8_complete_prefix(w->text, EVENT_TEXT_MAX - 1);
        if (e && (used + n >= EVENT_TEXT_MAX || e->n_words == EVENT_WORDS_MAX)) {
            finish_commit(c, s, w - 1);
            e = NULL;
        }
        if (!e) {
            e = begin_event(c, s, EVENT_COMMIT);
            e->start_ms = to_ms(s, w->start);
            strncpy(e->language, out->language ? out->language : "", sizeof(e->language) - 1);
            used = 0;
        }
        e->words[e->n_words++] = (struct event_word){.offset = (uint16_t)used,
                                                     .length = (uint16_t)n,
                                                     .start_ms = to_ms(s, w->start),
                                                     .end_ms = to_ms(s, w->end),
                                                     .probability = w->probability};
        memcpy(e->text + used, w->text, n);
        used += n;
        e->text[used] = '\0';
        e->end_ms = to_ms(s, w->end);
        s->word_end = w->end;
    }
    if (e)
        finish_commit(c, s, &out->committed[out->n_committed - 1]);
}

static void send_partial(struct captioner *c, struct stream *s, const struct live_output *out)
{
    bool empty = !out->partial || !out->partial[0];
    if (empty && !s->partial_shown)
        return;
    announce(c, s);
    struct event *e = begin_event(c, s, EVENT_PARTIAL);
    e->rev = ++s->rev;
    e->start_ms = to_ms(s, empty ? s->seen : out->partial_start);
    e->end_ms = to_ms(s, empty ? s->seen : out->partial_end);
    if (!empty) {
        size_t n = strlen(out->partial);
        if (n >= EVENT_TEXT_MAX)
            n = utf8_complete_prefix(out->partial, EVENT_TEXT_MAX - 1);
        memcpy(e->text, out->partial, n);
        e->text[n] = '\0';
    }
    s->partial_shown = !empty;
    send_event(c);
}

static void send_final(struct captioner *c, struct stream *s, int64_t end, enum final_reason reason)
{
    if (!s->announced)
        return;
    struct event *e = begin_event(c, s, EVENT_FINAL);
    e->start_ms = to_ms(s, s->utt_start);
    e->end_ms = to_ms(s, end);
    e->reason = reason;
    s->partial_shown = s->announced = false;
    send_event(c);
}

/* --- utterances --------------------------------------------------------------------------------------------- */

static bool new_settings(struct captioner *c, const struct stream *s)
{
    return s->settings_taken != atomic_load(&c->settings_told);
}

static void take_settings(struct captioner *c, struct stream *s)
{
    if (!new_settings(c, s))
        return;
    pthread_mutex_lock(&c->settings_lock);
    live_set(s->live, &c->settings);
    s->settings_taken = atomic_load(&c->settings_told);
    pthread_mutex_unlock(&c->settings_lock);
}

static void open_utterance(struct captioner *c, struct stream *s, int64_t start)
{
    take_settings(c, s);
    if (start < ring_tail(&s->in->ring))
        start = ring_tail(&s->in->ring);
    s->open = true;
    s->utt_start = s->seen = s->word_end = start;
    live_begin(s->live, start, s->joinable ? ring_tail(&s->in->ring) : start, false);
}

static void close_utterance(struct captioner *c, struct stream *s, int64_t end, enum final_reason reason)
{
    send_final(c, s, end, reason);
    s->open = false;
    s->joinable = reason == FINAL_SILENCE;
    s->seen = end;
}

/* One pass over everything from the live buffer's start up to `end`. */
static int pass(struct captioner *c, struct stream *s, int64_t end, enum live_update_kind kind)
{
    struct ring *ring = &s->in->ring;
    int64_t start = live_buffer_start(s->live);
    int before = start - ring_tail(ring) < BEFORE ? (int)(start - ring_tail(ring)) : BEFORE;
    const float *pcm = ring_span(ring, start - before, (size_t)(end - start + before));
    if (!pcm)
        return -ERANGE;
    struct live_output out;
    struct err err = {0};
    int64_t began = clock_now_ns();
    int r = live_update(s->live, pcm + before, (int)(end - start), before, kind, &out, &err);
    float took = (float)(clock_now_ns() - began) * 1e-9f;
    s->pass_s += 0.2f * (took - s->pass_s);
    float heard = (float)(end - s->seen) / SAMPLE_RATE;
    if (heard > 0.0f)
        s->rtf += 0.2f * (took / heard - s->rtf);
    atomic_fetch_add(&c->progress, 1);
    if (r < 0)
        return r;
    s->seen = end;
    send_commits(c, s, &out);
    if (kind == LIVE_TICK)
        send_partial(c, s, &out);
    return 0;
}

/* The tentative words are kept, the audio after them is given up. */
static void abandon(struct captioner *c, struct stream *s, int64_t until, enum gap_cause cause)
{
    struct live_output out;
    live_abandon(s->live, &out);
    send_commits(c, s, &out);
    if (until > s->seen)
        send_gap(c, s, s->seen, until - s->seen, cause);
    s->seen = until;
}

/* The gate tells the end of speech when silence has lasted, and ticks have heard some of that. The last pass leaves it out,
 * so that nothing is made up from it. */
static void finish_utterance(struct captioner *c, struct stream *s, int64_t end, enum final_reason reason)
{
    if (end < live_buffer_start(s->live))
        end = live_buffer_start(s->live);
    bool heard = pass(c, s, end, LIVE_FINAL) >= 0;
    if (!heard)
        abandon(c, s, end, GAP_ENGINE);
    close_utterance(c, s, end > s->word_end ? end : s->word_end, reason);
    s->joinable &= heard;
}

/* Somebody who never pauses still gets finals: the utterance is ended after its last committed word, while the words in
 * flight go on in the next one. With new settings they do not: those are for whole utterances. */
static void limit_utterance(struct captioner *c, struct stream *s)
{
    if ((s->seen - s->utt_start) * 1000 / SAMPLE_RATE < c->options.max_utterance_ms ||
        s->word_end <= s->utt_start)
        return;
    if (new_settings(c, s)) {
        int64_t end = s->seen;
        finish_utterance(c, s, end, FINAL_MAX_LEN);
        open_utterance(c, s, end);
        return;
    }
    send_final(c, s, s->word_end, FINAL_MAX_LEN);
    s->utt_start = s->word_end;
}

static void tick(struct captioner *c, struct stream *s, int64_t at)
{
    int64_t unheard_ms = (at - s->seen) * 1000 / SAMPLE_RATE;
    bool too_late = c->options.realtime && unheard_ms > c->options.max_lag_ms;
    if (too_late || at - live_buffer_start(s->live) > WINDOW) {
        /* The machine cannot keep up: say so, and go on with what is being said now. */
        abandon(c, s, at, GAP_OVERLOAD);
        close_utterance(c, s, at, FINAL_MAX_LEN);
        open_utterance(c, s, at);
        return;
    }
    if (pass(c, s, at, LIVE_TICK) < 0) {
        abandon(c, s, at, GAP_ENGINE);
        close_utterance(c, s, at, FINAL_DEVICE);
        open_utterance(c, s, at);
        return;
    }
    limit_utterance(c, s);
}

static void act_on_mark(struct captioner *c, struct stream *s)
{
    struct mark *m = &s->mark;
    s->has_mark = false;
    switch (m->type) {
    case MARK_START:
        if (!s->open) {
            open_utterance(c, s, m->at);
            announce(c, s);
        }
        break;
    case MARK_END:
        if (s->open)
            finish_utterance(c, s, m->at, FINAL_SILENCE);
        break;
    case MARK_SKIP:
        if (s->open)
            finish_utterance(c, s, m->at, FINAL_DEVICE);
        send_gap(c, s, m->at, m->skip, m->cause);
        s->skipped += m->skip;
        break;
    case MARK_EOF:
        if (s->open)
            finish_utterance(c, s, m->at, FINAL_EOF);
        s->ended = true;
        break;
    }
}

/* --- the thread --------------------------------------------------------------------------------------------- */

static void take_mark(struct stream *s)
{
    if (!s->has_mark)
        s->has_mark = spsc_pop(&s->in->marks, &s->mark, 1) == 1;
}

/* Whether the next utterance may still begin soon enough to go on in the buffer of the last one. A start is known
 * less than a second after it. */
static bool may_join(const struct stream *s, int64_t judged)
{
    int64_t join = (int64_t)LIVE_JOIN_MS * SAMPLE_RATE / 1000;
    if (!s->joinable)
        return false;
    return s->has_mark ? s->mark.type == MARK_START && s->mark.at - s->seen <= join
                       : judged - s->seen <= join + SAMPLE_RATE;
}

/* Lets go of what nobody needs any more. Marks may lag far behind `judged` where sound comes faster than it is
 * transcribed, so the next one holds its own samples. */
static void release(struct stream *s, int64_t judged)
{
    take_mark(s);
    int64_t keep = judged - IDLE_KEEP;
    if (s->open || may_join(s, judged))
        keep = live_buffer_start(s->live) - BEFORE;
    else if (s->has_mark && s->mark.at - BEFORE < keep)
        keep = s->mark.at - BEFORE;
    if (keep > ring_tail(&s->in->ring)) {
        ring_release(&s->in->ring, keep);
        sem_post(&s->in->room);
    }
}

/* Does the next thing that is due in the stream's own time. Returns false when nothing is. */
static bool advance(struct captioner *c, struct stream *s)
{
    if (s->ended)
        return false;
    int64_t judged = atomic_load_explicit(&s->in->judged, memory_order_acquire);
    take_mark(s);
    int64_t step = (int64_t)c->options.step_ms * SAMPLE_RATE / 1000;
    int64_t next_tick = INT64_MAX;
    if (s->open && judged - s->seen >= step)
        next_tick = c->options.realtime ? judged : s->seen + step;
    bool acted = true;
    bool due = s->has_mark && s->mark.known <= judged;
    /* In real time a mark that is due has happened already: a tick before it would only add delay. */
    if (due && (c->options.realtime || s->mark.known <= next_tick))
        act_on_mark(c, s);
    else if (next_tick != INT64_MAX)
        tick(c, s, next_tick);
    else
        acted = false;
    release(s, judged);
    return acted;
}

static bool all_ended(const struct captioner *c)
{
    for (int i = 0; i < c->n_streams; i++) {
        if (!c->streams[i].ended)
            return false;
    }
    return true;
}

static void flush_all(struct captioner *c)
{
    for (int i = 0; i < c->n_streams; i++) {
        struct stream *s = &c->streams[i];
        if (!s->open)
            continue;
        int64_t judged = atomic_load_explicit(&s->in->judged, memory_order_acquire);
        finish_utterance(c, s, judged, FINAL_FLUSH);
        open_utterance(c, s, judged);
    }
}

/* The last words, as far as the deadline allows: a pass is only begun when it is likely to end in time. */
static void finish_all(struct captioner *c)
{
    for (int i = 0; i < c->n_streams; i++) {
        struct stream *s = &c->streams[i];
        if (!s->open)
            continue;
        int64_t judged = atomic_load_explicit(&s->in->judged, memory_order_acquire);
        int64_t expected_ns = (int64_t)((s->pass_s > 0.05f ? s->pass_s : 0.5f) * 1.5e9f);
        if (judged - live_buffer_start(s->live) > WINDOW ||
            clock_now_ns() + expected_ns > atomic_load(&c->deadline_ns)) {
            abandon(c, s, judged, GAP_SHUTDOWN);
            close_utterance(c, s, judged, FINAL_FLUSH);
        } else {
            finish_utterance(c, s, judged, FINAL_FLUSH);
        }
    }
}

static void wait_for_audio(struct captioner *c)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 250000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    sem_timedwait(c->wake, &until);
    while (sem_trywait(c->wake) == 0)
        continue;
}

static void *run(void *arg)
{
    struct captioner *c = arg;
    while (!atomic_load(&c->stop)) {
        bool acted = false;
        if (atomic_exchange(&c->flush, false))
            flush_all(c);
        /* One step a stream and round, so that none starves. */
        for (int i = 0; i < c->n_streams && !atomic_load(&c->stop); i++) {
            acted |= advance(c, &c->streams[i]);
            maybe_send_status(c, &c->streams[i]);
        }
        atomic_fetch_add(&c->progress, 1);
        if (all_ended(c) && !atomic_exchange(&c->ended, true))
            c->options.wake(c->options.wake_ctx);
        if (!acted)
            wait_for_audio(c);
    }
    finish_all(c);
    atomic_store(&c->finished, true);
    c->options.wake(c->options.wake_ctx);
    return NULL;
}

/* --- life --------------------------------------------------------------------------------------------------- */

static int create_stream(struct captioner *c, int i, struct intake *in, struct err *err)
{
    struct stream *s = &c->streams[i];
    struct live_options live = {
        .audio_slot = i,
        .text_slot = i * c->options.n_text_slots,
        .settings = c->options.settings,
        .draft = c->options.draft,
        .max_buffer_ms = c->options.max_buffer_ms,
    };
    s->in = in;
    s->index = i;
    s->state_told = STREAM_STARTING;
    return live_create(c->model, c->tokenizer, &live, &s->live, err);
}

int captioner_create(const struct captioner_options *options, struct text_model *model,
                     const struct tokenizer *tokenizer, struct intake *const *inputs, int n_inputs,
                     sem_t *wake, struct captioner **out, struct err *err)
{
    struct captioner *c = aligned_alloc(CACHE_LINE, (sizeof(*c) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    if (!c)
        return err_set(err, -ENOMEM, "out of memory for the captioner");
    memset(c, 0, sizeof(*c));
    c->options = *options;
    c->model = model;
    c->tokenizer = tokenizer;
    c->wake = wake;
    pthread_mutex_init(&c->settings_lock, NULL);
    int r = spsc_init(&c->events, sizeof(struct event), EVENTS_MAX);
    if (r < 0) {
        captioner_destroy(c);
        return err_set(err, r, "out of memory for the captioner's events");
    }
    for (int i = 0; i < n_inputs; i++) {
        r = create_stream(c, i, inputs[i], err);
        if (r < 0) {
            captioner_destroy(c);
            return r;
        }
        c->n_streams++;
    }
    *out = c;
    return 0;
}

int captioner_start(struct captioner *c, struct err *err)
{
    int r = pthread_create(&c->thread, NULL, run, c);
    if (r)
        return err_set(err, -r, "cannot start the captioner's thread: %s", strerror(r));
    c->started = true;
    return 0;
}

bool captioner_next_event(struct captioner *c, struct event *event)
{
    return spsc_pop(&c->events, event, 1) == 1;
}

void captioner_flush(struct captioner *c)
{
    atomic_store(&c->flush, true);
    sem_post(c->wake);
}

void captioner_set(struct captioner *c, const struct live_settings *settings)
{
    pthread_mutex_lock(&c->settings_lock);
    c->settings = *settings;
    atomic_fetch_add(&c->settings_told, 1);
    pthread_mutex_unlock(&c->settings_lock);
}

bool captioner_ended(const struct captioner *c)
{
    return atomic_load(&c->ended);
}

uint64_t captioner_progress(const struct captioner *c)
{
    return atomic_load(&c->progress);
}

void captioner_stop(struct captioner *c, int64_t deadline_ns)
{
    atomic_store(&c->deadline_ns, deadline_ns);
    atomic_store(&c->stop, true);
    sem_post(c->wake);
}

bool captioner_finished(const struct captioner *c)
{
    return !c->started || atomic_load(&c->finished);
}

void captioner_destroy(struct captioner *c)
{
    if (!c)
        return;
    if (c->started)
        pthread_join(c->thread, NULL);
    for (int i = 0; i < c->n_streams; i++)
        live_destroy(c->streams[i].live);
    spsc_finish(&c->events);
    pthread_mutex_destroy(&c->settings_lock);
    free(c);
}
