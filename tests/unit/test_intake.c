/* Intake over scripted devices and real files: what reaches the ring, which marks say what, and where the clock stands.
 * It waits for time to pass: tests/run: alone */
#include "tests/support/support.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sndfile.h>

#include "daemon/base/clock.h"
#include "daemon/intake.h"
#include "daemon/pipeline.h"

#define MS        1000000LL
#define MARKS_MAX 4000

/* --- a device that does what it is told ---------------------------------------------------------------------- */

struct step {
    int n;           /* frames; or a negative errno */
    float value;     /* of each sample */
    int64_t dropped; /* before them */
    int64_t heard_ns;
};

static struct device {
    pthread_mutex_t lock;
    pthread_cond_t change;
    struct step steps[400];
    int n_steps, at; /* told, done */
    int done;        /* frames of steps[at] that have been read */
    int n_idle;      /* reads begun since then with nothing to do: what came before has been taken in */
    bool woken;
    int n_woken;        /* reads that wake ended */
    int open_errors[8]; /* for the next attempts */
    int n_open_errors;
    int64_t opened_ns[16]; /* attempts */
    int n_attempts, n_open, n_closed;
    bool close_hangs;
    struct source base;
} device;

static int device_read(struct source *base, float *frames, int max, int timeout_ms, struct err *err)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += timeout_ms * MS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    int r = SOURCE_TIMEOUT;
    pthread_mutex_lock(&device.lock);
    device.n_idle += device.at == device.n_steps;
    while (device.at == device.n_steps && !device.woken)
        if (pthread_cond_timedwait(&device.change, &device.lock, &until) != 0)
            break;
    device.n_woken += device.woken;
    device.woken = false;
    if (device.at < device.n_steps) {
        device.n_idle = 0;
        const struct step *s = &device.steps[device.at];
        if (s->n < 0) {
            r = err_set(err, s->n, "told to fail");
            device.at++;
        } else {
            if (device.done == 0)
                base->dropped = s->dropped;
            r = s->n - device.done < max ? s->n - device.done : max;
            for (int i = 0; i < r * base->info.channels; i++)
                frames[i] = s->value;
            device.done += r;
            base->heard_ns = s->heard_ns - (int64_t)(s->n - device.done) * 1000000000 / base->info.rate;
            if (device.done == s->n) {
                device.at++;
                device.done = 0;
            }
        }
        pthread_cond_broadcast(&device.change);
    }
    pthread_mutex_unlock(&device.lock);
    return r;
}

static void device_wake(struct source *base)
{
    pthread_mutex_lock(&device.lock);
    device.woken = true;
    pthread_cond_broadcast(&device.change);
    pthread_mutex_unlock(&device.lock);
}

static void device_close(struct source *base)
{
    pthread_mutex_lock(&device.lock);
    while (device.close_hangs)
        pthread_cond_wait(&device.change, &device.lock);
    device.n_closed++;
    pthread_cond_broadcast(&device.change);
    pthread_mutex_unlock(&device.lock);
}

static const struct source_vtable device_vtable = {
    .read = device_read, .wake = device_wake, .close = device_close};

static int device_open(const char *spec, struct source **out, struct err *err)
{
    pthread_mutex_lock(&device.lock);
    int r = 0, i = device.n_attempts++;
    device.opened_ns[i % 16] = clock_now_ns();
    if (i < device.n_open_errors)
        r = device.open_errors[i];
    device.n_open += r == 0;
    device.done = 0;
    pthread_mutex_unlock(&device.lock);
    if (r < 0)
        return err_set(err, r, "no such device");
    *out = &device.base;
    return 0;
}

static void device_reset(int rate, int channels)
{
    pthread_condattr_t attr;
    memset(&device, 0, sizeof(device));
    pthread_mutex_init(&device.lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&device.change, &attr);
    device.base.v = &device_vtable;
    device.base.info = (struct source_info){
        .rate = rate, .channels = channels, .live = true, .n_frames = -1, .name = "scripted"};
}

static int look(const int *field)
{
    pthread_mutex_lock(&device.lock);
    int value = *field;
    pthread_mutex_unlock(&device.lock);
    return value;
}

static void tell(struct step step)
{
    pthread_mutex_lock(&device.lock);
    assert_true(device.n_steps < (int)(sizeof(device.steps) / sizeof(device.steps[0])));
    device.steps[device.n_steps++] = step;
    pthread_cond_broadcast(&device.change);
    pthread_mutex_unlock(&device.lock);
}

/* Waits until `n` reads have found nothing: the first is the one before the thread's loop. */
static void await_idle(int n)
{
    bool idle = false;
    for (int64_t until = clock_now_ns() + 10000 * MS; !idle && clock_now_ns() < until; usleep(1000)) {
        pthread_mutex_lock(&device.lock);
        idle = device.at == device.n_steps && device.n_idle >= n;
        pthread_mutex_unlock(&device.lock);
    }
    assert_true(idle);
}

/* --- the captioner's side ------------------------------------------------------------------------------------ */

static sem_t wake;
static struct mark marks[MARKS_MAX];
static int n_marks;

static void drain_marks(struct intake *in)
{
    while (n_marks < MARKS_MAX && spsc_pop(&in->marks, &marks[n_marks], 1) == 1)
        n_marks++;
}

