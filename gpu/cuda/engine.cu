/* The CUDA engine: life, memory, order, graphs.
 *
 * Every operation goes into one stream. Between graph_begin and graph_end that stream is captured. A loop over a graph is a
 * graph of its own with a conditional WHILE node around it, made when it is first launched, so that the GPU goes from
 * token to token without the host; where the driver has no such node, the host looks at the counter before each round. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "gpu/cuda/plugin.h"
}

#define COMPUTE_LEAST 75 /* tensor cores with 8 × 8 fragments */

struct engine_graph {
    cudaGraph_t body;
    cudaGraphExec_t once;
    cudaGraph_t loop_graph; /* around the body, NULL before the first loop */
    cudaGraphExec_t loop;
    const int32_t *n_active; /* that the loop was made for */
    int32_t *rounds;         /* device memory: how many are left */
    struct err err;          /* of an operation that was recorded, for every launch */
};

static struct cuda_engine *cuda_of(struct engine *e)
{
    return (struct cuda_engine *)e;
}

/* --- errors ------------------------------------------------------------------------------------------------------------ */

int cuda_fail(struct cuda_engine *c, int code, const char *fmt, ...)
{
    struct err *err = c->recording ? &c->recording->err : &c->err;
    char message[ERR_MSG_MAX];
    va_list args;
    if (err->code)
        return code;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    return err_set(err, code, "%s", message);
}

int cuda_check(struct cuda_engine *c, cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return 0;
    cudaGetLastError(); /* or the next launch would be taken to have failed */
    int code = e == cudaErrorMemoryAllocation ? -ENOMEM : -EIO;
    return cuda_fail(c, code, "engine cuda: %s: %s", what, cudaGetErrorString(e));
}

/* After the first error nothing is submitted until wait has reported it; a recording goes on by itself. */
static bool is_failed(const struct cuda_engine *c)
{
    return c->recording ? c->recording->err.code != 0 : c->err.code != 0;
}

#define OPERATION(name)                                                                                      \
    static void submit_##name(struct engine *e, const struct name##_args *args)                              \
    {                                                                                                        \
        if (!is_failed(cuda_of(e)))                                                                          \
            cuda_##name(cuda_of(e), args);                                                                   \
    }

OPERATION(mel)
OPERATION(linear)
OPERATION(layer_norm)
OPERATION(attention)
OPERATION(kv_store)
OPERATION(rows_from_slots)
OPERATION(embed)
OPERATION(linear_rows)
OPERATION(self_attention)
OPERATION(cross_attention)
OPERATION(select)
OPERATION(advance)

static void submit_kv_copy(struct engine *e, struct engine_kv *kv, int src_slot, int dst_slot, int n_ctx)
{
    if (!is_failed(cuda_of(e)))
        cuda_kv_copy(cuda_of(e), kv, src_slot, dst_slot, n_ctx);
}

/* --- order ------------------------------------------------------------------------------------------------------------- */

static void copy(struct cuda_engine *c, void *to, const void *from, size_t bytes, const char *what)
{
    if (bytes > 0 && !is_failed(c))
        cuda_check(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, c->stream), what);
}

static void upload(struct engine *e, void *dst, const void *host_src, size_t bytes)
{
    copy(cuda_of(e), dst, host_src, bytes, "upload");
}

static void download(struct engine *e, void *host_dst, const void *src, size_t bytes)
{
    copy(cuda_of(e), host_dst, src, bytes, "download");
}

static int wait(struct engine *e, struct err *err)
{
    struct cuda_engine *c = cuda_of(e);
    cuda_check(c, cudaStreamSynchronize(c->stream), "the GPU failed");
    int code = c->err.code;
    if (code && err)
        *err = c->err;
    c->err.code = 0;
    return code;
}

/* --- graphs ------------------------------------------------------------------------------------------------------------ */

