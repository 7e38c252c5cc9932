/* A whole decoding step of one row, and the next ones, in one kernel, as step.cu, where each head can have a cluster of blocks: from
 * Hopper on, and with weights in half floats. What the blocks of a head have to tell one another goes through their shared memory,
 * which takes a tenth of a meeting of the grid, so three phases a layer are left of five:
 *
 *     query, key and value of a head, self-attention, its product with the output
 *     query of a head, cross-attention, its product with the output
 *     MLP
 *
 * Clusters are numbered as the heads are; those without one only keep the residual until the MLP. The first warp meets the other
 * blocks, the second one asks for what the next phase needs, a few large copies (Hopper's bulk copies). A block's time is
 * that of the instructions of its 16 warps: the row's N values are known to the compiler, and who has nothing to do does
 * nothing. The bits are those of the other kernels. */
#include "gpu/cuda/step_ahead.cuh"
#include "gpu/cuda/step_phases.cuh"

#define HEAD_KEYS (2 * CROSS_PART) /* that a block has near */
#define AT_ONCE   2                /* outputs that a warp makes of the row, at most */

static_assert(sizeof(struct step_phase) % 16 == 0, "copied at once");
static_assert(CROSS_PARTS * CROSS_PART <= CLUSTER_LEAST * HEAD_KEYS, "a team a part of the window, all near");
static_assert(3 * HEAD / CLUSTER_LEAST <= AT_ONCE * STEP_WARPS,
              "all that a block makes of the row is made at once");

/* A block's share of the head that its cluster has: its rank, how many outputs it makes of the row for self-attention and for
 * cross-attention, and how many it has of the product with the head. */
struct head_share {
    int head, rank, n_self, n_cross, n_outs;
    bool exists;
};

struct heads_room {
    float made[3 * HEAD];                      /* the head's query, key and value */
    float parts[CROSS_PARTS * PARTIAL_FLOATS]; /* what each part of the window offers the head */
    struct head_share mine;
    uint64_t copied;
};

/* What lies in dynamic shared memory. */
struct near_memory {
    __half *keys; /* [HEAD_KEYS][HEAD], and as many values behind them */
    float *x;     /* the row, as place says */
    __half *rows; /* weights of the first product: a row of them after the other */
    __half *back; /* of the product with the head: HEAD weights of each of the block's outputs */
    __half *down; /* of the product with a chunk of the MLP: MLP_CHUNK weights of each output */
};

static __host__ __device__ __forceinline__ int rows_of_block(int cluster)
{
    int n = 3 * HEAD / cluster;
    return n > MLP_CHUNK ? n : MLP_CHUNK;
}

static __host__ __device__ __forceinline__ int outs_of_block(int n_state, int cluster)
{
    return (n_state + cluster - 1) / cluster;
}

static __device__ __forceinline__ struct near_memory divide_memory(const struct step_params *p,
                                                                   __half *memory)
{
    struct near_memory near;
    near.keys = memory;
    near.x = (float *)(near.keys + 2 * HEAD_KEYS * HEAD);
    near.rows = (__half *)(near.x + p->stride);
    near.back = near.rows + rows_of_block(p->cluster) * p->stride;
    near.down = near.back + outs_of_block(p->n_state, p->cluster) * HEAD;
    return near;
}

size_t step_heads_shared(const struct step_program *p, int cluster)
{
    size_t n_state = (size_t)p->params.n_state, stride = (size_t)p->stride;
    return sizeof(__half) * (2 * HEAD_KEYS * HEAD + (size_t)rows_of_block(cluster) * stride +
                             (size_t)outs_of_block((int)n_state, cluster) * HEAD + n_state * MLP_CHUNK) +
           sizeof(float) * stride;
}

/* --- what is whose ----------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ bool is_heads(const struct step_phase *phase)
{
    return phase->kind == PHASE_HEAD_SELF || phase->kind == PHASE_HEAD_CROSS;
}

/* How many outputs of a phase's first product a block of a head makes. */
static __device__ __forceinline__ int n_made(struct head_share mine, const struct step_phase *phase)
{
    return phase->kind == PHASE_HEAD_SELF ? mine.n_self : mine.n_cross;
}

