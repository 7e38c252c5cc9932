/* The hub: every event passes through it once, becomes one line, and is there for any number of readers.
 *
 * Readers (a client's connection, standard output) pull: each has a place in the history and is poked when there is
 * something new; how fast it reads is its own affair. So nobody waits for a slow reader and nothing is queued for
 * it: what it has not read is in the bounded history anyway, and if the history has moved past its place it is told by
 * a `missed` line. Partials are not in the history. The hub keeps the newest of each stream; a reader gets it once it
 * has read all that came before, so partials coalesce for the slow, and order is kept. Heartbeats likewise.
 *
 * No I/O here. Belongs to the loop's thread. */
#ifndef CAPTIOND_DAEMON_HUB_H
#define CAPTIOND_DAEMON_HUB_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/err.h"
#include "daemon/event.h"
#include "daemon/journal.h"
#include "daemon/message.h"
#include "daemon/protocol.h"
#include "daemon/stats.h"

struct hub_stream {
    const char *name;        /* borrowed */
    struct event status;     /* the latest, heartbeats and samples included */
    int64_t open_utt;        /* 0: none */
    int64_t open_seq;        /* of its speech_start */
    int64_t open_ms;         /* where it began */
    struct message *told;    /* the latest status that was told, kept when the history has moved past it */
    int64_t heard_ms;        /* where the captions have got to: end of the last commit, final or gap */
    int64_t skipped_ms;      /* audio that never reached the ring: clock minus samples heard */
    struct message *partial; /* the newest; NULL: none, or superseded */
    int64_t partial_after;   /* it belongs behind this seq */
    struct message *beat;    /* the newest heartbeat; NULL: none, or superseded by what was told */
    int64_t n_beats;
    bool text_cut;
    size_t text_n;
    char text[PROTOCOL_TEXT_MAX]; /* of the open utterance: its commits joined */
};

struct reader {
    struct reader *next, **link;   /* in the hub's list */
    void (*poke)(struct reader *); /* there is something to read; may call hub_read, must not detach others */
    int64_t next_seq;
    int64_t present_end; /* up to here only what describes the present is wanted, see hub_attach */
    int64_t present_utt[STREAMS_MAX];
    unsigned status_due;     /* streams whose status is older than the history */
    unsigned types, streams; /* bit sets of what is wanted */
    struct {
        int64_t utt;
        int rev;
    } partial_told[STREAMS_MAX];
    int64_t beat_told[STREAMS_MAX];
};

struct hub {
    struct journal journal;
    struct hub_stream *streams; /* [n_streams] */
    int n_streams;
    const char *names[STREAMS_MAX];
    char session[PROTOCOL_SESSION_MAX];
    int64_t t0_ns; /* CLOCK_MONOTONIC where the audio clocks began; set by the owner with model and engine */
    struct reader *readers;
    struct stats *stats;
    const char *model, *engine;
    bool news;  /* since the last poke */
    char *line; /* [PROTOCOL_LINE_MAX] scratch */
};

struct hub_options {
    const char *const *stream_names; /* borrowed for the hub's life */
    int n_streams;
    int64_t history_events;
    size_t history_bytes;
    struct stats *stats; /* borrowed */
};

/* Takes all memory and draws the session's name. 0, -ENOMEM, or the errno of the random source. */
int hub_init(struct hub *, const struct hub_options *, struct err *);
void hub_finish(struct hub *); /* NULL and zeroed objects are accepted; readers must be detached */

/* Numbers the event and puts its line into the history; but for partials and heartbeats, and samples are only remembered. */
void hub_publish(struct hub *, const struct event *);

/* Pokes every reader if there is something new: once after all events that were waiting, so that they leave in one
 * write. */
void hub_poke(struct hub *);

/* Says for every utterance that is still open that its rest was not transcribed: a gap up to now_ms[stream], then a final.
 * Of one that has not been told (it only goes on from the one before) the rest begins at undecoded_ms[stream], −1 where there is
 * none, and the gap is all. For an end that cannot wait for the captioner. */
void hub_close_utterances(struct hub *, const int64_t *undecoded_ms, const int64_t *now_ms);

enum { HUB_FROM_PRESENT = -1 };

/* Adds a reader; its poke, types and streams are set by the caller. It begins at from_seq, or with what makes the present
 * complete: the latest status of every stream and the events of utterances that are open. */
void hub_attach(struct hub *, struct reader *, int64_t from_seq);
void hub_detach(struct reader *); /* does nothing where it is not attached */

/* The next lines for the reader: at most `max` messages, ended once they have max_bytes together. References go to
 * the caller. Returns their number, 0 when it is up to date. */
int hub_read(struct hub *, struct reader *, struct message **, int max, size_t max_bytes);

/* Events that the reader has not read. */
int64_t hub_unread(const struct hub *, const struct reader *);

/* What the reader has not read is more than half of what the history can hold, so that it may soon forget some of it. Looks at each
 * unread event. */
bool hub_nearly_forgets(const struct hub *, const struct reader *);

/* The line that every connection begins with; a reference for the caller. NULL: no memory. */
struct message *hub_hello(struct hub *);

#endif
