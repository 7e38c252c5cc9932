/* A whole decoding step, and the next ones, in one kernel: a block on each multiprocessor, which all meet between two phases
 * (step.cuh), until no slot is active. Where a step of kernels spends its time on getting from one to the next, this one
 * loads what a phase needs and does not depend on the phase before (weights, norms, biases, the past and the window) before
 * it waits. It is launched cooperatively, for all blocks must be there at once, and outside of graphs. The sums are
 * those of the single kernels, from the same functions: so are the bits.
 *
 * A product that is added to the residual x does not wait for all of its inputs: who has made some of them multiplies them, and
 * adds what they contribute to sums in fixed point (fixed.cuh), in any order. Who reads x next adds these sums to it,
 * and a block each a part of the result goes to the other one of two x, for others still read the first. There are two sums,
 * used in turn and set to zero in the phase before the one that adds to them. Read (r), stored (s), added to (+), set to
 * zero (0) are, with up to FUSED_ROWS rows:
 *
 *                               x   other x   sums   other sums
 *     queries, keys, values     r   s         r      0
 *     self-attention, output                         +
 *     cross-attention           s   r         0      r
 *     joining, output                         +      0
 *     MLP                       r   s         r      +
 *     queries, keys, values     s   r         0      r             and so on
 *
 * With more rows the MLP is two phases, and the second one adds to x itself: to each value one warp, which nobody else reads. */
#include "gpu/cuda/select.cuh"
#include "gpu/cuda/step.cuh"

#define STEP_WARPS (STEP_THREADS / WARP)
#define TEAMS      (STEP_THREADS / ATTENTION_THREADS)
#define RING       3 /* phases that are known: this one, the next, and the one after, which is on its way */

/* What a block multiplies at once, eight weights a thread. */
#define HEAD_EIGHTS (HEAD / 8)
#define HEAD_OUTS   (STEP_THREADS / HEAD_EIGHTS) /* outputs with a head */
#define DOWN_OUTS   (STEP_THREADS / 2)           /* outputs with a chunk of the MLP */
#define QUERY_OUTS  (HEAD / STEP_WARPS)          /* of a head's query a warp */
#define MLP_CHUNKS  4                            /* that a block has at once */
#define AHEAD_MOST  8

/* Before Ampere the kernel does not fit its registers, and is not launched. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define STEP_IS_BUILT false
#else
#define STEP_IS_BUILT true
#endif

static_assert(STEP_THREADS == RULES_THREADS, "a block chooses for a row");
static_assert(STEP_WARPS == MLP_CHUNK, "a warp an input of a chunk");

/* What is known of a row throughout a step. */
struct step_row {
    int pos, slot, audio, n_frames;
};

/* A block's shared memory. */
struct step_room {
    struct step_phase ring[RING];
    struct step_row rows[ROWS_MAX];
    struct allowed allowed[ROWS_MAX];
    float weights[TEAMS * RUN_TOKENS_MAX];
    float queries[TEAMS * HEAD];
    alignas(16) float heads[TEAMS * HEAD];                         /* a row's head each, by place */
    alignas(16) float hidden[MLP_CHUNKS * FUSED_ROWS * MLP_CHUNK]; /* chunks of rows, by place */
    float gamma[STEP_STATE_MAX], beta[STEP_STATE_MAX];
    bool goes_on;
};

/* A thread's first weights of the next phase, which are on their way to shared memory: each thread waits for its own. */
struct ahead {
    packed_weights *weights; /* the first; STEP_THREADS further is the next */
    int n;
    float bias;
};

static __device__ __forceinline__ packed_weights *weights_of(const struct ahead *a, int k)
{
    return a->weights + k * STEP_THREADS;
}

/* Keys and values that are in shared memory when attention to them begins, in all teams: with many rows, the newest alone. */
template <int n_rows> struct near {
    static const int keys = n_rows <= FUSED_ROWS ? CROSS_PART : TEAMS;
    static const int rows = n_rows < TEAMS ? n_rows : TEAMS; /* that a block attends with at once */
    static const int keys_a_row = keys / rows;
    static const int bytes = keys * 2 * HEAD * (int)sizeof(__half);
};

static __device__ __forceinline__ int unit_of_warp(int warp)
{
    return warp * (int)gridDim.x + (int)blockIdx.x; /* neighbours are in different blocks */
}

static __device__ __forceinline__ int first_unit(void)
{
    return unit_of_warp((int)threadIdx.x / WARP);
}

static __device__ __forceinline__ int n_units(void)
{
    return STEP_WARPS * (int)gridDim.x;
}

