/* Sound between a device's callback and its reader: a queue of frames that knows what was lost between them.
 *
 * One thread pushes and never waits, one takes. What finds no room is counted, and the count comes out in front of
 * the frames that follow, so that the reader can tell where each belongs. */
#ifndef CAPTIOND_STREAM_FRAME_FIFO_H
#define CAPTIOND_STREAM_FRAME_FIFO_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/spsc.h"

/* n frames were lost before the frame that is the at-th in the queue. */
struct frame_gap {
    int64_t at, n;
};

struct frame_fifo {
    int channels;
    struct spsc frames; /* float */
    struct spsc gaps;   /* struct frame_gap */

    /* The producer's own. */
    _Alignas(CACHE_LINE) int64_t n_pushed; /* frames that went in */
    int64_t n_lost;                        /* since the last that did */
    int64_t n_delivered;                   /* both, ever */

    /* The consumer's own. */
    _Alignas(CACHE_LINE) int64_t n_taken; /* frames that came out */
    int64_t n_passed;                     /* with the lost ones before them */
    struct frame_gap gap;                 /* the next one */
    bool has_gap;
};

/* Room for min_frames frames or more. 0 or -ENOMEM. */
int frame_fifo_init(struct frame_fifo *, int channels, int min_frames);
void frame_fifo_finish(struct frame_fifo *); /* NULL and zeroed objects are accepted */

/* Producer: n frames never arrived. */
void frame_fifo_lose(struct frame_fifo *, int64_t n);

/* Producer: n interleaved frames, all or, where they do not fit, none; NULL: frames without sound, which are lost. */
void frame_fifo_push(struct frame_fifo *, const float *frames, int64_t n);

/* Consumer: up to max frames that followed one another, and in *n_dropped how many were lost since the last call's
 * frames: before these, or, where it returns 0, before those to come. */
int frame_fifo_take(struct frame_fifo *, float *frames, int max, int64_t *n_dropped);

#endif
