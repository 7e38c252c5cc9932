/* What a block of the step kernel has in shared memory. Inside step.cu. */
#ifndef CAPTIOND_GPU_CUDA_STEP_ROOM_CUH
#define CAPTIOND_GPU_CUDA_STEP_ROOM_CUH

#include "gpu/cuda/select.cuh"
#include "gpu/cuda/step.cuh"

#define TEAMS        (STEP_THREADS / ATTENTION_THREADS)
#define BIASES_AHEAD 32 /* of a warp */

static_assert(STEP_THREADS == RULES_THREADS, "a block chooses for a row");

/* What is known of a row throughout a step; pos −1: it is idle. */
struct step_row {
    int pos, slot, audio, n_frames;
};

struct step_room {
    struct step_layer layers[2]; /* this one and the next */
    struct step_row rows[ROWS_MAX];
    struct allowed allowed[ROWS_MAX];
    float weights[TEAMS * RUN_TOKENS_MAX];    /* of attention */
    alignas(16) __half own[TEAMS * 2 * HEAD]; /* a row's newest key and value, of a head */
    alignas(16) float gamma[STEP_STATE_MAX], beta[STEP_STATE_MAX];
    float bias[2 * STEP_WARPS * BIASES_AHEAD]; /* of a warp's next outputs */
};

/* Outputs that a warp multiplies at once; half as many where no more are left. */
static inline __host__ __device__ constexpr int outputs_at_once(int n_rows)
{
    return n_rows <= 2 ? 4 : n_rows <= 4 ? 2 : 1;
}

/* Values of rows in the first cluster. Those of a vector that is multiplied lie as `place` says, x too. */
struct step_memory {
    float *x;               /* [n_rows, n_state] the residual */
    float *normed;          /* [n_rows, n_state] */
    float *wide;            /* [n_rows, n_hidden]: attention's output, then the hidden layer */
    float *query;           /* [n_rows, n_state] of cross-attention, in order */
    float *heads;           /* [heads of this block] query, key, value */
    struct slot_state *slots; /* [rows of this block] what memory has, too */
    packed_weights *ahead;  /* of each warp, n_ahead[0], then n_ahead[1] */
};

static inline __host__ __device__ int heads_of_a_block(const struct step_params *p, int n_rows)
{
    return (n_rows * p->n_head + (1 << p->cluster_bits) - 1) >> p->cluster_bits;
}

static inline __host__ __device__ int rows_of_a_block(const struct step_params *p, int n_rows)
{
    return (n_rows + (1 << p->cluster_bits) - 1) >> p->cluster_bits;
}

static inline __host__ __device__ size_t step_vectors(const struct step_params *p, int n_rows)
{
    return (size_t)(n_rows * (3 * p->n_state + p->n_hidden) + heads_of_a_block(p, n_rows) * 3 * HEAD);
}

static inline __host__ __device__ size_t step_slots(const struct step_params *p, int n_rows)
{
    return ((size_t)rows_of_a_block(p, n_rows) * sizeof(struct slot_state) + 15) / 16 * 16;
}

static __device__ __forceinline__ struct step_memory memory_of(const struct step_params *p, int n_rows,
                                                               float *shared)
{
    struct step_memory m;
    m.x = shared;
    m.normed = m.x + n_rows * p->n_state;
    m.wide = m.normed + n_rows * p->n_state;
    m.query = m.wide + n_rows * p->n_hidden;
    m.heads = m.query + n_rows * p->n_state;
    m.slots = (struct slot_state *)(shared + step_vectors(p, n_rows));
    m.ahead = (packed_weights *)((char *)m.slots + step_slots(p, n_rows));
    return m;
}

/* Elsewhere. */
struct output_memory {
    float *normed;        /* [n_rows, n_state] */
    float *logits;        /* [n_rows, parts of this block · PART_IDS] */
    packed_weights *kept; /* [STEP_WARPS][n_kept] */
};

static inline __host__ __device__ size_t output_vectors(const struct step_params *p, int n_rows)
{
    return (size_t)(n_rows * (p->n_state + p->parts_of_a_block * PART_IDS));
}

static __device__ __forceinline__ struct output_memory output_memory_of(const struct step_params *p, int n_rows,
                                                                        float *shared)
{
    struct output_memory m;
    m.normed = shared;
    m.logits = m.normed + n_rows * p->n_state;
    m.kept = (packed_weights *)(shared + output_vectors(p, n_rows));
    return m;
}

static __device__ __forceinline__ int rank_in_cluster(const struct step_params *p)
{
    return (int)blockIdx.x & ((1 << p->cluster_bits) - 1);
}

/* Rows that are not idle, a bit each. */
static __device__ __forceinline__ unsigned active_rows(const struct step_room *room, int n)
{
    unsigned active = 0;
    for (int r = 0; r < n; r++)
        active |= (unsigned)(room->rows[r].pos >= 0) << r;
    return active;
}

#endif
