/* What a step does with rows: products with a weight, embedding, the next token of a slot. Inside gpu/cuda/ only: rows.cu has a
 * kernel for each, step.cu one for all.
 *
 * A row's sum has the same order whatever is computed beside it and in whichever kernel, so a draft verified at once gives
 * the bits that its tokens give one by one; where something is added to it, none matters (fixed.cuh). A lane has eight
 * weights of an output at a time, for up to eight rows. */
#ifndef CAPTIOND_GPU_CUDA_ROWS_CUH
#define CAPTIOND_GPU_CUDA_ROWS_CUH

#include "gpu/cuda/cuda.cuh"
#include "gpu/cuda/fixed.cuh"

#define ROWS_MAX    8
#define SUMS_A_WARP 8 /* rows times outputs, where there are outputs enough */

struct linear_rows_params {
    struct rows rows;
    struct mat in, add, out;
    const float *gamma, *beta, *bias;
    bool gelu;
    struct engine_weight weight;
};

/* rows_mma.cu: n > 0 rows, arguments that have been checked. */
int cuda_linear_rows_mma(struct cuda_engine *, const struct linear_rows_params *);

/* Eight neighbouring weights of an output, as they lie in memory: half floats, or bytes and their unit. What reads a weight
 * does it by these three, rows_mma.cu's halves excepted. */
typedef uint4 packed_weights;

static __device__ __forceinline__ const float *unit_of(const struct engine_weight *w, int out, int i)
{
    return w->units + (size_t)out * (size_t)weight_units(w) + i * 8 / UNIT_INPUTS;
}

template <bool bytes>
static __device__ __forceinline__ packed_weights load_weights(const struct engine_weight *w, int out, int i)
{
    const size_t at = (size_t)out * (size_t)w->stride + (size_t)i * 8;
    if constexpr (bytes) {
        const uint2 eight = *(const uint2 *)(w->bytes + at);
        return make_uint4(eight.x, eight.y, (unsigned)__float_as_int(*unit_of(w, out, i)), 0);
    } else {
        return *(const uint4 *)(w->data + at);
    }
}

/* To shared memory; there when the thread has waited. */
template <bool bytes>
static __device__ __forceinline__ void bring_weights(packed_weights *to, const struct engine_weight *w,
                                                     int out, int i)
{
    const size_t at = (size_t)out * (size_t)w->stride + (size_t)i * 8;
    if constexpr (bytes) {
        cp_async_few<8>(to, w->bytes + at);
        cp_async_few<4>(&to->z, unit_of(w, out, i));
    } else {
        cp_async_16(to, w->data + at, sizeof(*to));
    }
}

/* A byte in the last place of 2²³ makes a single float that is larger by it. */
template <bool bytes> static __device__ __forceinline__ void split_weights(packed_weights eight, float to[8])
{
    if constexpr (bytes) {
        const float unit = __int_as_float((int)eight.z);
        for (int i = 0; i < 8; i++) {
            const unsigned four = i < 4 ? eight.x : eight.y,
                           bits = __byte_perm(four, 0x4b000000u, 0x7540u + i % 4);
            to[i] = (__int_as_float((int)bits) - (8388608.0f + 128.0f)) * unit;
        }
    } else {
        split_eight(eight, to);
    }
}

/* Where value i of a row lies in shared memory: eight neighbours are two times four, half a row apart, so that lanes that
 * read their eight read neighbouring groups of four. */
static __device__ __forceinline__ int place(int i, int stride)
{
    const unsigned n = (unsigned)i, half = (unsigned)stride / 2;
    return (int)(n % 8 / 4 * half + n / 8 * 4 + n % 4);
}

/* A block: rows first … first + n − 1 to shared memory, zeros behind their ends and in the place of idle ones. Ends with a
 * barrier. */
static __device__ __forceinline__ void take_rows(const struct linear_rows_params *p, int first, int n,
                                                 unsigned active, float *to)
{
    int stride = p->weight.stride;
    for (int r = 0; r < n; r++) {
        const float *x = (const float *)p->in.data + (size_t)(first + r) * (size_t)p->in.stride;
        ROLLED
        for (int i = (int)threadIdx.x; i < stride; i += (int)blockDim.x)
            to[r * stride + place(i, stride)] = (active >> r & 1) && i < p->weight.n_in ? x[i] : 0.0f;
    }
    __syncthreads();
}

