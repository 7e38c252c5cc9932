#include "daemon/intake_feed.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/base/wake.h"

/* How far a paced pipe may run ahead of the clock. One that is written as the sound is heard must be empty between two
 * blocks, or what has piled up in it (while the model was loaded, say) makes all that follows late. The kernel keeps
 * 64 KiB, two seconds at 16 kHz. */
#define LEAD_NS_MAX (3 * NS_A_SECOND)

#define ZEROS_SUSPICIOUS (5 * SAMPLE_RATE) /* a working microphone has a noise floor */

void intake_tell(struct intake *in, enum stream_state state, const char *device, const char *message)
{
    pthread_mutex_lock(&in->text_lock);
    if (device)
        snprintf(in->device, sizeof(in->device), "%s", device);
    snprintf(in->message, sizeof(in->message), "%s", message);
    atomic_store(&in->state, state); /* under the lock, so that intake_describe gives what belongs together */
    pthread_mutex_unlock(&in->text_lock);
    sem_post(in->options.wake);
}

int64_t intake_position(const struct intake *in)
{
    return ring_head(&in->ring);
}

int64_t intake_clock(const struct intake *in)
{
    return intake_position(in) + in->skipped + in->lost;
}

/* The queue holds more marks than a ring full of audio causes, unless the gate is set to chop it finely: then the
 * captioner is waited for. */
void intake_put_mark(struct intake *in, const struct mark *mark)
{
    while (!spsc_push(&in->marks, mark, 1) && !atomic_load(&in->stop)) {
        sem_post(in->options.wake);
        clock_sleep_until(clock_now_ns() + 5 * NS_A_MS);
    }
}

/* reason: of an end. */
static void put_gate_event(struct intake *in, const struct gate_event *event, enum final_reason reason)
{
    const struct mark mark = {.type = event->type == GATE_START ? MARK_START : MARK_END,
                              .at = event->at,
                              .known = in->gate.position,
                              .reason = reason};
    if (event->type != GATE_NONE)
        intake_put_mark(in, &mark);
}

void intake_finish_gate(struct intake *in, enum final_reason reason)
{
    struct gate_event event;
    do {
        gate_finish(&in->gate, &event);
        put_gate_event(in, &event, reason);
    } while (event.type != GATE_NONE);
}

void intake_break_gate(struct intake *in, enum final_reason reason)
{
    intake_finish_gate(in, reason);
    gate_init(&in->gate, &in->options.gate, intake_position(in));
}

void intake_put_skip(struct intake *in, int64_t n, enum gap_cause cause)
{
    const struct mark mark = {.type = MARK_SKIP,
                              .at = intake_position(in),
                              .known = intake_position(in),
                              .skip = n,
                              .cause = cause};
    intake_break_gate(in, FINAL_DEVICE);
    if (n <= 0)
        return;
    intake_put_mark(in, &mark);
    in->skipped += n;
    if (cause == GAP_OVERRUN)
        atomic_fetch_add(&in->overruns, n);
}

void intake_put_lost(struct intake *in, enum gap_cause cause)
{
    if (in->lost > 0)
        intake_put_skip(in, in->lost, cause);
    in->lost = 0;
}

/* Judges samples that are in the ring and publishes how far. */
static void judge(struct intake *in, const float *pcm, int n)
{
    while (n > 0) {
        struct gate_event event;
        int used = gate_process(&in->gate, pcm, n, &event);
        put_gate_event(in, &event, FINAL_SILENCE);
        pcm += used;
        n -= used;
    }
    atomic_store_explicit(&in->judged, intake_position(in), memory_order_release);
    sem_post(in->options.wake);
}

/* A live input cannot wait: what finds no room is lost, counted, and told before the next sample that does. */
static void put_live(struct intake *in, const float *pcm, int n)
{
    if (in->lost > 0 && ring_room(&in->ring) < SAMPLE_RATE) {
        in->lost += n; /* one long gap rather than many short ones */
        return;
    }
    intake_put_lost(in, GAP_OVERRUN);
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
        if (n > 0)
            wake_wait(&in->room, 50);
    }
}

void intake_clear_level(struct intake *in)
{
    atomic_store(&in->level_cdb, -12000);
    in->level_sum = 0.0;
    in->level_n = 0;
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
        intake_tell(in, STREAM_SILENT, NULL,
                    strcmp(in->options.spec, "monitor") == 0
                        ? "nothing is being played"
                        : "the device delivers only zeros: it may be muted");
    else if (in->zeros == 0 && state == STREAM_SILENT)
        intake_tell(in, STREAM_LISTENING, NULL, "");
}

static void set_origin(struct intake *in, int64_t heard_ns)
{
    atomic_store(&in->origin_ns, heard_ns - intake_clock(in) * NS_A_SAMPLE);
}

/* To the captioner it looks like sound that it has fallen behind, so it must stay well below what is given up. */
static int64_t lead_ns(const struct intake *in)
{
    int64_t half_ns = in->options.max_lag_ms * NS_A_MS / 2;
    if (!in->source->info.fed)
        return 0;
    return half_ns < LEAD_NS_MAX ? half_ns : LEAD_NS_MAX;
}

int64_t intake_await_due(const struct intake *in, int n)
{
    int64_t due_ns = in->start_ns + (intake_clock(in) + n) * NS_A_SAMPLE;
    if (in->options.paced)
        clock_sleep_until(due_ns - lead_ns(in));
    return due_ns;
}

void intake_put_samples(struct intake *in, const float *pcm, int n)
{
    if (in->live) {
        measure_level(in, pcm, n);
        put_live(in, pcm, n);
        set_origin(in, in->heard_ns);
        return;
    }
    int64_t due_ns = intake_await_due(in, n);
    int64_t now = clock_now_ns();
    measure_level(in, pcm, n);
    put_waiting(in, pcm, n);
    set_origin(in, in->options.paced && due_ns < now ? due_ns : now);
}
