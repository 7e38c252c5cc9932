/* out = act(in · Wᵀ + bias) + add on hundreds of rows.
 *
 * Our own product takes any strides, overlapping rows among them, which make the convolutions. A block has SIDE × SIDE outputs
 * and walks along n_in in steps of 64; the tiles of the next two steps are on their way while one's are used. An output's sum
 * goes along n_in in sixteens whatever the block: its bits do not depend on SIDE. Where libcublas is at hand and the rows are
 * dense it computes the product, and a pass over the result does the rest. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>
#include <string.h>

#define STEP   64
#define STAGES 3
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define AT_ONCE 1 /* blocks of a multiprocessor: registers for more would be for nothing */
#else
#define AT_ONCE 2
#endif

/* What becomes of the sums. A kernel takes it by value. */
struct epilogue {
    const float *bias; /* or NULL */
    bool gelu;
    bool vectors;   /* four neighbours of bias, add and out are aligned */
    struct mat add; /* data NULL: none */
    struct mat out;
    int n_windows, n_each; /* rows of each */
    int in_gap, out_gap;
    struct engine_kv kv; /* data NULL: none */
    int layer, slots[ENGINE_WINDOWS_MAX];
};

static __device__ __forceinline__ int window_of(const struct epilogue *e, int row)
{
    return e->n_windows > 1 ? (int)((unsigned)row / (unsigned)e->n_each) : 0;
}

/* Of what is added: all windows have the rows of one. */
static __device__ __forceinline__ const float *added(const struct epilogue *e, int row, int column)
{
    int r = row - window_of(e, row) * e->n_each;
    return (const float *)e->add.data + (size_t)r * (size_t)e->add.stride + (size_t)column;
}

static __device__ __forceinline__ void *place_out(const struct epilogue *e, int row, int column)
{
    int window = window_of(e, row);
    size_t at = (size_t)row * (size_t)e->out.stride + (size_t)window * (size_t)e->out_gap + (size_t)column;
    if (e->kv.data) {
        int n_state = e->kv.n_head * HEAD, among = column < n_state ? column : column - n_state;
        __half *keys = kv_keys(e->kv, e->layer, e->slots[window], among / HEAD);
        __half *head = column < n_state ? keys : keys + (size_t)e->kv.n_ctx * HEAD;
        return head + (size_t)(row - window * e->n_each) * HEAD + among % HEAD;
    }
    return e->out.type == DTYPE_F16 ? (void *)((__half *)e->out.data + at)
                                    : (void *)((float *)e->out.data + at);
}

static __device__ __forceinline__ bool gives_halves(const struct epilogue *e)
{
    return e->kv.data || e->out.type == DTYPE_F16;
}

static __device__ __forceinline__ void finish(const struct epilogue *e, int row, int column, float x)
{
    if (e->bias)
        x += e->bias[column];
    if (e->gelu)
        x = gelu(x);
    if (e->add.data)
        x += *added(e, row, column);
    store(place_out(e, row, column), gives_halves(e), 0, x);
}

static __device__ __forceinline__ unsigned pack(float low, float high)
{
    return pack_halves(to_half(low), to_half(high));
}

/* The same of four neighbours, of which bias and `add` are given. */
static __device__ __forceinline__ void finish_four(const struct epilogue *e, int row, int column, float4 sums,
                                                   float4 bias, float4 add)
{
    float x[4] = {sums.x, sums.y, sums.z, sums.w};
    const float biases[4] = {bias.x, bias.y, bias.z, bias.w}, adds[4] = {add.x, add.y, add.z, add.w};
    void *to = place_out(e, row, column);
    for (int i = 0; i < 4; i++) {
        if (e->bias)
            x[i] += biases[i];
        if (e->gelu)
            x[i] = gelu(x[i]);
        if (e->add.data)
            x[i] += adds[i];
    }
    if (gives_halves(e))
        *(uint2 *)to = make_uint2(pack(x[0], x[1]), pack(x[2], x[3]));
    else
        *(float4 *)to = make_float4(x[0], x[1], x[2], x[3]);
}

/* Where eight values of a tile's row are: any eight rows that ldmatrix_4 reads at once are in different banks, eight that are
 * neighbours, and the first two or the last two of each four of sixteen. */
static __device__ __forceinline__ int place(int row, int eight)
{
    return row * STEP + (eight ^ row % 8 ^ row / 8 % 2 * 2) * 8;
}

/* Rows of an operand of which a thread copies a part to a tile, every APARTth one. The last row stands for those behind it,
 * whose products nobody stores. */
template <int SIDE, int THREADS> struct copier {
    static constexpr int APART = THREADS / (STEP / 8), N = SIDE / APART;
    const __half *rows[N];
};