/* Waits until `judged` reaches n; fails after ten seconds. */
static void await_judged(struct intake *in, int64_t n)
{
    int64_t until = clock_now_ns() + 10000 * MS;
    while (atomic_load(&in->judged) < n && clock_now_ns() < until)
        usleep(1000);
    assert_true(atomic_load(&in->judged) >= n);
    drain_marks(in);
}

static void await_state(struct intake *in, enum stream_state state)
{
    int64_t until = clock_now_ns() + 10000 * MS;
    while (atomic_load(&in->state) != (int)state && clock_now_ns() < until)
        usleep(1000);
    assert_int_equal(atomic_load(&in->state), state);
}

static void await_marks(struct intake *in, int n)
{
    int64_t until = clock_now_ns() + 10000 * MS;
    while (n_marks < n && clock_now_ns() < until) {
        drain_marks(in);
        usleep(1000);
    }
    assert_true(n_marks >= n);
}

static void expect_mark(int i, enum mark_type type, int64_t at)
{
    assert_true(i < n_marks);
    assert_int_equal(marks[i].type, type);
    assert_int_equal(marks[i].at, at);
}

static struct intake *create(const struct intake_options *options)
{
    struct intake *in = NULL;
    struct err err = {0};
    sem_init(&wake, 0, 0);
    n_marks = 0;
    int r = intake_create(options, &in, &err);
    if (r < 0)
        print_error("%s\n", err.msg);
    assert_int_equal(r, 0);
    return in;
}

static const struct intake_options scripted = {
    .name = "mic", .spec = "portaudio", .wake = &wake, .open = device_open};

static struct intake *start(const struct intake_options *options)
{
    struct intake *in = create(options);
    struct err err;
    assert_int_equal(intake_start(in, &err), 0);
    return in;
}

static void end(struct intake *in)
{
    assert_int_equal(intake_stop(in, 1000), 0);
    assert_int_equal(intake_stop(in, 1000), 0);
    intake_destroy(in);
    if (look(&device.n_attempts))
        assert_int_equal(look(&device.n_closed), look(&device.n_open));
}

/* --- devices ------------------------------------------------------------------------------------------------ */

static void sound_reaches_the_ring(void **state)
{
    device_reset(16000, 2);
    struct intake *in = start(&scripted);
    await_idle(2); /* what was captured before the thread ran would be dropped */
    int64_t heard = clock_now_ns() - 30 * MS;
    tell((struct step){.n = 3000, .value = 0.5f, .heard_ns = heard});
    await_judged(in, 3000);
    const float *pcm = ring_span(&in->ring, 0, 3000);
    assert_non_null(pcm);
    for (int i = 0; i < 3000; i++)
        assert_true(pcm[i] == 0.5f);
    assert_int_equal(n_marks, 1);
    expect_mark(0, MARK_START, 0);
    assert_int_equal(atomic_load(&in->origin_ns), heard - 3000 * MS / 16);
    char name[64], message[64];
    intake_describe(in, name, sizeof(name), message, sizeof(message));
    assert_string_equal(name, "scripted");
    assert_string_equal(message, "");
    assert_int_equal(atomic_load(&in->state), STREAM_LISTENING);
    /* 10 log10(0.25) */
    assert_in_range(-atomic_load(&in->level_cdb), 602, 603);
    end(in);
}

static void sound_from_before_the_start_is_dropped(void **state)
{
    device_reset(16000, 1);
    struct intake *in = create(&scripted);
    struct err err;
    tell((struct step){.n = 5000, .value = 0.1f, .dropped = 777, .heard_ns = clock_now_ns()});
    assert_int_equal(intake_start(in, &err), 0);
    await_idle(2);
    int64_t t = clock_now_ns();
    /* A queue that ran over before the start tells it in front of what comes next. */
    tell((struct step){.n = 1000, .value = 0.2f, .dropped = 777, .heard_ns = t});
    await_judged(in, 1000);
    assert_int_equal(atomic_load(&in->origin_ns), t - 1000 * MS / 16);
    assert_int_equal(atomic_load(&in->overruns), 0);
    assert_true(*ring_span(&in->ring, 0, 1) == 0.2f);
    assert_int_equal(ring_head(&in->ring), 1000);
    assert_int_equal(n_marks, 1);
    end(in);
}

/* 480 frames at 48 kHz are 160 samples: the utterance ends where the sound did, and goes on behind the skip. */
static void dropped_frames_skip_the_clock(void **state)
{
    device_reset(48000, 1);
    struct intake *in = start(&scripted);
    await_idle(2);
    int64_t t = clock_now_ns();
    tell((struct step){.n = 4800, .value = 0.5f, .heard_ns = t});
    await_judged(in, 1000);
    tell((struct step){.n = 4800, .value = 0.5f, .dropped = 480, .heard_ns = t + 110 * MS});
    await_judged(in, 3000);
    assert_int_equal(n_marks, 4);
    expect_mark(0, MARK_START, 0);
    expect_mark(1, MARK_END, 1600);
    expect_mark(2, MARK_SKIP, 1600);
    assert_int_equal(marks[2].skip, 160);
    assert_int_equal(marks[2].cause, GAP_OVERRUN);
    expect_mark(3, MARK_START, 1600);
    assert_int_equal(atomic_load(&in->overruns), 160);
    /* The clock's zero has not moved: what the resampler still holds, under 64 samples at 16 kHz, is the difference. */
    int64_t moved = atomic_load(&in->origin_ns) - (t - 100 * MS);
    assert_true(moved >= 0 && moved < 64 * MS / 16);
    end(in);
}

