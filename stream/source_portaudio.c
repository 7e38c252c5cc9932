/* A sound device through PortAudio.
 *
 * PortAudio's callback thread copies each block into a FIFO, counts what does not fit and posts a semaphore; it never
 * blocks. The intake thread reads. Neither of PortAudio's own signs of trouble is enough: a stopped sound server
 * leaves the stream "active" without callbacks, so they are watched, and a late one never sets paInputOverflow, so
 * the age of the sound is watched too.
 *
 * PortAudio as a whole is one global object that sees the devices there are when it is initialised, and whose calls
 * may not overlap. It is kept initialised only while a source is open, so that each attempt to open the first one
 * sees what has been plugged in, and every call but the harmless ones is made under one lock.
 *
 * Pa_Initialize aborts the process on some ALSA configurations, waits for ever for a sound server that is stopped, and
 * leaks: some 50 KB each time, as it loads and unloads plugins. So all of it is rehearsed in a child, which says whether
 * the device is there, and a device that is missing is waited for without a Pa_Initialize of ours. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include <portaudio.h>

#include "daemon/base/clock.h"
#include "stream/alsa_setup.h"
#include "stream/frame_fifo.h"
#include "stream/source_kinds.h"
#include "stream/trial.h"

#define FIFO_SECONDS     2
#define LATENCY_S        0.1 /* asked of the device: its thread has no real-time priority */
#define STALL_NS         1500000000LL
#define LATE_NS          3000000000LL /* sound this old, for LATE_PATIENCE_NS, is no live sound */
#define LATE_PATIENCE_NS 2000000000LL
#define TRIAL_MS         3000
#define LOCK_MS          2000

struct device_source {
    struct source base;
    PaStream *stream;
    struct frame_fifo fifo; /* callback → read */
    sem_t arrived;          /* posted by the callback and by wake */

    /* Said by the callback. */
    _Atomic int64_t callback_ns; /* when it last ran */
    _Atomic int64_t late_ns;     /* age of the newest frame at that time */
    _Atomic int64_t origin_ns;   /* when frame 0 was heard, by the newest frame; lost ones count */
    _Atomic bool finished, woken;

