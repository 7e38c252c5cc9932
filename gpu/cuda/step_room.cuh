/* What a block of the step kernel has in shared memory, and which units of a phase are whose. Inside step.cu. */
#ifndef CAPTIOND_GPU_CUDA_STEP_ROOM_CUH
#define CAPTIOND_GPU_CUDA_STEP_ROOM_CUH

#include "gpu/cuda/select.cuh"
#include "gpu/cuda/step.cuh"

#define STEP_WARPS (STEP_THREADS / WARP)
#define TEAMS      (STEP_THREADS / ATTENTION_THREADS)
#define RING       2 /* phases that are known: this one, in whose place the one after next comes, and the next */

/* What a block multiplies at once, eight weights a thread. */
#define HEAD_EIGHTS   (HEAD / 8)
#define HEAD_OUTS     (STEP_THREADS / HEAD_EIGHTS) /* outputs with a head */
#define DOWN_OUTS     (STEP_THREADS / 2)           /* outputs with a chunk of the MLP */
#define QUERY_OUTS    (HEAD / STEP_WARPS)          /* of a head's query a warp */
#define MLP_CHUNKS    4                            /* that a block has at once */
#define AHEAD_MOST    8
#define AHEAD_THREADS (STEP_THREADS - WARP) /* that look ahead */

static_assert(STEP_THREADS == RULES_THREADS, "a block chooses for a row");
static_assert(STEP_WARPS == MLP_CHUNK, "a warp an input of a chunk");

/* What is known of a row throughout a step. */
struct step_row {
    int pos, slot, audio, n_frames;
};

/* A block's unit of the products with heads: some rows, a head, some outputs. */
struct head_unit {
    int first_row, head, share;
};

/* A team's unit of cross-attention: a row, a head, a part of the window. */
struct window_unit {
    int row, head, part;
};

/* A block's shared memory. */
struct step_room {
    struct step_phase ring[RING];
    struct step_row rows[ROWS_MAX];
    struct allowed allowed[ROWS_MAX];
    float scores[TEAMS * CROSS_PART];
    float queries[TEAMS * HEAD];
    alignas(16) float heads[TEAMS * HEAD];                         /* a row's head each, by place */
    alignas(16) float hidden[MLP_CHUNKS * FUSED_ROWS * MLP_CHUNK]; /* chunks of rows, by place */
    float gamma[STEP_STATE_MAX], beta[STEP_STATE_MAX];
    struct head_unit first_heads;    /* of the block, in every layer: */
    struct window_unit first_window; /* divisions take their time */
    unsigned active;                 /* bit r: row r is not idle */
    bool goes_on;
};

/* Each thread's first weights of the next phase, which are on their way to shared memory. */
struct ahead {
    packed_weights *weights; /* [n][STEP_THREADS] */
    int n;
    float bias;
};

static __device__ __forceinline__ packed_weights *weights_of(const struct ahead *a, int k)
{
    return a->weights + k * STEP_THREADS + threadIdx.x;
}

/* Keys and values that are in shared memory when attention to them begins, in all teams: with many rows, the newest alone. */
template <int n_rows> struct near {
    static const int keys = n_rows <= FUSED_ROWS ? CROSS_PART : TEAMS;
    static const int rows = n_rows < TEAMS ? n_rows : TEAMS; /* that a block attends with at once */
    static const int keys_a_row = keys / rows;
    static const int bytes = keys * 2 * HEAD * (int)sizeof(__half);
};

static __device__ __forceinline__ int unit_of_warp(int warp)
{
    return warp * (int)gridDim.x + afresh((int)blockIdx.x); /* neighbours are in different blocks */
}

static __device__ __forceinline__ int first_unit(void)
{
    return unit_of_warp(afresh((int)threadIdx.x) / WARP);
}

static __device__ __forceinline__ int n_units(void)
{
    return STEP_WARPS * (int)gridDim.x;
}

static __device__ __forceinline__ struct head_unit unit_of_heads(int n_head, int n_out, int unit, int n_rows)
{
    unsigned n_shares = ((unsigned)n_out + HEAD_OUTS - 1) / HEAD_OUTS, rest = (unsigned)unit / n_shares;
    return {(int)(rest / (unsigned)n_head) * n_rows, (int)(rest % (unsigned)n_head),
            (int)((unsigned)unit % n_shares)};
}

static __device__ __forceinline__ int n_head_units(const struct step_params *p, int n_rows)
{
    return (p->embed.rows.n + n_rows - 1) / n_rows * p->n_head * ((p->n_state + HEAD_OUTS - 1) / HEAD_OUTS);
}

static __device__ __forceinline__ int head_out(struct head_unit u, int me)
{
    return u.share * HEAD_OUTS + me / HEAD_EIGHTS;
}

/* A thread's eight weights of a head, among all of the output's. */
static __device__ __forceinline__ int head_eight(struct head_unit u, int me)
{
    return u.head * HEAD_EIGHTS + me % HEAD_EIGHTS;
}

/* How many keys before a row's newest one are near, of the row's team in a block's first unit. */
template <int n_rows> static __device__ __forceinline__ int near_past(int pos)
{
    return pos < near<n_rows>::keys_a_row ? pos : near<n_rows>::keys_a_row - 1;
}

static __device__ __forceinline__ struct window_unit unit_of_window(int n_head, int n_window, int unit)
{
    unsigned n_parts = (unsigned)parts_of(n_window), rest = (unsigned)unit / n_parts;
    return {(int)(rest / (unsigned)n_head), (int)(rest % (unsigned)n_head), (int)((unsigned)unit % n_parts)};
}

static __device__ __forceinline__ int n_window_units(const struct step_params *p)
{
    return p->embed.rows.n * p->n_head * parts_of(p->n_window);
}

/* 0: the row is idle, or the window ends before the part. */
static __device__ __forceinline__ int keys_of_unit(const struct step_room *room, struct window_unit u)
{
    return room->rows[u.row].pos >= 0 ? keys_in_part(room->rows[u.row].n_frames, u.part) : 0;
}

#endif
