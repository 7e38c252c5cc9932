/* Kernels of the text decoder, one table an instruction set. Inside gpu/host/ only.
 *
 * Everything the decoder multiplies by is stored in *panels*: 16 outputs side by side, [n_out / 16][n_in][16], zeros
 * behind the last output. A row's value is broadcast and multiplied with 16 outputs at once, so nothing has to be
 * summed across a vector, one row streams through memory, and many rows use each loaded panel again. */
#ifndef CAPTIOND_GPU_HOST_KERNELS_ROWS_H
#define CAPTIOND_GPU_HOST_KERNELS_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "gpu/slot.h"

#define PANEL 16

enum panel_type { PANEL_F32, PANEL_F16 };

static inline int panel_count(int n)
{
    return (n + PANEL - 1) / PANEL;
}

/* Most rows that share one read of a panel, or of a slot's keys and values. */
#define ROWS_AT_ONCE 8

struct panel_product {
    enum panel_type type;
    const void *panels; /* [panel_count(n_out)][n_in][PANEL], 64-byte aligned */
    int n_out, n_in;
    int n_rows;
    const float *const *x;   /* [n_rows] rows of n_in */
    float *const *out;       /* [n_rows] rows of n_out */
    const float *bias;       /* [n_out] or NULL */
    const float *const *add; /* NULL, or [n_rows] rows of n_out, which may be out's */
    bool gelu;
};

struct rows_kernels {
    /* out = act(x · Wᵀ + bias) + add for the panels first … last − 1. */
    void (*product)(const struct panel_product *, int first, int last);
    /* out[r][d] = Σ_t p[r][t] · v[t][d] for d < 64; v: [n][64] of `type`. At most ROWS_AT_ONCE rows. */
    void (*weighted_sum)(enum panel_type type, const void *v, int n, const float *const *p, int n_rows,
                         float *const *out);
    /* The same for one row whose values lie anywhere: v: [n] pointers to 64 values each. The same bits. */
    void (*weighted_sum_at)(enum panel_type type, const void *const *v, int n, const float *p, float *out);
    /* p = e^(p − greatest) in place; returns their sum, by which p is still to be divided to be softmax(p). */
    float (*exponentials)(float *p, int n);
    /* y = (x − mean) / √(variance + 1e-5) · gamma + beta */
    void (*layer_norm)(const float *x, const float *gamma, const float *beta, int n, float *y);
    /* Greatest value (−∞ of none), index of the first that equals `value` or −1, and Σ e^((x − greatest) · scale). */
    float (*maximum)(const float *x, int n);
    int (*find)(const float *x, int n, float value);
    float (*sum_exp)(const float *x, int n, float greatest, float scale);
    /* Merges x[0 … n − 1], the logits of the ids from first_id on, into the n_best ≤ most greatest so far, in descending
     * order; equal ones stay behind those that came first, −∞ stays out. Returns the new n_best. */
    int (*top)(const float *x, int n, int32_t first_id, struct beam_candidate *best, int n_best, int most);
    void (*to_f16)(const float *x, int n, uint16_t *y);
    void (*from_f16)(const uint16_t *x, int n, float *y);
    /* The weights of one output: out[k] for k < n_in. */
    void (*gather)(enum panel_type type, const void *panels, int n_in, int output, float *out);
};

#endif
