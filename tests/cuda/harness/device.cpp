/* The device: chance, errors and those that a test wants, limits of a launch, and what sort of machine it is. */
#include "tests/cuda/harness/runtime.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include <unistd.h>

/* --- chance ------------------------------------------------------------------------------------------------------- */

static uint64_t chance;

extern "C" void harness_seed(unsigned seed)
{
    chance = seed;
}

bool harness_is_random(void)
{
    return chance != 0;
}

unsigned harness_random(unsigned n)
{
    chance = chance * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    chance += chance == 0;
    return (unsigned)((chance >> 33) % n);
}

/* --- errors ------------------------------------------------------------------------------------------------------- */

static cudaError_t last_error, lost, wanted_error;
static std::string wanted_call;
static int wanted_after;
static bool wanted_for_good; /* the device is lost with that call */

extern "C" void harness_fail(const char *call, int after, int error)
{
    wanted_call = call;
    wanted_after = after;
    wanted_error = (cudaError_t)error;
    wanted_for_good = false;
}

extern "C" void harness_lose_device_at(const char *call, int after, int error)
{
    harness_fail(call, after, error);
    wanted_for_good = true;
}

extern "C" bool harness_has_failed(void)
{
    return wanted_call.empty();
}

extern "C" int harness_calls_left(void)
{
    return wanted_after;
}

extern "C" void harness_lose_device(int error)
{
    lost = last_error = (cudaError_t)error;
}

/* A whole program loses its device when the file $HARNESS_LOSE is there. */
static void look_for_loss(void)
{
    static const char *const file = getenv("HARNESS_LOSE");
    if (file && access(file, F_OK) == 0)
        lost = cudaErrorLaunchFailure;
}

cudaError_t runtime_error(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

bool runtime_fails(const char *call)
{
    if (wanted_call != call || wanted_after-- > 0)
        return false;
    wanted_call.clear();
    return true;
}

cudaError_t runtime_fault(const char *call)
{
    look_for_loss();
    if (lost != cudaSuccess)
        return runtime_error(lost);
    if (!runtime_fails(call))
        return cudaSuccess;
    if (wanted_for_good)
        lost = wanted_error;
    return runtime_error(wanted_error);
}

extern "C" cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = lost;
    return e;
}

/* A host allocation of gpu/cuda/. */
extern "C" void *harness_calloc(size_t n, size_t size)
{
    return runtime_fails("calloc") ? nullptr : calloc(n, size);
}

/* --- limits and properties --------------------------------------------------------------------------------------- */

#define SHARED_DEFAULT ((size_t)48 << 10)

static std::map<const void *, size_t> shared_limits;
static size_t shared_most = (size_t)99 << 10; /* of consumer's cards from Ampere on; Turing has 64 KB */

size_t harness_shared_limit(const void *kernel)
{
    auto l = shared_limits.find(kernel);
    return l == shared_limits.end() ? SHARED_DEFAULT : l->second;
}

size_t harness_shared_most(const void *kernel, size_t taken)
{
    auto l = shared_limits.find(kernel);
    return l == shared_limits.end() ? SHARED_DEFAULT : shared_most - (l->second - taken);
}

extern "C" cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute what, int value)
{
    RUNTIME_CALL();
    if (what != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || (size_t)value > shared_most)
        return runtime_error(cudaErrorInvalidValue);
    shared_limits[kernel] = (size_t)value;
    return cudaSuccess;
}

/* What a test wants the machine to be. */
static int driver_version = CUDART_VERSION, compute_major = 8, n_multiprocessors = 4;
static int ptx_version = 80;
static bool has_cooperative = true;
static cudaError_t count_error = cudaSuccess;

bool harness_launch_allowed(dim3 blocks, dim3 threads, size_t shared, const void *kernel, bool together)
{
    if (runtime_fault(together ? "cudaLaunchCooperativeKernel" : "LAUNCH") != cudaSuccess)
        return false;
    if (together && (!has_cooperative || (int)blocks.x > n_multiprocessors)) {
        runtime_error(has_cooperative ? cudaErrorCooperativeLaunchTooLarge : cudaErrorNotSupported);
        return false;
    }
    size_t n = (size_t)threads.x * threads.y * threads.z;
    bool fits = n >= 1 && n <= 1024 && threads.z <= 64 && blocks.x >= 1 && blocks.y >= 1 && blocks.z >= 1 &&
                blocks.x <= 0x7fffffff && blocks.y <= 65535 && blocks.z <= 65535 &&
                shared <= harness_shared_limit(kernel);
    runtime_error(fits ? cudaSuccess : cudaErrorInvalidConfiguration);
    return fits;
}

extern "C" const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaErrorMemoryAllocation ? "out of memory" : "an error of the harness";
}

extern "C" void harness_shared_bytes(size_t of_a_block)
{
    shared_most = of_a_block;
}

extern "C" void harness_cooperative(bool has, int multiprocessors)
{
    has_cooperative = has;
    n_multiprocessors = multiprocessors;
}

extern "C" bool harness_ptx(int version)
{
    ptx_version = version;
    return true;
}

extern "C" cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *)
{
    RUNTIME_CALL();
    *a = cudaFuncAttributes{};
    a->ptxVersion = ptx_version;
    return cudaSuccess;
}

/* One block a multiprocessor, of whatever fits at all. */
extern "C" cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *kernel, int threads,
                                                                     size_t shared)
{
    RUNTIME_CALL();
    *n = threads <= 1024 && shared <= harness_shared_limit(kernel);
    return cudaSuccess;
}

extern "C" void harness_machine(int driver, int error_of_count, int major, size_t memory)
{
    driver_version = driver;
    count_error = (cudaError_t)error_of_count;
    compute_major = major;
    runtime_set_device_bytes(memory);
}

extern "C" cudaError_t cudaGetDeviceCount(int *n)
{
    *n = count_error == cudaSuccess;
    return runtime_error(count_error);
}

extern "C" cudaError_t cudaSetDevice(int device)
{
    RUNTIME_CALL();
    return device == 0 ? cudaSuccess : runtime_error(cudaErrorInvalidDevice);
}

static unsigned device_flags;

extern "C" unsigned harness_device_flags(void)
{
    return device_flags;
}

extern "C" cudaError_t cudaSetDeviceFlags(unsigned flags)
{
    RUNTIME_CALL();
    device_flags = flags;
    return cudaSuccess;
}

extern "C" cudaError_t cudaDriverGetVersion(int *version)
{
    *version = driver_version;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    /* Not RUNTIME_CALL: CUDA 12 has another name for it, by a macro, that __func__ would say. */
    if (cudaError_t wanted = runtime_fault("cudaGetDeviceProperties"))
        return wanted;
    *p = cudaDeviceProp{};
    snprintf(p->name, sizeof(p->name), "the host");
    p->major = compute_major;
    p->multiProcessorCount = n_multiprocessors;
    p->sharedMemPerBlockOptin = shared_most;
    p->l2CacheSize = 1 << 20;
    p->cooperativeLaunch = has_cooperative;
    return cudaSuccess;
}

/* Clocks and widths, which only tools ask for: there are none. */
extern "C" cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr what, int)
{
    *value = what == cudaDevAttrL2CacheSize ? 1 << 20 : 0;
    return cudaSuccess;
}
