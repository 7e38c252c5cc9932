#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "stream/source_kinds.h"

#define BUFFER_BYTES   65536
#define WAV_HEADER_MAX 4096 /* bytes; a longer one is taken for sound */

struct format {
    const char *name;
    int bytes; /* a sample */
};

static const struct format formats[] = {{"s16le", 2}, {"s24le", 3}, {"s32le", 4}, {"f32le", 4}, {"u8", 1}};

struct layout {
    int rate, channels;
    const struct format *format;
};

struct pipe_source {
    struct source base;
    struct layout layout;
    int wake_fd;
    bool begun;      /* the first bytes have been looked at */
    size_t n_buffer; /* bytes waiting */
    unsigned char buffer[BUFFER_BYTES];
};

/* There is one standard input. */
static atomic_bool stdin_taken;

static int parse(const char *text, struct layout *layout, struct err *err)
{
    char name[8];
    int end = 0;
    if (sscanf(text, "%d,%d,%7[a-z0-9]%n", &layout->rate, &layout->channels, name, &end) != 3 || text[end])
        return err_set(err, -EINVAL,
                       "pipe:%s: it must be pipe:RATE,CHANNELS,FORMAT, as in pipe:16000,1,s16le", text);
    if (layout->rate < 1000 || layout->rate > 768000)
        return err_set(err, -EINVAL, "pipe:%s: the rate must be 1000 to 768000 Hz", text);
    if (layout->channels < 1 || layout->channels > 64)
        return err_set(err, -EINVAL, "pipe:%s: the channels must be 1 to 64", text);
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        layout->format = &formats[i];
        if (strcmp(formats[i].name, name) == 0)
            return 0;
    }
    return err_set(err, -EINVAL, "pipe:%s: the format must be s16le, s24le, s32le, f32le or u8", text);
}

int source_pipe_check(const char *text, struct err *err)
{
    struct layout layout;
    return parse(text, &layout, err);
}

static float to_float(const unsigned char *p, const struct format *format)
{
    uint32_t bits = little_endian(p, format->bytes);
    float x;
    switch (format->name[0]) {
    case 'f':
        memcpy(&x, &bits, sizeof(x));
        return x;
    case 'u':
        return ((float)bits - 128.0f) / 128.0f;
    default: /* moved to the top of 32 bits, whatever the width */
        return (float)(int32_t)(bits << 8 * (4 - format->bytes)) * 0x1p-31f;
    }
}

/* Waits for bytes, the end, or a wake, and takes what is there. 1 if it took bytes. */
static int fill(struct pipe_source *s, int timeout_ms, struct err *err)
{
    struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = s->wake_fd, .events = POLLIN}};
    int r = poll(fds, 2, timeout_ms);
    if (r < 0)
        return errno == EINTR ? SOURCE_TIMEOUT : err_set(err, -errno, "standard input: %s", strerror(errno));
    if (fds[1].revents) {
        eventfd_t count;
        eventfd_read(s->wake_fd, &count);
    }
    if (!fds[0].revents)
        return SOURCE_TIMEOUT;
    ssize_t n = read(STDIN_FILENO, s->buffer + s->n_buffer, sizeof(s->buffer) - s->n_buffer);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR
                   ? SOURCE_TIMEOUT
                   : err_set(err, -errno, "standard input: %s", strerror(errno));
    s->n_buffer += (size_t)n;
    return n > 0 ? 1 : SOURCE_EOF;
}

static void take_away(struct pipe_source *s, size_t bytes)
{
    s->n_buffer -= bytes;
    memmove(s->buffer, s->buffer + bytes, s->n_buffer);
}

/* --- what does not begin with samples ------------------------------------------------------------------------ */

/* What WAV calls a format. NULL if a pipe has none like it. */
static const struct format *wav_format(uint32_t number, uint32_t bits)
{
    char kind = number == 3 ? 'f' : bits == 8 ? 'u' : 's';
    if (number != 1 && number != 3)
        return NULL;
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (formats[i].name[0] == kind && (uint32_t)formats[i].bytes * 8 == bits)
            return &formats[i];
    }
    return NULL;
}

/* fmt: the chunk of this name, 16 bytes at least, or 26 in the extended form. */
static void compare_with_wav(struct pipe_source *s, const unsigned char *fmt)
{
    const struct layout *l = &s->layout;
    char *warning = s->base.warning;
    size_t size = sizeof(s->base.warning);
    uint32_t number = little_endian(fmt, 2), channels = little_endian(fmt + 2, 2),
             rate = little_endian(fmt + 4, 4);
    if (number == 0xFFFE)
        number = little_endian(fmt + 24, 2);
    const struct format *format = wav_format(number, little_endian(fmt + 14, 2));
    if (!format)
        snprintf(warning, size,
                 "standard input is a WAV file of a format that pipe: does not take (number %u), and read as "
                 "%d,%d,%s: use file:NAME, or decode it first",
                 (unsigned)number, l->rate, l->channels, l->format->name);
    else if (format != l->format || channels != (uint32_t)l->channels || rate != (uint32_t)l->rate)
        snprintf(warning, size,
                 "standard input is a WAV file and says %u,%u,%s, but is read as %d,%d,%s: try "
                 "--input pipe:%u,%u,%s",
                 (unsigned)rate, (unsigned)channels, format->name, l->rate, l->channels, l->format->name,
                 (unsigned)rate, (unsigned)channels, format->name);
}

