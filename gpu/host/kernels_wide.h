/* Kernels of the audio encoder, one table an instruction set. Inside gpu/host/ only. */
#ifndef CAPTIOND_GPU_HOST_KERNELS_WIDE_H
#define CAPTIOND_GPU_HOST_KERNELS_WIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Queries that one call of attention takes at most. */
#define ATTENTION_ROWS 12

struct wide_kernels {
    /* One row: y = act(x + bias) + add, to f32 or (to_bf16) bf16. bias and add may be NULL. */
    void (*epilogue)(const float *x, const float *bias, const float *add, bool gelu, int n, void *y,
                     bool to_bf16);
    /* One row, to f32 or bf16. */
    void (*layer_norm)(const float *x, const float *gamma, const float *beta, int n, void *y, bool to_bf16);
    void (*to_bf16)(const float *x, int n, uint16_t *y);
    void (*from_bf16)(const uint16_t *x, int n, float *y);

    /* Attention of one head of 64. Keys and values are packed once for all queries, in the type of the activations
     * (bf16 or f32), n_packed being n rounded up to 32. Bytes of either pack: n_packed · 64 · element size. */
    void (*pack_keys)(const void *k, size_t stride, int n, bool bf16, void *packed);
    void (*pack_values)(const void *v, size_t stride, int n, bool bf16, void *packed);
    /* Up to ATTENTION_ROWS queries (rows `stride` elements apart). scores: scratch of ATTENTION_ROWS · n_packed floats.
     * out rows are out_stride elements apart and of the same type. */
    void (*attention)(const void *q, size_t stride, int n_queries, const void *keys, const void *values,
                      int n, bool bf16, float *scores, void *out, size_t out_stride);
};

#endif
