/* Log-mel frames. Compiled once for each instruction set, see the Makefile.
 *
 * With c[n] = w[n] (x[n] + x[400 − n]) and d[n] = w[n] (x[n] − x[400 − n]) the real part of bin k is
 * Σ c[n] cos(2πkn/400) and the imaginary part −Σ d[n] sin(2πkn/400), n = 0 … 200. As the cosine is even or odd about
 * n = 100 with k, and the sine odd or even, a second fold n ↔ 200 − n leaves n = 0 … 100 and a product each for even
 * and odd k. That is a quarter of the plain transform's work, and being products it runs at the processor's peak; its
 * rounding errors are those of sums of 101. */
#include "gpu/host/simd.h"

#include "gpu/host/kernels_wide.h"

/* A tile of ROWS frames by TILE vectors of outputs has its sums in registers. */
#define ROWS 6
#if VEC == 16
#define TILE 4
#else
#define TILE 2
#endif
_Static_assert(MEL_FRAMES % ROWS == 0, "frames come in whole tiles");

INLINE vf vreverse(vf v)
{
    vf r;
    for (int i = 0; i < VEC; i++)
        r[i] = v[VEC - 1 - i];
    return r;
}

/* log10 of a positive normal number, to about 1e-7: x = 2^e · m with m in [√½, √2), and after Cephes' logf. */
INLINE vf vlog10(vf x)
{
    vi bits = (vi)x - 0x3f3504f3;
    vf e = __builtin_convertvector(bits >> 23, vf);
    vf f = (vf)((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    vf p = vset(7.0376836292e-2f);
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    vf log_m = f + (p * f - 0.5f) * f * f;
    return e * 0.30102999566398120f + log_m * 0.43429448190325183f;
}

/* out [MEL_FRAMES, width vectors] = in [MEL_FRAMES, n_in] · basis [n_in, …]. The columns of the basis stay in the
 * nearest cache while the frames pass. */
INLINE void columns(const float *in, int in_stride, int n_in, const float *basis, int n_out, float *out,
                    int out_stride, const int width)
{
    for (int first = 0; first < MEL_FRAMES; first += ROWS, in += ROWS * in_stride, out += ROWS * out_stride) {
        vf acc[ROWS][TILE] = {0};
        for (int i = 0; i < n_in; i++) {
            vf b[TILE];
#pragma GCC unroll 8
            for (int v = 0; v < width; v++)
                b[v] = vload(basis + i * n_out + v * VEC);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                vf x = vset(in[r * in_stride + i]);
#pragma GCC unroll 8
                for (int v = 0; v < width; v++)
                    acc[r][v] += x * b[v];
            }
        }
        for (int r = 0; r < ROWS; r++) {
            for (int v = 0; v < width; v++)
                vstore(out + r * out_stride + v * VEC, acc[r][v]);
        }
    }
}

/* out [MEL_FRAMES, n_out] = in [MEL_FRAMES, n_in] · basis [n_in, n_out]; n_out is a multiple of 16. */
static void multiply(const float *in, int in_stride, int n_in, const float *basis, int n_out, float *out,
                     int out_stride)
{
    int i = 0;
    for (; i + TILE * VEC <= n_out; i += TILE * VEC)
        columns(in, in_stride, n_in, basis + i, n_out, out + i, out_stride, TILE);
#if VEC == 16
    if (i + 3 * VEC == n_out)
        columns(in, in_stride, n_in, basis + i, n_out, out + i, out_stride, 3);
    else if (i < n_out)
        columns(in, in_stride, n_in, basis + i, n_out, out + i, out_stride, 1);
#endif
}

/* Room for the folds' last whole vector. */
#define FOLD_1 224
#define FOLD_2 128

/* folded[parity of the bin][cosines, sines][n], n = 0 … 100 */
static void fold(const struct mel_basis *basis, const float *x, float *folded[2][2])
{
    float c[FOLD_1], d[FOLD_1];
    for (int n = 0; n <= MEL_WINDOW / 2; n += VEC) {
        vf w = vload(basis->window + n);
        vf a = vload(x + n) * w, b = vreverse(vload(x + MEL_WINDOW - n - VEC + 1)) * w;
        vstore(c + n, a + b);
        vstore(d + n, a - b);
    }
    for (int n = 0; n < MEL_FOLDED; n += VEC) {
        const int mirror = MEL_WINDOW / 2 - n - VEC + 1;
        vf a = vload(c + n), b = vreverse(vload(c + mirror));
        vstore(folded[0][0] + n, a + b);
        vstore(folded[1][0] + n, a - b);
        a = vload(d + n), b = vreverse(vload(d + mirror));
        vstore(folded[0][1] + n, a - b);
        vstore(folded[1][1] + n, a + b);
    }
}

/* Frames past n_frames are computed and dropped. */
float KERNEL_NAME(mel_frames)(const struct mel_basis *basis, const float *x, int n_frames, float *out)
{
    _Alignas(64) float folded[2][2][MEL_FRAMES][FOLD_2];
    _Alignas(64) float power[MEL_FRAMES][2 * MEL_BINS], part[2][MEL_FRAMES][MEL_BINS];
    _Alignas(64) float mel[MEL_FRAMES][128];
    for (int f = 0; f < MEL_FRAMES; f++) {
        float *to[2][2] = {{folded[0][0][f], folded[0][1][f]}, {folded[1][0][f], folded[1][1][f]}};
        fold(basis, x + f * MEL_HOP, to);
    }
    for (int odd = 0; odd < 2; odd++) {
        for (int sines = 0; sines < 2; sines++)
            multiply(folded[odd][sines][0], FOLD_2, MEL_FOLDED, basis->dft[odd][sines], MEL_BINS,
                     part[sines][0], MEL_BINS);
        for (int f = 0; f < MEL_FRAMES; f++) {
            for (int k = 0; k < MEL_BINS; k++)
                power[f][odd * MEL_BINS + k] = part[0][f][k] * part[0][f][k] + part[1][f][k] * part[1][f][k];
        }
    }
    multiply(power[0], 2 * MEL_BINS, 2 * MEL_BINS, basis->filters, basis->n_mels, mel[0], 128);
    vf greatest = vset(-10.0f);
    for (int f = 0; f < n_frames; f++) {
        for (int m = 0; m < basis->n_mels; m += VEC) {
            vf y = vlog10(vmax(vload(mel[f] + m), vset(1e-10f)));
            greatest = vmax(greatest, y);
            vstore(out + f * basis->n_mels + m, y);
        }
    }
    return vmaximum(greatest);
}
