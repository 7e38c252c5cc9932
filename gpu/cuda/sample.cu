/* Choosing tokens, and a slot's way from token to token. gpu/host/sample.c is the twin, and one test holds both. */
#include "gpu/cuda/select.cuh"

#include <errno.h>

/* --- choosing ---------------------------------------------------------------------------------------------------------- */

#define PART_THREADS 128
#define PART_WARPS   (PART_THREADS / WARP)

/* grid: parts, rows. `parts` has n_parts of each row. */
static __global__ void __launch_bounds__(PART_THREADS)
    select_part_kernel(struct select_args args, struct select_part *parts, int n_parts)
{
    SHARED(struct allowed, allowed, 1);
    int r = (int)blockIdx.y, pos = args.rows.pos[r], lane = (int)threadIdx.x % WARP;
    int part = (int)blockIdx.x * PART_WARPS + (int)threadIdx.x / WARP, id = part * PART_IDS + lane;
    if (pos < 0)
        return;
    const struct slot_state *s = &args.slots[args.rows.slot[r]];
    const struct token_masks masks = {args.masks, args.mask_words};
    if (s->n_beams > 1 || pos + 1 < s->n_prompt)
        return;
    if (threadIdx.x == 0)
        apply_rules(&masks, s, pos + 1, args.logits.cols, allowed);
    __syncthreads();
    if (part >= n_parts)
        return;
    const float *logits = (const float *)args.logits.data + (size_t)r * (size_t)args.logits.stride;
    struct select_part mine =
        weigh_part(allowed, part * PART_IDS, id < args.logits.cols ? logits[id] : -INFINITY);
    if (lane == 0)
        parts[(size_t)r * (size_t)n_parts + (size_t)part] = mine;
}

/* grid: rows */
static __global__ void __launch_bounds__(RULES_THREADS)
    select_kernel(struct select_args args, const struct select_part *parts, int n_parts)
{
    SHARED(struct allowed, allowed, 1);
    int r = (int)blockIdx.x, pos = args.rows.pos[r];
    if (pos < 0)
        return;
    struct slot_state *s = &args.slots[args.rows.slot[r]];
    const float *logits = (const float *)args.logits.data + (size_t)r * (size_t)args.logits.stride;
    const struct token_masks masks = {args.masks, args.mask_words};
    if (s->n_beams > 1)
        return;
    probe_row(s, pos, logits, args.logits.cols);
    if (pos + 1 < s->n_prompt)
        return;
    if (threadIdx.x == 0)
        apply_rules(&masks, s, pos + 1, args.logits.cols, allowed);
    __syncthreads();
    struct choice c =
        choose(&s->rules, pos + 1, allowed, parts + (size_t)r * (size_t)n_parts, logits, args.logits.cols);
    if (threadIdx.x == 0) {
        args.chosen[r] = c.id;
        args.logprob[r] = c.logprob;
    }
}

int cuda_select(struct cuda_engine *c, const struct select_args *a)
{
    int n_parts = (a->logits.cols + PART_IDS - 1) / PART_IDS;
    if (a->logits.type != DTYPE_F32 || a->mask_words * 32 < a->logits.cols || a->logits.cols > CUDA_VOCAB_MAX)
        return cuda_fail(c, -EINVAL, "select: types or shapes do not fit");
    for (int first = 0; first < a->rows.n; first += CUDA_ROWS_MAX) {
        int n = a->rows.n - first < CUDA_ROWS_MAX ? a->rows.n - first : CUDA_ROWS_MAX;
        struct select_args part = *a;
        part.rows = {n, a->rows.token + first, a->rows.pos + first, a->rows.slot + first};
        part.logits = mat_rows(a->logits, first, n);
        part.chosen += first;
        part.logprob += first;
        LAUNCH(select_part_kernel, dim3((unsigned)((n_parts + PART_WARPS - 1) / PART_WARPS), (unsigned)n),
               PART_THREADS, 0, c->stream, part, c->parts, n_parts);
        LAUNCH(select_kernel, n, RULES_THREADS, 0, c->stream, part, (const struct select_part *)c->parts,
               n_parts);
    }
    return cuda_check(c, cudaGetLastError(), "select");
}

/* --- from token to token ----------------------------------------------------------------------------------------------- */

#define ADVANCE_THREADS 64

/* The thread of a slot's first busy row has the slot. */
static __global__ void __launch_bounds__(ADVANCE_THREADS) advance_kernel(struct advance_args a)
{
    int r = (int)blockIdx.x * ADVANCE_THREADS + (int)threadIdx.x;
    if (r >= a.rows.n || a.rows.pos[r] < 0)
        return;
    int slot = a.rows.slot[r], end = r + 1;
    for (int before = r - 1; before >= 0 && a.rows.slot[before] == slot; before--) {
        if (a.rows.pos[before] >= 0)
            return;
    }
    struct slot_state *s = &a.slots[slot];
    if (s->n_beams > 1)
        return;
    while (end < a.rows.n && a.rows.slot[end] == slot)
        end++;
    while (r < end && a.rows.pos[r] != s->n_tokens - 1)
        r++;
    if (r == end || s->done != SLOT_ACTIVE)
        return;
    advance_slot(s, a.chosen + r, a.logprob + r, end - r);
    if (s->done != SLOT_ACTIVE)
        atomicAdd(a.n_active, -1);
}

int cuda_advance(struct cuda_engine *c, const struct advance_args *a)
{
    if (a->rows.n <= 0)
        return 0;
    LAUNCH(advance_kernel, (a->rows.n + ADVANCE_THREADS - 1) / ADVANCE_THREADS, ADVANCE_THREADS, 0, c->stream,
           *a);
    return cuda_check(c, cudaGetLastError(), "advance");
}
