/* linear_rows on tensor cores, for engines with many slots.
 *
 * The weight is the operand of 16 rows, an output each, and comes straight from memory; eight rows of the input are the
 * columns of the other operand. A value of the input is two half floats, the nearest one and 2¹¹ times what that leaves,
 * with sums of their own: 22 bits of it. A lane's places in two fragments are eight neighbours in memory, 16 bytes: a
 * product does not mind which value has which place, as long as both operands agree.
 *
 * A block keeps its rows in shared memory: they are brought there as they are, all loads under way at once, then normalised
 * and split where they lie. Four warps share n_in, each 32 values in turn, for 32 outputs of the block, and their sums are
 * added in their order. Where there are outputs enough for every warp of a GPU, each has all of n_in for 16 outputs of its
 * own instead, and waits for no other. Which way it is depends on the weight alone, and nothing of either on how many rows
 * there are: a row has the same bits whatever is beside it, but not those of rows.cu. Bytes: the weight, once for all rows
 * of a block. */
#include "gpu/cuda/rows.cuh"

#define WARPS      8
#define OUTS       16                       /* of a warp */
#define K_WARPS    4                        /* that share n_in */
#define TILE_OUTS  (WARPS / K_WARPS * OUTS) /* of a block whose warps share n_in */
#define K_STEP     32                       /* values of a warp at a time: two fragments */
#define K_ROUND    (K_WARPS * K_STEP)       /* and of all warps that share n_in */
#define PAD        4                        /* values: rows lie 16 bytes apart, modulo all banks */
#define SUMS_PITCH (TILE_OUTS + 4)          /* the lanes of a fragment are in different banks */
#define OWN_PITCH  (OUTS + 4)
#define REST_SCALE 2048.0f
#define WIDE_OUTS  8192 /* from here on a warp has all of n_in */

/* Steps of a warp whose weights are on their way at once. */
static inline __host__ __device__ constexpr int ahead_of(int n_groups)
{
    return n_groups < 2 ? 6 : 4;
}

/* Four neighbouring values of a row are 16 bytes: single floats at first, then two times the nearest half floats of two
 * values and what these leave. */
struct mma_room {
    float *values;       /* [rows][pitch] */
    float *gamma, *beta; /* [whole row] */
    float *sums;         /* [K_WARPS][rows][SUMS_PITCH], or [WARPS][rows][OWN_PITCH] */
    int pitch;
};

/* A row with zeros up to a whole round. */
static inline __host__ __device__ int whole_row(int n_in)
{
    return (n_in + K_ROUND - 1) / K_ROUND * K_ROUND;
}

/* Of a block: `values` of each of its rows, gamma and beta of a norm, sums; and first of all, where each warp has outputs of its
 * own, which rows are active. */
static inline __host__ __device__ size_t room_bytes(int n_rows, int values, int normed, bool wide)
{
    int floats =
        n_rows * (values + PAD) + 2 * normed + n_rows * (wide ? WARPS * OWN_PITCH + 1 : K_WARPS * SUMS_PITCH);
    return (size_t)floats * sizeof(float);
}

static __device__ __forceinline__ struct mma_room room_of(float *first, int n_rows, int values, int normed)
{
    float *gamma = first + n_rows * (values + PAD);
    return {first, gamma, gamma + normed, gamma + 2 * normed, values + PAD};
}

/* --- rows -------------------------------------------------------------------------------------------------------------- */

/* n values of global memory, and zeros up to `whole`; every step-th from `i` on. Nothing here waits for anything. */
static __device__ __forceinline__ void bring(float *to, const float *from, int n, int whole, int i, int step)
{
    for (; i < whole; i += step) {
        if (i < n)
            cp_async_few<4>(to + i, from + i);
        else
            to[i] = 0.0f;
    }
}

