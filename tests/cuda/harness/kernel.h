/* What nvcc gives to a kernel and to the code that launches it, for g++: in front of every file of gpu/cuda/
 * (-include), so that the very same source runs on the processor.
 *
 * A CUDA thread is a fiber; the blocks of a launch run one after the other, those of a cooperative launch take turns. What
 * the hardware leaves open is decided against the kernel: a warp, and a cooperative block, runs as far as it can before
 * the next one starts, or they and lanes take turns by a seed (harness_seed). Found in this way: missing barriers, of
 * the grid as well, and waits, divergent barriers, shuffles that name absent lanes, blocks that wait for one another,
 * reads of memory that nobody has written (everything starts as NaN), writes beyond shared memory (canaries, or
 * AddressSanitizer, since every block's arrays are fresh allocations of exactly their size) and beyond device memory
 * (guard pages). Not found: missing fences between blocks, the rounding of approximate instructions, speed.
 *
 * A test tool: nothing that is installed contains it. */
#ifndef CAPTIOND_TESTS_CUDA_KERNEL_H
#define CAPTIOND_TESTS_CUDA_KERNEL_H

#define STEPS_OF_A_KERNEL 2 /* so that texts of a few words go on in another launch */

#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>

#include <dlfcn.h>
#include <stdlib.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#define CUDA_NO_HALF /* no type of that name beside __half */
#include <cuda_runtime_api.h>
#include <cuda_fp16.h>

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __restrict__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct harness_thread {
    uint3 index;
    unsigned lane;
};

struct harness_block {
    uint3 index;
    dim3 threads, blocks;
    void *dynamic;
};

extern struct harness_thread *harness_thread;
extern struct harness_block *harness_block;

#define threadIdx (harness_thread->index)
#define blockIdx  (harness_block->index)
#define blockDim  (harness_block->threads)
#define gridDim   (harness_block->blocks)

/* 0: warp by warp, lane by lane. Otherwise warps, lanes, blocks, streams and the nodes of graphs in random order. */
extern "C" void harness_seed(unsigned);

/* --- memory ------------------------------------------------------------------------------------------------------- */

/* The block's array that belongs to `key`; made by the first thread that asks. */
void *harness_shared(const void *key, size_t bytes);

#define SHARED(type, name, n)                                                                                \
    static const char name##_key = 0;                                                                        \
    type *const name = (type *)harness_shared(&name##_key, sizeof(type) * (n))
#define UNROLL
#define ROLLED
#define DYNAMIC_SHARED(type, name) type *const name = (type *)harness_block->dynamic

/* --- meeting of threads ------------------------------------------------------------------------------------------- */

void harness_barrier(const void *site);
/* Every lane in `mask` arrives with an argument; the last one runs fn on all of them. */
void harness_meet(unsigned mask, void *arg, void (*fn)(void **args, unsigned mask));

#define __syncthreads()                                                                                      \
    do {                                                                                                     \
        static const char barrier_site = 0;                                                                  \
        harness_barrier(&barrier_site);                                                                      \
    } while (0)

static inline void harness_nothing(void **, unsigned)
{
}

static inline void __syncwarp(unsigned mask = ~0u)
{
    harness_meet(mask, nullptr, harness_nothing);
}

template <class T> struct harness_shuffle {
    T in, out;
    unsigned from;
};

/* A lane that is not in the mask has nothing to give: what is read from it is all ones, a NaN. */
template <class T>
__attribute__((no_sanitize_thread)) static void harness_shuffle_all(void **args, unsigned mask)
{
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1))
            continue;
        struct harness_shuffle<T> *a = (struct harness_shuffle<T> *)args[i];
        if (mask >> a->from & 1)
            a->out = ((struct harness_shuffle<T> *)args[a->from])->in;
        else
            memset(&a->out, 0xff, sizeof(T));
    }
}

template <class T> static inline T harness_shuffle_from(unsigned mask, T v, unsigned from)
{
    struct harness_shuffle<T> a = {
        v, v, from & 31
    };
    harness_meet(mask, &a, harness_shuffle_all<T>);
    return a.out;
}

template <class T> static inline T __shfl_sync(unsigned mask, T v, int from)
{
    return harness_shuffle_from(mask, v, (unsigned)from);
}

template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int bits)
{
    return harness_shuffle_from(mask, v, harness_thread->lane ^ (unsigned)bits);
}

/* --- atomics: no fiber is interrupted, and what one has written the others see at once ----------------------------- */

static inline int atomicAdd(int *p, int v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}

static inline unsigned atomicAdd(unsigned *p, unsigned v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}

static inline int atomicMax(int *p, int v)
{
    int before = __atomic_load_n(p, __ATOMIC_RELAXED);
    if (v > before)
        __atomic_store_n(p, v, __ATOMIC_RELAXED);
    return before;
}

/* --- arithmetic --------------------------------------------------------------------------------------------------- */

static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

/* The header's conversions by the processor's own instructions: the same results, and most of the time of an emulation. */
#ifdef __F16C__
static inline float harness_half2float(__half x)
{
    return _cvtsh_ss(__half_raw(x).x);
}

static inline __half harness_float2half(float x)
{
    __half_raw raw;
    raw.x = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
    return __half(raw);
}

#define __half2float    harness_half2float
#define __float2half_rn harness_float2half
#endif

static inline int __float_as_int(float x)
{
    int i;
    memcpy(&i, &x, sizeof(i));
    return i;
}

static inline float __int_as_float(int i)
{
    float x;
    memcpy(&x, &i, sizeof(x));
    return x;
}

/* Byte i of the result is the one of {b, a} that the i-th digit of `which` names. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which)
{
    uint64_t both = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= (unsigned)(both >> (which >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return r;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

/* --- the operations that are PTX in gpu/cuda/device.cuh ------------------------------------------------------------ */

