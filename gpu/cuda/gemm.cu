/* out = act(in · Wᵀ + bias) + add on hundreds of rows.
 *
 * Our own product takes any strides, overlapping rows among them, which make the convolutions. A block has 64 × 64 outputs,
 * a warp 32 × 32, and walks along n_in in steps of 32, the next step's tiles on their way while one's are used. Where
 * libcublas is at hand and the rows are dense it computes the product, and a pass over the result does the rest. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>

#define BLOCK 64 /* rows, and outputs, of a block */
#define STEP  32
#define WARPS 4
#define PITCH (STEP + 8) /* eight rows, 80 bytes apart, are in different banks */
#define TILE  (BLOCK * PITCH)

struct epilogue {
    const float *bias; /* or NULL */
    bool gelu;
    struct mat add; /* data NULL: none */
    struct mat out;
};

static __device__ __forceinline__ void finish(const struct epilogue *e, int row, int column, float x)
{
    if (e->bias)
        x += e->bias[column];
    if (e->gelu)
        x = gelu(x);
    if (e->add.data)
        x += ((const float *)e->add.data)[(size_t)row * (size_t)e->add.stride + (size_t)column];
    store(e->out.data, e->out.type == DTYPE_F16, (size_t)row * (size_t)e->out.stride + (size_t)column, x);
}

/* Rows first_row … + 63 and columns first … + 31 of an operand, zeros where it ends. aligned: by 16 bytes. */
static __device__ __forceinline__ void load_tile(__half *tile, const __half *data, int stride, int first_row,
                                                 int n_rows, int first, int n, bool aligned)
{
    for (int i = (int)threadIdx.x; i < BLOCK * STEP / 8; i += WARPS * WARP) {
        int r = i / (STEP / 8), c = i % (STEP / 8) * 8, row = first_row + r, left = n - first - c;
        left = row >= n_rows || left < 0 ? 0 : left > 8 ? 8 : left;
        const __half *from = left ? data + (size_t)row * (size_t)stride + (size_t)(first + c) : data;
        __half *to = tile + r * PITCH + c;
        if (aligned) {
            cp_async_16(to, from, left * (int)sizeof(__half));
        } else {
            for (int k = 0; k < 8; k++)
                to[k] = k < left ? from[k] : __float2half_rn(0.0f);
        }
    }
}

/* sums [2 of 16 rows][4 of 8 outputs] += a tile's part of a warp. */
static __device__ __forceinline__ void multiply(float sums[2][4][4], const __half *in, const __half *weight)
{
    int lane = (int)threadIdx.x % WARP;
    for (int k = 0; k < STEP; k += 16) {
        unsigned a[2][4];
        for (int i = 0; i < 2; i++)
            ldmatrix_4(a[i], in + (i * 16 + lane % 16) * PITCH + k + lane / 16 * 8);
        for (int j = 0; j < 4; j += 2) {
            unsigned b[4];
            ldmatrix_4(b, weight + (j * 8 + lane / 16 * 8 + lane % 8) * PITCH + k + lane / 8 % 2 * 8);
            for (int i = 0; i < 2; i++) {
                mma_16816(sums[i][j], a[i], b);
                mma_16816(sums[i][j + 1], a[i], b + 2);
            }
        }
    }
}

static __global__ void __launch_bounds__(WARPS *WARP)
    linear_kernel(struct mat in, bool aligned, struct engine_weight weight, struct epilogue epilogue)
{
    SHARED(__half, in_tiles, 2 * TILE);
    SHARED(__half, weight_tiles, 2 * TILE);
    const __half *x = (const __half *)in.data;
    int first_row = (int)blockIdx.x * BLOCK, first_out = (int)blockIdx.y * BLOCK, n_in = weight.n_in;
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    int row = warp / 2 * 32, out = warp % 2 * 32; /* of the warp, in the block */
    float sums[2][4][4] = {};
    load_tile(in_tiles, x, in.stride, first_row, in.rows, 0, n_in, aligned);
    load_tile(weight_tiles, weight.data, weight.stride, first_out, weight.n_out, 0, n_in, true);
    cp_async_commit();
    for (int first = 0, tile = 0; first < n_in; first += STEP, tile ^= 1) {
        int next = first + STEP, other = (tile ^ 1) * TILE;
        if (next < n_in) {
            load_tile(in_tiles + other, x, in.stride, first_row, in.rows, next, n_in, aligned);
            load_tile(weight_tiles + other, weight.data, weight.stride, first_out, weight.n_out, next, n_in,
                      true);
            cp_async_commit();
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads(); /* everybody's part of the tiles is there */
        multiply(sums, in_tiles + tile * TILE + row * PITCH, weight_tiles + tile * TILE + out * PITCH);
        __syncthreads(); /* nobody reads them any more */
    }
    UNROLL
    for (int i = 0; i < 2 * 4 * 4; i++) {
        int r = first_row + row + i / 16 * 16 + i % 4 / 2 * 8 + lane / 4;
        int o = first_out + out + i / 4 % 4 * 8 + lane % 4 * 2 + i % 2;
        if (r < in.rows && o < weight.n_out)
            finish(&epilogue, r, o, sums[i / 16][i / 4 % 4][i % 4]);
    }
}

static int check(struct cuda_engine *c, const struct linear_args *a)
{
    const struct engine_weight *w = a->weight;
    bool sizes =
        a->in.cols == w->n_in && a->out.cols == w->n_out && a->in.rows == a->out.rows && a->in.rows > 0;
    bool types = is_half(a->in) && is_single_or_half(a->out);
    if (a->add.data) {
        sizes = sizes && a->add.rows == a->out.rows && a->add.cols == a->out.cols;
        types = types && a->add.type == DTYPE_F32 && a->out.type == DTYPE_F32;
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
    if (!c->cublas || c->recording || a->in.rows > 65535)
        return false;
    struct mat product = mat_view(cuda_product(c, (size_t)a->out.rows * (size_t)a->out.cols), DTYPE_F32,
                                  a->out.rows, a->out.cols, a->out.cols);
    if (!product.data || !cublas_product(c->cublas, a->in, a->weight, product))
        return false;
    dim3 blocks((unsigned)((product.cols + FINISH_THREADS - 1) / FINISH_THREADS), (unsigned)product.rows);
    LAUNCH(finish_kernel, blocks, FINISH_THREADS, 0, c->stream, product, *epilogue);
    return true;
}

int cuda_linear(struct cuda_engine *c, const struct linear_args *a)
{
    if (check(c, a) < 0)
        return -EINVAL;
    const struct epilogue epilogue = {a->bias, a->gelu, a->add, a->out};
    if (!linear_by_cublas(c, a, &epilogue)) {
        bool aligned = a->in.stride % 8 == 0 && (uintptr_t)a->in.data % 16 == 0;
        dim3 blocks((unsigned)((a->in.rows + BLOCK - 1) / BLOCK),
                    (unsigned)((a->weight->n_out + BLOCK - 1) / BLOCK));
        LAUNCH(linear_kernel, blocks, WARPS * WARP, 0, c->stream, a->in, aligned, *a->weight, epilogue);
    }
    return cuda_check(c, cudaGetLastError(), "linear");
}
