/* Linear layers of the text decoder on a few rows, embedding, and the rows of a step.
 *
 * linear_rows is bound by reading the weight. A block keeps up to eight rows of its input, normalised, in shared memory;
 * a warp takes some outputs after the other, 16 bytes of weights of each a lane at a time, for all of these rows. More rows than
 * eight read the weight again, from the second-level cache. A row's sum has the same order whatever is computed beside
 * it, so a draft verified at once gives the bits that its tokens give one by one. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>

#define WARPS        4
#define ROWS_MAX     8
#define SHARED_BYTES (48 << 10)
#define BLOCKS_A_SM  8
#define SUMS_A_WARP  8 /* rows times outputs, as far as there are outputs */

struct linear_rows_params {
    struct rows rows;
    struct mat in, add, out;
    const float *gamma, *beta, *bias;
    bool gelu;
    struct engine_weight weight;
};

/* Where value i of a row lies in shared memory: eight neighbours are two times four, half a row apart, so that lanes that
 * read their eight read neighbouring groups of four. */
static __device__ __forceinline__ int place(int i, int stride)
{
    return i % 8 / 4 * (stride / 2) + i / 8 * 4 + i % 4;
}

/* A warp: one row to shared memory, zeros behind its end. */
static __device__ __forceinline__ void take_row(const struct linear_rows_params *p, const float *x, float *to)
{
    int lane = (int)threadIdx.x % WARP, n = p->weight.n_in, stride = p->weight.stride;
    float mean = 0.0f, scale = 1.0f;
    if (p->gamma) {
        float sum = 0.0f, squares = 0.0f;
        for (int i = lane; i < n; i += WARP)
            sum += x[i];
        mean = warp_sum(sum) / (float)n;
        for (int i = lane; i < n; i += WARP)
            squares += (x[i] - mean) * (x[i] - mean);
        scale = rsqrtf(warp_sum(squares) / (float)n + 1e-5f);
    }
    for (int i = lane; i < stride; i += WARP) {
        float value = i < n ? x[i] : 0.0f;
        if (p->gamma && i < n)
            value = (value - mean) * scale * p->gamma[i] + p->beta[i];
        to[place(i, stride)] = value;
    }
}

/* Sums over a warp of n values a lane, n a power of two: lane l has that of value l / (32 / n). While several are left, lanes
 * exchange halves of them, so there are n + 4 − log2 n shuffles and not 5 n; every value's tree is that of warp_sum. */
template <int n> static __device__ __forceinline__ float warp_sums(float v[n])
{
    int lane = (int)threadIdx.x % WARP, bit = WARP / 2;
    for (int left = n / 2; left > 0; left /= 2, bit /= 2) {
        bool high = lane & bit;
        for (int i = 0; i < left; i++) {
            float give = high ? v[i] : v[i + left], keep = high ? v[i + left] : v[i];
            v[i] = keep + __shfl_xor_sync(LANES, give, bit);
        }
    }
    for (; bit > 0; bit /= 2)
        v[0] += __shfl_xor_sync(LANES, v[0], bit);
    return v[0];
}