/* --- what does not have to wait ---------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void load_phase(const struct step_params *p, int index,
                                                  struct step_phase *to)
{
    const unsigned *from = (const unsigned *)&p->phases[index % p->n_phases];
    for (int i = (int)threadIdx.x; i < (int)(sizeof(*to) / sizeof(unsigned)); i += STEP_THREADS)
        ((unsigned *)to)[i] = from[i];
}

/* The grid brings lines of memory into the second-level cache. */
static __device__ __forceinline__ void prefetch_lines(const void *from, int n)
{
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
    for (int i = me; i < 2 * n * HEAD_EIGHTS; i += n_threads) {
        int key = i / (2 * HEAD_EIGHTS), value = i / HEAD_EIGHTS % 2, eight = i % HEAD_EIGHTS;
        cp_async_16(to + i * 8, first + (size_t)value * to_values + key * HEAD + eight * 8, 16);
    }
}

static __device__ __forceinline__ void look_at_norm(const struct linear_rows_params *l, int me,
                                                    struct step_room *room)
{
    for (int i = me; l->gamma && i < l->weight.n_in; i += STEP_THREADS) {
        room->gamma[i] = l->gamma[i];
        room->beta[i] = l->beta[i];
    }
}

/* A warp: the first n eights of each lane of an output, from place k on. */
template <bool bytes>
static __device__ __forceinline__ void look_at_output(const struct engine_weight *w, int out, int lane, int k,
                                                      int n, const struct ahead *ahead)
{
    int i = lane;
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

/* A block's unit of the products with heads: some rows, a head, some outputs. */
struct head_unit {
    int first_row, head, share;
};

static __device__ __forceinline__ struct head_unit unit_of_heads(const struct linear_rows_params *l, int unit,
                                                                 int n_rows)
{
    int n_head = l->weight.n_in / HEAD, n_shares = (l->weight.n_out + HEAD_OUTS - 1) / HEAD_OUTS;
    return {unit / n_shares / n_head * n_rows, unit / n_shares % n_head, unit % n_shares};
}

static __device__ __forceinline__ int n_head_units(const struct linear_rows_params *l, int n, int n_rows)
{
    return (n + n_rows - 1) / n_rows * (l->weight.n_in / HEAD) *
           ((l->weight.n_out + HEAD_OUTS - 1) / HEAD_OUTS);
}

static __device__ __forceinline__ int head_out(struct head_unit u, int me)
{
    return u.share * HEAD_OUTS + me / HEAD_EIGHTS;
}

/* A thread's eight weights of a head, among all of the output's. */
static __device__ __forceinline__ int head_eight(struct head_unit u, int me)
{
    return u.head * HEAD_EIGHTS + me % HEAD_EIGHTS;
}

template <bool bytes>
static __device__ __forceinline__ void look_at_heads(const struct linear_rows_params *l, int n, int n_rows,
                                                     int me, const struct ahead *ahead)
{
    int unit = (int)blockIdx.x;
    struct head_unit u = unit_of_heads(l, unit, n_rows);
    prefetch_outputs(&l->weight, 0);
    if (unit < n_head_units(l, n, n_rows) && head_out(u, me) < l->weight.n_out && ahead->n > 0)
        bring_weights<bytes>(weights_of(ahead, 0), &l->weight, head_out(u, me), head_eight(u, me));
}

/* How many keys before a row's newest one are near, of the row's team in a block's first unit. */
template <int n_rows> static __device__ __forceinline__ int near_past(int pos)
{
    return pos < near<n_rows>::keys_a_row ? pos : near<n_rows>::keys_a_row - 1;
}

template <int n_rows>
static __device__ __forceinline__ void look_at_past(const struct step_phase *next, int n,
                                                    const struct step_room *room, int me, __half *keys)
{
    int unit = (int)blockIdx.x, team = me / ATTENTION_THREADS;
    struct head_unit u = unit_of_heads(&next->linear, unit, near<n_rows>::rows);
    int r = u.first_row + team;
    if (unit >= n_head_units(&next->linear, n, near<n_rows>::rows) || team >= near<n_rows>::rows || r >= n)
        return;
    int pos = room->rows[r].pos, n_past = near_past<n_rows>(pos);
    if (pos < 0 || pos >= next->self.n_ctx)
        return;
    const __half *first =
        kv_keys(next->self, next->cross.layer, room->rows[r].slot, u.head) + (size_t)(pos - n_past) * HEAD;
    bring_keys(first, (size_t)next->self.n_ctx * HEAD, n_past,
               keys + team * near<n_rows>::keys_a_row * 2 * HEAD, me % ATTENTION_THREADS, ATTENTION_THREADS);
}

/* A team's unit of cross-attention: a row, a head, a part of the window. */
struct window_unit {
    int row, head, part, n_keys;
};

static __device__ __forceinline__ struct window_unit
unit_of_window(const struct cross_params *c, const struct step_room *room, int n, int unit)
{
    int n_parts = (c->kv.n_ctx + CROSS_PART - 1) / CROSS_PART, n_head = c->kv.n_head;
    struct window_unit u = {0, unit / n_parts % n_head, unit % n_parts, 0};
    if (unit >= n * n_head * n_parts)
        return u;
    u.row = unit / n_parts / n_head;
    if (room->rows[u.row].pos >= 0)
        u.n_keys = keys_in_part(room->rows[u.row].n_frames, u.part);
    return u;
}

/* Of a block's first unit: its part of the window, and each warp's outputs of the query. */
template <bool bytes>
static __device__ __forceinline__ void look_at_window(const struct step_phase *next, int n,
                                                      const struct step_room *room, int me, __half *keys,
                                                      const struct ahead *ahead)
{
    const struct cross_params *c = &next->cross;
    struct window_unit u = unit_of_window(c, room, n, (int)blockIdx.x);
    int out = u.head * HEAD + me / WARP * QUERY_OUTS, n_eights = ahead->n / QUERY_OUTS;
    prefetch_outputs(&next->linear.weight, 0);
    if (u.n_keys == 0)
        return;
    struct keys from = cross_keys(c, room->rows[u.row].audio, u.head, u.part);
    bring_keys(from.first, from.to_values, u.n_keys, keys, me, STEP_THREADS);
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
    if (next->kind == PHASE_FINISH)
        return;
    if (next->kind != PHASE_CROSS)
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
        look_at_heads<bytes>(&next->linear, n, near<n_rows>::rows, me, ahead);
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

/* --- phases ------------------------------------------------------------------------------------------------------------ */

/* The grid: sums that the next phase adds to. */
static __device__ __forceinline__ void clear_sums(long long *sums, int n)
{
    for (int i = (int)(blockIdx.x * STEP_THREADS + threadIdx.x); sums && i < n;
         i += (int)gridDim.x * STEP_THREADS)
        sums[i] = 0;
}

/* A block: the residual of all rows to shared memory, as take_rows; a part of it also to where it is stored. */
static __device__ __forceinline__ void take_residual(const struct linear_rows_params *p,
                                                     const struct pending *pending, int n_rows,
                                                     unsigned active, float *to)
{
    int stride = p->weight.stride, n = p->weight.n_in;
    int n_mine = (n + (int)gridDim.x - 1) / (int)gridDim.x, first = (int)blockIdx.x * n_mine,
        me = afresh((int)threadIdx.x);
    for (int r = 0; r < n_rows; r++) {
        const float *in = (const float *)p->in.data + (size_t)r * (size_t)p->in.stride;
        for (int i = me; i < stride; i += STEP_THREADS) {
            float x = (active >> r & 1) && i < n ? in[i] : 0.0f;
            if (pending->sums && (active >> r & 1) && i < n) {
                float sum = from_fixed(pending->sums[r * n + i]);
                x += pending->bias ? sum + pending->bias[i] : sum;
                if (pending->to.data && i >= first && i < first + n_mine)
                    ((float *)pending->to.data)[(size_t)r * (size_t)pending->to.stride + (size_t)i] = x;
            }
            to[r * stride + place(i, stride)] = x;
        }
    }
    __syncthreads();
}

/* A warp: an output's sum. The first n eights of each lane are there. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ float sum_output(const struct engine_weight *w, int out, const float *x,
                                                   const struct ahead *ahead, int n)
{
    float sums[n_rows] = {}, eight[1][8];
    int lane = (int)threadIdx.x % WARP;
    for (int k = 0; k < n && k * WARP + lane < w->stride / 8; k++) {
        split_weights<bytes>(*weights_of(ahead, k), eight[0]);
        multiply_eight<n_rows, 1>(eight, x, w->stride, k * WARP + lane, sums);
    }
    multiply_from<n_rows, 1, bytes>(w, out, x, n * WARP, sums);
    return warp_sums<n_rows>(sums);
}

/* The same in fixed point. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ float sum_fixed(const struct engine_weight *w, int out, const float *x,
                                                  const struct ahead *ahead, int n)
{
    long long sums[(n_rows + 1) / 2] = {};
    for (int k = 0; k < n && k * WARP < w->stride / 8; k++)
        multiply_chunks<n_rows, 1, bytes>(weights_of(ahead, k), x, w->stride,
                                          k * WARP + (int)threadIdx.x % WARP, sums);
    multiply_fixed_from<n_rows, 1, bytes>(w, out, x, n * WARP, sums);
    return fixed_sums<n_rows>(sums);
}

/* An output a warp, then those for which there were no warps. With few rows nothing is added to a linear layer, but by the
 * other phases. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void linear_phase(const struct linear_rows_params *p, unsigned active,
                                                    const float *x, const struct ahead *ahead)
{
    const int lanes_a_row = WARP / n_rows;
    int lane = (int)threadIdx.x % WARP, row = lane / lanes_a_row;
    bool writes = lane % lanes_a_row == 0 && (active >> row & 1), fixed = n_rows > FUSED_ROWS && p->add.data;
    for (int out = first_unit(); out < p->weight.n_out; out += n_units()) {
        bool first = out == first_unit();
        int n = first ? ahead->n : 0;
        float add = writes ? added_to(p, row, out) : 0.0f,
              bias = first     ? ahead->bias
                     : p->bias ? p->bias[out]
                               : 0.0f,
              sum = fixed ? sum_fixed<n_rows, bytes>(&p->weight, out, x, ahead, n)
                          : sum_output<n_rows, bytes>(&p->weight, out, x, ahead, n);
        if (writes)
            finish(p, row, out, sum, bias, add);
    }
}

/* A block: what the heads that it has contribute to its share of a product's outputs. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void multiply_heads(const struct step_phase *phase, unsigned active,
                                                      struct head_unit u, packed_weights weights,
                                                      const float *heads)
{
    int eight = (int)threadIdx.x % HEAD_EIGHTS, n_out = phase->linear.weight.n_out,
        out = head_out(u, (int)threadIdx.x);
    float sums[n_rows] = {}, w[1][8];
    split_weights<bytes>(weights, w[0]);
    multiply_eight<n_rows, 1>(w, heads, HEAD, eight, sums);
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        long long sum = to_fixed(sums[r] + __shfl_xor_sync(LANES, sums[r], 1));
        for (int bit = 2; bit < HEAD_EIGHTS; bit *= 2)
            sum += __shfl_xor_sync(LANES, sum, bit);
        int row = u.first_row + r;
        if (eight == r && out < n_out && (active >> row & 1))
            add_shared_sum(&phase->adds[row * n_out + out], sum);
    }
}

/* A team: a row's new key and value beside what is near of its past, its query, then attention to all of them. The block with
 * the first outputs stores the key and the value, which nobody else reads in this phase. */
template <int n_rows>
static __device__ __forceinline__ float attend_to_past(const struct step_phase *phase, struct step_room *room,
                                                       __half *keys, struct head_unit u, int r, bool is_first,
                                                       int team, int me)
{
    const int keys_a_row = near<n_rows>::keys_a_row;
    struct engine_kv kv = phase->self;
    int pos = r >= 0 && room->rows[r].pos < kv.n_ctx ? room->rows[r].pos : -1,
        n_past = is_first && pos >= 0 ? near_past<n_rows>(pos) : 0;
    struct keys past = {};
    past.near = keys + team * keys_a_row * 2 * HEAD;
    past.near_from = pos - n_past;
    if (pos >= 0) {
        int slot = room->rows[r].slot, i = me / HEAD * kv.n_head * HEAD + u.head * HEAD + me % HEAD;
        const float *row = (const float *)phase->linear.in.data + (size_t)r * (size_t)phase->linear.in.stride;
        float query = row[u.head * HEAD + me % HEAD], value = row[kv.n_head * HEAD + i];
        if (u.share == 0)
            append_value(kv, phase->cross.layer, slot, pos, i, row);
        if (me < HEAD)
            room->queries[team * HEAD + me] = query;
        keys[(team * keys_a_row + n_past) * 2 * HEAD + me] = to_half(value); /* and the key before it */
        past.first = kv_keys(kv, phase->cross.layer, slot, u.head);
        past.to_values = (size_t)kv.n_ctx * HEAD;
    }
    __syncthreads(); /* its own key is there, and its past */
    struct attended a =
        attend<TEAMS>(room->queries + team * HEAD, past, pos + 1, room->weights + team * RUN_TOKENS_MAX);
    return pos >= 0 ? a.out / a.sum : 0.0f;
}

/* A block some rows, a team each, of a head and some outputs of the product with it. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void heads_phase(const struct step_phase *phase, struct step_room *room,
                                                   int n, unsigned active, __half *keys,
                                                   const struct ahead *ahead)
{
    const int rows = near<n_rows>::rows;
    const struct linear_rows_params *l = &phase->linear;
    int thread = afresh((int)threadIdx.x), team = thread / ATTENTION_THREADS, me = thread % ATTENTION_THREADS;
    for (int unit = (int)blockIdx.x; unit < n_head_units(l, n, rows); unit += (int)gridDim.x) {
        struct head_unit u = unit_of_heads(l, unit, rows);
        bool is_first = unit == (int)blockIdx.x;
        int out = head_out(u, thread);
        int r = team < rows && (active >> (u.first_row + team) & 1) ? u.first_row + team : -1;
        float x = 0.0f;
        if (phase->kind == PHASE_SELF) {
            x = attend_to_past<n_rows>(phase, room, keys, u, r, is_first, team, me);
        } else if (r >= 0 && me < HEAD) {
            struct attended a = join_parts(&phase->cross, r, u.head, room->rows[r].n_frames, me);
            x = a.out / a.sum;
        }
        if (me < HEAD)
            room->heads[team * HEAD + place(me, HEAD)] = x;
        __syncthreads(); /* all heads are there */
        multiply_heads<rows, bytes>(phase, active, u,
                                    is_first && ahead->n > 0 ? *weights_of(ahead, 0)
                                    : out < l->weight.n_out
                                        ? load_weights<bytes>(&l->weight, out, head_eight(u, thread))
                                        : packed_weights{},
                                    room->heads);
        __syncthreads(); /* nobody reads them any more */
    }
}

