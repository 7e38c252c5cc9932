/* linear_rows on tensor cores, for engines with many slots.
 *
 * The weight is the operand of 16 rows, an output each, and comes straight from memory; eight rows of the input are the
 * columns of the other operand. A value of the input is two half floats, the nearest one and 2¹¹ times what that leaves,
 * with sums of their own: 22 bits of it. A lane's places in two fragments are eight neighbours in memory, 16 bytes: a
 * product does not mind which value has which place, as long as both operands agree.
 *
 * A block has 32 outputs at a time and keeps its rows, normalised and split, in shared memory. Four warps share n_in, each
 * 32 values in turn, and their sums are added in their order. Nothing of that depends on how many rows there are: a row has
 * the same bits whatever is beside it, but not those of rows.cu. Bytes: the weight, once for all rows of a block. */
#include "gpu/cuda/rows.cuh"

#define OUTS       32 /* of a block: 16 of a warp */
#define K_WARPS    4  /* that share n_in */
#define WARPS      (OUTS / 16 * K_WARPS)
#define K_STEP     32                 /* values of a warp at a time: two fragments */
#define K_ROUND    (K_WARPS * K_STEP) /* and of all of them */
#define AHEAD      4                  /* such steps whose weights are on their way at once */
#define PAD        32         /* half floats: neighbouring rows lie 64 bytes apart, modulo all banks */
#define SUMS_PITCH (OUTS + 4) /* the lanes of a fragment are in different banks */
#define REST_SCALE 2048.0f

static_assert(WARPS == 8, "a warp takes as many rows as there are groups of eight");

struct mma_room {
    __half *nearest, *rest; /* [rows][pitch] */
    float *sums;            /* [K_WARPS][rows][SUMS_PITCH] */
    int pitch;
};

/* A row with zeros up to a whole round. */
static inline __host__ __device__ int whole_row(int n_in)
{
    return (n_in + K_ROUND - 1) / K_ROUND * K_ROUND;
}

static __device__ __forceinline__ uint4 weights_at(const struct engine_weight *w, int out, int k)
{
    if (out >= w->n_out || k >= w->stride)
        return make_uint4(0, 0, 0, 0);
    return *(const uint4 *)(w->data + (size_t)out * (size_t)w->stride + k);
}

/* A lane's weights of outputs `out` and out + 8, from value k of the warp on. */
static __device__ __forceinline__ void load_ahead(const struct engine_weight *w, int out, int k,
                                                  uint4 ahead[AHEAD][2])
{
    int mine = k + (int)threadIdx.x % 4 * 8;
    UNROLL
    for (int i = 0; i < AHEAD; i++) {
        ahead[i][0] = weights_at(w, out, mine + i * K_ROUND);
        ahead[i][1] = weights_at(w, out + 8, mine + i * K_ROUND);
    }
}

/* Brings the weights of another OUTS outputs into the second-level cache. */
static __device__ __forceinline__ void prefetch_outs(const struct engine_weight *w, int first)
{
    int n = w->n_out - first < OUTS ? w->n_out - first : OUTS;
    const char *from = (const char *)(w->data + (size_t)first * (size_t)w->stride);
    for (int i = (int)threadIdx.x * LINE; i < n * w->stride * (int)sizeof(__half); i += WARPS * WARP * LINE)
        prefetch(from + i);
}

/* Means and 1 / √(variance + 1e-5) of a warp's rows. */
template <int n_groups>
static __device__ __forceinline__ void measure(const float *const rows[n_groups], int n, float mean[n_groups],
                                               float scale[n_groups])
{
    int lane = (int)threadIdx.x % WARP;
    float sums[n_groups] = {}, squares[n_groups] = {};
    for (int i = lane; i < n; i += WARP) {
        UNROLL
        for (int r = 0; r < n_groups; r++)
            sums[r] += rows[r][i];
    }
    UNROLL
    for (int r = 0; r < n_groups; r++)
        mean[r] = warp_sum(sums[r]) / (float)n;
    for (int i = lane; i < n; i += WARP) {
        UNROLL
        for (int r = 0; r < n_groups; r++)
            squares[r] += (rows[r][i] - mean[r]) * (rows[r][i] - mean[r]);
    }
    UNROLL
    for (int r = 0; r < n_groups; r++)
        scale[r] = rsqrtf(warp_sum(squares[r]) / (float)n + 1e-5f);
}

