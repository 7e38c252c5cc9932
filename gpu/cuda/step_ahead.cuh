/* What a block of the step kernel fetches for its next phase while it waits for the others: all that nobody writes meanwhile.
 * The first warp meets the others, hence AHEAD_THREADS threads that call themselves 0 … here; whoever brings something, all
 * may read it behind the next phase's first barrier. Inside step.cu. */
#ifndef CAPTIOND_GPU_CUDA_STEP_AHEAD_CUH
#define CAPTIOND_GPU_CUDA_STEP_AHEAD_CUH

#include "gpu/cuda/step_room.cuh"

/* It is there when the next phase has begun, and may be read behind the meeting that ends that one. */
static __device__ __forceinline__ void load_phase(const struct step_params *p, int index, int me,
                                                  int n_threads, struct step_phase *to)
{
    static_assert(sizeof(*to) % 8 == 0, "copied by eights of bytes");
    const char *from = (const char *)&p->phases[index < p->n_phases ? index : index - p->n_phases];
    ROLLED
    for (int i = me * 8; i < (int)sizeof(*to); i += n_threads * 8)
        cp_async_few<8>((char *)to + i, from + i);
}

/* The grid brings lines of memory into the second-level cache. */
static __device__ __forceinline__ void prefetch_lines(const void *from, int n, int me)
{
    ROLLED
    for (int i = (int)blockIdx.x * AHEAD_THREADS + me; i < n; i += (int)gridDim.x * AHEAD_THREADS)
        prefetch((const char *)from + (size_t)i * LINE);
}

static __device__ __forceinline__ void prefetch_outputs(const struct engine_weight *w, int first, int me)
{
    int n = w->n_out - first;
    if (n > 0)
        prefetch_lines(weight_row(w, first), (int)((size_t)n * weight_row_bytes(w) / LINE), me);
}

static __device__ __forceinline__ void prefetch_window(const struct cross_params *c,
                                                       const struct step_room *room, int me)
{
    ROLLED
    for (int r = 0; r < c->rows.n; r++) {
        if (room->rows[r].pos >= 0)
            prefetch_lines(kv_keys(c->kv, c->layer, room->rows[r].audio, 0),
                           c->kv.n_head * 2 * c->kv.n_ctx * HEAD * (int)sizeof(__half) / LINE, me);
    }
}

/* n keys and their values, which are `to_values` behind, to shared memory. */
static __device__ __forceinline__ void bring_keys(const __half *first, size_t to_values, int n, __half *to,
                                                  int me)
{
    ROLLED
    for (int i = me; i < 2 * n * HEAD_EIGHTS; i += AHEAD_THREADS) {
        int key = i / (2 * HEAD_EIGHTS), value = i / HEAD_EIGHTS % 2, eight = i % HEAD_EIGHTS;
        cp_async_16(to + i * 8, first + (size_t)value * to_values + key * HEAD + eight * 8, 16);
    }
}

static __device__ __forceinline__ void look_at_norm(const struct linear_rows_params *l, int me,
                                                    struct step_room *room)
{
    ROLLED
    for (int i = me; l->gamma && i < l->weight.n_in; i += AHEAD_THREADS) {
        cp_async_few<4>(&room->gamma[i], &l->gamma[i]);
        cp_async_few<4>(&room->beta[i], &l->beta[i]);
    }
}

/* Places of a thread that a row of weights takes, eight of them each, or as many as there are. */
static __device__ __forceinline__ int places_of(const struct engine_weight *w, int most)
{
    int n = (w->stride / 8 + WARP - 1) / WARP;
    return n < most ? n : most;
}

static __device__ __forceinline__ bool is_whole(const struct engine_weight *w, int n_places)
{
    return n_places * WARP * 8 >= w->stride;
}

template <bool bytes>
static __device__ __forceinline__ void look_at_linear(const struct linear_rows_params *l, int me,
                                                      const struct ahead *ahead)
{
    const struct engine_weight *w = &l->weight;
    int n = places_of(w, ahead->n);
    prefetch_outputs(w, is_whole(w, n) ? n_units() : 0, me);
    ROLLED
    for (int i = me; i < n * STEP_THREADS; i += AHEAD_THREADS) {
        int out = unit_of_warp(i % STEP_THREADS / WARP), eight = i / STEP_THREADS * WARP + i % WARP;
        if (out < w->n_out && eight < w->stride / 8)
            bring_weights<bytes>(ahead->weights + i, w, out, eight);
    }
}

template <bool bytes>
static __device__ __forceinline__ void
look_at_heads(const struct step_params *p, const struct engine_weight *w, int n_rows,
              const struct step_room *room, int me, const struct ahead *ahead)
{
    const struct head_unit u = room->first_heads;
    int n_units = n_head_units(p, n_rows);
    if (n_units > (int)gridDim.x || ahead->n == 0)
        prefetch_outputs(w, 0, me);
    if ((int)blockIdx.x >= n_units || ahead->n == 0)
        return;
    ROLLED
    for (int i = me; i < STEP_THREADS; i += AHEAD_THREADS) {
        if (head_out(u, i) < w->n_out)
            bring_weights<bytes>(ahead->weights + i, w, head_out(u, i), head_eight(u, i));
    }
}

template <int n_rows>
static __device__ __forceinline__ void look_at_past(const struct step_phase *next, int n,
                                                    const struct step_room *room, int me, __half *keys)
{
    const struct head_unit u = room->first_heads;
    ROLLED
    for (int team = 0; team < near<n_rows>::rows && u.first_row + team < n; team++) {
        const struct step_row *r = &room->rows[u.first_row + team];
        int n_past = near_past<n_rows>(r->pos);
        if (r->pos < 0 || r->pos >= next->self.n_ctx)
            continue;
        const __half *first =
            kv_keys(next->self, next->cross.layer, r->slot, u.head) + (r->pos - n_past) * HEAD;
        bring_keys(first, (size_t)next->self.n_ctx * HEAD, n_past,
                   keys + team * near<n_rows>::keys_a_row * 2 * HEAD, me);
    }
}