/* A block: a head's query of a row, which is in shared memory. The first n eights of each output's lanes are there. */
template <bool bytes>
static __device__ __forceinline__ void make_query(const struct linear_rows_params *p, int head,
                                                  const float *x, const struct ahead *ahead, int n,
                                                  float *query)
{
    int lane = (int)threadIdx.x % WARP, first = (int)threadIdx.x / WARP * QUERY_OUTS,
        out = head * HEAD + first, mine = lane / (WARP / QUERY_OUTS);
    float sums[QUERY_OUTS] = {}, w[QUERY_OUTS][8];
    for (int k = 0; k < n && k * WARP + lane < p->weight.stride / 8; k++) {
        for (int o = 0; o < QUERY_OUTS; o++)
            split_weights<bytes>(*weights_of(ahead, o * n + k), w[o]);
        multiply_eight<1, QUERY_OUTS>(w, x, p->weight.stride, k * WARP + lane, sums);
    }
    multiply_from<1, QUERY_OUTS, bytes>(&p->weight, out, x, n * WARP, sums);
    float sum = warp_sums<QUERY_OUTS>(sums);
    if (lane % (WARP / QUERY_OUTS) == 0)
        query[first + mine] = p->bias ? sum + p->bias[out + mine] : sum;
}

/* The queries of all teams' units. Ends with a barrier. */
template <bool bytes>
static __device__ __forceinline__ void make_queries(const struct step_phase *phase, struct step_room *room,
                                                    int n, int first, const float *x,
                                                    const struct ahead *ahead)
{
    for (int team = 0; team < TEAMS; team++) {
        int unit = first + team * (int)gridDim.x;
        struct window_unit u = unit_of_window(&phase->cross, room, n, unit);
        if (u.n_keys > 0)
            make_query<bytes>(&phase->linear, u.head, x + u.row * phase->linear.weight.stride, ahead,
                              unit == (int)blockIdx.x ? ahead->n / QUERY_OUTS : 0,
                              room->queries + team * HEAD);
    }
    __syncthreads();
}