static void graph_destroy(struct engine *e, struct engine_graph *g)
{
    if (!g)
        return;
    if (g->loop)
        cudaGraphExecDestroy(g->loop);
    if (g->loop_graph)
        cudaGraphDestroy(g->loop_graph);
    if (g->once)
        cudaGraphExecDestroy(g->once);
    if (g->body)
        cudaGraphDestroy(g->body);
    cudaFree(g->rounds);
    free(g);
}

static void graph_begin(struct engine *e)
{
    struct cuda_engine *c = cuda_of(e);
    struct engine_graph *g = (struct engine_graph *)calloc(1, sizeof(*g));
    if (!g) {
        cuda_fail(c, -ENOMEM, "engine cuda: out of memory for a graph");
        return;
    }
    if (cudaMalloc((void **)&g->rounds, sizeof(*g->rounds)) != cudaSuccess) {
        cudaGetLastError();
        cuda_fail(c, -ENOMEM, "engine cuda: out of memory for a graph");
        free(g);
        return;
    }
    c->recording = g;
    cuda_check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "recording");
}

static struct engine_graph *graph_end(struct engine *e)
{
    struct cuda_engine *c = cuda_of(e);
    struct engine_graph *g = c->recording;
    if (!g)
        return NULL;
    cuda_check(c, cudaStreamEndCapture(c->stream, &g->body), "recording");
    if (!is_failed(c))
        cuda_check(c, cudaGraphInstantiate(&g->once, g->body, 0), "recording");
    c->recording = NULL;
    return g;
}

static __global__ void set_kernel(int32_t *rounds, int32_t value)
{
    *rounds = value;
}

/* Whether there is another round, asked before each. */
static __global__ void continue_kernel(cudaGraphConditionalHandle handle, const int32_t *n_active,
                                       int32_t *rounds)
{
    bool again = *n_active > 0 && *rounds > 0;
    *rounds -= again;
    cudaGraphSetConditional(handle, again);
}

/* Adds continue_kernel to a graph, behind a node if one is given. *node: itself. */
static cudaError_t add_question(struct cuda_engine *c, struct engine_graph *g, cudaGraph_t to,
                                const cudaGraphNode_t *behind, cudaGraphConditionalHandle handle)
{
    cudaGraph_t same;
    cudaError_t e = cudaStreamBeginCaptureToGraph(c->stream, to, behind, NULL, behind ? 1 : 0,
                                                  cudaStreamCaptureModeThreadLocal);
    if (e != cudaSuccess)
        return e;
    LAUNCH(continue_kernel, 1, 1, 0, c->stream, handle, g->n_active, g->rounds);
    e = cudaGetLastError();
    cudaError_t end = cudaStreamEndCapture(c->stream, &same);
    return e != cudaSuccess ? e : end;
}

static cudaError_t add_while(cudaGraphNode_t *node, cudaGraph_t to, const cudaGraphNode_t *behind,
                             cudaGraphNodeParams *params)
{
#if CUDART_VERSION >= 13000
    return cudaGraphAddNode(node, to, behind, NULL, 1, params);
#else
    return cudaGraphAddNode(node, to, behind, 1, params);
#endif
}

/* question → WHILE { body → question } */
static cudaError_t make_loop(struct cuda_engine *c, struct engine_graph *g, const int32_t *n_active)
{
    cudaGraphConditionalHandle handle;
    cudaGraphNode_t first, loop, body;
    size_t one = 1;
    g->n_active = n_active;
    cudaError_t e = cudaGraphCreate(&g->loop_graph, 0);
    e = e ? e : cudaGraphConditionalHandleCreate(&handle, g->loop_graph, 0, 0);
    e = e ? e : add_question(c, g, g->loop_graph, NULL, handle);
    e = e ? e : cudaGraphGetNodes(g->loop_graph, &first, &one);
    if (e != cudaSuccess)
        return e;
    cudaGraphNodeParams params = {};
    params.type = cudaGraphNodeTypeConditional;
    params.conditional.handle = handle;
    params.conditional.type = cudaGraphCondTypeWhile;
    params.conditional.size = 1;
    e = add_while(&loop, g->loop_graph, &first, &params);
    if (e != cudaSuccess)
        return e;
    cudaGraph_t inside = params.conditional.phGraph_out[0];
    e = cudaGraphAddChildGraphNode(&body, inside, NULL, 0, g->body);
    e = e ? e : add_question(c, g, inside, &body, handle);
    return e ? e : cudaGraphInstantiate(&g->loop, g->loop_graph, 0);
}

