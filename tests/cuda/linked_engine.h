/* engine_open and engine_close of a test that is linked with both engines, the CUDA one compiled for the processor: in the
 * place of gpu/engine.c, which would open the library for GPUs. For one file of a program. */
#ifndef CAPTIOND_TESTS_CUDA_LINKED_ENGINE_H
#define CAPTIOND_TESTS_CUDA_LINKED_ENGINE_H

#include <string.h>

#include "gpu/cuda/plugin.h"

int captiond_cuda_open(const struct cuda_plugin_terms *, const struct engine_options *, struct engine **,
                       struct err *);

int engine_open(const char *name, const struct engine_options *options, struct engine **out, struct err *err)
{
    const struct cuda_plugin_terms terms = cuda_plugin_ours();
    return strcmp(name, "cuda") ? host_engine_open(options, out, err)
                                : captiond_cuda_open(&terms, options, out, err);
}

void engine_close(struct engine *e)
{
    if (e)
        e->v->destroy(e);
}

#endif
