/* out = softmax(Q Kᵀ / 8) V for every head of every window, without storing the scores (after FlashAttention-2).
 *
 * A block has the queries of one head of one window that its four warps take, N times 16 each, and walks over the keys in tiles
 * of 64: products on the tensor cores in half floats with single sums, a running maximum and sum for each query, and the next
 * tile on its way while one is used. A query's bits do not depend on N. Bytes: each head's K and V are read once a block, from
 * the second-level cache but for the first time. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>

#define KEYS  64
#define WARPS 4
#define PITCH (HEAD + 8) /* of a row in shared memory: eight rows, 144 bytes apart, are in different banks */
#define TILE  (KEYS * PITCH)

/* Keys and, n_state behind each, values of a tile; rows past the last key are zeros, since 0 · NaN is not 0. */
static __device__ __forceinline__ void load_tile(__half *keys, __half *values, const __half *k, int n_state,
                                                 int stride, int first, int n)
{
    constexpr int AT_ONCE = WARPS * WARP / (HEAD / 8); /* rows */
    int thread = afresh((int)threadIdx.x), row = thread / (HEAD / 8), column = thread % (HEAD / 8) * 8;
    UNROLL
    for (int i = 0; i < KEYS; i += AT_ONCE) {
        int key = first + row + i, to = (row + i) * PITCH + column;
        const __half *from = k + (size_t)(key < n ? key : 0) * (size_t)stride + column;
        cp_async_16(keys + to, from, key < n ? 16 : 0);
        cp_async_16(values + to, from + n_state, key < n ? 16 : 0);
    }
    cp_async_commit();
}

/* s [N of 16 queries][64 keys] of a warp. Four blocks of keys at a time: a product does not wait for the one before it. */
template <int N>
static __device__ __forceinline__ void score(float s[N][8][4], const unsigned q[N][4][4], const __half *keys)
{
    int lane = (int)threadIdx.x % WARP;
    UNROLL
    for (int i = 0; i < N * 8 * 4; i++)
        s[i / 32][i / 4 % 8][i % 4] = 0.0f;
    UNROLL
    for (int step = 0; step < 4; step++) {
        int first = step % 2 * 4, part = step / 2 * 2; /* of blocks, and of the head */
        unsigned b[4][4];
        UNROLL
        for (int i = 0; i < 4; i++)
            ldmatrix_4(b[i], keys + ((first + i) * 8 + lane % 8) * PITCH + part * 16 + lane / 8 * 8);
        UNROLL
        for (int i = 0; i < 2 * 4 * N; i++) {
            int half = i / (4 * N), block = i / N % 4;
            mma_16816(s[i % N][first + block], q[i % N][part + half], b[block] + 2 * half);
        }
    }
}

/* −∞ for what is past the last key, of which a tile has n. */
static __device__ __forceinline__ void mask(float s[8][4], int n)
{
    int lane = (int)threadIdx.x % WARP;
    UNROLL
    for (int i = 0; i < 8 * 4; i++) {
        if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= n)
            s[i / 4][i % 4] = -INFINITY;
    }
}

/* Running state of a lane's two queries, rows lane / 4 and lane / 4 + 8 of sixteen. */
struct running {
    float greatest[2], sum[2]; /* the greatest as an exponent of 2 */
    float out[8][4];           /* [16 queries, 64 values] of the warp */
};

