#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <portaudio.h>

#include "stream/alsa_setup.h"
#include "stream/portaudio_devices.h"

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

bool portaudio_is_monitor(const char *name)
{
    return name && strcmp(name, ALSA_MONITOR_PULSE) == 0;
}

int portaudio_device_find(const char *name, struct err *err)
{
    if (portaudio_is_monitor(name))
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

int portaudio_device_list(struct source_device *devices, int max)
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
