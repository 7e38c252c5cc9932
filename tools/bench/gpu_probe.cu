/* usage: gpu-probe
 *
 * What the runtime tells of the first GPU, as a line of JSON, with two figures measured: bytes/s of a copy within its memory,
 * read and written, and FLOP/s of a large half-precision product of libcublas, null where that is not there or fails. Exit
 * status 1 with a line on the error output where there is no GPU to be used. */
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cublas_v2.h>

#define NAME_OF(major) "libcublas.so." #major
#define NAME(major)    NAME_OF(major)

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int attribute(cudaDeviceAttr what)
{
    int value = 0;
    return cudaDeviceGetAttribute(&value, what, 0) == cudaSuccess ? value : 0;
}

/* Calls a second, of several runs of `n` calls the fastest; 0 if one has failed, which takes no time. */
template <class F> static double most(int n, F call)
{
    double best = 0.0;
    for (int round = 0; round < 5; round++) {
        bool done = true;
        double begin = seconds();
        for (int i = 0; i < n; i++)
            done = call() && done;
        if (cudaDeviceSynchronize() != cudaSuccess || !done)
            return 0.0;
        double rate = n / (seconds() - begin);
        best = rate > best ? rate : best;
    }
    return best;
}

static double copy_rate(size_t bytes, int n)
{
    void *from = NULL, *to = NULL;
    double rate = 0.0;
    if (cudaMalloc(&from, bytes) == cudaSuccess && cudaMalloc(&to, bytes) == cudaSuccess) {
        cudaMemsetAsync(from, 1, bytes, 0);
        cudaMemsetAsync(to, 1, bytes, 0);
        rate = 2.0 * (double)bytes * most(n, [=] {
                   return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, 0) == cudaSuccess;
               });
    }
    cudaFree(from);
    cudaFree(to);
    return rate;
}

/* size × size half floats of uneven bits: power, and with it the clock, depends on them. */
static double product_rate(int size, int n)
{
    void *library = dlopen(NAME(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return 0.0;
    decltype(&cublasCreate_v2) create = (decltype(create))dlsym(library, "cublasCreate_v2");
    decltype(&cublasDestroy_v2) destroy = (decltype(destroy))dlsym(library, "cublasDestroy_v2");
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void *,
                           const void *, cudaDataType, int, const void *, cudaDataType, int, const void *,
                           void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t) =
        (decltype(gemm))dlsym(library, "cublasGemmEx");
    cublasHandle_t handle;
    if (!create || !destroy || !gemm || create(&handle) != CUBLAS_STATUS_SUCCESS)
        return 0.0;
    size_t count = (size_t)size * (size_t)size, bytes = count * 2;
    unsigned short *values = (unsigned short *)malloc(bytes);
    void *m[3] = {NULL, NULL, NULL};
    double rate = 0.0;
    bool there = values != NULL;
    for (int i = 0; i < 3; i++)
        there = there && cudaMalloc(&m[i], bytes) == cudaSuccess;
    if (there) {
        for (size_t i = 0; i < count; i++)
            values[i] = (unsigned short)(0x3000u | ((unsigned)(i * 2654435761u) >> 16 & 0x8fffu));
        cudaMemcpyAsync(m[0], values, bytes, cudaMemcpyHostToDevice, 0);
        cudaMemcpyAsync(m[1], values, bytes, cudaMemcpyHostToDevice, 0);
        cudaDeviceSynchronize();
        const float one = 1.0f, zero = 0.0f;
        rate = 2.0 * (double)count * (double)size * most(n, [&] {
                   return gemm(handle, CUBLAS_OP_T, CUBLAS_OP_N, size, size, size, &one, m[0], CUDA_R_16F,
                               size, m[1], CUDA_R_16F, size, &zero, m[2], CUDA_R_16F, size,
                               CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS;
               });
    }
    for (int i = 0; i < 3; i++)
        cudaFree(m[i]);
    free(values);
    destroy(handle);
    dlclose(library);
    return rate;
}

static void print_rate(const char *name, double rate)
{
    if (rate > 0.0)
        printf(", \"%s\": %.4g", name, rate);
    else
        printf(", \"%s\": null", name);
}

int main(int argc, char **argv)
{
    cudaDeviceProp p;
    size_t available = 0, total = 0;
    int n = 0, driver = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaSuccess && n == 0)
        e = cudaErrorNoDevice;
    e = e ? e : cudaSetDevice(0);
    e = e ? e : cudaGetDeviceProperties(&p, 0);
    e = e ? e : cudaMemGetInfo(&available, &total);
    if (e != cudaSuccess) {
        fprintf(stderr, "gpu-probe: %s\n", cudaGetErrorString(e));
        return 1;
    }
    cudaDriverGetVersion(&driver);
    bool small = argc > 1; /* any argument: sizes of a toy */
    (void)argv;
    printf("{\"name\": \"%s\", \"capability\": %d, \"multiprocessors\": %d, \"memory_bytes\": %zu, "
           "\"memory_free_bytes\": %zu, "
           "\"driver_cuda\": %d, \"runtime_cuda\": %d, \"clock_khz\": %d, \"memory_clock_khz\": %d, "
           "\"memory_bus_bits\": %d, \"l2_bytes\": %d",
           p.name, p.major * 10 + p.minor, p.multiProcessorCount, total, available, driver, CUDART_VERSION,
           attribute(cudaDevAttrClockRate), attribute(cudaDevAttrMemoryClockRate),
           attribute(cudaDevAttrGlobalMemoryBusWidth), attribute(cudaDevAttrL2CacheSize));
    print_rate("copy_bytes_s", copy_rate((size_t)1 << (small ? 16 : 30), small ? 1 : 10));
    print_rate("product_flop_s", product_rate(small ? 64 : 8192, small ? 1 : 5));
    printf("}\n");
    return 0;
}
