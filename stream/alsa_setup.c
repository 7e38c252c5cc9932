#include "stream/alsa_setup.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#include <alsa/asoundlib.h>

static void ignore_alsa(const char *file, int line, const char *function, int err, const char *format, ...)
{
}

static void ignore_jack(const char *message)
{
}

/* Each line of PortAudio's comes in one call, since the stream has no buffer. */
static ssize_t write_unless_portaudio(void *ctx, const char *text, size_t n)
{
    static const char mark[] = "Expression '";
    if (n >= sizeof(mark) - 1 && memcmp(text, mark, sizeof(mark) - 1) == 0)
        return (ssize_t)n;
    return write(STDERR_FILENO, text, n);
}

/* Before main, while there is one thread. PortAudio prints the expressions that have failed in it, as when a sound server
 * dies, and has no switch for that, not even a symbol to set; but it does so through stdio's stderr, which glibc lets
 * one replace. */
__attribute__((constructor)) static void set_up_process(void)
{
    setenv("JACK_NO_START_SERVER", "1", 0);
    FILE *filter = fopencookie(NULL, "w", (cookie_io_functions_t){.write = write_unless_portaudio});
    if (!filter)
        return;
    setvbuf(filter, NULL, _IONBF, 0);
    stderr = filter;
}

void alsa_setup_quiet(void)
{
    snd_lib_error_set_handler(ignore_alsa);
    /* PortAudio brings libjack along where it was built with it; this program does not link it. */
    static const char *const setters[] = {"jack_set_error_function", "jack_set_info_function"};
    for (size_t i = 0; i < sizeof(setters) / sizeof(setters[0]); i++) {
        void (*set)(void (*)(const char *));
        *(void **)&set = dlsym(RTLD_DEFAULT, setters[i]);
        if (set)
            set(ignore_jack);
    }
}

#define MONITOR(name, source)                                                                                \
    "pcm." name " { type pulse device \"" source                                                             \
    "\" hint { show on description \"What is being played\" } }\n"

/* PortAudio can only open the PCMs it finds in ALSA's configuration, and the plugin takes the source's name from there
 * alone (PULSE_SOURCE in the environment would hold for every input). The server resolves the name of its default, so
 * that it need not be asked for, but each has its own: PulseAudio knows @DEFAULT_MONITOR@ and refuses the other,
 * PipeWire (0.3.65) takes @DEFAULT_MONITOR@ for the default microphone. */
int alsa_setup_monitors(void)
{
    static const char text[] = MONITOR(ALSA_MONITOR_PIPEWIRE, "@DEFAULT_SINK@.monitor")
        MONITOR(ALSA_MONITOR_PULSE, "@DEFAULT_MONITOR@");
    snd_input_t *input;
    int r = snd_config_update();
    if (r < 0)
        return r;
    r = snd_input_buffer_open(&input, text, (ssize_t)strlen(text));
    if (r < 0)
        return r;
    r = snd_config_load(snd_config, input);
    snd_input_close(input);
    return r;
}

/* The plugin asks the server for the source when parameters are set, not when it is opened. */
bool alsa_can_capture(const char *name)
{
    snd_pcm_t *pcm;
    if (snd_pcm_open(&pcm, name, SND_PCM_STREAM_CAPTURE, 0) < 0)
        return false;
    int r = snd_pcm_set_params(pcm, SND_PCM_FORMAT_S16, SND_PCM_ACCESS_RW_INTERLEAVED, 2, 48000, 1, 100000);
    snd_pcm_close(pcm);
    return r == 0;
}
