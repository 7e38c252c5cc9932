/* What a stream tells the loop. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/base/clock.h"
#include "daemon/base/utf8.h"
#include "daemon/captioner_state.h"

#define STATUS_PERIOD_NS 500000000LL
/* By what the time of day at the clock's 0 moves before clients are told at once: a device's clock drifts less in a heartbeat's
 * time, and a pipe's writer may be ahead by up to 3 s. */
#define T0_MOVES_MS          1000
#define T0_MOVES_PIPE_MS     4000
#define STATUSES_A_HEARTBEAT 10 /* a status goes to the clients every 5 s, to `status` every 0.5 s */

static int64_t to_ms(const struct stream *s, int64_t sample)
{
    return sample_to_ms(sample + s->skipped);
}

static struct event *begin_event(struct stream *s, enum event_type type)
{
    struct event *e = &s->event;
    memset(e, 0, offsetof(struct event, words));
    e->text[0] = '\0';
    e->type = type;
    e->stream = s->index;
    e->utt = s->utt;
    e->lag_ms = -1;
    return e;
}

static void wake_loop(const struct stream *s)
{
    s->captioner->options.wake(s->captioner->options.wake_ctx);
}

/* The loop never blocks, so a full queue empties soon; nothing is dropped here. */
static void send_event(struct stream *s)
{
    while (!spsc_push(&s->events, &s->event, 1)) {
        wake_loop(s);
        struct timespec ms = {.tv_nsec = 1000000};
        nanosleep(&ms, NULL);
        atomic_fetch_add(&s->progress, 1);
    }
    wake_loop(s);
}

void caption_gap(struct stream *s, int64_t start, int64_t n_samples, enum gap_cause cause)
{
    struct event *e = begin_event(s, EVENT_GAP);
    e->start_ms = to_ms(s, start);
    e->lost_ms = to_ms(s, start + n_samples) - e->start_ms;
    e->cause = cause;
    send_event(s);
}

/* An input has ended when its last words are out. */
static bool is_early(const struct stream *s, enum stream_state state)
{
    return state == STREAM_ENDED && !s->ended;
}

/* The device's state as the captions have got to it. */
static enum stream_state state_of(const struct stream *s, enum stream_state state)
{
    if (is_early(s, state))
        state = STREAM_LISTENING;
    return state == STREAM_LISTENING && s->open ? STREAM_SPEECH : state;
}

/* A sound card's clock drifts, and it stops while the computer sleeps: the newest sample tells. */
static int64_t t0_unix_ms(const struct stream *s)
{
    int64_t origin_ns = atomic_load(&s->in->origin_ns);
    return is_realtime(s) && origin_ns ? clock_unix_ms_at(origin_ns) : 0;
}

static void send_status(struct stream *s, enum status_use use)
{
    struct event *e = begin_event(s, EVENT_STATUS);
    enum stream_state device =
        intake_describe(s->in, e->device, sizeof(e->device), e->message, sizeof(e->message));
    e->state = state_of(s, device);
    e->use = (int)e->state == s->state_told ? use : STATUS_NEWS; /* it may have changed just now */
    if (is_early(s, device))
        e->message[0] = '\0';
    e->start_ms = to_ms(s, ring_head(&s->in->ring));
    e->t0_unix_ms = t0_unix_ms(s);
    e->queue_ms = s->open ? (int)sample_to_ms(atomic_load(&s->in->judged) - s->seen) : 0;
    e->rtf = s->heard_s > 0.0f ? s->pass_s / s->heard_s : 0.0f;
    e->level_db = (float)atomic_load(&s->in->level_cdb) / 100.0f;
    e->overruns = atomic_load(&s->in->overruns);
    s->state_told = (int)e->state;
    s->t0_told = e->t0_unix_ms;
    s->status_ns = clock_now_ns();
    send_event(s);
}

void caption_status(struct stream *s)
{
    int state = (int)state_of(s, atomic_load(&s->in->state));
    bool stuck = atomic_load(&s->in->stuck);
    bool moved = llabs(t0_unix_ms(s) - s->t0_told) > (s->in->live ? T0_MOVES_MS : T0_MOVES_PIPE_MS);
    if (state != s->state_told || stuck != s->stuck_told || moved) {
        s->stuck_told = stuck;
        send_status(s, STATUS_NEWS);
    } else if (!s->ended && clock_now_ns() - s->status_ns >= STATUS_PERIOD_NS) {
        s->n_statuses = (s->n_statuses + 1) % STATUSES_A_HEARTBEAT;
        send_status(s, s->n_statuses ? STATUS_SAMPLE : STATUS_HEARTBEAT);
    }
}

static int64_t lag_ms(const struct stream *s, int64_t sample)
{
    if (!is_realtime(s))
        return -1;
    int64_t spoken_ns = atomic_load(&s->in->origin_ns) + (sample + s->skipped) * NS_A_SAMPLE;
    int64_t lag = (clock_now_ns() - spoken_ns) / 1000000;
    return lag > 0 ? lag : 0;
}

static void finish_commit(struct stream *s, const struct word *last)
{
    s->event.lag_ms = lag_ms(s, last->end);
    send_event(s);
}

void caption_announce(struct stream *s)
{
    if (s->announced)
        return;
    s->announced = true;
    s->utt++;
    s->rev = 0;
    struct event *e = begin_event(s, EVENT_SPEECH_START);
    e->start_ms = to_ms(s, s->utt_start);
    send_event(s);
}

void caption_commits(struct stream *s, const struct live_output *out)
{
    struct event *e = NULL;
    size_t used = 0;
    if (out->n_committed > 0)
        caption_announce(s);
    for (int i = 0; i < out->n_committed; i++) {
        const struct word *w = &out->committed[i];
        size_t n = strlen(w->text);
        if (n >= EVENT_TEXT_MAX)
            n = utf8_complete_prefix(w->text, EVENT_TEXT_MAX - 1);
        if (e && (used + n >= EVENT_TEXT_MAX || e->n_words == EVENT_WORDS_MAX)) {
            finish_commit(s, w - 1);
            e = NULL;
        }
        if (!e) {
            e = begin_event(s, EVENT_COMMIT);
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
        finish_commit(s, &out->committed[out->n_committed - 1]);
}

void caption_partial(struct stream *s, const struct live_output *out)
{
    bool empty = !out->partial || !out->partial[0];
    if (empty && !s->partial_shown)
        return;
    caption_announce(s);
    struct event *e = begin_event(s, EVENT_PARTIAL);
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
    send_event(s);
}

void caption_final(struct stream *s, int64_t end, enum final_reason reason)
{
    if (!s->announced)
        return;
    struct event *e = begin_event(s, EVENT_FINAL);
    e->start_ms = to_ms(s, s->utt_start);
    e->end_ms = to_ms(s, end);
    e->reason = reason;
    s->partial_shown = s->announced = false;
    send_event(s);
}
