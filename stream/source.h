/* Where audio comes from: a PortAudio device, a file, or raw PCM on standard input.
 *
 * A source delivers interleaved f32 frames at its own rate and channel count. open, read and close belong to
 * the intake thread; wake may be called from any thread. Whether a source is live (it cannot wait, what is not
 * read in time is lost) decides how intake treats a full ring. */
#ifndef CAPTIOND_STREAM_SOURCE_H
#define CAPTIOND_STREAM_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/err.h"

struct source;

struct source_info {
    int rate, channels;
    bool live;
    bool fed;         /* not live, but written by somebody while it is read: there may be nothing yet */
    int64_t n_frames; /* total, −1 where it is not known */
    char name[128];   /* of the device or file, for people */
};

enum {
    SOURCE_TIMEOUT = 0, /* no frames within the time */
    SOURCE_EOF = -4095, /* the input has ended; what was there has been read */
    /* other negative values: -ENODEV (gone), -ESTALE (callbacks have stopped), -EIO … : close and reopen */
};

struct source_vtable {
    /* Reads up to max_frames frames, waiting at most timeout_ms for the first. Returns frames, or as above. */
    int (*read)(struct source *, float *frames, int max_frames, int timeout_ms, struct err *);
    /* Makes a waiting read return soon. */
    void (*wake)(struct source *);
    /* Ends capture and frees the source. May block while a sound server is stopped: see source_close_timeout. */
    void (*close)(struct source *);
};

struct source {
    const struct source_vtable *v;
    struct source_info info;
    int64_t heard_ns;  /* live: when the newest frame read was heard, on CLOCK_MONOTONIC; set by read */
    int64_t dropped;   /* lost before the frames last read, as not read in time; whoever takes it clears it */
    char warning[256]; /* what read has noticed, for people; whoever tells it clears it */
};

/* Opens "portaudio", "portaudio:NAME", "monitor", "file:PATH", "pipe:RATE,CHANNELS,FORMAT" (FORMAT: s16le, s24le,
 * s32le, f32le, u8). 0; -EINVAL for a bad spec (err says what is allowed); -ENODEV, -EBUSY, -ENOENT, … with err. */
int source_open(const char *spec, struct source **, struct err *);

/* Checks the syntax alone. 0 or -EINVAL. */
int source_check_spec(const char *spec, struct err *);

/* Of a correct spec: whether it names a device, which somebody may not want opened. */
bool source_is_device(const char *spec);

/* Closes in a thread of its own and waits at most timeout_ms for it. 0, or -ETIMEDOUT: the source is lost to a
 * sound server that does not answer, and the process should be restarted before it opens another. Without a deadline
 * where no thread can be started. */
int source_close_timeout(struct source *, int timeout_ms);

#define SOURCE_DEVICES_MAX 64 /* that anybody looks for */

struct source_device {
    char name[128]; /* what portaudio:NAME takes */
    char host_api[32];
    int channels, default_rate;
    bool is_default, is_monitor;
};

/* Input devices. Returns their number (at most max), or a negative errno. */
int source_list_devices(struct source_device *devices, int max, struct err *);

#endif
