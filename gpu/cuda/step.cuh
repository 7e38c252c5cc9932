/* A step of the decoder as one list of layers, which step.cu's kernel goes through: step_program.cu makes it from the
 * operations of a recording, where they are a step of up to ROWS_MAX rows. Inside gpu/cuda/ only. */
#ifndef CAPTIOND_GPU_CUDA_STEP_CUH
#define CAPTIOND_GPU_CUDA_STEP_CUH

#include "gpu/cuda/rows.cuh"
#include "gpu/cuda/rows_attention.cuh"

#define STEP_THREADS     512
#define STEP_WARPS       (STEP_THREADS / WARP)
#define STEP_CLUSTER_BITS 4 /* 16 blocks are a cluster, or fewer where a GPU cannot have so many */
#define STEP_LAYERS_MAX  32
#define STEP_STATE_MAX   NORM_MAX
#define STEP_SHARED_REST (12 << 10) /* of attention and sampling, at most */

/* A layer's products in their order. Those with an even number are of the residual, normalised. */
enum product { QKV, OUT, QUERY, CROSS_OUT, UP, DOWN, PRODUCTS };

struct alignas(16) step_layer {
    struct engine_weight weight[PRODUCTS];
    const float *bias[PRODUCTS];                      /* or NULL */
    const float *gamma[PRODUCTS / 2], *beta[PRODUCTS / 2]; /* of QKV, QUERY, UP */
    uint32_t align_heads;
    int align_first;
};

static_assert(sizeof(struct step_layer) / 16 <= STEP_THREADS, "a thread copies 16 bytes");

/* Counters with which the cluster of the layers and the other blocks wait for one another. */
enum { STEP_BEGUN, STEP_NORMED, STEP_PARTS, STEP_SIGNALS };

struct step_params {
    const struct step_layer *layers;
    int n_layers;
    struct embed_args embed; /* with the rows */
    struct engine_weight tokens;
    struct engine_kv self, cross;
    float *partial; /* of cross-attention */
    int n_align;
    float *align;
    const float *gamma, *beta; /* before the output layer */
    struct engine_weight output;
    struct select_args select;
    struct advance_args advance;
    const struct slot_state *slots;
    struct select_part *parts;
    float *normed;     /* [rows, n_state]: what the output layer multiplies */
    unsigned *signals; /* [STEP_SIGNALS], 0 before the launch */
    int n_head, n_state, n_hidden;
    int cluster_bits; /* 2^cluster_bits blocks are a cluster; the first one has the layers */
    int n_ahead[2];   /* weights, eight at a time, that a warp has room for before an even product begins, and an odd one */
    int outputs_a_warp[PRODUCTS], outputs_ahead[PRODUCTS]; /* in the cluster; and how many of them fit in there */
    int parts_of_a_block;       /* of the vocabulary, at most, outside of the first cluster */
    int n_kept;                 /* weights of the output layer, eight at a time, that a warp has there throughout */
    const int32_t *n_active;
    int max_steps;
};

struct step_program {
    int n_rows, n_blocks;
    size_t shared;             /* dynamic */
    struct step_layer *layers; /* device memory */
    struct step_params params; /* but for those of a launch */
};

/* Whether the GPU can have the kernel: then its blocks, its clusters, and its shared memory. */
bool step_fits(struct cuda_engine *, struct step_program *);

#endif
