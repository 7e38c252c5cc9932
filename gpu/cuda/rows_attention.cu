/* Attention of the decoder's rows: to their own past, and to the encoded window. Bound by reading keys and values.
 *
 * A block has one row and one head, and of a window a part of CROSS_PART keys, so that a single row keeps a GPU busy; the block
 * that is done last puts the parts together. Keys and values are on their way together. */
#include "gpu/cuda/rows_attention.cuh"

#include <errno.h>

#define THREADS ATTENTION_THREADS
#define ROUNDS  (2 * STRETCH) /* keys of a lane that are on their way at once, where registers are not short */

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
static __global__ void __launch_bounds__(THREADS, 4)
    self_attention_kernel(struct rows rows, struct engine_kv kv, int layer, const struct slot_state *slots,
                          struct mat qkv, struct mat out)
{
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
    struct attended a = attend<1, ROUNDS>(row + head * HEAD, keys, pos + 1, NULL);
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
    SHARED(float, scores, CROSS_PART);
    int part = (int)blockIdx.x, head = (int)blockIdx.y, r = (int)blockIdx.z, pos = p.rows.pos[r],
        slot = p.rows.slot[r];
    if (pos < 0)
        return;
    const struct slot_state *s = &p.slots[slot];
    int n_frames = s->n_frames, audio = s->audio, n = keys_in_part(n_frames, part);
    if (n <= 0)
        return;
    const float *q = (const float *)p.q.data + (size_t)r * (size_t)p.q.stride + head * HEAD;
    struct attended a = attend<1, STRETCH>(q, cross_keys(&p, audio, head, part), n, scores);
    store_part(&p, r, head, part, a, n, scores);
    if (!is_last_part(done + r * p.kv.n_head + head, parts_of(n_frames)))
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
    int n_state = kv->n_head * HEAD;
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
        LAUNCH(cross_attention_kernel, dim3((unsigned)parts_of(kv->n_ctx), (unsigned)kv->n_head, (unsigned)n),
               THREADS, 0, c->stream, p, c->parts_done);
    }
    return cuda_check(c, cudaGetLastError(), "cross_attention");
}
