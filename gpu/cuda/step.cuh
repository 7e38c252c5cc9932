/* A step of the decoder as one list of phases, which step.cu's kernel goes through with all multiprocessors: step_program.cu
 * makes it from the operations of a recording, where they are a step of up to ROWS_MAX rows. Inside gpu/cuda/ only. */
#ifndef CAPTIOND_GPU_CUDA_STEP_CUH
#define CAPTIOND_GPU_CUDA_STEP_CUH

#include "gpu/cuda/rows.cuh"
#include "gpu/cuda/rows_attention.cuh"

#define STEP_THREADS     512
#define STEP_LAYERS_MAX  32
#define STEP_PHASES_MAX  (8 * STEP_LAYERS_MAX + 2)
#define STEP_SHARED_REST (10 << 10) /* of attention, norms and sampling, at most */
#define STEP_STATE_MAX   1280
#define FUSED_ROWS       2 /* up to so many, blocks rather compute something again than meet once more */
#define MLP_CHUNK        FIXED_CHUNK

enum phase_kind {
    PHASE_LINEAR,
    PHASE_SELF,          /* self-attention, and the product with it */
    PHASE_CROSS,         /* a part of the window a team, by queries that are there */
    PHASE_CROSS_QUERIES, /* by queries that the phase's linear layer makes */
    PHASE_JOINED,        /* cross-attention's parts put together, and the product with them */
    PHASE_MLP,           /* both of its products */
    PHASE_LOGITS,        /* a linear layer, and what select can do with each part of it */
    PHASE_FINISH,        /* chooses, advances, and embeds the next tokens */
};

/* What the residual x has got since it was stored: the bias and, from many blocks, the sums [rows, n_state] of the last product. */
struct pending {
    const long long *sums; /* NULL: x is whole */
    const float *bias;     /* or NULL */
    struct mat to;         /* where x goes, now whole; data NULL: nobody needs it again */
};

/* Between two phases all blocks meet. */
struct step_phase {
    enum phase_kind kind;
    struct linear_rows_params linear; /* with self-attention: in is queries, keys and values */
    struct pending pending;           /* of linear.in */
    struct engine_weight down;        /* of the MLP, whose other product is `linear` */
    long long *adds, *clears; /* sums [rows, n_state] of this phase's product, and of the next one's */
    struct cross_params cross;
    struct engine_kv self; /* with cross.layer */
    const char *soon;      /* of the output layer: what to bring nearer meanwhile */
    int soon_lines;        /* of LINE bytes */
};

struct step_params {
    const struct step_phase *phases; /* the last one is PHASE_FINISH */
    int n_phases;
    struct embed_args embed; /* with the rows */
    struct engine_weight tokens;
    struct select_args select;
    struct advance_args advance;
    const struct slot_state *slots;
    struct select_part *parts;
    unsigned *arrived;             /* at the grid's barriers, 0 before the launch */
    int n_head, n_state, n_window; /* of every layer */
    int n_sums;                    /* rows times n_state */
    int stride;                    /* of the longest row */
    int n_ahead;                   /* weights, eight at a time, that a thread has before a phase begins */
    const int32_t *n_active;
    int max_steps;
};

struct step_program {
    int n_rows;
    size_t shared;             /* dynamic: keys, rows, weights */
    struct step_phase *phases; /* device memory */
    void *residual;            /* device memory: sums [2][rows, n_state], then another x */
    struct step_params params; /* but for those of a launch */
};

/* Whether a block of the kernel for n rows of up to `stride` values fits a multiprocessor: then its n_ahead and shared. */
bool step_fits(struct cuda_engine *, struct step_program *, int stride);

#endif