/* The loop over this counter, or false where the driver cannot have one. */
static bool has_loop(struct cuda_engine *c, struct engine_graph *g, const int32_t *n_active)
{
    if (c->chains)
        return false;
    if (g->loop && g->n_active == n_active)
        return true;
    if (g->loop)
        cudaGraphExecDestroy(g->loop);
    if (g->loop_graph)
        cudaGraphDestroy(g->loop_graph);
    g->loop = NULL;
    g->loop_graph = NULL;
    c->chains = make_loop(c, g, n_active) != cudaSuccess;
    if (c->chains)
        cudaGetLastError(); /* has been dealt with */
    return !c->chains;
}

static void launch_chain(struct cuda_engine *c, struct engine_graph *g, const int32_t *n_active,
                         int max_times)
{
    for (int i = 0; i < max_times && !is_failed(c); i++) {
        if (n_active) {
            copy(c, c->counter, n_active, sizeof(*n_active), "a loop");
            cuda_check(c, cudaStreamSynchronize(c->stream), "a loop");
            if (*c->counter <= 0)
                return;
        }
        cuda_check(c, cudaGraphLaunch(g->once, c->stream), "a graph");
    }
}

static void graph_launch(struct engine *e, struct engine_graph *g, const int32_t *n_active, int max_times)
{
    struct cuda_engine *c = cuda_of(e);
    if (is_failed(c))
        return;
    if (c->recording) {
        cuda_fail(c, -ENOTSUP, "engine cuda: a graph cannot be launched while another one is recorded");
    } else if (g->err.code) {
        c->err = g->err;
    } else if (!n_active || !has_loop(c, g, n_active)) {
        launch_chain(c, g, n_active, max_times);
    } else if (max_times > 0) {
        LAUNCH(set_kernel, 1, 1, 0, c->stream, g->rounds, max_times);
        cuda_check(c, cudaGetLastError(), "a loop");
        cuda_check(c, cudaGraphLaunch(g->loop, c->stream), "a loop");
    }
}

/* --- memory ------------------------------------------------------------------------------------------------------------ */

/* Zeroed before it is given out, in another stream: not ordered with the operations. */
static void *device_alloc(struct cuda_engine *c, size_t bytes)
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

static void *engine_alloc(struct engine *e, size_t bytes)
{
    return device_alloc(cuda_of(e), bytes);
}

static void engine_free(struct engine *e, void *p)
{
    cudaFree(p);
}

float *cuda_product(struct cuda_engine *c, size_t n)
{
    if (n > c->product_floats) {
        cudaFree(c->product);
        c->product = (float *)device_alloc(c, n * sizeof(float));
        c->product_floats = c->product ? n : 0;
    }
    return c->product;
}

static int host_register(struct engine *e, void *p, size_t bytes, struct err *err)
{
    cudaError_t r = cudaHostRegister(p, bytes, cudaHostRegisterDefault);
    if (r == cudaSuccess)
        return 0;
    cudaGetLastError();
    return err_set(err, -EIO, "engine cuda: cannot pin %zu kB of audio: %s", bytes / 1024,
                   cudaGetErrorString(r));
}

static void host_unregister(struct engine *e, void *p)
{
    if (cudaHostUnregister(p) != cudaSuccess)
        cudaGetLastError(); /* was never pinned: registering it failed, which is not fatal */
}

/* What is left, for messages. */
static int no_memory(struct err *err, const char *what, size_t bytes)
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

static void weight_destroy(struct engine *e, struct engine_weight *w)
{
    if (w)
        cudaFree(w->data);
    free(w);
}

