/* How the program and its CUDA engine meet: libcaptiond-cuda.so exports one function, which gpu/engine.c looks up. The
 * program itself links no CUDA library, and starts where there is none. */
#ifndef CAPTIOND_GPU_CUDA_PLUGIN_H
#define CAPTIOND_GPU_CUDA_PLUGIN_H

#include "gpu/engine.h"

#define CUDA_PLUGIN_FILE "libcaptiond-cuda.so"
#define CUDA_PLUGIN_OPEN "captiond_cuda_open"
#define CUDA_PLUGIN_FORM 2 /* raised with each change of what passes that no size tells */

/* What both sides must have been built from: compared as a whole. */
struct cuda_plugin_terms {
    char version[16]; /* CAPTIOND_VERSION */
    uint32_t vtable_bytes, engine_bytes, options_bytes;
    uint32_t form;   /* CUDA_PLUGIN_FORM */
    uint32_t others; /* made of the sizes of all other structs that go from one to the other */
};

static inline uint32_t cuda_plugin_others(void)
{
#define CUDA_PLUGIN_ARGS_BYTES(name) sizeof(struct name##_args),
    const size_t bytes[] = {sizeof(struct slot_state), sizeof(struct beam_state),
                            sizeof(struct beam_candidate), sizeof(struct err),
                            ENGINE_OPERATIONS(CUDA_PLUGIN_ARGS_BYTES)};
#undef CUDA_PLUGIN_ARGS_BYTES
    uint32_t all = 0;
    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++)
        all = 31 * all + (uint32_t)bytes[i]; /* a sum would miss what one struct gives to another */
    return all;
}

/* In C and C++ alike, which is why it is no compound literal. */
static inline struct cuda_plugin_terms cuda_plugin_ours(void)
{
    struct cuda_plugin_terms t = {CAPTIOND_VERSION,
                                  (uint32_t)sizeof(struct engine_vtable),
                                  (uint32_t)sizeof(struct engine),
                                  (uint32_t)sizeof(struct engine_options),
                                  CUDA_PLUGIN_FORM,
                                  cuda_plugin_others()};
    return t;
}

/* Opens the first GPU. 0; -ENODEV: no driver, too old a driver or no GPU that the engine is built for; -EIO: there is one, which
 * cannot be used; -ENOMEM; -ENOTSUP: other terms, or single precision asked for. The message says which, and what to do. */
typedef int cuda_plugin_open(const struct cuda_plugin_terms *, const struct engine_options *,
                             struct engine **, struct err *);

#endif