/* Warps that make them: one a scheduler, or as few as can. */
static __device__ __forceinline__ int n_making(int n)
{
    return n > STEP_WARPS / 2 ? (n + AT_ONCE - 1) / AT_ONCE : n;
}

/* The i-th of them: neighbours are in different blocks. */
static __device__ __forceinline__ int made_by(const struct step_params *p, struct head_share mine, int i)
{
    return i * p->cluster + mine.rank;
}

/* Which row of the weights it has: there are n_state each of queries, keys and values. */
static __device__ __forceinline__ int output_of_head(const struct step_params *p, int head, int made)
{
    return made / HEAD * p->n_state + head * HEAD + made % HEAD;
}

/* How many keys before the newest one are near. */
static __device__ __forceinline__ int past_of_head(int pos)
{
    return pos < HEAD_KEYS ? pos : HEAD_KEYS - 1;
}

/* --- looking ahead ----------------------------------------------------------------------------------------------------- */

/* A lane's copies of a round. */
struct asking {
    uint64_t *copied;
    unsigned bytes;
};

static __device__ __forceinline__ void ask(struct asking *a, void *to, const void *from, int bytes)
{
    if (bytes <= 0)
        return;
    bulk_copy(to, from, (unsigned)bytes, a->copied);
    a->bytes += (unsigned)bytes;
}

/* Keys of `first` on and their values. */
static __device__ __forceinline__ void ask_for_keys(struct asking *a, struct keys from, int first, int n,
                                                    int at, struct near_memory near, int lane)
{
    if (lane < 2)
        ask(a, near.keys + (lane * HEAD_KEYS + at) * HEAD,
            from.first + (lane ? from.to_values : 0) + first * HEAD, n * HEAD * (int)sizeof(__half));
}

static __device__ __forceinline__ void ask_for_head(struct asking *a, const struct step_params *p,
                                                    const struct step_phase *next, const struct step_row *row,
                                                    struct head_share mine, int pos, struct near_memory near,
                                                    int lane)
{
    const struct engine_weight *w = &next->linear.weight;
    const int head_bytes = HEAD * (int)sizeof(__half);
    if (lane < n_made(mine, next))
        ask(a, near.rows + lane * w->stride,
            weight_row(w, output_of_head(p, mine.head, made_by(p, mine, lane))), (int)weight_row_bytes(w));
    ROLLED
    for (int i = lane; i < mine.n_outs && mine.rank * mine.n_outs + i < next->down.n_out; i += WARP)
        ask(a, near.back + i * HEAD,
            weight_row(&next->down, mine.rank * mine.n_outs + i) + mine.head * head_bytes, head_bytes);
    if (next->kind == PHASE_HEAD_CROSS) {
        ROLLED
        for (int team = 0; team < HEAD_KEYS / CROSS_PART && pos >= 0; team++) {
            int part = team * p->cluster + mine.rank;
            ask_for_keys(a, cross_keys(&next->cross, row->audio, mine.head, part), 0,
                         keys_in_part(row->n_frames, part), team * CROSS_PART, near, lane);
        }
    } else if (pos >= 0 && pos < next->self.n_ctx) {
        const struct keys past = {kv_keys(next->self, next->cross.layer, row->slot, mine.head),
                                  (size_t)next->self.n_ctx * HEAD};
        ask_for_keys(a, past, pos - past_of_head(pos), past_of_head(pos), 0, near, lane);
    }
}

/* The second warp: what the phase after next is into the place of the one that has ended, and what the next one needs. pos: of the
 * row in that one; −1: not known. */
