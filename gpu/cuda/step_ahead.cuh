/* What a block of the step kernel fetches for its next phase before it waits for the others: all that nobody writes meanwhile.
 * Inside step.cu. */
#ifndef CAPTIOND_GPU_CUDA_STEP_AHEAD_CUH
#define CAPTIOND_GPU_CUDA_STEP_AHEAD_CUH

#include "gpu/cuda/step_room.cuh"

/* It is there when the next phase has begun, and may be read behind the meeting that ends that one. */
static __device__ __forceinline__ void load_phase(const struct step_params *p, int index,
                                                  struct step_phase *to)
{
    static_assert(sizeof(*to) % 8 == 0, "copied by eights of bytes");
    const char *from = (const char *)&p->phases[index < p->n_phases ? index : index - p->n_phases];
    ROLLED
    for (int i = (int)threadIdx.x * 8; i < (int)sizeof(*to); i += STEP_THREADS * 8)
        cp_async_few<8>((char *)to + i, from + i);
}

/* The grid brings lines of memory into the second-level cache. */
static __device__ __forceinline__ void prefetch_lines(const void *from, int n)
{
    ROLLED
    for (int i = (int)(blockIdx.x * STEP_THREADS + threadIdx.x); i < n; i += (int)gridDim.x * STEP_THREADS)
        prefetch((const char *)from + (size_t)i * LINE);
}

static __device__ __forceinline__ void prefetch_outputs(const struct engine_weight *w, int first)
{
    int n = w->n_out - first;
    if (n > 0)
        prefetch_lines(weight_row(w, first), (int)((size_t)n * weight_row_bytes(w) / LINE));
}

static __device__ __forceinline__ void prefetch_window(const struct cross_params *c,
                                                       const struct step_room *room)
{
    ROLLED
    for (int r = 0; r < c->rows.n; r++) {
        if (room->rows[r].pos >= 0)
            prefetch_lines(kv_keys(c->kv, c->layer, room->rows[r].audio, 0),
                           c->kv.n_head * 2 * c->kv.n_ctx * HEAD * (int)sizeof(__half) / LINE);
    }
}

/* n_threads: n keys and their values, which are `to_values` behind, to shared memory. */
static __device__ __forceinline__ void bring_keys(const __half *first, size_t to_values, int n, __half *to,
                                                  int me, int n_threads)
{
    ROLLED
    for (int i = me; i < 2 * n * HEAD_EIGHTS; i += n_threads) {
        int key = i / (2 * HEAD_EIGHTS), value = i / HEAD_EIGHTS % 2, eight = i % HEAD_EIGHTS;
        cp_async_16(to + i * 8, first + (size_t)value * to_values + key * HEAD + eight * 8, 16);
    }
}

static __device__ __forceinline__ void look_at_norm(const struct linear_rows_params *l, int me,
                                                    struct step_room *room)
{
    ROLLED
    for (int i = me; l->gamma && i < l->weight.n_in; i += STEP_THREADS) {
        cp_async_few<4>(&room->gamma[i], &l->gamma[i]);
        cp_async_few<4>(&room->beta[i], &l->beta[i]);
    }
}

/* A warp: the first n eights of each lane of an output, from place k on. */
template <bool bytes>
static __device__ __forceinline__ void look_at_output(const struct engine_weight *w, int out, int lane, int k,
                                                      int n, const struct ahead *ahead)
{
    int i = lane;
    ROLLED
    for (int end = k + n; k < end && i < w->stride / 8; k++, i += WARP)
        bring_weights<bytes>(weights_of(ahead, k), w, out, i);
}

template <bool bytes>
static __device__ __forceinline__ void look_at_linear(const struct linear_rows_params *l, int me,
                                                      struct ahead *ahead)
{
    int out = unit_of_warp(me / WARP);
    prefetch_outputs(&l->weight, n_units());
    if (out >= l->weight.n_out)
        return;
    ahead->bias = l->bias ? l->bias[out] : 0.0f;
    look_at_output<bytes>(&l->weight, out, me % WARP, 0, ahead->n, ahead);
}

template <bool bytes>
static __device__ __forceinline__ void
look_at_heads(const struct step_params *p, const struct linear_rows_params *l, int n_rows,
              const struct step_room *room, int me, const struct ahead *ahead)
{
    const struct head_unit u = room->first_heads;
    prefetch_outputs(&l->weight, 0);
    if ((int)blockIdx.x < n_head_units(p, n_rows) && head_out(u, me) < l->weight.n_out && ahead->n > 0)
        bring_weights<bytes>(weights_of(ahead, 0), &l->weight, head_out(u, me), head_eight(u, me));
}

