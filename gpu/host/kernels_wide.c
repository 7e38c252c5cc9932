/* Compiled once for each instruction set, see the Makefile. */
#include <math.h>

#include "gpu/host/simd.h"

#include "gpu/host/kernels_wide.h"

static void from_bf16(const uint16_t *x, int n, float *y)
{
    int i = 0;
    for (; i + VEC <= n; i += VEC)
        vstore(y + i, vload_bf16(x + i));
    for (; i < n; i++)
        y[i] = bf16_to_float(x[i]);
}

/* A tail shorter than a vector is worked on in a buffer of one vector. */
struct tail {
    float v[VEC];
};

INLINE vf load_tail(const float *p, int n)
{
    struct tail t = {{0}};
    memcpy(t.v, p, (size_t)n * sizeof(float));
    return vload(t.v);
}

INLINE void store_wide(void *y, int at, vf v, bool bf16)
{
    if (bf16)
        vstore_bf16((uint16_t *)y + at, v);
    else
        vstore((float *)y + at, v);
}

INLINE void store_wide_tail(void *y, int at, vf v, int n, bool bf16)
{
    uint16_t half[VEC];
    if (bf16) {
        vstore_bf16(half, v);
        memcpy((uint16_t *)y + at, half, (size_t)n * sizeof(half[0]));
    } else {
        memcpy((float *)y + at, &v, (size_t)n * sizeof(float));
    }
}

INLINE vf sum_of(const float *x, int n)
{
    vf s0 = {0}, s1 = {0};
    int i = 0;
    for (; i + 2 * VEC <= n; i += 2 * VEC) {
        s0 += vload(x + i);
        s1 += vload(x + i + VEC);
    }
    for (; i + VEC <= n; i += VEC)
        s0 += vload(x + i);
    if (i < n)
        s1 += load_tail(x + i, n - i);
    return s0 + s1;
}

/* Lanes past the end must not count: there x is made equal to the mean. */
INLINE vf squares_of(const float *x, int n, float mean)
{
    vf s0 = {0}, s1 = {0}, m = vset(mean);
    int i = 0;
    for (; i + 2 * VEC <= n; i += 2 * VEC) {
        vf a = vload(x + i) - m, b = vload(x + i + VEC) - m;
        s0 += a * a;
        s1 += b * b;
    }
    for (; i < n; i += VEC) {
        struct tail t;
        vstore(t.v, m);
        memcpy(t.v, x + i, (size_t)(n - i < VEC ? n - i : VEC) * sizeof(float));
        vf a = vload(t.v) - m;
        s1 += a * a;
    }
    return s0 + s1;
}

INLINE void layer_norm_to(const float *x, const float *gamma, const float *beta, int n, void *y,
                          const bool bf16)
{
    float mean = vsum(sum_of(x, n)) / (float)n;
    float variance = vsum(squares_of(x, n, mean)) / (float)n;
    vf m = vset(mean), scale = vset(1.0f / sqrtf(variance + 1e-5f));
    int i = 0;
    for (; i + VEC <= n; i += VEC)
        store_wide(y, i, (vload(x + i) - m) * scale * vload(gamma + i) + vload(beta + i), bf16);
    if (i < n) {
        vf v =
            (load_tail(x + i, n - i) - m) * scale * load_tail(gamma + i, n - i) + load_tail(beta + i, n - i);
        store_wide_tail(y, i, v, n - i, bf16);
    }
}

static void layer_norm(const float *x, const float *gamma, const float *beta, int n, void *y, bool bf16)
{
    if (bf16)
        layer_norm_to(x, gamma, beta, n, y, true);
    else
        layer_norm_to(x, gamma, beta, n, y, false);
}

static void mel_scale(const float *x, float floor, int n, void *y, bool bf16)
{
    int i = 0;
    for (; i + VEC <= n; i += VEC)
        store_wide(y, i, (vmax(vload(x + i), vset(floor)) + 4.0f) * 0.25f, bf16);
    if (i < n)
        store_wide_tail(y, i, (vmax(load_tail(x + i, n - i), vset(floor)) + 4.0f) * 0.25f, n - i, bf16);
}

extern const struct wide_kernels KERNEL_NAME(wide_kernels);
const struct wide_kernels KERNEL_NAME(wide_kernels) = {
    .layer_norm = layer_norm,
    .from_bf16 = from_bf16,
    .attention_f32 = &KERNEL_NAME(attention_f32),
#if defined(__AVX512BF16__)
    .attention_bf16 = &KERNEL_NAME(attention_bf16),
#endif
    .mel = KERNEL_NAME(mel_frames),
    .mel_scale = mel_scale,
};
