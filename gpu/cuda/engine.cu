/* The CUDA engine: life, errors, order. Every operation goes into one stream, and waits there for samples that come in another. */
#include "gpu/cuda/select.cuh"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "gpu/cuda/plugin.h"
}

#define COMPUTE_LEAST 75 /* tensor cores with 8 × 8 fragments */

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

bool cuda_failed(const struct cuda_engine *c)
{
    return c->recording ? c->recording->err.code != 0 : c->err.code != 0;
}

#define OPERATION(name)                                                                                      \
    static void submit_##name(struct engine *e, const struct name##_args *args)                              \
    {                                                                                                        \
        struct cuda_engine *c = cuda_of(e);                                                                  \
        if (c->recording)                                                                                    \
            step_note(c->recording->notes, args);                                                            \
        if (!cuda_failed(c))                                                                                 \
            cuda_##name(c, args);                                                                            \
    }

ENGINE_OPERATIONS(OPERATION)

/* What is submitted now is nothing that a step has. */
static void note_other(struct cuda_engine *c)
{
    if (!c->recording)
        return;
    step_note_other(c->recording->notes);
    c->recording->step_pos = NULL;
}

static void submit_kv_copy(struct engine *e, struct engine_kv *kv, int src_slot, int dst_slot, int n_ctx)
{
    note_other(cuda_of(e));
    if (!cuda_failed(cuda_of(e)))
        cuda_kv_copy(cuda_of(e), kv, src_slot, dst_slot, n_ctx);
}

/* --- order ------------------------------------------------------------------------------------------------------------- */

void cuda_copy(struct cuda_engine *c, void *to, const void *from, size_t bytes, const char *what)
{
    note_other(c);
    if (bytes > 0 && !cuda_failed(c))
        cuda_check(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, c->stream), what);
}

static void upload(struct engine *e, void *dst, const void *host_src, size_t bytes)
{
    cuda_copy(cuda_of(e), dst, host_src, bytes, "upload");
}

static void download(struct engine *e, void *host_dst, const void *src, size_t bytes)
{
    cuda_download(cuda_of(e), host_dst, src, bytes);
}

static int wait(struct engine *e, struct err *err)
{
    struct cuda_engine *c = cuda_of(e);
    cuda_synchronize(c);
    int code = c->err.code;
    if (code && err)
        *err = c->err;
    c->err.code = 0;
    return code;
}

/* --- life -------------------------------------------------------------------------------------------------------------- */

static int n_engines; /* of the process, whose threads open and close them one at a time */

static void destroy(struct engine *e)
{
    struct cuda_engine *c = cuda_of(e);
    cublas_close(c->cublas);
    cuda_mel_destroy(c->mel);
    cuda_downloads_destroy(c->downloads);
    cudaFree(c->product);
    cudaFree(c->partial);
    cudaFree(c->parts_done);
    cudaFree(c->parts);
    cudaFreeHost(c->counter);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    if (c->setup)
        cudaStreamDestroy(c->setup);
    if (c->sound)
        cudaStreamDestroy(c->sound);
    free(c);
    if (--n_engines == 0)
        cudaDeviceReset(); /* or what CUDA has for itself takes memory and power until the process ends */
    cudaGetLastError();    /* or a later engine's first launch would be taken to have failed */
}

#define ENTRY(name) .name = submit_##name,

/* clang-format off */
static const struct engine_vtable vtable = {
    .name = "cuda",
    .destroy = destroy,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .host_register = cuda_host_register,
    .host_unregister = cuda_host_unregister,
    .weight_create = cuda_weight_create,
    .weight_destroy = cuda_weight_destroy,
    .kv_create = cuda_kv_create,
    .kv_destroy = cuda_kv_destroy,
    .upload = upload,
    .download = download,
    .kv_copy = submit_kv_copy,
    .wait = wait,
    .graph_begin = cuda_graph_begin,
    .graph_end = cuda_graph_end,
    .graph_destroy = cuda_graph_destroy,
    .graph_launch = cuda_graph_launch,
    ENGINE_OPERATIONS(ENTRY)
};
/* clang-format on */

/* A runtime of CUDA 12 also starts on drivers of 12.0 to 12.3, which know no loops inside graphs, and so cannot load the code
 * that asks for them. */
#define DRIVER_LEAST (CUDART_VERSION < 13000 ? 12040 : CUDART_VERSION / 1000 * 1000)

/* What somebody can do about it whom the runtime's own words do not tell. */
static const char *remedy(cudaError_t e)
{
    switch (e) {
    case cudaErrorSystemDriverMismatch:
        return "; the driver was updated: restart the computer";
    case cudaErrorUnknown:
        return "; if there is no /dev/nvidia-uvm, sudo nvidia-modprobe -u -c=0 makes it";
    case cudaErrorDevicesUnavailable:
        return "; another program may have it to itself";
    default:
        return "";
    }
}

