/* Attention of the decoder's rows by teams of ATTENTION_THREADS threads: a row and a head a team. Inside gpu/cuda/ only: in the
 * kernels of rows_attention.cu a block is a team, in that of step.cu several. The parts of a window do not depend on the
 * batch or on the kernel: nor do the bits of a row. */
#ifndef CAPTIOND_GPU_CUDA_ROWS_ATTENTION_CUH
#define CAPTIOND_GPU_CUDA_ROWS_ATTENTION_CUH

#include "gpu/cuda/cuda.cuh"

#define ATTENTION_WARPS   4 /* of a team */
#define ATTENTION_THREADS (ATTENTION_WARPS * WARP)
#define LANES_A_KEY       (HEAD / 8)           /* each with 16 bytes of it */
#define KEYS_A_WARP       (WARP / LANES_A_KEY) /* at a time */
#define KEYS_AHEAD        4                    /* times so many are under way at once */

/* room: the team's. The barrier is the block's. */
static __device__ __forceinline__ float team_max(float v, float *room)
{
    v = warp_max(v);
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP % ATTENTION_WARPS] = v;
    __syncthreads();
    return warp_max(threadIdx.x % WARP < ATTENTION_WARPS ? room[threadIdx.x % WARP] : -INFINITY);
}

static __device__ __forceinline__ float team_sum(float v, float *room)
{
    v = warp_sum(v);
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP % ATTENTION_WARPS] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % WARP < ATTENTION_WARPS ? room[threadIdx.x % WARP] : 0.0f);
}

/* Where a head's keys are: side by side from `first` on, or each in the slot that a table names. Values are `to_values`
 * behind. From near_from on they are in shared memory, each key with its value behind it. */
struct keys {
    const __half *first; /* with a table: of slot 0 */
    size_t to_values;
    const uint8_t *slots; /* by position; NULL: no table */
    size_t slot_stride;
    int near_from;
    const __half *near;
};

#define NOT_NEAR 0x7fffffff

static __device__ __forceinline__ const __half *key_at(struct keys k, int t)
{
    if (t >= k.near_from)
        return k.near + (t - k.near_from) * 2 * HEAD;
    return k.first + (size_t)t * HEAD + (k.slots ? k.slots[t] * k.slot_stride : 0);
}

static __device__ __forceinline__ const __half *value_at(struct keys k, int t)
{
    return key_at(k, t) + (t >= k.near_from ? HEAD : k.to_values);
}

/* A lane: its part of a warp's next KEYS_AHEAD keys or values from number t on, all under way at once. */
template <bool values>
static __device__ __forceinline__ void load_keys(struct keys keys, int t, int n, int part,
                                                 uint4 to[KEYS_AHEAD])
{
    UNROLL
    for (int i = 0; i < KEYS_AHEAD; i++, t += ATTENTION_WARPS * KEYS_A_WARP) {
        to[i] = uint4{};
        if (t < n)
            to[i] = *(const uint4 *)((values ? value_at(keys, t) : key_at(keys, t)) + part * 8);
    }
}

/* scores [n] = q · Kᵀ / 8 */
static __device__ __forceinline__ void score(const float *q, struct keys keys, int n, float *scores)
{
    int lane = (int)threadIdx.x % WARP, part = lane % LANES_A_KEY,
        warp = (int)threadIdx.x / WARP % ATTENTION_WARPS;
    float mine[8];
    for (int i = 0; i < 8; i++)
        mine[i] = q[part * 8 + i] * 0.125f; /* 1/√64 */
    for (int first = warp * KEYS_A_WARP; first < n; first += KEYS_AHEAD * ATTENTION_WARPS * KEYS_A_WARP) {
        uint4 eights[KEYS_AHEAD];
        load_keys<false>(keys, first + lane / LANES_A_KEY, n, part, eights);
        UNROLL
        for (int k = 0; k < KEYS_AHEAD; k++) {
            int t = first + k * ATTENTION_WARPS * KEYS_A_WARP + lane / LANES_A_KEY;
            float sum = 0.0f, key[8];
            split_eight(eights[k], key);
            for (int i = 0; i < 8; i++)
                sum = fmaf(mine[i], key[i], sum);
            for (int bit = 1; bit < LANES_A_KEY; bit *= 2)
                sum += __shfl_xor_sync(LANES, sum, bit);
            if (part == 0 && t < n)
                scores[t] = sum;
        }
    }
}

