/* Linear layers of the text decoder on a few rows, embedding, and the rows of a step. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/host/host.h"
#include "gpu/host/kernels_rows.h"

struct rows_weight {
    enum panel_type type;
    int n_out, n_in;
    void *panels; /* [panel_count(n_out)][n_in][PANEL] */
};

/* --- weights ---------------------------------------------------------------------------------------------------- */

struct pack_job {
    const struct rows_kernels *kernels;
    const struct rows_weight *weight;
    const float *values;
    float *wide;                      /* [workers][n_in][PANEL] */
    bool exact[HOST_THREADS_MAX];     /* all values seen by a worker are half floats */
    float greatest[HOST_THREADS_MAX]; /* magnitude */
};

static bool exact_in_f16(const struct rows_kernels *k, const float *x, int n)
{
    enum { CHUNK = 256 };
    uint16_t half[CHUNK];
    float back[CHUNK];
    for (int i = 0; i < n; i += CHUNK) {
        int m = n - i < CHUNK ? n - i : CHUNK;
        k->to_f16(x + i, m, half);
        k->from_f16(half, m, back);
        if (memcmp(back, x + i, (size_t)m * sizeof(float)) != 0)
            return false;
    }
    return true;
}

static void inspect_worker(void *arg, int worker, int n_workers)
{
    struct pack_job *job = arg;
    int first, last, n_in = job->weight->n_in;
    pool_share(job->weight->n_out, 1, worker, n_workers, &first, &last);
    bool exact = true;
    float greatest = 0.0f;
    for (int o = first; o < last; o++) {
        const float *x = job->values + (size_t)o * (size_t)n_in;
        exact = exact && exact_in_f16(job->kernels, x, n_in);
        for (int k = 0; k < n_in && !exact; k++)
            greatest = fabsf(x[k]) > greatest ? fabsf(x[k]) : greatest;
    }
    job->exact[worker] = exact;
    job->greatest[worker] = greatest;
}

/* Published weights are half floats: storing them as such loses nothing. Others are rounded, unless f32 was asked for
 * or they do not fit. */
static enum panel_type choose_type(struct host_engine *h, struct pack_job *job)
{
    if (h->isa == ISA_GENERIC)
        return PANEL_F32; /* nothing converts in hardware */
    pool_run(h->pool, inspect_worker, job);
    bool exact = true, fits = true;
    for (int i = 0; i < pool_size(h->pool); i++) {
        exact = exact && job->exact[i];
        fits = fits && job->greatest[i] <= 65504.0f;
    }
    return exact || (fits && h->options.precision == PRECISION_AUTO) ? PANEL_F16 : PANEL_F32;
}

static void pack_worker(void *arg, int worker, int n_workers)
{
    struct pack_job *job = arg;
    const struct rows_weight *w = job->weight;
    size_t panel_bytes = (size_t)w->n_in * PANEL * (w->type == PANEL_F16 ? 2 : 4);
    float *wide = job->wide + (size_t)worker * (size_t)w->n_in * PANEL;
    int first, last;
    pool_share(panel_count(w->n_out), 1, worker, n_workers, &first, &last);
    for (int p = first; p < last; p++) {
        int n = w->n_out - p * PANEL < PANEL ? w->n_out - p * PANEL : PANEL;
        const float *values = job->values + (size_t)p * PANEL * (size_t)w->n_in;
        char *panel = (char *)w->panels + (size_t)p * panel_bytes;
        if (n < PANEL)
            memset(wide, 0, (size_t)w->n_in * PANEL * sizeof(float));
        for (int o = 0; o < n; o++) {
            for (int k = 0; k < w->n_in; k++)
                wide[k * PANEL + o] = values[(size_t)o * (size_t)w->n_in + (size_t)k];
        }
        if (w->type == PANEL_F16)
            job->kernels->to_f16(wide, w->n_in * PANEL, (uint16_t *)(void *)panel);
        else
            memcpy(panel, wide, panel_bytes);
    }
}

int host_rows_weight_create(struct host_engine *h, int n_out, int n_in, const float *values, void **packed,
                            struct err *err)
{
    struct rows_weight *w = calloc(1, sizeof(*w));
    float *wide = malloc((size_t)pool_size(h->pool) * (size_t)n_in * PANEL * sizeof(float));
    if (!w || !wide)
        goto no_memory;
    struct pack_job job = {.kernels = h->rows, .weight = w, .values = values, .wide = wide};
    *w = (struct rows_weight){.n_out = n_out, .n_in = n_in};
    w->type = choose_type(h, &job);
    size_t panel_bytes = (size_t)n_in * PANEL * (w->type == PANEL_F16 ? 2 : 4);
    w->panels = host_memory_alloc(&h->memory, panel_bytes * (size_t)panel_count(n_out));
    if (!w->panels)
        goto no_memory;
    pool_run(h->pool, pack_worker, &job);
    free(wide);
    *packed = w;
    return 0;

no_memory:
    free(wide);
    free(w);
    return err_set(err, -ENOMEM, "out of memory: a weight of %d × %d", n_out, n_in);
}