static __device__ __forceinline__ void ask_ahead(const struct step_params *p, const struct step_phase *next,
                                                 int index, struct step_phase *ended, struct step_room *room,
                                                 struct heads_room *heads, struct near_memory near, int pos)
{
    struct asking a = {&heads->copied, 0};
    const struct linear_rows_params *l = &next->linear;
    int lane = (int)threadIdx.x % WARP, n_norm = l->gamma ? l->weight.n_in * (int)sizeof(float) : 0,
        chunk = (int)blockIdx.x;
    if (lane == 2)
        ask(&a, room->gamma, l->gamma, n_norm);
    if (lane == 3)
        ask(&a, room->beta, l->beta, n_norm);
    if (lane == 4 && ended)
        ask(&a, ended, &p->phases[index < p->n_phases ? index : index - p->n_phases], sizeof(*ended));
    if (is_heads(next) && heads->mine.exists)
        ask_for_head(&a, p, next, &room->rows[0], heads->mine, pos, near, lane);
    if (next->kind == PHASE_MLP && lane == 5 && chunk * MLP_CHUNK < l->weight.n_out)
        ask(&a, near.rows, weight_row(&l->weight, chunk * MLP_CHUNK),
            MLP_CHUNK * (int)weight_row_bytes(&l->weight));
    bulk_asked(&heads->copied, a.bytes);
    int n_lines = next->soon_lines / (int)gridDim.x;
    if (lane == 6 && n_lines > 0)
        bulk_prefetch(next->soon + (size_t)blockIdx.x * (size_t)n_lines * LINE, (unsigned)(n_lines * LINE));
}

/* The other warps: the weights of the MLP's second product, which lie in short pieces, and what may follow the tokens. */
static __device__ __forceinline__ void look_around(const struct step_params *p, const struct step_phase *next,
                                                   struct step_room *room, struct near_memory near)
{
    int me = afresh((int)threadIdx.x) - 2 * WARP, pos = room->rows[0].pos;
    if (next->kind == PHASE_MLP && (int)blockIdx.x * MLP_CHUNK < next->down.n_in) {
        ROLLED
        for (int i = me; i < 2 * next->down.n_out; i += STEP_THREADS - 2 * WARP)
            cp_async_16(near.down + i * 8,
                        next->down.data + (size_t)(i / 2) * (size_t)next->down.stride +
                            blockIdx.x * MLP_CHUNK + i % 2 * 8,
                        16);
        cp_async_commit();
    }
    if (next->kind == PHASE_LOGITS && me == 0 && pos >= 0) {
        const struct token_masks masks = {p->select.masks, p->select.mask_words};
        apply_rules(&masks, &p->slots[room->rows[0].slot], pos + 1, p->select.logits.cols, &room->allowed[0]);
    }
}

/* A warp's biases of the next phase. */
static __device__ __forceinline__ void take_biases(const struct step_params *p, const struct step_phase *next,
                                                   struct head_share mine, float bias[AT_ONCE])
{
    const float *from = next->linear.bias;
    int warp = afresh((int)threadIdx.x) / WARP, n = n_made(mine, next);
    if (!from)
        return;
    UNROLL
    for (int i = 0; i < AT_ONCE; i++) {
        int hidden = (int)blockIdx.x * MLP_CHUNK + i * n_making(MLP_CHUNK) + warp,
            row = i * n_making(n) + warp;
        if (next->kind == PHASE_MLP && warp < n_making(MLP_CHUNK) && hidden < next->linear.weight.n_out)
            bias[i] = from[hidden];
        if (is_heads(next) && mine.exists && warp < n_making(n) && row < n)
            bias[i] = from[output_of_head(p, mine.head, made_by(p, mine, row))];
    }
}

/* Everything that the next phase needs and nobody writes. */
static __device__ __forceinline__ void look_ahead(const struct step_params *p, const struct step_phase *next,
                                                  int index, struct step_phase *ended, struct step_room *room,
                                                  struct heads_room *heads, struct near_memory near, int pos,
                                                  float bias[AT_ONCE])
{
    int warp = afresh((int)threadIdx.x) / WARP;
    take_biases(p, next, heads->mine, bias);
    if (warp == 1)
        ask_ahead(p, next, index, ended, room, heads, near, pos);
    else if (warp > 1)
        look_around(p, next, room, near);
}

/* --- products ---------------------------------------------------------------------------------------------------------- */

