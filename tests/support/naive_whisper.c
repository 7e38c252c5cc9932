/* Whisper in double precision, each formula as it is written in OpenAI's model.py and audio.py, nothing shared with the
 * engines. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#define PI 3.14159265358979323846

/* --- spectrogram -------------------------------------------------------------------------------------------------- */

static double mel_to_hz(double mel)
{
    return mel < 15.0 ? mel * 200.0 / 3.0 : 1000.0 * exp((mel - 15.0) * log(6.4) / 27.0);
}

static double filter(int bin, int band, int n_mels)
{
    double top = 15.0 + log(8.0) * 27.0 / log(6.4), edge[3], hz = bin * 40.0;
    for (int i = 0; i < 3; i++)
        edge[i] = mel_to_hz(top * (band + i) / (n_mels + 1));
    double up = (hz - edge[0]) / (edge[1] - edge[0]), down = (edge[2] - hz) / (edge[2] - edge[1]);
    return fmax(0.0, fmin(up, down)) * 2.0 / (edge[2] - edge[0]);
}

static void power(const float *pcm, int n, int frame, double *out)
{
    double x[400];
    for (int i = 0; i < 400; i++) {
        int at = abs(160 * frame + i - 200); /* reflected on the left */
        x[i] = at < n ? pcm[at] * (0.5 - 0.5 * cos(2.0 * PI * i / 400.0)) : 0.0;
    }
    for (int k = 0; k <= 200; k++) {
        double re = 0.0, im = 0.0;
        for (int i = 0; i < 400; i++) {
            double angle = 2.0 * PI * (k * i % 400) / 400.0;
            re += x[i] * cos(angle);
            im -= x[i] * sin(angle);
        }
        out[k] = re * re + im * im;
    }
}

void naive_mel(const struct tiny_model *m, const float *pcm, int n, double *mel)
{
    int n_mels = m->dims.n_mels, n_frames = 2 * m->dims.n_audio_ctx;
    double spectrum[201], most = -INFINITY;
    for (int t = 0; t < n_frames; t++) {
        power(pcm, n, t, spectrum);
        for (int b = 0; b < n_mels; b++) {
            double sum = 0.0;
            for (int k = 0; k <= 200; k++)
                sum += spectrum[k] * filter(k, b, n_mels);
            mel[t * n_mels + b] = log10(fmax(sum, 1e-10));
            most = fmax(most, mel[t * n_mels + b]);
        }
    }
    for (int i = 0; i < n_frames * n_mels; i++)
        mel[i] = (fmax(mel[i], most - 8.0) + 4.0) / 4.0;
}

static double *zeros(int rows, int cols)
{
    return calloc((size_t)rows * (size_t)cols, sizeof(double));
}

/* --- layers ------------------------------------------------------------------------------------------------------- */

static double gelu(double x)
{
    return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
}

static const float *tensor(const struct tiny_model *m, const char *prefix, const char *name, const char *kind)
{
    char full[96];
    snprintf(full, sizeof(full), "%s.%s.%s", prefix, name, kind);
    return tiny_model_tensor(m, full);
}

static void linear(const struct tiny_model *m, const char *prefix, const char *name, const double *in,
                   int rows, int n_in, int n_out, double *out)
{
    const float *w = tensor(m, prefix, name, "weight"), *b = tensor(m, prefix, name, "bias");
    assert_non_null(w);
    for (int r = 0; r < rows; r++) {
        for (int o = 0; o < n_out; o++) {
            double sum = b ? b[o] : 0.0;
            for (int i = 0; i < n_in; i++)
                sum += in[r * n_in + i] * (double)w[o * n_in + i];
            out[r * n_out + o] = sum;
        }
    }
}

static void norm(const struct tiny_model *m, const char *prefix, const char *name, const double *in, int rows,
                 int n, double *out)
{
    const float *gamma = tensor(m, prefix, name, "weight"), *beta = tensor(m, prefix, name, "bias");
    for (int r = 0; r < rows; r++) {
        double mean = 0.0, variance = 0.0;
        for (int i = 0; i < n; i++)
            mean += in[r * n + i] / n;
        for (int i = 0; i < n; i++)
            variance += (in[r * n + i] - mean) * (in[r * n + i] - mean) / n;
        for (int i = 0; i < n; i++)
            out[r * n + i] = (in[r * n + i] - mean) / sqrt(variance + 1e-5) * gamma[i] + beta[i];
    }
}

/* x += attention(norm(x)); keys and values come from `source` (NULL: the normalised x itself). weights: NULL or, for row r
 * and head h, n_source numbers at (r · row_stride + h · n_source). */
