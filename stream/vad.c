#include "stream/vad.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

/* One frame's way through the network:
 *
 *   x        [576]      the context and the frame, reflected by 64 at the right → [640]
 *   |STFT|   [4][129]   windows of 256 (periodic Hann), 128 apart
 *   conv 1   [4][128]   width 3, zeros at the ends, ReLU; so are the next three
 *   conv 2   [2][64]    stride 2
 *   conv 3   [1][64]    stride 2
 *   conv 4   [1][128]
 *   LSTM     h, c [128]
 *   output   sigmoid(w · ReLU(h) + b)
 *
 * All weights are stored [input][output], so that every inner loop is y[j] += w[j] · x over 64 or more contiguous
 * outputs: it vectorises on any processor without reordering a sum. */
#define WINDOW   256
#define HOP      128
#define FRAMES   4
#define BINS     (WINDOW / 2 + 1)
#define STATE    128
#define GATES    (4 * STATE) /* input, forget, cell, output */
#define PADDED   (VAD_CONTEXT + VAD_FRAME + 64)
#define LOG2_WIN 8

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the weights are stored little-endian");
_Static_assert(PADDED == WINDOW + (FRAMES - 1) * HOP, "four windows cover the padded frame");

struct weights {
    float conv1[3][BINS][128], bias1[128]; /* [tap][input][output] */
    float conv2[3][128][64], bias2[64];
    float conv3[3][64][64], bias3[64];
    float conv4[3][64][128], bias4[128];
    float input[STATE][GATES], hidden[STATE][GATES], bias[GATES];
    float output[STATE], output_bias;
};
_Static_assert(sizeof(struct weights) == 972292, "as in silero16k.bin");

extern const struct weights silero_weights __attribute__((visibility("hidden")));

static struct {
    float window[WINDOW];
    float cos[WINDOW / 2], sin[WINDOW / 2]; /* of −2πk / WINDOW */
    unsigned char reversed[WINDOW];         /* bits of the index in reverse */
} tables;
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
    const double turn = 2.0 * M_PI / WINDOW;
    for (int i = 0; i < WINDOW; i++) {
        tables.window[i] = (float)(0.5 - 0.5 * cos(turn * i));
        unsigned reversed = 0;
        for (int bit = 0; bit < LOG2_WIN; bit++)
            reversed |= ((unsigned)i >> bit & 1u) << (LOG2_WIN - 1 - bit);
        tables.reversed[i] = (unsigned char)reversed;
    }
    for (int i = 0; i < WINDOW / 2; i++) {
        tables.cos[i] = (float)cos(turn * i);
        tables.sin[i] = (float)-sin(turn * i);
    }
}

void vad_init(struct vad *vad)
{
    pthread_once(&tables_once, make_tables);
    memset(vad, 0, sizeof(*vad));
}

/* Radix-2 FFT of WINDOW points, in place, input in bit-reversed order. */
static void fft(float *restrict re, float *restrict im)
{
    for (int half = 1; half < WINDOW; half *= 2) {
        int stride = WINDOW / 2 / half;
        for (int block = 0; block < WINDOW; block += 2 * half) {
            for (int k = 0; k < half; k++) {
                float c = tables.cos[k * stride], s = tables.sin[k * stride];
                int a = block + k, b = a + half;
                float tr = re[b] * c - im[b] * s, ti = re[b] * s + im[b] * c;
                re[b] = re[a] - tr;
                im[b] = im[a] - ti;
                re[a] += tr;
                im[a] += ti;
            }
        }
    }
}