static void a_lost_device_is_reopened(void **state)
{
    static const int errors[] = {0, -ENODEV, -EBUSY};
    device_reset(16000, 1);
    memcpy(device.open_errors, errors, sizeof(errors));
    device.n_open_errors = 3;
    struct intake *in = start(&scripted);
    await_idle(2);
    int64_t t = clock_now_ns();
    tell((struct step){.n = 1600, .value = 0.5f, .heard_ns = t});
    tell((struct step){.n = -ENODEV});
    await_state(in, STREAM_NO_DEVICE);
    char name[64], message[64] = "";
    for (int i = 0; i < 5000 && strcmp(message, "no such device") != 0; i++) {
        usleep(1000);
        intake_describe(in, name, sizeof(name), message, sizeof(message));
    }
    assert_string_equal(name, "scripted");
    assert_string_equal(message, "no such device");
    await_state(in, STREAM_LISTENING);
    /* What the new device lost before its first block lies in the absence and is not counted again. */
    tell((struct step){.n = 1600, .value = 0.5f, .dropped = 800, .heard_ns = t + 2100 * MS});
    await_judged(in, 3200);
    assert_int_equal(look(&device.n_attempts), 4);
    int64_t first = (device.opened_ns[2] - device.opened_ns[1]) / MS;
    int64_t second = (device.opened_ns[3] - device.opened_ns[2]) / MS;
    assert_in_range(first, 250, 480);
    assert_in_range(second, 500, 960);
    assert_int_equal(n_marks, 4);
    expect_mark(1, MARK_END, 1600);
    expect_mark(2, MARK_SKIP, 1600);
    assert_int_equal(marks[2].cause, GAP_DEVICE);
    assert_int_equal(marks[2].skip, 2 * SAMPLE_RATE); /* 2,100 ms, of which the newest 100 were heard */
    expect_mark(3, MARK_START, 1600);
    assert_int_equal(atomic_load(&in->overruns), 0);
    assert_int_equal(atomic_load(&in->origin_ns), t - 100 * MS);
    end(in);
}

/* One that opens and fails at once must not be reopened in a frenzy. */
static void a_device_without_sound_backs_off_too(void **state)
{
    device_reset(16000, 1);
    struct intake *in = start(&scripted);
    await_idle(2);
    for (int i = 0; i < 100; i++)
        tell((struct step){.n = -ENODEV});
    usleep(1000000);
    assert_in_range(look(&device.n_attempts), 2, 5); /* at 0, 0, 250 and 750 ms */
    end(in);
}

static void a_missing_device_may_be_waited_for(void **state)
{
    struct intake_options options = scripted;
    struct intake *in = NULL;
    struct err err = {0};
    device_reset(16000, 1);
    device.open_errors[0] = device.open_errors[1] = -ENODEV;
    device.n_open_errors = 2;
    assert_int_equal(intake_create(&options, &in, &err), -ENODEV);
    assert_null(in);
    assert_string_equal(err.msg, "no such device");

    options.wait_for_device = true;
    int64_t t = clock_now_ns();
    in = create(&options);
    assert_int_equal(atomic_load(&in->state), STREAM_NO_DEVICE);
    assert_int_equal(intake_start(in, &err), 0);
    await_state(in, STREAM_LISTENING);
    tell((struct step){.n = 1600, .value = 0.5f, .heard_ns = t + 1000 * MS});
    await_judged(in, 1600);
    assert_int_equal(n_marks, 2);
    expect_mark(0, MARK_SKIP, 0);
    assert_in_range(marks[0].skip, 800 * 16, 900 * 16); /* since create, which came soon after t */
    expect_mark(1, MARK_START, 0);
    end(in);

    device_reset(16000, 1); /* not every error is a device's */
    device.open_errors[0] = -EINVAL;
    device.n_open_errors = 1;
    assert_int_equal(intake_create(&options, &in, &err), -EINVAL);
}

static void pause_lets_go_of_the_device(void **state)
{
    device_reset(16000, 1);
    struct intake *in = start(&scripted);
    await_idle(2);
    int64_t t = clock_now_ns();
    tell((struct step){.n = 1600, .value = 0.5f, .heard_ns = t});
    await_judged(in, 1600);
    intake_pause(in, true);
    await_state(in, STREAM_PAUSED);
    assert_int_equal(look(&device.n_closed), 1);
    await_marks(in, 2);
    expect_mark(1, MARK_END, 1600);
    intake_pause(in, false);
    await_state(in, STREAM_LISTENING);
    tell((struct step){.n = 1600, .value = 0.5f, .heard_ns = t + 600 * MS});
    await_judged(in, 3200);
    expect_mark(2, MARK_SKIP, 1600);
    assert_int_equal(marks[2].cause, GAP_PAUSE);
    assert_int_equal(marks[2].skip, SAMPLE_RATE / 2);
    intake_pause(in, true); /* and to stop while paused is no trouble */
    await_state(in, STREAM_PAUSED);
    end(in);
}

