/* Memory of the GPU: plain, weights, keys and values; and the host's that it reads. Immediate, not ordered with the
 * operations: what has to be copied goes through a stream of its own and is waited for. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>
#include <stdlib.h>

int cuda_memory_error(struct err *err, cudaError_t e, const char *what, size_t bytes)
{
    size_t available = 0, total = 0;
    if (e == cudaErrorMemoryAllocation)
        cudaMemGetInfo(&available, &total);
    cudaGetLastError(); /* all have been dealt with */
    if (e != cudaErrorMemoryAllocation)
        return err_set(err, -EIO, "engine cuda: memory for %s: %s", what, cudaGetErrorString(e));
    return err_set(err, -ENOMEM, "engine cuda: no memory for %s of %zu MB: %zu of the GPU's %zu MB are free",
                   what, bytes >> 20, available >> 20, total >> 20);
}

cudaError_t cuda_to_device(struct cuda_engine *c, void *to, const void *from, size_t bytes)
{
    cudaError_t e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, c->setup);
    return e ? e : cudaStreamSynchronize(c->setup);
}

/* Zeroed in another stream before it is given out: not ordered with the operations. */
void *cuda_device_alloc(struct cuda_engine *c, size_t bytes, const char *what, struct err *err)
{
    void *p = NULL;
    size_t some = bytes ? bytes : 1;
    cudaError_t e = cudaMalloc(&p, some);
    e = e ? e : cudaMemsetAsync(p, 0, some, c->setup);
    e = e ? e : cudaStreamSynchronize(c->setup);
    if (e == cudaSuccess)
        return p;
    cudaFree(p);
    cuda_memory_error(err, e, what, bytes);
    return NULL;
}

void *cuda_alloc(struct engine *e, size_t bytes, struct err *err)
{
    return cuda_device_alloc(cuda_of(e), bytes, "the model's buffers", err);
}

void cuda_free(struct engine *e, void *p)
{
    cudaFree(p);
}

float *cuda_product(struct cuda_engine *c, size_t n)
{
    if (n > c->product_floats) {
        cudaFree(c->product);
        c->product = (float *)cuda_device_alloc(c, n * sizeof(float), "a product", NULL);
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
        cudaGetLastError(); /* the device is lost, and with it what was pinned */
}

/* A row of a weight, with zeros behind it, as half floats. */
static void put_halves(const float *values, const struct engine_weight *w, __half *to)
{
    for (int i = 0; i < w->stride; i++)
        to[i] = __float2half_rn(i < w->n_in ? values[i] : 0.0f);
}

/* The same as whole numbers of a unit for each UNIT_INPUTS of them, −127 to 127 and 128 more: the greatest is 127. */
static void put_bytes(const float *values, const struct engine_weight *w, uint8_t *to, float *units)
{
    for (int first = 0; first < w->stride; first += UNIT_INPUTS) {
        int end = first + UNIT_INPUTS < w->stride ? first + UNIT_INPUTS : w->stride;
        float greatest = 0.0f;
        for (int i = first; i < end && i < w->n_in; i++)
            greatest = fmaxf(greatest, fabsf(values[i]));
        const float unit = greatest / 127.0f;
        for (int i = first; i < end; i++) {
            float x = i < w->n_in && unit > 0.0f ? values[i] / unit : 0.0f;
            to[i] = (uint8_t)(128 +
                              (int)rintf(fminf(fmaxf(x, -127.0f), 127.0f))); /* a tiny unit is a rough one */
        }
        units[first / UNIT_INPUTS] = unit;
    }
}

static int send(struct cuda_engine *c, void *to, const void *from, size_t bytes, struct err *err)
{
    cudaError_t e = cuda_to_device(c, to, from, bytes);
    return e ? err_set(err, -EIO, "engine cuda: a weight: %s", cudaGetErrorString(e)) : 0;
}

/* n outputs from `first` on, through `rows` and `units` for as many. */
static int put_rows(struct cuda_engine *c, struct engine_weight *w, int first, int n, const float *values,
                    char *rows, float *units, struct err *err)
{
    for (int r = 0; r < n; r++) {
        const float *row = values + (size_t)(first + r) * (size_t)w->n_in;
        for (int i = 0; i < w->n_in; i++) {
            if (!(row[i] >= -65504.0f && row[i] <= 65504.0f))
                return err_set(err, -ERANGE, "engine cuda: a weight of %g does not fit half precision",
                               (double)row[i]);
        }
        char *to = rows + (size_t)r * weight_row_bytes(w);
        if (w->bytes)
            put_bytes(row, w, (uint8_t *)to, units + r * weight_units(w));
        else
            put_halves(row, w, (__half *)to);
    }
    int e = send(c, (void *)weight_row(w, first), rows, (size_t)n * weight_row_bytes(w), err);
    size_t n_units = (size_t)weight_units(w);
    return e < 0 || !w->bytes
               ? e
               : send(c, w->units + (size_t)first * n_units, units, (size_t)n * n_units * sizeof(float), err);
}

void cuda_weight_destroy(struct engine *e, struct engine_weight *w)
{
    if (w) {
        cudaFree(w->data);
        cudaFree(w->bytes);
        cudaFree(w->units);
    }
    free(w);
}

static int take_weight(struct engine_weight *w, bool in_bytes, struct err *err)
{
    size_t values = (size_t)w->n_out * (size_t)w->stride, halves = in_bytes ? 0 : values * sizeof(__half),
           units = in_bytes ? (size_t)w->n_out * (size_t)weight_units(w) * sizeof(float) : 0;
    cudaError_t e = in_bytes ? cudaMalloc((void **)&w->bytes, values) : cudaMalloc((void **)&w->data, halves);
    if (e == cudaSuccess && in_bytes)
        e = cudaMalloc((void **)&w->units, units);
    return e ? cuda_memory_error(err, e, "a weight", in_bytes ? values + units : halves) : 0;
}

int cuda_weight_create(struct engine *e, enum weight_use use, int n_out, int n_in, const float *values,
                       struct engine_weight **out, struct err *err)
{
    enum { VALUES_AT_ONCE = 1 << 21 };
    struct engine_weight *w = (struct engine_weight *)calloc(1, sizeof(*w));
    int stride = (n_in + 7) / 8 * 8, at_once = stride < VALUES_AT_ONCE ? VALUES_AT_ONCE / stride : 1, r = 0;
    char *rows = (char *)malloc((size_t)at_once * (size_t)stride * sizeof(__half));
    float *units = (float *)malloc((size_t)at_once * (size_t)(stride / UNIT_INPUTS + 1) * sizeof(float));
    if (!w || !rows || !units) {
        r = err_set(err, -ENOMEM, "out of memory for a weight");
    } else {
        w->n_out = n_out;
        w->n_in = n_in;
        w->stride = stride;
        r = take_weight(w, use == WEIGHT_ROWS && cuda_of(e)->bytes, err);
    }
    for (int first = 0; first < n_out && r == 0; first += at_once) {
        int n = n_out - first < at_once ? n_out - first : at_once;
        r = put_rows(cuda_of(e), w, first, n, values, rows, units, err);
    }
    free(rows);
    free(units);
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
    *kv = {n_layer, n_slots, n_ctx, n_head, NULL};
    kv->data = (__half *)cuda_device_alloc(cuda_of(e), bytes, "keys and values", err);
    if (!kv->data) {
        free(kv);
        return err->code;
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
