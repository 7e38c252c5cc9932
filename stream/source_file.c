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
    int64_t n_read;
    struct err damage; /* where reading ended for good, if its code is not 0 */
    char path[];
};

/* libsndfile's sentence without "Error : " before it and the full stop behind it. */
static void copy_reason(const char *said, char *reason, size_t size)
{
    static const char prefix[] = "Error : ";
    if (strncmp(said, prefix, sizeof(prefix) - 1) == 0)
        said += sizeof(prefix) - 1;
    snprintf(reason, size, "%s", said);
    size_t n = strlen(reason);
    if (n > 0 && reason[n - 1] == '.')
        reason[n - 1] = '\0';
}

/* An error may come with the frames before it, and libsndfile forgets it at the next call. */
static int file_read(struct source *base, float *frames, int max_frames, int timeout_ms, struct err *err)
{
    struct file_source *s = (struct file_source *)base;
    sf_count_t n = s->damage.code ? 0 : sf_readf_float(s->file, frames, max_frames);
    s->n_read += n;
    if (!s->damage.code && sf_error(s->file) != SF_ERR_NO_ERROR) {
        char reason[128];
        copy_reason(sf_strerror(s->file), reason, sizeof(reason));
        err_set(&s->damage, -EIO, "%s: damaged at %.1f s: %s", s->path, (double)s->n_read / base->info.rate,
                reason);
    }
    if (n > 0)
        return (int)n;
    return s->damage.code ? err_set(err, s->damage.code, "%s", s->damage.msg) : SOURCE_EOF;
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

static const struct source_vtable file_vtable = {.read = file_read, .wake = file_wake, .close = file_close};

/* libsndfile's own errors for these are vague ("System error."), and it would wait for ever on a FIFO. */
static int check_file(const char *path, struct err *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return err_set(err, -EISDIR, "%s is a directory", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, -EINVAL, "%s is not a regular file; for a pipe use pipe:RATE,CHANNELS,FORMAT",
                       path);
    if (st.st_size == 0)
        return err_set(err, -ENODATA, "%s is empty", path);
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    fclose(f);
    return 0;
}

/* --- how long a header says it is ----------------------------------------------------------------------------- */

#define WAV_CHUNKS_MAX 64 /* before the sound; a damaged file may have any number of empty ones */
#define WAV_ENDLESS                                                                                          \
    0x7FFF0000 /* and more: written into a pipe by who cannot come back to write how much it was */

/* Where a WAV's sound is by its header; libsndfile goes by the size of the file where that is less. */
struct wav_sound {
    int64_t begin, n_bytes;
    int64_t n_bytes_riff; /* of the file but for its first 8 bytes */
};

static bool find_wav_sound(FILE *f, struct wav_sound *sound)
{
    unsigned char head[12];
    if (fread(head, 1, 12, f) < 12 || memcmp(head, "RIFF", 4) != 0 || memcmp(head + 8, "WAVE", 4) != 0)
        return false;
    int64_t at = 12, n_bytes_riff = little_endian(head + 4, 4);
    for (int i = 0; i < WAV_CHUNKS_MAX && fseeko(f, at, SEEK_SET) == 0 && fread(head, 1, 8, f) == 8; i++) {
        int64_t n = little_endian(head + 4, 4);
        if (memcmp(head, "data", 4) == 0) {
            *sound = (struct wav_sound){.begin = at + 8, .n_bytes = n, .n_bytes_riff = n_bytes_riff};
            return true;
        }
        at += 8 + n + n % 2;
    }
    return false;
}

/* True where an MP3 has the frame that tells its length; of others libsndfile has an estimate, which is far off if the
 * bit rate varies. */
static bool mp3_tells_length(FILE *f)
{
    unsigned char head[10], frame[512];
    if (fread(head, 1, 10, f) < 10)
        return false;
    long tag = memcmp(head, "ID3", 3) == 0
                   ? 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) /* 7 bits each */
                   : 0;
    size_t n = fseek(f, tag, SEEK_SET) == 0 ? fread(frame, 1, sizeof(frame), f) : 0;
    return memmem(frame, n, "Xing", 4) || memmem(frame, n, "Info", 4);
}