template <int SIDE, int THREADS>
static __device__ __forceinline__ void find_rows(struct copier<SIDE, THREADS> *c, const __half *data,
                                                 int stride, int first_row, int n_rows,
                                                 const struct epilogue *windows)
{
    UNROLL
    for (int i = 0; i < c->N; i++) {
        int row = first_row + i * c->APART + (int)threadIdx.x / (STEP / 8);
        row = row < n_rows ? row : n_rows - 1;
        c->rows[i] = data + (size_t)row * (size_t)stride;
        if (windows)
            c->rows[i] += (size_t)window_of(windows, row) * (size_t)windows->in_gap;
    }
}

/* Values first … + STEP − 1 of the rows, zeros from n on. ALIGNED: by 16 bytes. */
template <bool ALIGNED, int SIDE, int THREADS>
static __device__ __forceinline__ void copy_tile(__half *tile, const struct copier<SIDE, THREADS> *c,
                                                 int first, int n)
{
    int eight = (int)threadIdx.x % (STEP / 8), left = n - first - eight * 8;
    left = left < 0 ? 0 : left > 8 ? 8 : left;
    int column = left ? first + eight * 8 : 0;
    UNROLL
    for (int i = 0; i < c->N; i++) {
        __half *to = tile + place(i * c->APART + (int)threadIdx.x / (STEP / 8), eight);
        const __half *from = c->rows[i] + column;
        if (ALIGNED) {
            cp_async_16(to, from, left * (int)sizeof(__half));
        } else {
            for (int k = 0; k < 8; k++)
                to[k] = k < left ? from[k] : __float2half_rn(0.0f);
        }
    }
}

/* sums += a step's part of a warp: 16 rows, 16 outputs in two fragments of 8. A lane's columns of the two are four neighbours:
 * of outputs 0 … 15 the first fragment has 0, 1, 4, 5, 8 and so on, the second one the others. */
template <int M, int N>
static __device__ __forceinline__ void multiply(float sums[M][N][2][4], const __half *in,
                                                const __half *weight)
{
    int lane = (int)threadIdx.x % WARP;
    UNROLL
    for (int k = 0; k < STEP / 8; k += 2) {
        unsigned a[M][4], b[N][4];
        const __half *x = in + place(lane % 16, k + lane / 16);
        const __half *w = weight + place(lane % 8 / 2 * 4 + lane / 16 * 2 + lane % 2, k + lane / 8 % 2);
        UNROLL
        for (int i = 0; i < M; i++)
            ldmatrix_4(a[i], x + i * 16 * STEP);
        UNROLL
        for (int j = 0; j < N; j++)
            ldmatrix_4(b[j], w + j * 16 * STEP);
        UNROLL
        for (int i = 0; i < M; i++) {
            UNROLL
            for (int j = 0; j < N; j++) {
                mma_16816(sums[i][j][0], a[i], b[j]);
                mma_16816(sums[i][j][1], a[i], b[j] + 2);
            }
        }
    }
}

/* Where four neighbours of a block's sums are: a warp that has 8 rows of 16 columns writes to all banks. */
template <int SIDE> static __device__ __forceinline__ float4 *place_sums(float *sums, int row, int column)
{
    return (float4 *)(sums + row * SIDE + (column ^ row % 2 * 16));
}

/* Rows `row` … and columns `out` … of a block, from a warp's registers to where all can read them. */
template <int M, int N, int SIDE>
static __device__ __forceinline__ void put_sums(float *to, int row, int out, const float sums[M][N][2][4])
{
    int lane = (int)threadIdx.x % WARP;
    UNROLL
    for (int i = 0; i < 2 * M * N; i++) {
        const float *first = sums[i / 2 / N][i / 2 % N][0] + i % 2 * 2, *second = first + 4;
        *place_sums<SIDE>(to, row + i / 2 / N * 16 + i % 2 * 8 + lane / 4,
                          out + i / 2 % N * 16 + lane % 4 * 4) =
            make_float4(first[0], first[1], second[0], second[1]);
    }
}

/* A loop over the rows of a block, of which a thread has the same four columns each; not the sums of a warp one behind the other
 * from its registers, for so much code does not stay in the cache of instructions: fetching it took 25 µs on an H100. */