static __device__ __forceinline__ float sum_of_four(float4 x)
{
    return (x.x + x.y) + (x.z + x.w);
}

/* (x − mean)², 0 behind the end of a row: `left` values are in it. */
static __device__ __forceinline__ float4 squares_of(float4 x, float mean, int left)
{
    const float4 y = {x.x - mean, x.y - mean, x.z - mean, x.w - mean};
    return {left > 0 ? y.x * y.x : 0.0f, left > 1 ? y.y * y.y : 0.0f, left > 2 ? y.z * y.z : 0.0f,
            left > 3 ? y.w * y.w : 0.0f};
}

static __device__ __forceinline__ float4 four_at(const float *row, int i, int end)
{
    return i < end ? *(const float4 *)(row + i) : float4{};
}

/* Means and 1 / √(variance + 1e-5) of n_rows rows in shared memory of n values, `pitch` apart, with zeros up to `whole`; a warp.
 * The order of the sums is that in which the values lie: as they are, or as `place` says. */
template <int n_rows, bool placed>
static __device__ __forceinline__ void measure(const float *rows, int pitch, int n, int whole,
                                               float mean[n_rows], float scale[n_rows])
{
    const int first = (int)threadIdx.x % WARP * 4, half = whole / 2, at_once = n_rows < 4 ? 4 / n_rows : 1;
    const float part = 1.0f / (float)n;
    float sums[n_rows] = {}, squares[n_rows] = {};
    ROLLED
    for (int i = first; i < whole; i += at_once * WARP * 4) {
        float4 x[at_once][n_rows];
        UNROLL
        for (int k = 0; k < at_once; k++) {
            UNROLL
            for (int r = 0; r < n_rows; r++)
                x[k][r] = four_at(rows + r * pitch, i + k * WARP * 4, whole);
        }
        UNROLL
        for (int k = 0; k < at_once * n_rows; k++)
            sums[k % n_rows] += sum_of_four(x[k / n_rows][k % n_rows]);
    }
    UNROLL
    for (int r = 0; r < n_rows; r++)
        mean[r] = warp_sum(sums[r]) * part;
    ROLLED
    for (int i = first; i < whole; i += at_once * WARP * 4) {
        UNROLL
        for (int k = 0; k < at_once * n_rows; k++) {
            int r = k % n_rows, at = i + k / n_rows * WARP * 4,
                left = at < whole ? n - (!placed     ? at
                                         : at < half ? 2 * at
                                                     : 2 * (at - half) + 4)
                                  : 0;
            squares[r] += sum_of_four(squares_of(four_at(rows + r * pitch, at, whole), mean[r], left));
        }
    }
    UNROLL
    for (int r = 0; r < n_rows; r++)
        scale[r] = rsqrtf(warp_sum(squares[r]) * part + 1e-5f);
}

/* A block of n_threads: layer norm of rows in shared memory, which lie as `place` says. A warp measures a row. Ends with a
 * barrier. */
template <int n_rows, int n_threads>
static __device__ __forceinline__ void norm_rows(unsigned active, const float *gamma, const float *beta,
                                                 int n, int stride, float *rows)
{
    SHARED(float, means, n_rows);
    SHARED(float, scales, n_rows);
    ROLLED
    for (int r = (int)threadIdx.x / WARP; r < n_rows; r += n_threads / WARP) {
        float mean[1], scale[1];
        measure<1, true>(rows + r * stride, 0, n, stride, mean, scale);
        if (threadIdx.x % WARP == 0) {
            means[r] = mean[0];
            scales[r] = scale[0];
        }
    }
    __syncthreads(); /* all rows are measured */
    ROLLED
    for (int i = (int)threadIdx.x; i < n; i += n_threads) {
        const float g = gamma[i], b = beta[i];
        float *mine = rows + place(i, stride);
        UNROLL
        for (int r = 0; r < n_rows; r++) {
            if (active >> r & 1)
                mine[r * stride] = (mine[r * stride] - means[r]) * scales[r] * g + b;
        }
    }
    __syncthreads();
}

/* Sums over a warp of n values a lane, n a power of two: lane l has that of value l / (32 / n). While several are left, lanes
 * exchange halves of them, so there are n + 4 − log2 n shuffles and not 5 n; every value's tree is that of warp_sum.
 * last_bit 2: over lanes that are even, or odd; and so on. Where that ends it early, a lane has several values in v. */
