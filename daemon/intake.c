#include "daemon/intake_feed.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/base/clock.h"
#include "daemon/log.h"
#include "stream/resample.h"

#define READ_FRAMES           1024
#define READ_TIMEOUT_MS       100
#define CHANNELS_MAX          64 /* what the resampler takes */
#define MARKS_MAX             256
#define BACKOFF_MS_MIN        250
#define BACKOFF_MS_MAX        5000
#define CLOSE_TIMEOUT_MS      3000
#define PACED_BLOCKS_A_SECOND 20

/* Longer than a writer takes to gather 64 KiB, two seconds at 16 kHz, before it writes them. */
#define STALL_NS (2500 * NS_A_MS)

/* What READ_FRAMES frames make at the lowest rate, 1 kHz, with what the resampler has held back. */
#define READ_SAMPLES_MAX (READ_FRAMES * 18)

/* n ≤ READ_FRAMES frames through the resampler into the ring; `last` drains it. 0 or a negative errno. */
static int convert(struct intake *in, const float *frames, int n, bool last, struct err *err)
{
    float pcm[READ_SAMPLES_MAX];
    _Static_assert(sizeof(pcm) < 128 * 1024, "must fit a thread's stack");
    assert(resampler_output_max(in->resampler, n) <= READ_SAMPLES_MAX);
    int got = resampler_run(in->resampler, frames, n, last, pcm, err);
    if (got > 0)
        intake_put_samples(in, pcm, got);
    return got < 0 ? got : 0;
}

/* --- the source --------------------------------------------------------------------------------------------- */

static int open_source(struct intake *in, struct err *err)
{
    struct source *source = NULL;
    struct resampler *resampler = NULL;
    int r = in->options.open(in->options.spec, &source, err);
    if (r < 0)
        return r;
    r = resampler_create(source->info.rate, source->info.channels, &resampler, err);
    if (r < 0) {
        err_prefix(err, "%s", source->info.name);
        source->v->close(source);
        return r;
    }
    if (in->live != source->info.live) /* which never changes; others read it from then on */
        in->live = source->info.live;
    resampler_destroy(in->resampler);
    in->resampler = resampler;
    pthread_mutex_lock(&in->source_lock);
    in->source = source;
    pthread_mutex_unlock(&in->source_lock);
    in->zeros = 0;
    intake_tell(in, STREAM_LISTENING, source->info.name, "");
    return 0;
}

/* 0, or -ETIMEDOUT: the sound server holds the source, no other can be opened. */
static int close_source(struct intake *in, int timeout_ms)
{
    pthread_mutex_lock(&in->source_lock);
    struct source *source = in->source;
    in->source = NULL;
    pthread_mutex_unlock(&in->source_lock);
    int r = source ? source_close_timeout(source, timeout_ms) : 0;
    if (r < 0) {
        atomic_store(&in->stuck, true);
        intake_tell(in, STREAM_NO_DEVICE, NULL, "the sound server does not answer and holds the device");
    }
    return r;
}

/* The last sound before a seam: what the resampler holds, what was lost behind it, the end of the utterance. */
static void end_stretch(struct intake *in)
{
    convert(in, NULL, 0, true, NULL);
    intake_put_lost(in, GAP_OVERRUN);
    intake_break_gate(in, FINAL_DEVICE);
    sem_post(in->options.wake);
}

/* From here on the clock runs without sound. */
static void go_away(struct intake *in, enum gap_cause cause)
{
    if (!in->away)
        in->away_cause = cause;
    in->away = true;
}

static void lose_source(struct intake *in, const char *why)
{
    end_stretch(in);
    go_away(in, GAP_DEVICE);
    intake_tell(in, STREAM_NO_DEVICE, NULL, why);
    close_source(in, CLOSE_TIMEOUT_MS);
}

/* The first sound after an absence: block_ns is when it was heard. */
static void come_back(struct intake *in, int64_t block_ns)
{
    int64_t missing_ns = block_ns - in->heard_ns;
    intake_put_skip(in, missing_ns > 0 ? missing_ns / NS_A_SAMPLE : 0, in->away_cause);
    in->away = false;
}

static bool told_to_yield(struct intake *in)
{
    return atomic_load(&in->stop) || atomic_load(&in->pause);
}