/* A team a row, a head and a part of the window. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void cross_phase(const struct step_phase *phase, struct step_room *room,
                                                   int n, const float *x, const __half *keys,
                                                   const struct ahead *ahead)
{
    const struct cross_params *p = &phase->cross;
    int team = afresh((int)threadIdx.x) / ATTENTION_THREADS;
    int n_parts = (p->kv.n_ctx + CROSS_PART - 1) / CROSS_PART, units = n * p->kv.n_head * n_parts;
    for (int first = (int)blockIdx.x; first < units; first += TEAMS * (int)gridDim.x) {
        int unit = first + team * (int)gridDim.x;
        struct window_unit u = unit_of_window(p, room, n, unit);
        const float *q = (const float *)p->q.data + (size_t)u.row * (size_t)p->q.stride + u.head * HEAD;
        struct keys window = cross_keys(p, room->rows[u.row].audio, u.head, u.part);
        if constexpr (n_rows <= FUSED_ROWS) {
            make_queries<bytes>(phase, room, n, first, x, ahead);
            q = room->queries + team * HEAD;
            if (unit == (int)blockIdx.x)
                window = {NULL, 0, NULL, 0, 0, keys};
        }
        float *weights = room->weights + team * RUN_TOKENS_MAX;
        struct attended a = attend<TEAMS>(q, window, u.n_keys, weights);
        if (u.n_keys > 0)
            store_part(p, u.row, u.head, u.part, a, u.n_keys, weights);
        __syncthreads(); /* nobody reads the weights any more */
    }
}