/* Values first_k … of a warp's n_groups rows, `here` of them. The rows behind the last one are that one again. */
static __device__ __forceinline__ void bring_rows(const struct linear_rows_params *p, int n_groups,
                                                  int first_row, int first_k, int here,
                                                  const struct mma_room *room)
{
    int lane = (int)threadIdx.x % WARP, first = (int)threadIdx.x / WARP * n_groups;
    ROLLED
    for (int r = first; r < first + n_groups; r++) {
        int row = first_row + r < p->rows.n ? first_row + r : p->rows.n - 1;
        const float *from = (const float *)p->in.data + (size_t)row * (size_t)p->in.stride;
        bring(room->values + r * room->pitch, from + first_k, p->weight.n_in - first_k, here, lane, WARP);
    }
    cp_async_commit();
}

/* A block's gamma and beta. */
static __device__ __forceinline__ void bring_norm(const struct linear_rows_params *p, int whole,
                                                  const struct mma_room *room)
{
    if (p->gamma) {
        bring(room->gamma, p->gamma, p->weight.n_in, whole, (int)threadIdx.x, WARPS * WARP);
        bring(room->beta, p->beta, p->weight.n_in, whole, (int)threadIdx.x, WARPS * WARP);
    }
}

/* What half floats cannot hold is none, and so are the logits in the end, which is an error: cut off it would be another text. */
static __device__ __forceinline__ float within_halves(float x)
{
    return fabsf(x) <= HALF_MOST ? x : NAN;
}

/* Two values as their nearest half floats, and as what these leave. */
static __device__ __forceinline__ uint2 split_two(float x, float y)
{
    x = within_halves(x);
    y = within_halves(y);
    const __half near_x = __float2half_rn(x), near_y = __float2half_rn(y);
    const __half rest_x = __float2half_rn((x - __half2float(near_x)) * REST_SCALE),
                 rest_y = __float2half_rn((y - __half2float(near_y)) * REST_SCALE);
    return make_uint2(pack_halves(near_x, near_y), pack_halves(rest_x, rest_y));
}

/* Normalises and splits n_rows rows where they lie; a warp. Zeros behind their ends stay zeros. */
template <int n_rows>
static __device__ __forceinline__ void split_rows(const struct linear_rows_params *p, int here, float *rows,
                                                  const struct mma_room *room)
{
    float mean[n_rows] = {}, scale[n_rows] = {};
    if (p->gamma)
        measure<n_rows, false>(rows, room->pitch, p->weight.n_in, here, mean, scale);
    ROLLED
    for (int i = (int)threadIdx.x % WARP * 4; i < here; i += WARP * 4) {
        float4 gamma = {}, beta = {};
        if (p->gamma) {
            gamma = *(const float4 *)(room->gamma + i);
            beta = *(const float4 *)(room->beta + i);
        }
        UNROLL
        for (int r = 0; r < n_rows; r++) {
            float *at = rows + r * room->pitch + i;
            float4 x = *(const float4 *)at;
            if (p->gamma) {
                x.x = (x.x - mean[r]) * scale[r] * gamma.x + beta.x;
                x.y = (x.y - mean[r]) * scale[r] * gamma.y + beta.y;
                x.z = (x.z - mean[r]) * scale[r] * gamma.z + beta.z;
                x.w = (x.w - mean[r]) * scale[r] * gamma.w + beta.w;
            }
            const uint2 low = split_two(x.x, x.y), high = split_two(x.z, x.w);
            *(uint4 *)at = make_uint4(low.x, low.y, high.x, high.y);
        }
    }
}

/* A block: what it has brought, split, for all of its threads. */
template <int n_groups>
static __device__ __forceinline__ void take_brought(const struct linear_rows_params *p, int here,
                                                    const struct mma_room *room)
{
    const int at_once = n_groups < 4 ? n_groups : 4;
    float *mine = room->values + (int)threadIdx.x / WARP * n_groups * room->pitch;
    cp_async_wait<0>();
    __syncthreads(); /* everybody's part of the rows is there */
    ROLLED
    for (int r = 0; r < n_groups; r += at_once)
        split_rows<at_once>(p, here, mine + r * room->pitch, room);
    __syncthreads(); /* all rows are split */
}

