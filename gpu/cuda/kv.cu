/* Keys and values: storing an encoded window, and copying the beginning of a slot. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>

#define STORE_THREADS 128

/* A block a position: both halves of its row, head by head. */
static __global__ void __launch_bounds__(STORE_THREADS)
    kv_store_kernel(struct engine_kv kv, int layer, int slot, struct mat k_v)
{
    int pos = (int)blockIdx.x, n_state = kv.n_head * HEAD;
    for (int i = (int)threadIdx.x; i < 2 * n_state; i += STORE_THREADS) {
        size_t from = (size_t)pos * (size_t)k_v.stride + (size_t)i;
        int column = i % n_state;
        __half *block = kv_keys(kv, layer, slot, column / HEAD) + (i < n_state ? 0 : (size_t)kv.n_ctx * HEAD);
        __half *to = block + (size_t)pos * HEAD + column % HEAD;
        *to = k_v.type == DTYPE_F16 ? ((const __half *)k_v.data)[from]
                                    : to_half(((const float *)k_v.data)[from]);
    }
}

int cuda_kv_store(struct cuda_engine *c, const struct kv_store_args *a)
{
    if (a->k_v.rows > a->kv->n_ctx || a->k_v.rows <= 0 || a->slot < 0 || a->slot >= a->kv->n_slots ||
        a->layer < 0 || a->layer >= a->kv->n_layer)
        return cuda_fail(c, -EINVAL, "kv_store outside of the cache");
    if (!is_single_or_half(a->k_v) || a->k_v.cols != 2 * a->kv->n_head * HEAD)
        return cuda_fail(c, -EINVAL, "kv_store: types or shapes do not fit");
    LAUNCH(kv_store_kernel, a->k_v.rows, STORE_THREADS, 0, c->stream, *a->kv, a->layer, a->slot, a->k_v);
    return cuda_check(c, cudaGetLastError(), "kv_store");
}

/* A slot is n_layer · n_head · 2 blocks of n_ctx positions, of which the first n_ctx (the argument) go over. */
int cuda_kv_copy(struct cuda_engine *c, struct engine_kv *kv, int src_slot, int dst_slot, int n_ctx)
{
    if (src_slot < 0 || dst_slot < 0 || src_slot >= kv->n_slots || dst_slot >= kv->n_slots || n_ctx < 0 ||
        n_ctx > kv->n_ctx)
        return cuda_fail(c, -EINVAL, "kv_copy outside of the cache");
    if (src_slot == dst_slot || n_ctx == 0)
        return 0;
    size_t pitch = (size_t)kv->n_ctx * HEAD * sizeof(__half), width = (size_t)n_ctx * HEAD * sizeof(__half);
    return cuda_check(c,
                      cudaMemcpy2DAsync(kv_keys(*kv, 0, dst_slot, 0), pitch, kv_keys(*kv, 0, src_slot, 0),
                                        pitch, width, 2 * (size_t)kv->n_layer * (size_t)kv->n_head,
                                        cudaMemcpyDeviceToDevice, c->stream),
                      "kv_copy");
}