/* Tries until the device is there, twice as long apart each time. A device that opens but gives no sound counts as a
 * failure too: only sound resets the back-off. */
static void wait_for_source(struct intake *in)
{
    while (!told_to_yield(in)) {
        int64_t until = clock_now_ns() + in->backoff_ms * NS_A_MS;
        while (clock_now_ns() < until) {
            clock_sleep_until(clock_now_ns() + 20 * NS_A_MS);
            if (told_to_yield(in))
                return;
        }
        in->backoff_ms = in->backoff_ms == 0 ? BACKOFF_MS_MIN : in->backoff_ms * 2;
        if (in->backoff_ms > BACKOFF_MS_MAX)
            in->backoff_ms = BACKOFF_MS_MAX;
        struct err err = {0};
        if (open_source(in, &err) == 0)
            return;
        intake_tell(in, STREAM_NO_DEVICE, NULL, err.msg);
    }
}

/* A file or a pipe: r is what its read gave, SOURCE_EOF or an error. */
static void end_of_input(struct intake *in, int r, const struct err *err)
{
    const char *why = r == SOURCE_EOF ? "the input has ended" : err->msg;
    atomic_store(&in->failed, r != SOURCE_EOF);
    convert(in, NULL, 0, true, NULL);
    intake_finish_gate(in, FINAL_EOF);
    const struct mark mark = {.type = MARK_EOF, .at = intake_position(in), .known = intake_position(in)};
    intake_tell(in, STREAM_ENDED, NULL, why); /* before the mark, with which the captioner tells it */
    intake_put_mark(in, &mark);
    close_source(in, CLOSE_TIMEOUT_MS);
}

/* Takes n frames that were read. 0 or a negative errno. */
static int take_frames(struct intake *in, const float *frames, int n, struct err *err)
{
    struct source *source = in->source;
    int64_t dropped = source->dropped;
    source->dropped = 0;
    if (source->warning[0])
        log_warning("%s: %s", in->options.name, source->warning);
    source->warning[0] = '\0';
    if (in->live) {
        int64_t block_ns = source->heard_ns - n * NS_A_SECOND / source->info.rate;
        if (in->away) {
            come_back(in, block_ns); /* what was dropped is a part of the absence */
        } else if (dropped > 0 && in->heard) {
            end_stretch(in);
            in->lost += dropped * SAMPLE_RATE / source->info.rate;
        }
        in->heard = true;
        in->heard_ns = source->heard_ns;
        in->backoff_ms = 0;
    }
    return convert(in, frames, n, false, err);
}

/* A pipe that is written as the sound is heard. */
static bool is_fed(const struct intake *in)
{
    return in->options.paced && in->source && in->source->info.fed;
}

/* What comes into an empty pipe is being heard now, whatever time has passed since the pipe began: neither a writer that
 * is late or stalls nor what its clock is off by adds to the age of the sound. */
static int read_source(struct intake *in, float *frames, struct err *err)
{
    struct source *source = in->source;
    int max = READ_FRAMES;
    if (in->options.paced && source->info.rate / PACED_BLOCKS_A_SECOND < max)
        max = source->info.rate / PACED_BLOCKS_A_SECOND;
    if (is_fed(in)) {
        int n = source->v->read(source, frames, max, 0, err);
        if (n != SOURCE_TIMEOUT)
            return n;
        in->start_ns = clock_now_ns() - intake_clock(in) * NS_A_SAMPLE;
    }
    return source->v->read(source, frames, max, READ_TIMEOUT_MS, err);
}

/* A pipe has given n frames. Without any for a while, what has been said is committed; the sound that follows joins on to
 * it, and the clock does not count the time between. */
static void watch_writer(struct intake *in, int n)
{
    if (n > 0) {
        if (in->stalled)
            intake_tell(in, STREAM_LISTENING, NULL, "");
        in->stalled = false;
        in->empty_ns = 0;
    } else if (in->empty_ns == 0) {
        in->empty_ns = clock_now_ns();
    } else if (!in->stalled && clock_now_ns() - in->empty_ns >= STALL_NS) {
        in->stalled = true;
        intake_break_gate(in, FINAL_SILENCE);
        intake_clear_level(in);
        intake_tell(in, STREAM_SILENT, NULL, "no sound has come for some seconds");
    }
}

