/* out = softmax(Q Kᵀ / 8) V for every head of every window, without storing the scores (after FlashAttention-2).
 *
 * A block has 64 queries of one head of one window, 16 a warp, and walks over the keys in tiles of 64: products on the tensor cores in
 * half floats with single sums, a running maximum and sum for each query, and the next tile on its way while one is
 * used. Bytes: each head's K and V are read once a block, from the second-level cache but for the first time. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>

#define QUERIES 64
#define KEYS    64
#define WARPS   (QUERIES / 16)
#define PITCH   (HEAD + 8) /* of a row in shared memory: eight rows, 144 bytes apart, are in different banks */
#define TILE    (KEYS * PITCH)

/* Keys and values of a tile; rows past the last key are zeros, since 0 · NaN is not 0. */
static __device__ __forceinline__ void load_tile(__half *keys, __half *values, const __half *k,
                                                 const __half *v, int stride, int first, int n)
{
    for (int i = (int)threadIdx.x; i < KEYS * HEAD / 8; i += WARPS * WARP) {
        int row = i / (HEAD / 8), column = i % (HEAD / 8) * 8, key = first + row;
        size_t from = (size_t)(key < n ? key : 0) * (size_t)stride + (size_t)column;
        cp_async_16(keys + row * PITCH + column, k + from, key < n ? 16 : 0);
        cp_async_16(values + row * PITCH + column, v + from, key < n ? 16 : 0);
    }
    cp_async_commit();
}

/* s [16 queries, 64 keys] of a warp, scaled for 2^x; −∞ past the last key. */
static __device__ __forceinline__ void score(float s[8][4], const unsigned q[4][4], const __half *keys,
                                             int first, int n)
{
    const float scale = 0.125f * 1.44269504088896340736f; /* 1/√64 · log2 e */
    int lane = (int)threadIdx.x % WARP;
    for (int block = 0; block < 8; block++) {
        for (int i = 0; i < 4; i++)
            s[block][i] = 0.0f;
        for (int part = 0; part < 4; part += 2) {
            unsigned b[4];
            ldmatrix_4(b, keys + (block * 8 + lane % 8) * PITCH + part * 16 + lane / 8 * 8);
            mma_16816(s[block], q[part], b);
            mma_16816(s[block], q[part + 1], b + 2);
        }
        for (int i = 0; i < 4; i++) {
            int key = first + block * 8 + lane % 4 * 2 + i % 2;
            s[block][i] = key < n ? s[block][i] * scale : -INFINITY;
        }
    }
}

/* Running state of a lane's two queries, rows lane / 4 and lane / 4 + 8 of its warp's. */
struct running {
    float greatest[2], sum[2];
    float out[8][4]; /* [16 queries, 64 values] of the warp */
};

/* Turns scores into weights e^(s − greatest) and fits what is there to the new maximum. */
static __device__ __forceinline__ void renew(struct running *r, float s[8][4])
{
    for (int half = 0; half < 2; half++) {
        float top = r->greatest[half];
        for (int block = 0; block < 8; block++)
            top = fmaxf(top, fmaxf(s[block][2 * half], s[block][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(LANES, top, 1)); /* the four lanes of a row */
        top = fmaxf(top, __shfl_xor_sync(LANES, top, 2));
        float shrink = exp2f(r->greatest[half] - top); /* of nothing at first: e^−∞ = 0 */
        r->greatest[half] = top;
        r->sum[half] *= shrink;
        for (int block = 0; block < 8; block++) {
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                r->out[block][i] *= shrink;
                s[block][i] = exp2f(s[block][i] - top);
                r->sum[half] += s[block][i];
            }
        }
    }
}

static __device__ __forceinline__ unsigned pack(float low, float high)
{
    return (unsigned)__half_as_ushort(__float2half_rn(low)) |
           (unsigned)__half_as_ushort(__float2half_rn(high)) << 16;
}

/* out += weights · V. The weights' fragments of a product's result are those of the next one's operand. */
static __device__ __forceinline__ void weigh(struct running *r, const float s[8][4], const __half *values)
{
    int lane = (int)threadIdx.x % WARP;
    for (int part = 0; part < 4; part++) { /* 16 keys */
        const float *low = s[2 * part], *high = s[2 * part + 1];
        const unsigned p[4] = {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]),
                               pack(high[2], high[3])};
        for (int block = 0; block < 8; block += 2) {
            unsigned b[4];
            ldmatrix_4_transposed(b, values + (part * 16 + lane % 16) * PITCH + block * 8 + lane / 16 * 8);
            mma_16816(r->out[block], p, b);
            mma_16816(r->out[block + 1], p, b + 2);
        }
    }
}