/* --- products ---------------------------------------------------------------------------------------------------------- */

/* A lane's weights of a step: of outputs `out` and out + 8, eight from value k on. */
struct two_outs {
    uint4 low, high;
};

static __device__ __forceinline__ uint4 weights_at(const struct engine_weight *w, int out, int k)
{
    if (out >= w->n_out || k >= w->stride)
        return make_uint4(0, 0, 0, 0);
    return *(const uint4 *)(w->data + (size_t)out * (size_t)w->stride + k);
}

static __device__ __forceinline__ struct two_outs load_outs(const struct engine_weight *w, int first_out,
                                                            int k)
{
    int out = first_out + (int)threadIdx.x % WARP / 4, mine = k + (int)threadIdx.x % 4 * 8;
    return {weights_at(w, out, mine), weights_at(w, out + 8, mine)};
}

/* sums [groups][nearest, rest] += two fragments of the weight times those of the rows at value `at`. */
template <int n_groups>
static __device__ __forceinline__ void multiply_step(struct two_outs w, const struct mma_room *room, int at,
                                                     float sums[n_groups][2][4])
{
    int lane = (int)threadIdx.x % WARP;
    const unsigned a[2][4] = {{w.low.x, w.high.x, w.low.y, w.high.y}, {w.low.z, w.high.z, w.low.w, w.high.w}};
    const int at_once = n_groups < 2 ? 1 : 2;
    const float *mine = room->values + lane / 4 * room->pitch + at + lane % 4 * 8;
    UNROLL
    for (int first = 0; first < n_groups; first += at_once) {
        uint4 b[at_once][2];
        UNROLL
        for (int r = 0; r < at_once; r++) {
            const uint4 *from = (const uint4 *)(mine + (first + r) * 8 * room->pitch);
            b[r][0] = from[0];
            b[r][1] = from[1];
        }
        UNROLL
        for (int half = 0; half < 2; half++) { /* one product after the other waits for none of them */
            UNROLL
            for (int r = 0; r < at_once; r++) {
                const unsigned nearest[2] = {b[r][half].x, b[r][half].z},
                               rest[2] = {b[r][half].y, b[r][half].w};
                mma_16816(sums[first + r][0], a[half], nearest);
                mma_16816(sums[first + r][1], a[half], rest);
            }
        }
    }
}

/* A warp's way through the weights: n_steps steps of each of its tiles of outputs, `apart` values from one to the next. The
 * weights of some steps are on their way, those of the next tile behind the last ones of this. */
template <int n_groups> struct walk {
    struct two_outs ahead[ahead_of(n_groups)];
    int first_k, apart, n_steps;
};

template <int n_groups>
static __device__ __forceinline__ void begin_walk(struct walk<n_groups> *walk, const struct engine_weight *w,
                                                  int first_out)
{
    UNROLL
    for (int i = 0; i < ahead_of(n_groups); i++)
        walk->ahead[i] = load_outs(w, first_out, walk->first_k + i * walk->apart);
}

/* Steps first … last − 1 of a tile, `first` a multiple of those ahead; the rows' values begin with those of the first of them. */
template <int n_groups>
static __device__ __forceinline__ void
multiply_steps(struct walk<n_groups> *walk, const struct engine_weight *w, int first_out, int next_out,
               int first, int last, const struct mma_room *room, float sums[n_groups][2][4])
{
    const int n_ahead = ahead_of(n_groups);
    ROLLED
    for (int step = first; step < last; step += n_ahead) {
        UNROLL
        for (int i = 0; i < n_ahead; i++) {
            if (step + i >= last)
                continue;
            multiply_step<n_groups>(walk->ahead[i], room, walk->first_k + (step + i - first) * walk->apart,
                                    sums);
            int next = step + i + n_ahead;
            bool here = next < walk->n_steps;
            walk->ahead[i] =
                load_outs(w, here ? first_out : next_out, walk->first_k + (here ? next : i) * walk->apart);
        }
    }
}