/* A lane's eights of a row of N values. */
template <int N> struct eights {
    static const int n = (N / 8 + WARP - 1) / WARP;
    float4 low[n], high[n];
};

/* Whether a lane has a k-th one, number i. */
template <int N> static __device__ __forceinline__ bool is_there(int k, int i)
{
    return (k + 1) * WARP <= N / 8 || i < N / 8;
}

static __device__ __forceinline__ float4 norm_four(float4 x, float4 g, float4 b, struct measured m)
{
    return {(x.x - m.mean) * m.scale * g.x + b.x, (x.y - m.mean) * m.scale * g.y + b.y,
            (x.z - m.mean) * m.scale * g.z + b.z, (x.w - m.mean) * m.scale * g.w + b.w};
}

/* A warp: the row normalised, as measure_row and norm_rows do. */
template <int N>
static __device__ __forceinline__ struct eights<N> take_normed(const struct step_room *room, const float *x) {
    const float part = 1.0f / (float)N;
    int lane = (int)threadIdx.x % WARP;
    float sum = 0.0f, squares = 0.0f;
    struct eights<N> e;
    UNROLL
    for (int k = 0; k < e.n; k++) {
        int i = k * WARP + lane;
        e.low[k] = e.high[k] = {};
        if (is_there<N>(k, i)) {
            e.low[k] = *(const float4 *)(x + i * 4);
            e.high[k] = *(const float4 *)(x + N / 2 + i * 4);
        }
        sum += sum_of_four(e.low[k]) + sum_of_four(e.high[k]);
    }
    struct measured m = {warp_sum(sum) * part, 0.0f};
    UNROLL
    for (int k = 0; k < e.n; k++) {
        if (is_there<N>(k, k * WARP + lane))
            squares +=
                sum_of_four(squares_of(e.low[k], m.mean, 4)) + sum_of_four(squares_of(e.high[k], m.mean, 4));
    }
    m.scale = rsqrtf(warp_sum(squares) * part + 1e-5f);
    UNROLL
    for (int k = 0; k < e.n; k++) {
        int i = k * WARP + lane;
        const float4 *g = (const float4 *)(room->gamma + i * 8), *b = (const float4 *)(room->beta + i * 8);
        if (is_there<N>(k, i)) {
            e.low[k] = norm_four(e.low[k], g[0], b[0], m);
            e.high[k] = norm_four(e.high[k], g[1], b[1], m);
        }
    }
    return e;
}

/* A warp: the row's products with n ≤ AT_ONCE times N weights, `apart` behind one another. */
template <int N>
static __device__ __forceinline__ void multiply_row(const __half *weights, int n, int apart,
                                                    const struct eights<N> *e, float sums[AT_ONCE])
{
    int lane = (int)threadIdx.x % WARP;
    UNROLL
    for (int o = 0; o < AT_ONCE; o++) {
        sums[o] = 0.0f;
        if (o >= n)
            continue;
        UNROLL
        for (int k = 0; k < e->n; k++) {
            int i = k * WARP + lane;
            float w[8];
            if (is_there<N>(k, i)) {
                split_eight(*(const uint4 *)(weights + o * apart + i * 8), w);
                sums[o] = add_products(w, e->low[k], e->high[k], sums[o]);
            }
        }
    }
    for (int bit = WARP / 2; bit > 0; bit /= 2) {
        UNROLL
        for (int o = 0; o < AT_ONCE; o++)
            sums[o] += __shfl_xor_sync(LANES, sums[o], bit);
    }
}

/* A cluster: what the phase's first product makes of the row, in every block of it. */
template <int N>
static __device__ __forceinline__ void
make_for_head(const struct step_params *p, const struct step_phase *phase, const struct step_room *room,
              struct heads_room *heads, struct near_memory near, const float bias[AT_ONCE])
{
    int warp = afresh((int)threadIdx.x) / WARP, lane = (int)threadIdx.x % WARP,
        n = n_made(heads->mine, phase), n_warps = n_making(n);
    if (warp < n_warps) {
        const struct eights<N> e = take_normed<N>(room, near.x);
        float sums[AT_ONCE];
        multiply_row<N>(near.rows + warp * N, n > n_warps ? AT_ONCE : 1, n_warps * N, &e, sums);
        UNROLL
        for (int i = 0; i < AT_ONCE; i++) {
            int row = i * n_warps + warp;
            float sum = phase->linear.bias ? sums[i] + bias[i] : sums[i];
            if (row < n && lane < p->cluster)
                *in_block(&heads->made[made_by(p, heads->mine, row)], lane) = sum;
        }
    }
    cluster_meet();
}