/* A restart in a pause: the microphone is not opened for a moment. A file is, which shows whether it can be read. */
static void a_pause_from_the_start_opens_no_device(void **state)
{
    struct intake_options options = scripted;
    options.paused = true;
    device_reset(16000, 1);
    struct intake *in = create(&options);
    assert_int_equal(atomic_load(&in->state), STREAM_PAUSED);
    assert_true(in->live);
    struct err err;
    assert_int_equal(intake_start(in, &err), 0);
    usleep(300000);
    assert_int_equal(look(&device.n_attempts), 0);
    intake_pause(in, false);
    await_state(in, STREAM_LISTENING);
    tell((struct step){.n = 1600, .value = 0.5f, .heard_ns = clock_now_ns()});
    await_judged(in, 1600);
    expect_mark(0, MARK_SKIP, 0);
    assert_int_equal(marks[0].cause, GAP_PAUSE);
    end(in);

    device_reset(16000, 1);
    device.base.info.live = false;
    options.spec = "file:talk.flac";
    tell((struct step){.n = 1600, .value = 0.5f});
    in = start(&options);
    await_state(in, STREAM_PAUSED);
    usleep(100000);
    assert_int_equal(look(&device.n_attempts), 1);
    assert_int_equal(ring_head(&in->ring), 0);
    intake_pause(in, false);
    await_judged(in, 1600);
    end(in);
}

static void nothing_but_zeros_is_told(void **state)
{
    device_reset(16000, 1);
    struct intake *in = start(&scripted);
    await_idle(2);
    int64_t t = clock_now_ns();
    tell((struct step){.n = 4 * SAMPLE_RATE, .value = 0.0f, .heard_ns = t});
    await_judged(in, 4 * SAMPLE_RATE);
    assert_int_equal(atomic_load(&in->state), STREAM_LISTENING);
    tell((struct step){.n = SAMPLE_RATE, .value = 0.0f, .heard_ns = t + 1000 * MS});
    await_state(in, STREAM_SILENT);
    assert_int_equal(atomic_load(&in->level_cdb), -12000);
    tell((struct step){.n = 100, .value = 1e-5f, .heard_ns = t + 1010 * MS});
    await_state(in, STREAM_LISTENING);
    end(in);
}

/* The captioner stands still: the ring fills, what does not fit is lost, and the count is exact. */
static void a_full_ring_loses_and_counts(void **state)
{
    const int64_t capacity = (int64_t)INTAKE_RING_SECONDS * SAMPLE_RATE;
    device_reset(16000, 1);
    struct intake *in = start(&scripted);
    await_idle(2);
    int64_t t = clock_now_ns();
    tell((struct step){.n = (int)capacity + 5000, .value = 0.25f, .heard_ns = t});
    await_judged(in, capacity);
    await_idle(1);
    ring_release(&in->ring, SAMPLE_RATE / 2); /* under a second of room: it goes on losing */
    tell((struct step){.n = 1000, .value = 0.5f, .heard_ns = t + 100 * MS});
    await_idle(1);
    assert_int_equal(ring_head(&in->ring), capacity);
    ring_release(&in->ring, 2 * SAMPLE_RATE);
    tell((struct step){.n = 1000, .value = 0.75f, .heard_ns = t + 200 * MS});
    await_judged(in, capacity + 1000);
    assert_true(*ring_span(&in->ring, capacity, 1) == 0.75f);
    assert_int_equal(n_marks, 4);
    expect_mark(1, MARK_END, capacity);
    expect_mark(2, MARK_SKIP, capacity);
    assert_int_equal(marks[2].skip, 6000);
    assert_int_equal(marks[2].cause, GAP_OVERRUN);
    assert_int_equal(atomic_load(&in->overruns), 6000);
    end(in);
}

static void stop_ends_a_waiting_read(void **state)
{
    device_reset(16000, 1);
    struct intake *in = start(&scripted);
    await_idle(2);
    int woken = look(&device.n_woken);
    assert_int_equal(intake_stop(in, 1000), 0);
    assert_int_equal(look(&device.n_woken), woken + 1); /* it did not have to time out */
    assert_int_equal(look(&device.n_closed), 1);
    intake_destroy(in);
}

static void stop_gives_up_on_a_device_that_hangs(void **state)
{
    device_reset(16000, 1);
    struct intake *in = start(&scripted);
    await_idle(2);
    pthread_mutex_lock(&device.lock);
    device.close_hangs = true;
    pthread_mutex_unlock(&device.lock);
    int64_t began = clock_now_ns();
    assert_int_equal(intake_stop(in, 200), -ETIMEDOUT);
    int64_t took = clock_now_ns() - began;
    assert_true(took >= 150 * MS && took < 900 * MS);
    pthread_mutex_lock(&device.lock);
    device.close_hangs = false;
    pthread_cond_broadcast(&device.change);
    while (device.n_closed == 0)
        pthread_cond_wait(&device.change, &device.lock);
    pthread_mutex_unlock(&device.lock);
    intake_destroy(in);
}

static void hang_in_close(bool hang)
{
    pthread_mutex_lock(&device.lock);
    device.close_hangs = hang;
    pthread_cond_broadcast(&device.change);
    pthread_mutex_unlock(&device.lock);
}

