/* A stream's utterances: which passes are made, over which sound, and what becomes of their words. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/captioner_state.h"
#include "daemon/log.h"

#define IDLE_KEEP (4 * SAMPLE_RATE) /* behind the newest sample: pre-roll, and speech until it is known */

static bool new_settings(const struct stream *s)
{
    return s->settings_taken != atomic_load(&s->captioner->settings_told);
}

static void take_settings(struct stream *s)
{
    if (!new_settings(s))
        return;
    pthread_mutex_lock(&s->captioner->settings_lock);
    live_set(s->live, &s->captioner->settings);
    s->settings_taken = atomic_load(&s->captioner->settings_told);
    pthread_mutex_unlock(&s->captioner->settings_lock);
}

/* The words of the open utterance up to here, or that they are lost, are on their way to the loop. */
static void told_up_to(struct stream *s, int64_t end)
{
    s->seen = end;
    atomic_store(&s->undecoded, end);
}

static void open_utterance(struct stream *s, int64_t start)
{
    take_settings(s);
    if (start < ring_tail(&s->in->ring))
        start = ring_tail(&s->in->ring);
    s->open = true;
    s->utt_start = s->word_end = start;
    told_up_to(s, start);
    live_begin(s->live, start, s->joinable ? ring_tail(&s->in->ring) : start);
}

static void close_utterance(struct stream *s, int64_t end, enum final_reason reason)
{
    caption_final(s, end, reason);
    s->open = false;
    s->joinable = reason == FINAL_SILENCE;
    s->seen = end;
    atomic_store(&s->undecoded, -1);
}

/* Once, until it is another reason or a pass works again: a broken engine fails every step. At the end what cannot be decoded
 * any more is no failure. */
static void tell_failure(struct stream *s, const struct err *why)
{
    if (atomic_load(&s->captioner->stop) || strcmp(why->msg, s->failure_told) == 0)
        return;
    snprintf(s->failure_told, sizeof(s->failure_told), "%s", why->msg);
    log_warning("%s: a pass has failed: %s", s->in->options.name, why->msg);
}

/* One pass over everything from the live buffer's start up to `end`. */
static int pass(struct stream *s, int64_t end, enum live_update_kind kind)
{
    struct err err = {0};
    struct ring *ring = &s->in->ring;
    int64_t start = live_buffer_start(s->live);
    int before = start - ring_tail(ring) < AUDIO_BESIDE ? (int)(start - ring_tail(ring)) : AUDIO_BESIDE;
    const float *pcm = ring_span(ring, start - before, (size_t)(end - start + before));
    if (!pcm) {
        int r = err_set(&err, -ERANGE, "its sound is not in memory any more");
        tell_failure(s, &err);
        return r;
    }
    struct live_output out;
    int64_t began = clock_now_ns();
    int r = live_update(s->live, pcm + before, (int)(end - start), before, kind, &out, &err);
    float took = (float)(clock_now_ns() - began) * 1e-9f;
    s->pass_s += 0.2f * (took - s->pass_s);
    float heard = end > s->seen ? (float)(end - s->seen) / SAMPLE_RATE : 0.0f;
    s->heard_s += 0.2f * (heard - s->heard_s);
    atomic_fetch_add(&s->progress, 1);
    if (r < 0) {
        tell_failure(s, &err);
        return r;
    }
    if (end > start) /* of nothing the engine is not asked */
        s->failure_told[0] = '\0';
    caption_commits(s, &out);
    told_up_to(s, end);
    if (kind == LIVE_TICK)
        caption_partial(s, &out);
    return 0;
}

/* Why a pass has failed: at the end there may be no time left for it. */
static enum gap_cause failure(const struct stream *s)
{
    return atomic_load(&s->captioner->stop) ? GAP_SHUTDOWN : GAP_ENGINE;
}

/* The tentative words are kept, the audio after them is given up. */
static void abandon(struct stream *s, int64_t until, enum gap_cause cause)
{
    struct live_output out;
    live_abandon(s->live, &out);
    caption_commits(s, &out);
    if (until > s->seen)
        caption_gap(s, s->seen, until - s->seen, cause);
    told_up_to(s, until);
}

/* Whether one pass can hear everything up to `end`. What has been heard may lie further back: it is cut off on the left, and its
 * words are kept. */
static bool fits(const struct stream *s, int64_t end)
{
    return end - s->seen <= AUDIO_WINDOW;
}

/* The gate tells the end of speech when silence has lasted, and ticks have heard some of that. The last pass leaves it out,
 * so that nothing is made up from it. */
static void finish_utterance(struct stream *s, int64_t end, enum final_reason reason)
{
    if (end < live_buffer_start(s->live))
        end = live_buffer_start(s->live);
    bool fitting = fits(s, end), heard = fitting && pass(s, end, LIVE_FINAL) >= 0;
    if (!heard)
        abandon(s, end, fitting ? failure(s) : GAP_OVERLOAD);
    close_utterance(s, end > s->word_end ? end : s->word_end, reason);
    s->joinable &= heard;
}

/* Somebody who never pauses still gets finals: the utterance is ended after its last committed word, while the words in
 * flight go on in the next one. With new settings they do not: those are for whole utterances. */