/* --- kernels ----------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ bool is_active(const struct rows *rows, int row)
{
    return row < rows->n && rows->pos[row] >= 0;
}

/* A warp's sums to shared memory. */
template <int n_groups>
static __device__ __forceinline__ void leave_sums(const float sums[n_groups][2][4], int pitch, float *to)
{
    int lane = afresh((int)threadIdx.x % WARP);
    UNROLL
    for (int i = 0; i < n_groups * 4; i++) {
        int row = i / 4 * 8 + lane % 4 * 2 + i % 2, out = lane / 4 + i % 4 / 2 * 8;
        to[row * pitch + out] = sums[i / 4][0][i % 4] + sums[i / 4][1][i % 4] / REST_SCALE;
    }
}

/* Four warps share n_in. grid: outputs, groups of 8 · n_groups rows. Shared: the room, for `chunk` values of each row or all
 * of them. Rows that are idle or behind the last are computed, from whatever there is, and dropped: no other column of a
 * fragment sees them. */
template <int n_groups>
static __global__ void __launch_bounds__(WARPS *WARP, n_groups < 4 ? 2 : 1)
    linear_rows_mma_kernel(struct linear_rows_params p, int chunk)
{
    static_assert(WARP == TILE_OUTS, "a lane finishes an output");
    DYNAMIC_SHARED(float, shared);
    const int n_rows = n_groups * 8, n_in = p.weight.n_in, whole = whole_row(n_in),
              here = whole < chunk ? whole : chunk;
    const struct mma_room room = room_of(shared, n_rows, here, p.gamma ? whole : 0);
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, first_row = (int)blockIdx.y * n_rows;
    int first_out = (int)blockIdx.x * TILE_OUTS, mine = warp / K_WARPS * OUTS;
    struct walk<n_groups> walk = {
        {}, warp % K_WARPS *K_STEP, K_ROUND, whole / K_ROUND
    };
    begin_walk<n_groups>(&walk, &p.weight, first_out + mine);
    bring_norm(&p, here, &room);
    ROLLED
    for (bool anew = true; first_out < p.weight.n_out;
         first_out += (int)gridDim.x * TILE_OUTS, anew = false) {
        int next_out = first_out + (int)gridDim.x * TILE_OUTS;
        int out = first_out + lane;
        bool there = out < p.weight.n_out;
        float sums[n_groups][2][4] = {}, add[n_groups] = {}, bias = p.bias && there ? p.bias[out] : 0.0f;
        int pos[n_groups]; /* of every eighth row, of which the lane finishes an output */
        UNROLL
        for (int r = 0; r < n_groups; r++) {
            int row = first_row + r * WARPS + warp;
            bool is_row = there && row < p.rows.n;
            pos[r] = is_row ? p.rows.pos[row] : -1;
            add[r] = is_row ? added_to(&p, row, out) : 0.0f;
        }
        ROLLED
        for (int first = 0; first < n_in; first += chunk) {
            if (anew || chunk < n_in) {
                __syncthreads(); /* nobody reads the rows any more */
                bring_rows(&p, n_groups, first_row, first, here, &room);
                take_brought<n_groups>(&p, here, &room);
            }
            int end = first + here < whole ? first + here : whole;
            multiply_steps<n_groups>(&walk, &p.weight, first_out + mine, next_out + mine, first / K_ROUND,
                                     end / K_ROUND, &room, sums);
        }
        leave_sums<n_groups>(sums, SUMS_PITCH, room.sums + warp % K_WARPS * n_rows * SUMS_PITCH + mine);
        __syncthreads(); /* all sums are there */
        int me = afresh((int)threadIdx.x);
        UNROLL
        for (int r = 0; r < n_groups; r++) {
            float sum = 0.0f;
            for (int k = 0; k < K_WARPS; k++)
                sum += room.sums[(k * n_rows + r * WARPS + me / WARP) * SUMS_PITCH + me % WARP];
            if (pos[r] >= 0)
                finish(&p, first_row + r * WARPS + me / WARP, first_out + me % WARP, sum, bias, add[r]);
        }
        __syncthreads(); /* nobody reads the sums any more */
    }
}

