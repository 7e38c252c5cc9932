/* cuBLAS as gpu/cuda/ opens it at run time: a plain product on the harness's streams. Column-major, as the real one. */
#include "tests/cuda/harness/runtime.h"

#include <cublas_v2.h>

struct handle {
    cudaStream_t stream;
};

static cublasStatus_t create(cublasHandle_t *out)
{
    if (runtime_fails("cublasCreate"))
        return CUBLAS_STATUS_ALLOC_FAILED;
    *out = (cublasHandle_t) new handle{};
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t destroy(cublasHandle_t h)
{
    delete (struct handle *)h;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set_stream(cublasHandle_t h, cudaStream_t stream)
{
    if (runtime_fails("cublasSetStream"))
        return CUBLAS_STATUS_INTERNAL_ERROR;
    ((struct handle *)h)->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

struct product {
    int m, n, k; /* n: rows of the product as the engine sees it */
    const __half *a, *b;
    int lda, ldb, ldc;
    float *c;
};

/* Rows of half floats as single ones, side by side. */
static std::vector<float> widened(const __half *from, int rows, int cols, int stride)
{
    std::vector<float> to((size_t)rows * (size_t)cols);
    for (int i = 0; i < rows; i++) {
        for (int k = 0; k < cols; k++)
            to[(size_t)i * (size_t)cols + (size_t)k] =
                __half2float(from[(size_t)i * (size_t)stride + (size_t)k]);
    }
    return to;
}

#define LANES_OF_SUM 16
typedef float lanes __attribute__((vector_size(LANES_OF_SUM * sizeof(float)), aligned(sizeof(float))));

/* Sums of one row of b with four of a, each in so many parts as a processor adds at once. The first `apart` products are added
 * at the end. */
static void four_sums(const float *b, const float *const a[4], int n, int apart, float sums[4])
{
    lanes parts[4] = {};
    int k = apart;
    for (; k + LANES_OF_SUM <= n; k += LANES_OF_SUM) {
        for (int i = 0; i < 4; i++)
            parts[i] += *(const lanes *)(a[i] + k) * *(const lanes *)(b + k);
    }
    for (int i = 0; i < 4; i++) {
        sums[i] = 0.0f;
        for (int l = 0; l < LANES_OF_SUM; l++)
            sums[i] += parts[i][l];
        for (int rest = k; rest < n; rest++)
            sums[i] += a[i][rest] * b[rest];
        for (int first = 0; first < apart; first++)
            sums[i] += a[i][first] * b[first];
    }
}

/* Another number of rows is added up in another order, as the library's choice of a kernel has it. */
static void run(void *arg)
{
    const struct product *p = (const struct product *)arg;
    const int apart = p->n % 7 < p->k ? p->n % 7 : 0;
    const std::vector<float> a = widened(p->a, p->m, p->k, p->lda), b = widened(p->b, p->n, p->k, p->ldb);
    for (int i = 0; i < p->m; i += 4) { /* four rows of a stay in the nearest cache */
        const float *rows[4];
        for (int k = 0; k < 4; k++)
            rows[k] = &a[(size_t)(i + k < p->m ? i + k : i) * (size_t)p->k];
        for (int j = 0; j < p->n; j++) {
            float sums[4];
            four_sums(&b[(size_t)j * (size_t)p->k], rows, p->k, apart, sums);
            for (int k = 0; k < 4 && i + k < p->m; k++)
                p->c[(size_t)j * (size_t)p->ldc + (size_t)(i + k)] = sums[k];
        }
    }
}

static void drop(void *arg)
{
    delete (struct product *)arg;
}

/* The one form that is used: C = Aᵀ B in half floats with sums and result in single ones. */
static cublasStatus_t gemm(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                           const void *alpha, const void *a, cudaDataType ta_type, int lda, const void *b,
                           cudaDataType tb_type, int ldb, const void *beta, void *c, cudaDataType tc_type,
                           int ldc, cublasComputeType_t compute, cublasGemmAlgo_t)
{
    bool known = ta == CUBLAS_OP_T && tb == CUBLAS_OP_N && ta_type == CUDA_R_16F && tb_type == CUDA_R_16F &&
                 tc_type == CUDA_R_32F && compute == CUBLAS_COMPUTE_32F && *(const float *)alpha == 1.0f &&
                 *(const float *)beta == 0.0f;
    if (!known || m < 1 || n < 1 || k < 1 || lda < k || ldb < k || ldc < m)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (runtime_fails("cublasGemmEx"))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    struct product *p = new product{m, n, k, (const __half *)a, (const __half *)b, lda, ldb, ldc, (float *)c};
    harness_submit(((struct handle *)h)->stream, run, p, drop);
    return CUBLAS_STATUS_SUCCESS;
}

static bool is_hidden;

/* As where it is not installed. */
extern "C" void harness_hide_cublas(bool hide)
{
    is_hidden = hide;
}

extern "C" void *harness_dlopen(const char *name, int)
{
    static char library;
    return strstr(name, "libcublas.so") && !is_hidden ? &library : nullptr;
}

extern "C" void *harness_dlsym(void *, const char *symbol)
{
    static const struct {
        const char *name;
        void *function;
    } functions[] = {
        {"cublasCreate_v2", (void *)create},
        {"cublasDestroy_v2", (void *)destroy},
        {"cublasSetStream_v2", (void *)set_stream},
        {"cublasGemmEx", (void *)gemm},
    };
    for (const auto &f : functions) {
        if (!strcmp(f.name, symbol))
            return f.function;
    }
    return nullptr;
}

extern "C" int harness_dlclose(void *)
{
    return 0;
}