/* Frames by the header, which may be more than there are; -1 where it does not tell. */
static int64_t frames_told(const char *path, const SF_INFO *info)
{
    struct stat st;
    struct wav_sound sound;
    int type = info->format & SF_FORMAT_TYPEMASK;
    int64_t told = info->frames < SF_COUNT_MAX ? info->frames : -1;
    FILE *f = told >= 0 ? fopen(path, "rbe") : NULL;
    if (!f)
        return told;
    if (type == SF_FORMAT_MPEG && !mp3_tells_length(f))
        told = -1;
    if ((type == SF_FORMAT_WAV || type == SF_FORMAT_WAVEX) && find_wav_sound(f, &sound) &&
        fstat(fileno(f), &st) == 0 && sound.n_bytes < WAV_ENDLESS && st.st_size > sound.begin &&
        st.st_size < sound.begin + sound.n_bytes)
        told = (int64_t)((double)told * (double)sound.n_bytes / (double)(st.st_size - sound.begin));
    fclose(f);
    return told;
}

/* True for a WAV whose recorder was ended before it could complete the header, which says that no sound follows. Behind no
 * sound in a complete file there may be other chunks, with which the size of it all is right. */
static bool is_incomplete_wav(const char *path)
{
    struct stat st;
    struct wav_sound sound;
    FILE *f = fopen(path, "rbe");
    bool incomplete = f && find_wav_sound(f, &sound) && sound.n_bytes == 0 && fstat(fileno(f), &st) == 0 &&
                      st.st_size > sound.begin && sound.n_bytes_riff + 8 != st.st_size;
    if (f)
        fclose(f);
    return incomplete;
}

/* --- opening ------------------------------------------------------------------------------------------------ */

/* Some of libsndfile's own reasons for a file that is there are about itself, or wrong. */
static int say_unreadable(const char *path, struct err *err)
{
    const char *said = sf_strerror(NULL);
    char reason[128];
    if (strncmp(said, "Internal error", 14) == 0)
        said = "its header is damaged";
    else if (strncmp(said, "File does not exist", 19) == 0)
        said = "";
    copy_reason(said, reason, sizeof(reason));
    return err_set(err, -EINVAL, "%s is not a sound file that can be read (WAV, FLAC, Ogg, MP3)%s%s", path,
                   reason[0] ? ": " : "", reason);
}

static int say_silent(const char *path, struct err *err)
{
    if (is_incomplete_wav(path))
        return err_set(
            err, -ENODATA,
            "%s: its header says that it holds no sound, but there is more: its recorder was ended before it "
            "was complete; sox --ignore-length reads it",
            path);
    return err_set(err, -ENODATA, "%s holds no sound", path);
}

int source_file_open(const char *path, struct source **out, struct err *err)
{
    int r = check_file(path, err);
    if (r < 0)
        return r;
    size_t n_path = strlen(path) + 1;
    struct file_source *s = calloc(1, sizeof(*s) + n_path);
    if (!s)
        return err_set(err, -ENOMEM, "out of memory for %s", path);
    SF_INFO info = {0};
    s->file = sf_open(path, SFM_READ, &info);
    r = !s->file ? say_unreadable(path, err) : info.frames == 0 ? say_silent(path, err) : 0;
    if (r < 0) {
        file_close(&s->base);
        return r;
    }
    memcpy(s->path, path, n_path);
    s->base.v = &file_vtable;
    s->base.info = (struct source_info){.rate = info.samplerate,
                                        .channels = info.channels,
                                        .live = false,
                                        .n_frames = frames_told(path, &info)};
    const char *slash = strrchr(path, '/');
    snprintf(s->base.info.name, sizeof(s->base.info.name), "%s", slash ? slash + 1 : path);
    *out = &s->base;
    return 0;
}
