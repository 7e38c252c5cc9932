/* Attention of the decoder's rows: to their own past, and to the encoded window. Bound by reading keys and values.
 *
 * A block has one row and one head, and of a window a part of CROSS_PART keys, so that a single row keeps a GPU busy; a second
 * kernel puts the parts together. The parts do not depend on the batch: nor do the bits of a row. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>

#define WARPS       4
#define THREADS     (WARPS * WARP)
#define LANES_A_KEY (HEAD / 8)           /* each with 16 bytes of it */
#define KEYS_A_WARP (WARP / LANES_A_KEY) /* at a time */

static __device__ __forceinline__ float block_max(float v, float *room)
{
    v = warp_max(v);
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP] = v;
    __syncthreads();
    return warp_max(threadIdx.x % WARP < WARPS ? room[threadIdx.x % WARP] : -INFINITY);
}

static __device__ __forceinline__ float block_sum(float v, float *room)
{
    v = warp_sum(v);
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % WARP < WARPS ? room[threadIdx.x % WARP] : 0.0f);
}

/* Where a head's keys are: side by side from `first` on, or each in the slot that a table names. Values are `to_values`
 * behind. */
struct keys {
    const __half *first; /* with a table: of slot 0 */
    size_t to_values;
    const uint8_t *slots; /* by position; NULL: no table */
    size_t slot_stride;
};

static __device__ __forceinline__ const __half *key_at(struct keys k, int t)
{
    return k.first + (size_t)t * HEAD + (k.slots ? k.slots[t] * k.slot_stride : 0);
}

/* scores [n] = q · Kᵀ / 8 */
static __device__ __forceinline__ void score(const float *q, struct keys keys, int n, float *scores)
{
    int lane = (int)threadIdx.x % WARP, part = lane % LANES_A_KEY;
    float mine[8];
    for (int i = 0; i < 8; i++)
        mine[i] = q[part * 8 + i] * 0.125f; /* 1/√64 */
    for (int first = (int)threadIdx.x / WARP * KEYS_A_WARP; first < n; first += WARPS * KEYS_A_WARP) {
        int t = first + lane / LANES_A_KEY;
        float sum = 0.0f, key[8];
        if (t < n) {
            load_eight(key_at(keys, t) + part * 8, key);
            for (int i = 0; i < 8; i++)
                sum = fmaf(mine[i], key[i], sum);
        }
        for (int bit = 1; bit < LANES_A_KEY; bit *= 2)
            sum += __shfl_xor_sync(LANES, sum, bit);
        if (part == 0 && t < n)
            scores[t] = sum;
    }
}

