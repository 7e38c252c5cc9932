/* In the place of the harness where the oracle tests run on a real GPU: the same engine_cases.c, but memory that both sides
 * may touch, and nothing to choose about the order. What test_step wants of the device comes from the calls that the engine
 * makes: the linker gives them to the __wrap_ functions here. */
#include <cuda_runtime_api.h>
#include <errno.h>
#include <string.h>

extern "C" {
#include "daemon/base/err.h"
}

#define JOIN_(a, b)   a##b
#define JOIN(a, b)    JOIN_(a, b)
#define WRAPPED(name) JOIN(__wrap_, name)
#define REAL(name)    JOIN(__real_, name)

enum { ALL = 4 }; /* as many multiprocessors as the harness has: here, all that there are */

struct engine;

static bool has_cooperative = true;
static int multiprocessors = ALL;
static size_t shared_most;
static cudaError_t wanted;

extern "C" {
/* CUDA 12 has another name for it, by a macro. */
cudaError_t REAL(cudaGetDeviceProperties)(cudaDeviceProp *, int device);
cudaError_t REAL(cudaLaunchCooperativeKernel)(const void *kernel, dim3 blocks, dim3 threads, void **params,
                                              size_t shared, cudaStream_t);

cudaError_t WRAPPED(cudaGetDeviceProperties)(cudaDeviceProp *p, int device)
{
    cudaError_t e = REAL(cudaGetDeviceProperties)(p, device);
    p->cooperativeLaunch = p->cooperativeLaunch && has_cooperative;
    if (multiprocessors != ALL && multiprocessors < p->multiProcessorCount)
        p->multiProcessorCount = multiprocessors;
    if (shared_most > 0 && shared_most < p->sharedMemPerBlockOptin)
        p->sharedMemPerBlockOptin = shared_most;
    return e;
}

cudaError_t WRAPPED(cudaLaunchCooperativeKernel)(const void *kernel, dim3 blocks, dim3 threads, void **params,
                                                 size_t shared, cudaStream_t stream)
{
    cudaError_t e = wanted;
    wanted = cudaSuccess;
    return e ? e : REAL(cudaLaunchCooperativeKernel)(kernel, blocks, threads, params, shared, stream);
}

void harness_cooperative(bool has, int n)
{
    has_cooperative = has;
    multiprocessors = n;
}

void harness_shared_bytes(size_t of_a_block)
{
    shared_most = of_a_block;
}

/* A build is what it is. */
bool harness_ptx(int version)
{
    return false;
}

/* Of the one call that is wrapped. */
void harness_fail(const char *call, int after, int error)
{
    wanted = (cudaError_t)error;
}

bool harness_has_failed(void)
{
    return wanted == cudaSuccess;
}

void harness_seed(unsigned seed)
{
}

void harness_open_memory(bool open)
{
}

void harness_hide_cublas(bool hide)
{
}

/* Freed by the engine, as its own. */
void *test_device_alloc(struct engine *, size_t bytes, struct err *err)
{
    void *p = NULL;
    if (cudaMallocManaged(&p, bytes ? bytes : 1, cudaMemAttachGlobal) != cudaSuccess) {
        err_set(err, -ENOMEM, "no managed memory");
        return NULL;
    }
    memset(p, 0, bytes);
    cudaDeviceSynchronize();
    return p;
}
}
