#include "tools/recording.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream/gate.h"
#include "stream/resample.h"
#include "stream/source.h"

#define READ_TIMEOUT_MS 1000

/* Makes room for `more` samples. */
static int reserve(struct recording *r, int64_t *capacity, int64_t more, struct err *err)
{
    if (r->n_samples + more <= *capacity)
        return 0;
    int64_t wanted = 2 * (r->n_samples + more);
    float *pcm = realloc(r->pcm, (size_t)wanted * sizeof(*pcm));
    if (!pcm)
        return err_set(err, -ENOMEM, "no memory for the recording");
    r->pcm = pcm;
    *capacity = wanted;
    return 0;
}

/* Reads everything the source has into r. */
static int drain(struct source *source, struct resampler *resampler, float *frames, struct recording *r,
                 struct err *err)
{
    int64_t capacity = 0;
    for (;;) {
        int n = source->v->read(source, frames, RESAMPLER_FRAMES_MAX, READ_TIMEOUT_MS, err);
        bool last = n == SOURCE_EOF;
        if (n == SOURCE_TIMEOUT)
            continue;
        if (n < 0 && !last)
            return n;
        n = last ? 0 : n;
        int status = reserve(r, &capacity, resampler_output_max(resampler, n), err);
        if (status < 0)
            return status;
        n = resampler_run(resampler, frames, n, last, r->pcm + r->n_samples, err);
        if (n < 0)
            return n;
        r->n_samples += n;
        if (last)
            return 0;
    }
}

int recording_read(const char *path, struct recording *out, struct err *err)
{
    char spec[4096 + 8];
    if (snprintf(spec, sizeof(spec), "file:%s", path) >= (int)sizeof(spec))
        return err_set(err, -ENAMETOOLONG, "the path is too long");
    struct source *source = NULL;
    struct resampler *resampler = NULL;
    struct recording r = {0};
    int status = source_open(spec, &source, err);
    if (status < 0)
        return status;
    int channels = source->info.channels;
    float *frames = malloc((size_t)RESAMPLER_FRAMES_MAX * (size_t)channels * sizeof(*frames));
    if (!frames) {
        status = err_set(err, -ENOMEM, "no memory for the recording");
        goto out;
    }
    status = resampler_create(source->info.rate, channels, &resampler, err);
    if (status == 0)
        status = drain(source, resampler, frames, &r, err);
out:
    resampler_destroy(resampler);
    free(frames);
    source->v->close(source);
    if (status < 0)
        recording_free(&r);
    else
        *out = r;
    return status;
}

void recording_free(struct recording *r)
{
    free(r->pcm);
    memset(r, 0, sizeof(*r));
}

/* --- speech --- */

struct region_list {
    struct longform_region *regions;
    int n, capacity;
};

static int add_region(struct region_list *list, int64_t start, int64_t end)
{
    if (list->n == list->capacity) {
        int wanted = list->capacity ? 2 * list->capacity : 64;
        struct longform_region *regions = realloc(list->regions, (size_t)wanted * sizeof(*regions));
        if (!regions)
            return -ENOMEM;
        list->regions = regions;
        list->capacity = wanted;
    }
    list->regions[list->n++] = (struct longform_region){.start = start, .end = end};
    return 0;
}

/* A span ends with the recording unless an event says otherwise. */
static int take_event(struct region_list *list, const struct gate_event *event, int64_t n_samples)
{
    if (event->type == GATE_START)
        return add_region(list, event->at, n_samples);
    if (event->type == GATE_END && list->n > 0)
        list->regions[list->n - 1].end = event->at;
    return 0;
}

int recording_find_speech(const struct recording *r, struct longform_region **regions, struct err *err)
{
    /* Nobody waits here, so the gate may be generous. */
    const struct gate_options options = {.enabled = true,
                                         .threshold = 0.5f,
                                         .min_speech_ms = 100,
                                         .min_silence_ms = 2000,
                                         .pre_roll_ms = 400,
                                         .pad_ms = 400};
    struct region_list list = {0};
    struct gate gate;
    struct gate_event event;
    int status = 0;
    gate_init(&gate, &options, 0);
    for (int64_t at = 0; status == 0 && at < r->n_samples;) {
        int64_t left = r->n_samples - at;
        at += gate_process(&gate, r->pcm + at, left < RECORDING_RATE ? (int)left : RECORDING_RATE, &event);
        status = take_event(&list, &event, r->n_samples);
    }
    if (status == 0) {
        gate_finish(&gate, &event);
        status = take_event(&list, &event, r->n_samples);
    }
    if (status < 0) {
        free(list.regions);
        return err_set(err, status, "no memory for the spans of speech");
    }
    *regions = list.regions;
    return list.n;
}