/* A block: what its chunks from `first` on, up to n_chunks, contribute to the output of each two lanes. The weights of the
 * first one are there in place k, or not: −1. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void add_hidden(const struct step_phase *phase, unsigned active, int first,
                                                  int n_chunks, int out, const struct ahead *ahead, int k,
                                                  const float *hidden)
{
    long long sums[n_rows] = {};
    int half = (int)threadIdx.x % 2, n_out = phase->down.n_out;
    for (int c = 0; c < n_chunks; c++) {
        float halves[n_rows] = {}, w[1][8] = {};
        if (out < n_out)
            split_weights<bytes>(
                c == 0 && k >= 0
                    ? *weights_of(ahead, k)
                    : load_weights<bytes>(&phase->down, out, (first + c * (int)gridDim.x) * 2 + half),
                w[0]);
        multiply_eight<n_rows, 1>(w, hidden + c * n_rows * MLP_CHUNK, MLP_CHUNK, half, halves);
        UNROLL
        for (int r = 0; r < n_rows; r++)
            sums[r] += to_fixed(halves[r] + __shfl_xor_sync(LANES, halves[r], 1));
    }
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        if (half == r && out < n_out && (active >> r & 1))
            add_shared_sum(&phase->adds[r * n_out + out], sums[r]);
    }
}

/* A block some chunks of the hidden layer, a warp a value: these, then what they contribute to every output. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void mlp_phase(const struct step_phase *phase, struct step_room *room,
                                                 unsigned active, const float *x, const struct ahead *ahead)
{
    const struct linear_rows_params *up = &phase->linear;
    const int lanes_a_row = WARP / n_rows;
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, n = ahead->n / 2;
    int n_chunks = up->weight.n_out / MLP_CHUNK, stride = (int)gridDim.x, n_here;
    for (int first = (int)blockIdx.x; first < n_chunks; first += n_here * stride) {
        bool is_first = first == (int)blockIdx.x;
        for (n_here = 0; n_here < MLP_CHUNKS && first + n_here * stride < n_chunks; n_here++) {
            int out = (first + n_here * stride) * MLP_CHUNK + warp;
            bool there = is_first && n_here == 0;
            float bias = there      ? ahead->bias
                         : up->bias ? up->bias[out]
                                    : 0.0f,
                  sum = sum_output<n_rows, bytes>(&up->weight, out, x, ahead, there ? n : 0);
            sum = up->bias ? sum + bias : sum;
            if (lane % lanes_a_row == 0)
                room->hidden[(n_here * n_rows + lane / lanes_a_row) * MLP_CHUNK + place(warp, MLP_CHUNK)] =
                    up->gelu ? gelu(sum) : sum;
        }
        __syncthreads(); /* the chunks are there */
        for (int k = 0; k * DOWN_OUTS < phase->down.n_out; k++)
            add_hidden<n_rows, bytes>(phase, active, first, n_here, k * DOWN_OUTS + (int)threadIdx.x / 2,
                                      ahead, is_first && k < n ? n + k : -1, room->hidden);
        __syncthreads(); /* nobody reads them any more */
    }
}

