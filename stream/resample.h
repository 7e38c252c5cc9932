/* Any rate and channel count to 16 kHz mono, with libsamplerate. Belongs to the intake thread (or to a tool).
 *
 * Channels are averaged. The filter's delay is taken out: output sample k belongs to input time k / 16000, and
 * after the flush exactly round(n_in · 16000 / rate) samples have come out. How the input is cut into calls never
 * changes the output. */
#ifndef CAPTIOND_STREAM_RESAMPLE_H
#define CAPTIOND_STREAM_RESAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/err.h"

struct resampler;

/* rate: 1,000 to 768,000 Hz; channels: 1 to 64. 0, -EINVAL, -ENOMEM. */
int resampler_create(int rate, int channels, struct resampler **, struct err *);
void resampler_destroy(struct resampler *); /* NULL is accepted */

/* Frames that may be given to one resampler_run call: its buffers are taken at create. */
#define RESAMPLER_FRAMES_MAX 4096

/* Most samples one call can give for n_frames. */
int resampler_output_max(const struct resampler *, int n_frames);

/* Converts n_frames (0 to RESAMPLER_FRAMES_MAX) interleaved frames; `last` flushes. Writes samples to out, which has
 * room for resampler_output_max, and returns their number or a negative errno. */
int resampler_run(struct resampler *, const float *frames, int n_frames, bool last, float *out, struct err *);

/* Forgets the past, as `last` does. */
void resampler_reset(struct resampler *);

#endif
