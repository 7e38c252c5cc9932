/* The host engine's list of submitted work.
 *
 * Operations are run as they are submitted. In deferred mode (a test mode that behaves like a device) they are kept
 * until wait, and between graph_begin and graph_end they go into the graph. Everything therefore passes through one
 * struct command. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gpu/host/host.h"
#include "gpu/host/kernels_wide.h"

struct upload_args {
    void *dst;
    const void *src;
    size_t bytes;
};

struct kv_copy_args {
    struct engine_kv *kv;
    int src_slot, dst_slot, n_ctx;
};

struct launch_args {
    struct engine_graph *graph;
    const int32_t *n_active;
    int max_times;
};

struct command {
    int (*run)(struct host_engine *, const void *args);
    union {
        struct mel_args mel;
        struct linear_args linear;
        struct layer_norm_args layer_norm;
        struct attention_args attention;
        struct kv_store_args kv_store;
        struct rows_from_slots_args rows_from_slots;
        struct embed_args embed;
        struct linear_rows_args linear_rows;
        struct self_attention_args self_attention;
        struct cross_attention_args cross_attention;
        struct select_args select;
        struct advance_args advance;
        struct beam_select_args beam_select;
        struct beam_advance_args beam_advance;
        struct upload_args upload;
        struct kv_copy_args kv_copy;
        struct launch_args launch;
    } args;
};

struct command_list {
    struct command *commands;
    int n, capacity;
};

struct engine_graph {
    struct command_list list;
};

struct submission {
    struct command_list pending; /* deferred mode */
    bool recording;
    struct engine_graph *graph; /* being recorded; NULL while recording: memory ran out */
};

static struct host_engine *host_of(struct engine *e)
{
    return (struct host_engine *)e;
}