/* Behind a WAV file's header samples follow as they do in a pipe. 1; 0 while not all of it has come. */
static int skip_wav_header(struct pipe_source *s)
{
    const unsigned char *fmt = NULL;
    size_t at = 12;
    while (at + 8 <= s->n_buffer && memcmp(s->buffer + at, "data", 4) != 0) {
        uint32_t bytes = little_endian(s->buffer + at + 4, 4);
        if (bytes > WAV_HEADER_MAX - at)
            return 1;
        if (memcmp(s->buffer + at, "fmt ", 4) == 0 && bytes >= 16)
            fmt = s->buffer + at + 8;
        at += 8 + bytes + bytes % 2;
        if (at > WAV_HEADER_MAX)
            return 1;
    }
    if (at + 8 > s->n_buffer)
        return 0;
    if (fmt)
        compare_with_wav(s, fmt);
    take_away(s, at + 8);
    return 1;
}

/* Whether this stands there, as far as it has come. */
static bool may_have(const struct pipe_source *s, size_t at, const char *name)
{
    size_t n = strlen(name), come = s->n_buffer > at ? s->n_buffer - at : 0;
    return memcmp(s->buffer + at, name, come < n ? come : n) == 0;
}

/* A file of another kind would be noise without a word. 1 when it is none; 0 while that cannot be told. */
static int look_at_beginning(struct pipe_source *s, struct err *err)
{
    static const struct {
        const char *begins, *name;
    } kinds[] = {
        {"fLaC", "a FLAC file"}, {"OggS", "an Ogg file"}, {"ID3\3", "an MP3 file"}, {"ID3\4", "an MP3 file"}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (!may_have(s, 0, kinds[i].begins))
            continue;
        if (s->n_buffer < strlen(kinds[i].begins))
            return 0;
        return err_set(err, -EINVAL,
                       "standard input is %s, and pipe: takes raw samples: use file:NAME, or decode it first",
                       kinds[i].name);
    }
    return may_have(s, 0, "RIFF") && may_have(s, 8, "WAVE") ? skip_wav_header(s) : 1;
}

static int pipe_read(struct source *base, float *frames, int max_frames, int timeout_ms, struct err *err)
{
    struct pipe_source *s = (struct pipe_source *)base;
    size_t frame_bytes = (size_t)s->layout.channels * (size_t)s->layout.format->bytes;
    if (s->n_buffer < frame_bytes || !s->begun) {
        int r = fill(s, timeout_ms, err);
        if (r <= 0)
            return r; /* at the end what may be left is less than a frame, or than a header: not sound */
    }
    if (!s->begun) {
        int r = look_at_beginning(s, err);
        if (r <= 0)
            return r;
        s->begun = true;
    }
    size_t n = s->n_buffer / frame_bytes;
    if (n > (size_t)max_frames)
        n = (size_t)max_frames;
    for (size_t i = 0; i < n * (size_t)s->layout.channels; i++)
        frames[i] = to_float(s->buffer + i * (size_t)s->layout.format->bytes, s->layout.format);
    take_away(s, n * frame_bytes);
    return (int)n;
}

static void pipe_wake(struct source *base)
{
    eventfd_write(((struct pipe_source *)base)->wake_fd, 1);
}

static void pipe_close(struct source *base)
{
    struct pipe_source *s = (struct pipe_source *)base;
    close(s->wake_fd);
    free(s);
    atomic_store(&stdin_taken, false);
}

static const struct source_vtable pipe_vtable = {.read = pipe_read, .wake = pipe_wake, .close = pipe_close};

int source_pipe_open(const char *text, struct source **out, struct err *err)
{
    struct layout layout;
    int r = parse(text, &layout, err);
    if (r < 0)
        return r;
    if (fcntl(STDIN_FILENO, F_GETFD) < 0)
        return err_set(err, -EBADF, "pipe:%s: standard input is closed", text);
    if (atomic_exchange(&stdin_taken, true))
        return err_set(err, -EBUSY, "pipe:%s: standard input feeds another input already", text);
    struct pipe_source *s = calloc(1, sizeof(*s));
    int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!s || wake_fd < 0) {
        r = err_set(err, s ? -errno : -ENOMEM, "cannot read standard input: %s",
                    strerror(s ? errno : ENOMEM));
        free(s);
        if (wake_fd >= 0)
            close(wake_fd);
        atomic_store(&stdin_taken, false);
        return r;
    }
    s->base.v = &pipe_vtable;
    s->base.info =
        (struct source_info){.rate = layout.rate, .channels = layout.channels, .fed = true, .n_frames = -1};
    snprintf(s->base.info.name, sizeof(s->base.info.name), "standard input");
    s->layout = layout;
    s->wake_fd = wake_fd;
    *out = &s->base;
    return 0;
}
