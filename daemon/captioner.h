/* The captioner: turns every input's audio into events, with a thread for each stream.
 *
 * A stream's thread sleeps until its intake wakes it, looks how far the stream has been judged, and acts on whichever comes
 * first in the stream's own time: a mark or a tick. With pace fast a tick falls after every step of audio, so the
 * stream's output is the same on every machine and whatever else is captioned; in real time a tick takes everything that has
 * arrived. Between utterances no model work is done. Events leave through an SPSC queue for each stream; the loop is woken by
 * a callback. */
#ifndef CAPTIOND_DAEMON_CAPTIONER_H
#define CAPTIOND_DAEMON_CAPTIONER_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/err.h"
#include "daemon/event.h"
#include "daemon/intake.h"
#include "decoder/live.h"
#include "decoder/text_model.h"
#include "decoder/tokenizer.h"

struct captioner_options {
    bool realtime;
    int step_ms;          /* audio between passes, at least */
    int max_buffer_ms;    /* see decoder/live.h */
    int max_lag_ms;       /* unheard audio beyond this is given up as a gap; real time only */
    int max_utterance_ms; /* a longer utterance is ended between two words */
    bool draft;           /* see decoder/live.h */
    int n_text_slots; /* a stream, no fewer than any beam_size: stream i has those from i · n_text_slots on */
    struct live_settings settings; /* at first */
    void (*wake)(void *ctx);       /* called after events were queued; any thread; must not block */
    void *wake_ctx;
};

struct captioner;

/* Takes all memory for the given inputs (1 to STREAMS_MAX, borrowed, each with a semaphore of its own to wake). models: one for
 * each stream, borrowed (the array is not); from start to stop it belongs to the stream's thread. */
int captioner_create(const struct captioner_options *, struct text_model *const *models,
                     const struct tokenizer *, struct intake *const *inputs, int n_inputs,
                     struct captioner **, struct err *);
/* On failure captioner_stop and captioner_destroy follow. */
int captioner_start(struct captioner *, struct err *);

/* Loop: takes the next event. False when there is none. */
bool captioner_next_event(struct captioner *, struct event *);

/* Any thread: ends the open utterances at what has been heard (all of them). */
void captioner_flush(struct captioner *);

/* Any thread: copies settings. They hold from each stream's next utterance on, and where nobody pauses from the end that
 * max_utterance_ms makes, what has been heard then being finished as by a flush. */
void captioner_set(struct captioner *, const struct live_settings *);

/* Any thread: true once every input has ended and every event of theirs is in the queue. */
bool captioner_ended(const struct captioner *);

/* Loop: grows when each of the threads has made progress, waiting for sound included, since it last grew. waiting: a bit for
 * each that waits for the engine, whose progress is another's affair. */
uint64_t captioner_progress(struct captioner *, unsigned waiting);

/* Loop: asks the threads to finish the open words by the deadline (CLOCK_MONOTONIC, ns); what is undecoded then becomes a
 * gap. Does not wait; captioner_finished tells when it is done. */
void captioner_stop(struct captioner *, int64_t deadline_ns);
bool captioner_finished(const struct captioner *);

/* Any thread: the sample from which on a stream's open utterance is not decoded, be it one that clients have not heard of; −1: none
 * is open. For an end that cannot wait. */
int64_t captioner_undecoded(const struct captioner *, int stream);

/* Joins the threads (after captioner_stop) and frees. NULL is accepted. */
void captioner_destroy(struct captioner *);

#endif