/* sums [ATTENTION_WARPS, HEAD] = weights · V, a part of the keys a warp */
static __device__ __forceinline__ void weigh(const float *weights, struct keys keys, int n, float *sums)
{
    int lane = (int)threadIdx.x % WARP, part = lane % LANES_A_KEY,
        warp = (int)threadIdx.x / WARP % ATTENTION_WARPS;
    float out[8] = {};
    for (int first = warp * KEYS_A_WARP; first < n; first += KEYS_AHEAD * ATTENTION_WARPS * KEYS_A_WARP) {
        uint4 eights[KEYS_AHEAD];
        load_keys<true>(keys, first + lane / LANES_A_KEY, n, part, eights);
        UNROLL
        for (int k = 0; k < KEYS_AHEAD; k++) {
            int t = first + k * ATTENTION_WARPS * KEYS_A_WARP + lane / LANES_A_KEY;
            float value[8];
            split_eight(eights[k], value);
            const float weight = t < n ? weights[t] : 0.0f; /* of a value that is then zero, too */
            for (int i = 0; i < 8; i++)
                out[i] = fmaf(weight, value[i], out[i]);
        }
    }
    for (int i = 0; i < 8; i++) {
        for (int bit = LANES_A_KEY; bit < WARP; bit *= 2)
            out[i] += __shfl_xor_sync(LANES, out[i], bit);
        if (lane < LANES_A_KEY)
            sums[warp * HEAD + part * 8 + i] = out[i];
    }
}

struct attended {
    float greatest, sum; /* of the scores, and Σ e^(score − greatest) */
    float out;           /* of the threads below HEAD: Σ e^(score − greatest) v */
};

/* All threads of a block, which has this many teams; each has its own q, keys and weights, those without anything to do n = 0.
 * `weights` (shared, [n]) becomes e^(score − greatest). */
template <int teams>
static __device__ __forceinline__ struct attended attend(const float *q, struct keys keys, int n,
                                                         float *weights)
{
    SHARED(float, tops, teams *ATTENTION_WARPS);
    SHARED(float, totals, teams *ATTENTION_WARPS);
    SHARED(float, sums, teams *ATTENTION_WARPS *HEAD);
    int team = (int)threadIdx.x / ATTENTION_THREADS, me = (int)threadIdx.x % ATTENTION_THREADS;
    float *mine = sums + team * ATTENTION_WARPS * HEAD;
    struct attended a = {-INFINITY, 0.0f, 0.0f};
    score(q, keys, n, weights);
    __syncthreads();
    for (int t = me; t < n; t += ATTENTION_THREADS)
        a.greatest = fmaxf(a.greatest, weights[t]);
    a.greatest = team_max(a.greatest, tops + team * ATTENTION_WARPS);
    for (int t = me; t < n; t += ATTENTION_THREADS) {
        weights[t] = expf(weights[t] - a.greatest);
        a.sum += weights[t];
    }
    a.sum = team_sum(a.sum, totals + team * ATTENTION_WARPS); /* and all weights are there */
    weigh(weights, keys, n, mine);
    __syncthreads();
    for (int warp = 0; warp < ATTENTION_WARPS && me < HEAD; warp++)
        a.out += mine[warp * HEAD + me];
    return a;
}

/* Value i of a row's key and value, which follow one another behind its query. */
static __device__ __forceinline__ void append_value(struct engine_kv kv, int layer, int slot, int pos, int i,
                                                    const float *row)
{
    int n_state = kv.n_head * HEAD;
    __half *keys = kv_keys(kv, layer, slot, i % n_state / HEAD);
    keys[(i < n_state ? 0 : (size_t)kv.n_ctx * HEAD) + (size_t)pos * HEAD + i % HEAD] =
        to_half(row[n_state + i]);
}

/* The keys of a row's past: in its slot, or for a beam behind the prompt where the table says. slots NULL: no beams. */
static __device__ __forceinline__ struct keys self_keys(struct engine_kv kv, int layer, int slot, int head,
                                                        const struct slot_state *slots, int pos)
{
    struct keys keys = {kv_keys(kv, layer, slot, head), (size_t)kv.n_ctx * HEAD, NULL, 0, NOT_NEAR, NULL};
    if (slots && slots[slot].n_beams > 1 && pos >= slots[slot].n_prompt) {
        keys.first = kv_keys(kv, layer, 0, head);
        keys.slots = slots[slot].kv_slot;
        keys.slot_stride = (size_t)(kv_keys(kv, 0, 1, 0) - kv.data);
    }
    return keys;
}