/* Values first … of a warp's rows to shared memory, `n` of them, zeros behind their ends. */
template <int n_groups>
static __device__ __forceinline__ void
split_rows(const struct linear_rows_params *p, const float *const rows[n_groups], const float mean[n_groups],
           const float scale[n_groups], int first, int n, const struct mma_room *room)
{
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    for (int i = lane; i < n; i += WARP) {
        bool there = first + i < p->weight.n_in;
        float gamma = p->gamma && there ? p->gamma[first + i] : 1.0f;
        float beta = p->gamma && there ? p->beta[first + i] : 0.0f;
        UNROLL
        for (int r = 0; r < n_groups; r++) {
            float x = there ? rows[r][first + i] : 0.0f;
            if (p->gamma && there)
                x = (x - mean[r]) * scale[r] * gamma + beta;
            __half nearest = to_half(x);
            int at = (warp * n_groups + r) * room->pitch + i;
            room->nearest[at] = nearest;
            room->rest[at] = to_half((x - __half2float(nearest)) * REST_SCALE);
        }
    }
}

/* sums [groups][nearest, rest] += two fragments of the weight times those of the rows at value `at`. */
template <int n_groups>
static __device__ __forceinline__ void multiply_step(const uint4 weights[2], const struct mma_room *room,
                                                     int at, float sums[n_groups][2][4])
{
    int lane = (int)threadIdx.x % WARP;
    const unsigned a[2][4] = {{weights[0].x, weights[1].x, weights[0].y, weights[1].y},
                              {weights[0].z, weights[1].z, weights[0].w, weights[1].w}};
    UNROLL
    for (int r = 0; r < n_groups; r++) {
        int mine = (r * 8 + lane / 4) * room->pitch + at + lane % 4 * 8;
        const uint4 nearest = *(const uint4 *)(room->nearest + mine);
        const uint4 rest = *(const uint4 *)(room->rest + mine);
        const unsigned b[2][2][2] = {{{nearest.x, nearest.y}, {nearest.z, nearest.w}},
                                     {{rest.x, rest.y}, {rest.z, rest.w}}};
        UNROLL
        for (int i = 0; i < 4; i++)
            mma_16816(sums[r][i % 2], a[i / 2], b[i % 2][i / 2]);
    }
}

/* A warp's sums to shared memory. */
template <int n_groups>
static __device__ __forceinline__ void leave_sums(const float sums[n_groups][2][4],
                                                  const struct mma_room *room)
{
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    float *to = room->sums + warp % K_WARPS * n_groups * 8 * SUMS_PITCH + warp / K_WARPS * 16;
    UNROLL
    for (int i = 0; i < n_groups * 4; i++) {
        int row = i / 4 * 8 + lane % 4 * 2 + i % 2, out = lane / 4 + i % 4 / 2 * 8;
        to[row * SUMS_PITCH + out] = sums[i / 4][0][i % 4] + sums[i / 4][1][i % 4] / REST_SCALE;
    }
}

/* A block: adds the warps' sums, a warp a row. */
template <int n_groups>
static __device__ __forceinline__ void finish_outs(const struct linear_rows_params *p, int first_row,
                                                   int first_out, const struct mma_room *room)
{
    const int n_rows = n_groups * 8;
    int lane = (int)threadIdx.x % WARP, out = first_out + lane;
    for (int r = (int)threadIdx.x / WARP; r < n_rows && out < p->weight.n_out; r += WARPS) {
        int row = first_row + r;
        if (row >= p->rows.n || p->rows.pos[row] < 0)
            continue;
        float sum = 0.0f;
        for (int k = 0; k < K_WARPS; k++)
            sum += room->sums[(k * n_rows + r) * SUMS_PITCH + lane];
        finish(p, row, out, sum, p->bias ? p->bias[out] : 0.0f, added_to(p, row, out));
    }
}

/* grid: outputs, groups of 8 · n_groups rows. Shared: the room, for `chunk` values of each row or all of them. Rows that are idle or behind the last are computed, from
 * whatever there is, and dropped: no other column of a fragment sees them. */