/* Several that hang have one deadline together: a stop has two seconds, however many inputs there are. */
static void inputs_that_hang_share_a_deadline(void **state)
{
    struct pipeline p = {.n_inputs = 2};
    device_reset(16000, 1);
    for (int i = 0; i < p.n_inputs; i++)
        p.inputs[i] = create(&scripted);
    hang_in_close(true);
    int64_t began = clock_now_ns();
    pipeline_stop_inputs(&p, 1000);
    int64_t took = clock_now_ns() - began;
    assert_true(took >= 950 * MS && took < 1900 * MS);
    assert_true(p.inputs_stuck);
    hang_in_close(false);
    pthread_mutex_lock(&device.lock);
    while (device.n_closed < p.n_inputs)
        pthread_cond_wait(&device.change, &device.lock);
    pthread_mutex_unlock(&device.lock);
    for (int i = 0; i < p.n_inputs; i++)
        intake_destroy(p.inputs[i]);
}

/* A sound server that keeps the device when it is lost, or to be let go of: nothing else is opened, also after the pause, and
 * what is said is that only a restart helps. */
static void a_stuck_server_is_told(void **state)
{
    for (int paused = 0; paused < 2; paused++) {
        char name[128], message[256];
        device_reset(16000, 1);
        struct intake *in = start(&scripted);
        await_idle(2);
        hang_in_close(true);
        if (paused)
            intake_pause(in, true);
        else
            tell((struct step){.n = -EIO});
        for (int64_t until = clock_now_ns() + 10000 * MS; !in->stuck && clock_now_ns() < until; usleep(1000))
            continue;
        assert_true(in->stuck);
        await_state(in, STREAM_NO_DEVICE);
        intake_pause(in, false);
        usleep(400 * 1000); /* longer than the first wait between two attempts */
        assert_int_equal(look(&device.n_attempts), 1);
        int64_t began = clock_now_ns();
        assert_int_equal(intake_stop(in, 1000), -ETIMEDOUT);
        assert_true(clock_now_ns() - began < 500 * MS); /* it does not wait for the server once more */
        intake_describe(in, name, sizeof(name), message, sizeof(message));
        assert_string_equal(message, "the sound server does not answer and holds the device");
        hang_in_close(false);
        pthread_mutex_lock(&device.lock);
        while (device.n_closed == 0)
            pthread_cond_wait(&device.change, &device.lock);
        pthread_mutex_unlock(&device.lock);
        intake_destroy(in);
    }
}

/* --- files -------------------------------------------------------------------------------------------------- */

static const struct intake_options fixture = {.name = "file",
                                              .spec = "file:tests/fixtures/speech.flac",
                                              .wake = &wake,
                                              .gate = {.enabled = true,
                                                       .threshold = 0.5f,
                                                       .min_speech_ms = 100,
                                                       .min_silence_ms = 600,
                                                       .pre_roll_ms = 400,
                                                       .pad_ms = 200}};

/* Consumes a file to its end, `pause_us` between looks, and keeps at most `keep` samples. Checks that no mark is late.
 * Returns the samples; sum is of them all. */
static int64_t consume(struct intake *in, int pause_us, int64_t keep, double *sum)
{
    int64_t seen = 0, last_known = 0;
    *sum = 0.0;
    for (;;) {
        int64_t judged = atomic_load_explicit(&in->judged, memory_order_acquire);
        int before = n_marks;
        drain_marks(in);
        for (int i = before; i < n_marks; i++) {
            assert_true(marks[i].known >= last_known);
            assert_true(marks[i].known >= seen);
            assert_true(marks[i].at <= marks[i].known);
            last_known = marks[i].known;
        }
        const float *pcm = ring_span(&in->ring, seen, (size_t)(judged - seen));
        assert_non_null(pcm);
        for (int64_t i = 0; i < judged - seen; i++)
            *sum += (double)pcm[i] * (double)((seen + i) % 1000);
        seen = judged;
        ring_release(&in->ring, judged - keep);
        sem_post(&in->room);
        if (n_marks && marks[n_marks - 1].type == MARK_EOF && marks[n_marks - 1].at == seen)
            return seen;
        usleep((useconds_t)pause_us);
    }
}

static void a_file_gives_the_same_marks_at_any_pace(void **state)
{
    static struct mark first[MARKS_MAX];
    static const int pauses_us[] = {0, 1000, 20000};
    int n_first = 0;
    int64_t n = 0;
    double sum = 0.0;
    for (int round = 0; round < 3; round++) {
        struct intake *in = start(&fixture);
        double s;
        int64_t got = consume(in, pauses_us[round], round * 1000, &s);
        await_state(in, STREAM_ENDED);
        end(in);
        if (round == 0) {
            memcpy(first, marks, sizeof(marks));
            n_first = n_marks;
            n = got;
            sum = s;
        }
        assert_int_equal(got, n);
        assert_true(s == sum);
        assert_int_equal(n_marks, n_first);
        assert_memory_equal(marks, first, (size_t)n_marks * sizeof(marks[0]));
    }
    assert_int_equal(n_first, 7); /* three utterances and the end */
}

static const char *write_wav(int rate, int channels, int n)
{
    static char spec[128];
    snprintf(spec, sizeof(spec), "file:/tmp/captiond-intake-%ld.wav", (long)getpid());
    SF_INFO info = {.samplerate = rate, .channels = channels, .format = SF_FORMAT_WAV | SF_FORMAT_FLOAT};
    SNDFILE *f = sf_open(spec + 5, SFM_WRITE, &info);
    assert_non_null(f);
    for (int i = 0; i < n; i++) {
        float frame[8];
        for (int c = 0; c < channels; c++)
            frame[c] = 0.1f * (float)(i % 100);
        sf_writef_float(f, frame, 1);
    }
    sf_close(f);
    return spec;
}