/* A lane's part of the sums [n_outs][n_rows] of neighbouring outputs. */
template <int n_rows, int n_outs>
static __device__ __forceinline__ void multiply(const __half *weight, int stride, const float *x, float *sums)
{
    for (int i = 0; i < n_outs * n_rows; i++)
        sums[i] = 0.0f;
    for (int i = (int)threadIdx.x % WARP; i < stride / 8; i += WARP) {
        float w[n_outs][8];
        for (int o = 0; o < n_outs; o++)
            load_eight(weight + (size_t)o * (size_t)stride + i * 8, w[o]);
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
}

static __device__ __forceinline__ void finish(const struct linear_rows_params *p, int row, int out, float x)
{
    if (p->bias)
        x += p->bias[out];
    if (p->gelu)
        x = gelu(x);
    if (p->add.data)
        x += ((const float *)p->add.data)[(size_t)row * (size_t)p->add.stride + (size_t)out];
    ((float *)p->out.data)[(size_t)row * (size_t)p->out.stride + (size_t)out] = x;
}

/* grid: outputs, groups of n_rows rows. Shared: [n_rows, stride] f32. A warp has n_outs neighbouring outputs at a time: that
 * many loads are under way at once. */
template <int n_rows, int n_outs>
static __global__ void __launch_bounds__(WARPS *WARP) linear_rows_kernel(struct linear_rows_params p)
{
    DYNAMIC_SHARED(float, x);
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, stride = p.weight.stride;
    int first = (int)blockIdx.y * n_rows;
    unsigned active = 0; /* the same in all threads */
    for (int r = 0; r < n_rows; r++)
        active |= (unsigned)(first + r < p.rows.n && p.rows.pos[first + r] >= 0) << r;
    if (!active)
        return;
    for (int r = warp; r < n_rows; r += WARPS) {
        if (active >> r & 1)
            take_row(&p, (const float *)p.in.data + (size_t)(first + r) * (size_t)p.in.stride,
                     x + r * stride);
        else
            for (int i = lane; i < stride; i += WARP)
                x[r * stride + i] = 0.0f;
    }
    __syncthreads();
    const int sums_a_warp = n_rows * n_outs, lanes_a_sum = WARP / sums_a_warp;
    int mine = lane / lanes_a_sum, row = first + mine % n_rows;
    bool writes = lane % lanes_a_sum == 0 && (active >> mine % n_rows & 1);
    for (int group = (int)blockIdx.x * WARPS + warp; group * n_outs < p.weight.n_out;
         group += (int)gridDim.x * WARPS) {
        float sums[sums_a_warp];
        /* The last ones are moved back to end with the weight; what another group has is computed again and dropped. */
        int out = group * n_outs <= p.weight.n_out - n_outs ? group * n_outs : p.weight.n_out - n_outs;
        multiply<n_rows, n_outs>(p.weight.data + (size_t)out * (size_t)stride, stride, x, sums);
        float sum = warp_sums<sums_a_warp>(sums);
        if (writes && out + mine / n_rows >= group * n_outs)
            finish(&p, row, out + mine / n_rows, sum);
    }
}

template <int n_rows, int n_outs>
static void launch(struct cuda_engine *c, const struct linear_rows_params *p)
{
    int outs = n_outs * WARPS, blocks = (p->weight.n_out + outs - 1) / outs,
        most = BLOCKS_A_SM * c->n_multiprocessors;
    dim3 grid((unsigned)(blocks < most ? blocks : most), (unsigned)((p->rows.n + n_rows - 1) / n_rows));
    size_t shared = (size_t)n_rows * (size_t)p->weight.stride * sizeof(float);
    LAUNCH((linear_rows_kernel<n_rows, n_outs>), grid, WARPS * WARP, shared, c->stream, *p);
}

/* Several outputs a warp only where there are enough of them to keep every multiprocessor busy. */
template <int n_rows> static void launch_rows(struct cuda_engine *c, const struct linear_rows_params *p)
{
    const int n_outs = SUMS_A_WARP / n_rows;
    if (p->weight.n_out >= n_outs * WARPS * c->n_multiprocessors)
        launch<n_rows, n_outs>(c, p);
    else
        launch<n_rows, 1>(c, p);
}

int cuda_linear_rows(struct cuda_engine *c, const struct linear_rows_args *a)
{
    const struct engine_weight *w = a->weight;
    int room = SHARED_BYTES / (int)sizeof(float) / w->stride, n = a->rows.n;
    if (a->in.type != DTYPE_F32 || a->out.type != DTYPE_F32 || a->in.cols != w->n_in ||
        a->out.cols != w->n_out || (a->add.data && (a->add.type != DTYPE_F32 || a->add.cols != w->n_out)) ||
        room < 1)
        return cuda_fail(c, -EINVAL, "linear_rows: types or shapes do not fit");
    if (n <= 0)
        return 0;
    const struct linear_rows_params p = {a->rows, a->in,   a->add,  a->out, a->gamma,
                                         a->beta, a->bias, a->gelu, *w};
    if (n > 4 && room >= 8)
        launch_rows<8>(c, &p);
    else if (n > 2 && room >= 4)
        launch_rows<4>(c, &p);
    else if (n > 1 && room >= 2)
        launch_rows<2>(c, &p);
    else
        launch_rows<1>(c, &p);
    return cuda_check(c, cudaGetLastError(), "linear_rows");
}

/* --- rows ------------------------------------------------------------------------------------------------------------ */

#define EMBED_THREADS 128

static __global__ void __launch_bounds__(EMBED_THREADS)
    embed_kernel(struct rows rows, struct engine_weight tokens, const float *positions, struct mat out)
{
    int r = (int)blockIdx.x, token = rows.token[r], pos = rows.pos[r];
    if (pos < 0 || token < 0 || token >= tokens.n_out)
        return;
    const __half *embedding = tokens.data + (size_t)token * (size_t)tokens.stride;
    for (int i = (int)threadIdx.x; i < tokens.n_in; i += EMBED_THREADS)
        ((float *)out.data)[(size_t)r * (size_t)out.stride + (size_t)i] =
            __half2float(embedding[i]) + positions[(size_t)pos * (size_t)tokens.n_in + (size_t)i];
}

int cuda_embed(struct cuda_engine *c, const struct embed_args *a)
{
    if (a->out.type != DTYPE_F32 || a->out.cols != a->tokens->n_in)
        return cuda_fail(c, -EINVAL, "embed: types or shapes do not fit");
    if (a->rows.n <= 0)
        return 0;
    LAUNCH(embed_kernel, a->rows.n, EMBED_THREADS, 0, c->stream, a->rows, *a->tokens, a->positions, a->out);
    return cuda_check(c, cudaGetLastError(), "embed");
}

#define STEP_THREADS 64

static __global__ void __launch_bounds__(STEP_THREADS)
    rows_from_slots_kernel(struct rows rows, const struct slot_state *slots)
{
    int r = (int)blockIdx.x * STEP_THREADS + (int)threadIdx.x;
    if (r >= rows.n)
        return;
    const struct slot_state *s = &slots[rows.slot[r]];
    bool active = s->done == SLOT_ACTIVE && s->n_tokens > 0;
    rows.pos[r] = active ? s->n_tokens - 1 : -1;
    rows.token[r] = active ? s->tokens[s->n_tokens - 1] : 0;
}

int cuda_rows_from_slots(struct cuda_engine *c, const struct rows_from_slots_args *a)
{
    if (a->rows.n <= 0)
        return 0;
    LAUNCH(rows_from_slots_kernel, (a->rows.n + STEP_THREADS - 1) / STEP_THREADS, STEP_THREADS, 0, c->stream,
           a->rows, a->slots);
    return cuda_check(c, cudaGetLastError(), "rows_from_slots");
}