static void limit_utterance(struct stream *s)
{
    if ((s->seen - s->utt_start) * 1000 / SAMPLE_RATE < s->captioner->options.max_utterance_ms ||
        s->word_end <= s->utt_start)
        return;
    if (new_settings(s)) {
        int64_t end = s->seen;
        finish_utterance(s, end, FINAL_MAX_LEN);
        open_utterance(s, end);
        return;
    }
    caption_final(s, s->word_end, FINAL_MAX_LEN);
    s->utt_start = s->word_end;
    atomic_store(&s->undecoded, s->word_end); /* what is tentative behind it was told of that utterance */
}

static bool lags(const struct stream *s, int64_t judged)
{
    return is_realtime(s) && (judged - s->seen) * 1000 / SAMPLE_RATE > s->captioner->options.max_lag_ms;
}

static void tick(struct stream *s, int64_t at)
{
    if (lags(s, at) || !fits(s, at)) {
        /* The machine cannot keep up: say so, and go on with what is being said now. */
        abandon(s, at, GAP_OVERLOAD);
        close_utterance(s, at, FINAL_MAX_LEN);
        open_utterance(s, at);
        return;
    }
    if (pass(s, at, LIVE_TICK) < 0) {
        abandon(s, at, failure(s));
        close_utterance(s, at, FINAL_DEVICE);
        open_utterance(s, at);
        return;
    }
    limit_utterance(s);
}

/* Where speakers pause no tick may ever be due on a machine that cannot keep up. */
static void act_on_end(struct stream *s, const struct mark *m, int64_t judged)
{
    if (lags(s, judged)) {
        abandon(s, m->at, GAP_OVERLOAD);
        close_utterance(s, m->at, m->reason);
        s->joinable = false;
    } else {
        finish_utterance(s, m->at, m->reason);
    }
}

static void act_on_mark(struct stream *s, int64_t judged)
{
    struct mark *m = &s->mark;
    s->has_mark = false;
    switch (m->type) {
    case MARK_START:
        if (!s->open) {
            caption_status(s); /* the time of day, if it has changed, before what is said then */
            open_utterance(s, m->at);
            caption_announce(s);
        }
        break;
    case MARK_END:
        if (s->open)
            act_on_end(s, m, judged);
        break;
    case MARK_SKIP:
        if (s->open)
            finish_utterance(s, m->at, FINAL_DEVICE);
        caption_gap(s, m->at, m->skip, m->cause);
        s->skipped += m->skip;
        s->joinable = false;
        break;
    case MARK_EOF:
        if (s->open)
            finish_utterance(s, m->at, FINAL_EOF);
        s->ended = true;
        break;
    }
}

/* --- what is due -------------------------------------------------------------------------------------------- */

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
        keep = live_buffer_start(s->live) - AUDIO_BESIDE;
    else if (s->has_mark && s->mark.at - AUDIO_BESIDE < keep)
        keep = s->mark.at - AUDIO_BESIDE;
    if (keep > ring_tail(&s->in->ring)) {
        ring_release(&s->in->ring, keep);
        sem_post(&s->in->room);
    }
}

bool stream_advance(struct stream *s)
{
    if (s->ended)
        return false;
    int64_t judged = atomic_load_explicit(&s->in->judged, memory_order_acquire);
    take_mark(s);
    int64_t step = (int64_t)s->captioner->options.step_ms * SAMPLE_RATE / 1000;
    int64_t next_tick = INT64_MAX;
    if (s->open && judged - s->seen >= step)
        next_tick = is_realtime(s) ? judged : s->seen + step;
    bool acted = true;
    bool due = s->has_mark && s->mark.known <= judged;
    /* In real time a mark that is due has happened already: a tick before it would only add delay. */
    if (due && (is_realtime(s) || s->mark.known <= next_tick))
        act_on_mark(s, judged);
    else if (next_tick != INT64_MAX)
        tick(s, next_tick);
    else
        acted = false;
    release(s, judged);
    return acted;
}

/* --- the end --------------------------------------------------------------------------------------------------- */

void stream_flush(struct stream *s)
{
    if (!s->open)
        return;
    int64_t end = atomic_load_explicit(&s->in->judged, memory_order_acquire);
    if (!fits(s, end)) /* a file that is read faster than it is heard */
        end = s->seen;
    finish_utterance(s, end, FINAL_FLUSH);
    open_utterance(s, end);
}

/* With a last pass if there is time for one. */
static void finish_in_time(struct stream *s, int64_t end, enum final_reason reason)
{
    int64_t expected_ns = (int64_t)((s->pass_s > 0.05f ? s->pass_s : 0.5f) * 1.5e9f);
    if (!fits(s, end) || clock_now_ns() + expected_ns > atomic_load(&s->captioner->deadline_ns)) {
        abandon(s, end, GAP_SHUTDOWN);
        close_utterance(s, end, reason);
    } else {
        finish_utterance(s, end, reason);
    }
}

/* What has happened by now and was not come to yet is told as well. */
void stream_finish(struct stream *s)
{
    for (take_mark(s); s->has_mark && !s->ended; take_mark(s)) {
        if (s->open && s->mark.type != MARK_START) {
            s->has_mark = s->mark.type != MARK_END;
            finish_in_time(s, s->mark.at, s->mark.type == MARK_END ? s->mark.reason : FINAL_FLUSH);
        } else {
            act_on_mark(s, s->mark.at);
        }
    }
    int64_t judged = atomic_load_explicit(&s->in->judged, memory_order_acquire);
    if (s->open)
        finish_in_time(s, judged > s->seen ? judged : s->seen, FINAL_FLUSH);
}
