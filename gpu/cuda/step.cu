/* A whole decoding step, and the next ones, in one kernel: a block on each multiprocessor, which all meet between two phases
 * (step.cuh), until no slot is active. Where a step of kernels spends its time on getting from one to the next, this one
 * fetches what the next phase needs and does not depend on this one (weights, norms, biases, the past and the window) while
 * one warp waits for the other blocks. It is launched cooperatively, for all blocks must be there at once, and outside of graphs. The sums are
 * those of the single kernels, from the same functions: so are the bits.
 *
 * A product that is added to the residual x does not wait for all of its inputs: who has made some of them multiplies them, and
 * adds what they contribute to sums in fixed point (fixed.cuh), in any order. Who reads x next adds these sums to it,
 * and a block each a part of the result goes to the other one of two x, for others still read the first. There are three sums,
 * used in turn: while one is added to, the next one is set to zero. Read (r), stored (s), added to (+), set to zero (0) are, with up
 * to FUSED_ROWS rows:
 *
 *                               x   other x   sums of   sums of            sums of
 *                                             self-     cross-attention    the MLP
 *     queries, keys, values     r   s                                      r
 *     self-attention, output                  +         0
 *     cross-attention           s   r         r
 *     joining, output                                   +                  0
 *     MLP                       r   s         0         r                  +
 *     queries, keys, values     s   r                                      r             and so on
 *
 * With more rows the MLP is two phases, and the second one adds to x itself: to each value one warp, which nobody else reads. */
#include "gpu/cuda/step_ahead.cuh"
#include "gpu/cuda/step_phases.cuh"

/* --- the kernel -------------------------------------------------------------------------------------------------------- */

template <int n_rows, bool bytes>
static __device__ __forceinline__ void run_phase(const struct step_params *p, const struct step_phase *phase,
                                                 struct step_room *room, unsigned active, float *x,
                                                 __half *keys, const struct ahead *ahead)
{
    const struct linear_rows_params *l = &phase->linear;
    int n = p->embed.rows.n;
    cp_async_wait<0>();
    if (phase->kind == PHASE_FINISH) {
        ROLLED
        for (int r = (int)blockIdx.x; r < n; r += (int)gridDim.x)
            finish_row(p, room, r);
        return;
    }
    clear_sums(phase->clears, p->n_sums);
    if (phase->kind == PHASE_SELF || phase->kind == PHASE_JOINED) {
        heads_phase<n_rows, bytes>(p, phase, room, active, keys, ahead);
        if (phase->kind == PHASE_JOINED)
            alignment(&phase->cross, room, n);
        return;
    }
    if (phase->kind != PHASE_CROSS) {
        take_residual<n_rows>(l, &phase->pending, active, x);
        if (l->gamma)
            norm_rows<n_rows, STEP_THREADS>(active, room->gamma, room->beta, l->weight.n_in, l->weight.stride,
                                            x);
    }
    if (phase->kind == PHASE_CROSS || phase->kind == PHASE_CROSS_QUERIES)
        cross_phase<n_rows, bytes>(p, phase, room, x, keys, ahead);
    else if (phase->kind == PHASE_LOGITS)
        logits_phase<n_rows, bytes>(p, l, room, active, x);
    else if (phase->kind == PHASE_LINEAR)
        linear_phase<n_rows, bytes>(l, active, x, ahead);
    else if constexpr (n_rows <= FUSED_ROWS)
        mlp_phase<n_rows, bytes>(phase, room, active, x, ahead);
}

/* grid: as many blocks as there are multiprocessors. Shared: keys and values on their way, [n_rows, the longest row] f32,
 * weights on their way. */
template <int n_rows, bool bytes>
static __global__ void __launch_bounds__(STEP_THREADS, 1) step_kernel(struct step_params p)
{
    SHARED(struct step_room, room, 1);
    DYNAMIC_SHARED(__half, keys);
    float *x = (float *)(keys + near<n_rows>::bytes / sizeof(__half));
    struct ahead ahead = {(packed_weights *)(x + n_rows * p.stride), p.n_ahead, 0.0f};
    unsigned met = 0;
    clear_sums(p.sums, STEP_SUMS * p.n_sums);
    for (int i = 0; i < RING; i++)
        load_phase(&p, i, (int)threadIdx.x, STEP_THREADS, &room->ring[i]);
    cp_async_commit();
    if (threadIdx.x == 0) {
        room->first_heads = unit_of_heads(p.n_head, p.n_state, (int)blockIdx.x, near<n_rows>::rows);
        room->first_window = unit_of_window(p.n_head, p.n_window, (int)blockIdx.x);
    }
    know_rows(&p, room);
    ROLLED
    for (int r = (int)blockIdx.x; r < p.embed.rows.n; r += (int)gridDim.x)
        begin_row(&p, r);
    cp_async_wait<0>();
    grid_arrive(p.arrived);
    look_ahead<n_rows, bytes>(&p, &room->ring[0], room, keys, &ahead);
    grid_wait(p.arrived, &met);
    const int n_steps = STEP_IS_BUILT ? p.max_steps : 0;
    ROLLED
    for (int step = 0; step < n_steps; step++) {
        begin_step(&p, room);
        if (!room->goes_on)
            break;
        ROLLED
        for (int i = 0; i < p.n_phases; i++) {
            /* The blocks have met once before the first phase, and once behind each other one. */
            struct step_phase *phase = &room->ring[(met + 1) % RING];
            run_phase<n_rows, bytes>(&p, phase, room, room->active, x, keys, &ahead);
            grid_arrive(p.arrived);
            if (threadIdx.x >= WARP)
                load_phase(&p, i + RING, (int)threadIdx.x - WARP, AHEAD_THREADS, phase);
            look_ahead<n_rows, bytes>(&p, &room->ring[met % RING], room, keys, &ahead);
            grid_wait(p.arrived, &met);
        }
    }
    cp_async_wait<0>();
}

