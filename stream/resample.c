#include "stream/resample.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <samplerate.h>

#include "stream/ring.h"

/* libsamplerate's sinc converters are symmetric: output k is centred on input time k · rate / 16000, so there is no
 * delay to take out. They only hold output back until half a filter of input has come: REACH bounds it in
 * samples at the lower of the two rates (46 for SRC_SINC_MEDIUM_QUALITY). */
#define CONVERTER SRC_SINC_MEDIUM_QUALITY
#define REACH     64

/* A sample beyond this is noise of a broken file. Left alone, one such value or NaN would poison the gate's recurrent
 * state for good. */
#define SAMPLE_MAX 1000.0f

struct resampler {
    int rate, channels;
    double ratio;
    SRC_STATE *src; /* NULL at 16 kHz */
    int64_t n_in, n_out;
    float mono[RESAMPLER_FRAMES_MAX];
};

int resampler_create(int rate, int channels, struct resampler **out, struct err *err)
{
    if (rate < 1000 || rate > 768000)
        return err_set(err, -EINVAL, "sample rate %d Hz is outside 1000 to 768000", rate);
    if (channels < 1 || channels > 64)
        return err_set(err, -EINVAL, "%d channels are outside 1 to 64", channels);
    struct resampler *r = calloc(1, sizeof(*r));
    if (!r)
        return err_set(err, -ENOMEM, "out of memory for the resampler");
    r->rate = rate;
    r->channels = channels;
    r->ratio = (double)SAMPLE_RATE / rate;
    if (rate != SAMPLE_RATE) {
        int code = 0;
        r->src = src_new(CONVERTER, 1, &code);
        if (!r->src) {
            free(r);
            return err_set(err, -ENOMEM, "cannot make a resampler: %s", src_strerror(code));
        }
    }
    *out = r;
    return 0;
}

void resampler_destroy(struct resampler *r)
{
    if (!r)
        return;
    if (r->src)
        src_delete(r->src);
    free(r);
}

int resampler_output_max(const struct resampler *r, int n_frames)
{
    if (!r->src)
        return n_frames;
    double held_back = REACH * (r->ratio > 1.0 ? r->ratio : 1.0);
    return (int)ceil(n_frames * r->ratio + held_back) + 1;
}

static float tame(float x)
{
    return x >= -SAMPLE_MAX && x <= SAMPLE_MAX ? x : isnan(x) ? 0.0f : copysignf(SAMPLE_MAX, x);
}

static void mix(const struct resampler *r, const float *frames, int n, float *mono)
{
    if (r->channels == 1) {
        for (int i = 0; i < n; i++)
            mono[i] = tame(frames[i]);
        return;
    }
    float scale = 1.0f / (float)r->channels;
    for (int i = 0; i < n; i++) {
        float sum = 0.0f;
        for (int c = 0; c < r->channels; c++)
            sum += tame(frames[(size_t)i * (size_t)r->channels + (size_t)c]);
        mono[i] = sum * scale;
    }
}

/* Gives n mono samples to the converter and takes at most max. Returns the samples it gave, or -EIO; *left is how
 * many of the n it did not take because max was reached. */
static int convert(struct resampler *r, const float *mono, int n, float *out, int max, int *left,
                   struct err *err)
{
    int given = 0;
    while (n > 0 && given < max) {
        SRC_DATA data = {.data_in = mono,
                         .data_out = out + given,
                         .input_frames = n,
                         .output_frames = max - given,
                         .src_ratio = r->ratio};
        int code = src_process(r->src, &data);
        if (code)
            return err_set(err, -EIO, "cannot resample: %s", src_strerror(code));
        if (data.input_frames_used == 0 && data.output_frames_gen == 0)
            return err_set(err, -EIO, "cannot resample: the converter is stuck");
        mono += data.input_frames_used;
        n -= (int)data.input_frames_used;
        given += (int)data.output_frames_gen;
    }
    r->n_out += given;
    *left = n;
    return given;
}

/* Zeros follow the input until every sample it is owed has come out. */
static int flush(struct resampler *r, float *out, int room, struct err *err)
{
    int64_t owed = (r->n_in * SAMPLE_RATE + r->rate / 2) / r->rate - r->n_out;
    int given = 0, left = 0;
    if (owed > room)
        return err_set(err, -EOVERFLOW, "cannot resample: the converter holds back too much");
    memset(r->mono, 0, sizeof(r->mono));
    while (given < owed) {
        int n = convert(r, r->mono, RESAMPLER_FRAMES_MAX, out + given, (int)owed - given, &left, err);
        if (n < 0)
            return n;
        given += n;
    }
    return given;
}

int resampler_run(struct resampler *r, const float *frames, int n_frames, bool last, float *out,
                  struct err *err)
{
    if (n_frames < 0 || n_frames > RESAMPLER_FRAMES_MAX)
        return err_set(err, -EINVAL, "%d frames do not fit a call of the resampler", n_frames);
    if (!r->src) {
        mix(r, frames, n_frames, out);
        return n_frames;
    }
    int room = resampler_output_max(r, n_frames);
    mix(r, frames, n_frames, r->mono);
    r->n_in += n_frames;
    int left = 0;
    int n = convert(r, r->mono, n_frames, out, room, &left, err);
    if (n >= 0 && left > 0)
        return err_set(err, -EOVERFLOW, "cannot resample: the converter gives too much");
    if (n < 0 || !last)
        return n;
    int tail = flush(r, out + n, room - n, err);
    if (tail < 0)
        return tail;
    resampler_reset(r);
    return n + tail;
}

void resampler_reset(struct resampler *r)
{
    if (r->src)
        src_reset(r->src);
    r->n_in = r->n_out = 0;
}