/* One read. Returns false when the input has ended for good. */
static bool pump(struct intake *in, float *frames)
{
    struct err err = {0};
    int n = read_source(in, frames, &err);
    if (n >= 0 && is_fed(in))
        watch_writer(in, n);
    if (n > 0)
        n = take_frames(in, frames, n, &err);
    if (n >= 0)
        return true;
    if (n == SOURCE_EOF || !in->live) {
        end_of_input(in, n, &err);
        return false;
    }
    lose_source(in, err.msg[0] ? err.msg : "the device has gone");
    return true;
}

static bool is_paused(const struct intake *in)
{
    return atomic_load(&in->pause) && !atomic_load(&in->stop);
}

/* The writer of a pipe goes on in a pause: what comes is taken as ever, so that none of it is left for later, and goes
 * nowhere. SOURCE_TIMEOUT at the end of the pause; otherwise why there is no more to read. */
static int discard_paused(struct intake *in, float *frames, struct err *err)
{
    int64_t n_frames = 0;
    int n = SOURCE_TIMEOUT;
    while (n >= 0 && is_paused(in)) {
        n = read_source(in, frames, err);
        n_frames += n > 0 ? n : 0;
        in->lost = n_frames * SAMPLE_RATE / in->source->info.rate;
        if (n > 0)
            intake_await_due(in, 0);
    }
    intake_put_lost(in, GAP_PAUSE);
    return n < 0 ? n : SOURCE_TIMEOUT;
}

/* A file waits, as does a pipe that nobody follows as it is written: the next sound joins on to what was said, which is
 * committed. */
static void wait_paused(struct intake *in)
{
    int64_t since = clock_now_ns();
    while (is_paused(in))
        clock_sleep_until(clock_now_ns() + 20 * NS_A_MS);
    in->start_ns += clock_now_ns() - since;
}

/* Returns false when the input has ended meanwhile. */
static bool take_pause(struct intake *in, float *frames)
{
    struct err err = {0};
    bool fed = is_fed(in);
    int r = 0;
    if (in->live || fed) {
        if (in->source)
            end_stretch(in);
    } else {
        intake_break_gate(in, FINAL_SILENCE);
    }
    if (in->live) {
        go_away(in, GAP_PAUSE);
        if (close_source(in, CLOSE_TIMEOUT_MS) < 0)
            return true;
        in->backoff_ms = 0;
    }
    intake_tell(in, STREAM_PAUSED, NULL, "");
    if (fed)
        r = discard_paused(in, frames, &err);
    else
        wait_paused(in);
    in->empty_ns = 0;
    in->stalled = false;
    if (r < 0)
        end_of_input(in, r, &err);
    else if (!in->live)
        intake_tell(in, STREAM_LISTENING, NULL, "");
    return r >= 0;
}

/* What a device has captured between its opening and the thread's start is old by now, and no one has missed it. */
static void discard_backlog(struct intake *in, float *frames)
{
    struct err err;
    if (!in->live)
        return;
    while (in->source && !told_to_yield(in) &&
           in->source->v->read(in->source, frames, READ_FRAMES, 0, &err) > 0)
        in->source->dropped = 0;
    in->heard_ns = clock_now_ns();
}

static void *run(void *arg)
{
    struct intake *in = arg;
    float *frames = (float *)in->storage + 2 * in->ring.capacity; /* behind the ring */
    discard_backlog(in, frames);
    in->start_ns = clock_now_ns();
    while (!atomic_load(&in->stop) && !atomic_load(&in->stuck)) {
        if (atomic_load(&in->pause)) {
            if (!take_pause(in, frames))
                break;
        } else if (!in->source) {
            wait_for_source(in);
        } else if (!pump(in, frames)) {
            break;
        }
    }
    return NULL;
}

/* --- life --------------------------------------------------------------------------------------------------- */

#define FRAME_BUFFER_BYTES (READ_FRAMES * CHANNELS_MAX * sizeof(float))