/* Turns scores into weights e^(s − greatest) and fits what is there to the new maximum. */
static __device__ __forceinline__ void renew(struct running *r, float s[8][4])
{
    const float scale = 0.125f * 1.44269504088896340736f; /* 1/√64 · log2 e */
    UNROLL
    for (int half = 0; half < 2; half++) {
        float top = s[0][2 * half];
        for (int block = 0; block < 8; block++)
            top = fmaxf(top, fmaxf(s[block][2 * half], s[block][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(LANES, top, 1)); /* the four lanes of a row */
        top = fmaxf(top, __shfl_xor_sync(LANES, top, 2));
        top = fmaxf(r->greatest[half], top * scale);
        float shrink = exp2_near(r->greatest[half] - top); /* of nothing at first: e^−∞ = 0 */
        r->greatest[half] = top;
        r->sum[half] *= shrink;
        for (int block = 0; block < 8; block++) {
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                r->out[block][i] *= shrink;
                s[block][i] = exp2_near(fmaf(s[block][i], scale, -top));
                r->sum[half] += s[block][i];
            }
        }
    }
}

static __device__ __forceinline__ unsigned pack(float low, float high)
{
    return pack_halves(__float2half_rn(low), __float2half_rn(high));
}

/* out += weights · V. The weights' fragments of a product's result are those of the next one's operand. */
template <int N>
static __device__ __forceinline__ void weigh(struct running r[N], const float s[N][8][4],
                                             const __half *values)
{
    int lane = (int)threadIdx.x % WARP;
    UNROLL
    for (int part = 0; part < 4; part++) { /* 16 keys */
        unsigned p[N][4];
        UNROLL
        for (int i = 0; i < N * 4; i++) {
            const float *from = s[i / 4][2 * part + i % 4 / 2] + i % 2 * 2;
            p[i / 4][i % 4] = pack(from[0], from[1]);
        }
        UNROLL
        for (int block = 0; block < 8; block += 2) {
            unsigned b[4];
            ldmatrix_4_transposed(b, values + (part * 16 + lane % 16) * PITCH + block * 8 + lane / 16 * 8);
            UNROLL
            for (int i = 0; i < N; i++) {
                mma_16816(r[i].out[block], p[i], b);
                mma_16816(r[i].out[block + 1], p[i], b + 2);
            }
        }
    }
}

static __device__ __forceinline__ void load_queries(unsigned q[4][4], const __half *from, int stride,
                                                    int first, int n)
{
    int lane = (int)threadIdx.x % WARP;
    UNROLL
    for (int i = 0; i < 16; i++) {
        int row = first + lane / 4 + i % 2 * 8, column = i / 4 * 16 + lane % 4 * 2 + i % 4 / 2 * 8;
        q[i / 4][i % 4] = row < n ? *(const unsigned *)(from + (size_t)row * (size_t)stride + column) : 0u;
    }
}

template <int N>
static __global__ void __launch_bounds__(WARPS *WARP, 2) attention_kernel(struct mat qkv, struct mat out)
{
    SHARED(__half, keys, 2 * TILE);
    SHARED(__half, values, 2 * TILE);
    int n = qkv.rows / (int)gridDim.z, n_state = out.cols, column = (int)blockIdx.y * HEAD;
    int query = ((int)blockIdx.x * WARPS + (int)threadIdx.x / WARP) * N * 16, lane = (int)threadIdx.x % WARP;
    size_t window = (size_t)blockIdx.z * (size_t)n; /* its first row */
    const __half *q = (const __half *)qkv.data + window * (size_t)qkv.stride + column;
    const __half *k = q + n_state;
    unsigned fragments[N][4][4];
    struct running r[N];
    load_tile(keys, values, k, n_state, qkv.stride, 0, n);
    UNROLL
    for (int i = 0; i < N; i++) {
        load_queries(fragments[i], q, qkv.stride, query + i * 16, n);
        r[i] = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {}};
    }
    for (int first = 0, tile = 0; first < n; first += KEYS, tile ^= TILE) {
        float s[N][8][4];
        cp_async_wait<0>();
        __syncthreads(); /* everybody's part of the tile is there, and nobody reads the one before */
        if (first + KEYS < n)
            load_tile(keys + (tile ^ TILE), values + (tile ^ TILE), k, n_state, qkv.stride, first + KEYS, n);
        score<N>(s, fragments, keys + tile);
        UNROLL
        for (int i = 0; i < N; i++) {
            if (first + KEYS > n)
                mask(s[i], n - first);
            renew(&r[i], s[i]);
        }
        weigh<N>(r, s, values + tile);
    }
    UNROLL
    for (int i = 0; i < 2 * N; i++) {
        int half = i % 2, row = query + lane / 4 + i * 8;
        struct running *mine = &r[i / 2];
        float sum = mine->sum[half];
        sum += __shfl_xor_sync(LANES, sum, 1);
        sum += __shfl_xor_sync(LANES, sum, 2);
        const float whole = 1.0f / sum;
        __half *to = (__half *)out.data + (window + (size_t)row) * (size_t)out.stride + column + lane % 4 * 2;
        for (int block = 0; block < 8 && row < n; block++)
            *(unsigned *)(to + block * 8) =
                pack(mine->out[block][2 * half] * whole, mine->out[block][2 * half + 1] * whole);
    }
}

template <int N> static cudaError_t launch(struct cuda_engine *c, const struct attention_args *a)
{
    int n = a->qkv.rows / a->n_windows, queries = WARPS * N * 16;
    dim3 blocks((unsigned)((n + queries - 1) / queries), (unsigned)a->n_head, (unsigned)a->n_windows);
    LAUNCH(attention_kernel<N>, blocks, WARPS * WARP, 0, c->stream, a->qkv, a->out);
    return cudaGetLastError();
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
    /* Twice the queries a warp read keys and values half as often, but there have to be two blocks for each multiprocessor. */
    int large = (a->qkv.rows / a->n_windows + 127) / 128 * a->n_head * a->n_windows;
    cudaError_t e = large >= 2 * c->n_multiprocessors ? launch<2>(c, a) : launch<1>(c, a);
    return cuda_check(c, e, "attention");
}
