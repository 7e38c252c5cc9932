/* A whole decoding step, and the next ones, in one kernel: a block on each multiprocessor, which all meet between two phases
 * (step.cuh), until no slot is active, or for STEPS_OF_A_KERNEL. Where a step of kernels spends its time on getting from one to
 * the next, this one fetches what the next phase needs and does not depend on this one (weights, norms, biases, the past and
 * the window) while one warp waits for the other blocks. It is launched cooperatively, for all blocks must be there at once, and
 * outside of graphs. The sums are those of the single kernels, from the same functions: so are the bits.
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
#include "gpu/cuda/step_ahead.cuh"
#include "gpu/cuda/step_phases.cuh"

/* Before Ampere the kernel does not fit its registers, and is not launched; nor is what a newer GPU's driver compiles of such
 * PTX. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define STEP_IS_BUILT false
#else
#define STEP_IS_BUILT true
#endif

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

/* A step begins: what is known of its rows, and whether there is one. Ends with a barrier. */
static __device__ __forceinline__ void begin_step(const struct step_params *p, struct step_room *room)
{
    int r = (int)threadIdx.x;
    if (r < WARP) {
        unsigned active = 0;
        if (r < p->embed.rows.n) {
            int pos = p->embed.rows.pos[r], slot = p->embed.rows.slot[r];
            room->rows[r] = {pos, slot, p->slots[slot].audio, p->slots[slot].n_frames};
            active = (unsigned)(pos >= 0) << r;
        }
        for (int lane = ROWS_MAX / 2; lane > 0; lane /= 2)
            active |= __shfl_xor_sync(LANES, active, lane);
        if (r == 0) {
            room->active = active;
            room->goes_on = *p->n_active > 0;
        }
    }
    __syncthreads();
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
    for (int i = 0; i < RING; i++)
        load_phase(&p, i, (int)threadIdx.x, STEP_THREADS, &room->ring[i]);
    cp_async_commit();
    if (threadIdx.x == 0) {
        room->first_heads = unit_of_heads(p.n_head, p.n_state, (int)blockIdx.x, near<n_rows>::rows);
        room->first_window = unit_of_window(p.n_head, p.n_window, (int)blockIdx.x);
    }
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

/* A GPU that drives a display ends kernels that take seconds; a step of the largest model takes some ten milliseconds on a small
 * card. */
#ifndef STEPS_OF_A_KERNEL /* the tests have fewer */
#define STEPS_OF_A_KERNEL 128
#endif

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
    cudaFuncAttributes built;
    bool fits =
        cudaFuncGetAttributes(&built, kernel) == cudaSuccess && built.ptxVersion >= 80 &&
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most) == cudaSuccess &&
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, STEP_THREADS, p->shared) ==
            cudaSuccess &&
        blocks > 0;
    if (!fits)
        cudaGetLastError(); /* the graph does as well */
    return fits;
}

static cudaError_t launch_some(struct cuda_engine *c, const struct step_program *program,
                               const int32_t *n_active, int max_steps)
{
    struct step_params p = program->params;
    p.n_active = n_active;
    p.max_steps = max_steps;
    cudaError_t e = cudaMemsetAsync(p.arrived, 0, sizeof(*p.arrived), c->stream);
    return e ? e
             : launch_cooperative(kernel_for(program), c->n_multiprocessors, STEP_THREADS, program->shared,
                                  c->stream, p);
}

bool cuda_step_launch(struct cuda_engine *c, const struct step_program *program, const int32_t *n_active,
                      int max_steps)
{
    int left = max_steps < RUN_TOKENS_MAX ? max_steps : RUN_TOKENS_MAX; /* no slot has more */
    cudaError_t e = cudaSuccess;
    for (; left > 0 && e == cudaSuccess; left -= STEPS_OF_A_KERNEL)
        e = launch_some(c, program, n_active, left < STEPS_OF_A_KERNEL ? left : STEPS_OF_A_KERNEL);
    if (e != cudaErrorCooperativeLaunchTooLarge && e != cudaErrorNotSupported) {
        cuda_check(c, e, "a step");
        return true;
    }
    cudaGetLastError(); /* somebody else has a part of the GPU: from now on the graphs */
    c->cooperative = false;
    return false;
}