/* sums [WARPS, HEAD] = weights · V, a part of the keys a warp */
static __device__ __forceinline__ void weigh(const float *weights, struct keys keys, int n, float *sums)
{
    int lane = (int)threadIdx.x % WARP, part = lane % LANES_A_KEY, warp = (int)threadIdx.x / WARP;
    float out[8] = {};
    for (int t = warp * KEYS_A_WARP + lane / LANES_A_KEY; t < n; t += WARPS * KEYS_A_WARP) {
        float value[8];
        load_eight(key_at(keys, t) + keys.to_values + part * 8, value);
        for (int i = 0; i < 8; i++)
            out[i] = fmaf(weights[t], value[i], out[i]);
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

/* All threads of a block. `weights` (shared, [n], n > 0) becomes e^(score − greatest). */
static __device__ __forceinline__ struct attended attend(const float *q, struct keys keys, int n,
                                                         float *weights)
{
    SHARED(float, tops, WARPS);
    SHARED(float, totals, WARPS);
    SHARED(float, sums, WARPS *HEAD);
    struct attended a = {-INFINITY, 0.0f, 0.0f};
    score(q, keys, n, weights);
    __syncthreads();
    for (int t = (int)threadIdx.x; t < n; t += THREADS)
        a.greatest = fmaxf(a.greatest, weights[t]);
    a.greatest = block_max(a.greatest, tops);
    for (int t = (int)threadIdx.x; t < n; t += THREADS) {
        weights[t] = expf(weights[t] - a.greatest);
        a.sum += weights[t];
    }
    a.sum = block_sum(a.sum, totals); /* and all weights are there */
    weigh(weights, keys, n, sums);
    __syncthreads();
    for (int warp = 0; warp < WARPS && threadIdx.x < HEAD; warp++)
        a.out += sums[warp * HEAD + (int)threadIdx.x];
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
    const float *from = (const float *)qkv.data + (size_t)r * (size_t)qkv.stride + n_state;
    for (int i = (int)threadIdx.x; i < 2 * n_state; i += THREADS) {
        __half *keys = kv_keys(kv, layer, rows.slot[r], i % n_state / HEAD);
        keys[(i < n_state ? 0 : (size_t)kv.n_ctx * HEAD) + (size_t)pos * HEAD + i % HEAD] = to_half(from[i]);
    }
}

/* grid: heads, rows */
static __global__ void __launch_bounds__(THREADS)
    self_attention_kernel(struct rows rows, struct engine_kv kv, int layer, const struct slot_state *slots,
                          struct mat qkv, struct mat out)
{
    SHARED(float, weights, RUN_TOKENS_MAX);
    int head = (int)blockIdx.x, r = (int)blockIdx.y, pos = rows.pos[r];
    if (pos < 0 || pos >= kv.n_ctx)
        return;
    const float *q = (const float *)qkv.data + (size_t)r * (size_t)qkv.stride + head * HEAD;
    struct keys keys = {kv_keys(kv, layer, rows.slot[r], head), (size_t)kv.n_ctx * HEAD, NULL, 0};
    if (slots && slots[rows.slot[r]].n_beams > 1 && pos >= slots[rows.slot[r]].n_prompt) {
        keys.first = kv_keys(kv, layer, 0, head);
        keys.slots = slots[rows.slot[r]].kv_slot;
        keys.slot_stride = (size_t)(kv_keys(kv, 0, 1, 0) - kv.data);
    }
    struct attended a = attend(q, keys, pos + 1, weights);
    if (threadIdx.x < HEAD)
        ((float *)out.data)[(size_t)r * (size_t)out.stride + (size_t)(head * HEAD) + threadIdx.x] =
            a.out / a.sum;
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
    LAUNCH(append_kernel, a->rows.n, THREADS, 0, c->stream, a->rows, *a->kv, a->layer, a->qkv);
    LAUNCH(self_attention_kernel, dim3((unsigned)a->kv->n_head, (unsigned)a->rows.n), THREADS, 0, c->stream,
           a->rows, *a->kv, a->layer, a->slots, a->qkv, a->out);
    return cuda_check(c, cudaGetLastError(), "self_attention");
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

/* grid: parts, heads, rows */
static __global__ void __launch_bounds__(THREADS) cross_part_kernel(struct cross_params p)
{
    SHARED(float, weights, CROSS_PART);
    int part = (int)blockIdx.x, head = (int)blockIdx.y, r = (int)blockIdx.z;
    if (p.rows.pos[r] < 0)
        return;
    const struct slot_state *s = &p.slots[p.rows.slot[r]];
    int first = part * CROSS_PART, n = s->n_frames - first < CROSS_PART ? s->n_frames - first : CROSS_PART;
    if (n <= 0)
        return;
    const float *q = (const float *)p.q.data + (size_t)r * (size_t)p.q.stride + head * HEAD;
    struct keys keys = {kv_keys(p.kv, p.layer, s->audio, head) + (size_t)first * HEAD,
                        (size_t)p.kv.n_ctx * HEAD, NULL, 0};
    struct attended a = attend(q, keys, n, weights);
    float *to = partial_of(&p, r, head, part);
    if (threadIdx.x < HEAD)
        to[threadIdx.x] = a.out;
    if (threadIdx.x == 0) {
        to[HEAD] = a.greatest;
        to[HEAD + 1] = a.sum;
    }
    float *align = align_row(&p, r, head); /* relative to this part's maximum, until the parts are joined */
    for (int t = (int)threadIdx.x; t < n && align; t += THREADS)
        align[first + t] = weights[t];
}

/* grid: heads, rows */
static __global__ void __launch_bounds__(THREADS) cross_join_kernel(struct cross_params p)
{
    int head = (int)blockIdx.x, r = (int)blockIdx.y;
    if (p.rows.pos[r] < 0)
        return;
    int n = p.slots[p.rows.slot[r]].n_frames, n_parts = (n + CROSS_PART - 1) / CROSS_PART;
    float greatest = -INFINITY, sum = 0.0f, out = 0.0f;
    for (int part = 0; part < n_parts; part++)
        greatest = fmaxf(greatest, partial_of(&p, r, head, part)[HEAD]);
    for (int part = 0; part < n_parts; part++) {
        const float *from = partial_of(&p, r, head, part);
        float scale = expf(from[HEAD] - greatest);
        sum = fmaf(scale, from[HEAD + 1], sum);
        if (threadIdx.x < HEAD)
            out = fmaf(scale, from[threadIdx.x], out);
    }
    if (threadIdx.x < HEAD)
        ((float *)p.out.data)[(size_t)r * (size_t)p.out.stride + (size_t)(head * HEAD) + threadIdx.x] =
            out / sum;
    float *align = align_row(&p, r, head);
    for (int t = (int)threadIdx.x; t < n && align; t += THREADS)
        align[t] *= expf(partial_of(&p, r, head, t / CROSS_PART)[HEAD] - greatest) / sum;
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
        LAUNCH(cross_part_kernel, dim3((unsigned)n_parts, (unsigned)kv->n_head, (unsigned)n), THREADS, 0,
               c->stream, p);
        LAUNCH(cross_join_kernel, dim3((unsigned)kv->n_head, (unsigned)n), THREADS, 0, c->stream, p);
    }
    return cuda_check(c, cudaGetLastError(), "cross_attention");
}
