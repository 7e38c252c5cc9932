/* The batcher: the one thread that owns the model, and serves the captioner of every stream.
 *
 * Each stream has a text model of its own (decoder/text_model.h), a *client*, whose calls become requests: its thread sleeps
 * until the answer is there. A request has up to two stages, its encoding and then its runs (or logits), and the stage that
 * has waited longest says what is done next. An encoding is done by itself. Runs are done together: all that wait begin in
 * one pass, join those in work, and a few steps are made of all; who has ended leaves. So a stage
 * waits for what the other streams had asked before, one stage of each, and for the first passes of those that ride along: their
 * number is bounded, as each comes from an encoding that waits its turn.
 *
 * An encoding therefore never interrupts a run that was asked for earlier, but goes before the steps of later ones. With
 * one or two streams that talk at times this hardly matters; when several wait at once, all are encoded first and then
 * share their steps, which read the weights once for all rows. That is the least work where work is short.
 *
 * When the engine fails and there is a way to go on (options.take_over), requests that were not answered are done once more
 * on the new one. They are pure functions of what they hold; what an earlier request left in the engine (an encoded window, a
 * slot's cache, masks) is made again from what the batcher keeps. */
#ifndef CAPTIOND_DAEMON_BATCHER_H
#define CAPTIOND_DAEMON_BATCHER_H

#include "daemon/base/err.h"
#include "decoder/text_model.h"

struct batcher;

struct batcher_options {
    int n_clients; /* at most the model's audio slots */
    /* Batcher's thread: the engine has failed for the reason `cause`. Puts a model of the same shape in the place of *model
     * and returns 0, or a negative errno if there is none; not asked again then. NULL: there never is. */
    int (*take_over)(void *ctx, const struct err *cause, struct text_model **model, struct err *);
    void *ctx;
};

/* Starts the thread. The model is borrowed and belongs to it until batcher_destroy. */
int batcher_create(const struct batcher_options *, struct text_model *, struct batcher **, struct err *);

/* What client `i` is given, for one thread at a time; borrowed. It uses audio slot `i` alone, and text slots that no other
 * client uses. A run that does not fit is refused by `wait` only; encoded sound stays unchanged as long as runs read it. There
 * are no copy_slot, reset_scale, join and step. */
struct text_model *batcher_client(struct batcher *, int i);

/* Any thread: grows while the thread makes progress; idling and loading another engine are progress. */
uint64_t batcher_progress(const struct batcher *);

/* Any thread: which of the first 32 clients wait for an answer. */
unsigned batcher_waiting(const struct batcher *);

/* Any thread: what is not answered by then (CLOCK_MONOTONIC, ns) is refused with -ECANCELED, and all that is asked later. */
void batcher_stop(struct batcher *, int64_t deadline_ns);

/* Ends the thread and frees. No client may be in a call. NULL is accepted. */
void batcher_destroy(struct batcher *);

#endif