    int64_t late_since; /* the reader's own */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int n_users; /* of PortAudio, guarded by lock */
/* The last device that was there could not be opened, or gave no sound: the rehearsal opens it then, too. Guarded by lock. */
static bool open_failed;

/* --- PortAudio as a whole ----------------------------------------------------------------------------------- */

static PaError initialize(void)
{
    alsa_setup_quiet();
    alsa_setup_monitors();
    return Pa_Initialize();
}

/* With the lock held. */
static void end_portaudio(void)
{
    if (--n_users == 0)
        Pa_Terminate();
}

static int from_pa(PaError code, const char *what, struct err *err)
{
    int r = code == paInvalidDevice              ? -ENODEV
            : code == paDeviceUnavailable        ? -EBUSY
            : code == paInsufficientMemory       ? -ENOMEM
            : code == paInvalidSampleRate        ? -EINVAL
            : code == paInvalidChannelCount      ? -EINVAL
            : code == paSampleFormatNotSupported ? -EINVAL
                                                 : -EIO;
    const PaHostErrorInfo *host = code == paUnanticipatedHostError ? Pa_GetLastHostErrorInfo() : NULL;
    return err_set(err, r, "%s: %s", what, host && host->errorText ? host->errorText : Pa_GetErrorText(code));
}

/* Polled, for thread sanitizers do not know pthread_mutex_clocklock. */
static int take_lock(struct err *err)
{
    const struct timespec pause = {.tv_nsec = 5 * NS_A_MS};
    int64_t until = clock_now_ns() + LOCK_MS * NS_A_MS;
    while (pthread_mutex_trylock(&lock) != 0) {
        if (clock_now_ns() >= until)
            return err_set(err, -EBUSY, "PortAudio is still busy with another device or search");
        nanosleep(&pause, NULL);
    }
    return 0;
}

/* --- devices ------------------------------------------------------------------------------------------------ */

static const PaDeviceInfo *any_input_device(int index)
{
    const PaDeviceInfo *info = Pa_GetDeviceInfo(index);
    return info && info->maxInputChannels > 0 ? info : NULL;
}

/* Those that people may choose from: without what alsa_setup_monitors has added. */
static const PaDeviceInfo *input_device(int index)
{
    const PaDeviceInfo *info = any_input_device(index);
    bool ours = info && (strcmp(info->name, ALSA_MONITOR_PULSE) == 0 ||
                         strcmp(info->name, ALSA_MONITOR_PIPEWIRE) == 0);
    return ours ? NULL : info;
}

static int monitor_device(const char *name)
{
    for (int i = 0; i < Pa_GetDeviceCount(); i++) {
        const PaDeviceInfo *info = any_input_device(i);
        if (info && strcmp(info->name, name) == 0)
            return i;
    }
    return paNoDevice;
}

/* Where no device is called "default", PortAudio takes the first there is, which may be a monitor. paNoDevice if there
 * is none. */
static int default_device(void)
{
    int index = Pa_GetDefaultInputDevice();
    if (index >= 0 && input_device(index))
        return index;
    for (int i = 0; i < Pa_GetDeviceCount(); i++) {
        if (input_device(i))
            return i;
    }
    return paNoDevice;
}

/* Appends "a, b, c" to text, as far as it fits. part: only names that contain it; NULL: all. */
static void list_names(const char *part, char *text, size_t size)
{
    const char *comma = "";
    for (int i = 0; i < Pa_GetDeviceCount(); i++) {
        const PaDeviceInfo *info = input_device(i);
        size_t used = strlen(text);
        if (!info || (part && !strcasestr(info->name, part)))
            continue;
        snprintf(text + used, size - used, "%s%s", comma, info->name);
        comma = ", ";
    }
}

/* The exact name, else the one name that contains it, whatever the case. */
static int device_by_name(const char *name, struct err *err)
{
    int found = paNoDevice, n_found = 0;
    for (int i = 0; i < Pa_GetDeviceCount(); i++) {
        const PaDeviceInfo *info = input_device(i);
        if (info && strcmp(info->name, name) == 0)
            return i;
        if (info && strcasestr(info->name, name)) {
            found = i;
            n_found++;
        }
    }
    if (n_found == 1)
        return found;
    char names[ERR_MSG_MAX - 128] = "";
    list_names(n_found > 1 ? name : NULL, names, sizeof(names));
    if (n_found > 1)
        return err_set(err, -ENOTUNIQ, "several input devices are called \"%s\": %s", name, names);
    return err_set(err, -ENODEV, "no input device is called \"%s\"; there %s%s", name,
                   names[0] ? "are: " : "are none", names);
}

static int playing_monitor(struct err *err)
{
    static const char *const names[] = {ALSA_MONITOR_PIPEWIRE, ALSA_MONITOR_PULSE};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int index = monitor_device(names[i]);
        if (index >= 0 && alsa_can_capture(names[i]))
            return index;
    }
    return err_set(err, -ENODEV,
                   "no monitor: it needs PulseAudio or PipeWire's Pulse server, running, and ALSA's "
                   "pulse plugin");
}

static bool is_monitor(const char *name)
{
    return name && strcmp(name, ALSA_MONITOR_PULSE) == 0;
}

/* name: of a device, ALSA_MONITOR_PULSE for either monitor, NULL for the default one. Its index or a negative errno. */
static int find_device(const char *name, struct err *err)
{
    if (is_monitor(name))
        return playing_monitor(err);
    if (name)
        return device_by_name(name, err);
    int index = default_device();
    return index >= 0 ? index : err_set(err, -ENODEV, "there is no input device; is a sound server running?");
}

static void describe_device(int index, bool is_default, struct source_device *d)
{
    const PaDeviceInfo *info = Pa_GetDeviceInfo(index);
    *d = (struct source_device){.channels = info->maxInputChannels,
                                .default_rate = (int)info->defaultSampleRate,
                                .is_default = is_default,
                                .is_monitor = strcasestr(info->name, "monitor") != NULL};
    snprintf(d->name, sizeof(d->name), "%s", info->name);
    snprintf(d->host_api, sizeof(d->host_api), "%s", Pa_GetHostApiInfo(info->hostApi)->name);
}

static int list_devices(struct source_device *devices, int max)
{
    int n = 0, chosen = default_device();
    for (int i = 0; i < Pa_GetDeviceCount() && n < max; i++) {
        if (input_device(i))
            describe_device(i, i == chosen, &devices[n++]);
    }
    int monitor = monitor_device(ALSA_MONITOR_PULSE);
    if (monitor >= 0 && n < max)
        describe_device(monitor, false, &devices[n++]);
    return n;
}

/* --- the callback ------------------------------------------------------------------------------------------- */

