/* y = (x − mean) / √(variance + 1e-5) · gamma + beta: a warp a row, which it has in registers, N values a lane. Bytes:
 * rows · cols · (4 in + 2 or 4 out). */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>

#define ROWS_A_BLOCK 4

template <int N>
static __global__ void __launch_bounds__(ROWS_A_BLOCK *WARP, 8)
    layer_norm_kernel(struct mat in, const float *gamma, const float *beta, struct mat out)
{
    int row = (int)blockIdx.x * ROWS_A_BLOCK + (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    if (row >= in.rows) /* a whole warp */
        return;
    const float *from = (const float *)in.data + (size_t)row * (size_t)in.stride + lane;
    const int n = in.cols - lane; /* values from the lane's first one on */
    float x[N], sum = 0.0f, squares = 0.0f;
    UNROLL
    for (int i = 0; i < N; i++)
        x[i] = i * WARP < n ? from[i * WARP] : 0.0f;
    UNROLL
    for (int i = 0; i < N; i++)
        sum += x[i];
    const float mean = warp_sum(sum) / (float)in.cols;
    UNROLL
    for (int i = 0; i < N; i++)
        squares += i * WARP < n ? (x[i] - mean) * (x[i] - mean) : 0.0f;
    const float scale = rsqrtf(warp_sum(squares) / (float)in.cols + 1e-5f);
    UNROLL
    for (int i = 0; i < N; i++) {
        int column = i * WARP + lane;
        if (i * WARP < n)
            store(out.data, out.type == DTYPE_F16, (size_t)row * (size_t)out.stride + (size_t)column,
                  (x[i] - mean) * scale * gamma[column] + beta[column]);
    }
}

int cuda_layer_norm(struct cuda_engine *c, const struct layer_norm_args *a)
{
    if (a->in.type != DTYPE_F32 || !is_single_or_half(a->out) || a->in.rows != a->out.rows ||
        a->in.cols != a->out.cols || a->in.cols <= 0 || a->in.cols > 40 * WARP || a->in.rows <= 0)
        return cuda_fail(c, -EINVAL, "layer_norm: types or shapes do not fit");
    auto *kernel = a->in.cols <= 12 * WARP   ? layer_norm_kernel<12> /* tiny */
                   : a->in.cols <= 16 * WARP ? layer_norm_kernel<16>
                   : a->in.cols <= 24 * WARP ? layer_norm_kernel<24>
                                             : layer_norm_kernel<40>;
    int blocks = (a->in.rows + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK;
    LAUNCH(kernel, blocks, ROWS_A_BLOCK * WARP, 0, c->stream, a->in, a->gamma, a->beta, a->out);
    return cuda_check(c, cudaGetLastError(), "layer_norm");
}
