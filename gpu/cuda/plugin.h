/* How the program and its CUDA engine meet: libcaptiond-cuda.so exports one function, which gpu/engine.c looks up. The
 * program itself links no CUDA library, and starts where there is none. */
#ifndef CAPTIOND_GPU_CUDA_PLUGIN_H
#define CAPTIOND_GPU_CUDA_PLUGIN_H

#include "gpu/engine.h"

#define CUDA_PLUGIN_FILE "libcaptiond-cuda.so"
#define CUDA_PLUGIN_OPEN "captiond_cuda_open"

/* What both sides must have been built from: compared as a whole. */
struct cuda_plugin_terms {
    char version[16]; /* CAPTIOND_VERSION */
    uint32_t vtable_bytes, engine_bytes, options_bytes, slot_bytes;
};

/* In C and C++ alike, which is why it is no compound literal. */
static inline struct cuda_plugin_terms cuda_plugin_ours(void)
{
    struct cuda_plugin_terms t = {CAPTIOND_VERSION, (uint32_t)sizeof(struct engine_vtable),
                                  (uint32_t)sizeof(struct engine), (uint32_t)sizeof(struct engine_options),
                                  (uint32_t)sizeof(struct slot_state)};
    return t;
}

/* Opens the first GPU. 0; -ENODEV: no driver, too old a driver or no GPU that the engine is built for; -ENOMEM; -ENOTSUP:
 * other terms, or single precision asked for. The message says which, and what to do. */
typedef int cuda_plugin_open(const struct cuda_plugin_terms *, const struct engine_options *,
                             struct engine **, struct err *);

#endif
