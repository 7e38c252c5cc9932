/* One input from its source to the ring: a thread that reads, resamples, judges speech and keeps the clock.
 *
 * The intake thread owns the source, the resampler and the gate. It hands the captioner samples through the
 * ring and everything that happened through marks, in the order of the sample index. A mark is in the queue
 * before `judged` passes the sample at which it became known, so a reader that looks at `judged` first and
 * drains the marks then misses none up to it. It may meet a mark that became known beyond the `judged` it saw, and must
 * not act on it before: then what it does depends on the sound alone, not on how the threads were scheduled.
 *
 * The sample index counts what is in the ring. Where audio was lost (device away or paused, ring full) a MARK_SKIP
 * says how much the stream's clock runs ahead of the index from there on. */
#ifndef CAPTIOND_DAEMON_INTAKE_H
#define CAPTIOND_DAEMON_INTAKE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "daemon/base/err.h"
#include "daemon/base/spsc.h"
#include "daemon/event.h"
#include "stream/gate.h"
#include "stream/ring.h"
#include "stream/source.h"

#define INTAKE_RING_SECONDS 64 /* 30 s for the window, the rest for a captioner that lags */

enum mark_type {
    MARK_START, /* an utterance begins at `at` */
    MARK_END,   /* it ended before `at`; reason says why */
    MARK_SKIP,  /* from `at` on the clock is `skip` samples further ahead; cause says why */
    MARK_EOF,   /* nothing comes after `at` */
};

struct mark {
    enum mark_type type;
    int64_t at;    /* sample index */
    int64_t known; /* the index that had been judged when this became known; ascends */
    int64_t skip;
    enum gap_cause cause;
    enum final_reason reason;
};

struct intake_options {
    const char *name;     /* of the stream; borrowed */
    const char *spec;     /* of the source; borrowed */
    bool paced;           /* files and pipes: at the speed of the clock */
    int max_lag_ms;       /* what a captioner may fall behind; half of it a paced pipe may run ahead */
    bool wait_for_device; /* a missing device is waited for from the start on */
    bool paused;          /* from the start on: a device is not even opened before that ends */
    struct gate_options gate;
    sem_t *wake; /* posted after each block, for the captioner */
    int (*open)(const char *spec, struct source **, struct err *); /* NULL: source_open */
};

struct intake {
    struct intake_options options;
    struct ring ring;
    void *storage;
    size_t storage_bytes;
    struct spsc marks;         /* struct mark: intake → captioner */
    _Atomic int64_t judged;    /* samples the gate has seen */
    _Atomic int64_t origin_ns; /* CLOCK_MONOTONIC at the stream's clock 0, by the newest sample; 0 before */
    sem_t room;                /* posted by the captioner when it has released samples */

    /* Said by intake, read by anyone. */
    _Atomic int state; /* enum stream_state, the device's: LISTENING, SILENT, NO_DEVICE, PAUSED, ENDED */
    _Atomic bool
        stuck; /* the sound server keeps the source for good: the thread has ended, only a new process helps */
    _Atomic bool failed;      /* a file or pipe has ended because it could not be read on; message says why */
    _Atomic int level_cdb;    /* RMS of the last 100 ms, 1/100 dB relative to full scale */
    _Atomic int64_t overruns; /* samples lost because they were not read, or not captioned, in time */
    pthread_mutex_t text_lock; /* guards the two strings: taken for a copy only */
    char device[128];
    char message[256];

    /* Said by others, read by intake. */
    _Atomic bool stop, pause;

    /* The intake thread's own. */
    pthread_t thread;
    bool started;
    bool live;
    struct source *source;
    pthread_mutex_t source_lock; /* so that wake never meets a closing source */
    struct resampler *resampler;
    struct gate gate;
    int64_t lost; /* samples that the next MARK_SKIP is to tell of: overrun, or come to a pipe in a pause */
    int64_t skipped;           /* sum of all skips: the clock minus the index */
    int64_t heard_ns;          /* live: when the newest sample was heard; the clock's 0 before the first */
    bool heard;                /* live: sound has been taken: from then on what is dropped is missed */
    bool away;                 /* no sound since the device was lost, paused or found missing */
    enum gap_cause away_cause; /* why */
    int backoff_ms;            /* before the next attempt to open */
    int64_t zeros;             /* newest samples in a row that were exactly 0 */
    double level_sum;
    int level_n;
    int64_t start_ns; /* pacing: when the clock's 0 is due; of a pipe, as it was last found empty */
    int64_t empty_ns; /* pacing: since when a pipe has been found empty; 0: it was not */
    bool stalled;     /* for too long */
};

/* Takes all memory and opens the source, but for a device in a pause. A device that is missing is an error only without
 * wait_for_device; a bad file always is. Nothing is left to destroy on failure. */
int intake_create(const struct intake_options *, struct intake **, struct err *);

/* Starts the thread. 0 or a negative errno. */
int intake_start(struct intake *, struct err *);

/* Ends an open utterance and closes (or reopens) the device. What is written to a pipe meanwhile is thrown away, or, unless
 * it is paced, left to be read afterwards, like the rest of a file. Any thread. */
void intake_pause(struct intake *, bool pause);

/* Has the thread end, which intake_stop waits for. */
void intake_ask_stop(struct intake *);

/* Ends the thread. 0, or -ETIMEDOUT when the sound server does not let go of the source: then the intake must not be
 * destroyed and the process should end soon. Idempotent. */
int intake_stop(struct intake *, int timeout_ms);

/* After intake_stop and the captioner's end. NULL is accepted. */
void intake_destroy(struct intake *);

/* Copies device name and message for people, and returns the state that they are of. Any thread. */
enum stream_state intake_describe(struct intake *, char *device, size_t device_size, char *message,
                                  size_t message_size);

#endif
