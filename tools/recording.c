#include "tools/recording.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stream/gate.h"
#include "stream/resample.h"
#include "stream/source.h"

#define READ_TIMEOUT_MS 1000
#define STDIN_BYTES_MAX ((int64_t)1 << 32) /* two days of speech in 16 bits */

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

/* Reads everything the source has into r, or what comes before a damaged place. */
static int drain(struct source *source, struct resampler *resampler, float *frames, struct recording *r,
                 struct err *err)
{
    int64_t capacity = 0;
    for (;;) {
        int n = source->v->read(source, frames, RESAMPLER_FRAMES_MAX, READ_TIMEOUT_MS, &r->damage);
        bool last = n < 0;
        if (n == SOURCE_TIMEOUT)
            continue;
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

/* What source_open would say of these is about the daemon's inputs. */
static int check_path(const char *path, struct err *err)
{
    struct stat st;
    if (!path[0])
        return err_set(err, -EINVAL, "an empty file name");
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return err_set(err, -EINVAL, "%s is not a regular file; for a pipe use - as the name", path);
    return 0;
}

int recording_read(const char *path, struct recording *out, struct err *err)
{
    char spec[4096 + 8];
    if (snprintf(spec, sizeof(spec), "file:%s", path) >= (int)sizeof(spec))
        return err_set(err, -ENAMETOOLONG, "the path is too long");
    struct source *source = NULL;
    struct resampler *resampler = NULL;
    struct recording r = {0};
    int status = check_path(path, err);
    if (status < 0)
        return status;
    status = source_open(spec, &source, err);
    if (status < 0)
        return status;
    int channels = source->info.channels;
    r.seconds_told = source->info.n_frames < 0 ? -1.0 : (double)source->info.n_frames / source->info.rate;
    float *frames = malloc((size_t)RESAMPLER_FRAMES_MAX * (size_t)channels * sizeof(*frames));
    if (!frames)
        status = err_set(err, -ENOMEM, "no memory for the recording");
    if (status == 0)
        status = resampler_create(source->info.rate, channels, &resampler, err);
    if (status == 0)
        status = drain(source, resampler, frames, &r, err);
    if (status < 0)
        err_prefix(err, "%s", path);
    else if (r.damage.code && r.n_samples == 0)
        status = err_set(err, r.damage.code, "%s", r.damage.msg);
    resampler_destroy(resampler);
    free(frames);
    source->v->close(source);
    if (status < 0)
        recording_free(&r);
    else
        *out = r;
    return status;
}

/* Copies standard input to memory that looks like a file. A descriptor or a negative errno. */
static int copy_stdin(struct err *err)
{
    char block[1 << 16];
    int64_t total = 0;
    int fd = memfd_create("standard input", MFD_CLOEXEC);
    if (fd < 0)
        return err_set(err, -errno, "no memory for standard input: %s", strerror(errno));
    for (;;) {
        ssize_t n = read(STDIN_FILENO, block, sizeof(block)), written = 0;
        for (ssize_t part; n > 0 && written < n; written += part) {
            part = write(fd, block + written, (size_t)(n - written));
            if (part < 0)
                break;
        }
        if (n == 0)
            return fd;
        total += written;
        if (n < 0 || written < n || total > STDIN_BYTES_MAX) {
            int error = total > STDIN_BYTES_MAX ? EFBIG : errno;
            int status = err_set(err, -error, "cannot read standard input: %s", strerror(error));
            close(fd);
            return status;
        }
    }
}

/* Puts in an error what the user knows in the place of what we have made of it. */
static void name_stdin(struct err *err, const char *path)
{
    struct err said = *err;
    if (said.code && strncmp(said.msg, path, strlen(path)) == 0)
        err_set(err, said.code, "standard input%s", said.msg + strlen(path));
}

int recording_read_stdin(struct recording *out, struct err *err)
{
    char path[64];
    int fd = copy_stdin(err);
    if (fd < 0)
        return fd;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int status = recording_read(path, out, err);
    close(fd);
    name_stdin(status < 0 ? err : &out->damage, path);
    return status;
}

void recording_free(struct recording *r)
{
    free(r->pcm);
    memset(r, 0, sizeof(*r));
}

/* --- speech --- */

/* Nobody waits here, so that speech is given much more room than in live captions: what the gate takes for the last
 * breath of a sentence may be its last word, and a model mishears speech whose surroundings are missing. Pauses that are
 * no longer than PAUSE_MOST, a window, are left as they are, in the middle and at both ends: what is cut out of a
 * recording is only what would cost windows of its own. */
#define MARGIN       SAMPLE_RATE       /* 1 s of a longer pause stays before and after speech */
#define SPEECH_LEAST (SAMPLE_RATE / 4) /* no shorter burst makes a span of its own: 250 ms */
#define PAUSE_MOST   (30 * SAMPLE_RATE)

struct span_list {
    struct longform_region *spans;
    int n, capacity;
};

static int add_span(struct span_list *list, int64_t start, int64_t end)
{
    if (list->n == list->capacity) {
        int wanted = list->capacity ? 2 * list->capacity : 64;
        struct longform_region *spans = realloc(list->spans, (size_t)wanted * sizeof(*spans));
        if (!spans)
            return -ENOMEM;
        list->spans = spans;
        list->capacity = wanted;
    }
    list->spans[list->n++] = (struct longform_region){.start = start, .end = end};
    return 0;
}

/* A burst of speech ends with the recording unless an event says otherwise. */
static int take_event(struct span_list *list, const struct gate_event *event, int64_t n_samples)
{
    if (event->type == GATE_START)
        return add_span(list, event->at, n_samples);
    if (event->type == GATE_END && list->n > 0)
        list->spans[list->n - 1].end = event->at;
    return 0;
}

/* Every burst of speech, however short, without margins. */
static int find_bursts(const struct recording *r, struct span_list *list)
{
    const struct gate_options options = {.enabled = true, .threshold = GATE_THRESHOLD};
    struct gate gate;
    struct gate_event event;
    int status = 0;
    gate_init(&gate, &options, 0);
    for (int64_t at = 0; status == 0 && at < r->n_samples;) {
        int64_t left = r->n_samples - at;
        at += gate_process(&gate, r->pcm + at, left < SAMPLE_RATE ? (int)left : SAMPLE_RATE, &event);
        status = take_event(list, &event, r->n_samples);
    }
    if (status == 0) {
        gate_finish(&gate, &event);
        status = take_event(list, &event, r->n_samples);
    }
    return status;
}

/* Joins bursts with short pauses between them and leaves out what has no burst of speech worth the name. In place;
 * returns the number of spans. */
static int join(struct longform_region *spans, int n, int64_t n_samples)
{
    int kept = 0;
    for (int i = 0, next; i < n; i = next) {
        struct longform_region span = spans[i];
        int64_t longest = span.end - span.start;
        for (next = i + 1; next < n && spans[next].start - span.end <= PAUSE_MOST; next++) {
            int64_t length = spans[next].end - spans[next].start;
            longest = length > longest ? length : longest;
            span.end = spans[next].end;
        }
        if (longest < SPEECH_LEAST)
            continue;
        span.start = span.start > PAUSE_MOST ? span.start - MARGIN : 0;
        span.end = span.end < n_samples - PAUSE_MOST ? span.end + MARGIN : n_samples;
        spans[kept++] = span;
    }
    return kept;
}

int recording_find_speech(const struct recording *r, struct recording_speech *out, struct err *err)
{
    struct span_list list = {0};
    struct longform_region *regions = NULL;
    int status = find_bursts(r, &list);
    if (status == 0 && list.n > 0) {
        regions = malloc((size_t)list.n * sizeof(*regions));
        status = regions ? 0 : -ENOMEM;
    }
    if (status < 0) {
        free(list.spans);
        return err_set(err, -ENOMEM, "no memory for the spans of speech");
    }
    if (regions)
        memcpy(regions, list.spans, (size_t)list.n * sizeof(*regions));
    *out = (struct recording_speech){.regions = regions,
                                     .n_regions = join(regions, list.n, r->n_samples),
                                     .bursts = list.spans,
                                     .n_bursts = list.n};
    return 0;
}

void recording_speech_free(struct recording_speech *s)
{
    free(s->regions);
    free(s->bursts);
    memset(s, 0, sizeof(*s));
}
