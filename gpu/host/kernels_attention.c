/* Attention of one head, block by block: softmax(q · Kᵀ / 8) · V without the matrix of scores. Compiled once for each
 * instruction set, see the Makefile.
 *
 * For each block of keys and each group of queries: scores into a small buffer; the running maximum m of each query
 * goes up to m'; probabilities 2^(s − m') replace the scores; the sums so far are scaled by 2^(m − m') and the block's
 * are added. What is left at the end is to divide by the sum of the probabilities. (Milakov and Gimelshein, "Online
 * normalizer calculation for softmax"; Dao et al., "FlashAttention".) */
#include <assert.h>

#include "gpu/host/simd.h"

#include "gpu/host/kernels_wide.h"

/* A tile of GROUP queries by TILE vectors of keys (or of output columns) has its sums in registers. */
#define GROUP 6
#if VEC == 16
#define TILE 4
#else
#define TILE 2
#endif
#define WIDTH (TILE * VEC) /* divides ATTENTION_KEYS and HEAD_SIZE */

/* Keys at a time: a multiple of ATTENTION_KEYS. Scores of a group and the block's keys and values fit the nearest
 * caches, and rescaling costs little. */
#define BLOCK 512

#define MASKED (-1e30f) /* finite, so that differences with it are */

/* Scores are in units of log2: s = q · k / 8 · log2(e). */
#define SCALE 0.18033688011112042f

struct state {
    float sums[ATTENTION_QUERIES][HEAD_SIZE]; /* Σ p v */
    float max[ATTENTION_QUERIES];
    float total[ATTENTION_QUERIES]; /* Σ p */
};

/* 2^x for x ≤ about 0, and 0 (or below 1e-37) for x far below: 2^n · 2^f with n = floor(x) and a minimax polynomial
 * in f, good to 8e-8, or to 8e-5 where the result is rounded to bf16. */
INLINE vf vexp2(vf x, const bool coarse)
{
#if VEC == 16
    vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
    x = vmax(x, vset(-126.0f));
    vf n = (x - 0.5f + 12582912.0f) - 12582912.0f;
    vf f = x - n;
#endif
    vf p;
    if (coarse) {
        p = vset(0x1.3f96a4p-4f);
        p = p * f + 0x1.cefc4cp-3f;
        p = p * f + 0x1.64444cp-1f;
        p = p * f + 0x1.fff632p-1f;
    } else {
        p = vset(0x1.ec320ap-10f);
        p = p * f + 0x1.26900cp-7f;
        p = p * f + 0x1.c95454p-5f;
        p = p * f + 0x1.ebd5a8p-3f;
        p = p * f + 0x1.62e4f6p-1f;
        p = p * f + 0x1.fffffep-1f;
    }
#if VEC == 16
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    return p * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
#endif
}

/* acc += a · b for VEC sums: one product each in f32, two in bf16, where a and b hold pairs. */
INLINE vf multiply_add(vf acc, vf a, vf b, const bool bf16)
{
#if defined(__AVX512BF16__)
    if (bf16)
        return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#endif
    return acc + a * b;
}

/* acc[GROUP][TILE] += Σ_i a[g][i] · b[i], where b[i] are TILE vectors every `step` floats. bf16 pairs count as one
 * float each. */
INLINE void multiply(vf acc[GROUP][TILE], const float *const a[GROUP], int n, const float *b, size_t step,
                     const bool bf16)
{
    for (int i = 0; i < n; i++, b += step) {
        vf v[TILE];
#pragma GCC unroll 8
        for (int t = 0; t < TILE; t++)
            v[t] = vload(b + t * VEC);
#pragma GCC unroll 8
        for (int g = 0; g < GROUP; g++) {
            vf x = vset(a[g][i]);
#pragma GCC unroll 8
            for (int t = 0; t < TILE; t++)
                acc[g][t] = multiply_add(acc[g][t], x, v[t], bf16);
        }
    }
}