static int64_t frames_to_ns(const struct device_source *s, int64_t n)
{
    return n / s->base.info.rate * NS_A_SECOND + n % s->base.info.rate * NS_A_SECOND / s->base.info.rate;
}

/* How long before the callback the block's first frame was heard; 0 where the device does not say. */
static int64_t block_age_ns(const PaStreamCallbackTimeInfo *time)
{
    double age = time->currentTime - time->inputBufferAdcTime;
    return time->inputBufferAdcTime > 0.0 && age > 0.0 && age < 60.0 ? (int64_t)(age * 1e9) : 0;
}

static int on_audio(const void *input, void *output, unsigned long n_frames,
                    const PaStreamCallbackTimeInfo *time, PaStreamCallbackFlags flags, void *arg)
{
    struct device_source *s = arg;
    int64_t n = (int64_t)n_frames, now = clock_now_ns();
    int64_t block_ns = now - block_age_ns(time);

    /* The device has lost sound and does not say how much: its clock does. */
    if (flags & paInputOverflow && s->fifo.n_delivered > 0) {
        int64_t ahead = block_ns - atomic_load(&s->origin_ns) - frames_to_ns(s, s->fifo.n_delivered);
        frame_fifo_lose(&s->fifo, ahead > 0 ? (int64_t)((double)ahead * 1e-9 * s->base.info.rate) : 0);
    }
    frame_fifo_push(&s->fifo, input, n);
    int64_t newest_ns = block_ns + frames_to_ns(s, n);
    if (newest_ns > now)
        newest_ns = now;
    atomic_store(&s->origin_ns, newest_ns - frames_to_ns(s, s->fifo.n_delivered));
    atomic_store(&s->late_ns, now - newest_ns);
    atomic_store(&s->callback_ns, now);
    sem_post(&s->arrived);
    return paContinue;
}

static void on_finished(void *arg)
{
    struct device_source *s = arg;
    atomic_store(&s->finished, true);
    sem_post(&s->arrived);
}

/* --- the reader --------------------------------------------------------------------------------------------- */

static int take(struct device_source *s, float *frames, int max_frames)
{
    int64_t dropped;
    int n = frame_fifo_take(&s->fifo, frames, max_frames, &dropped);
    s->base.dropped += dropped;
    s->base.heard_ns = atomic_load(&s->origin_ns) + frames_to_ns(s, s->fifo.n_passed);
    return n;
}

/* 0 while the device works. */
static int check_device(struct device_source *s, int64_t now, struct err *err)
{
    const char *name = s->base.info.name;
    if (atomic_load(&s->finished) || Pa_IsStreamActive(s->stream) != 1)
        return err_set(err, -ENODEV, "%s has gone", name);
    if (now - atomic_load(&s->callback_ns) > STALL_NS)
        return err_set(err, -ESTALE, "%s delivers no sound: its sound server does not answer", name);
    if (atomic_load(&s->late_ns) < LATE_NS)
        s->late_since = now;
    if (now - s->late_since > LATE_PATIENCE_NS)
        return err_set(err, -ESTALE, "%s delivers its sound seconds late", name);
    return 0;
}

static int device_read(struct source *base, float *frames, int max_frames, int timeout_ms, struct err *err)
{
    struct device_source *s = (struct device_source *)base;
    int64_t deadline = clock_now_ns() + timeout_ms * NS_A_MS;
    const struct timespec until = clock_timespec(deadline);
    for (;;) {
        int64_t now = clock_now_ns();
        int r = check_device(s, now, err);
        int n = r == -ESTALE ? 0 : take(s, frames, max_frames);
        if (n > 0 || r < 0)
            return n > 0 ? n : r;
        if (atomic_exchange(&s->woken, false) || now >= deadline)
            return SOURCE_TIMEOUT;
        sem_clockwait(&s->arrived, CLOCK_MONOTONIC, &until);
    }
}

static void device_wake(struct source *base)
{
    struct device_source *s = (struct device_source *)base;
    atomic_store(&s->woken, true);
    sem_post(&s->arrived);
}

static void free_source(struct device_source *s)
{
    frame_fifo_finish(&s->fifo);
    sem_destroy(&s->arrived);
    free(s);
}

static void device_close(struct source *base)
{
    struct device_source *s = (struct device_source *)base;
    pthread_mutex_lock(&lock);
    Pa_AbortStream(s->stream);
    Pa_CloseStream(s->stream);
    open_failed |= s->fifo.n_delivered == 0;
    end_portaudio();
    pthread_mutex_unlock(&lock);
    free_source(s);
}

