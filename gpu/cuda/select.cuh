/* Choosing a row's token from its logits in two passes: warps leave what their parts of PART_IDS ids offer, a block puts the
 * parts together. Inside gpu/cuda/ only: sample.cu has a kernel in which the block that is done last makes the second pass,
 * step.cu makes the first one while it has the logits at hand. The order of the sums is that of the parts: the bits are the same. */
#ifndef CAPTIOND_GPU_CUDA_SELECT_CUH
#define CAPTIOND_GPU_CUDA_SELECT_CUH

#include "gpu/cuda/rules.cuh"

#define PART_IDS       WARP /* a lane an id */
#define PARTS_A_THREAD (((CUDA_VOCAB_MAX + PART_IDS - 1) / PART_IDS + RULES_THREADS - 1) / RULES_THREADS)

enum { TEXT, STAMP, N_KINDS };

/* What a part offers below timestamp_begin, and from it on: the greatest allowed logit, the first id that has it (−∞, NO_ID:
 * nothing is allowed) and Σ e^(logit − greatest). */
struct select_part {
    float top[N_KINDS], sum[N_KINDS];
    int id[N_KINDS];
};

/* A warp: ids first … first + 31, of which this lane has the logit of its own; what lies behind the vocabulary is in no
 * range. */
static __device__ __forceinline__ struct select_part weigh_part(const struct allowed *a, int first,
                                                                float logit)
{
    struct select_part part;
    int id = first + (int)threadIdx.x % WARP;
    const int begin[N_KINDS] = {a->ids.text_first, a->ids.stamp_first},
              end[N_KINDS] = {a->ids.text_last, a->ids.stamp_last};
    for (int kind = 0; kind < N_KINDS; kind++) {
        part.top[kind] = -INFINITY;
        part.sum[kind] = 0.0f;
        part.id[kind] = NO_ID;
        if (first >= end[kind] || first + PART_IDS <= begin[kind])
            continue;
        float mine = id >= begin[kind] && id < end[kind] && !suppressed(a, id) ? logit : -INFINITY;
        float top = warp_max(mine);
        if (!(top > -INFINITY))
            continue;
        part.top[kind] = top;
        part.id[kind] = warp_min(mine == top ? id : NO_ID);
        part.sum[kind] = warp_sum(mine > -INFINITY ? expf(mine - top) : 0.0f);
    }
    return part;
}

/* The better of two; of equal ones the lower id. */
static __device__ __forceinline__ struct best better(struct best a, struct best b)
{
    return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

static __device__ __forceinline__ struct best warp_best(struct best b)
{
    for (int lane = WARP / 2; lane > 0; lane /= 2)
        b = better(b, {__shfl_xor_sync(LANES, b.value, lane), __shfl_xor_sync(LANES, b.id, lane)});
    return b;
}

/* A thread's parts: every RULES_THREADS-th, all read at once. */
struct my_parts {
    struct select_part parts[PARTS_A_THREAD];
};

static __device__ __forceinline__ void read_parts(const struct select_part *parts, int n,
                                                  struct my_parts *mine)
{
    UNROLL
    for (int k = 0; k < PARTS_A_THREAD; k++) {
        int i = k * RULES_THREADS + (int)threadIdx.x;
        mine->parts[k] = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {NO_ID, NO_ID}};
        if (i < n)
            mine->parts[k] = parts[i];
    }
}

/* A block of RULES_THREADS: the best of all parts of each kind. */
static __device__ __forceinline__ void best_of_parts(const struct my_parts *mine, struct best *best)
{
    SHARED(struct best, room, N_KINDS * RULES_WARPS);
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    UNROLL
    for (int kind = 0; kind < N_KINDS; kind++) {
        struct best b = {-INFINITY, NO_ID};
        UNROLL
        for (int k = 0; k < PARTS_A_THREAD; k++)
            b = better(b, {mine->parts[k].top[kind], mine->parts[k].id[kind]});
        b = warp_best(b);
        if (lane == 0)
            room[kind * RULES_WARPS + warp] = b;
    }
    __syncthreads();
    UNROLL
    for (int kind = 0; kind < N_KINDS; kind++)
        best[kind] = warp_best(room[kind * RULES_WARPS + lane % RULES_WARPS]);
}

