/* Choosing tokens, and a slot's way from token to token. gpu/host/sample.c is the twin, and one test holds both. */
#include "gpu/cuda/select.cuh"

#include <errno.h>

/* --- choosing ---------------------------------------------------------------------------------------------------------- */

#define PARTS_AT_ONCE 8 /* of a warp */

/* Over a warp: lane l has what all lanes' values l / (WARP / PARTS_AT_ONCE) combine to, in the order of warp_sum. */
template <class T, class Combine> static __device__ __forceinline__ T warp_all(T *v, Combine combine)
{
    int lane = (int)threadIdx.x % WARP, bit = WARP / 2;
    UNROLL
    for (int left = PARTS_AT_ONCE / 2; left > 0; left /= 2, bit /= 2) {
        bool high = lane & bit;
        UNROLL
        for (int i = 0; i < left; i++) {
            T give = high ? v[i] : v[i + left], keep = high ? v[i + left] : v[i];
            v[i] = combine(keep, __shfl_xor_sync(LANES, give, bit));
        }
    }
    for (; bit > 0; bit /= 2)
        v[0] = combine(v[0], __shfl_xor_sync(LANES, v[0], bit));
    return v[0];
}

/* A lane's logits of the parts first … of a row. */
static __device__ __forceinline__ void load_parts(const float *row, int n_vocab, int first,
                                                  float logits[PARTS_AT_ONCE])
{
    UNROLL
    for (int i = 0; i < PARTS_AT_ONCE; i++) {
        int id = (first + i) * PART_IDS + (int)threadIdx.x % WARP;
        logits[i] = id < n_vocab ? row[id] : -INFINITY;
    }
}

/* A warp: what weigh_part gives of one part at a time, for parts that have ids of one kind only. */
static __device__ __forceinline__ void weigh_parts(const struct allowed *a, int first, int n_parts,
                                                   const float logits[PARTS_AT_ONCE],
                                                   struct select_part *parts)
{
    const int lanes_a_part = WARP / PARTS_AT_ONCE;
    int lane = (int)threadIdx.x % WARP, part = first + lane / lanes_a_part;
    float mine[PARTS_AT_ONCE], v[PARTS_AT_ONCE];
    int ids[PARTS_AT_ONCE];
    UNROLL
    for (int i = 0; i < PARTS_AT_ONCE; i++) {
        int id = (first + i) * PART_IDS + lane;
        bool is_in = (id >= a->ids.text_first && id < a->ids.text_last) ||
                     (id >= a->ids.stamp_first && id < a->ids.stamp_last);
        mine[i] = v[i] = is_in && !suppressed(a, id) ? logits[i] : -INFINITY;
    }
    const float top = warp_all(v, [](float x, float y) { return fmaxf(x, y); });
    UNROLL
    for (int i = 0; i < PARTS_AT_ONCE; i++) {
        float greatest = __shfl_sync(LANES, top, i * lanes_a_part);
        bool any = mine[i] > -INFINITY;
        ids[i] = any && mine[i] == greatest ? (first + i) * PART_IDS + lane : NO_ID;
        v[i] = any ? expf(mine[i] - greatest) : 0.0f;
    }
    const int id = warp_all(ids, [](int x, int y) { return least(x, y); });
    const float sum = warp_all(v, [](float x, float y) { return x + y; });
    if (lane % lanes_a_part || part >= n_parts)
        return;
    const bool stamp = (part + 1) * PART_IDS > a->ids.stamp_first;
    parts[part] = {{stamp ? -INFINITY : top, stamp ? top : -INFINITY},
                   {stamp ? 0.0f : sum, stamp ? sum : 0.0f},
                   {stamp ? NO_ID : id, stamp ? id : NO_ID}};
}

/* grid: parts, rows. `parts` has n_parts of each row, done [rows] how many blocks have stored theirs: the last one of a row
 * chooses. */
static __global__ void __launch_bounds__(RULES_THREADS)
    select_kernel(struct select_args args, struct select_part *parts, int n_parts, unsigned *done)
{
    SHARED(struct allowed, allowed, 1);
    int r = (int)blockIdx.y, pos = args.rows.pos[r], slot = args.rows.slot[r], n_vocab = args.logits.cols,
        lane = (int)threadIdx.x % WARP,
        first = ((int)blockIdx.x * RULES_WARPS + (int)threadIdx.x / WARP) * PARTS_AT_ONCE;
    const float *row = (const float *)args.logits.data + (size_t)r * (size_t)args.logits.stride;
    const struct token_masks masks = {args.masks, args.mask_words};
    struct slot_state *s = &args.slots[slot];
    float logits[PARTS_AT_ONCE];
    if (pos < 0 || s->n_beams > 1)
        return;
    if (blockIdx.x == 0)
        probe_row(s, pos, row, n_vocab);
    if (pos + 1 < s->n_prompt)
        return;
    parts += (size_t)r * (size_t)n_parts;
    load_parts(row, n_vocab, first, logits); /* on their way beside the rules */
    if (threadIdx.x == 0)
        apply_rules(&masks, s, pos + 1, n_vocab, allowed);
    __syncthreads();                               /* the rules are there */
    int mixed = allowed->ids.text_last / PART_IDS; /* the part that may have ids of both kinds */
    for (; first < n_parts; first += (int)gridDim.x * RULES_WARPS * PARTS_AT_ONCE) {
        float now[PARTS_AT_ONCE];
        UNROLL
        for (int i = 0; i < PARTS_AT_ONCE; i++)
            now[i] = logits[i];
        load_parts(row, n_vocab, first + (int)gridDim.x * RULES_WARPS * PARTS_AT_ONCE, logits);
        weigh_parts(allowed, first, n_parts, now, parts);
        if (mixed < first || mixed >= first + PARTS_AT_ONCE || mixed >= n_parts)
            continue;
        __syncwarp(); /* it has been weighed as if it had ids of one */
        int id = mixed * PART_IDS + lane;
        struct select_part both = weigh_part(allowed, mixed * PART_IDS, id < n_vocab ? row[id] : -INFINITY);
        if (lane == 0)
            parts[mixed] = both;
    }
    if (!is_last_part(done + r, (int)gridDim.x))
        return;
    struct choice c = choose(&s->rules, pos + 1, allowed, parts, row, n_vocab);
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
        int at_once = RULES_WARPS * PARTS_AT_ONCE, blocks = 2 * c->n_multiprocessors / n,
            most = (n_parts + at_once - 1) / at_once; /* two fit a multiprocessor */
        blocks = blocks < 1 ? 1 : blocks < most ? blocks : most;
        LAUNCH(select_kernel, dim3((unsigned)blocks, (unsigned)n), RULES_THREADS, 0, c->stream, part,
               c->parts, n_parts, c->parts_done);
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
    LAUNCH(advance_kernel, dim3((unsigned)((a->rows.n + ADVANCE_THREADS - 1) / ADVANCE_THREADS)),
           ADVANCE_THREADS, 0, c->stream, *a);
    return cuda_check(c, cudaGetLastError(), "advance");
}
