/* A step of the decoder as one list of phases, which step.cu's kernel goes through with all multiprocessors: step_program.cu
 * makes it from the operations of a recording, where they are a step of up to ROWS_MAX rows. Inside gpu/cuda/ only. */
#ifndef CAPTIOND_GPU_CUDA_STEP_CUH
#define CAPTIOND_GPU_CUDA_STEP_CUH

#include "gpu/cuda/rows.cuh"
#include "gpu/cuda/rows_attention.cuh"

#define STEP_THREADS      512
#define STEP_LAYERS_MAX   32
#define STEP_PHASES_MAX   (8 * STEP_LAYERS_MAX + 2)
#define STEP_SHARED_PLAIN (16 << 10) /* of rows: more has to be asked for */
#define STEP_SHARED_REST  (12 << 10) /* of attention and sampling, at most */
#define STEP_STATE_MAX    1280       /* of a row that is normalised */
#define FUSED_QUERY_ROWS  2          /* up to so many, cross-attention makes its queries itself */

enum phase_kind {
    PHASE_LINEAR,
    PHASE_JOINED, /* a linear layer whose input is cross-attention's, still in parts */
    PHASE_SELF,
    PHASE_CROSS,         /* by queries that are there */
    PHASE_CROSS_QUERIES, /* by queries that the phase's linear layer makes */
    PHASE_LOGITS,        /* a linear layer, and what select can do with each part of it */
    PHASE_FINISH,        /* chooses, advances, and embeds the next tokens */
};

/* Between two phases all blocks meet. */
struct step_phase {
    enum phase_kind kind;
    struct linear_rows_params linear;
    struct cross_params cross;
    struct engine_kv self; /* with cross.layer, linear.in (queries, keys, values) and linear.out */
    const char *soon;      /* of the output layer: what to bring nearer meanwhile */
    int soon_lines;        /* of LINE bytes */
};

#define LINE 128 /* bytes that are fetched at once */

struct step_params {
    const struct step_phase *phases; /* the last one is PHASE_FINISH */
    int n_phases;
    struct embed_args embed; /* with the rows */
    struct engine_weight tokens;
    struct select_args select;
    struct advance_args advance;
    const struct slot_state *slots;
    struct select_part *parts;
    unsigned *arrived; /* at the grid's barriers, 0 before the launch */
    const int32_t *n_active;
    int max_steps;
};

struct step_program {
    int n_rows;
    size_t shared;             /* bytes of rows */
    struct step_phase *phases; /* device memory */
    struct step_params params; /* but for those of a launch */
};

/* Rows that the kernel for n rows is made for. */
int step_rows_template(int n);
/* Whether a block of the kernel fits a multiprocessor. */
bool step_fits(struct cuda_engine *, int n_rows, size_t shared);

#endif