/* A block a row and a head that is recorded. */
static __device__ __forceinline__ void alignment(const struct cross_params *p, const struct step_room *room,
                                                 int n)
{
    for (int unit = (int)blockIdx.x; p->align && unit < n * p->kv.n_head; unit += (int)gridDim.x) {
        int r = unit / p->kv.n_head, head = unit % p->kv.n_head, n_frames = room->rows[r].n_frames;
        if (room->rows[r].pos >= 0 && (p->align_heads >> head & 1))
            join_alignment(p, r, head, n_frames, join_parts(p, r, head, n_frames, 0));
    }
}

/* A warp a part of the vocabulary: its logits, and what select makes of them. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void
logits_phase(const struct step_params *p, const struct linear_rows_params *l, const struct step_room *room,
             unsigned active, const float *x)
{
    const int n_outs = SUMS_A_WARP / n_rows, lanes_a_sum = WARP / SUMS_A_WARP;
    int lane = afresh((int)threadIdx.x) % WARP, n_out = l->weight.n_out;
    int n_parts = (n_out + PART_IDS - 1) / PART_IDS;
    for (int part = first_unit(); part < n_parts; part += n_units()) {
        float mine[n_rows] = {};
        for (int i = 0; i < PART_IDS && part * PART_IDS + i < n_out; i += n_outs) {
            float sums[n_rows * n_outs];
            int group = (part * PART_IDS + i) / n_outs, out = first_of_group(&l->weight, group, n_outs);
            multiply<n_rows, n_outs, bytes>(&l->weight, out, x, sums);
            float sum = warp_sums<n_rows * n_outs>(sums);
            finish_group<n_rows, n_outs>(l, 0, active, group, out, sum);
            int o = part * PART_IDS + lane - out; /* this lane's output in the group, if it is one */
            UNROLL
            for (int r = 0; r < n_rows; r++) {
                float x_r = __shfl_sync(LANES, sum, (o * n_rows + r) * lanes_a_sum & (WARP - 1));
                mine[r] = o >= 0 && o < n_outs ? x_r : mine[r];
            }
        }
        for (int r = 0; r < n_rows; r++) {
            float logit = mine[0];
            UNROLL
            for (int i = 1; i < n_rows; i++)
                logit = i == r ? mine[i] : logit; /* registers have no index */
            if (!(active >> r & 1))
                continue;
            struct select_part w = weigh_part(&room->allowed[r], part * PART_IDS, logit);
            if (lane == 0)
                p->parts[(size_t)r * (size_t)n_parts + (size_t)part] = w;
        }
    }
}

