/* Kernels of the audio encoder, one table an instruction set. Inside gpu/host/ only. */
#ifndef CAPTIOND_GPU_HOST_KERNELS_WIDE_H
#define CAPTIOND_GPU_HOST_KERNELS_WIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- attention -------------------------------------------------------------------------------------------------- */

#define HEAD_SIZE 64

/* Queries that one call takes at most: they share each block of keys and values while it is in the nearest cache. */
#define ATTENTION_QUERIES 48
/* Keys are packed in multiples of this. */
#define ATTENTION_KEYS 64

static inline int attention_packed_keys(int n)
{
    return (n + ATTENTION_KEYS - 1) / ATTENTION_KEYS * ATTENTION_KEYS;
}

/* Attention of one head over n keys, all in f32 or all in bf16. Strides are in elements. */
struct attention_kernels {
    /* Packs keys and values for all queries: each into attention_packed_keys(n) · HEAD_SIZE elements, 64-byte
     * aligned. */
    void (*pack)(const void *k, const void *v, size_t stride, int n, void *keys, void *values);
    /* out = softmax(q · Kᵀ / 8) · V for n_queries ≤ ATTENTION_QUERIES rows. */
    void (*attend)(const void *q, size_t stride, int n_queries, const void *keys, const void *values, int n,
                   void *out, size_t out_stride);
};

/* --- log-mel ---------------------------------------------------------------------------------------------------- */

#define MEL_WINDOW 400
#define MEL_HOP    160
/* A real transform of 400 samples folds twice (n ↔ 400 − n, n ↔ 200 − n) into four products of 101 inputs: cosines and
 * sines, each for even and for odd bins. Their 101 (100) outputs are padded to 112. */
#define MEL_FOLDED 101
#define MEL_BINS   112
/* Frames that one call takes at most, and samples it may read from the first frame's first on. */
#define MEL_FRAMES  12
#define MEL_SAMPLES ((MEL_FRAMES - 1) * MEL_HOP + 416)

struct mel_basis {
    _Alignas(64) float window[208];         /* Hann; [200] is halved, as it meets itself in the fold */
    float dft[2][2][MEL_FOLDED * MEL_BINS]; /* [even, odd bins][cosines, sines][n][bin] */
    float filters[2 * MEL_BINS * 128];      /* [even bins, then odd bins][n_mels] */
    int n_mels;
};

struct wide_kernels {
    /* One row: y = (x − mean) / √(variance + 1e-5) · gamma + beta, to f32 or bf16. */
    void (*layer_norm)(const float *x, const float *gamma, const float *beta, int n, void *y, bool to_bf16);
    void (*from_bf16)(const uint16_t *x, int n, float *y);

    const struct attention_kernels *attention_f32;
    const struct attention_kernels *attention_bf16; /* NULL where the processor has no bf16 products */

    /* out[f][m] = log10(max(1e-10, Σ_k filter[m][k] · |DFT_k(window · frame f)|²)) for n ≤ MEL_FRAMES frames, of which
     * frame f begins at x + f · MEL_HOP; MEL_SAMPLES samples are readable. Returns the greatest of out. */
    float (*mel)(const struct mel_basis *, const float *x, int n_frames, float *out);
    /* y = (max(x, floor) + 4) / 4, to f32 or bf16 */
    void (*mel_scale)(const float *x, float floor, int n, void *y, bool to_bf16);
};

#ifdef KERNEL_ISA /* the parts of the table that have a file of their own */
extern const struct attention_kernels KERNEL_NAME(attention_f32), KERNEL_NAME(attention_bf16);
float KERNEL_NAME(mel_frames)(const struct mel_basis *, const float *x, int n_frames, float *out);
#endif

#endif