static int find_device(bool yields, cudaDeviceProp *device, struct err *err)
{
    int driver = 0, n = 0;
    cudaDriverGetVersion(&driver);
    cudaError_t e = cudaGetDeviceCount(&n);
    if (driver == 0)
        return err_set(err, -ENODEV,
                       "engine cuda: there is no NVIDIA driver; install one, or use --engine host");
    if (e == cudaErrorInsufficientDriver || driver < DRIVER_LEAST)
        return err_set(
            err, -ENODEV,
            "engine cuda: the NVIDIA driver knows CUDA up to %d.%d, this engine needs %d.%d; update the "
            "driver, or use --engine host",
            driver / 1000, driver % 1000 / 10, DRIVER_LEAST / 1000, DRIVER_LEAST % 1000 / 10);
    if (e == cudaErrorNoDevice || (e == cudaSuccess && n == 0))
        return err_set(err, -ENODEV, "engine cuda: there is no NVIDIA GPU; use --engine host");
    e = e ? e : cudaGetDeviceProperties(device, 0);
    if (e == cudaSuccess && device->major * 10 + device->minor < COMPUTE_LEAST)
        return err_set(err, -ENODEV, "engine cuda: %s is too old (compute capability %d.%d, 7.5 is needed)",
                       device->name, device->major, device->minor);
    if (e == cudaSuccess && yields)
        e = cudaSetDeviceFlags(cudaDeviceScheduleBlockingSync);
    e = e ? e : cudaSetDevice(0); /* from here on the process has memory on the GPU */
    if (e != cudaSuccess)
        return err_set(err, -EIO, "engine cuda: the GPU cannot be used: %s%s", cudaGetErrorString(e),
                       remedy(e));
    return 0;
}

/* A first launch finds out whether this build has code for the GPU. */
static int start(struct cuda_engine *c, const cudaDeviceProp *device, struct err *err)
{
    cudaError_t e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    e = e ? e : cudaStreamCreateWithFlags(&c->setup, cudaStreamNonBlocking);
    e = e ? e : cudaStreamCreateWithFlags(&c->sound, cudaStreamNonBlocking);
    e = e ? e : cudaHostAlloc((void **)&c->counter, sizeof(*c->counter), cudaHostAllocDefault);
    if (e == cudaSuccess) {
        size_t floats = (size_t)CUDA_ROWS_MAX * CUDA_HEADS_MAX * CROSS_PARTS * PARTIAL_FLOATS;
        size_t parts = (size_t)CUDA_ROWS_MAX * ((CUDA_VOCAB_MAX + PART_IDS - 1) / PART_IDS);
        c->partial = (float *)cuda_device_alloc(c, floats * sizeof(float), "attention", err);
        if (!c->partial)
            return err->code;
        c->parts_done = (unsigned *)cuda_device_alloc(c, CUDA_ROWS_MAX * CUDA_HEADS_MAX * sizeof(unsigned),
                                                      "attention", err);
        if (!c->parts_done)
            return err->code;
        c->parts = (struct select_part *)cuda_device_alloc(c, parts * sizeof(*c->parts), "logits", err);
        if (!c->parts)
            return err->code;
        e = cuda_set(c, (int32_t *)c->partial, 0);
        e = e ? e : cudaStreamSynchronize(c->stream);
    }
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorUnsupportedPtxVersion ||
        e == cudaErrorJitCompilerNotFound)
        return err_set(
            err, -ENODEV,
            "engine cuda: it was not built for %s (compute capability %d.%d), and the driver cannot "
            "adapt it; build it with CUDA_ARCHS=%d%d",
            device->name, device->major, device->minor, device->major, device->minor);
    if (e != cudaSuccess)
        return err_set(err, e == cudaErrorMemoryAllocation ? -ENOMEM : -EIO,
                       "engine cuda: %s does not start: %s", device->name, cudaGetErrorString(e));
    int r = cuda_downloads_create(c, err);
    return r < 0 ? r : cuda_mel_create(c->options.n_mels, c, err);
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
    int r = find_device(options->yields, &device, err);
    if (r < 0) {
        cudaGetLastError(); /* or a later engine's first launch would be taken to have failed */
        return r;
    }
    struct cuda_engine *c = (struct cuda_engine *)calloc(1, sizeof(*c));
    if (!c)
        return err_set(err, -ENOMEM, "out of memory for the engine");
    n_engines++;
    c->base.v = &vtable;
    c->base.wide_type = DTYPE_F16;
    c->base.windows_max = options->n_windows < 1                    ? 1
                          : options->n_windows < ENGINE_WINDOWS_MAX ? options->n_windows
                                                                    : ENGINE_WINDOWS_MAX;
    c->options = *options;
    c->n_multiprocessors = device.multiProcessorCount;
    c->l2_bytes = device.l2CacheSize;
    c->shared_most = device.sharedMemPerBlockOptin;
    c->many_slots = options->n_slots >= CUDA_SLOTS_MANY;
    c->bytes = options->precision == PRECISION_INT8 && !c->many_slots; /* those are bound by other things */
    snprintf(c->base.name, sizeof(c->base.name), "cuda %s (%.30s)", c->bytes ? "int8" : "f16", device.name);
    c->cooperative = device.cooperativeLaunch && device.major >= 8 && !c->many_slots; /* step.cu */
    r = start(c, &device, err);
    if (r < 0) {
        destroy(&c->base);
        return r;
    }
    /* How the library sums up depends on the number of rows, and so would a window's bits on what is beside it. */
    if (c->base.windows_max == 1)
        c->cublas = cublas_open(c->stream);
    *out = &c->base;
    return 0;
}
