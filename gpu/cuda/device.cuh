/* What the kernels are written with: the launch, shared memory, and the few operations that are PTX.
 *
 * The PTX wrappers are all there is: mma_16816, ldmatrix_4, ldmatrix_4_transposed, cp_async_16, cp_async_few,
 * cp_async_commit, cp_async_wait, load_counter, add_to_counter, add_shared_sum, exp2_near and prefetch. A compiler that is
 * not nvcc has defined them, and everything else that CUDA adds to C++, before this file is read
 * (tests/cuda/harness/kernel.h), so the same kernels also run on a processor.
 *
 * Rules: a kernel is launched through LAUNCH alone; shared memory is declared through SHARED and DYNAMIC_SHARED alone and
 * its size is never taken from the name; lanes that take part in a warp operation are always all 32. */
#ifndef CAPTIOND_GPU_CUDA_DEVICE_CUH
#define CAPTIOND_GPU_CUDA_DEVICE_CUH

#ifdef __CUDACC__
#define CUDA_NO_HALF /* no type of that name beside __half */
#include <cuda_runtime.h>
#include <cuda_fp16.h>

#define SHARED(type, name, n) __shared__ __align__(16) type name[n]
#define DYNAMIC_SHARED(type, name)                                                                           \
    extern __shared__ __align__(16) unsigned char dynamic_shared[];                                          \
    type *const name = (type *)dynamic_shared
#define UNROLL _Pragma("unroll")   /* where an array must be registers */
#define ROLLED _Pragma("unroll 1") /* where speed is not worth the code, which comes from memory, too */
#define LAUNCH(kernel, blocks, threads, shared, stream, ...)                                                 \
    kernel<<<(blocks), (threads), (shared), (stream)>>>(__VA_ARGS__)

/* All blocks are there at once, and may wait for one another; or an error, and nothing is launched. */
template <class Param>
static inline cudaError_t launch_cooperative(void (*kernel)(Param), int blocks, int threads, size_t shared,
                                             cudaStream_t stream, Param param)
{
    void *params[] = {&param};
    return cudaLaunchCooperativeKernel((const void *)kernel, dim3((unsigned)blocks), dim3((unsigned)threads),
                                       params, shared, stream);
}

/* One thread of a kernel as a node of a graph, behind another node or, with NULL, behind none. */
template <class... Params>
static inline cudaError_t add_kernel_node(cudaGraphNode_t *node, cudaGraph_t to,
                                          const cudaGraphNode_t *behind, void (*kernel)(Params...),
                                          Params... params)
{
    void *pointers[] = {&params...};
    cudaKernelNodeParams p = {};
    p.func = (void *)kernel;
    p.gridDim = p.blockDim = dim3(1);
    p.kernelParams = pointers;
    return cudaGraphAddKernelNode(node, to, behind, behind ? 1 : 0, &p);
}

static __device__ __forceinline__ unsigned shared_address(const void *p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}

/* c [16, 8] += a [16, 16] · b [16, 8] of a warp: half floats, sums in single ones. Lane l has, with g = l / 4 and
 * t = l % 4, of a rows g and g + 8 and columns 2t, 2t + 1 and these + 8 as {g; g + 8; g, +8; g + 8, +8}, of b column g and
 * rows 2t, 2t + 1 and these + 8, of c rows g (twice) and g + 8 and columns 2t, 2t + 1. */
static __device__ __forceinline__ void mma_16816(float *c, const unsigned *a, const unsigned *b)
{
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (int half = 0; half < 2; half++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}

/* Four matrices of 8 × 8 half floats from shared memory. Lane 8 m + i names row i of matrix m, aligned to 16 bytes; r[m]
 * of lane l gets elements 2t and 2t + 1 of its row g, transposed: rows 2t and 2t + 1 of its column g. */
static __device__ __forceinline__ void ldmatrix_4(unsigned *r, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_4_transposed(unsigned *r, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* What other blocks have made of a counter by now. What they did before they added to it has happened for this thread. */
static __device__ __forceinline__ unsigned load_counter(const unsigned *p)
{
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
}

/* Everything that this thread knows to have happened has happened for who sees the sum. */
static __device__ __forceinline__ void add_to_counter(unsigned *p, unsigned n)
{
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" : : "l"(p), "r"(n) : "memory");
}

/* *sum += x in global memory, to which other blocks add at the same time. */
static __device__ __forceinline__ void add_shared_sum(long long *sum, long long x)
{
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" : : "l"(sum), "l"(x) : "memory");
}

/* Asks for a line of global memory to be brought into the second-level cache. */
static __device__ __forceinline__ void prefetch(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" : : "l"(p));
}

/* 2^x, off by 2 of the last places; 0 where that is below 2^−126. */
static __device__ __forceinline__ float exp2_near(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Copies `bytes` (0 to 16) of global memory and fills up to 16 with zeros; both ends are aligned to 16. The copy has
 * happened, for this thread, when it has waited for its group. */
static __device__ __forceinline__ void cp_async_16(void *shared, const void *global, int bytes)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
#else
    if (bytes == 16) {
        *(uint4 *)shared = *(const uint4 *)global;
        return;
    }
    const unsigned short *from = (const unsigned short *)global;
    unsigned short *to = (unsigned short *)shared;
    for (int i = 0; i < 8; i++)
        to[i] = 2 * i < bytes ? from[i] : (unsigned short)0;
#endif
}

/* The same of 4 or 8 bytes, to which both ends are aligned. */
template <int bytes> static __device__ __forceinline__ void cp_async_few(void *shared, const void *global)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
                 :
                 : "r"(shared_address(shared)), "l"(global), "n"(bytes)
                 : "memory");
#else
    for (int i = 0; i < bytes / 4; i++)
        ((unsigned *)shared)[i] = ((const unsigned *)global)[i];
#endif
}

static __device__ __forceinline__ void cp_async_commit(void)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

/* Until at most `groups_left` of this thread's groups are under way. */
template <int groups_left> static __device__ __forceinline__ void cp_async_wait(void)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" : : "n"(groups_left) : "memory");
#endif
}
#endif

