/* From sound to events: the model, the batcher, the inputs and the captioner, put together as the configuration says.
 *
 * open may take seconds and belongs on a worker thread; everything else but pipeline_stop_inputs returns at once. The
 * threads inside are the intakes', the batcher's and the captioner's own. From open to close the model is the batcher's. */
#ifndef CAPTIOND_DAEMON_PIPELINE_H
#define CAPTIOND_DAEMON_PIPELINE_H

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "daemon/batcher.h"
#include "daemon/captioner.h"
#include "daemon/config.h"
#include "daemon/model_path.h"
#include "daemon/whisper_model.h"

struct pipeline {
    struct whisper_model model;
    char model_path[MODEL_PATH_MAX];
    struct intake *inputs[STREAMS_MAX];
    int n_inputs;
    int beams_max; /* hypotheses that an input can have: the engine searches, and has text slots for them */
    int beams_wanted;              /* which were asked for at the start, and may be more */
    struct live_settings settings; /* of decoding, at first */
    struct batcher *batcher;
    struct captioner *captioner;
    sem_t wake[STREAMS_MAX]; /* of the captioner's threads */
    bool inputs_stuck;       /* a sound server holds one: the process must end instead of closing */
    bool refused;            /* pipeline_open has failed, over settings that the model cannot have */
    /* The engine that was opened, and the host engine in its place. The batcher's thread writes the second and then says so. */
    struct whisper_options options;
    char engine_names[2][64];
    _Atomic int engine; /* which of them it is */
    bool falls_back;    /* the host engine may take the place of a device */
    struct err lost;    /* before `failed` */
    _Atomic bool failed;
    void (*wake_loop)(void *ctx);
    void *wake_ctx;
    uint64_t progress, captioner_seen, batcher_seen;
};

/* The model's name or path: what "auto" stands for depends on language and task. */
const char *pipeline_model_name(const struct config *);

/* ISO code of the language that is set, in static storage; NULL: to be heard. */
const char *pipeline_language(const struct config *);

/* A configuration that asks for as many hypotheses as at the start gets those that there was room for. */
void pipeline_fit(const struct pipeline *, struct config *);

/* What the configuration says of decoding, in the form that captioner_set takes. 0; -EINVAL where the model cannot do it, or
 * not in the memory that was taken at the start; -E2BIG; -ENOMEM. */
int pipeline_settings(const struct pipeline *, const struct config *, struct live_settings *, struct err *);

/* Loads the model, opens the inputs and takes all memory. paused: bits of the inputs that begin in a pause. `wake` is called
 * from any thread after events were queued, or the engine has changed. 0, or a negative errno with a message; then nothing
 * is left but `refused`. The configuration is borrowed, and fitted (pipeline_fit). */
int pipeline_open(struct pipeline *, struct config *, unsigned paused, void (*wake)(void *ctx), void *ctx,
                  struct err *);

/* The engine in use, for people; borrowed until close. Changes when a device is lost. */
const char *pipeline_engine_name(const struct pipeline *);

/* Whether the engine was lost and nothing can take its place: captions have ended. The message is filled in then. */
bool pipeline_failed(const struct pipeline *, struct err *);

/* Loop: grows while both batcher and captioner make progress. */
uint64_t pipeline_progress(struct pipeline *);

/* Asks captioner and batcher to come to an end; see captioner_stop. */
void pipeline_stop(struct pipeline *, int64_t deadline_ns);

/* Starts the threads. On failure pipeline_stop and pipeline_close still follow. */
int pipeline_start(struct pipeline *, struct err *);

void pipeline_pause(struct pipeline *, unsigned streams, bool pause);

/* Whether a sound server keeps the device of this input for good. */
bool pipeline_stuck(const struct pipeline *, int input);

/* Whether this input, a file or a pipe, has ended because it could not be read on. */
bool pipeline_input_failed(const struct pipeline *, int input);

/* Whether any input is a device, which cannot wait. */
bool pipeline_is_live(const struct pipeline *);

/* Milliseconds of audio that have reached the ring of each input. */
void pipeline_heard_ms(const struct pipeline *, int64_t *ms);

/* Milliseconds in each input's ring from which on an open utterance is not decoded; −1: none is open. */
void pipeline_undecoded_ms(const struct pipeline *, int64_t *ms);

/* Ends the inputs; waits for them, timeout_ms at most, so it belongs on a worker thread. */
void pipeline_stop_inputs(struct pipeline *, int timeout_ms);

/* Joins what runs and frees. After pipeline_stop and pipeline_stop_inputs, and not where inputs_stuck. Zeroed objects are
 * accepted. */
void pipeline_close(struct pipeline *);

#endif
