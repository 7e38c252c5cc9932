/* A whole decoding step of one row, and the next ones, in one kernel, as step.cu, where each head can have a cluster of blocks: from
 * Hopper on, and with weights in half floats. What the blocks of a head have to tell one another they store in each other's shared
 * memory, which takes a tenth of a meeting of the grid, so three phases a layer are left of five:
 *
 *     query, key and value of a head, self-attention, its product with the output
 *     query of a head, cross-attention, its product with the output
 *     MLP
 *
 * Clusters are numbered as the heads are; those without one only keep the residual until the MLP. The first warp meets the other
 * blocks, the others fetch what the next phase needs: what is large and lies together by bulk copies, one thread each. A block's time is
 * that of the instructions of its 16 warps: the row's N values are known to the compiler, and who has nothing to do does
 * nothing. The bits are those of the other kernels. */
#include "gpu/cuda/step_ahead.cuh"
#include "gpu/cuda/step_phases.cuh"

#define ASKERS    7 /* threads that ask for bulk copies: the first of a warp each, from the second on */
#define HEAD_KEYS (2 * CROSS_PART) /* that a block has near */
#define AT_ONCE   2                /* outputs that a warp makes of the row, at most */

static_assert(2 * HEAD_KEYS / CROSS_PART + 3 <= ASKERS, "an asker the keys of a part, and one the values");
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
    uint64_t copied, made_told, parts_told;    /* count what comes */
};

/* What lies in dynamic shared memory. */
struct near_memory {
    __half *keys; /* [HEAD_KEYS][HEAD], and as many values behind them */
    float *x;     /* the row, as place says */
    __half *rows; /* weights of what a head makes of the row: a row of them after the other */
    __half *up;   /* of the first product with a chunk of the MLP */
    __half *back; /* of the product with the head: HEAD weights of each of the block's outputs */
    __half *down; /* of the product with a chunk of the MLP: MLP_CHUNK weights of each output */
};

/* What a thread keeps throughout a launch. */
struct kept {
    struct head_share share;
    struct near_memory near;
    block_address made, made_told; /* of the block of the cluster that has the lane's number as its rank */
    unsigned copied, made_rounds, parts_rounds;
    int pos_ahead;       /* the row's position in the next phase; −1: not known */
    float bias[AT_ONCE]; /* of what the warp makes of the row in the next phase */
};

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
    near.rows = (__half *)(near.x + p->n_state);
    near.up = near.rows + 3 * HEAD / p->cluster * p->n_state;
    near.back = near.up + MLP_CHUNK * p->n_state;
    near.down = near.back + outs_of_block(p->n_state, p->cluster) * HEAD;
    return near;
}