template <int n_rows>
static __device__ __forceinline__ void look_at_past(const struct step_phase *next, int n,
                                                    const struct step_room *room, int me, __half *keys)
{
    const struct head_unit u = room->first_heads;
    int team = me / ATTENTION_THREADS, r = u.first_row + team;
    if (r >= n || team >= near<n_rows>::rows)
        return;
    int pos = room->rows[r].pos, n_past = near_past<n_rows>(pos);
    if (pos < 0 || pos >= next->self.n_ctx)
        return;
    const __half *first =
        kv_keys(next->self, next->cross.layer, room->rows[r].slot, u.head) + (size_t)(pos - n_past) * HEAD;
    bring_keys(first, (size_t)next->self.n_ctx * HEAD, n_past,
               keys + team * near<n_rows>::keys_a_row * 2 * HEAD, me % ATTENTION_THREADS, ATTENTION_THREADS);
}

/* Of a block's first unit: its part of the window, and each warp's outputs of the query. */
template <bool bytes>
static __device__ __forceinline__ void look_at_window(const struct step_phase *next, int n,
                                                      const struct step_room *room, int me, __half *keys,
                                                      const struct ahead *ahead)
{
    const struct cross_params *c = &next->cross;
    const struct window_unit u = room->first_window;
    int out = u.head * HEAD + me / WARP * QUERY_OUTS, n_eights = ahead->n / QUERY_OUTS,
        n_keys = u.row < n ? keys_of_unit(room, u) : 0;
    prefetch_outputs(&next->linear.weight, 0);
    if (n_keys == 0)
        return;
    struct keys from = cross_keys(c, room->rows[u.row].audio, u.head, u.part);
    bring_keys(from.first, from.to_values, n_keys, keys, me, STEP_THREADS);
    ROLLED
    for (int o = 0; o < QUERY_OUTS; o++)
        look_at_output<bytes>(&next->linear.weight, out + o, me % WARP, o * n_eights, n_eights, ahead);
}

/* Of a block's first chunk: a warp's hidden value, and what each two lanes' outputs take of the chunk. */
template <bool bytes>
static __device__ __forceinline__ void look_at_mlp(const struct step_phase *next, int me, struct ahead *ahead)
{
    const struct linear_rows_params *up = &next->linear;
    int chunk = (int)blockIdx.x, hidden = chunk * MLP_CHUNK + me / WARP, n = ahead->n / 2;
    prefetch_outputs(&up->weight, (int)gridDim.x * MLP_CHUNK);
    prefetch_outputs(&next->down, 0);
    if (hidden >= up->weight.n_out)
        return;
    ahead->bias = up->bias ? up->bias[hidden] : 0.0f;
    look_at_output<bytes>(&up->weight, hidden, me % WARP, 0, n, ahead);
    ROLLED
    for (int k = 0; k < n && k * DOWN_OUTS + me / 2 < next->down.n_out; k++)
        bring_weights<bytes>(weights_of(ahead, n + k), &next->down, k * DOWN_OUTS + me / 2,
                             chunk * 2 + me % 2);
}

/* Everything that the next phase needs and nobody writes. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void look_ahead(const struct step_params *p, const struct step_phase *next,
                                                  struct step_room *room, __half *keys, struct ahead *ahead)
{
    int n = p->embed.rows.n, me = afresh((int)threadIdx.x);
    if (next->kind != PHASE_CROSS && next->kind != PHASE_FINISH)
        look_at_norm(&next->linear, me, room);
    if (next->kind == PHASE_CROSS || next->kind == PHASE_CROSS_QUERIES)
        prefetch_window(&next->cross, room);
    if (next->kind == PHASE_LOGITS) {
        int r = me / WARP, pos = r < n ? room->rows[r].pos : -1;
        const struct token_masks masks = {p->select.masks, p->select.mask_words};
        if (me % WARP == 0 && pos >= 0)
            apply_rules(&masks, &p->slots[room->rows[r].slot], pos + 1, p->select.logits.cols,
                        &room->allowed[r]);
    }
    if (next->kind == PHASE_LINEAR)
        look_at_linear<bytes>(&next->linear, me, ahead);
    if (next->kind == PHASE_SELF || next->kind == PHASE_JOINED)
        look_at_heads<bytes>(p, &next->linear, near<n_rows>::rows, room, me, ahead);
    if (next->kind == PHASE_SELF)
        look_at_past<n_rows>(next, n, room, me, keys);
    if constexpr (n_rows <= FUSED_ROWS) {
        if (next->kind == PHASE_CROSS_QUERIES)
            look_at_window<bytes>(next, n, room, me, keys, ahead);
        if (next->kind == PHASE_MLP)
            look_at_mlp<bytes>(next, me, ahead);
    }
    cp_async_commit();
}

#endif
