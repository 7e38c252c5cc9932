#include "gpu/engine.h"

#include <errno.h>
#include <string.h>

int engine_open(const char *name, const struct engine_options *options, struct engine **out, struct err *err)
{
    if (!strcmp(name, "cuda"))
        return err_set(err, -ENODEV, "engine cuda: this build has no CUDA engine; use --engine host or auto");
    if (strcmp(name, "host") != 0 && strcmp(name, "auto") != 0)
        return err_set(err, -EINVAL, "engine %s is unknown: auto, cuda and host are allowed", name);
    if (options->n_mels != 80 && options->n_mels != 128)
        return err_set(err, -EINVAL, "%d mel bins: Whisper has 80 or 128", options->n_mels);
    return host_engine_open(options, out, err);
}

void engine_close(struct engine *e)
{
    if (e)
        e->v->destroy(e);
}
