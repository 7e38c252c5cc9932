/* Vectors of floats for the kernels that are compiled once for each instruction set.
 *
 * The compiler's vector extension does arithmetic; what it lacks (conversions, reductions, the exponential) is here.
 * Included by gpu/host/kernels_*.c only, which define KERNEL_ISA on the command line. */
#ifndef CAPTIOND_GPU_HOST_SIMD_H
#define CAPTIOND_GPU_HOST_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define VEC 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define VEC 8
#else
#define VEC 4
#endif

#define KERNEL_CAT2(a, b) a##_##b
#define KERNEL_CAT(a, b)  KERNEL_CAT2(a, b)
#define KERNEL_NAME(name) KERNEL_CAT(name, KERNEL_ISA)

typedef float vf __attribute__((vector_size(VEC * 4)));
typedef int32_t vi __attribute__((vector_size(VEC * 4)));

#define INLINE static inline __attribute__((always_inline))

INLINE vf vset(float x)
{
#if VEC == 16
    return (vf)_mm512_set1_ps(x);
#elif VEC == 8
    return (vf)_mm256_set1_ps(x);
#else
    return (vf){x, x, x, x};
#endif
}

/* 0, 1, … VEC − 1 */
INLINE vi vlanes(void)
{
    vi v;
    for (int i = 0; i < VEC; i++)
        v[i] = i;
    return v;
}

INLINE vf vload(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof(v));
    return v;
}

INLINE void vstore(float *p, vf v)
{
    memcpy(p, &v, sizeof(v));
}

INLINE vf vselect(vi mask, vf yes, vf no)
{
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

INLINE vf vmax(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vselect(a > b, a, b);
#endif
}

INLINE vf vmin(vf a, vf b)
{
    return vselect(a < b, a, b);
}

/* Reductions by halves: a tree of additions. */
INLINE float vsum(vf v)
{
    float s[VEC];
    memcpy(s, &v, sizeof(s));
    for (int n = VEC / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++)
            s[i] += s[i + n];
    }
    return s[0];
}

INLINE float vmaximum(vf v)
{
    float m[VEC];
    memcpy(m, &v, sizeof(m));
    for (int n = VEC / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++)
            m[i] = m[i] > m[i + n] ? m[i] : m[i + n];
    }
    return m[0];
}

/* VEC IEEE half floats. Only instruction sets that convert in hardware store them. */
INLINE vf vload_f16(const uint16_t *p)
{
#if defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    (void)p;
    __builtin_trap();
#endif
}

INLINE void vstore_f16(uint16_t *p, vf v)
{
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
    (void)p;
    (void)v;
    __builtin_trap();
#endif
}

/* bf16 is the upper half of a float. Rounds to nearest, ties to even; not for NaN. */
INLINE uint16_t bf16_from_float(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

INLINE float bf16_to_float(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof(x));
    return x;
}

INLINE vf vload_bf16(const uint16_t *p)
{
#if defined(__AVX512F__)
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#else
    vf v;
    for (int i = 0; i < VEC; i++)
        v[i] = bf16_to_float(p[i]);
    return v;
#endif
}

INLINE void vstore_bf16(uint16_t *p, vf v)
{
#if defined(__AVX512BF16__)
    __m256bh h = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &h, sizeof(h));
#else
    for (int i = 0; i < VEC; i++)
        p[i] = bf16_from_float(v[i]);
#endif
}

/* e^x for x ≤ 88 to about 1e-7 relative: 2^n · e^r with |r| ≤ ln 2 / 2 and e^r by its Taylor series. Below −87 it is
 * 1e-38, which is 0 for all that softmax cares about. */
INLINE vf vexp(vf x)
{
    x = vmax(x, vset(-87.3f));
#if VEC == 16
    vf n = (vf)_mm512_roundscale_ps((__m512)(x * 1.44269504088896341f), _MM_FROUND_TO_NEAREST_INT);
#else
    vf n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f; /* rounds to the nearest integer */
#endif
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = vset(1.0f / 5040.0f);
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
#if VEC == 16
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    vi scale = (__builtin_convertvector(n, vi) + 127) << 23;
    return p * (vf)scale;
#endif
}

/* x/2 · (1 + erf(x/√2)); erf after Abramowitz and Stegun 7.1.26, absolute error below 2e-7. */
INLINE vf vgelu(vf x)
{
    vf z = x * 0.70710678118654752f;
    vf a = (vf)((vi)z & 0x7fffffff);
    vf t = 1.0f / (a * 0.3275911f + 1.0f);
    vf p = vset(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf erf = 1.0f - p * t * vexp(-a * a);
    erf = (vf)((vi)erf | ((vi)z & (vi)vset(-0.0f)));
    return 0.5f * x * (1.0f + erf);
}

/* A bit for each lane that is greater than x. */
INLINE uint32_t vgreater(vf v, float x)
{
#if VEC == 16
    return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(x), _CMP_GT_OQ);
#elif VEC == 8
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_set1_ps(x), _CMP_GT_OQ));
#else
    uint32_t bits = 0;
    for (int i = 0; i < VEC; i++)
        bits |= (uint32_t)(v[i] > x) << i;
    return bits;
#endif
}

/* A bit for each lane that equals x. */
INLINE uint32_t vequal(vf v, float x)
{
#if VEC == 16
    return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(x), _CMP_EQ_OQ);
#elif VEC == 8
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_set1_ps(x), _CMP_EQ_OQ));
#else
    uint32_t bits = 0;
    for (int i = 0; i < VEC; i++)
        bits |= (uint32_t)(v[i] == x) << i;
    return bits;
#endif
}

#endif
