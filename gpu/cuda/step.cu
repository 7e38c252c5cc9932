/* A whole decoding step, and the next ones, in one kernel: a block on each multiprocessor, which all meet between two phases
 * (step.cuh), until no slot is active. Where a step of kernels spends its time on getting from one to the next, this one
 * loads what a phase needs and does not depend on the phase before (weights, norms, biases) before it waits. It is
 * launched cooperatively, for all blocks must be there at once, and outside of graphs. The sums are those of the single
 * kernels, from the same functions: so are the bits. */
#include "gpu/cuda/select.cuh"
#include "gpu/cuda/step.cuh"

#define STEP_WARPS (STEP_THREADS / WARP)
#define TEAMS      (STEP_THREADS / ATTENTION_THREADS)
#define RING       3 /* phases that are known: this one, the next, and the one after, which is on its way */

/* Before Ampere the kernel does not fit its registers, and is not launched. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define STEP_IS_BUILT false
#else
#define STEP_IS_BUILT true
#endif

static_assert(STEP_THREADS == RULES_THREADS, "a block chooses for a row");

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
    float gamma[STEP_STATE_MAX], beta[STEP_STATE_MAX];
    bool goes_on;
};

/* A warp's first output of the next phase: of one row up to 1,536 values, of more rows, whose sums take registers, fewer. */
template <int n_rows> struct ahead {
    static const int n = n_rows == 1 ? 6 : n_rows == 2 ? 4 : 2; /* times 8 a lane */
    uint4 weights[n];
    float bias;
};