/* A block: what its head, a value of which each of the first threads has, contributes to its share of the outputs. */
static __device__ __forceinline__ void multiply_head(const struct step_phase *phase, struct step_room *room,
                                                     struct head_share mine, struct near_memory near,
                                                     float value)
{
    int me = afresh((int)threadIdx.x), n_out = phase->down.n_out;
    if (me < HEAD)
        room->heads[place(me, HEAD)] = value;
    __syncthreads(); /* the head is there */
    ROLLED
    for (int first = 0; first + me / WARP * (WARP / HEAD_EIGHTS) < mine.n_outs; first += HEAD_OUTS) {
        int i = first + me / HEAD_EIGHTS, out = mine.rank * mine.n_outs + i;
        multiply_heads<1, false>(phase->adds, room->active, 0, i < mine.n_outs && out < n_out ? out : -1,
                                 n_out, *(const uint4 *)(near.back + first * HEAD + me * 8), room->heads);
    }
}

/* --- the phases -------------------------------------------------------------------------------------------------------- */

/* Each block attends to all of the past, of which what was near at `pos_ahead` is; the first one stores the new key and value. */
template <int N>
static __device__ __forceinline__ void
self_phase(const struct step_params *p, const struct step_phase *phase, struct step_room *room,
           struct heads_room *heads, struct near_memory near, int pos_ahead, const float bias[AT_ONCE])
{
    const struct engine_kv kv = phase->self;
    const struct head_share mine = heads->mine;
    make_for_head<N>(p, phase, room, heads, near, bias);
    int me = afresh((int)threadIdx.x), slot = room->rows[0].slot,
        pos = room->rows[0].pos < kv.n_ctx ? room->rows[0].pos : -1,
        n_past = pos == pos_ahead ? past_of_head(pos) : 0;
    if (pos >= 0 && me < 2 * HEAD) {
        float value = heads->made[HEAD + me];
        near.keys[(me / HEAD * HEAD_KEYS + n_past) * HEAD + me % HEAD] = to_half(value);
        bulk_fence();
        if (mine.rank == 0)
            append_value(kv, phase->cross.layer, slot, pos,
                         me / HEAD * p->n_state + mine.head * HEAD + me % HEAD, value);
    }
    __syncthreads(); /* its own key is there */
    const struct keys past = {kv_keys(kv, phase->cross.layer, slot, mine.head),
                              (size_t)kv.n_ctx * HEAD,
                              NULL,
                              0,
                              pos - n_past,
                              near.keys,
                              HEAD_KEYS * HEAD};
    struct attended a = attend<TEAMS, STRETCH>(heads->made, past, me < ATTENTION_THREADS ? pos + 1 : 0, NULL);
    multiply_head(phase, room, mine, near, pos >= 0 && me < HEAD ? a.out / a.sum : 0.0f);
}

/* A team: what it has attended to, to all blocks of the cluster. */
static __device__ __forceinline__ void tell_part(const struct step_params *p, struct heads_room *heads,
                                                 int part, struct attended a)
{
    int me = afresh((int)threadIdx.x) % ATTENTION_THREADS;
    float *mine = heads->parts + part * PARTIAL_FLOATS + me;
    ROLLED
    for (int rank = 0; me < PARTIAL_FLOATS && rank < p->cluster; rank++)
        *in_block(mine, rank) = me < HEAD ? a.out : me == HEAD ? a.greatest : a.sum;
}