static int weight_create(struct engine *e, enum weight_use use, int n_out, int n_in, const float *values,
                         struct engine_weight **out, struct err *err)
{
    enum { ROWS_AT_ONCE = 64 };
    struct engine_weight *w = (struct engine_weight *)calloc(1, sizeof(*w));
    int stride = (n_in + 7) / 8 * 8, r = 0;
    __half *rows = (__half *)malloc((size_t)ROWS_AT_ONCE * (size_t)stride * sizeof(__half));
    size_t bytes = (size_t)n_out * (size_t)stride * sizeof(__half);
    if (!w || !rows) {
        r = err_set(err, -ENOMEM, "out of memory for a weight");
    } else {
        w->n_out = n_out;
        w->n_in = n_in;
        w->stride = stride;
        if (cudaMalloc((void **)&w->data, bytes) != cudaSuccess)
            r = no_memory(err, "a weight", bytes);
    }
    for (int first = 0; first < n_out && r == 0; first += ROWS_AT_ONCE) {
        int n = n_out - first < ROWS_AT_ONCE ? n_out - first : ROWS_AT_ONCE;
        r = put_rows(cuda_of(e), w, first, n, values, rows, err);
    }
    free(rows);
    if (r < 0)
        weight_destroy(e, w);
    else
        *out = w;
    return r;
}

static int kv_create(struct engine *e, int n_layer, int n_slots, int n_ctx, int n_head,
                     struct engine_kv **out, struct err *err)
{
    struct engine_kv *kv = (struct engine_kv *)calloc(1, sizeof(*kv));
    size_t bytes =
        (size_t)n_layer * (size_t)n_slots * (size_t)n_head * 2 * (size_t)n_ctx * HEAD * sizeof(__half);
    if (!kv)
        return err_set(err, -ENOMEM, "out of memory for keys and values");
    *kv = {n_layer, n_slots, n_ctx, n_head, (__half *)device_alloc(cuda_of(e), bytes)};
    if (!kv->data) {
        free(kv);
        return no_memory(err, "keys and values", bytes);
    }
    *out = kv;
    return 0;
}

static void kv_destroy(struct engine *e, struct engine_kv *kv)
{
    if (kv)
        cudaFree(kv->data);
    free(kv);
}

/* --- life -------------------------------------------------------------------------------------------------------------- */

static void destroy(struct engine *e)
{
    struct cuda_engine *c = cuda_of(e);
    cublas_close(c->cublas);
    cuda_mel_destroy(c->mel);
    cudaFree(c->product);
    cudaFree(c->partial);
    cudaFreeHost(c->counter);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    if (c->setup)
        cudaStreamDestroy(c->setup);
    free(c);
}

static const struct engine_vtable vtable = {
    .name = "cuda",
    .destroy = destroy,
    .alloc = engine_alloc,
    .free = engine_free,
    .host_register = host_register,
    .host_unregister = host_unregister,
    .weight_create = weight_create,
    .weight_destroy = weight_destroy,
    .kv_create = kv_create,
    .kv_destroy = kv_destroy,
    .upload = upload,
    .download = download,
    .wait = wait,
    .graph_begin = graph_begin,
    .graph_end = graph_end,
    .graph_destroy = graph_destroy,
    .graph_launch = graph_launch,
    .mel = submit_mel,
    .linear = submit_linear,
    .layer_norm = submit_layer_norm,
    .attention = submit_attention,
    .kv_store = submit_kv_store,
    .rows_from_slots = submit_rows_from_slots,
    .embed = submit_embed,
    .linear_rows = submit_linear_rows,
    .self_attention = submit_self_attention,
    .cross_attention = submit_cross_attention,
    .select = submit_select,
    .advance = submit_advance,
    .kv_copy = submit_kv_copy,
    .beam_select = NULL,
    .beam_advance = NULL,
};