template <int n, class T> static __device__ __forceinline__ T warp_sums(T *v, int last_bit = 1)
{
    int lane = (int)threadIdx.x % WARP, bit = WARP / 2;
    for (int left = n / 2; left > 0 && bit >= last_bit; left /= 2, bit /= 2) {
        bool high = lane & bit;
        for (int i = 0; i < left; i++) {
            T give = high ? v[i] : v[i + left], keep = high ? v[i + left] : v[i];
            v[i] = keep + __shfl_xor_sync(LANES, give, bit);
        }
    }
    for (; bit >= last_bit; bit /= 2)
        v[0] += __shfl_xor_sync(LANES, v[0], bit);
    return v[0];
}

/* sums [n_outs][n_rows] += the products of eight weights of each output with values 8 i … of the rows. */
template <int n_rows, int n_outs>
static __device__ __forceinline__ void multiply_eight(const float w[n_outs][8], const float *x, int stride,
                                                      int i, float *sums)
{
    for (int r = 0; r < n_rows; r++) {
        const float4 low = *(const float4 *)(x + r * stride + i * 4);
        const float4 high = *(const float4 *)(x + r * stride + stride / 2 + i * 4);
        for (int o = 0; o < n_outs; o++) {
            float sum = sums[o * n_rows + r];
            sum = fmaf(w[o][0], low.x, sum);
            sum = fmaf(w[o][1], low.y, sum);
            sum = fmaf(w[o][2], low.z, sum);
            sum = fmaf(w[o][3], low.w, sum);
            sum = fmaf(w[o][4], high.x, sum);
            sum = fmaf(w[o][5], high.y, sum);
            sum = fmaf(w[o][6], high.z, sum);
            sums[o * n_rows + r] = fmaf(w[o][7], high.w, sum);
        }
    }
}

/* A lane's part of the sums [n_outs][n_rows] += neighbouring outputs, from eight times `first` values on. */
template <int n_rows, int n_outs, bool bytes>
static __device__ __forceinline__ void multiply_from(const struct engine_weight *weight, int out,
                                                     const float *x, int first, float *sums)
{
    int stride = weight->stride;
    ROLLED
    for (int i = first + (int)threadIdx.x % WARP; i < stride / 8; i += WARP) {
        float w[n_outs][8];
        for (int o = 0; o < n_outs; o++)
            split_weights<bytes>(load_weights<bytes>(weight, out + o, i), w[o]);
        multiply_eight<n_rows, n_outs>(w, x, stride, i, sums);
    }
}

/* The same of all values. */
template <int n_rows, int n_outs, bool bytes>
static __device__ __forceinline__ void multiply(const struct engine_weight *weight, int out, const float *x,
                                                float *sums)
{
    for (int i = 0; i < n_outs * n_rows; i++)
        sums[i] = 0.0f;
    multiply_from<n_rows, n_outs, bytes>(weight, out, x, 0, sums);
}

/* --- products in fixed point ------------------------------------------------------------------------------------------- */

/* Two neighbouring lanes have the two halves of a chunk of each of n sums. The even one adds the first half of the chunks to
 * its sums [(n + 1) / 2], the odd one the others. */
template <int n> static __device__ __forceinline__ void add_chunks(const float *halves, long long *sums)
{
    bool odd = threadIdx.x & 1;
    if (n == 1)
        sums[0] += to_fixed(halves[0] + __shfl_xor_sync(LANES, halves[0], 1));
    for (int i = 0; i < n / 2; i++) {
        float give = odd ? halves[i] : halves[i + n / 2], keep = odd ? halves[i + n / 2] : halves[i];
        sums[i] += to_fixed(keep + __shfl_xor_sync(LANES, give, 1));
    }
}

/* Over a warp: lane l has the sum of value l / (32 / n). */
template <int n> static __device__ __forceinline__ float fixed_sums(long long *sums)
{
    const int m = (n + 1) / 2; /* of even lanes, and of odd ones */
    int mine = (int)threadIdx.x % WARP / (WARP / n);
    long long sum = warp_sums<m>(sums, 2);
    return from_fixed(__shfl_sync(LANES, sum, mine % m * (WARP / m) + mine / m));
}

