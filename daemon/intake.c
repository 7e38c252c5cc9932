#include "daemon/intake.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "daemon/base/clock.h"
#include "stream/resample.h"

#define READ_FRAMES      1024
#define READ_TIMEOUT_MS  100
#define MARKS_MAX        256
#define ZEROS_SUSPICIOUS (5 * SAMPLE_RATE) /* a working microphone has a noise floor */
#define BACKOFF_MS_MIN   250
#define BACKOFF_MS_MAX   5000
#define CLOSE_TIMEOUT_MS 3000

static const struct gate_options ungated = {.enabled = false};

static void sleep_until_ns(int64_t when)
{
    struct timespec ts = {.tv_sec = when / 1000000000, .tv_nsec = when % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
        continue;
}

static void describe(struct intake *in, enum stream_state state, const char *device, const char *message)
{
    pthread_mutex_lock(&in->text_lock);
    if (device)
        snprintf(in->device, sizeof(in->device), "%s", device);
    snprintf(in->message, sizeof(in->message), "%s", message);
    pthread_mutex_unlock(&in->text_lock);
    atomic_store(&in->state, state);
    sem_post(in->options.wake);
}

/* --- marks and the ring ------------------------------------------------------------------------------------- */

static int64_t position(const struct intake *in)
{
    return ring_head(&in->ring);
}

/* The queue holds far more marks than a ring full of audio can cause; should it ever be full, the captioner is
 * waited for. */
static void put_mark(struct intake *in, enum mark_type type, int64_t at, int64_t skip, enum gap_cause cause)
{
    struct mark mark = {.type = type, .at = at, .known = position(in), .skip = skip, .cause = cause};
    while (!spsc_push(&in->marks, &mark, 1) && !atomic_load(&in->stop)) {
        sem_post(in->options.wake);
        sleep_until_ns(clock_now_ns() + 5000000);
    }
}

static void put_gate_event(struct intake *in, const struct gate_event *event)
{
    if (event->type == GATE_START)
        put_mark(in, MARK_START, event->at, 0, 0);
    else if (event->type == GATE_END)
        put_mark(in, MARK_END, event->at, 0, 0);
}

/* Ends an open utterance where the sound stops, and starts the gate afresh behind it. */
static void break_gate(struct intake *in)
{
    struct gate_event event;
    gate_finish(&in->gate, &event);
    if (event.type == GATE_END && event.at > position(in))
        event.at = position(in);
    put_gate_event(in, &event);
    gate_init(&in->gate, &in->options.gate, position(in));
}

/* Tells what was lost before the next sample. */
static void flush_lost(struct intake *in, enum gap_cause cause)
{
    if (in->lost <= 0)
        return;
    break_gate(in);
    put_mark(in, MARK_SKIP, position(in), in->lost, cause);
    atomic_fetch_add(&in->overruns, in->lost);
    in->lost = 0;
}

/* Judges samples that are in the ring and publishes how far. */
static void judge(struct intake *in, const float *pcm, int n)
{
    while (n > 0) {
        struct gate_event event;
        int used = gate_process(&in->gate, pcm, n, &event);
        put_gate_event(in, &event);
        pcm += used;
        n -= used;
    }
    atomic_store_explicit(&in->judged, position(in), memory_order_release);
    sem_post(in->options.wake);
}

/* A live input cannot wait: what finds no room is lost, counted, and told before the next sample that does. */
static void put_live(struct intake *in, const float *pcm, int n)
{
    if (in->lost > 0 && ring_room(&in->ring) < SAMPLE_RATE) {
        in->lost += n;
        return;
    }
    flush_lost(in, GAP_OVERRUN);
    int written = (int)ring_write(&in->ring, pcm, (size_t)n);
    judge(in, pcm, written);
    in->lost += n - written;
}

/* Files and pipes wait for room instead. */
static void put_waiting(struct intake *in, const float *pcm, int n)
{
    while (n > 0 && !atomic_load(&in->stop)) {
        int written = (int)ring_write(&in->ring, pcm, (size_t)n);
        if (written > 0)
            judge(in, pcm, written);
        pcm += written;
        n -= written;
        if (n > 0) {
            struct timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += 50000000;
            until.tv_sec += until.tv_nsec / 1000000000;
            until.tv_nsec %= 1000000000;
            sem_timedwait(&in->room, &until);
        }
    }
}

static void measure_level(struct intake *in, const float *pcm, int n)
{
    for (int i = 0; i < n; i++) {
        in->level_sum += (double)pcm[i] * pcm[i];
        in->zeros = pcm[i] == 0.0f ? in->zeros + 1 : 0;
        if (++in->level_n == SAMPLE_RATE / 10) {
            double db = 10.0 * log10(in->level_sum / in->level_n + 1e-12);
            atomic_store(&in->level_cdb, (int)lrint(db * 100.0));
            in->level_sum = 0.0;
            in->level_n = 0;
        }
    }
    if (!in->live)
        return;
    int state = atomic_load(&in->state);
    if (in->zeros >= ZEROS_SUSPICIOUS && state == STREAM_LISTENING)
        describe(in, STREAM_SILENT, NULL, "the device delivers only zeros: it may be muted");
    else if (in->zeros == 0 && state == STREAM_SILENT)
        describe(in, STREAM_LISTENING, NULL, "");
}

static void put_samples(struct intake *in, const float *pcm, int n)
{
    measure_level(in, pcm, n);
    if (in->live) {
        put_live(in, pcm, n);
        atomic_store(&in->origin_ns, clock_now_ns() - position(in) * (1000000000 / SAMPLE_RATE));
        return;
    }
    put_waiting(in, pcm, n);
    if (in->options.paced) {
        atomic_store(&in->origin_ns, in->start_ns);
        sleep_until_ns(in->start_ns + position(in) * (1000000000 / SAMPLE_RATE));
    }
}

/* --- the source --------------------------------------------------------------------------------------------- */

static int open_source(struct intake *in, struct err *err)
{
    struct source *source = NULL;
    struct resampler *resampler = NULL;
    int r = source_open(in->options.spec, &source, err);
    if (r < 0)
        return r;
    r = resampler_create(source->info.rate, source->info.channels, &resampler, err);
    if (r < 0) {
        source->v->close(source);
        return r;
    }
    in->live = source->info.live;
    resampler_destroy(in->resampler);
    in->resampler = resampler;
    pthread_mutex_lock(&in->source_lock);
    in->source = source;
    pthread_mutex_unlock(&in->source_lock);
    in->zeros = 0;
    describe(in, STREAM_LISTENING, source->info.name, "");
    return 0;
}

/* 0, or -ETIMEDOUT: the sound server holds the source, no other can be opened in this process. */
static int close_source(struct intake *in)
{
    pthread_mutex_lock(&in->source_lock);
    struct source *source = in->source;
    in->source = NULL;
    pthread_mutex_unlock(&in->source_lock);
    return source ? source_close_timeout(source, CLOSE_TIMEOUT_MS) : 0;
}

/* The device is gone: the utterance ends here and the clock of the missing audio starts. */
static void lose_source(struct intake *in, const char *why)
{
    break_gate(in);
    in->gone_ns = clock_now_ns();
    describe(in, STREAM_NO_DEVICE, NULL, why);
    if (close_source(in) < 0) {
        describe(in, STREAM_NO_DEVICE, NULL,
                 "the sound server does not answer; restart captiond if it stays so");
    }
}

static void account_absence(struct intake *in)
{
    if (in->gone_ns) {
        in->lost += (clock_now_ns() - in->gone_ns) / (1000000000 / SAMPLE_RATE);
        in->gone_ns = 0;
        flush_lost(in, GAP_DEVICE);
    }
}

static bool told_to_yield(struct intake *in)
{
    return atomic_load(&in->stop) || atomic_load(&in->pause);
}

/* Tries until the device is there, twice as long apart each time. */
static void wait_for_source(struct intake *in)
{
    int backoff_ms = BACKOFF_MS_MIN;
    while (!told_to_yield(in)) {
        struct err err = {0};
        if (open_source(in, &err) == 0) {
            account_absence(in);
            return;
        }
        describe(in, STREAM_NO_DEVICE, NULL, err.msg);
        int64_t until = clock_now_ns() + backoff_ms * 1000000LL;
        while (!told_to_yield(in) && clock_now_ns() < until)
            sleep_until_ns(clock_now_ns() + 50000000);
        backoff_ms = backoff_ms * 2 > BACKOFF_MS_MAX ? BACKOFF_MS_MAX : backoff_ms * 2;
    }
}

static void take_pause(struct intake *in)
{
    break_gate(in);
    atomic_store_explicit(&in->judged, position(in), memory_order_release);
    in->gone_ns = in->live && !in->gone_ns ? clock_now_ns() : in->gone_ns;
    if (in->live)
        close_source(in);
    describe(in, STREAM_PAUSED, NULL, "paused");
    int64_t since = clock_now_ns();
    while (atomic_load(&in->pause) && !atomic_load(&in->stop))
        sleep_until_ns(clock_now_ns() + 20000000);
    in->start_ns += clock_now_ns() - since;
    if (!in->live)
        describe(in, STREAM_LISTENING, NULL, "");
}

static int convert(struct intake *in, const float *frames, int n, bool last)
{
    float pcm[READ_FRAMES * 17]; /* 1,024 frames at the lowest rate, 1 kHz, and the filter's delay */
    _Static_assert(sizeof(pcm) < 128 * 1024, "must fit a thread's stack");
    struct err err;
    if (resampler_output_max(in->resampler, n) > (int)(sizeof(pcm) / sizeof(pcm[0])))
        return -EOVERFLOW;
    int got = resampler_run(in->resampler, frames, n, last, pcm, &err);
    if (got > 0)
        put_samples(in, pcm, got);
    return got;
}

static void end_of_input(struct intake *in, const char *why)
{
    struct gate_event event;
    convert(in, NULL, 0, true);
    gate_finish(&in->gate, &event);
    if (event.type == GATE_END && event.at > position(in))
        event.at = position(in);
    put_gate_event(in, &event);
    put_mark(in, MARK_EOF, position(in), 0, 0);
    atomic_store_explicit(&in->judged, position(in), memory_order_release);
    close_source(in);
    describe(in, STREAM_ENDED, NULL, why);
}

/* One read. Returns false when the input has ended for good. */
static bool pump(struct intake *in, float *frames, int max_frames)
{
    struct err err = {0};
    int n = in->source->v->read(in->source, frames, max_frames, READ_TIMEOUT_MS, &err);
    if (n > 0) {
        int64_t dropped = in->source->v->take_dropped(in->source);
        if (dropped > 0)
            in->lost += dropped * SAMPLE_RATE / in->source->info.rate;
        if (convert(in, frames, n, false) < 0)
            lose_source(in, "the sound could not be resampled");
        return true;
    }
    if (n == SOURCE_TIMEOUT)
        return true;
    if (n == SOURCE_EOF || !in->live) {
        end_of_input(in, n == SOURCE_EOF ? "the input has ended" : err.msg);
        return false;
    }
    lose_source(in, err.msg[0] ? err.msg : "the device has gone");
    return true;
}

static void *run(void *arg)
{
    struct intake *in = arg;
    static const int max_channels = 64;
    float *frames = in->storage; /* the tail of the mapping, behind the ring */
    frames += 2 * in->ring.capacity;
    in->start_ns = clock_now_ns();
    while (!atomic_load(&in->stop)) {
        if (atomic_load(&in->pause))
            take_pause(in);
        else if (!in->source)
            wait_for_source(in);
        else if (!pump(in, frames,
                       READ_FRAMES * max_channels / in->source->info.channels < READ_FRAMES
                           ? READ_FRAMES * max_channels / in->source->info.channels
                           : READ_FRAMES))
            break;
    }
    return NULL;
}

/* --- life --------------------------------------------------------------------------------------------------- */

#define FRAME_BUFFER_BYTES (READ_FRAMES * 64 * sizeof(float))

int intake_create(const struct intake_options *options, struct intake **out, struct err *err)
{
    struct intake *in = aligned_alloc(CACHE_LINE, (sizeof(*in) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    if (!in)
        return err_set(err, -ENOMEM, "out of memory for input %s", options->name);
    memset(in, 0, sizeof(*in));
    in->options = *options;
    size_t capacity = (size_t)INTAKE_RING_SECONDS * SAMPLE_RATE;
    in->storage_bytes = ring_storage_bytes(capacity) + FRAME_BUFFER_BYTES;
    in->storage = mmap(NULL, in->storage_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (in->storage == MAP_FAILED || spsc_init(&in->marks, sizeof(struct mark), MARKS_MAX) < 0) {
        if (in->storage != MAP_FAILED)
            munmap(in->storage, in->storage_bytes);
        free(in);
        return err_set(err, -ENOMEM, "out of memory for the audio of input %s", options->name);
    }
    /* Speech must not reach a core dump. */
    madvise(in->storage, in->storage_bytes, MADV_DONTDUMP);
    ring_init(&in->ring, in->storage, capacity);
    sem_init(&in->room, 0, 0);
    pthread_mutex_init(&in->text_lock, NULL);
    pthread_mutex_init(&in->source_lock, NULL);
    atomic_store(&in->level_cdb, -12000);
    gate_init(&in->gate, options->gate.enabled ? &options->gate : &ungated, 0);
    in->options.gate.enabled = options->gate.enabled;

    int r = open_source(in, err);
    bool device = r == -ENODEV || r == -EBUSY || r == -EIO || r == -ESTALE || r == -EAGAIN;
    if (r < 0 && device && options->wait_for_device) {
        in->live = true;
        in->gone_ns = clock_now_ns();
        describe(in, STREAM_NO_DEVICE, NULL, err->msg);
    } else if (r < 0) {
        intake_destroy(in);
        return r;
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

int intake_stop(struct intake *in, int timeout_ms)
{
    atomic_store(&in->stop, true);
    wake_source(in);
    if (in->started) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += timeout_ms / 1000;
        until.tv_nsec += (timeout_ms % 1000) * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_timedjoin_np(in->thread, NULL, &until) != 0)
            return -ETIMEDOUT;
        in->started = false;
    }
    pthread_mutex_lock(&in->source_lock);
    struct source *source = in->source;
    in->source = NULL;
    pthread_mutex_unlock(&in->source_lock);
    return source ? source_close_timeout(source, timeout_ms) : 0;
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

void intake_describe(struct intake *in, char *device, size_t device_size, char *message, size_t message_size)
{
    pthread_mutex_lock(&in->text_lock);
    snprintf(device, device_size, "%s", in->device);
    snprintf(message, message_size, "%s", in->message);
    pthread_mutex_unlock(&in->text_lock);
}