/* A warp has all of n_in. grid: outputs, groups of 8 · n_groups rows. Shared: the room, for whole rows. */
template <int n_groups>
static __global__ void __launch_bounds__(WARPS *WARP, n_groups < 4 ? 2 : 1)
    linear_rows_wide_kernel(struct linear_rows_params p)
{
    DYNAMIC_SHARED(float, shared);
    static_assert(WARP == 2 * OUTS, "a warp finishes two rows at a time");
    const int n_rows = n_groups * 8, whole = whole_row(p.weight.n_in);
    int *active = (int *)shared;
    const struct mma_room room = room_of(shared + n_rows, n_rows, whole, p.gamma ? whole : 0);
    float *own = room.sums + (int)threadIdx.x / WARP * n_rows * OWN_PITCH;
    int first_row = (int)blockIdx.y * n_rows, apart = (int)gridDim.x * WARPS * OUTS;
    int first_out = ((int)threadIdx.x / WARP * (int)gridDim.x + (int)blockIdx.x) * OUTS;
    struct walk<n_groups> walk = {
        {}, 0, K_STEP, (p.weight.n_in + K_STEP - 1) / K_STEP
    };
    begin_walk<n_groups>(&walk, &p.weight, first_out);
    bring_norm(&p, whole, &room);
    bring_rows(&p, n_groups, first_row, 0, whole, &room);
    if (threadIdx.x < n_rows)
        active[threadIdx.x] = is_active(&p.rows, first_row + (int)threadIdx.x);
    take_brought<n_groups>(&p, whole, &room);
    ROLLED
    for (; first_out < p.weight.n_out; first_out += apart) {
        float sums[n_groups][2][4] = {};
        multiply_steps<n_groups>(&walk, &p.weight, first_out, first_out + apart, 0, walk.n_steps, &room,
                                 sums);
        int lane = afresh((int)threadIdx.x) % WARP, out = first_out + lane % OUTS;
        bool there = out < p.weight.n_out;
        float bias = p.bias && there ? p.bias[out] : 0.0f;
        leave_sums<n_groups>(sums, OWN_PITCH, own);
        __syncwarp(); /* the warp's sums are there */
        ROLLED
        for (int first = lane / OUTS; first < n_rows; first += 8) {
            float sum[4];
            UNROLL
            for (int i = 0; i < 4; i++)
                sum[i] = own[(first + 2 * i) * OWN_PITCH + lane % OUTS];
            UNROLL
            for (int i = 0; i < 4; i++) {
                int r = first + 2 * i;
                if (there && active[r])
                    finish(&p, first_row + r, out, sum[i], bias, added_to(&p, first_row + r, out));
            }
        }
        __syncwarp(); /* nobody reads them any more */
    }
}

/* --- launching --------------------------------------------------------------------------------------------------------- */

static bool is_wide(const struct linear_rows_params *p)
{
    return p->weight.n_out >= WIDE_OUTS;
}

static size_t room_of_rows(const struct linear_rows_params *p, int n_groups, int values)
{
    return room_bytes(n_groups * 8, values, p->gamma ? whole_row(p->weight.n_in) : 0, is_wide(p));
}

/* Blocks of a group of rows: as many as there are at once, or one for each tile. All shared memory of these kernels is
 * given at their launch: an array that they declared would be missing from what a launch may have. */