/* All lanes of a warp; those behind the end of the row have nothing to multiply. */
template <int n_rows, int n_outs, bool bytes>
static __device__ __forceinline__ void multiply_chunks(const packed_weights *weights, const float *x,
                                                       int stride, int i, long long *sums)
{
    float halves[n_rows * n_outs] = {}, w[n_outs][8];
    if (i < stride / 8) {
        for (int o = 0; o < n_outs; o++)
            split_weights<bytes>(weights[o], w[o]);
        multiply_eight<n_rows, n_outs>(w, x, stride, i, halves);
    }
    add_chunks<n_rows * n_outs>(halves, sums);
}

/* From eight times `first` values on, a multiple of 32, as multiply_from. */
template <int n_rows, int n_outs, bool bytes>
static __device__ __forceinline__ void multiply_fixed_from(const struct engine_weight *weight, int out,
                                                           const float *x, int first, long long *sums)
{
    ROLLED
    for (; first < weight->stride / 8; first += WARP) {
        int i = first + (int)threadIdx.x % WARP;
        packed_weights w[n_outs] = {};
        for (int o = 0; o < n_outs && i < weight->stride / 8; o++)
            w[o] = load_weights<bytes>(weight, out + o, i);
        multiply_chunks<n_rows, n_outs, bytes>(w, x, weight->stride, i, sums);
    }
}

/* The first output of a group of n_outs. The last groups are moved back to end with the weight; what another group has is
 * computed again and dropped. */
static __device__ __forceinline__ int first_of_group(const struct engine_weight *w, int group, int n_outs)
{
    return group * n_outs <= w->n_out - n_outs ? group * n_outs : w->n_out - n_outs;
}

static __device__ __forceinline__ float added_to(const struct linear_rows_params *p, int row, int out)
{
    return p->add.data ? ((const float *)p->add.data)[(size_t)row * (size_t)p->add.stride + (size_t)out]
                       : 0.0f;
}

static __device__ __forceinline__ void finish(const struct linear_rows_params *p, int row, int out, float x,
                                              float bias, float add)
{
    if (p->bias)
        x += bias;
    if (p->gelu)
        x = gelu(x);
    if (p->add.data)
        x += add;
    ((float *)p->out.data)[(size_t)row * (size_t)p->out.stride + (size_t)out] = x;
}

/* The sums of a group, as warp_sums leaves them, go where they belong. */
template <int n_rows, int n_outs>
static __device__ __forceinline__ void finish_group(const struct linear_rows_params *p, int first,
                                                    unsigned active, int group, int out, float sum)
{
    const int lanes_a_sum = WARP / (n_rows * n_outs);
    int lane = (int)threadIdx.x % WARP, mine = lane / lanes_a_sum;
    bool writes = lane % lanes_a_sum == 0 && (active >> mine % n_rows & 1);
    int row = first + mine % n_rows, mine_out = out + mine / n_rows;
    if (writes && mine_out >= group * n_outs)
        finish(p, row, mine_out, sum, p->bias ? p->bias[mine_out] : 0.0f, added_to(p, row, mine_out));
}

/* All threads of a block. */
static __device__ __forceinline__ void embed_row(const struct rows *rows, int r,
                                                 const struct engine_weight *tokens, const float *positions,
                                                 struct mat out)
{
    int token = rows->token[r], pos = rows->pos[r];
    if (pos < 0 || token < 0 || token >= tokens->n_out)
        return;
    const float *position = positions + (size_t)pos * (size_t)tokens->n_in;
    float *to = (float *)out.data + (size_t)r * (size_t)out.stride;
    ROLLED
    for (int i = (int)threadIdx.x; i < tokens->stride / 8; i += (int)blockDim.x) {
        float embedding[8];
        if (tokens->bytes)
            split_weights<true>(load_weights<true>(tokens, token, i), embedding);
        else
            split_weights<false>(load_weights<false>(tokens, token, i), embedding);
        for (int k = 0; k < 8 && i * 8 + k < tokens->n_in; k++)
            to[i * 8 + k] = embedding[k] + position[i * 8 + k];
    }
}

/* One thread: the newest token of the row's slot. */
static __device__ __forceinline__ void row_from_slot(const struct rows *rows, int r,
                                                     const struct slot_state *slots)
{
    const struct slot_state *s = &slots[rows->slot[r]];
    bool active = s->done == SLOT_ACTIVE && s->n_tokens > 0;
    rows->pos[r] = active ? s->n_tokens - 1 : -1;
    rows->token[r] = active ? s->tokens[s->n_tokens - 1] : 0;
}

#endif
