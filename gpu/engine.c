#include "gpu/engine.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "gpu/cuda/plugin.h"

/* Beside the program where it is built, and where it is installed. */
static const char *const plugin_folders[] = {"", "../lib/captiond/"};

/* Opens the first plugin there is. It stays open: engines of it may be about. */
static void *open_plugin(struct err *err)
{
    char program[1024], path[1200];
    ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
    program[n < 0 ? 0 : n] = '\0';
    char *slash = strrchr(program, '/');
    if (!slash) {
        err_set(err, -ENODEV, "engine cuda: cannot find the program's own folder");
        return NULL;
    }
    slash[1] = '\0';
    for (size_t i = 0; i < sizeof(plugin_folders) / sizeof(plugin_folders[0]); i++) {
        snprintf(path, sizeof(path), "%s%s%s", program, plugin_folders[i], CUDA_PLUGIN_FILE);
        if (access(path, F_OK) < 0)
            continue;
        /* Never unloaded: what CUDA has in this process outlives an engine. */
        void *plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (!plugin)
            err_set(err, -ENODEV, "engine cuda: %s", dlerror());
        return plugin;
    }
    err_set(err, -ENOENT,
            "engine cuda: there is no %s (it is built where the CUDA Toolkit is); use --engine host",
            CUDA_PLUGIN_FILE);
    return NULL;
}

static int cuda_engine_open(const struct engine_options *options, struct engine **out, struct err *err)
{
    const struct cuda_plugin_terms terms = cuda_plugin_ours();
    cuda_plugin_open *open;
    void *plugin = open_plugin(err);
    if (!plugin)
        return err->code;
    void *symbol = dlsym(plugin, CUDA_PLUGIN_OPEN);
    if (!symbol) {
        dlclose(plugin);
        return err_set(err, -ENODEV, "engine cuda: %s is none of ours", CUDA_PLUGIN_FILE);
    }
    memcpy(&open, &symbol, sizeof(open)); /* as POSIX has it: no cast from data to code */
    int r = open(&terms, options, out, err);
    if (r < 0)
        dlclose(plugin);
    return r;
}

int engine_open(const char *name, const struct engine_options *options, struct engine **out, struct err *err)
{
    if (strcmp(name, "host") != 0 && strcmp(name, "cuda") != 0)
        return err_set(err, -EINVAL, "engine %s is unknown: auto, cuda and host are allowed", name);
    if (options->n_mels != 80 && options->n_mels != 128)
        return err_set(err, -EINVAL, "%d mel bins: Whisper has 80 or 128", options->n_mels);
    if (!strcmp(name, "cuda"))
        return cuda_engine_open(options, out, err);
    return host_engine_open(options, out, err);
}

void engine_close(struct engine *e)
{
    if (e)
        e->v->destroy(e);
}
