/* Linear layers of the text decoder on a few rows, embedding, and the rows of a step.
 *
 * linear_rows is bound by reading the weight. A block keeps up to eight rows of its input, normalised, in shared memory;
 * a warp takes some outputs after the other (rows.cuh). More rows than eight read the weight again, from the second-level
 * cache. */
#include "gpu/cuda/rows.cuh"

#include <errno.h>

#define WARPS        4
#define SHARED_BYTES (44 << 10) /* of rows; a norm has some, too */
#define BLOCKS_A_SM  8

static_assert(SHARED_BYTES / sizeof(float) / FIXED_CHUNK < FIXED_FLAWS, "no row has too many chunks");

/* A warp: sums of a group of outputs, as finish_group wants them. */
template <int n_rows, int n_outs, bool bytes>
static __device__ __forceinline__ float product(const struct engine_weight *weight, int out, const float *x)
{
    float sums[n_rows * n_outs];
    multiply<n_rows, n_outs, bytes>(weight, out, x, sums);
    return warp_sums<n_rows * n_outs>(sums);
}

/* The same, in fixed point. */
template <int n_rows, int n_outs, bool bytes>
static __device__ __forceinline__ float fixed_product(const struct engine_weight *weight, int out,
                                                      const float *x)
{
    long long sums[(n_rows * n_outs + 1) / 2] = {};
    multiply_fixed_from<n_rows, n_outs, bytes>(weight, out, x, 0, sums);
    return fixed_sums<n_rows * n_outs>(sums);
}

/* grid: outputs, groups of n_rows rows. Shared: [n_rows, stride] f32. A warp has n_outs neighbouring outputs at a time: that
 * many loads are under way at once. Left alone ptxas would spill for more blocks than are needed. */
template <int n_rows, int n_outs, bool bytes>
static __global__ void __launch_bounds__(WARPS *WARP, n_rows < 4   ? 7
                                                      : n_rows < 8 ? 6
                                                                   : 5)
    linear_rows_kernel(struct linear_rows_params p)
{
    DYNAMIC_SHARED(float, x);
    int warp = (int)threadIdx.x / WARP, stride = p.weight.stride, first = (int)blockIdx.y * n_rows;
    unsigned active = 0; /* the same in all threads */
    for (int r = 0; r < n_rows; r++)
        active |= (unsigned)(first + r < p.rows.n && p.rows.pos[first + r] >= 0) << r;
    if (!active)
        return;
    take_rows(&p, first, n_rows, active, x);
    if (p.gamma)
        norm_rows<n_rows, WARPS * WARP>(active, p.gamma, p.beta, p.weight.n_in, stride, x);
    ROLLED
    for (int group = (int)blockIdx.x * WARPS + warp; group * n_outs < p.weight.n_out;
         group += (int)gridDim.x * WARPS) {
        int out = first_of_group(&p.weight, group, n_outs);
        finish_group<n_rows, n_outs>(&p, first, active, group, out,
                                     p.add.data ? fixed_product<n_rows, n_outs, bytes>(&p.weight, out, x)
                                                : product<n_rows, n_outs, bytes>(&p.weight, out, x));
    }
}

template <int n_rows, int n_outs>
static void launch(struct cuda_engine *c, const struct linear_rows_params *p)
{
    int outs = n_outs * WARPS, blocks = (p->weight.n_out + outs - 1) / outs,
        most = BLOCKS_A_SM * c->n_multiprocessors;
    dim3 grid((unsigned)(blocks < most ? blocks : most), (unsigned)((p->rows.n + n_rows - 1) / n_rows));
    size_t shared = (size_t)n_rows * (size_t)p->weight.stride * sizeof(float);
    if (p->weight.bytes)
        LAUNCH((linear_rows_kernel<n_rows, n_outs, true>), grid, WARPS * WARP, shared, c->stream, *p);
    else
        LAUNCH((linear_rows_kernel<n_rows, n_outs, false>), grid, WARPS * WARP, shared, c->stream, *p);
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
    if (c->many_slots)
        return cuda_linear_rows_mma(c, &p);
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
    embed_row(&rows, (int)blockIdx.x, &tokens, positions, out);
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

#define ROWS_THREADS 64

static __global__ void __launch_bounds__(ROWS_THREADS)
    rows_from_slots_kernel(struct rows rows, const struct slot_state *slots)
{
    int r = (int)blockIdx.x * ROWS_THREADS + (int)threadIdx.x;
    if (r >= rows.n)
        return;
    row_from_slot(&rows, r, slots);
}

int cuda_rows_from_slots(struct cuda_engine *c, const struct rows_from_slots_args *a)
{
    if (a->rows.n <= 0)
        return 0;
    LAUNCH(rows_from_slots_kernel, (a->rows.n + ROWS_THREADS - 1) / ROWS_THREADS, ROWS_THREADS, 0, c->stream,
           a->rows, a->slots);
    if (c->recording)
        c->recording->step_pos = a->rows.pos;
    return cuda_check(c, cudaGetLastError(), "rows_from_slots");
}
