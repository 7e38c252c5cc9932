/* Attention of the decoder's rows: to their own past, and to the encoded window. Bound by reading keys and values.
 *
 * A block has one row and one head, and of a window a part of CROSS_PART keys, so that a single row keeps a GPU busy; the block
 * that is done last puts the parts together. Keys and values are on their way together, CROSS_PART of each at once; the sums
 * are those of `attend` (rows_attention.cuh), in the same order. */
#include "gpu/cuda/rows_attention.cuh"

#include <errno.h>

#define THREADS    ATTENTION_THREADS
#define ROUND_KEYS (ATTENTION_WARPS * KEYS_A_WARP) /* keys that the block's lanes have at a time */
#define ROUNDS     (CROSS_PART / ROUND_KEYS)       /* that are on their way at once */

/* The key of a round that a lane has a part of. */
static __device__ __forceinline__ int key_of_round(int first, int round)
{
    return first + round * ROUND_KEYS + (int)threadIdx.x / LANES_A_KEY;
}

/* A lane's parts of the keys of some rounds, or of the values. What lies behind the last key is zero. */
template <bool values>
static __device__ __forceinline__ void load_rounds(struct keys keys, int first, int n, uint4 to[ROUNDS])
{
    int part = (int)threadIdx.x % LANES_A_KEY;
    UNROLL
    for (int i = 0; i < ROUNDS; i++) {
        int t = key_of_round(first, i);
        to[i] = make_uint4(0, 0, 0, 0);
        if (t < n)
            to[i] = *(const uint4 *)((values ? value_at(keys, t) : key_at(keys, t)) + part * 8);
    }
}

/* As score, of keys that have been loaded. */
static __device__ __forceinline__ void score_rounds(const float mine[8], const uint4 keys[ROUNDS], int first,
                                                    int n, float *scores)
{
    UNROLL
    for (int i = 0; i < ROUNDS; i++) {
        int t = key_of_round(first, i);
        float sum = 0.0f, key[8];
        split_eight(keys[i], key);
        for (int k = 0; k < 8; k++)
            sum = fmaf(mine[k], key[k], sum);
        for (int bit = 1; bit < LANES_A_KEY; bit *= 2)
            sum += __shfl_xor_sync(LANES, sum, bit);
        if (threadIdx.x % LANES_A_KEY == 0 && t < n)
            scores[t] = sum;
    }
}

/* As the first half of weigh, of values that have been loaded. */
static __device__ __forceinline__ void weigh_rounds(const float *weights, const uint4 values[ROUNDS],
                                                    int first, int n, float out[8])
{
    UNROLL
    for (int i = 0; i < ROUNDS; i++) {
        int t = key_of_round(first, i);
        float value[8];
        split_eight(values[i], value);
        for (int k = 0; k < 8 && t < n; k++)
            out[k] = fmaf(weights[t], value[k], out[k]);
    }
}