#define WARP  32
#define LANES 0xffffffffu
#define HEAD  64  /* values of an attention head, of every Whisper */
#define LINE  128 /* bytes that are fetched at once */

/* The same value, of which the compiler does not know where it comes from: what is made of it in a loop does not take
 * registers throughout the kernel. */
static __device__ __forceinline__ int afresh(int x)
{
    asm volatile("" : "+r"(x));
    return x;
}

/* The same tree, whatever the block: the sum of a row does not depend on what is computed beside it. */
static __device__ __forceinline__ float warp_sum(float v)
{
    for (int lane = WARP / 2; lane > 0; lane /= 2)
        v += __shfl_xor_sync(LANES, v, lane);
    return v;
}

static __device__ __forceinline__ float warp_max(float v)
{
    for (int lane = WARP / 2; lane > 0; lane /= 2)
        v = fmaxf(v, __shfl_xor_sync(LANES, v, lane));
    return v;
}

#define HALF_MOST 65504.0f

/* The nearest half float; what is too large becomes the largest, for an infinity would spread through every later
 * product, and what is no number stays none. */
static __device__ __forceinline__ __half to_half(float x)
{
    return __float2half_rn(fabsf(x) > HALF_MOST ? copysignf(HALF_MOST, x) : x);
}

static __device__ __forceinline__ unsigned pack_halves(__half low, __half high)
{
    return (unsigned)__half_as_ushort(low) | (unsigned)__half_as_ushort(high) << 16;
}

/* GELU by the error function, as Whisper's. */
static __device__ __forceinline__ float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

/* Eight neighbours, aligned to 16 bytes. */
static __device__ __forceinline__ void split_eight(uint4 eight, float to[8])
{
    const unsigned pairs[4] = {eight.x, eight.y, eight.z, eight.w};
    for (int i = 0; i < 8; i++)
        to[i] = __half2float(__ushort_as_half((unsigned short)(pairs[i / 2] >> i % 2 * 16)));
}

/* All blocks of a cooperative launch meet in two halves; what any thread wrote before the first, every thread sees behind the
 * second, and what lies between them is done while others come. *met counts the meetings of a launch (the same in every
 * block), *arrived begins at 0. */
static __device__ __forceinline__ void grid_arrive(unsigned *arrived)
{
    __syncthreads();
    if (threadIdx.x == 0)
        add_to_counter(arrived, 1);
}

static __device__ __forceinline__ void grid_wait(const unsigned *arrived, unsigned *met)
{
    *met += 1;
    if (threadIdx.x == 0) {
        const unsigned all = *met * gridDim.x;
        while ((int)(load_counter(arrived) - all) < 0)
            continue;
    }
    __syncthreads();
}

/* A block that has stored its part of something: whether it is the last one of n to do so. That one sees what the others have
 * stored. *done begins at 0, and ends so. */
static __device__ __forceinline__ bool is_last_part(unsigned *done, int n)
{
    SHARED(bool, last, 1);
    __syncthreads(); /* the whole part is stored */
    if (threadIdx.x == 0) {
        __threadfence();
        last[0] = atomicAdd(done, 1u) + 1 == (unsigned)n;
        __threadfence();
        if (last[0])
            *done = 0;
    }
    __syncthreads();
    return last[0];
}

/* Writes an element of a matrix of either type. */
static __device__ __forceinline__ void store(void *data, bool half, size_t at, float x)
{
    if (half)
        ((__half *)data)[at] = to_half(x);
    else
        ((float *)data)[at] = x;
}

#endif