template <int SIDE, int THREADS>
static __device__ __forceinline__ void finish_all(const struct epilogue *e, float *sums, int first_row,
                                                  int first_out)
{
    constexpr int FOURS = SIDE / 4, APART = THREADS / FOURS, BATCH = 4;
    int c = (int)threadIdx.x % FOURS * 4, column = first_out + c, n = e->out.rows - first_row;
    float4 bias = {};
    if (e->vectors && e->bias && column < e->out.cols)
        bias = *(const float4 *)(e->bias + column);
    for (int r = (int)threadIdx.x / FOURS; r < SIDE; r += BATCH * APART) {
        float4 add[BATCH] = {};
        if (!e->vectors) {
            for (int i = 0; i < BATCH * 4; i++) {
                int row = r + i / 4 * APART;
                if (row < n && column + i % 4 < e->out.cols)
                    finish(e, first_row + row, column + i % 4,
                           ((const float *)place_sums<SIDE>(sums, row, c))[i % 4]);
            }
            continue;
        }
        if (column >= e->out.cols)
            return;
        UNROLL
        for (int i = 0; i < BATCH; i++) { /* before anything is stored: `out` may be the same memory */
            int row = r + i * APART;
            if (e->add.data && row < n)
                add[i] = *(const float4 *)added(e, first_row + row, column);
        }
        UNROLL
        for (int i = 0; i < BATCH; i++) {
            int row = r + i * APART;
            if (row < n)
                finish_four(e, first_row + row, column, *place_sums<SIDE>(sums, row, c), bias, add[i]);
        }
    }
}

/* Rows of 64 half floats, whole lines of memory, are copied faster than shorter ones; eight warps share the smaller part of
 * their operands each, but hide more of what each waits for than four do. */
template <int SIDE> struct block {
    static constexpr int WARPS = SIDE == 128 ? 8 : 4, THREADS = WARPS * WARP; /* two rows of warps */
    static constexpr int M = SIDE / 2 / 16, N = SIDE / (WARPS / 2) / 16; /* of a warp: 16 rows, 16 outputs */
    static constexpr int TILES = 2 * SIDE * STEP;
    static constexpr size_t BYTES = STAGES * TILES * sizeof(__half); /* more than the sums need */
};

template <int SIDE, bool ALIGNED>
static __global__ void __launch_bounds__(block<SIDE>::THREADS, AT_ONCE)
    linear_kernel(struct mat in, struct engine_weight weight, struct epilogue epilogue)
{
    DYNAMIC_SHARED(__half, tiles); /* [STAGES][SIDE rows of `in`, SIDE of the weight][STEP] */
    using b = block<SIDE>;
    int first_row = (int)blockIdx.y * SIDE, first_out = (int)blockIdx.x * SIDE;
    int n_in = weight.n_in, n_steps = (n_in + STEP - 1) / STEP, warp = (int)threadIdx.x / WARP;
    int row = warp / (b::WARPS / 2) * b::M * 16, out = warp % (b::WARPS / 2) * b::N * 16;
    struct copier<SIDE, b::THREADS> x, w;
    float sums[b::M][b::N][2][4] = {};
    find_rows(&x, (const __half *)in.data, in.stride, first_row, in.rows, &epilogue);
    find_rows(&w, weight.data, weight.stride, first_out, weight.n_out, (const struct epilogue *)NULL);
    for (int step = 1 - STAGES; step < n_steps; step++) {
        int next = step + STAGES - 1;
        if (step >= 0) {
            cp_async_wait<STAGES - 2>();
            __syncthreads(); /* everybody's part of the tiles is there, and nobody reads those of the step before */
        }
        if (next < n_steps) {
            __half *to = tiles + next % STAGES * b::TILES;
            copy_tile<ALIGNED>(to, &x, next * STEP, n_in);
            copy_tile<true>(to + SIDE * STEP, &w, next * STEP, n_in);
        }
        cp_async_commit(); /* of nothing at the end: there is a group for each step */
        if (step >= 0) {
            const __half *from = tiles + step % STAGES * b::TILES;
            multiply<b::M, b::N>(sums, from + row * STEP, from + (SIDE + out) * STEP);
        }
    }
    __syncthreads(); /* nobody reads the tiles any more */
    put_sums<b::M, b::N, SIDE>((float *)tiles, row, out, sums);
    __syncthreads(); /* all sums are there */
    finish_all<SIDE, b::THREADS>(&epilogue, (float *)tiles, first_row, first_out);
}

static int check(struct cuda_engine *c, const struct linear_args *a)
{
    const struct engine_weight *w = a->weight;
    int n_windows = a->n_windows > 1 ? a->n_windows : 1;
    bool sizes = a->in.cols == w->n_in && a->out.cols == w->n_out && a->in.rows == a->out.rows &&
                 a->in.rows > 0 && a->in.rows % n_windows == 0;
    bool types = is_half(a->in) && is_single_or_half(a->out);
    if (a->add.data) {
        sizes = sizes && a->add.rows == a->out.rows / n_windows && a->add.cols == a->out.cols;
        types = types && a->add.type == DTYPE_F32 && a->out.type == DTYPE_F32;
    }
    if (a->kv) {
        sizes = sizes && a->out.cols == 2 * a->kv->n_head * HEAD && a->layer >= 0 &&
                a->layer < a->kv->n_layer && a->out.rows / n_windows <= a->kv->n_ctx &&
                n_windows <= ENGINE_WINDOWS_MAX;
        for (int i = 0; i < n_windows && sizes; i++)
            sizes = a->slots[i] >= 0 && a->slots[i] < a->kv->n_slots;
    }
    return sizes && types ? 0 : cuda_fail(c, -EINVAL, "linear: types or shapes do not fit");
}