/* Longer than the ring: it waits, nothing is lost, and the end is exact. */
static void a_long_file_waits_for_room(void **state)
{
    const int seconds = 2 * INTAKE_RING_SECONDS + 7;
    struct intake_options options = {
        .name = "file", .spec = write_wav(16000, 1, seconds * 16000), .wake = &wake};
    struct intake *in = start(&options);
    double sum, expected = 0.0;
    int64_t until = clock_now_ns() + 10000 * MS;
    while (ring_room(&in->ring) > 0 && clock_now_ns() < until)
        usleep(1000);
    assert_int_equal(ring_head(&in->ring), (int64_t)INTAKE_RING_SECONDS * SAMPLE_RATE);
    int64_t n = consume(in, 1000, 0, &sum);
    for (int i = 0; i < seconds * 16000; i++)
        expected += (double)(0.1f * (float)(i % 100)) * (i % 1000);
    assert_int_equal(n, (int64_t)seconds * 16000);
    assert_true(fabs(sum - expected) < 1e-6 * expected);
    assert_int_equal(n_marks, 3);
    expect_mark(0, MARK_START, 0);
    expect_mark(1, MARK_END, n);
    expect_mark(2, MARK_EOF, n);
    assert_int_equal(atomic_load(&in->overruns), 0);
    end(in);
    unlink(options.spec + 5);
}

static void stop_ends_a_wait_for_room(void **state)
{
    struct intake_options options = {
        .name = "file", .spec = write_wav(16000, 1, (INTAKE_RING_SECONDS + 5) * 16000), .wake = &wake};
    struct intake *in = start(&options);
    usleep(300000);
    int64_t began = clock_now_ns();
    end(in);
    assert_true(clock_now_ns() - began < 900 * MS);
    unlink(options.spec + 5);
}

/* The lowest rate makes the most of a block: sixteen samples of each, and what the filter has held back. */
static void the_lowest_rate_fits(void **state)
{
    struct intake_options options = {.name = "file", .spec = write_wav(1000, 1, 20000), .wake = &wake};
    struct intake *in = start(&options);
    double sum;
    assert_int_equal(consume(in, 0, 0, &sum), 20 * SAMPLE_RATE);
    char name[64], message[64];
    await_state(in, STREAM_ENDED);
    intake_describe(in, name, sizeof(name), message, sizeof(message));
    assert_string_equal(message, "the input has ended");
    end(in);
    unlink(options.spec + 5);
}

/* A sample comes when it would have been spoken, not before, and the clock's zero is the start. */
static void a_paced_file_takes_its_time(void **state)
{
    struct intake_options options = {
        .name = "file", .spec = write_wav(44100, 2, 44100), .wake = &wake, .paced = true};
    int64_t began = clock_now_ns();
    struct intake *in = start(&options);
    while (atomic_load(&in->state) != STREAM_ENDED) {
        int64_t judged = atomic_load(&in->judged);
        int64_t elapsed = clock_now_ns() - began;
        assert_true(elapsed >= judged * MS / 16);
        usleep(5000);
    }
    int64_t took = clock_now_ns() - began;
    assert_int_equal(ring_head(&in->ring), 16000);
    assert_true(took >= 1000 * MS && took < 2500 * MS);
    int64_t origin = atomic_load(&in->origin_ns) - began;
    assert_true(origin >= 0 && origin < 900 * MS); /* not of the end */
    end(in);
    unlink(options.spec + 5);
}

static void pausing_a_paced_file_stops_its_clock(void **state)
{
    struct intake_options options = {
        .name = "file", .spec = write_wav(16000, 1, 16000), .wake = &wake, .paced = true};
    int64_t began = clock_now_ns();
    struct intake *in = start(&options);
    usleep(300000);
    intake_pause(in, true);
    await_state(in, STREAM_PAUSED);
    int64_t head = ring_head(&in->ring);
    usleep(500000);
    assert_int_equal(ring_head(&in->ring), head);
    await_marks(in, 2);
    intake_pause(in, false);
    await_state(in, STREAM_ENDED);
    int64_t took = clock_now_ns() - began;
    assert_true(took >= 1450 * MS && took < 3500 * MS);
    assert_int_equal(ring_head(&in->ring), 16000);
    await_marks(in, 5);
    expect_mark(1, MARK_END, head); /* what was said is committed, and what follows joins on to it */
    assert_int_equal(marks[1].reason, FINAL_SILENCE);
    expect_mark(2, MARK_START, head);
    end(in);
    unlink(options.spec + 5);
}

/* --- pipes -------------------------------------------------------------------------------------------------- */

static struct intake *start_pipe(int max_lag_ms)
{
    struct intake_options options = scripted;
    options.paced = true;
    options.max_lag_ms = max_lag_ms;
    device_reset(16000, 1);
    device.base.info.live = false;
    device.base.info.fed = true;
    return start(&options);
}

static struct intake *start_unpaced_pipe(void)
{
    device_reset(16000, 1);
    device.base.info.live = false;
    device.base.info.fed = true;
    return start(&scripted);
}

/* How long ago the newest sample was heard. */
static int64_t age_ms(struct intake *in)
{
    return (clock_now_ns() - atomic_load(&in->origin_ns)) / MS - ring_head(&in->ring) / 16;
}

