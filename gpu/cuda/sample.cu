/* Choosing tokens, and a slot's way from token to token. gpu/host/sample.c is the twin, and one test holds both. */
#include "gpu/cuda/rules.cuh"

#include <errno.h>

#define THREADS RULES_THREADS

/* --- sampling ---------------------------------------------------------------------------------------------------------- */

/* A thread's walk through its ids of a range until their weights have used up *left: the id, or NO_ID. *last: the last
 * one that has any weight. */
static __device__ int walk(const struct allowed *a, const float *logits, int first, int last, float greatest,
                           float scale, double *left, int *last_id)
{
    for (int i = first + (int)threadIdx.x; i < last; i += THREADS) {
        double weight = suppressed(a, i) ? 0.0 : (double)expf((logits[i] - greatest) * scale);
        if (weight == 0.0)
            continue;
        *last_id = i;
        *left -= weight;
        if (*left < 0.0)
            return i;
    }
    return NO_ID;
}

/* The ids in the order thread by thread; within one, text before timestamps. */
static __device__ int sample(const struct allowed *a, const float *logits, float greatest, float temperature,
                             double u)
{
    SHARED(double, sums, THREADS);
    SHARED(double, left, 1);
    SHARED(int, chosen, 2); /* a thread, then an id */
    float scale = 1.0f / temperature;
    int me = (int)threadIdx.x, last_id = NO_ID;
    sums[me] = (double)sum_of(a, logits, a->ids.text_first, a->ids.text_last, greatest, scale) +
               (double)sum_of(a, logits, a->ids.stamp_first, a->ids.stamp_last, greatest, scale);
    __syncthreads();
    if (me == 0) {
        double total = 0.0;
        for (int i = 0; i < THREADS; i++)
            total += sums[i];
        left[0] = u * total;
        for (int i = 0; i < THREADS; i++) {
            if (sums[i] > 0.0)
                chosen[0] = i; /* of the threads with any weight, the last one at most */
            if (left[0] < sums[i])
                break;
            left[0] -= sums[i];
        }
    }
    __syncthreads();
    if (me == chosen[0]) {
        double rest = left[0];
        int id = walk(a, logits, a->ids.text_first, a->ids.text_last, greatest, scale, &rest, &last_id);
        if (id == NO_ID)
            id = walk(a, logits, a->ids.stamp_first, a->ids.stamp_last, greatest, scale, &rest, &last_id);
        chosen[1] = id == NO_ID ? last_id : id; /* past the end by rounding only */
    }
    __syncthreads();
    return chosen[1];
}

/* --- a row ------------------------------------------------------------------------------------------------------------- */

/* grid: rows */
static __global__ void __launch_bounds__(THREADS) select_kernel(struct select_args args)
{
    int r = (int)blockIdx.x, pos = args.rows.pos[r], n = pos + 1;
    if (pos < 0)
        return;
    struct slot_state *s = &args.slots[args.rows.slot[r]];
    const struct token_rules *rules = &s->rules;
    const float *logits = (const float *)args.logits.data + (size_t)r * (size_t)args.logits.stride;
    const struct token_masks masks = {args.masks, args.mask_words};
    if (s->n_beams > 1)
        return;
    probe_row(s, pos, logits, args.logits.cols);
    if (n < s->n_prompt)
        return;
    struct weighed w = weigh_row(&masks, s, n, logits, args.logits.cols);
    int id = w.best.id;
    if (w.best.value == -INFINITY) { /* rules that leave nothing end the text */
        if (threadIdx.x == 0) {
            args.chosen[r] = rules->eot;
            args.logprob[r] = -INFINITY;
        }
        return;
    }
    if (rules->temperature > 0.0f)
        id = sample(&w.allowed, logits, w.best.value, rules->temperature, uniform(rules->seed, (uint64_t)n));
    if (threadIdx.x == 0) {
        args.chosen[r] = id;
        args.logprob[r] = logits[id] - w.best.value - w.log_sum;
    }
}

int cuda_select(struct cuda_engine *c, const struct select_args *a)
{
    if (a->logits.type != DTYPE_F32 || a->mask_words * 32 < a->logits.cols)
        return cuda_fail(c, -EINVAL, "select: types or shapes do not fit");
    if (a->rows.n <= 0)
        return 0;
    LAUNCH(select_kernel, a->rows.n, THREADS, 0, c->stream, *a);
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
