/* Kernels under ThreadSanitizer: what orders the threads of a block, and nothing else does.
 *
 * Only gpu/cuda/ is compiled with -fsanitize=thread. A CUDA thread is a fiber of the sanitizer, and switching between fibers
 * orders nothing; __syncthreads and __syncwarp do, atomics, and the beginning and the end of a launch. Neither are blocks
 * ordered that run one after the other, but for every other one: those get the same fibers. What the harness does by itself
 * is not looked at; the accesses of ldmatrix and cp.async, which it does for the kernel, are reported. Everything here is
 * nothing in other builds. */
#ifndef CAPTIOND_TESTS_CUDA_RACES_H
#define CAPTIOND_TESTS_CUDA_RACES_H

#include <cstddef>

#ifdef HARNESS_RACES
#define RACES 1
#include <sanitizer/tsan_interface.h>

extern "C" {
void __tsan_read_range(void *p, unsigned long bytes);
void __tsan_write_range(void *p, unsigned long bytes);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
}

/* While one is alive, this fiber's accesses and allocations are the harness's own. */
struct races_quiet {
    races_quiet()
    {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    ~races_quiet()
    {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
};

static inline void *races_main(void)
{
    static void *const fiber = __tsan_get_current_fiber();
    return fiber;
}

static inline void races_switch(void **fiber)
{
    if (!*fiber) {
        /* By the main fiber, or it would be ordered behind all that the one before it has done. */
        __tsan_switch_to_fiber(races_main(), __tsan_switch_to_fiber_no_sync);
        *fiber = __tsan_create_fiber(0);
    }
    __tsan_switch_to_fiber(*fiber, __tsan_switch_to_fiber_no_sync);
}

static inline void races_switch_back(void)
{
    __tsan_switch_to_fiber(races_main(), __tsan_switch_to_fiber_no_sync);
}

static inline void races_release(void *p)
{
    __tsan_release(p);
}

static inline void races_acquire(void *p)
{
    __tsan_acquire(p);
}

static inline void races_read(const void *p, size_t bytes)
{
    if (bytes)
        __tsan_read_range((void *)(size_t)p, bytes);
}

static inline void races_write(void *p, size_t bytes)
{
    __tsan_write_range(p, bytes);
}
#else
#define RACES 0
struct races_quiet {
    races_quiet()
    {
    }
    ~races_quiet()
    {
    }
};

static inline void races_switch(void **)
{
}

static inline void races_switch_back(void)
{
}

static inline void races_release(void *)
{
}

static inline void races_acquire(void *)
{
}

static inline void races_read(const void *, size_t)
{
}

static inline void races_write(void *, size_t)
{
}
#endif

#endif