static void write_pipe(struct intake *in, int n)
{
    int64_t head = ring_head(&in->ring);
    tell((struct step){.n = n, .value = 0.5f});
    await_judged(in, head + n);
    await_idle(1);
}

/* Late, stalled, with a backlog, or early by a clock that is fast: what is written into an empty pipe is of now, and the clock
 * counts nothing but samples. */
static void a_pipe_is_heard_as_it_is_written(void **state)
{
    struct intake *in = start_pipe(10000);
    for (int i = 0; i < 2; i++) {
        usleep(1000000);
        write_pipe(in, 1600);
        assert_in_range(age_ms(in), 0, 400);
    }
    int64_t began = clock_now_ns();
    write_pipe(in, 2 * SAMPLE_RATE + SAMPLE_RATE / 2);
    assert_true(clock_now_ns() - began < 1500 * MS);
    for (int i = 0; i < 20; i++)
        write_pipe(in, SAMPLE_RATE / 2);
    assert_true(clock_now_ns() - began < 5000 * MS);
    assert_in_range(age_ms(in), 0, 400);
    assert_int_equal(ring_head(&in->ring), 2 * 1600 + 25 * SAMPLE_RATE / 2);
    assert_int_equal(n_marks, 1);
    end(in);
}

/* One that is never empty is no microphone's: it is taken at the speed of the clock, after half of what may be behind. */
static void a_full_pipe_is_paced(void **state)
{
    struct intake *in = start_pipe(3000);
    int64_t began = clock_now_ns();
    tell((struct step){.n = 4 * SAMPLE_RATE, .value = 0.5f});
    while (atomic_load(&in->judged) < 4 * SAMPLE_RATE) {
        int64_t judged_ms = atomic_load(&in->judged) / 16;
        int64_t elapsed_ms = (clock_now_ns() - began) / MS;
        assert_true(judged_ms <= elapsed_ms + 1500 + 200); /* with a read that had begun */
        assert_true(elapsed_ms < 10000);
        usleep(5000);
    }
    assert_in_range(age_ms(in), 0, 400); /* not yet to come */
    end(in);
}

/* What has been said is committed, and the captions go on with the next sound: nothing is missing, so the clock stands still
 * meanwhile, and what then comes at once is of now. */
static void a_stalled_pipe_ends_the_utterance(void **state)
{
    char name[64], message[64];
    struct intake *in = start_pipe(10000);
    write_pipe(in, SAMPLE_RATE);
    await_marks(in, 2);
    assert_in_range(age_ms(in), 2000, 4000);
    await_state(in, STREAM_SILENT);
    intake_describe(in, name, sizeof(name), message, sizeof(message));
    assert_string_equal(message, "no sound has come for some seconds");
    assert_int_equal(atomic_load(&in->level_cdb), -12000);
    write_pipe(in, 2 * SAMPLE_RATE);
    assert_in_range(age_ms(in), 0, 400);
    assert_int_equal(atomic_load(&in->state), STREAM_LISTENING);
    intake_describe(in, name, sizeof(name), message, sizeof(message));
    assert_string_equal(message, "");
    assert_int_equal(n_marks, 3);
    expect_mark(0, MARK_START, 0);
    expect_mark(1, MARK_END, SAMPLE_RATE);
    assert_int_equal(marks[1].reason, FINAL_SILENCE);
    expect_mark(2, MARK_START, SAMPLE_RATE);

    await_state(in, STREAM_SILENT); /* and may end as it is */
    tell((struct step){.n = SOURCE_EOF});
    await_state(in, STREAM_ENDED);
    await_marks(in, 5);
    expect_mark(3, MARK_END, 3 * SAMPLE_RATE);
    expect_mark(4, MARK_EOF, 3 * SAMPLE_RATE);
    end(in);
}

/* A pause or a stop come in a stall as well as at any time. */
static void a_stalled_pipe_is_stopped(void **state)
{
    struct intake *in = start_pipe(10000);
    await_state(in, STREAM_SILENT);
    intake_pause(in, true);
    await_state(in, STREAM_PAUSED);
    intake_pause(in, false);
    await_state(in, STREAM_LISTENING);
    await_state(in, STREAM_SILENT);
    end(in);
}

/* One that nobody follows as it is heard has all the time there is. */
static void a_pipe_at_any_speed_never_stalls(void **state)
{
    struct intake *in = start_unpaced_pipe();
    write_pipe(in, SAMPLE_RATE);
    usleep(3000000);
    assert_int_equal(atomic_load(&in->state), STREAM_LISTENING);
    write_pipe(in, SAMPLE_RATE);
    assert_int_equal(n_marks, 1);
    end(in);
}

