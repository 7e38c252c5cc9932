#include "daemon/hub.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/base/clock.h"
#include "daemon/base/utf8.h"

_Static_assert((int)MESSAGE_SPEECH_START == EVENT_SPEECH_START && (int)MESSAGE_STATUS == EVENT_STATUS,
               "a message's type is its event's");

int hub_init(struct hub *hub, const struct hub_options *options, struct err *err)
{
    struct hub h = {.n_streams = options->n_streams, .stats = options->stats, .model = "", .engine = ""};
    uint64_t random[2];
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return err_set(err, -errno, "no random numbers: %s", strerror(errno));
    snprintf(h.session, sizeof(h.session), "%016" PRIx64 "%016" PRIx64, random[0], random[1]);
    h.line = malloc(PROTOCOL_LINE_MAX);
    h.streams = calloc((size_t)h.n_streams, sizeof(*h.streams));
    if (!h.line || !h.streams ||
        journal_init(&h.journal, options->history_events, options->history_bytes) < 0) {
        free(h.line);
        free(h.streams);
        return err_set(err, -ENOMEM, "out of memory for the history");
    }
    for (int i = 0; i < h.n_streams; i++) {
        h.names[i] = h.streams[i].name = options->stream_names[i];
        h.streams[i].status.level_db = -120.0f;
    }
    *hub = h;
    return 0;
}

static void drop(struct message **m)
{
    message_unref(*m);
    *m = NULL;
}

void hub_finish(struct hub *hub)
{
    if (!hub)
        return;
    for (int i = 0; hub->streams && i < hub->n_streams; i++) {
        drop(&hub->streams[i].partial);
        drop(&hub->streams[i].beat);
        message_unref(hub->streams[i].told);
    }
    if (hub->journal.ring)
        journal_finish(&hub->journal);
    free(hub->streams);
    free(hub->line);
    *hub = (struct hub){0};
}

/* --- publishing ---------------------------------------------------------------------------------------------- */

static void append_text(struct hub_stream *s, const char *text)
{
    size_t n = strlen(text), room = sizeof(s->text) - s->text_n;
    if (s->text_cut)
        return;
    if (n > room) {
        n = utf8_complete_prefix(text, room);
        s->text_cut = true;
    }
    memcpy(s->text + s->text_n, text, n);
    s->text_n += n;
}

/* What the stream's state becomes by the event, before its line is written. */
static void follow(struct hub *hub, struct hub_stream *s, const struct event *e, int64_t seq)
{
    struct stats *stats = hub->stats;
    switch (e->type) {
    case EVENT_SPEECH_START:
        s->open_utt = e->utt;
        s->open_seq = seq;
        s->open_ms = e->start_ms;
        s->heard_ms = e->start_ms;
        s->text_n = 0;
        s->text_cut = false;
        break;
    case EVENT_COMMIT:
        drop(&s->partial);
        append_text(s, e->text);
        s->heard_ms = e->end_ms;
        stats->commits++;
        stats->words += (uint64_t)e->n_words;
        if (e->lag_ms >= 0)
            histogram_add(&stats->commit_lag, (double)e->lag_ms);
        break;
    case EVENT_FINAL:
        drop(&s->partial);
        s->heard_ms = e->end_ms;
        stats->finals++;
        break;
    case EVENT_GAP:
        s->heard_ms = e->start_ms + e->lost_ms;
        if (e->cause == GAP_DEVICE || e->cause == GAP_OVERRUN || e->cause == GAP_PAUSE)
            s->skipped_ms += e->lost_ms;
        stats->gaps++;
        stats->lost_ms += e->lost_ms;
        break;
    case EVENT_STATUS:
        break;
    case EVENT_PARTIAL:
        stats->partials++;
        break;
    }
    stats->events++;
}

static struct message *write_message(struct hub *hub, const struct event *e, int64_t seq)
{
    struct hub_stream *s = &hub->streams[e->stream];
    struct protocol_text text = {.text = s->text, .n = s->text_n, .cut = s->text_cut};
    size_t n = protocol_write_event(hub->line, PROTOCOL_LINE_MAX, e, seq, s->name, text);
    struct message *m = n ? message_create((enum message_type)e->type, hub->line, n) : NULL;
    if (m) {
        m->stream = e->stream;
        m->utt = e->utt;
        m->rev = e->rev;
    }
    return m;
}