static const struct source_vtable device_vtable = {
    .read = device_read, .wake = device_wake, .close = device_close};

/* --- opening ------------------------------------------------------------------------------------------------ */

static int prepare(struct device_source *s, const PaDeviceInfo *info, int rate, struct err *err)
{
    /* Microphones have one channel or two; of an interface with more, the first two. */
    s->base.info.channels = info->maxInputChannels < 2 ? 1 : 2;
    s->base.info.rate = rate;
    frame_fifo_finish(&s->fifo);
    if (frame_fifo_init(&s->fifo, s->base.info.channels, rate * FIFO_SECONDS) < 0)
        return err_set(err, -ENOMEM, "out of memory for the sound of %s", info->name);
    return 0;
}

static int cannot_open(PaError code, const PaDeviceInfo *info, struct err *err)
{
    int r = from_pa(code, info->name, err);
    err_prefix(err, "cannot open the input device");
    return r;
}

/* The device's own rate, so that no one converts before us. Sound servers have one too, but ALSA cannot tell it and
 * PortAudio then says 44100; nearly all run at 48000. */
static int open_stream(struct device_source *s, int index, struct err *err)
{
    const PaDeviceInfo *info = Pa_GetDeviceInfo(index);
    bool hardware = strstr(info->name, "(hw:") || strcmp(Pa_GetHostApiInfo(info->hostApi)->name, "ALSA") != 0;
    const int own = (int)info->defaultSampleRate;
    const int rates[] = {hardware ? own : 48000, own, 48000, 44100, 32000, 16000, 8000};
    PaError code = paInvalidSampleRate;
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]) && code == paInvalidSampleRate; i++) {
        int r = prepare(s, info, rates[i], err);
        if (r < 0)
            return r;
        PaStreamParameters in = {.device = index,
                                 .channelCount = s->base.info.channels,
                                 .sampleFormat = paFloat32,
                                 .suggestedLatency = LATENCY_S};
        code = Pa_OpenStream(&s->stream, &in, NULL, rates[i], paFramesPerBufferUnspecified, paNoFlag,
                             on_audio, s);
    }
    if (code != paNoError)
        return cannot_open(code, info, err);
    Pa_SetStreamFinishedCallback(s->stream, on_finished);
    s->late_since = clock_now_ns();
    atomic_store(&s->callback_ns, clock_now_ns());
    code = Pa_StartStream(s->stream);
    if (code != paNoError) {
        Pa_CloseStream(s->stream);
        return cannot_open(code, info, err);
    }
    return 0;
}

static int open_device(struct device_source *s, const char *name, struct err *err)
{
    int index = find_device(name, err);
    int r = index < 0 ? index : open_stream(s, index, err);
    if (r == 0)
        snprintf(s->base.info.name, sizeof(s->base.info.name), "%s",
                 is_monitor(name) ? "monitor of the default output" : Pa_GetDeviceInfo(index)->name);
    return r;
}

static struct device_source *create_source(void)
{
    struct device_source *s = aligned_alloc(_Alignof(struct device_source), sizeof(*s));
    if (!s)
        return NULL;
    memset(s, 0, sizeof(*s));
    sem_init(&s->arrived, 0, 0);
    s->base.v = &device_vtable;
    s->base.info.live = true;
    s->base.info.n_frames = -1;
    return s;
}

/* --- the rehearsal ------------------------------------------------------------------------------------------ */

/* What a child does: "list" says the devices; "find NAME" looks for one, "open NAME" opens it too and waits for sound;
 * without a name it is the default device. It ends with an errno and says why. */
__attribute__((constructor)) static void rehearse(void)
{
    static struct source_device devices[SOURCE_DEVICES_MAX];
    const char *task = trial_task();
    struct err err = {0};
    if (!task)
        return;
    PaError code = initialize();
    int r = code == paNoError ? 0 : from_pa(code, "cannot start PortAudio", &err);
    if (r == 0 && strcmp(task, "list") == 0)
        trial_end(0, devices, sizeof(*devices) * (size_t)list_devices(devices, SOURCE_DEVICES_MAX));
    const char *space = strchr(task, ' '), *name = space ? space + 1 : NULL;
    if (r == 0 && strncmp(task, "open", 4) == 0) {
        struct device_source *s = create_source();
        float frame[2];
        r = s ? open_device(s, name, &err) : -ENOMEM;
        if (r == 0)
            r = device_read(&s->base, frame, 1, (int)(STALL_NS / NS_A_MS), &err);
    } else if (r == 0) {
        r = find_device(name, &err);
    }
    trial_end(r < 0 ? -r : 0, err.msg, r < 0 ? strlen(err.msg) : 0);
}