/* As with a microphone: what is said in a pause is in no caption, and missing in the clock's count. */
static void what_comes_to_a_pipe_in_a_pause_is_thrown_away(void **state)
{
    struct intake *in = start_pipe(10000);
    write_pipe(in, 1600);
    intake_pause(in, true);
    await_state(in, STREAM_PAUSED);
    await_marks(in, 2);
    expect_mark(1, MARK_END, 1600);
    assert_int_equal(marks[1].reason, FINAL_DEVICE);
    tell((struct step){.n = SAMPLE_RATE, .value = 0.25f});
    await_idle(1);
    assert_int_equal(ring_head(&in->ring), 1600);
    usleep(200000);
    intake_pause(in, false);
    await_state(in, STREAM_LISTENING);
    write_pipe(in, 1600);
    assert_int_equal(n_marks, 4);
    expect_mark(2, MARK_SKIP, 1600);
    assert_int_equal(marks[2].skip, SAMPLE_RATE);
    assert_int_equal(marks[2].cause, GAP_PAUSE);
    expect_mark(3, MARK_START, 1600);
    assert_true(*ring_span(&in->ring, 1600, 1) == 0.5f);
    assert_in_range(age_ms(in) - SAMPLE_RATE / 16, 0, 400);
    assert_int_equal(atomic_load(&in->overruns), 0);

    intake_pause(in, true); /* in which it may end, too */
    await_state(in, STREAM_PAUSED);
    tell((struct step){.n = 800, .value = 0.25f});
    tell((struct step){.n = SOURCE_EOF});
    await_state(in, STREAM_ENDED);
    await_marks(in, 7);
    expect_mark(4, MARK_END, 3200);
    expect_mark(5, MARK_SKIP, 3200);
    assert_int_equal(marks[5].skip, 800);
    expect_mark(6, MARK_EOF, 3200);
    end(in);
}

/* One that is never empty loses no more of it than the pause lasts. */
static void a_full_pipe_is_paced_in_a_pause(void **state)
{
    struct intake *in = start_pipe(1000);
    int64_t began = clock_now_ns();
    tell((struct step){.n = 20 * SAMPLE_RATE, .value = 0.5f});
    await_judged(in, SAMPLE_RATE);
    intake_pause(in, true);
    await_state(in, STREAM_PAUSED);
    usleep(1000000);
    intake_pause(in, false);
    await_state(in, STREAM_LISTENING);
    int64_t elapsed_ms = (clock_now_ns() - began) / MS;
    await_judged(in, ring_head(&in->ring) + 1600);
    assert_int_equal(marks[2].type, MARK_SKIP);
    assert_in_range(marks[2].skip, 900 * 16, (elapsed_ms - 500 + 100) * 16); /* it was 500 ms ahead before */
    int64_t clock_ms = (ring_head(&in->ring) + marks[2].skip) / 16;
    assert_in_range(clock_ms, elapsed_ms, (clock_now_ns() - began) / MS + 600);
    end(in);
}

/* Nothing is lost of it. */
static void a_pipe_at_any_speed_waits_in_a_pause(void **state)
{
    struct intake *in = start_unpaced_pipe();
    write_pipe(in, 1600);
    intake_pause(in, true);
    await_state(in, STREAM_PAUSED);
    tell((struct step){.n = 1600, .value = 0.25f});
    usleep(300000);
    assert_int_equal(ring_head(&in->ring), 1600);
    intake_pause(in, false);
    await_judged(in, 3200);
    assert_int_equal(n_marks, 3);
    expect_mark(1, MARK_END, 1600);
    expect_mark(2, MARK_START, 1600);
    end(in);
}

static void bad_files_are_refused(void **state)
{
    static const char *const specs[] = {"file:/nowhere/x.wav", "file:tests", "file:Makefile", "nonsense"};
    for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
        struct intake_options options = {
            .name = "f", .spec = specs[i], .wake = &wake, .wait_for_device = true};
        struct intake *in = NULL;
        struct err err = {0};
        assert_true(intake_create(&options, &in, &err) < 0);
        assert_null(in);
        assert_non_null(strstr(err.msg, specs[i] + (strncmp(specs[i], "file:", 5) ? 0 : 5)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound_reaches_the_ring),
        cmocka_unit_test(sound_from_before_the_start_is_dropped),
        cmocka_unit_test(dropped_frames_skip_the_clock),
        cmocka_unit_test(a_lost_device_is_reopened),
        cmocka_unit_test(a_device_without_sound_backs_off_too),
        cmocka_unit_test(a_missing_device_may_be_waited_for),
        cmocka_unit_test(pause_lets_go_of_the_device),
        cmocka_unit_test(a_pause_from_the_start_opens_no_device),
        cmocka_unit_test(nothing_but_zeros_is_told),
        cmocka_unit_test(a_full_ring_loses_and_counts),
        cmocka_unit_test(stop_ends_a_waiting_read),
        cmocka_unit_test(stop_gives_up_on_a_device_that_hangs),
        cmocka_unit_test(inputs_that_hang_share_a_deadline),
        cmocka_unit_test(a_stuck_server_is_told),
        cmocka_unit_test(a_file_gives_the_same_marks_at_any_pace),
        cmocka_unit_test(a_long_file_waits_for_room),
        cmocka_unit_test(stop_ends_a_wait_for_room),
        cmocka_unit_test(the_lowest_rate_fits),
        cmocka_unit_test(a_paced_file_takes_its_time),
        cmocka_unit_test(pausing_a_paced_file_stops_its_clock),
        cmocka_unit_test(a_pipe_is_heard_as_it_is_written),
        cmocka_unit_test(a_full_pipe_is_paced),
        cmocka_unit_test(a_stalled_pipe_ends_the_utterance),
        cmocka_unit_test(a_stalled_pipe_is_stopped),
        cmocka_unit_test(a_pipe_at_any_speed_never_stalls),
        cmocka_unit_test(what_comes_to_a_pipe_in_a_pause_is_thrown_away),
        cmocka_unit_test(a_full_pipe_is_paced_in_a_pause),
        cmocka_unit_test(a_pipe_at_any_speed_waits_in_a_pause),
        cmocka_unit_test(bad_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