/* Magnitudes of two windows from one complex transform: the spectrum of a + ib is A + iB with A and B Hermitian. */
static void two_magnitudes(const float *a, const float *b, float *mag_a, float *mag_b)
{
    float re[WINDOW], im[WINDOW];
    for (int i = 0; i < WINDOW; i++) {
        re[tables.reversed[i]] = a[i] * tables.window[i];
        im[tables.reversed[i]] = b[i] * tables.window[i];
    }
    fft(re, im);
    for (int k = 0; k < BINS; k++) {
        int m = (WINDOW - k) % WINDOW;
        float ar = 0.5f * (re[k] + re[m]), ai = 0.5f * (im[k] - im[m]);
        float br = 0.5f * (im[k] + im[m]), bi = 0.5f * (re[m] - re[k]);
        mag_a[k] = sqrtf(ar * ar + ai * ai);
        mag_b[k] = sqrtf(br * br + bi * bi);
    }
}

/* y[j] += w[j] · x for n outputs, n a multiple of 64 */
static inline void add_scaled(float *restrict y, const float *restrict w, float x, int n)
{
    for (int j = 0; j < n; j++)
        y[j] += w[j] * x;
}

/* Convolution of width 3 with one frame of zeros at either end, and ReLU.
 * x: [n_in frames][in], w: [3][in][out], y: [n_out frames][out] with n_out = ceil(n_in / stride) */
static inline void conv(const float *x, int n_in, int in, const float *w, const float *bias, int out,
                        int stride, float *y)
{
    for (int t = 0; t * stride < n_in; t++) {
        float *row = y + t * out;
        memcpy(row, bias, (size_t)out * sizeof(*row));
        for (int tap = 0; tap < 3; tap++) {
            int from = t * stride + tap - 1;
            if (from < 0 || from >= n_in)
                continue;
            for (int i = 0; i < in; i++)
                add_scaled(row, w + (tap * in + i) * out, x[from * in + i], out);
        }
        for (int j = 0; j < out; j++)
            row[j] = row[j] > 0.0f ? row[j] : 0.0f;
    }
}

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static void lstm(struct vad *vad, const float *x)
{
    float gates[GATES];
    memcpy(gates, silero_weights.bias, sizeof(gates));
    for (int i = 0; i < STATE; i++) {
        add_scaled(gates, silero_weights.input[i], x[i], GATES);
        add_scaled(gates, silero_weights.hidden[i], vad->h[i], GATES);
    }
    for (int j = 0; j < STATE; j++) {
        float keep = sigmoid(gates[STATE + j]) * vad->c[j];
        vad->c[j] = keep + sigmoid(gates[j]) * tanhf(gates[2 * STATE + j]);
        vad->h[j] = sigmoid(gates[3 * STATE + j]) * tanhf(vad->c[j]);
    }
}

float vad_process(struct vad *vad, const float *pcm)
{
    float x[PADDED], mag[FRAMES * BINS], y1[FRAMES * 128], y2[2 * 64], y3[64], y4[128];
    const int n = VAD_CONTEXT + VAD_FRAME;
    memcpy(x, vad->context, sizeof(vad->context));
    memcpy(x + VAD_CONTEXT, pcm, VAD_FRAME * sizeof(*pcm));
    memcpy(vad->context, x + VAD_FRAME, sizeof(vad->context));
    for (int i = 0; i < PADDED - n; i++)
        x[n + i] = x[n - 2 - i];
    for (int t = 0; t < FRAMES; t += 2)
        two_magnitudes(x + t * HOP, x + (t + 1) * HOP, mag + t * BINS, mag + (t + 1) * BINS);

    const struct weights *w = &silero_weights;
    conv(mag, 4, BINS, w->conv1[0][0], w->bias1, 128, 1, y1);
    conv(y1, 4, 128, w->conv2[0][0], w->bias2, 64, 2, y2);
    conv(y2, 2, 64, w->conv3[0][0], w->bias3, 64, 2, y3);
    conv(y3, 1, 64, w->conv4[0][0], w->bias4, 128, 1, y4);
    lstm(vad, y4);

    float logit = w->output_bias;
    for (int j = 0; j < STATE; j++)
        logit += w->output[j] * (vad->h[j] > 0.0f ? vad->h[j] : 0.0f);
    return sigmoid(logit);
}