/* All but the source. NULL if there is no memory. */
static struct intake *create(const struct intake_options *options)
{
    struct intake *in = aligned_alloc(_Alignof(struct intake), sizeof(*in));
    if (!in)
        return NULL;
    memset(in, 0, sizeof(*in));
    in->options = *options;
    if (!in->options.open)
        in->options.open = source_open;
    size_t capacity = (size_t)INTAKE_RING_SECONDS * SAMPLE_RATE;
    in->storage_bytes = ring_storage_bytes(capacity) + FRAME_BUFFER_BYTES;
    in->storage = mmap(NULL, in->storage_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (in->storage == MAP_FAILED || spsc_init(&in->marks, sizeof(struct mark), MARKS_MAX) < 0) {
        if (in->storage != MAP_FAILED)
            munmap(in->storage, in->storage_bytes);
        free(in);
        return NULL;
    }
    /* Speech must not reach a core dump. */
    madvise(in->storage, in->storage_bytes, MADV_DONTDUMP);
    ring_init(&in->ring, in->storage, capacity);
    sem_init(&in->room, 0, 0);
    pthread_mutex_init(&in->text_lock, NULL);
    pthread_mutex_init(&in->source_lock, NULL);
    intake_clear_level(in);
    gate_init(&in->gate, &in->options.gate, 0);
    return in;
}

static bool is_device_error(int r)
{
    return r == -ENODEV || r == -EBUSY || r == -EIO || r == -ESTALE || r == -EAGAIN;
}

int intake_create(const struct intake_options *options, struct intake **out, struct err *err)
{
    struct err why = {0};
    struct intake *in = create(options);
    if (!in)
        return err_set(err, -ENOMEM, "out of memory for the audio of input %s", options->name);
    bool closed = options->paused && source_is_device(options->spec);
    int r = closed ? 0 : open_source(in, &why);
    in->pause = options->paused;
    if (closed || (r < 0 && is_device_error(r) && options->wait_for_device)) {
        in->live = true;
        in->heard_ns = clock_now_ns();
        go_away(in, closed ? GAP_PAUSE : GAP_DEVICE);
        intake_tell(in, closed ? STREAM_PAUSED : STREAM_NO_DEVICE, NULL, why.msg);
    } else if (r < 0) {
        intake_destroy(in);
        return err_set(err, r, "%s", why.msg);
    }
    *out = in;
    return 0;
}

int intake_start(struct intake *in, struct err *err)
{
    int r = pthread_create(&in->thread, NULL, run, in);
    if (r)
        return err_set(err, -r, "cannot start a thread for input %s: %s", in->options.name, strerror(r));
    in->started = true;
    return 0;
}

static void wake_source(struct intake *in)
{
    pthread_mutex_lock(&in->source_lock);
    if (in->source)
        in->source->v->wake(in->source);
    pthread_mutex_unlock(&in->source_lock);
    sem_post(&in->room);
}

void intake_pause(struct intake *in, bool pause)
{
    atomic_store(&in->pause, pause);
    wake_source(in);
}

void intake_ask_stop(struct intake *in)
{
    atomic_store(&in->stop, true);
    wake_source(in);
}

int intake_stop(struct intake *in, int timeout_ms)
{
    int64_t until = clock_now_ns() + timeout_ms * NS_A_MS;
    intake_ask_stop(in);
    while (in->started) {
        if (pthread_tryjoin_np(in->thread, NULL) == 0)
            in->started = false;
        else if (clock_now_ns() >= until)
            return -ETIMEDOUT;
        else
            clock_sleep_until(clock_now_ns() + 2 * NS_A_MS);
    }
    int64_t left_ns = until - clock_now_ns();
    close_source(in, left_ns > 0 ? (int)(left_ns / NS_A_MS) : 0);
    return atomic_load(&in->stuck) ? -ETIMEDOUT : 0;
}

void intake_destroy(struct intake *in)
{
    if (!in)
        return;
    if (in->source)
        in->source->v->close(in->source);
    resampler_destroy(in->resampler);
    spsc_finish(&in->marks);
    munmap(in->storage, in->storage_bytes);
    pthread_mutex_destroy(&in->text_lock);
    pthread_mutex_destroy(&in->source_lock);
    sem_destroy(&in->room);
    free(in);
}

enum stream_state intake_describe(struct intake *in, char *device, size_t device_size, char *message,
                                  size_t message_size)
{
    pthread_mutex_lock(&in->text_lock);
    enum stream_state state = atomic_load(&in->state);
    snprintf(device, device_size, "%s", in->device);
    snprintf(message, message_size, "%s", in->message);
    pthread_mutex_unlock(&in->text_lock);
    return state;
}