/* --- cross-attention -------------------------------------------------------------------------------------------------- */

struct cross_params {
    struct rows rows;
    struct engine_kv kv;
    int layer;
    const struct slot_state *slots;
    struct mat q, out;
    float *partial; /* [rows][heads][CROSS_PARTS][PARTIAL_FLOATS] */
    uint32_t align_heads;
    int align_first, n_align;
    float *align;
};

static __device__ __forceinline__ float *partial_of(const struct cross_params *p, int r, int head, int part)
{
    size_t row = (size_t)r * (size_t)p->kv.n_head + (size_t)head;
    return p->partial + (row * CROSS_PARTS + (size_t)part) * PARTIAL_FLOATS;
}

/* Where the head's weights of a row are recorded, or NULL. */
static __device__ __forceinline__ float *align_row(const struct cross_params *p, int r, int head)
{
    if (!p->align || !(p->align_heads >> head & 1))
        return NULL;
    int index = p->align_first + __popc(p->align_heads & ((1u << head) - 1));
    size_t row = (size_t)p->rows.slot[r] * RUN_TOKENS_MAX + (size_t)p->rows.pos[r];
    return p->align + (row * (size_t)p->n_align + (size_t)index) * RUN_AUDIO_FRAMES;
}

static __device__ __forceinline__ int keys_in_part(int n_frames, int part)
{
    int left = n_frames - part * CROSS_PART;
    return left < 0 ? 0 : left < CROSS_PART ? left : CROSS_PART;
}

static __device__ __forceinline__ struct keys cross_keys(const struct cross_params *p, int audio, int head,
                                                         int part)
{
    return {kv_keys(p->kv, p->layer, audio, head) + (size_t)part * CROSS_PART * HEAD,
            (size_t)p->kv.n_ctx * HEAD,
            NULL,
            0,
            NOT_NEAR,
            NULL};
}

/* A team: what it has attended to, for join_parts. The alignment is relative to this part's maximum until then. */
static __device__ __forceinline__ void store_part(const struct cross_params *p, int r, int head, int part,
                                                  struct attended a, int n, const float *weights)
{
    int me = (int)threadIdx.x % ATTENTION_THREADS;
    float *to = partial_of(p, r, head, part), *align = align_row(p, r, head);
    if (me < HEAD)
        to[me] = a.out;
    if (me == 0) {
        to[HEAD] = a.greatest;
        to[HEAD + 1] = a.sum;
    }
    for (int t = me; t < n && align; t += ATTENTION_THREADS)
        align[part * CROSS_PART + t] = weights[t];
}

/* One thread: value `column` of a head, not yet divided by the sum. All loads are under way at once. */
static __device__ __forceinline__ struct attended join_parts(const struct cross_params *p, int r, int head,
                                                             int n_frames, int column)
{
    float greatest[CROSS_PARTS], sum[CROSS_PARTS], out[CROSS_PARTS];
    int n_parts = (n_frames + CROSS_PART - 1) / CROSS_PART;
    struct attended a = {-INFINITY, 0.0f, 0.0f};
    UNROLL
    for (int part = 0; part < CROSS_PARTS; part++) {
        const float *from = partial_of(p, r, head, part < n_parts ? part : 0);
        greatest[part] = part < n_parts ? from[HEAD] : -INFINITY;
        sum[part] = from[HEAD + 1];
        out[part] = from[column];
        a.greatest = fmaxf(a.greatest, greatest[part]);
    }
    UNROLL
    for (int part = 0; part < CROSS_PARTS; part++) {
        float scale = part < n_parts ? expf(greatest[part] - a.greatest) : 0.0f;
        a.sum = fmaf(scale, sum[part], a.sum);
        a.out = fmaf(scale, out[part], a.out);
    }
    return a;
}

/* A block: a head's recorded weights relative to the whole. */
static __device__ __forceinline__ void join_alignment(const struct cross_params *p, int r, int head, int n,
                                                      struct attended a)
{
    float *align = align_row(p, r, head);
    for (int t = (int)threadIdx.x; t < n && align; t += (int)blockDim.x)
        align[t] *= expf(partial_of(p, r, head, t / CROSS_PART)[HEAD] - a.greatest) / a.sum;
}

#endif
