/* The phases of the step kernel, each what a block does of it. Inside step.cu. */
#ifndef CAPTIOND_GPU_CUDA_STEP_PHASES_CUH
#define CAPTIOND_GPU_CUDA_STEP_PHASES_CUH

#include "gpu/cuda/step_room.cuh"

/* The grid: sums that the next phase adds to. */
static __device__ __forceinline__ void clear_sums(long long *sums, int n)
{
    ROLLED
    for (int i = (int)(blockIdx.x * STEP_THREADS + threadIdx.x); sums && i < n;
         i += (int)gridDim.x * STEP_THREADS)
        sums[i] = 0;
}

/* A block: the residual of all rows to shared memory, as take_rows; a part of it also to where it is stored. What a thread
 * reads is under way together. */
template <int n_rows>
static __device__ __forceinline__ void
take_residual(const struct linear_rows_params *p, const struct pending *pending, unsigned active, float *to)
{
    int stride = p->weight.stride, n = p->weight.n_in;
    int n_mine = (n + (int)gridDim.x - 1) / (int)gridDim.x, first = (int)blockIdx.x * n_mine,
        me = afresh((int)threadIdx.x);
    ROLLED
    for (int i = me; i < stride; i += STEP_THREADS) {
        float x[n_rows], bias = pending->bias && i < n ? pending->bias[i] : 0.0f;
        long long sums[n_rows];
        UNROLL
        for (int r = 0; r < n_rows; r++) {
            bool there = (active >> r & 1) && i < n;
            x[r] = there ? ((const float *)p->in.data)[(size_t)r * (size_t)p->in.stride + (size_t)i] : 0.0f;
            sums[r] = there && pending->sums ? pending->sums[r * n + i] : 0;
        }
        UNROLL
        for (int r = 0; r < n_rows; r++) {
            if (pending->sums && (active >> r & 1) && i < n) {
                float sum = from_fixed(sums[r]);
                x[r] += pending->bias ? sum + bias : sum;
                if (pending->to.data && i >= first && i < first + n_mine)
                    ((float *)pending->to.data)[(size_t)r * (size_t)pending->to.stride + (size_t)i] = x[r];
            }
            to[r * stride + place(i, stride)] = x[r];
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
    ROLLED
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
    ROLLED
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
    ROLLED
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
    struct attended a = attend<TEAMS, STRETCH>(room->queries + team * HEAD, past, pos + 1, NULL);
    return pos >= 0 ? a.out / a.sum : 0.0f;
}

/* A block some rows, a team each, of a head and some outputs of the product with it. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void heads_phase(const struct step_params *p,
                                                   const struct step_phase *phase, struct step_room *room,
                                                   unsigned active, __half *keys, const struct ahead *ahead)
{
    const int rows = near<n_rows>::rows;
    const struct linear_rows_params *l = &phase->linear;
    int thread = afresh((int)threadIdx.x), team = thread / ATTENTION_THREADS, me = thread % ATTENTION_THREADS;
    ROLLED
    for (int unit = (int)blockIdx.x; unit < n_head_units(p, rows); unit += (int)gridDim.x) {
        bool is_first = unit == (int)blockIdx.x;
        const struct head_unit u =
            is_first ? room->first_heads : unit_of_heads(p->n_head, p->n_state, unit, rows);
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
    ROLLED
    for (int k = 0; k < n && k * WARP + lane < p->weight.stride / 8; k++) {
        for (int o = 0; o < QUERY_OUTS; o++)
            split_weights<bytes>(*weights_of(ahead, k * QUERY_OUTS + o), w[o]);
        multiply_eight<1, QUERY_OUTS>(w, x, p->weight.stride, k * WARP + lane, sums);
    }
    multiply_from<1, QUERY_OUTS, bytes>(&p->weight, out, x, n * WARP, sums);
    float sum = warp_sums<QUERY_OUTS>(sums);
    if (lane % (WARP / QUERY_OUTS) == 0)
        query[first + mine] = p->bias ? sum + p->bias[out + mine] : sum;
}

/* The queries of all teams' units. Ends with a barrier. */
template <bool bytes>
static __device__ __forceinline__ void
make_queries(const struct step_params *p, const struct step_phase *phase, struct step_room *room, int n_units,
             int first, const float *x, const struct ahead *ahead)
{
    ROLLED
    for (int team = 0; team < TEAMS && first + team * (int)gridDim.x < n_units; team++) {
        int unit = first + team * (int)gridDim.x;
        bool is_first = unit == (int)blockIdx.x;
        const struct window_unit u =
            is_first ? room->first_window : unit_of_window(p->n_head, p->n_window, unit);
        if (keys_of_unit(room, u) > 0)
            make_query<bytes>(&phase->linear, u.head, x + u.row * phase->linear.weight.stride, ahead,
                              is_first ? ahead->n / QUERY_OUTS : 0, room->queries + team * HEAD);
    }
    __syncthreads();
}

/* A team a row, a head and a part of the window. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void
cross_phase(const struct step_params *p, const struct step_phase *phase, struct step_room *room,
            const float *x, const __half *keys, const struct ahead *ahead)
{
    const struct cross_params *c = &phase->cross;
    int team = afresh((int)threadIdx.x) / ATTENTION_THREADS;
    int units = n_window_units(p);
    ROLLED
    for (int first = (int)blockIdx.x; first < units; first += TEAMS * (int)gridDim.x) {
        int unit = first + team * (int)gridDim.x;
        bool is_first = unit == (int)blockIdx.x;
        const struct window_unit u = is_first       ? room->first_window
                                     : unit < units ? unit_of_window(p->n_head, p->n_window, unit)
                                                    : window_unit{};
        int n_keys = unit < units ? keys_of_unit(room, u) : 0;
        const float *q = (const float *)c->q.data + (size_t)u.row * (size_t)c->q.stride + u.head * HEAD;
        struct keys window = cross_keys(c, room->rows[u.row].audio, u.head, u.part);
        if constexpr (n_rows <= FUSED_ROWS) {
            make_queries<bytes>(p, phase, room, units, first, x, ahead);
            q = room->queries + team * HEAD;
            if (is_first)
                window = {NULL, 0, NULL, 0, 0, keys};
        }
        float *scores = room->scores + team * CROSS_PART;
        struct attended a = attend<TEAMS, STRETCH>(q, window, n_keys, scores);
        if (n_keys > 0)
            store_part(c, u.row, u.head, u.part, a, n_keys, scores);
        __syncthreads(); /* nobody reads queries, scores and sums any more */
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
    ROLLED
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
    ROLLED
    for (int first = (int)blockIdx.x; first < n_chunks; first += n_here * stride) {
        bool is_first = first == (int)blockIdx.x;
        ROLLED
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
        ROLLED
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
    ROLLED
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
    /* Two at least, which share what is read of the rows. */
    const int n_outs = n_rows < 8 ? SUMS_A_WARP / n_rows : 2, lanes_a_sum = WARP / (n_rows * n_outs);
    int lane = afresh((int)threadIdx.x) % WARP, n_out = l->weight.n_out;
    int n_parts = (n_out + PART_IDS - 1) / PART_IDS;
    ROLLED
    for (int part = first_unit(); part < n_parts; part += n_units()) {
        float mine[n_rows] = {};
        ROLLED
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
        ROLLED
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
    if (threadIdx.x == 0) { /* what is written here, nobody else has read */
        a->chosen[r] = c.id;
        a->logprob[r] = c.logprob;
        advance_slot(s, &c.id, &c.logprob, 1);
        if (s->done != SLOT_ACTIVE)
            atomicAdd(p->advance.n_active, -1);
    }
    begin_row(p, r);
}

#endif