/* scores[g][k] = q[g] · key k for the packed keys of a block, and each query's greatest score of the n that exist. */
INLINE void score(const float *const q[GROUP], const float *keys, int n, float scores[GROUP][BLOCK],
                  float greatest[GROUP], const bool bf16)
{
    const int depth = bf16 ? HEAD_SIZE / 2 : HEAD_SIZE;
    vf top[GROUP];
    for (int g = 0; g < GROUP; g++)
        top[g] = vset(MASKED);
    for (int k = 0; k < n; k += WIDTH, keys += depth * WIDTH) {
        vf acc[GROUP][TILE] = {0};
        multiply(acc, q, depth, keys, WIDTH, bf16);
        if (k + WIDTH > n) {
            for (int t = 0; t < TILE; t++) {
                vi there = vlanes() + (k + t * VEC) < n;
#pragma GCC unroll 8
                for (int g = 0; g < GROUP; g++)
                    acc[g][t] = vselect(there, acc[g][t], vset(MASKED));
            }
        }
#pragma GCC unroll 8
        for (int g = 0; g < GROUP; g++) {
#pragma GCC unroll 8
            for (int t = 0; t < TILE; t++) {
                vstore(&scores[g][k + t * VEC], acc[g][t]);
                top[g] = vmax(top[g], acc[g][t]);
            }
        }
    }
    for (int g = 0; g < GROUP; g++)
        greatest[g] = vmaximum(top[g]);
}

/* Replaces n scores (a multiple of WIDTH) by 2^(score · SCALE − max); in bf16 they are packed at the front. Returns
 * their sum: of what they are rounded to, so that a query's weights add up to one. */
INLINE float exponentiate(float *scores, int n, float max, const bool bf16)
{
    vf sum0 = {0}, sum1 = {0}, m = vset(max);
    for (int k = 0; k < n; k += 2 * VEC) {
        vf p0 = vexp2(vload(scores + k) * SCALE - m, bf16);
        vf p1 = vexp2(vload(scores + k + VEC) * SCALE - m, bf16);
#if defined(__AVX512BF16__)
        if (bf16) {
            const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
            __m512bh p = _mm512_cvtne2ps_pbh((__m512)p1, (__m512)p0);
            sum0 = (vf)_mm512_dpbf16_ps((__m512)sum0, p, ones);
            vstore(scores + k / 2, (vf)p);
            continue;
        }
#endif
        sum0 += p0;
        sum1 += p1;
        vstore(scores + k, p0);
        vstore(scores + k + VEC, p1);
    }
    return vsum(sum0 + sum1);
}

/* One group of queries, from query `first` on, and one block of n keys. */
INLINE void attend_block(struct state *s, int first, float query[][HEAD_SIZE], const float *keys,
                         const float *values, int n, const bool bf16)
{
    _Alignas(64) float scores[GROUP][BLOCK];
    float greatest[GROUP], decay[GROUP];
    const float *q[GROUP], *p[GROUP];
    for (int g = 0; g < GROUP; g++) {
        q[g] = query[first + g];
        p[g] = scores[g];
    }
    int n_whole = (n + WIDTH - 1) / WIDTH * WIDTH;
    score(q, keys, n, scores, greatest, bf16);
    for (int g = 0; g < GROUP; g++) {
        float old = s->max[first + g], max = greatest[g] * SCALE;
        max = max > old ? max : old;
        decay[g] = vexp2(vset(old - max), false)[0];
        float sum = exponentiate(scores[g], n_whole, max, bf16);
        s->max[first + g] = max;
        s->total[first + g] = s->total[first + g] * decay[g] + sum;
    }
    for (int c = 0; c < HEAD_SIZE; c += WIDTH) {
        vf acc[GROUP][TILE];
        for (int g = 0; g < GROUP; g++) {
            for (int t = 0; t < TILE; t++)
                acc[g][t] = vload(&s->sums[first + g][c + t * VEC]) * decay[g];
        }
        multiply(acc, p, bf16 ? n_whole / 2 : n_whole, values + c, HEAD_SIZE, bf16);
        for (int g = 0; g < GROUP; g++) {
            for (int t = 0; t < TILE; t++)
                vstore(&s->sums[first + g][c + t * VEC], acc[g][t]);
        }
    }
}

INLINE void store_output(const struct state *s, int query, void *out, size_t at, const bool bf16)
{
    vf scale = vset(1.0f / s->total[query]);
    for (int c = 0; c < HEAD_SIZE; c += VEC) {
        vf y = vload(&s->sums[query][c]) * scale;
        if (bf16)
            vstore_bf16((uint16_t *)out + at + c, y);
        else
            vstore((float *)out + at + c, y);
    }
}