/* A part of the window a team. */
template <int N>
static __device__ __forceinline__ void
cross_heads_phase(const struct step_params *p, const struct step_phase *phase, struct step_room *room,
                  struct heads_room *heads, struct near_memory near, const float bias[AT_ONCE])
{
    const struct cross_params *c = &phase->cross;
    const struct head_share mine = heads->mine;
    const struct step_row row = room->rows[0];
    make_for_head<N>(p, phase, room, heads, near, bias);
    int me = afresh((int)threadIdx.x), team = me / ATTENTION_THREADS, part = team * p->cluster + mine.rank,
        n_keys = row.pos >= 0 ? keys_in_part(row.n_frames, part) : 0;
    float *scores = room->scores + team * CROSS_PART;
    const struct keys window = {NULL, 0, NULL, 0, 0, near.keys + team * CROSS_PART * HEAD, HEAD_KEYS * HEAD};
    struct attended a = attend<TEAMS, STRETCH>(heads->made, window, n_keys, scores), all = {};
    if (n_keys > 0)
        tell_part(p, heads, part, a);
    cluster_meet();
    float *align = n_keys > 0 ? align_row(c, 0, mine.head) : NULL;
    if (row.pos >= 0 && (me < HEAD || align))
        all = join_parts(heads->parts, row.n_frames, me % HEAD);
    ROLLED
    for (int t = me % ATTENTION_THREADS; align && t < n_keys; t += ATTENTION_THREADS)
        align[part * CROSS_PART + t] =
            relative(scores[t], a.greatest) * (relative(a.greatest, all.greatest) / all.sum);
    multiply_head(phase, room, mine, near, row.pos >= 0 && me < HEAD ? all.out / all.sum : 0.0f);
}

/* A block some chunks of the hidden layer: these, then what they contribute to every output, two threads each. */
template <int N>
static __device__ __forceinline__ void hidden_phase(const struct step_phase *phase, struct step_room *room,
                                                    struct near_memory near, const float bias[AT_ONCE])
{
    const struct linear_rows_params *up = &phase->linear;
    const int n_warps = MLP_CHUNK / AT_ONCE;
    int me = afresh((int)threadIdx.x), warp = me / WARP, half = me % 2,
        n_chunks = up->weight.n_out / MLP_CHUNK;
    struct eights<N> e;
    if (warp < n_warps && (int)blockIdx.x < n_chunks)
        e = take_normed<N>(room, near.x);
    ROLLED
    for (int chunk = (int)blockIdx.x; chunk < n_chunks; chunk += (int)gridDim.x) {
        bool is_first = chunk == (int)blockIdx.x;
        int hidden = chunk * MLP_CHUNK + warp;
        if (warp < n_warps) {
            float sums[AT_ONCE];
            multiply_row<N>(is_first ? near.rows + warp * N : up->weight.data + (size_t)hidden * N, AT_ONCE,
                            n_warps * N, &e, sums);
            UNROLL
            for (int i = 0; i < AT_ONCE; i++) {
                float x =
                    up->bias ? sums[i] + (is_first ? bias[i] : up->bias[hidden + i * n_warps]) : sums[i];
                if (me % WARP == i)
                    room->hidden[place(i * n_warps + warp, MLP_CHUNK)] = gelu(x);
            }
        }
        __syncthreads(); /* the chunk is there */
        ROLLED
        for (int i = me; i < 2 * N; i += STEP_THREADS) {
            float x = 0.0f, w[1][8];
            split_eight(is_first ? *(const uint4 *)(near.down + i * 8)
                                 : load_weights<false>(&phase->down, i / 2, chunk * 2 + half),
                        w[0]);
            multiply_eight<1, 1>(w, room->hidden, MLP_CHUNK, half, &x);
            x += __shfl_xor_sync(LANES, x, 1);
            if (half == 0 && (room->active & 1))
                add_shared_sum(&phase->adds[i / 2], to_fixed(x));
        }
        __syncthreads(); /* nobody reads it any more */
    }
}

/* --- the kernel -------------------------------------------------------------------------------------------------------- */