/* 0: it went well in the child; otherwise its error. -ECHILD: no child can be started. */
static int try_elsewhere(const char *task, void *said, size_t size, size_t *n_said, struct err *err)
{
    int r = trial_run(task, TRIAL_MS, said, size, n_said);
    if (r == -ETIMEDOUT)
        return err_set(err, -EAGAIN, "the sound server does not answer");
    if (r == -ECANCELED)
        return err_set(err, -ENODEV, "PortAudio cannot start with this machine's ALSA configuration");
    if (r < 0)
        return err_set(err, -ECHILD, "no process to rehearse in: %s", strerror(-r));
    return r == 0 ? 0 : err_set(err, -r, "%.*s", (int)*n_said, (const char *)said);
}

static int find_elsewhere(const char *verb, const char *name, struct err *err)
{
    char task[TRIAL_TASK_MAX], said[ERR_MSG_MAX];
    size_t n;
    if (snprintf(task, sizeof(task), "%s%s%s", verb, name ? " " : "", name ? name : "") >= (int)sizeof(task))
        return err_set(err, -ENODEV, "no input device has a name so long: \"%.100s…\"", name);
    return try_elsewhere(task, said, sizeof(said), &n, err);
}

/* --- the two entrances -------------------------------------------------------------------------------------- */

/* With the lock held. Where nothing can be rehearsed, the risk is taken. */
static int begin_portaudio(const char *name, struct err *err)
{
    if (n_users == 0) {
        int r = find_elsewhere(open_failed ? "open" : "find", name, err);
        if (r < 0 && r != -ECHILD)
            return r;
        PaError code = initialize();
        if (code != paNoError)
            return from_pa(code, "cannot start PortAudio", err);
    }
    n_users++;
    return 0;
}

/* With the lock held. */
static int begin_device(struct device_source *s, const char *name, struct err *err)
{
    int r = begin_portaudio(name, err);
    if (r < 0)
        return r;
    r = open_device(s, name, err);
    open_failed = r < 0;
    if (r == 0)
        return 0;
    /* A child sees what has been plugged in since. */
    if (r == -ENODEV && n_users > 1 && find_elsewhere("find", name, NULL) == 0)
        err_set(err, -ENODEV,
                "%s is there, but it cannot be opened while another input is: pause all inputs, and "
                "resume them",
                name ? name : "an input device");
    end_portaudio();
    return r;
}

int source_portaudio_open(const char *name, bool monitor, struct source **out, struct err *err)
{
    struct device_source *s = create_source();
    if (!s)
        return err_set(err, -ENOMEM, "out of memory for a device");
    int r = take_lock(err);
    if (r == 0) {
        r = begin_device(s, monitor ? ALSA_MONITOR_PULSE : name, err);
        pthread_mutex_unlock(&lock);
    }
    if (r < 0) {
        free_source(s);
        return r;
    }
    *out = &s->base;
    return 0;
}

/* Adds a device unless one of its name is there. Returns how many there are then. */
static int add_device(struct source_device *devices, int n, int max, const struct source_device *device)
{
    bool have_default = false;
    for (int i = 0; i < n; i++) {
        if (strcmp(devices[i].name, device->name) == 0)
            return n;
        have_default |= devices[i].is_default;
    }
    if (n == max)
        return n;
    devices[n] = *device;
    devices[n].is_default &= !have_default;
    return n + 1;
}

/* What is plugged in now is seen by a child; a device that is open may be hidden from it, but not from us. */
int source_list_devices(struct source_device *devices, int max, struct err *err)
{
    struct source_device ours[SOURCE_DEVICES_MAX];
    size_t n_said = 0;
    int n_ours = 0, r = take_lock(err);
    if (r < 0)
        return r;
    r = try_elsewhere("list", devices, sizeof(*devices) * (size_t)max, &n_said, err);
    if (n_users > 0 || (r == -ECHILD && initialize() == paNoError)) {
        n_ours = list_devices(ours, SOURCE_DEVICES_MAX);
        if (n_users == 0)
            Pa_Terminate();
        r = 0;
    }
    pthread_mutex_unlock(&lock);
    if (r < 0)
        return r;
    int n = (int)(n_said / sizeof(*devices));
    for (int i = 0; i < n_ours; i++)
        n = add_device(devices, n, max, &ours[i]);
    return n;
}
