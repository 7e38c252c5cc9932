/* Attention of the decoder's rows by teams of ATTENTION_THREADS threads: a row and a head a team. Inside gpu/cuda/ only: in the
 * kernels of rows_attention.cu a block is a team, in that of step.cu several. The parts of a window do not depend on the
 * batch or on the kernel: nor do the bits of a row. */
#ifndef CAPTIOND_GPU_CUDA_ROWS_ATTENTION_CUH
#define CAPTIOND_GPU_CUDA_ROWS_ATTENTION_CUH

#include "gpu/cuda/rows.cuh"

#define ATTENTION_WARPS   4 /* of a team */
#define ATTENTION_THREADS (ATTENTION_WARPS * WARP)
#define LANES_A_KEY       (HEAD / 8)                      /* each with 16 bytes of it */
#define KEYS_A_WARP       (WARP / LANES_A_KEY)            /* at a time */
#define ROUND_KEYS        (ATTENTION_WARPS * KEYS_A_WARP) /* and of a team */
#define STRETCH           4 /* keys of a lane between two looks at the greatest score */

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

/* A lane's part of n_rounds keys or values, from number t on. What lies behind the last key is zero. */
template <bool values, int n_rounds>
static __device__ __forceinline__ void load_keys(struct keys keys, int t, int n, int part, uint4 to[n_rounds])
{
    UNROLL
    for (int i = 0; i < n_rounds; i++, t += ROUND_KEYS) {
        to[i] = make_uint4(0, 0, 0, 0);
        if (t < n)
            to[i] = *(const uint4 *)((values ? value_at(keys, t) : key_at(keys, t)) + part * 8);
    }
}

/* What the lanes of a key have attended to: the greatest score, Σ 2^(score − greatest), and that times eight columns of v. */
struct attending {
    float greatest, sum, out[8];
};

/* 2^(score − top), which is 0 before there is any score. */
static __device__ __forceinline__ float relative(float score, float top)
{
    return exp2_near(score - (top > -INFINITY ? top : 0.0f));
}

/* A stretch of keys, the first of them number t, and their values. scores, or NULL: [n] gets what q · k is. */
static __device__ __forceinline__ void attend_stretch(struct attending *a, const float q[8],
                                                      const uint4 keys[STRETCH], const uint4 values[STRETCH],
                                                      int t, int n, float *scores)
{
    float score[STRETCH], eight[8], before = a->greatest;
    UNROLL
    for (int i = 0; i < STRETCH; i++) {
        int mine = t + i * ROUND_KEYS;
        float sum = 0.0f;
        split_eight(keys[i], eight);
        for (int k = 0; k < 8; k++)
            sum = fmaf(q[k], eight[k], sum);
        for (int bit = 1; bit < LANES_A_KEY; bit *= 2)
            sum += __shfl_xor_sync(LANES, sum, bit);
        if (scores && threadIdx.x % LANES_A_KEY == 0 && mine < n)
            scores[mine] = sum;
        score[i] = mine < n ? sum : -INFINITY;
        a->greatest = fmaxf(a->greatest, score[i]);
    }
    const float kept = relative(before, a->greatest);
    a->sum *= kept;
    for (int k = 0; k < 8; k++)
        a->out[k] *= kept;
    UNROLL
    for (int i = 0; i < STRETCH; i++) {
        const float weight = relative(score[i], a->greatest);
        split_eight(values[i], eight);
        a->sum += weight;
        for (int k = 0; k < 8; k++)
            a->out[k] = fmaf(weight, eight[k], a->out[k]);
    }
}

struct attended {
    float greatest, sum; /* of the scores, and Σ 2^(score − greatest) */
    float out;           /* of the threads below HEAD: Σ 2^(score − greatest) v */
};

/* All threads of a block, which has this many teams; each has its own q, keys and scores, those without anything to do n = 0.
 * Softmax of q · Kᵀ / 8 as the keys go by, in one pass (Milakov and Gimelshein, 2018): each group of lanes has a maximum of its
 * own, which is put together with the others' at the end. n_rounds (a multiple of STRETCH): keys and values of a lane that are
 * on their way at once; the bits do not depend on it. scores, or NULL: shared, [n], is log₂ e · q · Kᵀ / 8, for who has waited
 * for all threads. Between two calls there is a barrier. */
