/* libcublas, opened at run time: half a gigabyte that nobody should need in order to start the program. */
#include "gpu/cuda/cuda.cuh"

#include <cublas_v2.h>
#include <dlfcn.h>
#include <stdlib.h>

struct cublas {
    void *library;
    cublasHandle_t handle;
    decltype(&cublasCreate_v2) create;
    decltype(&cublasDestroy_v2) destroy;
    decltype(&cublasSetStream_v2) set_stream;
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void *,
                           const void *, cudaDataType, int, const void *, cudaDataType, int, const void *,
                           void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
};

/* The version this was compiled with: another one's may have other types. */
#define NAME_OF(major) "libcublas.so." #major
#define NAME(major)    NAME_OF(major)
#define LIBRARY        NAME(CUBLAS_VER_MAJOR)

template <class F> static bool look_up(void *library, const char *name, F *f)
{
    *f = (F)dlsym(library, name);
    return *f != NULL;
}

struct cublas *cublas_open(cudaStream_t stream)
{
    struct cublas *b = (struct cublas *)calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (b->library && look_up(b->library, "cublasCreate_v2", &b->create) &&
        look_up(b->library, "cublasDestroy_v2", &b->destroy) &&
        look_up(b->library, "cublasSetStream_v2", &b->set_stream) &&
        look_up(b->library, "cublasGemmEx", &b->gemm) && b->create(&b->handle) == CUBLAS_STATUS_SUCCESS) {
        if (b->set_stream(b->handle, stream) == CUBLAS_STATUS_SUCCESS)
            return b;
    }
    cublas_close(b);
    return NULL;
}

void cublas_close(struct cublas *b)
{
    if (!b)
        return;
    if (b->handle)
        b->destroy(b->handle);
    if (b->library)
        dlclose(b->library);
    free(b);
}

/* To a library that counts columns first, the rows of all three are columns: outᵀ = W · inᵀ. */
bool cublas_product(struct cublas *b, struct mat in, const struct engine_weight *w, struct mat out)
{
    const float one = 1.0f, zero = 0.0f;
    if (in.stride < in.cols || in.stride % 8 || (uintptr_t)in.data % 16)
        return false;
    return b->gemm(b->handle, CUBLAS_OP_T, CUBLAS_OP_N, w->n_out, in.rows, w->n_in, &one, w->data, CUDA_R_16F,
                   w->stride, in.data, CUDA_R_16F, in.stride, &zero, out.data, CUDA_R_32F, out.stride,
                   CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS;
}