/* A block: what attend gives of a team. */
static __device__ __forceinline__ struct attended attend_ahead(const float *q, struct keys keys, int n,
                                                               float *weights)
{
    SHARED(float, tops, ATTENTION_WARPS);
    SHARED(float, totals, ATTENTION_WARPS);
    SHARED(float, sums, ATTENTION_WARPS *HEAD);
    const int at_once = ROUNDS * ROUND_KEYS;
    int me = (int)threadIdx.x, part = me % LANES_A_KEY;
    uint4 some_keys[ROUNDS], some_values[ROUNDS];
    float mine[8], out[8] = {};
    struct attended a = {-INFINITY, 0.0f, 0.0f};
    load_rounds<false>(keys, 0, n, some_keys);
    load_rounds<true>(keys, 0, n, some_values);
    for (int i = 0; i < 8; i++)
        mine[i] = q[part * 8 + i] * 0.125f; /* 1/√64 */
    score_rounds(mine, some_keys, 0, n, weights);
    for (int first = at_once; first < n; first += at_once) {
        load_rounds<false>(keys, first, n, some_keys);
        score_rounds(mine, some_keys, first, n, weights);
    }
    __syncthreads(); /* all scores are there */
    for (int t = me; t < n; t += THREADS)
        a.greatest = fmaxf(a.greatest, weights[t]);
    a.greatest = team_max(a.greatest, tops);
    for (int t = me; t < n; t += THREADS) {
        weights[t] = expf(weights[t] - a.greatest);
        a.sum += weights[t];
    }
    a.sum = team_sum(a.sum, totals); /* and all weights are there */
    weigh_rounds(weights, some_values, 0, n, out);
    for (int first = at_once; first < n; first += at_once) {
        load_rounds<true>(keys, first, n, some_values);
        weigh_rounds(weights, some_values, first, n, out);
    }
    for (int i = 0; i < 8; i++) {
        for (int bit = LANES_A_KEY; bit < WARP; bit *= 2)
            out[i] += __shfl_xor_sync(LANES, out[i], bit);
        if (me % WARP < LANES_A_KEY)
            sums[me / WARP * HEAD + part * 8 + i] = out[i];
    }
    __syncthreads(); /* all warps' sums are there */
    for (int warp = 0; warp < ATTENTION_WARPS && me < HEAD; warp++)
        a.out += sums[warp * HEAD + me];
    return a;
}

/* --- self-attention --------------------------------------------------------------------------------------------------- */

/* Every row's keys and values go into the cache before any row looks: rows of a slot see one another. grid: rows */
static __global__ void __launch_bounds__(THREADS)
    append_kernel(struct rows rows, struct engine_kv kv, int layer, struct mat qkv)
{
    int r = (int)blockIdx.x, pos = rows.pos[r], n_state = kv.n_head * HEAD;
    if (pos < 0 || pos >= kv.n_ctx)
        return;
    const float *row = (const float *)qkv.data + (size_t)r * (size_t)qkv.stride;
    for (int i = (int)threadIdx.x; i < 2 * n_state; i += THREADS)
        append_value(kv, layer, rows.slot[r], pos, i, row);
}

/* grid: heads, rows. Where no two rows are of one slot, each appends its own key and value, which are near until others
 * can see them. */
template <bool appends>
static __global__ void __launch_bounds__(THREADS)
    self_attention_kernel(struct rows rows, struct engine_kv kv, int layer, const struct slot_state *slots,
                          struct mat qkv, struct mat out)
{
    SHARED(float, weights, RUN_TOKENS_MAX);
    SHARED(__half, near, 2 * HEAD);
    int head = (int)blockIdx.x, r = (int)blockIdx.y, pos = rows.pos[r], slot = rows.slot[r],
        me = (int)threadIdx.x;
    if (pos < 0 || pos >= kv.n_ctx)
        return;
    const float *row = (const float *)qkv.data + (size_t)r * (size_t)qkv.stride;
    struct keys keys = self_keys(kv, layer, slot, head, slots, pos);
    if (appends) {
        int i = me / HEAD * kv.n_head * HEAD + head * HEAD + me % HEAD;
        static_assert(THREADS == 2 * HEAD, "a thread has a value of the key or of the value");
        append_value(kv, layer, slot, pos, i, row);
        near[me] = to_half(row[kv.n_head * HEAD + i]);
        keys.near = near;
        keys.near_from = pos;
        __syncthreads(); /* the row's own key is there */
    }
    struct attended a = attend_ahead(row + head * HEAD, keys, pos + 1, weights);
    if (me < HEAD)
        ((float *)out.data)[(size_t)r * (size_t)out.stride + (size_t)(head * HEAD + me)] = a.out / a.sum;
}

