/* y = (x − mean) / √(variance + 1e-5) · gamma + beta: a warp a row, three passes over it, of which two find it in the
 * nearest cache. Bytes: rows · cols · (4 in + 2 or 4 out). */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>

#define ROWS_A_BLOCK 4

static __global__ void __launch_bounds__(ROWS_A_BLOCK *WARP)
    layer_norm_kernel(struct mat in, const float *gamma, const float *beta, struct mat out)
{
    int row = (int)blockIdx.x * ROWS_A_BLOCK + (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    if (row >= in.rows) /* a whole warp */
        return;
    const float *x = (const float *)in.data + (size_t)row * (size_t)in.stride;
    float sum = 0.0f, squares = 0.0f;
    for (int i = lane; i < in.cols; i += WARP)
        sum += x[i];
    const float mean = warp_sum(sum) / (float)in.cols;
    for (int i = lane; i < in.cols; i += WARP)
        squares += (x[i] - mean) * (x[i] - mean);
    const float scale = rsqrtf(warp_sum(squares) / (float)in.cols + 1e-5f);
    for (int i = lane; i < in.cols; i += WARP)
        store(out.data, out.type == DTYPE_F16, (size_t)row * (size_t)out.stride + (size_t)i,
              (x[i] - mean) * scale * gamma[i] + beta[i]);
}

int cuda_layer_norm(struct cuda_engine *c, const struct layer_norm_args *a)
{
    if (a->in.type != DTYPE_F32 || !is_single_or_half(a->out) || a->in.rows != a->out.rows ||
        a->in.cols != a->out.cols || a->in.cols <= 0 || a->in.rows <= 0)
        return cuda_fail(c, -EINVAL, "layer_norm: types or shapes do not fit");
    int blocks = (a->in.rows + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK;
    LAUNCH(layer_norm_kernel, blocks, ROWS_A_BLOCK * WARP, 0, c->stream, a->in, a->gamma, a->beta, a->out);
    return cuda_check(c, cudaGetLastError(), "layer_norm");
}