/* Of a block's first unit: its part of the window, and each warp's outputs of the query. */
template <bool bytes>
static __device__ __forceinline__ void
look_at_window(const struct step_params *p, const struct step_phase *next, const struct step_room *room,
               int me, __half *keys, const struct ahead *ahead)
{
    const struct cross_params *c = &next->cross;
    const struct engine_weight *w = &next->linear.weight;
    const struct window_unit u = room->first_window;
    int n = places_of(w, ahead->n / QUERY_OUTS), n_keys = u.row < p->embed.rows.n ? keys_of_unit(room, u) : 0;
    bool has_all = n_window_units(p) <= (int)gridDim.x;
    if (!has_all)
        prefetch_window(c, room, me);
    if (!has_all || !is_whole(w, n))
        prefetch_outputs(w, 0, me);
    if (n_keys == 0)
        return;
    const struct keys from = cross_keys(c, room->rows[u.row].audio, u.head, u.part);
    bring_keys(from.first, from.to_values, n_keys, keys, me);
    ROLLED
    for (int i = me; i < n * QUERY_OUTS * STEP_THREADS; i += AHEAD_THREADS) {
        int out = u.head * HEAD + i % STEP_THREADS / WARP * QUERY_OUTS + i / STEP_THREADS % QUERY_OUTS,
            eight = i / (QUERY_OUTS * STEP_THREADS) * WARP + i % WARP;
        if (eight < w->stride / 8)
            bring_weights<bytes>(ahead->weights + i, w, out, eight);
    }
}

/* Of a block's first chunk: a warp's hidden value, and what each two lanes' outputs take of the chunk. */
template <bool bytes>
static __device__ __forceinline__ void look_at_mlp(const struct step_phase *next, int me,
                                                   const struct ahead *ahead)
{
    const struct engine_weight *up = &next->linear.weight, *down = &next->down;
    int chunk = (int)blockIdx.x, most = ahead->n / 2, n = places_of(up, most),
        n_down = (down->n_out + DOWN_OUTS - 1) / DOWN_OUTS;
    prefetch_outputs(up, is_whole(up, n) ? (int)gridDim.x * MLP_CHUNK : 0, me);
    if (up->n_out > (int)gridDim.x * MLP_CHUNK || n_down > most)
        prefetch_outputs(down, 0, me);
    if (chunk * MLP_CHUNK >= up->n_out)
        return;
    ROLLED
    for (int i = me; i < n * STEP_THREADS; i += AHEAD_THREADS) {
        int eight = i / STEP_THREADS * WARP + i % WARP;
        if (eight < up->stride / 8)
            bring_weights<bytes>(ahead->weights + i, up, chunk * MLP_CHUNK + i % STEP_THREADS / WARP, eight);
    }
    ROLLED
    for (int i = me; i < (n_down < most ? n_down : most) * STEP_THREADS; i += AHEAD_THREADS) {
        if (i / 2 < down->n_out)
            bring_weights<bytes>(ahead->weights + most * STEP_THREADS + i, down, i / 2, chunk * 2 + i % 2);
    }
}

/* The bias of a warp's first output. */
static __device__ __forceinline__ float bias_ahead(const struct step_phase *next)
{
    const struct linear_rows_params *l = &next->linear;
    int out = next->kind == PHASE_MLP ? (int)(blockIdx.x * MLP_CHUNK + threadIdx.x / WARP) : first_unit();
    return l->bias && out < l->weight.n_out ? l->bias[out] : 0.0f;
}

/* Everything that the next phase needs and nobody writes. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void look_ahead(const struct step_params *p, const struct step_phase *next,
                                                  struct step_room *room, __half *keys, struct ahead *ahead)
{
    int n = p->embed.rows.n, me = afresh((int)threadIdx.x) - WARP;
    if (next->kind == PHASE_LINEAR || next->kind == PHASE_MLP)
        ahead->bias = bias_ahead(next);
    if (me < 0)
        return;
    if (next->kind == PHASE_LINEAR)
        look_at_linear<bytes>(&next->linear, me, ahead);
    if (next->kind == PHASE_SELF || next->kind == PHASE_JOINED)
        look_at_heads<bytes>(p, &next->linear.weight, near<n_rows>::rows, room, me, ahead);
    if (next->kind == PHASE_SELF)
        look_at_past<n_rows>(next, n, room, me, keys);
    if (next->kind == PHASE_CROSS)
        prefetch_window(&next->cross, room, me);
    if constexpr (n_rows <= FUSED_ROWS) {
        if (next->kind == PHASE_CROSS_QUERIES)
            look_at_window<bytes>(p, next, room, me, keys, ahead);
        if (next->kind == PHASE_MLP)
            look_at_mlp<bytes>(next, me, ahead);
    }
    if (next->kind == PHASE_LOGITS) {
        int r = me / WARP, pos = r < n ? room->rows[r].pos : -1;
        const struct token_masks masks = {p->select.masks, p->select.mask_words};
        if (me % WARP == 0 && pos >= 0)
            apply_rules(&masks, &p->slots[room->rows[r].slot], pos + 1, p->select.logits.cols,
                        &room->allowed[r]);
    }
    look_at_norm(&next->linear, me, room);
    prefetch_lines(next->soon, next->soon_lines, me);
    cp_async_commit();
}

#endif