void hub_poke(struct hub *hub)
{
    int64_t began = clock_now_ns();
    if (!hub->news)
        return;
    hub->news = false;
    for (struct reader *r = hub->readers, *next; r; r = next) {
        next = r->next;
        r->poke(r);
    }
    if (hub->readers)
        histogram_add(&hub->stats->fanout, (double)(clock_now_ns() - began) * 1e-6);
}

void hub_publish(struct hub *hub, const struct event *e)
{
    struct hub_stream *s = &hub->streams[e->stream];
    if (e->type == EVENT_STATUS) {
        s->status = *e;
        if (e->use == STATUS_SAMPLE)
            return;
    }
    bool beat = e->type == EVENT_STATUS && e->use == STATUS_HEARTBEAT;
    int64_t seq = e->type == EVENT_PARTIAL || beat ? 0 : hub->journal.next;
    follow(hub, s, e, seq);
    struct message *m = write_message(hub, e, seq);
    hub->news = true;
    if (!m)
        abort(); /* out of memory: an event would be lost silently */
    if (seq) {
        journal_append(&hub->journal, m);
        if (e->type == EVENT_STATUS) {
            message_unref(s->told);
            s->told = message_ref(m);
            drop(&s->beat);
        }
        message_unref(m);
    } else if (beat) {
        drop(&s->beat);
        s->beat = m;
        s->n_beats++;
    } else {
        drop(&s->partial);
        s->partial = m;
        s->partial_after = hub->journal.next - 1;
    }
    if (e->type == EVENT_FINAL)
        s->open_utt = 0;
}

void hub_close_utterances(struct hub *hub, const int64_t *undecoded_ms, const int64_t *now_ms)
{
    for (int i = 0; i < hub->n_streams; i++) {
        struct hub_stream *s = &hub->streams[i];
        bool told = s->open_utt;
        if (!told && undecoded_ms[i] < 0)
            continue;
        struct event e = {.type = EVENT_GAP, .stream = i, .utt = s->open_utt, .cause = GAP_SHUTDOWN};
        e.start_ms = told ? s->heard_ms : undecoded_ms[i];
        e.lost_ms = now_ms[i] - e.start_ms;
        if (e.lost_ms > 0)
            hub_publish(hub, &e);
        if (!told)
            continue;
        e.type = EVENT_FINAL;
        e.reason = FINAL_FLUSH;
        e.start_ms = s->open_ms;
        e.end_ms = s->heard_ms;
        hub_publish(hub, &e);
    }
}

struct message *hub_hello(struct hub *hub)
{
    const struct protocol_hello hello = {
        .session = hub->session,
        .model = hub->model,
        .engine = hub->engine,
        .seq = hub->journal.next - 1,
        .oldest_seq = hub->journal.oldest,
        .t0_unix_ms = clock_unix_ms_at(hub->t0_ns),
        .streams = hub->names,
        .n_streams = hub->n_streams,
    };
    size_t n = protocol_write_hello(hub->line, PROTOCOL_LINE_MAX, &hello);
    return message_create(MESSAGE_OTHER, hub->line, n);
}

/* --- reading ------------------------------------------------------------------------------------------------- */

static void begin_with_present(struct hub *hub, struct reader *r)
{
    r->present_end = hub->journal.next - 1;
    r->next_seq = hub->journal.next;
    for (int i = 0; i < hub->n_streams; i++) {
        const struct hub_stream *s = &hub->streams[i];
        r->present_utt[i] = s->open_utt;
        int64_t first = s->open_utt ? s->open_seq : hub->journal.next;
        if (s->told && s->told->seq < hub->journal.oldest)
            r->status_due |= 1u << i;
        else if (s->told && s->told->seq < first)
            first = s->told->seq;
        if (first < r->next_seq)
            r->next_seq = first;
    }
    /* The beginning of a very long utterance may have left the history; nothing was promised about it. */
    if (r->next_seq < hub->journal.oldest)
        r->next_seq = hub->journal.oldest;
}