template <class Kernel>
static cudaError_t blocks_of(struct cuda_engine *c, Kernel *kernel, size_t shared, int tiles, int groups,
                             int *blocks)
{
    int n = 0;
    cudaError_t e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)c->shared_most);
    e = e ? e : cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, (const void *)kernel, WARPS * WARP, shared);
    n = n * c->n_multiprocessors / groups;
    *blocks = n < 1 ? 1 : n < tiles ? n : tiles;
    return e;
}

template <int n_groups>
static cudaError_t launch_wide(struct cuda_engine *c, const struct linear_rows_params *p)
{
    int tiles = (p->weight.n_out + WARPS * OUTS - 1) / (WARPS * OUTS),
        groups = (p->rows.n + n_groups * 8 - 1) / (n_groups * 8), blocks = 0;
    size_t shared = room_of_rows(p, n_groups, whole_row(p->weight.n_in));
    if (shared > c->shared_most)
        return cudaErrorInvalidValue;
    cudaError_t e = blocks_of(c, linear_rows_wide_kernel<n_groups>, shared, tiles, groups, &blocks);
    if (e == cudaSuccess)
        LAUNCH(linear_rows_wide_kernel<n_groups>, dim3((unsigned)blocks, (unsigned)groups), WARPS * WARP,
               shared, c->stream, *p);
    return e ? e : cudaGetLastError();
}

template <int n_groups> static cudaError_t launch(struct cuda_engine *c, const struct linear_rows_params *p)
{
    const int whole = whole_row(p->weight.n_in), unit = K_ROUND * ahead_of(n_groups),
              tiles = (p->weight.n_out + TILE_OUTS - 1) / TILE_OUTS,
              groups = (p->rows.n + n_groups * 8 - 1) / (n_groups * 8);
    int chunk = (whole + unit - 1) / unit * unit, blocks = 0;
    while (chunk > unit && room_of_rows(p, n_groups, whole < chunk ? whole : chunk) > c->shared_most)
        chunk -= unit;
    size_t shared = room_of_rows(p, n_groups, whole < chunk ? whole : chunk);
    if (shared > c->shared_most || (p->gamma && chunk < whole))
        return cudaErrorInvalidValue;
    cudaError_t e = blocks_of(c, linear_rows_mma_kernel<n_groups>, shared, tiles, groups, &blocks);
    if (e == cudaSuccess)
        LAUNCH(linear_rows_mma_kernel<n_groups>, dim3((unsigned)blocks, (unsigned)groups), WARPS * WARP,
               shared, c->stream, *p, chunk);
    return e ? e : cudaGetLastError();
}

/* A block's rows: as many as there are, so that it reads its weights for all of them at once; fewer where some
 * multiprocessor would have none, or whole rows no room. */
static int groups_of_block(const struct cuda_engine *c, const struct linear_rows_params *p)
{
    int n = p->rows.n, tiles = (p->weight.n_out + TILE_OUTS - 1) / TILE_OUTS, n_groups = 1;
    while (n_groups < (is_wide(p) ? 8 : 4) && n_groups * 8 < n)
        n_groups *= 2;
    while (n_groups > 1 && (tiles * ((n + n_groups * 8 - 1) / (n_groups * 8)) < c->n_multiprocessors ||
                            room_of_rows(p, n_groups, whole_row(p->weight.n_in)) > c->shared_most))
        n_groups /= 2;
    return n_groups;
}

int cuda_linear_rows_mma(struct cuda_engine *c, const struct linear_rows_params *p)
{
    int n = groups_of_block(c, p);
    cudaError_t e;
    if (is_wide(p))
        e = n == 1   ? launch_wide<1>(c, p)
            : n == 2 ? launch_wide<2>(c, p)
            : n == 4 ? launch_wide<4>(c, p)
                     : launch_wide<8>(c, p);
    else
        e = n == 1 ? launch<1>(c, p) : n == 2 ? launch<2>(c, p) : launch<4>(c, p);
    return cuda_check(c, e, "linear_rows");
}
