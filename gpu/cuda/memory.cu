/* Memory of the GPU: plain, weights, keys and values; and the host's that it reads. Immediate, not ordered with the
 * operations: what has to be copied goes through a stream of its own and is waited for. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>
#include <stdlib.h>

/* Zeroed before it is given out, in another stream: not ordered with the operations. */
void *cuda_device_alloc(struct cuda_engine *c, size_t bytes)
{
    void *p = NULL;
    size_t some = bytes ? bytes : 1;
    if (cudaMalloc(&p, some) != cudaSuccess) {
        cudaGetLastError(); /* the caller says it */
        return NULL;
    }
    if (cudaMemsetAsync(p, 0, some, c->setup) == cudaSuccess &&
        cudaStreamSynchronize(c->setup) == cudaSuccess)
        return p;
    cudaGetLastError();
    cudaFree(p);
    return NULL;
}

void *cuda_alloc(struct engine *e, size_t bytes)
{
    return cuda_device_alloc(cuda_of(e), bytes);
}

void cuda_free(struct engine *e, void *p)
{
    cudaFree(p);
}

float *cuda_product(struct cuda_engine *c, size_t n)
{
    if (n > c->product_floats) {
        cudaFree(c->product);
        c->product = (float *)cuda_device_alloc(c, n * sizeof(float));
        c->product_floats = c->product ? n : 0;
    }
    return c->product;
}

int cuda_host_register(struct engine *e, void *p, size_t bytes, struct err *err)
{
    cudaError_t r = cudaHostRegister(p, bytes, cudaHostRegisterDefault);
    if (r == cudaSuccess)
        return 0;
    cudaGetLastError();
    return err_set(err, -EIO, "engine cuda: cannot pin %zu kB of audio: %s", bytes / 1024,
                   cudaGetErrorString(r));
}

void cuda_host_unregister(struct engine *e, void *p)
{
    if (cudaHostUnregister(p) != cudaSuccess)
        cudaGetLastError(); /* was never pinned: registering it failed, which is not fatal */
}

/* What is left, for messages. */
int cuda_no_memory(struct err *err, const char *what, size_t bytes)
{
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    cudaGetLastError(); /* both have been dealt with */
    return err_set(err, -ENOMEM, "engine cuda: no memory for %s of %zu MB: %zu of the GPU's %zu MB are free",
                   what, bytes >> 20, available >> 20, total >> 20);
}

static int put_rows(struct cuda_engine *c, struct engine_weight *w, int first, int n, const float *values,
                    __half *row, struct err *err)
{
    for (int r = 0; r < n; r++) {
        for (int i = 0; i < w->stride; i++) {
            float x = i < w->n_in ? values[(size_t)(first + r) * (size_t)w->n_in + (size_t)i] : 0.0f;
            if (!(x >= -65504.0f && x <= 65504.0f))
                return err_set(err, -ERANGE, "engine cuda: a weight of %g does not fit half precision",
                               (double)x);
            row[(size_t)r * (size_t)w->stride + (size_t)i] = __float2half_rn(x);
        }
    }
    size_t values_of_row = (size_t)w->stride;
    cudaError_t e =
        cudaMemcpyAsync(w->data + (size_t)first * values_of_row, row,
                        (size_t)n * values_of_row * sizeof(__half), cudaMemcpyHostToDevice, c->setup);
    e = e ? e : cudaStreamSynchronize(c->setup);
    return e ? err_set(err, -EIO, "engine cuda: a weight: %s", cudaGetErrorString(e)) : 0;
}

void cuda_weight_destroy(struct engine *e, struct engine_weight *w)
{
    if (w)
        cudaFree(w->data);
    free(w);
}

int cuda_weight_create(struct engine *e, enum weight_use use, int n_out, int n_in, const float *values,
                       struct engine_weight **out, struct err *err)
{
    enum { VALUES_AT_ONCE = 1 << 21 };
    struct engine_weight *w = (struct engine_weight *)calloc(1, sizeof(*w));
    int stride = (n_in + 7) / 8 * 8, at_once = stride < VALUES_AT_ONCE ? VALUES_AT_ONCE / stride : 1, r = 0;
    __half *rows = (__half *)malloc((size_t)at_once * (size_t)stride * sizeof(__half));
    size_t bytes = (size_t)n_out * (size_t)stride * sizeof(__half);
    if (!w || !rows) {
        r = err_set(err, -ENOMEM, "out of memory for a weight");
    } else {
        w->n_out = n_out;
        w->n_in = n_in;
        w->stride = stride;
        if (cudaMalloc((void **)&w->data, bytes) != cudaSuccess)
            r = cuda_no_memory(err, "a weight", bytes);
    }
    for (int first = 0; first < n_out && r == 0; first += at_once) {
        int n = n_out - first < at_once ? n_out - first : at_once;
        r = put_rows(cuda_of(e), w, first, n, values, rows, err);
    }
    free(rows);
    if (r < 0)
        cuda_weight_destroy(e, w);
    else
        *out = w;
    return r;
}

int cuda_kv_create(struct engine *e, int n_layer, int n_slots, int n_ctx, int n_head, struct engine_kv **out,
                   struct err *err)
{
    struct engine_kv *kv = (struct engine_kv *)calloc(1, sizeof(*kv));
    size_t bytes =
        (size_t)n_layer * (size_t)n_slots * (size_t)n_head * 2 * (size_t)n_ctx * HEAD * sizeof(__half);
    if (!kv)
        return err_set(err, -ENOMEM, "out of memory for keys and values");
    *kv = {n_layer, n_slots, n_ctx, n_head, (__half *)cuda_device_alloc(cuda_of(e), bytes)};
    if (!kv->data) {
        free(kv);
        return cuda_no_memory(err, "keys and values", bytes);
    }
    *out = kv;
    return 0;
}

void cuda_kv_destroy(struct engine *e, struct engine_kv *kv)
{
    if (kv)
        cudaFree(kv->data);
    free(kv);
}