/* --- on top of a product of libcublas -------------------------------------------------------------------------------- */

#define FINISH_THREADS 256

static __global__ void __launch_bounds__(FINISH_THREADS)
    finish_kernel(struct mat product, struct epilogue epilogue)
{
    int column = (int)blockIdx.x * FINISH_THREADS + (int)threadIdx.x, row = (int)blockIdx.y;
    if (column < product.cols)
        finish(&epilogue, row, column,
               ((const float *)product.data)[(size_t)row * (size_t)product.stride + (size_t)column]);
}

/* Whether it was submitted. */
static bool linear_by_cublas(struct cuda_engine *c, const struct linear_args *a,
                             const struct epilogue *epilogue)
{
    if (!c->cublas || c->recording || a->in.rows > 65535 || (a->n_windows > 1 && a->in_gap != 0))
        return false;
    struct mat product = mat_view(cuda_product(c, (size_t)a->out.rows * (size_t)a->out.cols), DTYPE_F32,
                                  a->out.rows, a->out.cols, a->out.cols);
    if (!product.data || !cublas_product(c->cublas, a->in, a->weight, product))
        return false;
    dim3 blocks((unsigned)((product.cols + FINISH_THREADS - 1) / FINISH_THREADS), (unsigned)product.rows);
    LAUNCH(finish_kernel, blocks, FINISH_THREADS, 0, c->stream, product, *epilogue);
    return true;
}

/* --- submitting ------------------------------------------------------------------------------------------------------- */

static bool is_aligned(struct mat m, size_t bytes)
{
    return (size_t)m.stride * dtype_bytes(m.type) % bytes == 0 && (uintptr_t)m.data % bytes == 0;
}

static int tiles_of(int n, int side)
{
    return (n + side - 1) / side;
}

template <int SIDE, bool ALIGNED>
static cudaError_t launch(struct cuda_engine *c, const struct linear_args *a, const struct epilogue *epilogue)
{
    auto *kernel = linear_kernel<SIDE, ALIGNED>;
    const size_t bytes = block<SIDE>::BYTES;
    dim3 blocks((unsigned)tiles_of(a->weight->n_out, SIDE), (unsigned)tiles_of(a->in.rows, SIDE));
    cudaError_t e =
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (e != cudaSuccess)
        return e;
    LAUNCH(kernel, blocks, block<SIDE>::THREADS, bytes, c->stream, a->in, *a->weight, *epilogue);
    return cudaGetLastError();
}

int cuda_linear(struct cuda_engine *c, const struct linear_args *a)
{
    if (check(c, a) < 0)
        return -EINVAL;
    const struct mat bias = mat_view((void *)a->bias, DTYPE_F32, 1, a->out.cols, 0);
    int n_windows = a->n_windows > 1 ? a->n_windows : 1;
    struct epilogue epilogue = {};
    epilogue.bias = a->bias;
    epilogue.gelu = a->gelu;
    epilogue.vectors = a->out.cols % 4 == 0 && a->out_gap % 4 == 0 && is_aligned(bias, 16) &&
                       is_aligned(a->add, 16) && is_aligned(a->out, 4 * dtype_bytes(a->out.type));
    epilogue.add = a->add;
    epilogue.out = a->out;
    epilogue.n_windows = n_windows;
    epilogue.n_each = a->out.rows / n_windows;
    epilogue.in_gap = a->in_gap;
    epilogue.out_gap = a->out_gap;
    if (a->kv) {
        epilogue.kv = *a->kv;
        epilogue.layer = a->layer;
        memcpy(epilogue.slots, a->slots, sizeof(epilogue.slots));
    }
    /* Large blocks read the least, but have to be two for each multiprocessor. */
    bool large = tiles_of(a->in.rows, 128) * tiles_of(a->out.cols, 128) >= 2 * c->n_multiprocessors &&
                 c->shared_most >= block<128>::BYTES;
    cudaError_t e = cudaSuccess;
    if (!linear_by_cublas(c, a, &epilogue))
        e = !is_aligned(a->in, 16) || a->in_gap % 8 != 0 ? launch<64, false>(c, a, &epilogue)
            : large                                      ? launch<128, true>(c, a, &epilogue)
                                                         : launch<64, true>(c, a, &epilogue);
    return cuda_check(c, e ? e : cudaGetLastError(), "linear");
}
