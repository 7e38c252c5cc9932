#include "gpu/layers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NAME_BYTES 96
#define LARGE_PAGE ((size_t)2 << 20)

void layer_loader_init(struct layer_loader *l, struct engine *engine, const struct weights *weights,
                       struct err *err)
{
    const struct whisper_dims *d = weights_dims(weights);
    size_t state = (size_t)d->n_text_state;
    size_t embedding = (size_t)d->n_vocab * state, mlp = 4 * state * state;
    *l = (struct layer_loader){.engine = engine, .weights = weights, .err = err};
    l->n_values = embedding > mlp ? embedding : mlp;
    /* Large pages: touching the 80 MB of a small model's embedding 4 kB at a time takes longer than decoding it. */
    size_t bytes = (l->n_values * sizeof(float) + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    l->values = aligned_alloc(LARGE_PAGE, bytes);
    if (!l->values)
        l->code = err_set(err, -ENOMEM, "out of memory for loading the model");
    else
        madvise(l->values, bytes, MADV_HUGEPAGE);
}

void layer_loader_finish(struct layer_loader *l)
{
    free(l->values);
    l->values = NULL;
}

void *load_alloc(struct layer_loader *l, size_t n, size_t size)
{
    if (l->code < 0)
        return NULL;
    void *p = l->engine->v->alloc(l->engine, n * size, l->err);
    if (!p)
        l->code = l->err->code;
    return p;
}

static void read_values(struct layer_loader *l, const char *name, float *dst, size_t n)
{
    if (l->code == 0)
        l->code = weights_read(l->weights, name, dst, n, l->err);
}

static float *to_engine(struct layer_loader *l, const float *values, size_t n)
{
    float *p = load_alloc(l, n, sizeof(float));
    if (!p)
        return NULL;
    l->engine->v->upload(l->engine, p, values, n * sizeof(float));
    l->code = l->engine->v->wait(l->engine, l->err);
    return p;
}

float *load_vector(struct layer_loader *l, const char *name, int n)
{
    read_values(l, name, l->values, (size_t)n);
    return l->code < 0 ? NULL : to_engine(l, l->values, (size_t)n);
}

struct norm load_norm(struct layer_loader *l, const char *name, int n)
{
    char part[NAME_BYTES];
    struct norm norm;
    snprintf(part, sizeof(part), "%s.weight", name);
    norm.gamma = load_vector(l, part, n);
    snprintf(part, sizeof(part), "%s.bias", name);
    norm.beta = load_vector(l, part, n);
    return norm;
}

static struct engine_weight *create_weight(struct layer_loader *l, enum weight_use use, int n_out, int n_in)
{
    struct engine_weight *weight = NULL;
    if (l->code == 0)
        l->code = l->engine->v->weight_create(l->engine, use, n_out, n_in, l->values, &weight, l->err);
    return weight;
}

struct engine_weight *load_embedding(struct layer_loader *l, const char *name, int n_out, int n_in)
{
    read_values(l, name, l->values, (size_t)n_out * (size_t)n_in);
    struct engine_weight *weight = create_weight(l, WEIGHT_ROWS, n_out, n_in);
    /* By far the largest matrix: the pages that no other one touches go back to the system. */
    madvise(l->values, l->n_values * sizeof(float), MADV_DONTNEED);
    return weight;
}

/* OpenAI's key projections have no bias: zeros. */
static void read_bias(struct layer_loader *l, const char *prefix, const char *stem, float *dst, int n)
{
    char name[NAME_BYTES];
    const char *dot = strrchr(stem, '.');
    if (dot && !strcmp(dot, ".key")) {
        memset(dst, 0, (size_t)n * sizeof(float));
        return;
    }
    snprintf(name, sizeof(name), "%s.%s.bias", prefix, stem);
    read_values(l, name, dst, (size_t)n);
}

struct linear load_linear(struct layer_loader *l, enum weight_use use, const char *prefix,
                          const char *const *stems, int n_stems, int n_out, int n_in)
{
    char name[NAME_BYTES];
    struct linear linear = {0};
    for (int i = 0; i < n_stems; i++) {
        snprintf(name, sizeof(name), "%s.%s.weight", prefix, stems[i]);
        size_t n = (size_t)n_out * (size_t)n_in;
        read_values(l, name, l->values + (size_t)i * n, n);
    }
    linear.weight = create_weight(l, use, n_stems * n_out, n_in);
    for (int i = 0; i < n_stems; i++)
        read_bias(l, prefix, stems[i], l->values + (size_t)i * (size_t)n_out, n_out);
    if (l->code == 0)
        linear.bias = to_engine(l, l->values, (size_t)n_stems * (size_t)n_out);
    return linear;
}

struct linear load_convolution(struct layer_loader *l, const char *name, int n_out, int n_in)
{
    char part[NAME_BYTES];
    size_t n = 3 * (size_t)n_out * (size_t)n_in;
    struct linear linear = {0};
    float *taps_last = l->code == 0 ? malloc(n * sizeof(float)) : NULL;
    if (!taps_last) {
        if (l->code == 0)
            l->code = err_set(l->err, -ENOMEM, "out of memory for loading the model");
        return linear;
    }
    snprintf(part, sizeof(part), "%s.weight", name);
    read_values(l, part, taps_last, n);
    for (size_t out = 0; out < (size_t)n_out && l->code == 0; out++) {
        for (size_t in = 0; in < (size_t)n_in; in++) {
            for (size_t tap = 0; tap < 3; tap++)
                l->values[(out * 3 + tap) * (size_t)n_in + in] =
                    taps_last[(out * (size_t)n_in + in) * 3 + tap];
        }
    }
    free(taps_last);
    linear.weight = create_weight(l, WEIGHT_WIDE, n_out, 3 * n_in);
    snprintf(part, sizeof(part), "%s.bias", name);
    linear.bias = load_vector(l, part, n_out);
    return linear;
}

void linear_free(struct engine *e, struct linear *linear)
{
    e->v->weight_destroy(e, linear->weight);
    e->v->free(e, linear->bias);
}

void norm_free(struct engine *e, struct norm *norm)
{
    e->v->free(e, norm->gamma);
    e->v->free(e, norm->beta);
}