/* What is behind `q` and `keys` is read as floats; with bf16 each holds a pair. */
INLINE void attend(const void *q, size_t stride, int n_queries, const float *keys, const float *values, int n,
                   void *out, size_t out_stride, const bool bf16)
{
    assert(n > 0 && n_queries > 0 && n_queries <= ATTENTION_QUERIES);
    const int depth = bf16 ? HEAD_SIZE / 2 : HEAD_SIZE;
    _Alignas(64) float query[ATTENTION_QUERIES][HEAD_SIZE];
    _Alignas(64) struct state s = {0};
    int n_rows =
        (n_queries + GROUP - 1) / GROUP * GROUP; /* the last group is filled up with its last query */
    for (int r = 0; r < n_rows; r++) {
        size_t row = (size_t)(r < n_queries ? r : n_queries - 1) * stride * (bf16 ? 2 : 4);
        memcpy(query[r], (const char *)q + row, (size_t)depth * sizeof(float));
        s.max[r] = MASKED;
    }
    for (int k = 0; k < n; k += BLOCK) {
        int n_keys = n - k < BLOCK ? n - k : BLOCK;
        for (int r = 0; r < n_rows; r += GROUP)
            attend_block(&s, r, query, keys + (size_t)k * depth, values + (size_t)k * depth, n_keys, bf16);
    }
    for (int r = 0; r < n_queries; r++)
        store_output(&s, r, out, (size_t)r * out_stride, bf16);
}

static void attend_f32(const void *q, size_t stride, int n_queries, const void *keys, const void *values,
                       int n, void *out, size_t out_stride)
{
    attend(q, stride, n_queries, keys, values, n, out, out_stride, false);
}

/* keys: [panels of WIDTH keys][HEAD_SIZE][WIDTH]; values: [keys][HEAD_SIZE]; zeros behind the last key. */
static void pack_f32(const void *k, const void *v, size_t stride, int n, void *keys, void *values)
{
    float *to = keys;
    size_t bytes = (size_t)attention_packed_keys(n) * HEAD_SIZE * sizeof(float);
    memset(keys, 0, bytes);
    memset((char *)values + (size_t)n * HEAD_SIZE * sizeof(float), 0,
           bytes - (size_t)n * HEAD_SIZE * sizeof(float));
    for (int i = 0; i < n; i++) {
        const float *key = (const float *)k + (size_t)i * stride;
        float *panel = to + i / WIDTH * WIDTH * HEAD_SIZE + i % WIDTH;
        for (int d = 0; d < HEAD_SIZE; d++)
            panel[d * WIDTH] = key[d];
        memcpy((float *)values + (size_t)i * HEAD_SIZE, (const float *)v + (size_t)i * stride,
               HEAD_SIZE * sizeof(float));
    }
}

const struct attention_kernels KERNEL_NAME(attention_f32) = {pack_f32, attend_f32};

#if defined(__AVX512BF16__)

static void attend_bf16(const void *q, size_t stride, int n_queries, const void *keys, const void *values,
                        int n, void *out, size_t out_stride)
{
    attend(q, stride, n_queries, keys, values, n, out, out_stride, true);
}

/* As pack_f32 with pairs in the place of floats: two neighbouring dimensions of a key, two neighbouring rows of the
 * values. */
static void pack_bf16(const void *k, const void *v, size_t stride, int n, void *keys, void *values)
{
    const int pairs = HEAD_SIZE / 2, n_packed = attention_packed_keys(n);
    const uint16_t *from = v;
    uint32_t *to = values;
    memset(keys, 0, (size_t)n_packed * HEAD_SIZE * sizeof(uint16_t));
    for (int i = 0; i < n; i++) {
        uint32_t key[HEAD_SIZE / 2], *panel = (uint32_t *)keys + i / WIDTH * WIDTH * pairs + i % WIDTH;
        memcpy(key, (const uint16_t *)k + (size_t)i * stride, sizeof(key));
        for (int d = 0; d < pairs; d++)
            panel[d * WIDTH] = key[d];
    }
    for (int i = 0; i < n_packed; i += 2, to += HEAD_SIZE) {
        uint16_t a[HEAD_SIZE] = {0}, b[HEAD_SIZE] = {0};
        if (i < n)
            memcpy(a, from + (size_t)i * stride, sizeof(a));
        if (i + 1 < n)
            memcpy(b, from + (size_t)(i + 1) * stride, sizeof(b));
        for (int d = 0; d < HEAD_SIZE; d++)
            to[d] = a[d] | (uint32_t)b[d] << 16;
    }
}

const struct attention_kernels KERNEL_NAME(attention_bf16) = {pack_bf16, attend_bf16};

#endif