static void attention(const struct tiny_model *m, const char *prefix, const char *name, double *x, int rows,
                      const double *source, int n_source, bool causal, double *weights, int row_stride)
{
    int n = m->dims.n_text_state;
    char full[64], norm_name[32];
    size_t row_bytes = (size_t)n * sizeof(double);
    double *h = calloc((size_t)rows, row_bytes), *q = calloc((size_t)rows, row_bytes);
    double *k = calloc((size_t)n_source, row_bytes), *v = calloc((size_t)n_source, row_bytes);
    double *mixed = calloc((size_t)rows, row_bytes), *p = calloc((size_t)n_source, sizeof(double));
    snprintf(full, sizeof(full), "%s.%s", prefix, name);
    snprintf(norm_name, sizeof(norm_name), "%s_ln", name);
    norm(m, prefix, norm_name, x, rows, n, h);
    linear(m, full, "query", h, rows, n, n, q);
    linear(m, full, "key", source ? source : h, n_source, n, n, k);
    linear(m, full, "value", source ? source : h, n_source, n, n, v);
    for (int head = 0; head < n / 64; head++) {
        for (int r = 0; r < rows; r++) {
            int seen = causal ? r + 1 : n_source;
            double most = -INFINITY, sum = 0.0;
            for (int t = 0; t < seen; t++) {
                p[t] = 0.0;
                for (int d = head * 64; d < head * 64 + 64; d++)
                    p[t] += q[r * n + d] * k[t * n + d] / 8.0;
                most = fmax(most, p[t]);
            }
            for (int t = 0; t < seen; t++)
                sum += p[t] = exp(p[t] - most);
            for (int t = 0; t < seen; t++) {
                p[t] /= sum;
                for (int d = head * 64; d < head * 64 + 64; d++)
                    mixed[r * n + d] += p[t] * v[t * n + d];
            }
            if (weights)
                memcpy(weights + r * row_stride + head * n_source, p, (size_t)seen * sizeof(double));
        }
    }
    linear(m, full, "out", mixed, rows, n, n, h);
    for (int i = 0; i < rows * n; i++)
        x[i] += h[i];
    free(h);
    free(q);
    free(k);
    free(v);
    free(mixed);
    free(p);
}

static void mlp(const struct tiny_model *m, const char *prefix, double *x, int rows)
{
    int n = m->dims.n_text_state;
    double *h = zeros(rows, n), *wide = zeros(4 * rows, n);
    norm(m, prefix, "mlp_ln", x, rows, n, h);
    linear(m, prefix, "mlp.0", h, rows, n, 4 * n, wide);
    for (int i = 0; i < 4 * rows * n; i++)
        wide[i] = gelu(wide[i]);
    linear(m, prefix, "mlp.2", wide, rows, 4 * n, n, h);
    for (int i = 0; i < rows * n; i++)
        x[i] += h[i];
    free(h);
    free(wide);
}

/* out[t] = GELU(Σ over channels and taps of in[step · t + tap − 1]), zeros outside of 0 … rows − 1. */
static void convolution(const struct tiny_model *m, const char *name, const double *in, int rows, int n_in,
                        int step, double *out)
{
    int n = m->dims.n_audio_state;
    const float *w = tensor(m, "encoder", name, "weight"), *b = tensor(m, "encoder", name, "bias");
    for (int t = 0; t < rows / step; t++) {
        for (int o = 0; o < n; o++) {
            double sum = b[o];
            for (int tap = 0; tap < 3; tap++) {
                int at = step * t + tap - 1;
                for (int i = 0; i < n_in && at >= 0 && at < rows; i++)
                    sum += in[at * n_in + i] * (double)w[(o * n_in + i) * 3 + tap];
            }
            out[t * n + o] = gelu(sum);
        }
    }
}

/* --- encoder and decoder ------------------------------------------------------------------------------------------ */

void naive_encode(const struct tiny_model *m, const double *mel, double *out)
{
    int n_ctx = m->dims.n_audio_ctx, n = m->dims.n_audio_state;
    const float *positions = tiny_model_tensor(m, "encoder.positional_embedding");
    double *frames = zeros(2 * n_ctx, n), *x = zeros(n_ctx, n);
    convolution(m, "conv1", mel, 2 * n_ctx, m->dims.n_mels, 1, frames);
    convolution(m, "conv2", frames, 2 * n_ctx, n, 2, x);
    for (int i = 0; i < n_ctx * n; i++)
        x[i] += positions[i];
    for (int i = 0; i < m->dims.n_audio_layer; i++) {
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "encoder.blocks.%d", i);
        attention(m, prefix, "attn", x, n_ctx, NULL, n_ctx, false, NULL, 0);
        mlp(m, prefix, x, n_ctx);
    }
    norm(m, "encoder", "ln_post", x, n_ctx, n, out);
    free(frames);
    free(x);
}

void naive_decode(const struct tiny_model *m, const double *audio, const int32_t *tokens, int n,
                  double *logits, double *cross)
{
    int n_state = m->dims.n_text_state, n_head = m->dims.n_text_head, n_ctx = m->dims.n_audio_ctx;
    int n_layer = m->dims.n_text_layer;
    const float *embedding = tiny_model_tensor(m, "decoder.token_embedding.weight");
    const float *positions = tiny_model_tensor(m, "decoder.positional_embedding");
    double *x = zeros(n, n_state), *h = zeros(n, n_state);
    for (int r = 0; r < n; r++) {
        for (int i = 0; i < n_state; i++)
            x[r * n_state + i] = (double)embedding[tokens[r] * n_state + i] + positions[r * n_state + i];
    }
    for (int i = 0; i < n_layer; i++) {
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "decoder.blocks.%d", i);
        attention(m, prefix, "attn", x, n, NULL, n, true, NULL, 0);
        attention(m, prefix, "cross_attn", x, n, audio, n_ctx, false,
                  cross ? cross + i * n_head * n_ctx : NULL, n_layer * n_head * n_ctx);
        mlp(m, prefix, x, n);
    }
    norm(m, "decoder", "ln", x, n, n_state, h);
    for (int r = 0; r < n; r++) {
        for (int v = 0; v < m->dims.n_vocab; v++) {
            double sum = 0.0;
            for (int i = 0; i < n_state; i++)
                sum += h[r * n_state + i] * (double)embedding[v * n_state + i];
            logits[(size_t)r * (size_t)m->dims.n_vocab + (size_t)v] = sum;
        }
    }
    free(x);
    free(h);
}