template <int teams, int n_rounds>
static __device__ __forceinline__ struct attended attend(const float *q, struct keys keys, int n,
                                                         float *scores)
{
    SHARED(float4, tops, teams);
    SHARED(float4, totals, teams);
    SHARED(float, sums, teams *ATTENTION_WARPS *HEAD);
    static_assert(ATTENTION_WARPS == 4, "a warp's maximum and sum are in a float4");
    const float scale = 0.125f * 1.44269504f; /* 1/√64, and e^x is 2^(x log₂ e) */
    int lane = (int)threadIdx.x % WARP, part = lane % LANES_A_KEY, group = lane / LANES_A_KEY,
        warp = (int)threadIdx.x / WARP, team = warp / ATTENTION_WARPS;
    struct attending mine = {-INFINITY, 0.0f, {}};
    float query[8];
    for (int i = 0; i < 8; i++)
        query[i] = q[part * 8 + i] * scale;
    ROLLED
    for (int first = warp % ATTENTION_WARPS * KEYS_A_WARP; first < n; first += n_rounds * ROUND_KEYS) {
        uint4 some_keys[n_rounds], some_values[n_rounds];
        load_keys<false, n_rounds>(keys, first + group, n, part, some_keys);
        load_keys<true, n_rounds>(keys, first + group, n, part, some_values);
        UNROLL
        for (int i = 0; i < n_rounds; i += STRETCH)
            attend_stretch(&mine, query, some_keys + i, some_values + i, first + group + i * ROUND_KEYS, n,
                           scores);
    }
    float top = mine.greatest;
    for (int bit = LANES_A_KEY; bit < WARP; bit *= 2)
        top = fmaxf(top, __shfl_xor_sync(LANES, top, bit));
    const float kept = relative(mine.greatest, top);
    mine.sum *= kept;
    for (int bit = LANES_A_KEY; bit < WARP; bit *= 2)
        mine.sum += __shfl_xor_sync(LANES, mine.sum, bit);
    for (int i = 0; i < 8; i++)
        mine.out[i] *= kept;
    warp_sums<8>(mine.out, LANES_A_KEY); /* two are left, of the columns that the lane's group says */
    *(float2 *)(sums + warp * HEAD + part * 8 + group % 2 * 2 + group / 2 * 4) = {mine.out[0], mine.out[1]};
    if (lane == 0) {
        ((float *)tops)[warp] = top;
        ((float *)totals)[warp] = mine.sum;
    }
    __syncthreads(); /* all warps' sums are there */
    const float4 t = tops[team], s = totals[team];
    const float greatest = fmaxf(fmaxf(t.x, t.y), fmaxf(t.z, t.w));
    const float4 f = {relative(t.x, greatest), relative(t.y, greatest), relative(t.z, greatest),
                      relative(t.w, greatest)};
    const float *out = sums + team * ATTENTION_WARPS * HEAD + threadIdx.x % HEAD;
    return {greatest, (s.x * f.x + s.y * f.y) + (s.z * f.z + s.w * f.w),
            (out[0] * f.x + out[HEAD] * f.y) + (out[2 * HEAD] * f.z + out[3 * HEAD] * f.w)};
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

/* Of a window of so many frames, each part a block's. */
static __host__ __device__ __forceinline__ int parts_of(int n_frames)
{
    return (int)(((unsigned)n_frames + CROSS_PART - 1) / CROSS_PART);
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
                                                  struct attended a, int n, const float *scores)
{
    int me = (int)threadIdx.x % ATTENTION_THREADS;
    float *to = partial_of(p, r, head, part), *align = align_row(p, r, head);
    if (me < HEAD)
        to[me] = a.out;
    if (me == 0) {
        to[HEAD] = a.greatest;
        to[HEAD + 1] = a.sum;
    }
    ROLLED
    for (int t = me; t < n && align; t += ATTENTION_THREADS)
        align[part * CROSS_PART + t] = relative(scores[t], a.greatest);
}

/* One thread: value `column` of a head, not yet divided by the sum. All loads are under way at once. */
static __device__ __forceinline__ struct attended join_parts(const struct cross_params *p, int r, int head,
                                                             int n_frames, int column)
{
    float greatest[CROSS_PARTS], sum[CROSS_PARTS], out[CROSS_PARTS];
    int n_parts = parts_of(n_frames);
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
        float scale = part < n_parts ? relative(greatest[part], a.greatest) : 0.0f;
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
    ROLLED
    for (int t = (int)threadIdx.x; t < n && align; t += (int)blockDim.x)
        align[t] *= relative(partial_of(p, r, head, t / CROSS_PART)[HEAD], a.greatest) / a.sum;
}

#endif