size_t step_heads_shared(const struct step_program *p, int cluster)
{
    size_t n_state = (size_t)p->params.n_state, outs = (size_t)outs_of_block(p->params.n_state, cluster);
    return sizeof(__half) *
               (2 * HEAD_KEYS * HEAD + (3 * HEAD / (size_t)cluster + 2 * MLP_CHUNK) * n_state + outs * HEAD) +
           sizeof(float) * n_state;
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

/* The n-th keys, n odd, or values of a head from number `first` on. */
static __device__ __forceinline__ unsigned ask_for_keys(struct heads_room *heads, const __half *keys,
                                                        int n_ctx, bool values, int first, int n, __half *to)
{
    unsigned bytes = (unsigned)(n * HEAD) * (unsigned)sizeof(__half);
    if (n > 0)
        bulk_copy(to + (values ? HEAD_KEYS * HEAD : 0), keys + ((values ? n_ctx : 0) + first) * HEAD, bytes,
                  &heads->copied);
    return n > 0 ? bytes : 0;
}

/* An asker's keys or values of a head's past or of a part of its window. */
static __device__ __forceinline__ unsigned ask_for_head(const struct step_params *p,
                                                        const struct step_phase *next,
                                                        const struct step_row *row, struct heads_room *heads,
                                                        const struct kept *kept, int n)
{
    const struct head_share mine = kept->share;
    __half *keys = kept->near.keys;
    int pos = kept->pos_ahead;
    const struct cross_params *c = &next->cross;
    int team = n / 2, part = team * p->cluster + mine.rank;
    if (next->kind == PHASE_HEAD_CROSS && pos >= 0)
        return ask_for_keys(heads, kv_keys(c->kv, c->layer, row->audio, mine.head), c->kv.n_ctx, n % 2,
                            part * CROSS_PART, keys_in_part(row->n_frames, part),
                            keys + team * CROSS_PART * HEAD);
    if (next->kind == PHASE_HEAD_SELF && pos >= 0 && pos < next->self.n_ctx && team == 0)
        return ask_for_keys(heads, kv_keys(next->self, c->layer, row->slot, mine.head), next->self.n_ctx,
                            n % 2, pos - past_of_head(pos), past_of_head(pos), keys);
    return 0;
}

/* An asker: the phase after next into the place of the one that has ended, the norm, and what is large and lies together. */
static __device__ __forceinline__ void ask(const struct step_params *p, const struct step_phase *next,
                                           int index, struct step_phase *ended, struct step_room *room,
                                           struct heads_room *heads, const struct kept *kept, int asker)
{
    const struct linear_rows_params *l = &next->linear;
    unsigned bytes = 0;
    if (asker < 2 && l->gamma) {
        bytes = (unsigned)l->weight.n_in * (unsigned)sizeof(float);
        bulk_copy(asker ? room->beta : room->gamma, asker ? l->beta : l->gamma, bytes, &heads->copied);
    }
    if (asker == 2 && ended) {
        bytes = sizeof(*ended);
        bulk_copy(ended, &p->phases[index < p->n_phases ? index : index - p->n_phases], bytes,
                  &heads->copied);
    }
    if (asker >= 3 && is_heads(next) && kept->share.exists)
        bytes = ask_for_head(p, next, &room->rows[0], heads, kept, asker - 3);
    if (asker == 3 && next->kind == PHASE_MLP && (int)blockIdx.x * MLP_CHUNK < l->weight.n_out) {
        bytes = MLP_CHUNK * (unsigned)weight_row_bytes(&l->weight);
        bulk_copy(kept->near.up, weight_row(&l->weight, (int)blockIdx.x * MLP_CHUNK), bytes, &heads->copied);
    }
    bulk_asked(&heads->copied, bytes);
}

static __device__ __forceinline__ void bring_eight(__half *to, const struct engine_weight *w, int out,
                                                   int first)
{
    cp_async_16(to, w->data + (size_t)out * (size_t)w->stride + (size_t)first, 16);
}

/* Weights that lie in short pieces: what a block makes of the row, and multiplies with its head. */
template <int N>
static __device__ __forceinline__ void
bring_weights_of_head(const struct step_params *p, const struct step_phase *next, struct head_share mine,
                      struct near_memory near, int me)
{
    int n = n_made(mine, next), first = mine.rank * mine.n_outs;
    ROLLED
    for (int i = me; i < n * (N / 8); i += AHEAD_THREADS)
        bring_eight(near.rows + i * 8, &next->linear.weight,
                    output_of_head(p, mine.head, made_by(p, mine, i / (N / 8))), i % (N / 8) * 8);
    ROLLED
    for (int i = me; i < mine.n_outs * HEAD_EIGHTS && first + i / HEAD_EIGHTS < N; i += AHEAD_THREADS)
        bring_eight(near.back + i * 8, &next->down, first + i / HEAD_EIGHTS,
                    mine.head * HEAD + i % HEAD_EIGHTS * 8);
}

/* Of the output layer: what every block brings into the second-level cache, and what may follow the tokens. */
static __device__ __forceinline__ void look_at_logits(const struct step_params *p,
                                                      const struct step_phase *next, struct step_room *room)
{
    const struct token_masks masks = {p->select.masks, p->select.mask_words};
    int pos = room->rows[0].pos;
    if (next->kind == PHASE_LOGITS && pos >= 0)
        apply_rules(&masks, &p->slots[room->rows[0].slot], pos + 1, p->select.logits.cols, &room->allowed[0]);
    int n_lines = next->soon_lines / (int)gridDim.x;
    if (n_lines > 0)
        bulk_prefetch(next->soon + (size_t)blockIdx.x * (size_t)n_lines * LINE, (unsigned)(n_lines * LINE));
}

/* A warp's biases of the next phase. */
static __device__ __forceinline__ void take_biases(const struct step_params *p, const struct step_phase *next,
                                                   struct kept *kept)
{
    const struct head_share mine = kept->share;
    const float *from = next->linear.bias;
    int warp = afresh((int)threadIdx.x) / WARP, n = n_made(mine, next);
    if (!from)
        return;
    UNROLL
    for (int i = 0; i < AT_ONCE; i++) {
        int hidden = (int)blockIdx.x * MLP_CHUNK + i * n_making(MLP_CHUNK) + warp,
            row = i * n_making(n) + warp;
        if (next->kind == PHASE_MLP && warp < n_making(MLP_CHUNK) && hidden < next->linear.weight.n_out)
            kept->bias[i] = from[hidden];
        if (is_heads(next) && mine.exists && warp < n_making(n) && row < n)
            kept->bias[i] = from[output_of_head(p, mine.head, made_by(p, mine, row))];
    }
}

/* Everything that the next phase needs and nobody writes. */
template <int N>
static __device__ __forceinline__ void look_ahead(const struct step_params *p, const struct step_phase *next,
                                                  int index, struct step_phase *ended, struct step_room *room,
                                                  struct heads_room *heads, struct kept *kept)
{
    int me = afresh((int)threadIdx.x) - WARP;
    take_biases(p, next, kept);
    if (me < 0)
        return;
    if (me % WARP == 0 && me / WARP < ASKERS)
        ask(p, next, index, ended, room, heads, kept, me / WARP);
    if (me == ASKERS * WARP)
        look_at_logits(p, next, room);
    if (is_heads(next) && kept->share.exists)
        bring_weights_of_head<N>(p, next, kept->share, kept->near, me);
    ROLLED
    for (int i = me; next->kind == PHASE_MLP && (int)blockIdx.x * MLP_CHUNK < next->down.n_in && i < 2 * N;
         i += AHEAD_THREADS)
        bring_eight(kept->near.down + i * 8, &next->down, i / 2, (int)blockIdx.x * MLP_CHUNK + i % 2 * 8);
    cp_async_commit();
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
        bool there = is_there<N>(k, i);
        e.low[k] = there ? *(const float4 *)(x + i * 4) : float4{};
        e.high[k] = there ? *(const float4 *)(x + N / 2 + i * 4) : float4{};
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
        const float4 low = norm_four(e.low[k], g[0], b[0], m), high = norm_four(e.high[k], g[1], b[1], m);
        bool there = is_there<N>(k, i);
        e.low[k] = {there ? low.x : 0.0f, there ? low.y : 0.0f, there ? low.z : 0.0f, there ? low.w : 0.0f};
        e.high[k] = {there ? high.x : 0.0f, there ? high.y : 0.0f, there ? high.z : 0.0f,
                     there ? high.w : 0.0f};
    }
    return e;
}