/* --- launching --------------------------------------------------------------------------------------------------------- */

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
    return p->by_heads              ? step_heads_kernel(p->params.n_state)
           : p->params.tokens.bytes ? kernel_of_form<true>(p->n_rows)
                                    : kernel_of_form<false>(p->n_rows);
}

template <int n_rows> static size_t shared_for(int stride)
{
    return (size_t)near<n_rows>::bytes + (size_t)n_rows * (size_t)stride * sizeof(float);
}

/* As many clusters as there can be, if these are enough for the heads: the largest that do. */
static bool clusters_fit(struct cuda_engine *c, struct step_program *p, size_t most)
{
    for (int n = CLUSTER_MOST; n >= CLUSTER_LEAST; n /= 2) {
        p->shared = step_heads_shared(p, n);
        int clusters = p->shared <= most ? clusters_at_once(kernel_for(p), n, STEP_THREADS, p->shared) : 0;
        if (clusters < p->params.n_head || parts_of(p->params.n_window) > n * TEAMS)
            continue;
        p->params.cluster = n;
        p->n_blocks = n * clusters;
        return true;
    }
    return false;
}

static bool blocks_fit(struct cuda_engine *c, struct step_program *p, size_t most)
{
    const size_t an_eight = STEP_THREADS * sizeof(packed_weights);
    int n = p->n_rows, blocks = 0;
    p->shared = n <= 1   ? shared_for<1>(p->stride)
                : n <= 2 ? shared_for<2>(p->stride)
                : n <= 4 ? shared_for<4>(p->stride)
                         : shared_for<8>(p->stride);
    if (p->shared > most)
        return false;
    size_t n_ahead = (most - p->shared) / an_eight;
    p->params.n_ahead = n_ahead < AHEAD_MOST ? (int)n_ahead : AHEAD_MOST;
    p->shared += (size_t)p->params.n_ahead * an_eight;
    p->params.cluster = 1;
    p->n_blocks = c->n_multiprocessors;
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, (const void *)kernel_for(p), STEP_THREADS,
                                                         p->shared) == cudaSuccess &&
           blocks > 0;
}

bool step_fits(struct cuda_engine *c, struct step_program *p)
{
    const void *kernel = (const void *)kernel_for(p);
    const size_t fixed = sizeof(struct step_room) + STEP_SHARED_REST,
                 most = c->shared_most > fixed ? c->shared_most - fixed : 0;
    cudaFuncAttributes built;
    p->params.stride = p->stride;
    bool fits =
        kernel && cudaFuncGetAttributes(&built, kernel) == cudaSuccess &&
        built.ptxVersion >= (p->by_heads ? 90 : 80) &&
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most) == cudaSuccess &&
        (p->by_heads ? clusters_fit(c, p, most) : blocks_fit(c, p, most));
    if (!fits)
        cudaGetLastError(); /* the graph does as well */
    return fits;
}

bool cuda_step_launch(struct cuda_engine *c, const struct step_program *program, const int32_t *n_active,
                      int max_steps)
{
    struct step_params p = program->params;
    c->base.repeat = program->by_heads ? "clusters" : "kernel";
    p.n_active = n_active;
    p.max_steps = max_steps < RUN_TOKENS_MAX ? max_steps : RUN_TOKENS_MAX; /* no slot has more */
    cudaError_t e = cudaMemsetAsync(p.arrived, 0, sizeof(*p.arrived), c->stream);
    e = e ? e
          : launch_cooperative(kernel_for(program), program->n_blocks, p.cluster, STEP_THREADS,
                               program->shared, c->stream, p);
    if (e != cudaErrorCooperativeLaunchTooLarge && e != cudaErrorNotSupported) {
        cuda_check(c, e, "a step");
        return true;
    }
    cudaGetLastError(); /* somebody else has a part of the GPU: from now on the graphs */
    c->cooperative = false;
    return false;
}