void host_rows_weight_destroy(void *packed)
{
    struct rows_weight *w = packed;
    if (w)
        host_memory_free(w->panels);
    free(w);
}

/* --- linear layers ---------------------------------------------------------------------------------------------- */

struct linear_job {
    const struct rows_kernels *kernels;
    const struct linear_rows_args *args;
    struct panel_product product;
    float *normed; /* [n_rows, n_in], or NULL */
    const float **x;
    int n_active;
};

static float *row_of(struct mat m, int r)
{
    return (float *)m.data + (size_t)r * (size_t)m.stride;
}

static void norm_worker(void *arg, int worker, int n_workers)
{
    struct linear_job *job = arg;
    int first, last, n_in = job->product.n_in;
    pool_share(job->n_active, 1, worker, n_workers, &first, &last);
    for (int i = first; i < last; i++) {
        float *y = job->normed + (size_t)i * (size_t)n_in;
        job->kernels->layer_norm(job->x[i], job->args->gamma, job->args->beta, n_in, y);
        job->x[i] = y;
    }
}

static void product_worker(void *arg, int worker, int n_workers)
{
    struct linear_job *job = arg;
    int first, last;
    pool_share(panel_count(job->product.n_out), 1, worker, n_workers, &first, &last);
    job->kernels->product(&job->product, first, last);
}

int host_linear_rows(struct host_engine *h, const struct linear_rows_args *a)
{
    const struct rows_weight *w = a->weight->packed;
    int n = a->rows.n;
    size_t pointers = (size_t)n * sizeof(float *);
    size_t bytes = 3 * pointers + (a->gamma ? (size_t)n * (size_t)w->n_in * sizeof(float) : 0) + 64;
    char *scratch = host_scratch(h, bytes);
    if (!scratch)
        return -ENOMEM;
    const float **x = (const float **)(void *)scratch;
    float **out = (float **)(void *)(scratch + pointers);
    const float **add = (const float **)(void *)(scratch + 2 * pointers);
    int active = 0;
    for (int r = 0; r < n; r++) {
        if (a->rows.pos[r] < 0)
            continue;
        x[active] = row_of(a->in, r);
        out[active] = row_of(a->out, r);
        add[active] = a->add.data ? row_of(a->add, r) : NULL;
        active++;
    }
    struct linear_job job = {
        .kernels = h->rows,
        .args = a,
        .x = x,
        .n_active = active,
        .product = {.type = w->type,
                    .panels = w->panels,
                    .n_out = w->n_out,
                    .n_in = w->n_in,
                    .n_rows = active,
                    .x = x,
                    .out = out,
                    .bias = a->bias,
                    .add = a->add.data ? add : NULL,
                    .gelu = a->gelu},
    };
    if (a->gamma) {
        job.normed = (float *)(void *)(scratch + (3 * pointers + 63) / 64 * 64);
        if (active > 4)
            pool_run(h->pool, norm_worker, &job);
        else
            norm_worker(&job, 0, 1);
    }
    pool_run(h->pool, product_worker, &job);
    return 0;
}

/* --- rows ------------------------------------------------------------------------------------------------------- */

int host_embed(struct host_engine *h, const struct embed_args *a)
{
    const struct rows_weight *w = a->tokens->packed;
    for (int r = 0; r < a->rows.n; r++) {
        int token = a->rows.token[r], pos = a->rows.pos[r];
        if (pos < 0 || token < 0 || token >= w->n_out)
            continue;
        float *out = row_of(a->out, r);
        const float *position = a->positions + (size_t)pos * (size_t)w->n_in;
        h->rows->gather(w->type, w->panels, w->n_in, token, out);
        for (int i = 0; i < w->n_in; i++)
            out[i] += position[i];
    }
    return 0;
}

int host_rows_from_slots(struct host_engine *h, const struct rows_from_slots_args *a)
{
    for (int r = 0; r < a->rows.n; r++) {
        const struct slot_state *s = &a->slots[a->rows.slot[r]];
        bool active = s->done == SLOT_ACTIVE && s->n_tokens > 0;
        a->rows.pos[r] = active ? s->n_tokens - 1 : -1;
        a->rows.token[r] = active ? s->tokens[s->n_tokens - 1] : 0;
    }
    return 0;
}