void mma_16816(float *c, const unsigned *a, const unsigned *b);
void ldmatrix_4(unsigned *r, const void *row);
void ldmatrix_4_transposed(unsigned *r, const void *row);
/* The bytes land when they are waited for; by a seed some do at once, while others may still read what was there. */
void harness_cp_async(void *shared, const void *global, int bytes, int room);
void cp_async_commit(void);
void harness_cp_wait(int groups_left);

static inline void cp_async_16(void *shared, const void *global, int bytes)
{
    harness_cp_async(shared, global, bytes, 16);
}

template <int bytes> static inline void cp_async_few(void *shared, const void *global)
{
    static_assert(bytes == 4 || bytes == 8, "what a GPU copies");
    harness_cp_async(shared, global, bytes, bytes);
}

template <int groups_left> static inline void cp_async_wait(void)
{
    harness_cp_wait(groups_left);
}

/* Other blocks run before it looks. */
unsigned load_counter(const unsigned *);
void add_to_counter(unsigned *, unsigned n);

static inline void add_shared_sum(long long *sum, long long x)
{
    __atomic_fetch_add(sum, x, __ATOMIC_ACQ_REL);
}

static inline void __threadfence(void)
{
}

static inline float exp2_near(float x)
{
    float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

/* Brings a line of device memory nearer: here only a question whether it is device memory. */
void prefetch(const void *);

void cudaGraphSetConditional(cudaGraphConditionalHandle, unsigned value);

/* --- launching ---------------------------------------------------------------------------------------------------- */

void harness_submit(cudaStream_t, void (*run)(void *), void *arg, void (*drop)(void *));
/* together: all blocks are there at once. */
void harness_run_kernel(dim3 blocks, dim3 threads, size_t shared, const void *kernel, bool together,
                        void (*body)(void *), void *arg);
/* The limits of a launch; what is wrong comes back from cudaGetLastError. */
bool harness_launch_allowed(dim3 blocks, dim3 threads, size_t shared, const void *kernel, bool together);

template <class... Params> struct harness_call {
    dim3 blocks, threads;
    size_t shared;
    bool together;
    void (*kernel)(Params...);
    std::tuple<Params...> params;

    static void body(void *arg)
    {
        struct harness_call *c = (struct harness_call *)arg;
        std::apply(c->kernel, c->params);
    }
    static void run(void *arg)
    {
        struct harness_call *c = (struct harness_call *)arg;
        harness_run_kernel(c->blocks, c->threads, c->shared, (const void *)c->kernel, c->together, body, arg);
    }
    static void drop(void *arg)
    {
        delete (struct harness_call *)arg;
    }
};

/* Arguments are copied now, as the driver does, and the work is done when the stream's turn comes. */
template <class... Params, class... Args>
static inline void harness_launch(bool together, void (*kernel)(Params...), dim3 blocks, dim3 threads,
                                  size_t shared, cudaStream_t stream, Args... args)
{
    if (!harness_launch_allowed(blocks, threads, shared, (const void *)kernel, together))
        return;
    struct harness_call<Params...> *c = new harness_call<Params...> {
        blocks, threads, shared, together, kernel, std::tuple<Params...>(args...)
    };
    harness_submit(stream, harness_call<Params...>::run, c, harness_call<Params...>::drop);
}

#define LAUNCH(kernel, blocks, threads, shared, stream, ...)                                                 \
    harness_launch(false, kernel, blocks, threads, shared, stream, __VA_ARGS__)

/* All blocks at once, or an error. */
template <class Param>
static inline cudaError_t launch_cooperative(void (*kernel)(Param), int blocks, int threads, size_t shared,
                                             cudaStream_t stream, Param param)
{
    harness_launch(true, kernel, dim3((unsigned)blocks), dim3((unsigned)threads), shared, stream, param);
    return cudaGetLastError();
}

cudaError_t harness_add_node(cudaGraphNode_t *, cudaGraph_t to, const cudaGraphNode_t *behind,
                             void (*run)(void *), void *arg, void (*drop)(void *));

template <class... Params>
static inline cudaError_t add_kernel_node(cudaGraphNode_t *node, cudaGraph_t to,
                                          const cudaGraphNode_t *behind, void (*kernel)(Params...),
                                          Params... params)
{
    struct harness_call<Params...> *c = new harness_call<Params...> {
        dim3(1), dim3(1), 0, false, kernel, std::tuple<Params...>(params...)
    };
    return harness_add_node(node, to, behind, harness_call<Params...>::run, c, harness_call<Params...>::drop);
}

/* --- libraries opened at run time ---------------------------------------------------------------------------------- */

extern "C" void *harness_dlopen(const char *name, int flags);
extern "C" void *harness_dlsym(void *library, const char *symbol);
extern "C" int harness_dlclose(void *library);
#define dlopen  harness_dlopen
#define dlsym   harness_dlsym
#define dlclose harness_dlclose

/* --- what may fail -------------------------------------------------------------------------------------------------- */

/* The call of this name ("cudaMalloc", "LAUNCH", "calloc", "cublasGemmEx" …) fails once, after `after` that do not. */
extern "C" void harness_fail(const char *call, int after, int error);
/* Whether it has. */
extern "C" bool harness_has_failed(void);
/* From now on everything fails with this error; 0: nothing does. */
extern "C" void harness_lose_device(int error);
/* From that call on; and how many calls of this name are left until then. */
extern "C" void harness_lose_device_at(const char *call, int after, int error);
extern "C" int harness_calls_left(void);

extern "C" void *harness_calloc(size_t n, size_t size);
#define calloc harness_calloc

#endif