static __device__ __forceinline__ int first_unit(void)
{
    return (int)threadIdx.x / WARP * (int)gridDim.x +
           (int)blockIdx.x; /* neighbours are in different blocks */
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
        prefetch_lines(w->data + (size_t)first * (size_t)w->stride,
                       (int)((size_t)n * (size_t)w->stride * sizeof(__half) / LINE));
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

/* Everything that the next phase needs and nobody writes. */
template <int n_rows>
static __device__ __forceinline__ void look_ahead(const struct step_params *p, const struct step_phase *next,
                                                  struct step_room *room, struct ahead<n_rows> *ahead)
{
    const struct linear_rows_params *l = &next->linear;
    int lane = (int)threadIdx.x % WARP, out = first_unit(), n_chunks = l->weight.stride / 8;
    *ahead = {}; /* or it would take registers through every phase */
    if (next->kind == PHASE_SELF || next->kind == PHASE_FINISH)
        return;
    if (next->kind == PHASE_CROSS || next->kind == PHASE_CROSS_QUERIES)
        prefetch_window(&next->cross, room);
    if (next->kind == PHASE_CROSS)
        return;
    for (int i = (int)threadIdx.x; l->gamma && i < l->weight.n_in; i += STEP_THREADS) {
        room->gamma[i] = l->gamma[i];
        room->beta[i] = l->beta[i];
    }
    if (next->kind == PHASE_CROSS_QUERIES)
        prefetch_outputs(&l->weight, 0);
    if (next->kind == PHASE_LOGITS) {
        int r = (int)threadIdx.x / WARP, pos = r < p->select.rows.n ? room->rows[r].pos : -1;
        const struct token_masks masks = {p->select.masks, p->select.mask_words};
        if (lane == 0 && pos >= 0)
            apply_rules(&masks, &p->slots[room->rows[r].slot], pos + 1, p->select.logits.cols,
                        &room->allowed[r]);
    }
    if (next->kind != PHASE_LINEAR && next->kind != PHASE_JOINED)
        return;
    prefetch_outputs(&l->weight, n_units());
    if (out >= l->weight.n_out)
        return;
    const __half *weight = l->weight.data + (size_t)out * (size_t)l->weight.stride;
    ahead->bias = l->bias ? l->bias[out] : 0.0f;
    UNROLL
    for (int k = 0; k < ahead->n; k++) {
        if (k * WARP + lane < n_chunks)
            ahead->weights[k] = *(const uint4 *)(weight + (k * WARP + lane) * 8);
    }
}

/* --- phases ------------------------------------------------------------------------------------------------------------ */

/* A block: cross-attention's output of all rows to shared memory. Ends with a barrier. */
static __device__ __forceinline__ void take_joined(const struct step_phase *phase,
                                                   const struct step_room *room, int n_rows, unsigned active,
                                                   float *to)
{
    int stride = phase->linear.weight.stride;
    for (int r = 0; r < n_rows; r++) {
        for (int i = (int)threadIdx.x; i < stride; i += STEP_THREADS) {
            float x = 0.0f;
            if ((active >> r & 1) && i < phase->linear.weight.n_in) {
                struct attended a = join_parts(&phase->cross, r, i / HEAD, room->rows[r].n_frames, i % HEAD);
                x = a.out / a.sum;
            }
            to[r * stride + place(i, stride)] = x;
        }
    }
    __syncthreads();
}

/* An output a warp, from the weights that are there; then those for which there were no warps. */
template <int n_rows>
static __device__ __forceinline__ void linear_phase(const struct linear_rows_params *p, unsigned active,
                                                    const float *x, const struct ahead<n_rows> *ahead)
{
    const int lanes_a_row = WARP / n_rows;
    int lane = (int)threadIdx.x % WARP, row = lane / lanes_a_row, stride = p->weight.stride,
        out = first_unit();
    if (out >= p->weight.n_out)
        return;
    bool writes = lane % lanes_a_row == 0 && (active >> row & 1);
    float add = writes ? added_to(p, row, out) : 0.0f, sums[n_rows] = {};
    UNROLL
    for (int k = 0; k < ahead->n; k++) {
        float w[1][8];
        if (k * WARP + lane >= stride / 8)
            continue;
        split_eight(ahead->weights[k], w[0]);
        multiply_eight<n_rows, 1>(w, x, stride, k * WARP + lane, sums);
    }
    multiply_from<n_rows, 1>(p->weight.data + (size_t)out * (size_t)stride, stride, x, ahead->n * WARP, sums);
    float sum = warp_sums<n_rows>(sums);
    if (writes)
        finish(p, row, out, sum, ahead->bias, add);
    for (out += n_units(); out < p->weight.n_out; out += n_units()) {
        multiply<n_rows, 1>(p->weight.data + (size_t)out * (size_t)stride, stride, x, sums);
        finish_group<n_rows, 1>(p, 0, active, out, out, warp_sums<n_rows>(sums));
    }
}

/* A team a row and a head: its new key and value, then attention to all of them. */
static __device__ __forceinline__ void self_phase(const struct step_phase *phase, struct step_room *room,
                                                  int n)
{
    const struct mat qkv = phase->linear.in, to = phase->linear.out;
    struct engine_kv kv = phase->self;
    int team = (int)threadIdx.x / ATTENTION_THREADS, me = (int)threadIdx.x % ATTENTION_THREADS;
    int n_state = kv.n_head * HEAD, units = n * kv.n_head;
    for (int first = (int)blockIdx.x; first < units; first += TEAMS * (int)gridDim.x) {
        int unit = first + team * (int)gridDim.x, r = unit < units ? unit / kv.n_head : 0,
            head = unit % kv.n_head;
        int pos = unit < units ? room->rows[r].pos : -1, slot = room->rows[r].slot;
        const float *row = (const float *)qkv.data + (size_t)r * (size_t)qkv.stride;
        bool works = pos >= 0 && pos < kv.n_ctx;
        if (works)
            append_value(kv, phase->cross.layer, slot, pos, head * HEAD + me % HEAD + me / HEAD * n_state,
                         row);
        __syncthreads(); /* its own key is there */
        struct keys keys = self_keys(kv, phase->cross.layer, slot, head, NULL, pos);
        struct attended a = attend<TEAMS>(row + head * HEAD, keys, works ? pos + 1 : 0,
                                          room->weights + team * RUN_TOKENS_MAX);
        if (works && me < HEAD)
            ((float *)to.data)[(size_t)r * (size_t)to.stride + (size_t)(head * HEAD + me)] = a.out / a.sum;
    }
}

/* A team: its head's query of a row, which is in shared memory. */
static __device__ __forceinline__ void make_query(const struct linear_rows_params *p, int head,
                                                  const float *x, float *query)
{
    const int n_outs = SUMS_A_WARP, outs_a_warp = HEAD / ATTENTION_WARPS;
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP % ATTENTION_WARPS,
        stride = p->weight.stride;
    for (int i = warp * outs_a_warp; i < (warp + 1) * outs_a_warp; i += n_outs) {
        float sums[n_outs];
        int out = head * HEAD + i, mine = lane / (WARP / n_outs);
        multiply<1, n_outs>(p->weight.data + (size_t)out * (size_t)stride, stride, x, sums);
        float sum = warp_sums<n_outs>(sums);
        if (lane % (WARP / n_outs) == 0)
            query[i + mine] = p->bias ? sum + p->bias[out + mine] : sum;
    }
}

/* A team a row, a head and a part of the window. */
static __device__ __forceinline__ void cross_phase(const struct step_phase *phase, struct step_room *room,
                                                   int n, const float *x)
{
    const struct cross_params *p = &phase->cross;
    int team = (int)threadIdx.x / ATTENTION_THREADS, n_head = p->kv.n_head;
    int n_parts = (p->kv.n_ctx + CROSS_PART - 1) / CROSS_PART, units = n * n_head * n_parts;
    for (int first = (int)blockIdx.x; first < units; first += TEAMS * (int)gridDim.x) {
        int unit = first + team * (int)gridDim.x, head = unit / n_parts % n_head, part = unit % n_parts;
        int r = unit < units ? unit / n_parts / n_head : 0;
        const struct step_row *row = &room->rows[r];
        int n_keys = unit < units && row->pos >= 0 ? keys_in_part(row->n_frames, part) : 0;
        const float *q = (const float *)p->q.data + (size_t)r * (size_t)p->q.stride + head * HEAD;
        if (phase->kind == PHASE_CROSS_QUERIES) {
            q = room->queries + team * HEAD;
            if (n_keys > 0)
                make_query(&phase->linear, head, x + r * phase->linear.weight.stride,
                           room->queries + team * HEAD);
            __syncthreads();
        }
        float *weights = room->weights + team * RUN_TOKENS_MAX;
        struct attended a = attend<TEAMS>(q, cross_keys(p, row->audio, head, part), n_keys, weights);
        if (n_keys > 0)
            store_part(p, r, head, part, a, n_keys, weights);
        __syncthreads(); /* nobody reads the weights any more */
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
template <int n_rows>
static __device__ __forceinline__ void
logits_phase(const struct step_params *p, const struct linear_rows_params *l, const struct step_room *room,
             unsigned active, const float *x)
{
    const int n_outs = SUMS_A_WARP / n_rows, lanes_a_sum = WARP / SUMS_A_WARP;
    int lane = (int)threadIdx.x % WARP, n_out = l->weight.n_out, stride = l->weight.stride;
    int n_parts = (n_out + PART_IDS - 1) / PART_IDS;
    for (int part = first_unit(); part < n_parts; part += n_units()) {
        float mine[n_rows] = {};
        for (int i = 0; i < PART_IDS && part * PART_IDS + i < n_out; i += n_outs) {
            float sums[n_rows * n_outs];
            int group = (part * PART_IDS + i) / n_outs, out = first_of_group(&l->weight, group, n_outs);
            multiply<n_rows, n_outs>(l->weight.data + (size_t)out * (size_t)stride, stride, x, sums);
            float sum = warp_sums<n_rows * n_outs>(sums);
            finish_group<n_rows, n_outs>(l, 0, active, group, out, sum);
            int o = part * PART_IDS + lane - out; /* this lane's output in the group, if it is one */
            UNROLL
            for (int r = 0; r < n_rows; r++) {
                float x_r = __shfl_sync(LANES, sum, (o * n_rows + r) * lanes_a_sum & (WARP - 1));
                mine[r] = o >= 0 && o < n_outs ? x_r : mine[r];
            }
        }
        UNROLL
        for (int r = 0; r < n_rows; r++) {
            if (!(active >> r & 1))
                continue;
            struct select_part w = weigh_part(&room->allowed[r], part * PART_IDS, mine[r]);
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

template <int n_rows>
static __device__ __forceinline__ void run_phase(const struct step_params *p, const struct step_phase *phase,
                                                 struct step_room *room, unsigned active, float *x,
                                                 const struct ahead<n_rows> *ahead)
{
    const struct linear_rows_params *l = &phase->linear;
    int n = p->embed.rows.n;
    if (phase->kind == PHASE_SELF) {
        self_phase(phase, room, n);
        return;
    }
    if (phase->kind == PHASE_FINISH) {
        for (int r = (int)blockIdx.x; r < n; r += (int)gridDim.x)
            finish_row(p, room, r);
        return;
    }
    if (phase->kind == PHASE_JOINED)
        take_joined(phase, room, n_rows, active, x);
    else if (phase->kind != PHASE_CROSS)
        take_rows(l, 0, n_rows, active, x);
    if (phase->kind != PHASE_CROSS && l->gamma)
        norm_rows(n_rows, active, room->gamma, room->beta, l->weight.n_in, l->weight.stride, x);
    if (phase->kind == PHASE_CROSS || phase->kind == PHASE_CROSS_QUERIES)
        cross_phase(phase, room, n, x);
    else if (phase->kind == PHASE_LOGITS)
        logits_phase<n_rows>(p, l, room, active, x);
    else
        linear_phase<n_rows>(l, active, x, ahead);
    if (phase->kind == PHASE_JOINED)
        alignment(&phase->cross, room, n);
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

/* grid: as many blocks as there are multiprocessors. Shared: [n_rows, the longest row] f32. */
template <int n_rows>
static __global__ void __launch_bounds__(STEP_THREADS, 1) step_kernel(struct step_params p)
{
    SHARED(struct step_room, room, 1);
    DYNAMIC_SHARED(float, x);
    struct ahead<n_rows> ahead = {
    };
    unsigned met = 0;
    int at = 0;
    load_phase(&p, 0, &room->ring[0]);
    load_phase(&p, 1, &room->ring[1]);
    for (int r = (int)blockIdx.x; r < p.embed.rows.n; r += (int)gridDim.x)
        begin_row(&p, r);
    __syncthreads();
    look_ahead(&p, &room->ring[0], room, &ahead);
    grid_barrier(p.arrived, &met);
    for (int step = 0; step < (STEP_IS_BUILT ? p.max_steps : 0); step++) {
        unsigned active = begin_step(&p, room);
        if (!room->goes_on)
            break;
        for (int i = 0; i < p.n_phases; i++, at++) {
            const struct step_phase *phase = &room->ring[at % RING];
            load_phase(&p, at + 2, &room->ring[(at + 2) % RING]);
            prefetch_lines(phase->soon, phase->soon_lines);
            run_phase<n_rows>(&p, phase, room, active, x, &ahead);
            look_ahead(&p, &room->ring[(at + 1) % RING], room, &ahead);
            grid_barrier(p.arrived, &met);
        }
    }
}

/* --- launching --------------------------------------------------------------------------------------------------------- */

typedef void step_function(struct step_params);

int step_rows_template(int n)
{
    return n <= 1 ? 1 : n <= 2 ? 2 : n <= 4 ? 4 : 8;
}

static step_function *kernel_for(int n)
{
    return n <= 1 ? step_kernel<1> : n <= 2 ? step_kernel<2> : n <= 4 ? step_kernel<4> : step_kernel<8>;
}

bool step_fits(struct cuda_engine *c, int n_rows, size_t shared)
{
    const void *kernel = (const void *)kernel_for(n_rows);
    int blocks = 0;
    bool fits = shared + sizeof(struct step_room) + STEP_SHARED_REST <= c->shared_most;
    if (fits && shared > (size_t)STEP_SHARED_PLAIN)
        fits = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    (int)(c->shared_most - sizeof(struct step_room) - STEP_SHARED_REST)) ==
               cudaSuccess;
    fits =
        fits &&
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, STEP_THREADS, shared) == cudaSuccess &&
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
          : launch_cooperative(kernel_for(program->n_rows), c->n_multiprocessors, STEP_THREADS,
                               program->shared, c->stream, p);
    if (e != cudaErrorCooperativeLaunchTooLarge && e != cudaErrorNotSupported) {
        cuda_check(c, e, "a step");
        return true;
    }
    cudaGetLastError(); /* somebody else has a part of the GPU: from now on the graphs */
    c->cooperative = false;
    return false;
}
