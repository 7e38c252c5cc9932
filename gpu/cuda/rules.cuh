/* The decoding rules of daemon/base/run.h on a row of logits: what is allowed, and how probable it is. Inside gpu/cuda/
 * only, where select.cuh and beam.cu include it; gpu/host/rules.h is the twin, and the same tests hold both.
 *
 * The rules are those of OpenAI's whisper/decoding.py (SuppressBlank, SuppressTokens, ApplyTimestampRules). A block of
 * RULES_THREADS has a row; beams, probes and samples pass over its logits some times, from the second-level cache. The
 * logits stay what they are: what a mask suppresses is asked for each id. */
#ifndef CAPTIOND_GPU_CUDA_RULES_CUH
#define CAPTIOND_GPU_CUDA_RULES_CUH

#include "gpu/cuda/cuda.cuh"

#define SAMPLE_FUNCTION static __device__ __forceinline__
#include "gpu/sample_rules.h"

#define RULES_THREADS 512
#define RULES_WARPS   (RULES_THREADS / WARP)
#define NO_ID         0x7fffffff

/* Where the masks are: engine memory [RUN_TOKEN_MASKS, words]. */
struct token_masks {
    const uint32_t *masks;
    int words;
};

/* What the rules leave: two ranges, less those that a mask suppresses. */
struct allowed {
    struct id_ranges ids;
    const uint32_t *masks[2]; /* or NULL */
    int no_timestamps;        /* suppressed id, −1: none */
};

static __device__ __forceinline__ bool suppressed(const struct allowed *a, int id)
{
    for (int i = 0; i < 2; i++) {
        if (a->masks[i] && (a->masks[i][id / 32] >> id % 32 & 1))
            return true;
    }
    return id == a->no_timestamps;
}

/* n: tokens of history. */
static __device__ __forceinline__ void apply_rules(const struct token_masks *masks,
                                                   const struct slot_state *s, int n, int n_vocab,
                                                   struct allowed *allowed)
{
    const struct token_rules *rules = &s->rules;
    int stamps = least(rules->timestamp_begin, n_vocab);
    *allowed = {{0, stamps, stamps, n_vocab}, {NULL, NULL}, -1};
    if (rules->mask >= 0)
        allowed->masks[0] = masks->masks + (size_t)rules->mask * (size_t)masks->words;
    if (rules->first_mask >= 0 && n == s->sample_begin)
        allowed->masks[1] = masks->masks + (size_t)rules->first_mask * (size_t)masks->words;
    if (!rules->timestamps)
        return;
    allowed->no_timestamps = rules->no_timestamps;
    apply_timestamp_pairs(rules, s->tokens, s->sample_begin, n, &allowed->ids);
}

/* --- reductions ---------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ int warp_min(int v)
{
    for (int lane = WARP / 2; lane > 0; lane /= 2)
        v = least(v, __shfl_xor_sync(LANES, v, lane));
    return v;
}

/* A block's by its warps'; `none` changes nothing of it. The room is used again and again, hence the first barrier. */
template <class T, class Warp>
static __device__ __forceinline__ T block_all(T v, T none, T *room, Warp of_warp)
{
    v = of_warp(v);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP] = v;
    __syncthreads();
    return of_warp(threadIdx.x % WARP < RULES_WARPS ? room[threadIdx.x % WARP] : none);
}

static __device__ __forceinline__ float block_max(float v, float *room)
{
    return block_all(v, -INFINITY, room, warp_max);
}

static __device__ __forceinline__ float block_sum(float v, float *room)
{
    return block_all(v, 0.0f, room, warp_sum);
}

static __device__ __forceinline__ int block_min(int v, int *room)
{
    return block_all(v, NO_ID, room, warp_min);
}

/* A thread's greatest logit among a range's allowed ids, and the first id that has it. */
struct best {
    float value;
    int id;
};

static __device__ __forceinline__ struct best best_of(const struct allowed *a, const float *logits, int first,
                                                      int last)
{
    struct best b = {-INFINITY, NO_ID};
    ROLLED
    for (int i = first + (int)threadIdx.x; i < last; i += RULES_THREADS) {
        if (logits[i] > b.value && !suppressed(a, i))
            b = {logits[i], i};
    }
    return b;
}

/* A thread's part of Σ e^((logit − greatest) · scale) over a range's allowed ids. */
static __device__ __forceinline__ float sum_of(const struct allowed *a, const float *logits, int first,
                                               int last, float greatest, float scale)
{
    float sum = 0.0f;
    ROLLED
    for (int i = first + (int)threadIdx.x; i < last; i += RULES_THREADS) {
        if (!suppressed(a, i))
            sum += expf((logits[i] - greatest) * scale);
    }
    return sum;
}

/* --- a row ------------------------------------------------------------------------------------------------------------- */

/* Fills probe_prob where position pos is asked for. All threads of the block. */
static __device__ __forceinline__ void probe_row(struct slot_state *s, int pos, const float *logits,
                                                 int n_vocab)
{
    SHARED(float, room, RULES_WARPS);
    if (pos != s->probe_index || s->probe_token < 0 || s->probe_token >= n_vocab)
        return;
    const struct allowed all = {{0, n_vocab, n_vocab, n_vocab}, {NULL, NULL}, -1};
    float greatest = block_max(best_of(&all, logits, 0, n_vocab).value, room);
    float sum = block_sum(sum_of(&all, logits, 0, n_vocab, greatest, 1.0f), room);
    if (threadIdx.x == 0)
        s->probe_prob = expf(logits[s->probe_token] - greatest) / sum;
}

#endif