template <int n_groups>
static __global__ void __launch_bounds__(WARPS *WARP)
    linear_rows_mma_kernel(struct linear_rows_params p, int chunk)
{
    DYNAMIC_SHARED(__half, shared);
    const int n_rows = n_groups * 8, n_in = p.weight.n_in, whole = whole_row(n_in),
              here = whole < chunk ? whole : chunk;
    struct mma_room room = {shared, NULL, NULL, here + PAD};
    room.rest = room.nearest + n_rows * room.pitch;
    room.sums = (float *)(room.rest + n_rows * room.pitch);
    int warp = (int)threadIdx.x / WARP, first_row = (int)blockIdx.y * n_rows;
    int first_k = warp % K_WARPS * K_STEP, first_out = (int)blockIdx.x * OUTS,
        mine = warp / K_WARPS * 16 + (int)threadIdx.x % WARP / 4;
    uint4 ahead[AHEAD][2];
    load_ahead(&p.weight, first_out + mine, first_k, ahead);
    const float *rows[n_groups];
    float mean[n_groups] = {}, scale[n_groups] = {};
    UNROLL
    for (int r = 0; r < n_groups; r++) {
        int row = first_row + warp * n_groups + r;
        row = row < p.rows.n ? row : p.rows.n - 1;
        rows[r] = (const float *)p.in.data + (size_t)row * (size_t)p.in.stride;
    }
    if (p.gamma)
        measure<n_groups>(rows, n_in, mean, scale);
    for (bool anew = true; first_out < p.weight.n_out; first_out += (int)gridDim.x * OUTS, anew = false) {
        int next_out = first_out + (int)gridDim.x * OUTS;
        float sums[n_groups][2][4] = {};
        prefetch_outs(&p.weight, next_out);
        for (int first = 0; first < n_in; first += chunk) {
            if (anew || chunk < n_in) {
                __syncthreads(); /* nobody reads the rows any more */
                split_rows<n_groups>(&p, rows, mean, scale, first, here, &room);
                __syncthreads(); /* all rows are there */
            }
            for (int k = first + first_k; k < first + here && k < n_in; k += AHEAD * K_ROUND) {
                UNROLL
                for (int i = 0; i < AHEAD; i++) {
                    if (k + i * K_ROUND < n_in)
                        multiply_step<n_groups>(ahead[i], &room, k - first + i * K_ROUND, sums);
                }
                bool last = k + AHEAD * K_ROUND >= n_in;
                load_ahead(&p.weight, (last ? next_out : first_out) + mine,
                           last ? first_k : k + AHEAD * K_ROUND, ahead);
            }
        }
        leave_sums<n_groups>(sums, &room);
        __syncthreads(); /* all sums are there */
        finish_outs<n_groups>(&p, first_row, first_out, &room);
        __syncthreads(); /* nobody reads the sums any more */
    }
}

/* --- launching --------------------------------------------------------------------------------------------------------- */

/* Bytes of a block with that many values of its rows. */
static size_t room_bytes(int n_groups, int values)
{
    return (size_t)n_groups * 8 *
           (2 * (size_t)(values + PAD) * sizeof(__half) + K_WARPS * SUMS_PITCH * sizeof(float));
}

template <int n_groups> static cudaError_t launch(struct cuda_engine *c, const struct linear_rows_params *p)
{
    const int whole = whole_row(p->weight.n_in), unit = K_ROUND * AHEAD;
    auto *kernel = linear_rows_mma_kernel<n_groups>;
    int chunk = (whole + unit - 1) / unit * unit;
    while (chunk > unit && room_bytes(n_groups, whole < chunk ? whole : chunk) > c->shared_most)
        chunk -= unit;
    size_t shared = room_bytes(n_groups, whole < chunk ? whole : chunk);
    int tiles = (p->weight.n_out + OUTS - 1) / OUTS, groups = (p->rows.n + n_groups * 8 - 1) / (n_groups * 8),
        blocks = 0;
    cudaError_t e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)c->shared_most);
    e = e ? e
          : cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, (const void *)kernel, WARPS * WARP,
                                                          shared);
    if (e != cudaSuccess)
        return e;
    int most = blocks * c->n_multiprocessors / groups;
    most = most < 1 ? 1 : most < tiles ? most : tiles;
    LAUNCH(kernel, dim3((unsigned)most, (unsigned)groups), WARPS * WARP, shared, c->stream, *p, chunk);
    return cudaGetLastError();
}

/* A block's rows: as many as there are, so that it reads its weights for all of them at once; fewer where some
 * multiprocessor would have none, or whole rows no room. */
static int groups_of_block(const struct cuda_engine *c, const struct linear_rows_params *p)
{
    int n = p->rows.n, tiles = (p->weight.n_out + OUTS - 1) / OUTS, n_groups = 1;
    while (n_groups < CUDA_ROWS_MAX / 8 && n_groups * 8 < n)
        n_groups *= 2;
    while (n_groups > 1 && (tiles * ((n + n_groups * 8 - 1) / (n_groups * 8)) < c->n_multiprocessors ||
                            room_bytes(n_groups, whole_row(p->weight.n_in)) > c->shared_most))
        n_groups /= 2;
    return n_groups;
}

int cuda_linear_rows_mma(struct cuda_engine *c, const struct linear_rows_params *p)
{
    int n = groups_of_block(c, p);
    cudaError_t e = n == 1   ? launch<1>(c, p)
                    : n == 2 ? launch<2>(c, p)
                    : n == 4 ? launch<4>(c, p)
                             : launch<8>(c, p);
    return cuda_check(c, e, "linear_rows");
}
