#include "stream/frame_fifo.h"

#include <errno.h>
#include <string.h>

#define GAPS_MAX 64

int frame_fifo_init(struct frame_fifo *f, int channels, int min_frames)
{
    memset(f, 0, sizeof(*f));
    f->channels = channels;
    if (spsc_init(&f->frames, sizeof(float), (size_t)min_frames * (size_t)channels) < 0 ||
        spsc_init(&f->gaps, sizeof(struct frame_gap), GAPS_MAX) < 0) {
        frame_fifo_finish(f);
        return -ENOMEM;
    }
    return 0;
}

void frame_fifo_finish(struct frame_fifo *f)
{
    if (!f)
        return;
    spsc_finish(&f->frames);
    spsc_finish(&f->gaps);
}

void frame_fifo_lose(struct frame_fifo *f, int64_t n)
{
    f->n_lost += n;
    f->n_delivered += n;
}

void frame_fifo_push(struct frame_fifo *f, const float *frames, int64_t n)
{
    const struct frame_gap gap = {.at = f->n_pushed, .n = f->n_lost};
    size_t n_samples = (size_t)n * (size_t)f->channels;
    bool fits = frames && f->frames.capacity - spsc_count(&f->frames) >= n_samples;
    /* The gap goes in before the frames that follow it. */
    if (!fits || (f->n_lost > 0 && spsc_push(&f->gaps, &gap, 1) == 0)) {
        frame_fifo_lose(f, n);
        return;
    }
    spsc_push(&f->frames, frames, n_samples);
    f->n_pushed += n;
    f->n_delivered += n;
    f->n_lost = 0;
}

/* Frames up to the next gap; passes the gaps that are reached. */
static int64_t available(struct frame_fifo *f, int64_t *n_dropped)
{
    for (;;) {
        /* First the frames, then the gaps: one that comes in between lies behind these frames. */
        int64_t n = (int64_t)spsc_count(&f->frames) / f->channels;
        if (!f->has_gap)
            f->has_gap = spsc_pop(&f->gaps, &f->gap, 1) == 1;
        if (!f->has_gap || f->gap.at > f->n_taken + n)
            return n;
        if (f->gap.at > f->n_taken)
            return f->gap.at - f->n_taken;
        *n_dropped += f->gap.n;
        f->n_passed += f->gap.n;
        f->has_gap = false;
    }
}

int frame_fifo_take(struct frame_fifo *f, float *frames, int max, int64_t *n_dropped)
{
    *n_dropped = 0;
    int64_t n = available(f, n_dropped);
    n = n < max ? n : max;
    spsc_pop(&f->frames, frames, (size_t)n * (size_t)f->channels);
    f->n_taken += n;
    f->n_passed += n;
    return (int)n;
}