static int append(struct command_list *list, const struct command *command)
{
    if (list->n == list->capacity) {
        int capacity = list->capacity ? 2 * list->capacity : 64;
        struct command *grown = realloc(list->commands, (size_t)capacity * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        list->commands = grown;
        list->capacity = capacity;
    }
    list->commands[list->n++] = *command;
    return 0;
}

static void graph_free(struct engine_graph *graph)
{
    if (graph)
        free(graph->list.commands);
    free(graph);
}

/* After the first error nothing runs until wait has reported it. */
static void execute(struct host_engine *h, const struct command *command)
{
    if (h->err.code)
        return;
    int r = command->run(h, &command->args);
    if (r < 0 && !h->err.code)
        err_set(&h->err, r, "the host engine failed: %s", strerror(-r));
}

static void record(struct submission *s, const struct command *command)
{
    if (s->graph && append(&s->graph->list, command) < 0) {
        graph_free(s->graph);
        s->graph = NULL;
    }
}

static void submit(struct engine *e, int (*run)(struct host_engine *, const void *), const void *args,
                   size_t bytes)
{
    struct host_engine *h = host_of(e);
    struct command command = {.run = run};
    memcpy(&command.args, args, bytes);
    if (h->submission->recording)
        record(h->submission, &command);
    else if (!h->options.deferred)
        execute(h, &command);
    else if (append(&h->submission->pending, &command) < 0 && !h->err.code)
        err_set(&h->err, -ENOMEM, "out of memory for submitted work");
}

#define OPERATION(name)                                                                                      \
    static int run_##name(struct host_engine *h, const void *args)                                           \
    {                                                                                                        \
        return host_##name(h, args);                                                                         \
    }                                                                                                        \
    static void submit_##name(struct engine *e, const struct name##_args *args)                              \
    {                                                                                                        \
        submit(e, run_##name, args, sizeof(*args));                                                          \
    }

ENGINE_OPERATIONS(OPERATION)

static int run_copy(struct host_engine *h, const void *args)
{
    const struct upload_args *a = args;
    memcpy(a->dst, a->src, a->bytes);
    return 0;
}

static void submit_copy(struct engine *e, void *dst, const void *src, size_t bytes)
{
    submit(e, run_copy, &(struct upload_args){dst, src, bytes}, sizeof(struct upload_args));
}

static int run_kv_copy(struct host_engine *h, const void *args)
{
    const struct kv_copy_args *a = args;
    return host_kv_copy(h, a->kv, a->src_slot, a->dst_slot, a->n_ctx);
}

static void submit_kv_copy(struct engine *e, struct engine_kv *kv, int src_slot, int dst_slot, int n_ctx)
{
    submit(e, run_kv_copy, &(struct kv_copy_args){kv, src_slot, dst_slot, n_ctx},
           sizeof(struct kv_copy_args));
}

static int run_launch(struct host_engine *h, const void *args)
{
    const struct launch_args *a = args;
    for (int i = 0; i < a->max_times && !h->err.code && (!a->n_active || *a->n_active > 0); i++) {
        for (int k = 0; k < a->graph->list.n; k++)
            execute(h, &a->graph->list.commands[k]);
    }
    return h->err.code;
}

static void graph_launch(struct engine *e, struct engine_graph *graph, const int32_t *n_active, int max_times)
{
    submit(e, run_launch, &(struct launch_args){graph, n_active, max_times}, sizeof(struct launch_args));
}

static void graph_begin(struct engine *e)
{
    struct submission *s = host_of(e)->submission;
    s->recording = true;
    s->graph = calloc(1, sizeof(*s->graph));
}

static struct engine_graph *graph_end(struct engine *e)
{
    struct submission *s = host_of(e)->submission;
    struct engine_graph *graph = s->graph;
    s->recording = false;
    s->graph = NULL;
    return graph;
}

static void graph_destroy(struct engine *e, struct engine_graph *graph)
{
    graph_free(graph);
}

static int wait(struct engine *e, struct err *err)
{
    struct host_engine *h = host_of(e);
    struct command_list *pending = &h->submission->pending;
    for (int i = 0; i < pending->n; i++)
        execute(h, &pending->commands[i]);
    pending->n = 0;
    int code = h->err.code;
    if (code && err)
        *err = h->err;
    h->err.code = 0;
    return code;
}

/* --- memory --------------------------------------------------------------------------------------------------- */

/* Fresh pages, zeros until they are written: what is never used (most of the alignment's memory) costs nothing. */
static void *engine_alloc(struct engine *e, size_t bytes, struct err *err)
{
    void *p = host_memory_alloc(&host_of(e)->memory, bytes);
    if (!p)
        err_set(err, -ENOMEM, "out of memory: %zu MB for the model", bytes >> 20);
    return p;
}

static void engine_free(struct engine *e, void *p)
{
    host_memory_free(p);
}

static int host_register(struct engine *e, void *p, size_t bytes, struct err *err)
{
    if (mlock(p, bytes) < 0)
        return err_set(err, -errno,
                       "cannot lock %zu kB of audio, which may be swapped out: %s (see RLIMIT_MEMLOCK)",
                       bytes / 1024, strerror(errno));
    return 0;
}

/* The memory is unlocked when its owner unmaps it. */
static void host_unregister(struct engine *e, void *p)
{
}

void *host_scratch(struct host_engine *h, size_t bytes)
{
    if (bytes > h->scratch_bytes) {
        host_memory_free(h->scratch);
        h->scratch = engine_alloc(&h->base, bytes, NULL);
        h->scratch_bytes = h->scratch ? bytes : 0;
        if (!h->scratch)
            err_set(&h->err, -ENOMEM, "out of memory: %zu kB of scratch", bytes / 1024);
    }
    return h->scratch;
}

static int weight_create(struct engine *e, enum weight_use use, int n_out, int n_in, const float *values,
                         struct engine_weight **out, struct err *err)
{
    struct host_engine *h = host_of(e);
    struct engine_weight *w = calloc(1, sizeof(*w));
    if (!w)
        return err_set(err, -ENOMEM, "out of memory for a weight");
    *w = (struct engine_weight){.use = use, .n_out = n_out, .n_in = n_in};
    int r = use == WEIGHT_WIDE ? host_wide_weight_create(h, n_out, n_in, values, &w->packed, err)
                               : host_rows_weight_create(h, n_out, n_in, values, &w->packed, err);
    if (r < 0) {
        free(w);
        return r;
    }
    *out = w;
    return 0;
}

static void weight_destroy(struct engine *e, struct engine_weight *w)
{
    if (!w)
        return;
    if (w->use == WEIGHT_WIDE)
        host_wide_weight_destroy(w->packed);
    else
        host_rows_weight_destroy(w->packed);
    free(w);
}

static int kv_create(struct engine *e, int n_layer, int n_slots, int n_ctx, int n_head,
                     struct engine_kv **out, struct err *err)
{
    int r = host_kv_create(host_of(e), n_layer, n_slots, n_ctx, n_head, out);
    return r < 0 ? err_set(err, r, "out of memory for keys and values") : 0;
}

static void kv_destroy(struct engine *e, struct engine_kv *kv)
{
    host_kv_destroy(kv);
}

/* --- life ----------------------------------------------------------------------------------------------------- */

static void destroy(struct engine *e)
{
    struct host_engine *h = host_of(e);
    mel_basis_destroy(h->mel);
    gemm_destroy(h->gemm);
    pool_destroy(h->pool);
    if (h->submission) {
        graph_free(h->submission->graph);
        free(h->submission->pending.commands);
    }
    free(h->submission);
    host_memory_free(h->scratch);
    host_memory_finish(&h->memory);
    free(h);
}

#define ENTRY(name) .name = submit_##name,

/* clang-format off */
static const struct engine_vtable vtable = {
    .name = "host",
    .destroy = destroy,
    .alloc = engine_alloc,
    .free = engine_free,
    .host_register = host_register,
    .host_unregister = host_unregister,
    .weight_create = weight_create,
    .weight_destroy = weight_destroy,
    .kv_create = kv_create,
    .kv_destroy = kv_destroy,
    .upload = submit_copy,
    .download = submit_copy,
    .kv_copy = submit_kv_copy,
    .wait = wait,
    .graph_begin = graph_begin,
    .graph_end = graph_end,
    .graph_destroy = graph_destroy,
    .graph_launch = graph_launch,
    ENGINE_OPERATIONS(ENTRY)
};
/* clang-format on */

/* bf16 where both the kernels here and oneDNN have it. */
static int choose_type(struct host_engine *h, int n_threads, struct err *err)
{
    bool bf16 = h->options.precision == PRECISION_AUTO && h->wide->attention_bf16;
    int r = bf16 ? gemm_create(n_threads, DTYPE_BF16, &h->gemm, err) : -ENOTSUP;
    if (r == -ENOTSUP) {
        bf16 = false;
        r = gemm_create(n_threads, DTYPE_F32, &h->gemm, err);
    }
    h->base.wide_type = bf16 ? DTYPE_BF16 : DTYPE_F32;
    h->base.windows_max = 1;
    snprintf(h->base.name, sizeof(h->base.name), "host %s (%s)", bf16 ? "bf16" : "f32", isa_name(h->isa));
    return r;
}

int host_engine_open(const struct engine_options *options, struct engine **out, struct err *err)
{
    if (options->n_threads < 0 || options->n_threads > HOST_THREADS_MAX)
        return err_set(err, -EINVAL, "threads: %d is not between 0 (one a processor) and %d",
                       options->n_threads, HOST_THREADS_MAX);
    struct host_engine *h = calloc(1, sizeof(*h));
    if (!h)
        return err_set(err, -ENOMEM, "out of memory for the engine");
    h->options = *options;
    if (options->precision == PRECISION_FINEST)
        h->options.precision = PRECISION_F32;
    if (options->precision == PRECISION_INT8)
        h->options.precision = PRECISION_AUTO;
    h->isa = isa_detect();
    h->wide = wide_kernels_for(h->isa);
    h->rows = rows_kernels_for(h->isa);
    h->base.v = &vtable;
    int n_threads = options->n_threads ? options->n_threads : processor_count();
    n_threads = n_threads > HOST_THREADS_MAX ? HOST_THREADS_MAX : n_threads;
    h->submission = calloc(1, sizeof(*h->submission));
    int r = h->submission ? pool_create(n_threads, &h->pool) : -ENOMEM;
    if (r == 0)
        r = mel_basis_create(options->n_mels, &h->mel);
    if (r < 0)
        err_set(err, r, "cannot start the host engine with %d threads: %s", n_threads, strerror(-r));
    else
        r = choose_type(h, n_threads, err);
    if (r < 0) {
        destroy(&h->base);
        return r;
    }
    *out = &h->base;
    return 0;
}
