/* Device memory, and the host's that the device reads. Device memory starts as NaN, ends at a page that nobody may touch, is
 * never used twice, and while host code runs none of it may be touched. */
#include "tests/cuda/harness/runtime.h"

#include <cstdlib>
#include <map>

#include <sys/mman.h>

#define ARENA_BYTES  ((size_t)64 << 30) /* of addresses */
#define PAGE         ((size_t)4096)
#define ALIGNMENT    ((size_t)64) /* the real one aligns to 256 */
#define POISON       0xff
#define DEVICE_BYTES ((size_t)8 << 30)

struct allocation {
    size_t pages_bytes, bytes;
    char *memory;
};

static char *arena;
static size_t arena_used, device_used, device_bytes = DEVICE_BYTES;
static std::map<char *, struct allocation> allocations; /* by first page */
static std::map<char *, size_t> pinned;
static int n_open;
static bool is_reset;

void runtime_set_device_bytes(size_t bytes)
{
    device_bytes = bytes ? bytes : DEVICE_BYTES;
}

static void protect(int how)
{
    for (const auto &a : allocations)
        mprotect(a.first, a.second.pages_bytes, how);
}

extern "C" void harness_open_memory(bool open)
{
    if (open ? n_open++ == 0 : --n_open == 0)
        protect(open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

extern "C" cudaError_t cudaMalloc(void **out, size_t bytes)
{
    RUNTIME_CALL();
    if (!arena)
        arena =
            (char *)mmap(nullptr, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    if (bytes == 0) {
        *out = nullptr;
        return cudaSuccess;
    }
    if (device_used + pages > device_bytes || arena_used + pages + PAGE > ARENA_BYTES)
        return runtime_error(cudaErrorMemoryAllocation);
    char *first = arena + arena_used;
    arena_used += pages + PAGE;
    device_used += pages;
    mprotect(first, pages, PROT_READ | PROT_WRITE);
    memset(first, POISON, pages);
    char *memory = first + pages - (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    allocations[first] = {pages, bytes, memory};
    is_reset = false;
    if (!n_open)
        mprotect(first, pages, PROT_NONE);
    *out = memory;
    return cudaSuccess;
}

static std::map<char *, struct allocation>::iterator find(const void *p)
{
    auto a = allocations.upper_bound((char *)(uintptr_t)p);
    if (a == allocations.begin())
        return allocations.end();
    --a;
    return (char *)p < a->first + a->second.pages_bytes ? a : allocations.end();
}

bool runtime_is_device(const void *p)
{
    return arena && (char *)p >= arena && (char *)p < arena + ARENA_BYTES;
}

/* The bytes between an allocation and its pages' borders are nobody's. */
static void check_margins(const char *first, const struct allocation *a)
{
    for (const char *p = first; p < first + a->pages_bytes; p++) {
        if (p == a->memory)
            p += a->bytes; /* its own */
        if (p < first + a->pages_bytes && (unsigned char)*p != POISON)
            harness_die("written before or behind an allocation in device memory");
    }
}

extern "C" cudaError_t cudaFree(void *p)
{
    runtime_drain();
    if (!p)
        return cudaSuccess;
    auto a = find(p);
    if (a == allocations.end() || a->second.memory != p)
        return runtime_error(cudaErrorInvalidValue);
    mprotect(a->first, a->second.pages_bytes, PROT_READ);
    check_margins(a->first, &a->second);
    mprotect(a->first, a->second.pages_bytes, PROT_NONE);
    madvise(a->first, a->second.pages_bytes, MADV_DONTNEED);
    device_used -= a->second.pages_bytes;
    allocations.erase(a);
    return cudaSuccess;
}

void prefetch(const void *p)
{
    auto a = find(p);
    if (a == allocations.end() || (const char *)p >= a->second.memory + a->second.bytes)
        harness_die("a prefetch of what is no device memory");
}

bool runtime_is_whole(const void *p, size_t bytes)
{
    auto a = find(p);
    if (!runtime_is_device(p))
        return true;
    return a != allocations.end() && (char *)p >= a->second.memory &&
           (char *)p + bytes <= a->second.memory + a->second.bytes;
}

extern "C" cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    RUNTIME_CALL();
    *available = device_bytes - device_used;
    *total = device_bytes;
    return cudaSuccess;
}

extern "C" cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    RUNTIME_CALL();
    *p = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
    pinned[(char *)*p] = bytes;
    return *p ? cudaSuccess : runtime_error(cudaErrorMemoryAllocation);
}

extern "C" cudaError_t cudaFreeHost(void *p)
{
    runtime_drain();
    pinned.erase((char *)p);
    free(p);
    return cudaSuccess;
}

extern "C" cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned)
{
    RUNTIME_CALL();
    pinned[(char *)p] = bytes;
    return cudaSuccess;
}

extern "C" cudaError_t cudaHostUnregister(void *p)
{
    RUNTIME_CALL();
    runtime_drain();
    return pinned.erase((char *)p) ? cudaSuccess : runtime_error(cudaErrorHostMemoryNotRegistered);
}

extern "C" cudaError_t cudaDeviceReset(void)
{
    if (!allocations.empty())
        harness_die("the device is reset while somebody has memory of it");
    is_reset = true;
    return cudaSuccess;
}

extern "C" bool harness_is_reset(void)
{
    return is_reset;
}

bool runtime_is_pinned(const void *p)
{
    auto a = pinned.upper_bound((char *)(uintptr_t)p);
    if (a == pinned.begin())
        return false;
    --a;
    return (char *)p < a->first + a->second;
}
