/* In the place of the harness where the oracle tests run on a real GPU: the same engine_cases.c, but memory that both sides
 * may touch, and nothing to choose about the order. */
#include <cuda_runtime_api.h>
#include <string.h>

struct engine;

extern "C" {
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
void *test_device_alloc(struct engine *e, size_t bytes)
{
    void *p = NULL;
    if (cudaMallocManaged(&p, bytes ? bytes : 1, cudaMemAttachGlobal) != cudaSuccess)
        return NULL;
    memset(p, 0, bytes);
    cudaDeviceSynchronize();
    return p;
}
}
