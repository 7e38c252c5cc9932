/* The input devices that PortAudio sees, by name. All of it between Pa_Initialize and Pa_Terminate, whose calls may not
 * overlap. */
#ifndef CAPTIOND_STREAM_PORTAUDIO_DEVICES_H
#define CAPTIOND_STREAM_PORTAUDIO_DEVICES_H

#include <stdbool.h>

#include "daemon/base/err.h"
#include "stream/source.h"

/* name: of a device or a part that only one has, ALSA_MONITOR_PULSE for the monitor of what plays, NULL for the default
 * device. Its index or a negative errno. */
int portaudio_device_find(const char *name, struct err *err);

bool portaudio_is_monitor(const char *name);

/* Those that people may choose from, and the monitor. Returns how many there are in devices [max]. */
int portaudio_device_list(struct source_device *devices, int max);

#endif
