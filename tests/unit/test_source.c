/* Files and pipes: every format gives the same sound, and what is wrong with an input is said with its name. */
#include "tests/support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sndfile.h>

#include "daemon/base/clock.h"
#include "stream/source.h"

#define MS 1000000LL

static char dir[64];

static int set_up(void **state)
{
    snprintf(dir, sizeof(dir), "/tmp/captiond-source-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int tear_down(void **state)
{
    return nftw(dir, remove_entry, 4, FTW_DEPTH | FTW_PHYS);
}

/* "file:DIR/NAME" */
static const char *spec_of(const char *name)
{
    static char spec[160];
    snprintf(spec, sizeof(spec), "file:%s/%s", dir, name);
    return spec;
}

static struct source *must_open(const char *spec)
{
    struct source *source = NULL;
    struct err err = {0};
    int r = source_open(spec, &source, &err);
    if (r < 0)
        print_error("%s\n", err.msg);
    assert_int_equal(r, 0);
    return source;
}

/* --- files -------------------------------------------------------------------------------------------------- */

static float tone(int frame, int channel)
{
    return 0.5f * sinf((float)frame * 0.05f * (float)(channel + 1));
}

static void write_tone(const char *name, int format, int rate, int channels, int n)
{
    SF_INFO info = {.samplerate = rate, .channels = channels, .format = format};
    SNDFILE *f = sf_open(spec_of(name) + 5, SFM_WRITE, &info);
    assert_non_null(f);
    for (int i = 0; i < n; i++) {
        float frame[8];
        for (int c = 0; c < channels; c++)
            frame[c] = tone(i, c);
        assert_int_equal(sf_writef_float(f, frame, 1), 1);
    }
    sf_close(f);
}

/* tolerance: half a step of the samples; for lossy formats what a codec leaves of a pure tone, as RMS. */
static void every_format_is_read(void **state)
{
    static const struct {
        const char *name;
        int format, rate, channels;
        float tolerance;
        bool lossy;
    } files[] = {
        {"a.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 44100, 2, 1.0f / 32768, false},
        {"b.wav", SF_FORMAT_WAV | SF_FORMAT_FLOAT, 192000, 8, 0.0f, false},
        {"c.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_U8, 8000, 1, 1.0f / 128, false},
        {"d.flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_24, 96000, 2, 1.0f / 8388608, false},
        {"e.ogg", SF_FORMAT_OGG | SF_FORMAT_VORBIS, 48000, 1, 0.02f, true},
        {"f.opus", SF_FORMAT_OGG | SF_FORMAT_OPUS, 48000, 2, 0.05f, true},
        {"g.mp3", SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III, 44100, 2, 0.05f, true},
        {"h.aiff", SF_FORMAT_AIFF | SF_FORMAT_PCM_16, 22050, 1, 1.0f / 32768, false},
    };
    const int n = 20000;
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        int channels = files[i].channels;
        SF_INFO info = {.samplerate = files[i].rate, .channels = channels, .format = files[i].format};
        if (!sf_format_check(&info)) {
            printf("%s: this libsndfile cannot write it\n", files[i].name);
            continue;
        }
        write_tone(files[i].name, files[i].format, files[i].rate, channels, n);
        struct source *source = must_open(spec_of(files[i].name));
        assert_int_equal(source->info.rate, files[i].rate);
        assert_int_equal(source->info.channels, channels);
        assert_false(source->info.live);
        assert_string_equal(source->info.name, files[i].name);
        static float frames[777 * 8];
        struct err err;
        int at = 0, got;
        double worst = 0.0, sum = 0.0;
        while ((got = source->v->read(source, frames, 777, 0, &err)) > 0) {
            for (int k = 0; k < got * channels && at + k / channels < n; k++) {
                double d = fabs((double)frames[k] - tone(at + k / channels, k % channels));
                worst = fmax(worst, d);
                sum += d * d;
            }
            at += got;
        }
        assert_int_equal(got, SOURCE_EOF);
        assert_int_equal(source->v->read(source, frames, 777, 0, &err), SOURCE_EOF);
        assert_int_equal(source->dropped, 0);
        if (files[i].lossy) {
            assert_in_range(at, n, n + 4608); /* a codec may pad to whole blocks */
        } else {
            assert_int_equal(at, n);
            assert_int_equal(source->info.n_frames, n);
        }
        double error = files[i].lossy ? sqrt(sum / (n * channels)) : worst;
        if (error > files[i].tolerance)
            print_error("%s: %g\n", files[i].name, error);
        assert_true(error <= files[i].tolerance);
        assert_int_equal(source_close_timeout(source, 1000), 0);
    }
}

static void expect_error(const char *spec, int code, const char *part)
{
    struct source *source = NULL;
    struct err err = {0};
    int r = source_open(spec, &source, &err);
    if (r != code)
        print_error("%s: %d, %s\n", spec, r, err.msg);
    assert_int_equal(r, code);
    assert_null(source);
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.msg, part));
    assert_null(strchr(err.msg, '\n'));
}

static void write_bytes(const char *name, const char *bytes, size_t n)
{
    FILE *f = fopen(spec_of(name) + 5, "wb");
    assert_non_null(f);
    fwrite(bytes, 1, n, f);
    fclose(f);
}

/* Writes over what is there. */
static void put_bytes(const char *name, long at, const char *bytes, size_t n)
{
    FILE *f = fopen(spec_of(name) + 5, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void what_is_wrong_with_a_file_is_said(void **state)
{
    static const char tag[300] = "ID3\3\0\0\0\0\17\177";
    struct err err = {0};
    expect_error(spec_of("missing.wav"), -ENOENT, "missing.wav");
    expect_error(spec_of("."), -EISDIR, dir);
    write_bytes("empty.wav", "", 0);
    expect_error(spec_of("empty.wav"), -ENODATA, "empty.wav is empty");
    write_bytes("text.wav", "this is no sound at all, it only says so", 40);
    expect_error(spec_of("text.wav"), -EINVAL, "text.wav is not a sound file");
    write_tone("damaged.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, 1000);
    put_bytes("damaged.wav", 24, "\0\0\0\0", 4); /* its rate */
    expect_error(spec_of("damaged.wav"), -EINVAL, "(WAV, FLAC, Ogg, MP3): its header is damaged");
    write_bytes("tag.mp3", tag, sizeof(tag)); /* of which libsndfile says that it does not exist */
    expect_error(spec_of("tag.mp3"), -EINVAL, "tag.mp3 is not a sound file");
    assert_int_equal(source_open(spec_of("tag.mp3"), &(struct source *){NULL}, &err), -EINVAL);
    assert_null(strstr(err.msg, "exist"));
    write_tone("silent.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, 0);
    expect_error(spec_of("silent.wav"), -ENODATA, "silent.wav holds no sound");
    write_tone("killed.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, 1000);
    put_bytes("killed.wav", 40, "\0\0\0\0",
              4); /* bytes of sound; the size of it all is right: what follows is no sound */
    expect_error(spec_of("killed.wav"), -ENODATA, "killed.wav holds no sound");
    put_bytes("killed.wav", 4, "\x24\0\0\0", 4);
    expect_error(spec_of("killed.wav"), -ENODATA, "killed.wav: its header says that it holds no sound, but");
    assert_int_equal(mkfifo(spec_of("fifo") + 5, 0600), 0);
    expect_error(spec_of("fifo"), -EINVAL, "not a regular file"); /* and does not wait for its other end */
    expect_error("file:/dev/null", -EINVAL, "not a regular file; for a pipe use pipe:RATE,CHANNELS,FORMAT");
    if (geteuid() != 0) {
        write_bytes("secret.wav", "x", 1);
        chmod(spec_of("secret.wav") + 5, 0);
        expect_error(spec_of("secret.wav"), -EACCES, "secret.wav");
    }
}

/* Cut in the middle of its data: what is there is heard. */
static void a_truncated_file_is_read_as_far_as_it_goes(void **state)
{
    write_tone("cut.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, 10000);
    assert_int_equal(truncate(spec_of("cut.wav") + 5, 44 + 2 * 4000), 0);
    struct source *source = must_open(spec_of("cut.wav"));
    static float frames[20000];
    struct err err;
    assert_int_equal(source->info.n_frames, 10000); /* as its header says */
    assert_int_equal(source->v->read(source, frames, 20000, 0, &err), 4000);
    assert_int_equal(source->v->read(source, frames, 20000, 0, &err), SOURCE_EOF);
    source->v->close(source);
    /* What a recorder writes into a pipe says nothing. */
    put_bytes("cut.wav", 40, "\xff\xff\xff\xff", 4);
    source = must_open(spec_of("cut.wav"));
    assert_int_equal(source->info.n_frames, 4000);
    source->v->close(source);
}

/* Only where an MP3 says how long it is, is that more than an estimate. */
static void an_mp3_need_not_tell_its_length(void **state)
{
    SF_INFO info = {.samplerate = 16000, .channels = 1, .format = SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III};
    if (!sf_format_check(&info))
        test_skip("this libsndfile has no MP3");
    char head[512];
    write_tone("told.mp3", info.format, 16000, 1, 40000);
    FILE *f = fopen(spec_of("told.mp3") + 5, "rb");
    assert_int_equal(fread(head, 1, sizeof(head), f), sizeof(head));
    fclose(f);
    struct source *source = must_open(spec_of("told.mp3"));
    assert_int_equal(source->info.n_frames, 40000);
    source->v->close(source);
    const char *mark = memmem(head, sizeof(head), "Xing", 4);
    mark = mark ? mark : memmem(head, sizeof(head), "Info", 4);
    assert_non_null(mark);
    put_bytes("told.mp3", mark - head, "none", 4);
    source = must_open(spec_of("told.mp3"));
    assert_int_equal(source->info.n_frames, -1);
    source->v->close(source);
}

/* What comes before a damaged place is heard, and why no more comes is said, however much is asked for at a time. */
static void a_damaged_file_is_read_up_to_the_damage(void **state)
{
    static const int sizes[] = {100, 4096, 16384};
    static float frames[16384];
    struct stat st;
    write_tone("cut.flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 16000, 1, 100000);
    assert_int_equal(stat(spec_of("cut.flac") + 5, &st), 0);
    assert_int_equal(truncate(spec_of("cut.flac") + 5, st.st_size / 2), 0);
    for (int i = 0; i < 3; i++) {
        struct source *source = must_open(spec_of("cut.flac"));
        struct err err = {0};
        char wanted[64];
        int at = 0, got;
        while ((got = source->v->read(source, frames, sizes[i], 0, &err)) > 0) {
            for (int k = 0; k < got; k++)
                assert_true(fabsf(frames[k] - tone(at + k, 0)) < 1.0f / 32768);
            at += got;
        }
        assert_in_range(at, 30000, 70000);
        snprintf(wanted, sizeof(wanted), "/cut.flac: damaged at %.1f s: ", at / 16000.0);
        for (int twice = 0; twice < 2; twice++) {
            assert_int_equal(got, -EIO);
            assert_non_null(strstr(err.msg, wanted));
            got = source->v->read(source, frames, sizes[i], 0, &err);
        }
        source->v->close(source);
    }
}

static void specs_are_checked(void **state)
{
    static const char *const good[] = {
        "portaudio",          "portaudio:USB Mic: x (hw:1,0)", "monitor",       "file:/x y.wav",
        "pipe:16000,1,s16le", "pipe:48000,64,f32le",           "pipe:8000,2,u8"};
    static const char *const bad[] = {"",
                                      "alsa",
                                      "portaudio:",
                                      "file",
                                      "file:",
                                      "monitor:x",
                                      "pipe",
                                      "pipe:",
                                      "pipe:16000",
                                      "pipe:16000,1",
                                      "pipe:16000,1,s16",
                                      "pipe:16000,1,s16lex",
                                      "pipe:16000,1,s16le,",
                                      "pipe:16000,1,u8x",
                                      "pipe:0,1,s16le",
                                      "pipe:999999999999,1,s16le",
                                      "pipe:16000,0,s16le",
                                      "pipe:16000,65,s16le",
                                      "pipe:x,1,s16le",
                                      "pipe:16000,1,S16LE"};
    struct err err;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(source_check_spec(good[i], &err), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        err = (struct err){0};
        if (source_check_spec(bad[i], &err) != -EINVAL)
            print_error("accepted: %s\n", bad[i]);
        assert_int_equal(source_check_spec(bad[i], &err), -EINVAL);
        assert_non_null(strstr(err.msg, bad[i]));
    }
}

/* --- pipes -------------------------------------------------------------------------------------------------- */

static int real_stdin = -1;

/* Puts a pipe in standard input's place; returns its other end. */
static int feed(void)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    if (real_stdin < 0)
        real_stdin = dup(STDIN_FILENO);
    dup2(fds[0], STDIN_FILENO);
    close(fds[0]);
    return fds[1];
}

static void unfeed(void)
{
    if (real_stdin >= 0)
        dup2(real_stdin, STDIN_FILENO);
}

static void put(int fd, const void *bytes, size_t n)
{
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
}

/* The same four values in every format: −1, −1/2, 0, 1/2. */
static void every_pcm_format_is_read(void **state)
{
    static const struct {
        const char *spec;
        int bytes;
        unsigned char data[16];
    } formats[] = {
        {"pipe:16000,1,u8", 1, {0x00, 0x40, 0x80, 0xC0}},
        {"pipe:16000,1,s16le", 2, {0x00, 0x80, 0x00, 0xC0, 0x00, 0x00, 0x00, 0x40}},
        {"pipe:16000,1,s24le", 3, {0, 0, 0x80, 0, 0, 0xC0, 0, 0, 0, 0, 0, 0x40}},
        {"pipe:16000,1,s32le", 4, {0, 0, 0, 0x80, 0, 0, 0, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0x40}},
        {"pipe:16000,1,f32le", 4, {0, 0, 0x80, 0xBF, 0, 0, 0, 0xBF, 0, 0, 0, 0, 0, 0, 0, 0x3F}},
    };
    static const float expected[] = {-1.0f, -0.5f, 0.0f, 0.5f};
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        int fd = feed();
        struct source *source = must_open(formats[i].spec);
        float frames[8];
        struct err err;
        put(fd, formats[i].data, (size_t)formats[i].bytes * 4);
        assert_int_equal(source->v->read(source, frames, 8, 1000, &err), 4);
        assert_memory_equal(frames, expected, sizeof(expected));
        close(fd);
        assert_int_equal(source->v->read(source, frames, 8, 1000, &err), SOURCE_EOF);
        source->v->close(source);
        unfeed();
    }
}

/* Bytes come as they like; frames are whole, in order, and what is left at the end is less than one. */
static void frames_are_put_together_from_pieces(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 1);
    int fd = feed();
    struct source *source = must_open("pipe:48000,3,s16le");
    unsigned char bytes[6000 + 4]; /* 1,000 frames and most of another */
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)test_rng_next(&rng);
    size_t sent = 0;
    int n = 0;
    float frames[100 * 3];
    struct err err;
    for (;;) {
        size_t piece = (size_t)test_rng_int(&rng, 1, 50);
        piece = piece > sizeof(bytes) - sent ? sizeof(bytes) - sent : piece;
        if (piece) {
            put(fd, bytes + sent, piece);
            sent += piece;
            if (sent == sizeof(bytes))
                close(fd);
        }
        int got = source->v->read(source, frames, test_rng_int(&rng, 1, 100), 0, &err);
        if (got < 0) {
            assert_int_equal(got, SOURCE_EOF);
            break;
        }
        for (int i = 0; i < got * 3; i++) {
            const unsigned char *p = bytes + (size_t)(n * 3 + i) * 2;
            assert_true(frames[i] == (float)(int16_t)(p[0] | p[1] << 8) / 32768.0f);
        }
        n += got;
    }
    assert_int_equal(n, 1000);
    source->v->close(source);
    unfeed();
}

/* Writes these bytes, in pieces of `piece`, and reads until the first frames or an error. */
static int read_beginning(struct source *source, int fd, const void *bytes, size_t n, size_t piece,
                          float *frames, struct err *err)
{
    int got = SOURCE_TIMEOUT;
    for (size_t sent = 0; sent < n && got == SOURCE_TIMEOUT; sent += piece) {
        piece = piece < n - sent ? piece : n - sent;
        put(fd, (const char *)bytes + sent, piece);
        got = source->v->read(source, frames, 8, 0, err);
    }
    return got;
}

/* As noise they would be captioned without a word. */
static void files_of_other_kinds_are_told(void **state)
{
    static const char *const kinds[][2] = {{"fLaC....", "a FLAC file"},
                                           {"OggS....", "an Ogg file"},
                                           {"ID3\3....", "an MP3 file"},
                                           {"ID3\4....", "an MP3 file"}};
    for (size_t i = 0; i < 2 * sizeof(kinds) / sizeof(kinds[0]); i++) {
        int fd = feed();
        struct source *source = must_open("pipe:16000,1,u8");
        float frames[8];
        struct err err = {0};
        assert_int_equal(read_beginning(source, fd, kinds[i / 2][0], 8, i % 2 ? 1 : 8, frames, &err),
                         -EINVAL);
        assert_non_null(strstr(err.msg, kinds[i / 2][1]));
        assert_non_null(strstr(err.msg, "use file:NAME"));
        source->v->close(source);
        close(fd);
        unfeed();
    }
}

static void samples_may_look_like_a_file(void **state)
{
    static const char *const sounds[] = {"fLaXfLaC", "OgOgOgOg", "ID3....", "RIFXWAVE", "RIFF....AVI LIST"};
    for (size_t i = 0; i < sizeof(sounds) / sizeof(sounds[0]); i++) {
        int fd = feed();
        struct source *source = must_open("pipe:16000,1,u8");
        float frames[8];
        struct err err = {0};
        assert_true(read_beginning(source, fd, sounds[i], strlen(sounds[i]), 1, frames, &err) > 0);
        assert_true(frames[0] == ((float)sounds[i][0] - 128.0f) / 128.0f);
        source->v->close(source);
        close(fd);
        unfeed();
    }
}

static void put_number(unsigned char *to, uint32_t x, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (unsigned char)(x >> 8 * i);
}

/* A WAV file with four bytes of sound, and between its two chunks one that nobody needs. */
static size_t write_header(unsigned char *p, uint32_t number, uint32_t channels, uint32_t rate, uint32_t bits,
                           bool extended)
{
    static const char riff[] = "RIFF....WAVEfmt ", chunks[] = "LIST\3\0\0\0abc\0data....";
    static const unsigned char sound[] = {0x00, 0x40, 0x00, 0xC0};
    uint32_t n = extended ? 40 : 16;
    memset(p, 0, 100);
    memcpy(p, riff, sizeof(riff));
    put_number(p + 16, n, 4);
    put_number(p + 20, extended ? 0xFFFE : number, 2);
    put_number(p + 22, channels, 2);
    put_number(p + 24, rate, 4);
    put_number(p + 34, bits, 2);
    if (extended)
        put_number(p + 44, number, 2);
    unsigned char *chunk = p + 20 + n;
    memcpy(chunk, chunks, sizeof(chunks));
    memcpy(chunk + 20, sound, sizeof(sound));
    return (size_t)(chunk + 24 - p);
}

/* Its sound begins behind the header, of whatever length; the header itself tells when it is taken for something else. */
static void a_wav_file_is_told_and_read(void **state)
{
    static const struct {
        uint32_t number, channels, rate, bits;
        bool extended;
        const char *warning;
    } cases[] = {
        {1, 1, 16000, 16, false, ""},
        {1, 1, 16000, 16, true, ""},
        {1, 2, 44100, 16, false,
         "says 44100,2,s16le, but is read as 16000,1,s16le: try --input pipe:44100,2,s16le"},
        {1, 1, 16000, 8, false, "says 16000,1,u8, but"},
        {1, 1, 16000, 24, true, "says 16000,1,s24le, but"},
        {3, 1, 16000, 32, true, "says 16000,1,f32le, but"},
        {17, 1, 16000, 4, false, "does not take (number 17)"},
    };
    for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = feed();
        struct source *source = must_open("pipe:16000,1,s16le");
        unsigned char bytes[100];
        float frames[8] = {0};
        struct err err = {0};
        size_t n = write_header(bytes, cases[i / 2].number, cases[i / 2].channels, cases[i / 2].rate,
                                cases[i / 2].bits, cases[i / 2].extended);
        assert_true(read_beginning(source, fd, bytes, n, i % 2 ? 1 : n, frames, &err) > 0);
        assert_true(frames[0] == 0.5f);
        if (cases[i / 2].warning[0])
            assert_non_null(strstr(source->warning, cases[i / 2].warning));
        else
            assert_string_equal(source->warning, "");
        source->v->close(source);
        close(fd);
        unfeed();
    }
}

/* What says that it goes on without an end is no header that could be waited for. */
static void a_damaged_wav_header_is_sound(void **state)
{
    static const uint32_t lengths[] = {0xFFFFFFFF, 5000, 4090};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        int fd = feed();
        struct source *source = must_open("pipe:16000,1,u8");
        unsigned char bytes[100];
        float frames[8];
        struct err err = {0};
        write_header(bytes, 1, 1, 16000, 16, false);
        put_number(bytes + 16, lengths[i], 4);
        assert_true(read_beginning(source, fd, bytes, sizeof(bytes), sizeof(bytes), frames, &err) > 0);
        assert_true(frames[0] == ('R' - 128.0f) / 128.0f);
        source->v->close(source);
        close(fd);
        unfeed();
    }
}

static void *wake_soon(void *source)
{
    usleep(50000);
    ((struct source *)source)->v->wake(source);
    return NULL;
}

static void a_read_waits_times_out_and_wakes(void **state)
{
    int fd = feed();
    struct source *source = must_open("pipe:16000,1,s16le"), *second = NULL;
    float frames[8];
    struct err err;
    pthread_t thread;
    int64_t began = clock_now_ns();
    assert_int_equal(source->v->read(source, frames, 8, 100, &err), SOURCE_TIMEOUT);
    assert_true(clock_now_ns() - began >= 99 * MS);
    pthread_create(&thread, NULL, wake_soon, source);
    began = clock_now_ns();
    assert_int_equal(source->v->read(source, frames, 8, 10000, &err), SOURCE_TIMEOUT);
    assert_true(clock_now_ns() - began < 5000 * MS);
    pthread_join(thread, NULL);
    began = clock_now_ns(); /* one wake ends one read */
    assert_int_equal(source->v->read(source, frames, 8, 100, &err), SOURCE_TIMEOUT);
    assert_true(clock_now_ns() - began >= 99 * MS);

    assert_int_equal(source_open("pipe:8000,1,u8", &second, &err), -EBUSY);
    source->v->close(source);
    source = must_open("pipe:8000,1,u8");
    source->v->close(source);
    close(fd);
    unfeed();
}

static void a_closed_standard_input_is_said(void **state)
{
    int saved = dup(STDIN_FILENO);
    close(STDIN_FILENO);
    struct source *source = NULL;
    struct err err = {0};
    int r = source_open("pipe:16000,1,s16le", &source, &err);
    dup2(saved, STDIN_FILENO);
    close(saved);
    assert_int_equal(r, -EBADF);
    assert_non_null(strstr(err.msg, "standard input"));
}

/* --- closing ------------------------------------------------------------------------------------------------ */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t go;
    bool may_end, ended;
} slow = {.lock = PTHREAD_MUTEX_INITIALIZER, .go = PTHREAD_COND_INITIALIZER};

static void close_slowly(struct source *source)
{
    pthread_mutex_lock(&slow.lock);
    while (!slow.may_end)
        pthread_cond_wait(&slow.go, &slow.lock);
    slow.ended = true;
    pthread_cond_broadcast(&slow.go);
    pthread_mutex_unlock(&slow.lock);
}

static void closing_has_a_deadline(void **state)
{
    static const struct source_vtable vtable = {.close = close_slowly};
    struct source source = {.v = &vtable};
    int64_t began = clock_now_ns();
    assert_int_equal(source_close_timeout(&source, 100), -ETIMEDOUT);
    int64_t took = clock_now_ns() - began;
    assert_true(took >= 100 * MS && took < 1000 * MS);
    pthread_mutex_lock(&slow.lock);
    slow.may_end = true;
    pthread_cond_broadcast(&slow.go);
    while (!slow.ended)
        pthread_cond_wait(&slow.go, &slow.lock);
    pthread_mutex_unlock(&slow.lock);
    assert_int_equal(source_close_timeout(&source, 5000), 0);
}

static int resident_kib(void)
{
    int pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*d %d", &pages), 1);
    fclose(f);
    return pages * (int)(sysconf(_SC_PAGESIZE) / 1024);
}

/* A daemon may wait for days. A Pa_Initialize loses some 50 KB, so that 40 would be 2 MB; what is allowed is a page
 * here and there. */
static void waiting_takes_no_memory(void **state)
{
#ifdef __SANITIZE_ADDRESS__
    test_skip("AddressSanitizer keeps what is freed");
#endif
    struct source *source = NULL;
    struct err err = {0};
    int before = 0;
    for (int i = 0; i < 45; i++) {
        if (i == 5)
            before = resident_kib();
        assert_int_equal(source_open("portaudio:No such microphone", &source, &err), -ENODEV);
    }
    printf("%d KiB more after 40 attempts\n", resident_kib() - before);
    assert_true(resident_kib() - before < 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_is_read),
        cmocka_unit_test(what_is_wrong_with_a_file_is_said),
        cmocka_unit_test(a_truncated_file_is_read_as_far_as_it_goes),
        cmocka_unit_test(an_mp3_need_not_tell_its_length),
        cmocka_unit_test(a_damaged_file_is_read_up_to_the_damage),
        cmocka_unit_test(specs_are_checked),
        cmocka_unit_test(every_pcm_format_is_read),
        cmocka_unit_test(frames_are_put_together_from_pieces),
        cmocka_unit_test(files_of_other_kinds_are_told),
        cmocka_unit_test(samples_may_look_like_a_file),
        cmocka_unit_test(a_wav_file_is_told_and_read),
        cmocka_unit_test(a_damaged_wav_header_is_sound),
        cmocka_unit_test(a_read_waits_times_out_and_wakes),
        cmocka_unit_test(a_closed_standard_input_is_said),
        cmocka_unit_test(closing_has_a_deadline),
        cmocka_unit_test(waiting_takes_no_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