void hub_attach(struct hub *hub, struct reader *r, int64_t from_seq)
{
    hub_detach(r);
    r->present_end = 0;
    r->status_due = 0;
    r->next_seq = from_seq;
    for (int i = 0; i < STREAMS_MAX; i++) {
        r->partial_told[i].utt = 0;
        r->beat_told[i] = 0;
    }
    if (from_seq == HUB_FROM_PRESENT)
        begin_with_present(hub, r);
    else if (r->next_seq < 1)
        r->next_seq = 1;
    else if (r->next_seq > hub->journal.next)
        r->next_seq = hub->journal.next;
    r->next = hub->readers;
    r->link = &hub->readers;
    if (r->next)
        r->next->link = &r->next;
    hub->readers = r;
}

void hub_detach(struct reader *r)
{
    if (!r->link)
        return;
    *r->link = r->next;
    if (r->next)
        r->next->link = r->link;
    r->next = NULL;
    r->link = NULL;
}

static bool wants(const struct hub *hub, const struct reader *r, const struct message *m)
{
    if (!(r->types >> m->type & 1) || !(r->streams >> m->stream & 1))
        return false;
    if (m->seq == 0 || m->seq > r->present_end)
        return true;
    return m->type == MESSAGE_STATUS ? m == hub->streams[m->stream].told
                                     : m->utt && m->utt == r->present_utt[m->stream];
}

static struct message *next_partial(struct hub *hub, struct reader *r)
{
    for (int i = 0; i < hub->n_streams; i++) {
        struct hub_stream *s = &hub->streams[i];
        struct message *m = s->partial;
        if (!m || (r->partial_told[i].utt == m->utt && r->partial_told[i].rev == m->rev) ||
            s->partial_after >= r->next_seq || !wants(hub, r, m))
            continue;
        r->partial_told[i].utt = m->utt;
        r->partial_told[i].rev = m->rev;
        return message_ref(m);
    }
    return NULL;
}

static struct message *next_beat(struct hub *hub, struct reader *r)
{
    for (int i = 0; i < hub->n_streams; i++) {
        struct hub_stream *s = &hub->streams[i];
        if (!s->beat || r->beat_told[i] == s->n_beats || !wants(hub, r, s->beat))
            continue;
        r->beat_told[i] = s->n_beats;
        return message_ref(s->beat);
    }
    return NULL;
}

/* Statuses that are no longer in the history, the oldest first. */
static struct message *next_status(struct hub *hub, struct reader *r)
{
    struct message *oldest = NULL;
    for (int i = 0; i < hub->n_streams; i++) {
        struct message *m = hub->streams[i].told;
        if (r->status_due >> i & 1 && m->seq <= r->present_end && wants(hub, r, m) &&
            (!oldest || m->seq < oldest->seq))
            oldest = m;
    }
    r->status_due = oldest ? r->status_due & ~(1u << oldest->stream) : 0;
    return oldest ? message_ref(oldest) : NULL;
}

/* NULL: up to date. */
static struct message *next_message(struct hub *hub, struct reader *r)
{
    const struct journal *j = &hub->journal;
    struct message *status = r->status_due ? next_status(hub, r) : NULL;
    if (status)
        return status;
    if (r->next_seq < j->oldest) {
        size_t n = protocol_write_missed(hub->line, PROTOCOL_LINE_MAX, r->next_seq, j->oldest - 1);
        hub->stats->missed += (uint64_t)(j->oldest - r->next_seq);
        r->next_seq = j->oldest;
        return message_create(MESSAGE_OTHER, hub->line, n);
    }
    while (r->next_seq < j->next) {
        struct message *m = journal_get(j, r->next_seq++);
        if (wants(hub, r, m))
            return message_ref(m);
    }
    struct message *m = next_partial(hub, r);
    return m ? m : next_beat(hub, r);
}

int hub_read(struct hub *hub, struct reader *r, struct message **out, int max, size_t max_bytes)
{
    size_t bytes = 0;
    int n = 0;
    while (n < max && bytes < max_bytes) {
        struct message *m = next_message(hub, r);
        if (!m)
            break;
        out[n++] = m;
        bytes += m->size;
    }
    return n;
}

int64_t hub_unread(const struct hub *hub, const struct reader *r)
{
    return hub->journal.next - r->next_seq;
}

bool hub_nearly_forgets(const struct hub *hub, const struct reader *r)
{
    const struct journal *j = &hub->journal;
    return 2 * (j->next - r->next_seq) > j->capacity || 2 * journal_bytes_from(j, r->next_seq) > j->bytes_max;
}