int cuda_self_attention(struct cuda_engine *c, const struct self_attention_args *a)
{
    int n_state = a->kv->n_head * HEAD;
    if (a->qkv.type != DTYPE_F32 || a->out.type != DTYPE_F32 || a->qkv.cols != 3 * n_state ||
        a->out.cols != n_state || a->layer < 0 || a->layer >= a->kv->n_layer ||
        a->kv->n_ctx > RUN_TOKENS_MAX || a->rows.n > 65535)
        return cuda_fail(c, -EINVAL, "self_attention: types or shapes do not fit");
    if (a->rows.n <= 0)
        return 0;
    const dim3 grid((unsigned)a->kv->n_head, (unsigned)a->rows.n);
    if (c->recording && a->rows.pos == c->recording->step_pos) { /* the newest tokens of slots */
        LAUNCH(self_attention_kernel<true>, grid, THREADS, 0, c->stream, a->rows, *a->kv, a->layer, a->slots,
               a->qkv, a->out);
    } else {
        LAUNCH(append_kernel, a->rows.n, THREADS, 0, c->stream, a->rows, *a->kv, a->layer, a->qkv);
        LAUNCH(self_attention_kernel<false>, grid, THREADS, 0, c->stream, a->rows, *a->kv, a->layer, a->slots,
               a->qkv, a->out);
    }
    return cuda_check(c, cudaGetLastError(), "self_attention");
}

/* --- cross-attention -------------------------------------------------------------------------------------------------- */

/* grid: parts, heads, rows. done [rows][heads]: how many parts are stored. */
static __global__ void __launch_bounds__(THREADS, 8)
    cross_attention_kernel(struct cross_params p, unsigned *done)
{
    SHARED(float, weights, CROSS_PART);
    int part = (int)blockIdx.x, head = (int)blockIdx.y, r = (int)blockIdx.z, pos = p.rows.pos[r],
        slot = p.rows.slot[r];
    if (pos < 0)
        return;
    const struct slot_state *s = &p.slots[slot];
    int n_frames = s->n_frames, audio = s->audio, n = keys_in_part(n_frames, part);
    if (n <= 0)
        return;
    const float *q = (const float *)p.q.data + (size_t)r * (size_t)p.q.stride + head * HEAD;
    struct attended a = attend_ahead(q, cross_keys(&p, audio, head, part), n, weights);
    store_part(&p, r, head, part, a, n, weights);
    if (!is_last_part(done + r * p.kv.n_head + head, (n_frames + CROSS_PART - 1) / CROSS_PART))
        return;
    a = join_parts(&p, r, head, n_frames, (int)threadIdx.x % HEAD);
    if (threadIdx.x < HEAD)
        ((float *)p.out.data)[(size_t)r * (size_t)p.out.stride + (size_t)(head * HEAD) + threadIdx.x] =
            a.out / a.sum;
    join_alignment(&p, r, head, n_frames, a);
}

int cuda_cross_attention(struct cuda_engine *c, const struct cross_attention_args *a)
{
    const struct engine_kv *kv = a->kv;
    int n_state = kv->n_head * HEAD, n_parts = (kv->n_ctx + CROSS_PART - 1) / CROSS_PART;
    if (a->q.type != DTYPE_F32 || a->out.type != DTYPE_F32 || a->q.cols != n_state ||
        a->out.cols != n_state || a->layer < 0 || a->layer >= kv->n_layer || kv->n_head > CUDA_HEADS_MAX ||
        kv->n_ctx > RUN_AUDIO_FRAMES)
        return cuda_fail(c, -EINVAL, "cross_attention: types or shapes do not fit");
    for (int first = 0; first < a->rows.n; first += CUDA_ROWS_MAX) {
        int n = a->rows.n - first < CUDA_ROWS_MAX ? a->rows.n - first : CUDA_ROWS_MAX;
        const struct rows rows = {n, a->rows.token + first, a->rows.pos + first, a->rows.slot + first};
        const struct cross_params p = {rows,
                                       *kv,
                                       a->layer,
                                       a->slots,
                                       mat_rows(a->q, first, n),
                                       mat_rows(a->out, first, n),
                                       c->partial,
                                       a->align_heads,
                                       a->align_first,
                                       a->n_align,
                                       a->align};
        LAUNCH(cross_attention_kernel, dim3((unsigned)n_parts, (unsigned)kv->n_head, (unsigned)n), THREADS, 0,
               c->stream, p, c->parts_done);
    }
    return cuda_check(c, cudaGetLastError(), "cross_attention");
}