/* A block a row: the token that its slot goes on with. */
static __device__ __forceinline__ void begin_row(const struct step_params *p, int r)
{
    if (threadIdx.x == 0)
        row_from_slot(&p->embed.rows, r, p->slots);
    __syncthreads();
    embed_row(&p->embed.rows, r, &p->tokens, p->embed.positions, p->embed.out);
}

/* A block a row: chooses, advances the slot and begins the next step. */
static __device__ __forceinline__ void finish_row(const struct step_params *p, struct step_room *room, int r)
{
    const struct select_args *a = &p->select;
    int pos = room->rows[r].pos;
    struct slot_state *s = &a->slots[room->rows[r].slot];
    const float *logits = (const float *)a->logits.data + (size_t)r * (size_t)a->logits.stride;
    size_t n_parts = (size_t)(a->logits.cols + PART_IDS - 1) / PART_IDS;
    if (pos < 0 || s->n_beams > 1)
        return;
    probe_row(s, pos, logits, a->logits.cols);
    struct choice c =
        choose(&s->rules, pos + 1, &room->allowed[r], p->parts + (size_t)r * n_parts, logits, a->logits.cols);
    __syncthreads(); /* nobody reads the slot any more */
    if (threadIdx.x == 0) {
        a->chosen[r] = c.id;
        a->logprob[r] = c.logprob;
        advance_slot(s, &c.id, &c.logprob, 1);
        if (s->done != SLOT_ACTIVE)
            atomicAdd(p->advance.n_active, -1);
    }
    begin_row(p, r);
}

/* --- the kernel -------------------------------------------------------------------------------------------------------- */

template <int n_rows, bool bytes>
static __device__ __forceinline__ void run_phase(const struct step_params *p, const struct step_phase *phase,
                                                 struct step_room *room, unsigned active, float *x,
                                                 __half *keys, const struct ahead *ahead)
{
    const struct linear_rows_params *l = &phase->linear;
    int n = p->embed.rows.n;
    if (phase->kind == PHASE_FINISH) {
        for (int r = (int)blockIdx.x; r < n; r += (int)gridDim.x)
            finish_row(p, room, r);
        return;
    }
    cp_async_wait<0>();
    clear_sums(phase->clears, p->n_sums);
    if (phase->kind == PHASE_SELF || phase->kind == PHASE_JOINED) {
        heads_phase<n_rows, bytes>(phase, room, n, active, keys, ahead);
        if (phase->kind == PHASE_JOINED)
            alignment(&phase->cross, room, n);
        return;
    }
    if (phase->kind != PHASE_CROSS) {
        take_residual(l, &phase->pending, n_rows, active, x);
        if (l->gamma)
            norm_rows(n_rows, active, room->gamma, room->beta, l->weight.n_in, l->weight.stride, x);
    }
    if (phase->kind == PHASE_CROSS || phase->kind == PHASE_CROSS_QUERIES)
        cross_phase<n_rows, bytes>(phase, room, n, x, keys, ahead);
    else if (phase->kind == PHASE_LOGITS)
        logits_phase<n_rows, bytes>(p, l, room, active, x);
    else if (phase->kind == PHASE_LINEAR)
        linear_phase<n_rows, bytes>(l, active, x, ahead);
    else if constexpr (n_rows <= FUSED_ROWS)
        mlp_phase<n_rows, bytes>(phase, room, active, x, ahead);
}

/* A step begins: what is known of its rows, and whether there is one. Ends with a barrier. */
static __device__ __forceinline__ unsigned begin_step(const struct step_params *p, struct step_room *room)
{
    int r = (int)threadIdx.x;
    unsigned active = 0;
    if (r < p->embed.rows.n) {
        int slot = p->embed.rows.slot[r];
        room->rows[r] = {p->embed.rows.pos[r], slot, p->slots[slot].audio, p->slots[slot].n_frames};
    }
    if (r == 0)
        room->goes_on = *p->n_active > 0;
    __syncthreads();
    for (int i = 0; i < p->embed.rows.n; i++)
        active |= (unsigned)(room->rows[i].pos >= 0) << i;
    return active;
}

