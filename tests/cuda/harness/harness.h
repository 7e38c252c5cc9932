/* Inside the harness: what its files share. */
#ifndef CAPTIOND_TESTS_CUDA_HARNESS_H
#define CAPTIOND_TESTS_CUDA_HARNESS_H

#include "tests/cuda/harness/kernel.h"
#undef dlopen
#undef dlsym
#undef dlclose
#undef calloc

/* Says what a kernel or its caller did wrong, and where, and aborts. */
[[noreturn]] void harness_die(const char *what);

bool harness_is_random(void);
unsigned harness_random(unsigned n); /* 0 … n − 1 */

/* Shared memory that a kernel may have by its launch: 48 KB, or what cudaFuncSetAttribute gave it. */
size_t harness_shared_limit(const void *kernel);
/* And in all, with what it declares itself: what a launch may have and does not take is nobody's. */
size_t harness_shared_most(const void *kernel, size_t taken);

/* Whether host code may look at device memory. Nothing but a test may want that. */
extern "C" void harness_open_memory(bool open);

#endif
