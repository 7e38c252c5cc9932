/* What encoder and decoder are made of, loaded from a model file into an engine. Inside gpu/ only. */
#ifndef CAPTIOND_GPU_LAYERS_H
#define CAPTIOND_GPU_LAYERS_H

#include "gpu/engine.h"
#include "gpu/weights.h"

struct linear {
    struct engine_weight *weight; /* [n_out, n_in] */
    float *bias;                  /* engine memory [n_out] */
};

struct norm {
    float *gamma, *beta; /* engine memory [n_state] */
};

/* Loads layer after layer. The first error sticks: later calls do nothing, `code` and `err` keep it. */
struct layer_loader {
    struct engine *engine;
    const struct weights *weights;
    float *values; /* host memory, room for the model's largest matrix */
    size_t n_values;
    int code;
    struct err *err;
};

void layer_loader_init(struct layer_loader *, struct engine *, const struct weights *, struct err *);
void layer_loader_finish(struct layer_loader *);

/* Engine memory for n values, zeroed; NULL and an error when there is none. */
void *load_alloc(struct layer_loader *, size_t n, size_t size);
/* A tensor in engine memory, f32. */
float *load_vector(struct layer_loader *, const char *name, int n);
struct norm load_norm(struct layer_loader *, const char *name, int n);
struct engine_weight *load_embedding(struct layer_loader *, const char *name, int n_out, int n_in);
/* The layers PREFIX.STEM for each stem (n_stems of them, each [n_out, n_in]), stacked as one. */
struct linear load_linear(struct layer_loader *, enum weight_use, const char *prefix,
                          const char *const *stems, int n_stems, int n_out, int n_in);
/* A convolution over time with 3 taps, [n_out, n_in, 3] in the file, as a matrix over three adjacent rows of its input:
 * [n_out, 3 · n_in]. */
struct linear load_convolution(struct layer_loader *, const char *name, int n_out, int n_in);

void linear_free(struct engine *, struct linear *);
void norm_free(struct engine *, struct norm *);

#endif