template <int N>
static __device__ __forceinline__ void
run_heads(const struct step_params *p, const struct step_phase *phase, struct step_room *room,
          struct heads_room *heads, struct near_memory near, int pos_ahead, const float bias[AT_ONCE])
{
    const struct linear_rows_params *l = &phase->linear;
    if (phase->kind == PHASE_FINISH) {
        if (blockIdx.x == 0)
            finish_row(p, room, 0);
        return;
    }
    clear_sums(phase->clears, p->n_sums);
    take_residual<1>(l, &phase->pending, room->active, near.x);
    if (phase->kind == PHASE_HEAD_SELF && heads->mine.exists)
        self_phase<N>(p, phase, room, heads, near, pos_ahead, bias);
    if (phase->kind == PHASE_HEAD_CROSS && heads->mine.exists)
        cross_heads_phase<N>(p, phase, room, heads, near, bias);
    if (phase->kind == PHASE_MLP)
        hidden_phase<N>(phase, room, near, bias);
    if (phase->kind == PHASE_LOGITS) {
        norm_rows<1, STEP_THREADS>(room->active, room->gamma, room->beta, l->weight.n_in, l->weight.stride,
                                   near.x);
        logits_phase<1, false>(p, l, room, room->active, near.x);
    }
}

/* grid: clusters, one at least for each head. Shared: near_memory. */
template <int N>
static __global__ void __launch_bounds__(STEP_THREADS, 1) step_heads_kernel(struct step_params p)
{
    SHARED(struct step_room, room, 1);
    SHARED(struct heads_room, heads, 1);
    DYNAMIC_SHARED(__half, memory);
    const struct near_memory near = divide_memory(&p, memory);
    int pos_ahead = -1;
    float bias[AT_ONCE];
    unsigned met = 0;
    clear_sums(p.sums, STEP_SUMS * p.n_sums);
    for (int i = 0; i < RING; i++)
        load_phase(&p, i, (int)threadIdx.x, STEP_THREADS, &room->ring[i]);
    cp_async_commit();
    if (threadIdx.x == 0) {
        int n = p.cluster, head = (int)blockIdx.x / n;
        heads->mine = {head,     (int)blockIdx.x % n,         3 * HEAD / n,
                       HEAD / n, outs_of_block(p.n_state, n), head < p.n_head};
        bulk_init(&heads->copied, WARP);
    }
    know_rows(&p, room);
    if (blockIdx.x == 0)
        begin_row(&p, 0);
    cp_async_wait<0>();
    bulk_fence(); /* the places of phases are copied to in another way from now on */
    grid_arrive(p.arrived);
    look_ahead(&p, &room->ring[0], 0, NULL, room, heads, near, pos_ahead, bias);
    grid_wait(p.arrived, &met);
    const int n_steps = STEP_IS_BUILT ? p.max_steps : 0;
    ROLLED
    for (int step = 0; step < n_steps; step++) {
        begin_step(&p, room);
        if (!room->goes_on)
            break;
        ROLLED
        for (int i = 0; i < p.n_phases; i++) {
            struct step_phase *phase = &room->ring[(met + 1) % RING];
            cp_async_wait<0>();
            bulk_wait(&heads->copied, met - 1);
            run_heads<N>(&p, phase, room, heads, near, pos_ahead, bias);
            grid_arrive(p.arrived);
            pos_ahead = room->rows[0].pos + (i + 1 == p.n_phases); /* the first phase is of the next step */
            look_ahead(&p, &room->ring[met % RING], i + RING, phase, room, heads, near, pos_ahead, bias);
            grid_wait(p.arrived, &met);
        }
    }
    bulk_wait(&heads->copied, met - 1);
    cp_async_wait<0>();
}

/* Whisper's tiny, base, small and medium; a layer of the large ones is more than clusters of their 20 heads have room for. */
step_function *step_heads_kernel(int n_state)
{
    return n_state == 384    ? step_heads_kernel<384>
           : n_state == 512  ? step_heads_kernel<512>
           : n_state == 768  ? step_heads_kernel<768>
           : n_state == 1024 ? step_heads_kernel<1024>
                             : NULL;
}
