/* What must be done about ALSA and JACK behind PortAudio's back. Not safe while PortAudio is in a call.
 *
 * In a program that this file is linked into, JACK starts no server (JACK_NO_START_SERVER is set before main), and the lines
 * that PortAudio prints to stderr by itself are left out. */
#ifndef CAPTIOND_STREAM_ALSA_SETUP_H
#define CAPTIOND_STREAM_ALSA_SETUP_H

#include <stdbool.h>

/* The devices by which the default output's monitor is heard; the one that the sound server does not understand cannot
 * be opened, or hears the microphone instead, so the order is PipeWire's first. */
#define ALSA_MONITOR_PIPEWIRE "captiond_monitor_pipewire"
#define ALSA_MONITOR_PULSE    "captiond_monitor"

/* Silences both libraries, which write to stderr whatever they do not find. */
void alsa_setup_quiet(void);

/* Adds both to ALSA's configuration in memory: what the sound server's default output plays, through ALSA's pulse
 * plugin. Needed before every Pa_Initialize, since Pa_Terminate frees that configuration. 0 or a negative errno;
 * without it there is only no monitor. */
int alsa_setup_monitors(void);

/* Whether a PCM can be recorded from just now. PortAudio, asked to open one that cannot, prints lines to stderr. */
bool alsa_can_capture(const char *name);

#endif