/* A block of RULES_THREADS: Σ e^(logit − the best of its kind) over all parts. */
static __device__ __forceinline__ void sum_parts(const struct my_parts *mine, const struct best *best,
                                                 float *sums)
{
    SHARED(float, room, N_KINDS *RULES_WARPS);
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    UNROLL
    for (int kind = 0; kind < N_KINDS; kind++) {
        float sum = 0.0f;
        UNROLL
        for (int k = 0; k < PARTS_A_THREAD; k++) {
            if (mine->parts[k].top[kind] > -INFINITY)
                sum = fmaf(expf(mine->parts[k].top[kind] - best[kind].value), mine->parts[k].sum[kind], sum);
        }
        sum = warp_sum(sum);
        if (lane == 0)
            room[kind * RULES_WARPS + warp] = sum;
    }
    __syncthreads();
    UNROLL
    for (int kind = 0; kind < N_KINDS; kind++)
        sums[kind] = warp_sum(lane < RULES_WARPS ? room[kind * RULES_WARPS + lane] : 0.0f);
}

/* --- sampling ---------------------------------------------------------------------------------------------------------- */

/* A thread's walk through its ids of a range until their weights have used up *left: the id, or NO_ID. *last: the last
 * one that has any weight. */
static __device__ __forceinline__ int walk(const struct allowed *a, const float *logits, int first, int last,
                                           float greatest, float scale, double *left, int *last_id)
{
    ROLLED
    for (int i = first + (int)threadIdx.x; i < last; i += RULES_THREADS) {
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
static __device__ __forceinline__ int sample(const struct allowed *a, const float *logits, float greatest,
                                             float temperature, double u)
{
    SHARED(double, sums, RULES_THREADS);
    SHARED(double, left, 1);
    SHARED(int, chosen, 2); /* a thread, then an id */
    float scale = 1.0f / temperature;
    int me = (int)threadIdx.x, last_id = NO_ID;
    sums[me] = (double)sum_of(a, logits, a->ids.text_first, a->ids.text_last, greatest, scale) +
               (double)sum_of(a, logits, a->ids.stamp_first, a->ids.stamp_last, greatest, scale);
    __syncthreads();
    if (me == 0) {
        double total = 0.0;
        ROLLED
        for (int i = 0; i < RULES_THREADS; i++)
            total += sums[i];
        left[0] = u * total;
        ROLLED
        for (int i = 0; i < RULES_THREADS; i++) {
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

struct choice {
    int id;
    float logprob;
};

/* A block of RULES_THREADS: chooses from the parts of a row with n tokens of history, to which `allowed` (shared) applies.
 * When all timestamps together are more probable than the best text token, text is no longer allowed. */
static __device__ __forceinline__ struct choice choose(const struct token_rules *rules, int n,
                                                       struct allowed *allowed,
                                                       const struct select_part *parts, const float *logits,
                                                       int n_vocab)
{
    struct my_parts mine;
    struct best best[N_KINDS];
    float sum[N_KINDS];
    read_parts(parts, (n_vocab + PART_IDS - 1) / PART_IDS, &mine);
    best_of_parts(&mine, best);
    sum_parts(&mine, best, sum);
    if (rules->timestamps && best[STAMP].value > -INFINITY &&
        best[STAMP].value + logf(sum[STAMP]) > best[TEXT].value) {
        best[TEXT].value = -INFINITY;
        if (threadIdx.x == 0)
            allowed->ids.text_first = allowed->ids.text_last;
    }
    struct best top = better(best[TEXT], best[STAMP]);
    if (top.value == -INFINITY) /* rules that leave nothing end the text */
        return {rules->eot, -INFINITY};
    float total = 0.0f;
    for (int kind = 0; kind < N_KINDS; kind++) {
        if (best[kind].value > -INFINITY)
            total = fmaf(expf(best[kind].value - top.value), sum[kind], total);
    }
    if (!(rules->temperature > 0.0f))
        return {top.id, -logf(total)};
    __syncthreads(); /* everybody knows what is allowed */
    int id = sample(allowed, logits, top.value, rules->temperature, uniform(rules->seed, (uint64_t)n));
    return {id, logits[id] - top.value - logf(total)};
}

#endif
