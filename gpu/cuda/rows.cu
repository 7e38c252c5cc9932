/* Linear layers of the text decoder on a few rows, embedding, and the rows of a step.
 *
 * linear_rows is bound by reading the weight. A block keeps up to eight rows of its input, normalised, in shared memory;
 * a warp takes one output after the other, 16 bytes of weights a lane at a time, for all of these rows. More rows than
 * eight read the weight again, from the second-level cache. A row's sum has the same order whatever is computed beside
 * it, so a draft verified at once gives the bits that its tokens give one by one. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>

#define WARPS        4
#define ROWS_MAX     8
#define SHARED_BYTES (48 << 10)
#define BLOCKS_A_SM  8

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

/* A lane's part of the sums of one output. */
template <int n_rows>
static __device__ __forceinline__ void multiply(const __half *weight, int stride, const float *x,
                                                float sums[n_rows])
{
    for (int r = 0; r < n_rows; r++)
        sums[r] = 0.0f;
    for (int i = (int)threadIdx.x % WARP; i < stride / 8; i += WARP) {
        float w[8];
        load_eight(weight + i * 8, w);
        for (int r = 0; r < n_rows; r++) {
            const float4 low = *(const float4 *)(x + r * stride + i * 4);
            const float4 high = *(const float4 *)(x + r * stride + stride / 2 + i * 4);
            sums[r] = fmaf(w[0], low.x, sums[r]);
            sums[r] = fmaf(w[1], low.y, sums[r]);
            sums[r] = fmaf(w[2], low.z, sums[r]);
            sums[r] = fmaf(w[3], low.w, sums[r]);
            sums[r] = fmaf(w[4], high.x, sums[r]);
            sums[r] = fmaf(w[5], high.y, sums[r]);
            sums[r] = fmaf(w[6], high.z, sums[r]);
            sums[r] = fmaf(w[7], high.w, sums[r]);
        }
    }
    for (int r = 0; r < n_rows; r++)
        sums[r] = warp_sum(sums[r]);
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

/* grid: outputs, groups of n_rows rows. Shared: [n_rows, stride] f32. */
template <int n_rows>
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
    for (int out = (int)blockIdx.x * WARPS + warp; out < p.weight.n_out; out += (int)gridDim.x * WARPS) {
        float sums[n_rows], mine = 0.0f;
        multiply<n_rows>(p.weight.data + (size_t)out * (size_t)stride, stride, x, sums);
        for (int r = 0; r < n_rows; r++)
            mine = lane == r ? sums[r] : mine;
        if (lane < n_rows && (active >> lane & 1))
            finish(&p, first + lane, out, mine);
    }
}

template <int n_rows> static void launch(struct cuda_engine *c, const struct linear_rows_params *p)
{
    int blocks = (p->weight.n_out + WARPS - 1) / WARPS, most = BLOCKS_A_SM * c->n_multiprocessors;
    dim3 grid((unsigned)(blocks < most ? blocks : most), (unsigned)((p->rows.n + n_rows - 1) / n_rows));
    size_t shared = (size_t)n_rows * (size_t)p->weight.stride * sizeof(float);
    LAUNCH(linear_rows_kernel<n_rows>, grid, WARPS * WARP, shared, c->stream, *p);
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
        launch<8>(c, &p);
    else if (n > 2 && room >= 4)
        launch<4>(c, &p);
    else if (n > 1 && room >= 2)
        launch<2>(c, &p);
    else
        launch<1>(c, &p);
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