static int find_device(cudaDeviceProp *device, struct err *err)
{
    int driver = 0, n = 0;
    const int needed = CUDART_VERSION / 1000;
    cudaDriverGetVersion(&driver);
    cudaError_t e = cudaGetDeviceCount(&n);
    if (driver == 0)
        return err_set(err, -ENODEV,
                       "engine cuda: there is no NVIDIA driver; install one, or use --engine host");
    if (e == cudaErrorInsufficientDriver)
        return err_set(
            err, -ENODEV,
            "engine cuda: the NVIDIA driver knows CUDA up to %d.%d, this engine needs %d.0; update the "
            "driver, or use --engine host",
            driver / 1000, driver % 1000 / 10, needed);
    if (e == cudaErrorNoDevice || (e == cudaSuccess && n == 0))
        return err_set(err, -ENODEV, "engine cuda: there is no NVIDIA GPU; use --engine host");
    e = e ? e : cudaSetDevice(0);
    e = e ? e : cudaGetDeviceProperties(device, 0);
    if (e != cudaSuccess)
        return err_set(err, -ENODEV, "engine cuda: the GPU cannot be used: %s", cudaGetErrorString(e));
    if (device->major * 10 + device->minor < COMPUTE_LEAST)
        return err_set(err, -ENODEV, "engine cuda: %s is too old (compute capability %d.%d, 7.5 is needed)",
                       device->name, device->major, device->minor);
    return 0;
}

/* A first launch finds out whether this build has code for the GPU. */
static int start(struct cuda_engine *c, const cudaDeviceProp *device, struct err *err)
{
    cudaError_t e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    e = e ? e : cudaStreamCreateWithFlags(&c->setup, cudaStreamNonBlocking);
    e = e ? e : cudaHostAlloc((void **)&c->counter, sizeof(*c->counter), cudaHostAllocDefault);
    if (e == cudaSuccess) {
        size_t floats = (size_t)CUDA_ROWS_MAX * CUDA_HEADS_MAX * CROSS_PARTS * PARTIAL_FLOATS;
        c->partial = (float *)device_alloc(c, floats * sizeof(float));
        if (!c->partial)
            return no_memory(err, "attention", floats * sizeof(float));
        LAUNCH(set_kernel, 1, 1, 0, c->stream, (int32_t *)c->partial, 0);
        e = cudaGetLastError();
        e = e ? e : cudaStreamSynchronize(c->stream);
    }
    if (e == cudaErrorNoKernelImageForDevice)
        return err_set(err, -ENODEV, "engine cuda: it was not built for %s (compute capability %d.%d)",
                       device->name, device->major, device->minor);
    if (e != cudaSuccess)
        return err_set(err, e == cudaErrorMemoryAllocation ? -ENOMEM : -EIO,
                       "engine cuda: %s does not start: %s", device->name, cudaGetErrorString(e));
    return cuda_mel_create(c->options.n_mels, c, err);
}

extern "C" __attribute__((visibility("default"))) int
captiond_cuda_open(const struct cuda_plugin_terms *terms, const struct engine_options *options,
                   struct engine **out, struct err *err)
{
    const struct cuda_plugin_terms ours = cuda_plugin_ours();
    cudaDeviceProp device;
    if (memcmp(terms, &ours, sizeof(ours)) != 0)
        return err_set(err, -ENOTSUP,
                       "engine cuda: %s is of version %s, the program of %.15s; install both anew",
                       CUDA_PLUGIN_FILE, ours.version, terms->version);
    if (options->precision == PRECISION_F32)
        return err_set(err, -ENOTSUP, "engine cuda: it computes in half precision; --engine host has f32");
    int r = find_device(&device, err);
    if (r < 0)
        return r;
    struct cuda_engine *c = (struct cuda_engine *)calloc(1, sizeof(*c));
    if (!c)
        return err_set(err, -ENOMEM, "out of memory for the engine");
    c->base.v = &vtable;
    c->base.wide_type = DTYPE_F16;
    snprintf(c->base.name, sizeof(c->base.name), "cuda f16 (%.30s)", device.name);
    c->options = *options;
    c->n_multiprocessors = device.multiProcessorCount;
    r = start(c, &device, err);
    if (r < 0) {
        destroy(&c->base);
        cudaGetLastError();
        return r;
    }
    c->cublas = cublas_open(c->stream);
    *out = &c->base;
    return 0;
}