static __device__ __forceinline__ void load_queries(unsigned q[4][4], const __half *from, int stride,
                                                    int first, int n)
{
    int lane = (int)threadIdx.x % WARP;
    for (int part = 0; part < 4; part++) {
        for (int i = 0; i < 4; i++) {
            int row = first + lane / 4 + i % 2 * 8, column = part * 16 + lane % 4 * 2 + i / 2 * 8;
            q[part][i] = row < n ? *(const unsigned *)(from + (size_t)row * (size_t)stride + column) : 0u;
        }
    }
}

static __global__ void __launch_bounds__(WARPS *WARP) attention_kernel(struct mat qkv, struct mat out)
{
    SHARED(__half, keys, 2 * TILE);
    SHARED(__half, values, 2 * TILE);
    int n = qkv.rows / (int)gridDim.z, n_state = out.cols, column = (int)blockIdx.y * HEAD;
    int query = (int)blockIdx.x * QUERIES + (int)threadIdx.x / WARP * 16, lane = (int)threadIdx.x % WARP;
    size_t window = (size_t)blockIdx.z * (size_t)n; /* its first row */
    const __half *q = (const __half *)qkv.data + window * (size_t)qkv.stride + column;
    const __half *k = q + n_state, *v = k + n_state;
    unsigned fragments[4][4];
    struct running r = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {}};
    load_tile(keys, values, k, v, qkv.stride, 0, n);
    load_queries(fragments, q, qkv.stride, query, n);
    for (int first = 0, tile = 0; first < n; first += KEYS, tile ^= 1) {
        float s[8][4];
        if (first + KEYS < n) {
            load_tile(keys + (tile ^ 1) * TILE, values + (tile ^ 1) * TILE, k, v, qkv.stride, first + KEYS,
                      n);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads(); /* everybody's part of the tile is there */
        score(s, fragments, keys + tile * TILE, first, n);
        renew(&r, s);
        weigh(&r, s, values + tile * TILE);
        __syncthreads(); /* nobody reads it any more */
    }
    for (int half = 0; half < 2; half++) {
        float sum = r.sum[half];
        sum += __shfl_xor_sync(LANES, sum, 1);
        sum += __shfl_xor_sync(LANES, sum, 2);
        int row = query + lane / 4 + half * 8;
        __half *to = (__half *)out.data + (window + (size_t)row) * (size_t)out.stride + column + lane % 4 * 2;
        for (int block = 0; block < 8 && row < n; block++)
            *(unsigned *)(to + block * 8) =
                pack(r.out[block][2 * half] / sum, r.out[block][2 * half + 1] / sum);
    }
}

int cuda_attention(struct cuda_engine *c, const struct attention_args *a)
{
    int n_state = a->n_head * HEAD;
    if (!is_half(a->qkv) || !is_half(a->out) || a->out.rows != a->qkv.rows || a->qkv.rows <= 0 ||
        a->n_head <= 0 || a->qkv.cols != 3 * n_state || a->out.cols != n_state || a->n_windows < 1 ||
        a->qkv.rows % a->n_windows)
        return cuda_fail(c, -EINVAL, "attention: types or shapes do not fit");
    if (a->qkv.stride % 8 || (uintptr_t)a->qkv.data % 16 || a->out.stride % 2 || (uintptr_t)a->out.data % 4)
        return cuda_fail(c, -EINVAL, "attention: rows are not aligned to 16 bytes");
    int n = a->qkv.rows / a->n_windows;
    dim3 blocks((unsigned)((n + QUERIES - 1) / QUERIES), (unsigned)a->n_head, (unsigned)a->n_windows);
    LAUNCH(attention_kernel, blocks, WARPS * WARP, 0, c->stream, a->qkv, a->out);
    return cuda_check(c, cudaGetLastError(), "attention");
}