/* grid: as many blocks as there are multiprocessors. Shared: keys and values on their way, [n_rows, the longest row] f32,
 * weights on their way. */
template <int n_rows, bool bytes>
static __global__ void __launch_bounds__(STEP_THREADS, 1) step_kernel(struct step_params p)
{
    SHARED(struct step_room, room, 1);
    DYNAMIC_SHARED(__half, keys);
    float *x = (float *)(keys + near<n_rows>::bytes / sizeof(__half));
    struct ahead ahead = {(packed_weights *)(x + n_rows * p.stride) + threadIdx.x, p.n_ahead, 0.0f};
    unsigned met = 0;
    load_phase(&p, 0, &room->ring[0]);
    load_phase(&p, 1, &room->ring[1]);
    for (int r = (int)blockIdx.x; r < p.embed.rows.n; r += (int)gridDim.x)
        begin_row(&p, r);
    __syncthreads();
    look_ahead<n_rows, bytes>(&p, &room->ring[0], room, keys, &ahead);
    grid_barrier(p.arrived, &met);
    for (int step = 0; step < (STEP_IS_BUILT ? p.max_steps : 0); step++) {
        unsigned active = begin_step(&p, room);
        if (!room->goes_on)
            break;
        for (int i = 0; i < p.n_phases; i++) {
            int at = (int)met - 1; /* of all steps' phases */
            const struct step_phase *phase = &room->ring[at % RING];
            load_phase(&p, at + 2, &room->ring[(at + 2) % RING]);
            prefetch_lines(phase->soon, phase->soon_lines);
            run_phase<n_rows, bytes>(&p, phase, room, active, x, keys, &ahead);
            look_ahead<n_rows, bytes>(&p, &room->ring[(at + 1) % RING], room, keys, &ahead);
            grid_barrier(p.arrived, &met);
        }
    }
    cp_async_wait<0>();
}

/* --- launching --------------------------------------------------------------------------------------------------------- */

typedef void step_function(struct step_params);

template <bool bytes> static step_function *kernel_of_form(int n)
{
    return n <= 1   ? step_kernel<1, bytes>
           : n <= 2 ? step_kernel<2, bytes>
           : n <= 4 ? step_kernel<4, bytes>
                    : step_kernel<8, bytes>;
}

/* All weights of an engine have one form. */
static step_function *kernel_for(const struct step_program *p)
{
    return p->params.tokens.bytes ? kernel_of_form<true>(p->n_rows) : kernel_of_form<false>(p->n_rows);
}

template <int n_rows> static size_t shared_for(int stride)
{
    return (size_t)near<n_rows>::bytes + (size_t)n_rows * (size_t)stride * sizeof(float);
}

bool step_fits(struct cuda_engine *c, struct step_program *p, int stride)
{
    const void *kernel = (const void *)kernel_for(p);
    const size_t fixed = sizeof(struct step_room) + STEP_SHARED_REST,
                 most = c->shared_most > fixed ? c->shared_most - fixed : 0,
                 an_eight = STEP_THREADS * sizeof(packed_weights);
    int n = p->n_rows, blocks = 0;
    p->shared = n <= 1   ? shared_for<1>(stride)
                : n <= 2 ? shared_for<2>(stride)
                : n <= 4 ? shared_for<4>(stride)
                         : shared_for<8>(stride);
    if (p->shared > most)
        return false;
    size_t n_ahead = (most - p->shared) / an_eight;
    p->params.stride = stride;
    p->params.n_ahead = n_ahead < AHEAD_MOST ? (int)n_ahead : AHEAD_MOST;
    p->shared += (size_t)p->params.n_ahead * an_eight;
    bool fits =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most) == cudaSuccess &&
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, STEP_THREADS, p->shared) ==
            cudaSuccess &&
        blocks > 0;
    if (!fits)
        cudaGetLastError(); /* the graph does as well */
    return fits;
}

bool cuda_step_launch(struct cuda_engine *c, const struct step_program *program, const int32_t *n_active,
                      int max_steps)
{
    struct step_params p = program->params;
    p.n_active = n_active;
    p.max_steps = max_steps;
    cudaError_t e = cudaMemsetAsync(p.arrived, 0, sizeof(*p.arrived), c->stream);
    e = e ? e
          : launch_cooperative(kernel_for(program), c->n_multiprocessors, STEP_THREADS, program->shared,
                               c->stream, p);
    if (e != cudaErrorCooperativeLaunchTooLarge && e != cudaErrorNotSupported) {
        cuda_check(c, e, "a step");
        return true;
    }
    cudaGetLastError(); /* somebody else has a part of the GPU: from now on the graphs */
    c->cooperative = false;
    return false;
}
