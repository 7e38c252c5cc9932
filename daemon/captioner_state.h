/* Inside captioner.c, utterances.c and caption_events.c. */
#ifndef CAPTIOND_DAEMON_CAPTIONER_STATE_H
#define CAPTIOND_DAEMON_CAPTIONER_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "daemon/base/spsc.h"
#include "daemon/captioner.h"

/* One input's captions. All but the last block is its thread's own. */
struct stream {
    struct captioner *captioner;
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
    char failure_told[ERR_MSG_MAX]; /* why passes fail; empty once one has worked */
    unsigned settings_taken;        /* number of the newest settings that live has */
    int state_told;
    int64_t t0_told; /* time of day at the clock's 0, ms */
    int64_t status_ns;
    int n_statuses;     /* since the last heartbeat */
    float pass_s;       /* smoothed duration of a pass, waiting for other streams included */
    float heard_s;      /* the same of the new sound in a pass: a last one may have next to none */
    struct event event; /* being written */

    pthread_t thread;
    bool started;              /* loop */
    struct spsc events;        /* to the loop */
    _Atomic bool flush;        /* asked for */
    _Atomic int64_t undecoded; /* from this sample on; −1: no utterance is open */
    _Atomic uint64_t progress;
    uint64_t progress_seen; /* loop */
};

struct captioner {
    struct captioner_options options;
    struct stream *streams; /* [n_streams] */
    int n_streams;
    int next_stream;   /* loop: whose events come next */
    uint64_t progress; /* loop */
    _Atomic bool stop;
    _Atomic int64_t deadline_ns;
    _Atomic int n_ended, n_finished;
    /* Each stream takes them over where its next utterance begins. */
    pthread_mutex_t settings_lock;
    struct live_settings settings;  /* under the lock */
    _Atomic unsigned settings_told; /* grows with each change, under the lock */
};

/* Sound comes at the speed of the clock, and what is late is given up. */
static inline bool is_realtime(const struct stream *s)
{
    return s->captioner->options.realtime || s->in->live;
}

/* --- caption_events.c: what the loop is told; a stream's thread ---------------------------------------------- */

void caption_gap(struct stream *, int64_t start, int64_t n_samples, enum gap_cause);
/* When the state has changed, the time of day is another one, or nothing has been told for a while. */
void caption_status(struct stream *);
/* Tells of an utterance. One that goes on from the one before (after a flush, say) is told with its first word, since perhaps
 * nothing follows; without this there would be an empty `final`. */
void caption_announce(struct stream *);
void caption_commits(struct stream *, const struct live_output *);
void caption_partial(struct stream *, const struct live_output *);
void caption_final(struct stream *, int64_t end, enum final_reason);

/* --- utterances.c: from sound and marks to passes; a stream's thread ------------------------------------------ */

/* Does the next thing that is due in the stream's own time. Returns false when nothing is. */
bool stream_advance(struct stream *);
/* Ends the open utterance at what has been heard; the next begins there. */
void stream_flush(struct stream *);
/* The last words, as far as the deadline allows: a pass is only begun when it is likely to end in time. */
void stream_finish(struct stream *);

#endif