/* A warp: the row's products with n ≤ AT_ONCE times N weights, `apart` behind one another. */
template <int N>
static __device__ __forceinline__ void multiply_row(const __half *weights, int n, int apart,
                                                    const struct eights<N> *e, float sums[AT_ONCE])
{
    int lane = (int)threadIdx.x % WARP;
    uint4 w[AT_ONCE][eights<N>::n];
    UNROLL
    for (int o = 0; o < AT_ONCE; o++) {
        UNROLL
        for (int k = 0; k < e->n; k++) {
            int i = k * WARP + lane;
            w[o][k] = o < n && is_there<N>(k, i) ? *(const uint4 *)(weights + o * apart + i * 8) : uint4{};
        }
    }
    UNROLL
    for (int o = 0; o < AT_ONCE; o++) {
        sums[o] = 0.0f;
        UNROLL
        for (int k = 0; k < e->n; k++) {
            float eight[8];
            split_eight(w[o][k], eight);
            sums[o] = add_products(eight, e->low[k], e->high[k], sums[o]);
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
              struct heads_room *heads, struct kept *kept, int n)
{
    int warp = afresh((int)threadIdx.x) / WARP, lane = (int)threadIdx.x % WARP, n_warps = n_making(n);
    if (warp < n_warps) {
        const struct eights<N> e = take_normed<N>(room, kept->near.x);
        float sums[AT_ONCE];
        multiply_row<N>(kept->near.rows + warp * N, n > n_warps ? AT_ONCE : 1, n_warps * N, &e, sums);
        UNROLL
        for (int i = 0; i < AT_ONCE; i++) {
            int row = i * n_warps + warp;
            float sum = phase->linear.bias ? sums[i] + kept->bias[i] : sums[i];
            if (row < n && lane < p->cluster)
                tell(kept->made + (unsigned)made_by(p, kept->share, row) * (unsigned)sizeof(float), sum,
                     kept->made_told);
        }
    }
    if (threadIdx.x == 0)
        bulk_asked(&heads->made_told, (unsigned)(n * p->cluster) * (unsigned)sizeof(float));
    bulk_wait(&heads->made_told, kept->made_rounds++);
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

/* Each block attends to all of the past, of which what was fetched is near; the first one stores the new key and value. */
template <int N>
static __device__ __forceinline__ void self_phase(const struct step_params *p, const struct step_phase *phase,
                                                  struct step_room *room, struct heads_room *heads,
                                                  struct kept *kept)
{
    const struct engine_kv kv = phase->self;
    const struct head_share mine = kept->share;
    const struct near_memory near = kept->near;
    make_for_head<N>(p, phase, room, heads, kept, mine.n_self);
    int me = afresh((int)threadIdx.x), slot = room->rows[0].slot,
        pos = room->rows[0].pos < kv.n_ctx ? room->rows[0].pos : -1,
        n_past = pos == kept->pos_ahead ? past_of_head(pos) : 0;
    if (pos >= 0 && me < 2 * HEAD) {
        float value = heads->made[HEAD + me];
        near.keys[(me / HEAD * HEAD_KEYS + n_past) * HEAD + me % HEAD] = to_half(value);
        if (mine.rank == 0)
            append_value(kv, phase->cross.layer, slot, pos,
                         me / HEAD * p->n_state + mine.head * HEAD + me % HEAD, value);
    }
    __syncthreads(); /* its own key is there */
    int n = me < ATTENTION_THREADS ? pos + 1 : 0;
    struct keys past = {NULL, 0, NULL, 0, 0, near.keys, HEAD_KEYS * HEAD};
    struct attended a;
    if (n_past == pos) {
        a = attend<TEAMS, STRETCH, true>(heads->made, past, n, NULL);
    } else { /* some of it is not near */
        past.first = kv_keys(kv, phase->cross.layer, slot, mine.head);
        past.to_values = (size_t)kv.n_ctx * HEAD;
        past.near_from = pos - n_past;
        a = attend<TEAMS, STRETCH>(heads->made, past, n, NULL);
    }
    multiply_head(phase, room, mine, near, pos >= 0 && me < HEAD ? a.out / a.sum : 0.0f);
    if (me < 2 * HEAD)
        bulk_fence(); /* the key's place is copied to next */
}

/* A team: what it has attended to, to all blocks of the cluster. */
static __device__ __forceinline__ void tell_part(const struct step_params *p, struct heads_room *heads,
                                                 int part, struct attended a)
{
    int me = afresh((int)threadIdx.x) % ATTENTION_THREADS;
    float *mine = heads->parts + part * PARTIAL_FLOATS + me;
    ROLLED
    for (int rank = 0; me < PARTIAL_FLOATS && rank < p->cluster; rank++)
        tell(in_block(rank, mine),
             me < HEAD    ? a.out
             : me == HEAD ? a.greatest
                          : a.sum,
             in_block(rank, &heads->parts_told));
}

/* A part of the window a team. */
template <int N>
static __device__ __forceinline__ void
cross_heads_phase(const struct step_params *p, const struct step_phase *phase, struct step_room *room,
                  struct heads_room *heads, struct kept *kept)
{
    const struct cross_params *c = &phase->cross;
    const struct head_share mine = kept->share;
    const struct near_memory near = kept->near;
    const struct step_row row = room->rows[0];
    make_for_head<N>(p, phase, room, heads, kept, mine.n_cross);
    int me = afresh((int)threadIdx.x), team = me / ATTENTION_THREADS, part = team * p->cluster + mine.rank,
        n_keys = row.pos >= 0 ? keys_in_part(row.n_frames, part) : 0;
    float *scores = room->scores + team * CROSS_PART;
    const struct keys window = {NULL, 0, NULL, 0, 0, near.keys + team * CROSS_PART * HEAD, HEAD_KEYS * HEAD};
    struct attended a = attend<TEAMS, STRETCH, true>(heads->made, window, n_keys, scores), all = {};
    if (n_keys > 0)
        tell_part(p, heads, part, a);
    if (threadIdx.x == 0)
        bulk_asked(&heads->parts_told, row.pos < 0 ? 0
                                                   : (unsigned)(parts_of(row.n_frames) * PARTIAL_FLOATS) *
                                                         (unsigned)sizeof(float));
    bulk_wait(&heads->parts_told, kept->parts_rounds++);
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
                                                    const struct kept *kept)
{
    const struct linear_rows_params *up = &phase->linear;
    const struct near_memory near = kept->near;
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
            multiply_row<N>(is_first ? near.up + warp * N : up->weight.data + (size_t)hidden * N, AT_ONCE,
                            n_warps * N, &e, sums);
            UNROLL
            for (int i = 0; i < AT_ONCE; i++) {
                float x = up->bias ? sums[i] + (is_first ? kept->bias[i] : up->bias[hidden + i * n_warps])
                                   : sums[i];
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

/* A block: the residual to shared memory, four values a thread; a part of it also to where it is stored. */
template <int N>
static __device__ __forceinline__ void take_row(const struct mat *in, const struct pending *pending,
                                                float *to)
{
    int me = afresh((int)threadIdx.x);
    if (me < N / 4) {
        float4 x = ((const float4 *)in->data)[me];
        if (pending->sums) {
            const longlong2 *sums = (const longlong2 *)pending->sums + me * 2, low = sums[0], high = sums[1];
            float4 sum = {from_fixed(low.x), from_fixed(low.y), from_fixed(high.x), from_fixed(high.y)};
            if (pending->bias) {
                const float4 b = ((const float4 *)pending->bias)[me];
                sum = {sum.x + b.x, sum.y + b.y, sum.z + b.z, sum.w + b.w};
            }
            x = {x.x + sum.x, x.y + sum.y, x.z + sum.z, x.w + sum.w};
            ROLLED
            for (int i = (int)blockIdx.x; pending->to.data && i < N / 4; i += (int)gridDim.x) {
                if (i == me)
                    ((float4 *)pending->to.data)[i] = x;
            }
        }
        *(float4 *)(to + place(me * 4, N)) = x;
    }
    __syncthreads(); /* the row is there */
}

template <int N>
static __device__ __forceinline__ void run_heads(const struct step_params *p, const struct step_phase *phase,
                                                 struct step_room *room, struct heads_room *heads,
                                                 struct kept *kept)
{
    const struct linear_rows_params *l = &phase->linear;
    const enum phase_kind kind = phase->kind;
    if (kind == PHASE_FINISH) {
        if (blockIdx.x == 0)
            finish_row(p, room, 0);
        return;
    }
    clear_sums(phase->clears, p->n_sums);
    take_row<N>(&l->in, &phase->pending, kept->near.x);
    if (kind == PHASE_HEAD_SELF && kept->share.exists)
        self_phase<N>(p, phase, room, heads, kept);
    if (kind == PHASE_HEAD_CROSS && kept->share.exists)
        cross_heads_phase<N>(p, phase, room, heads, kept);
    if (kind == PHASE_MLP)
        hidden_phase<N>(phase, room, kept);
    if (kind == PHASE_LOGITS) {
        norm_rows<1, STEP_THREADS>(room->active, room->gamma, room->beta, N, N, kept->near.x);
        logits_phase<1, false>(p, l, room, room->active, kept->near.x);
    }
}

/* grid: clusters, one at least for each head. Shared: near_memory. */
template <int N>
static __global__ void __launch_bounds__(STEP_THREADS, 1) step_heads_kernel(struct step_params p)
{
    SHARED(struct step_room, room, 1);
    SHARED(struct heads_room, heads, 1);
    DYNAMIC_SHARED(__half, memory);
    const int lane = (int)threadIdx.x % WARP, head = (int)blockIdx.x / p.cluster;
    struct kept kept = {{head, (int)blockIdx.x % p.cluster, 3 * HEAD / p.cluster, HEAD / p.cluster,
                         outs_of_block(N, p.cluster), head < p.n_head},
                        divide_memory(&p, memory),
                        in_block(lane % p.cluster, heads->made),
                        in_block(lane % p.cluster, &heads->made_told),
                        0,
                        0,
                        0,
                        -1,
                        {}};
    unsigned met = 0;
    clear_sums(p.sums, STEP_SUMS * p.n_sums);
    for (int i = 0; i < RING; i++)
        load_phase(&p, i, (int)threadIdx.x, STEP_THREADS, &room->ring[i]);
    cp_async_commit();
    if (threadIdx.x == 0) {

        bulk_init(&heads->copied, ASKERS);
        bulk_init(&heads->made_told, 1);
        bulk_init(&heads->parts_told, 1);
    }
    know_rows(&p, room);
    if (blockIdx.x == 0)
        begin_row(&p, 0);
    cp_async_wait<0>();
    bulk_fence(); /* the places of phases are copied to in another way from now on */
    grid_arrive(p.arrived);
    look_ahead<N>(&p, &room->ring[0], 0, NULL, room, heads, &kept);
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
            bulk_wait(&heads->copied, kept.copied++);
            run_heads<N>(&p, phase, room, heads, &kept);
            grid_arrive(p.arrived);
            kept.pos_ahead =
                room->rows[0].pos + (i + 1 == p.n_phases); /* the first phase is of the next step */
            look_ahead<N>(&p, &room->ring[met % RING], i + RING, phase, room, heads, &kept);
            grid_wait(p.arrived, &met);
        }
    }
    bulk_wait(&heads->copied, kept.copied);
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
