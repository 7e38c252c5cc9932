#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <sndfile.h>

#include "stream/source_kinds.h"

struct file_source {
    struct source base;
    SNDFILE *file;
};

static int file_read(struct source *base, float *frames, int max_frames, int timeout_ms, struct err *err)
{
    struct file_source *s = (struct file_source *)base;
    sf_count_t n = sf_readf_float(s->file, frames, max_frames);
    if (n > 0)
        return (int)n;
    if (sf_error(s->file) != SF_ERR_NO_ERROR)
        return err_set(err, -EIO, "%s: %s", base->info.name, sf_strerror(s->file));
    return SOURCE_EOF;
}

static int64_t file_take_dropped(struct source *base)
{
    return 0;
}

static void file_wake(struct source *base)
{
    /* a read of a file never waits */
}

static void file_close(struct source *base)
{
    struct file_source *s = (struct file_source *)base;
    if (s->file)
        sf_close(s->file);
    free(s);
}

static const struct source_vtable file_vtable = {
    .read = file_read, .take_dropped = file_take_dropped, .wake = file_wake, .close = file_close};

/* libsndfile's own errors for these are vague ("System error."), and it would wait for ever on a FIFO. */
static int check_file(const char *path, struct err *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return err_set(err, -EISDIR, "%s is a directory", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, -EINVAL, "%s is not a regular file", path);
    if (st.st_size == 0)
        return err_set(err, -ENODATA, "%s is empty", path);
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    fclose(f);
    return 0;
}

int source_file_open(const char *path, struct source **out, struct err *err)
{
    int r = check_file(path, err);
    if (r < 0)
        return r;
    struct file_source *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(err, -ENOMEM, "out of memory for %s", path);
    SF_INFO info = {0};
    s->file = sf_open(path, SFM_READ, &info);
    if (!s->file) {
        r = err_set(err, -EINVAL, "%s is not a sound file that can be read (WAV, FLAC, Ogg, MP3): %s", path,
                    sf_strerror(NULL));
    } else if (info.frames == 0) {
        r = err_set(err, -ENODATA, "%s holds no sound", path);
    }
    if (r < 0) {
        file_close(&s->base);
        return r;
    }
    s->base.v = &file_vtable;
    s->base.info = (struct source_info){.rate = info.samplerate,
                                        .channels = info.channels,
                                        .live = false,
                                        .n_frames = info.frames < SF_COUNT_MAX ? info.frames : -1};
    const char *slash = strrchr(path, '/');
    snprintf(s->base.info.name, sizeof(s->base.info.name), "%s", slash ? slash + 1 : path);
    *out = &s->base;
    return 0;
}
