/* Decoding steps in one kernel, until no slot is active.
 *
 * A step of kernels spends its time on getting from one to the next, and so does one whose phases all multiprocessors share:
 * a barrier of an H100's whole grid takes 1.1 µs, and 1.4 with reading what the others have written. One of a cluster's
 * blocks, which hand over through one another's shared memory, is several times cheaper. So the first cluster alone computes the
 * layers. Each of its blocks has the residual of all rows. A warp has an output at a time, and its sum goes straight to where it
 * is read next: to every block, or to the one that has the head. What a product needs that nobody makes, weights
 * above all, is brought to shared memory two products ahead.
 *
 * The output layer, most of what a step reads, is the other clusters'. They keep a part of it in their shared memory. Twice a
 * step they and the first cluster wait for one another, through counters in memory.
 *
 * Of a layer, with what is read and written between two meetings of the cluster (all blocks' unless it says otherwise):
 *
 *     queries, keys, values      x → a block's heads
 *     self-attention             heads → wide
 *     output                     wide, x → x
 *     query                      x → query
 *     cross-attention            query → partial sums, in memory
 *     joining, output            partial sums, x → x
 *     MLP                        x → wide
 *                                wide, x → x
 *
 * The sums are those of the single kernels, in the same order: so are the bits. */
#include "gpu/cuda/step_attention.cuh"
#include "gpu/cuda/step_tokens.cuh"

/* Where there are no clusters the kernel is not launched. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define STEP_IS_BUILT false
#else
#define STEP_IS_BUILT true
#endif

#define STEP_OVER 0x40000000u /* added to STEP_BEGUN */

/* --- the first cluster ------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void load_layer(const struct step_params *p, int index, struct step_layer *to)
{
    int i = (int)threadIdx.x;
    if (i < (int)(sizeof(*to) / 16))
        cp_async_16((char *)to + i * 16, (const char *)&p->layers[index] + i * 16, 16);
}

/* Which layer follows. */
static __device__ __forceinline__ int behind(const struct step_params *p, int index)
{
    return index + 1 < p->n_layers ? index + 1 : 0;
}

/* A layer; what is ahead of its first two products is there or on its way, and then that of the next layer's. `at` counts
 * layers throughout the launch. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void run_layer(const struct step_params *p, struct step_room *room,
                                                 const struct step_memory *m, int index, unsigned at,
                                                 unsigned active)
{
    const struct step_layer *l = &room->layers[at % 2], *next = &room->layers[(at + 1) % 2];
    const struct cross_params cross = cross_of(p, l, index);
    for (int product = QKV; product < PRODUCTS; product++) {
        cp_async_wait<1>();
        __syncwarp(); /* the warp's biases are there */
        if (product % 2 == 0) {
            __syncthreads(); /* and everybody's part of the norm */
            norm_rows<n_rows, STEP_THREADS>(active, room->gamma, room->beta, p->n_state, p->n_state, m->x, m->normed);
        }
        if (product == CROSS_OUT)
            join_window(p, &cross, room, m);
        multiply_product<n_rows, bytes>(p, l, product, room, m, active);
        cluster_arrive();
        if (product == QKV)
            load_layer(p, behind(p, index), &room->layers[(at + 1) % 2]);
        if (product == CROSS_OUT)
            join_alignments(p, &cross, room);
        bring_product<bytes>(p, product < UP ? l : next, product < UP ? product + 2 : product - UP, room, m);
        cluster_wait();
        if (product == QKV)
            attend_to_past(p, index, room, m);
        if (product == QUERY)
            attend_to_window(p, &cross, room, m);
        if (product == QKV || product == QUERY) {
            cluster_arrive();
            cluster_wait();
        }
    }
}

/* A block: what the output layer multiplies, for all that wait for it. */
template <int n_rows>
static __device__ __forceinline__ void publish(const struct step_params *p, const struct step_memory *m,
                                               unsigned active)
{
    norm_rows<n_rows, STEP_THREADS>(active, p->gamma, p->beta, p->n_state, p->n_state, m->x, m->normed);
    for (int i = (int)threadIdx.x; i < n_rows * p->n_state; i += STEP_THREADS)
        p->normed[i] = m->normed[i];
    __syncthreads();
    if (threadIdx.x == 0)
        add_to_counter(&p->signals[STEP_NORMED], 1);
}

template <int n_rows, bool bytes>
static __device__ __forceinline__ void run_layers(const struct step_params *p, struct step_room *room,
                                                  const struct step_memory *m)
{
    int n = p->embed.rows.n, rank = rank_in_cluster(p), size = 1 << p->cluster_bits;
    unsigned n_others = gridDim.x - (unsigned)size, at = 0, begun = 0;
    load_layer(p, 0, &room->layers[0]);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    bring_product<bytes>(p, &room->layers[0], QKV, room, m);
    bring_product<bytes>(p, &room->layers[0], OUT, room, m);
    bool any = *p->n_active > 0;
    cluster_arrive(); /* all blocks are there, with their shared memory */
    cluster_wait();
    for (int r = rank; r < n; r += size) {
        struct slot_state *slot = &m->slots[r >> p->cluster_bits];
        take_slot(p, room, r, slot);
        begin_row(p, room, m, r, slot);
    }
    cluster_arrive();
    cluster_wait();
    while (begun < (unsigned)p->max_steps) {
        unsigned active = active_rows(room, n);
        if (!active || !any)
            break;
        begun++;
        if (rank == 0 && threadIdx.x == 0)
            add_to_counter(&p->signals[STEP_BEGUN], 1);
        for (int i = 0; i < p->n_layers; i++)
            run_layer<n_rows, bytes>(p, room, m, i, at++, active);
        if (rank == 0)
            publish<n_rows>(p, m, active);
        if (rank < n) {
            apply_all_rules(p, room);
            wait_for_counter(&p->signals[STEP_PARTS], begun * n_others);
        }
        for (int r = rank; r < n; r += size)
            finish_row(p, room, m, r, &m->slots[r >> p->cluster_bits]);
        cluster_arrive();
        cluster_wait();
    }
    if (rank == 0 && threadIdx.x == 0)
        add_to_counter(&p->signals[STEP_BEGUN], STEP_OVER - begun);
    cp_async_wait<0>();
}

/* --- the other clusters ------------------------------------------------------------------------------------------------ */

template <int n_rows, bool bytes>
static __device__ __forceinline__ void run_output(const struct step_params *p, struct step_room *room,
                                                  const struct output_memory *m)
{
    const struct output_share share = share_of_output<n_rows>(p);
    int me = (int)threadIdx.x;
    keep_weights<n_rows, bytes>(p, share, m);
    for (unsigned step = 1; wait_for_counter(&p->signals[STEP_BEGUN], step) < STEP_OVER; step++) {
        if (me < p->embed.rows.n)
            room->rows[me] = {p->embed.rows.pos[me], p->embed.rows.slot[me], 0, 0};
        __syncthreads();
        apply_all_rules(p, room);
        prefetch_weights<n_rows>(p, share);
        unsigned active = active_rows(room, p->embed.rows.n);
        wait_for_counter(&p->signals[STEP_NORMED], step);
        for (int i = me; i < n_rows * p->n_state; i += STEP_THREADS)
            m->normed[i] = p->normed[i];
        __syncthreads();
        multiply_output<n_rows, bytes>(p, share, m, active);
        __syncthreads();
        weigh_output(p, share, room, m, active);
        __syncthreads();
        if (me == 0)
            add_to_counter(&p->signals[STEP_PARTS], 1);
    }
}

/* Shared: step_memory, or output_memory. */
template <int n_rows, bool bytes>
static __global__ void __launch_bounds__(STEP_THREADS, 1) step_kernel(struct step_params p)
{
    SHARED(struct step_room, room, 1);
    DYNAMIC_SHARED(float, shared);
    if (!STEP_IS_BUILT)
        return;
    if (blockIdx.x >> p.cluster_bits) {
        const struct output_memory m = output_memory_of(&p, n_rows, shared);
        run_output<n_rows, bytes>(&p, room, &m);
    } else {
        const struct step_memory m = memory_of(&p, n_rows, shared);
        run_layers<n_rows, bytes>(&p, room, &m);
    }
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

static int rows_of_kernel(int n)
{
    return n <= 2 ? n : n <= 4 ? 4 : 8;
}

/* Even products and odd ones share what there is for a warp as they need it, which is as much as it multiplies at once. */
static void share_ahead(struct step_program *p, int n)
{
    static const int outs[PRODUCTS] = {3, 1, 1, 1, 0, 1};
    struct step_params *s = &p->params;
    int warps = STEP_WARPS << s->cluster_bits, few = (outputs_at_once(p->n_rows) + 1) / 2, need[2] = {0, 0},
        eights[PRODUCTS];
    for (int i = 0; i < PRODUCTS; i++) {
        int n_out = i == UP ? s->n_hidden : outs[i] * s->n_state;
        eights[i] = (i == DOWN ? s->n_hidden : s->n_state) / 8;
        s->outputs_a_warp[i] = (n_out + warps - 1) / warps;
        int all = (s->outputs_a_warp[i] + few - 1) / few * few * eights[i];
        need[i % 2] = all > need[i % 2] ? all : need[i % 2];
    }
    int all = need[0] + need[1];
    for (int half = 0; half < 2; half++)
        s->n_ahead[half] = all <= n ? need[half] : (int)((long)n * need[half] / all);
    for (int i = 0; i < PRODUCTS; i++)
        s->outputs_ahead[i] = s->n_ahead[i % 2] / eights[i];
}

/* A block takes all shared memory that a multiprocessor has for it: what the vectors leave is the weights'. */
static bool share_memory(struct step_program *p, size_t most)
{
    const size_t eight_of_each_warp = STEP_WARPS * sizeof(packed_weights);
    struct step_params *s = &p->params;
    int n_rows = rows_of_kernel(p->n_rows), n_parts = (s->output.n_out + PART_IDS - 1) / PART_IDS,
        n_others = p->n_blocks - (1 << s->cluster_bits);
    s->parts_of_a_block = n_others > 0 ? (n_parts + n_others - 1) / n_others : n_parts;
    size_t vectors = step_vectors(s, n_rows) * sizeof(float) + step_slots(s, n_rows),
           others = output_vectors(s, n_rows) * sizeof(float);
    if (vectors > most || others > most)
        return false;
    share_ahead(p, (int)((most - vectors) / eight_of_each_warp));
    s->n_kept = (int)((most - others) / eight_of_each_warp);
    return true;
}

bool step_fits(struct cuda_engine *c, struct step_program *p)
{
    const size_t fixed = sizeof(struct step_room) + STEP_SHARED_REST;
    step_function *kernel = kernel_for(p);
    bool fits = false;
    p->shared = c->shared_most > fixed ? (c->shared_most - fixed) / 16 * 16 : 0;
    fits = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)p->shared) ==
           cudaSuccess;
    int n = 0;
    for (int bits = STEP_CLUSTER_BITS; fits && bits > 0 && n < 2; bits--) {
        p->params.cluster_bits = bits;
        n = clusters_at_once(kernel, 1 << bits, STEP_THREADS, p->shared);
    }
    p->n_blocks = n << p->params.cluster_bits;
    fits = fits && n > 1 && share_memory(p, p->shared);
    if (!fits)
        cudaGetLastError(); /* the graph does as well */
    return fits;
}

bool cuda_step_launch(struct cuda_engine *c, const struct step_program *program, const int32_t *n_active,
                      int max_steps)
{
    struct step_params p = program->params;
    p.n_active = n_active;
    p.max_steps = max_steps < RUN_TOKENS_MAX ? max_steps : RUN_TOKENS_MAX; /* no slot has more */
    cudaError_t e = cudaMemsetAsync(p.signals, 0, STEP_SIGNALS * sizeof(*p.signals), c->stream);
    e = e ? e
          : launch_clusters(kernel_for(program), program->n_blocks, 1 << p.cluster_bits, STEP_THREADS,
                            program->shared, c->stream, p);
    if (e != cudaErrorCooperativeLaunchTooLarge && e != cudaErrorNotSupported) {
        cuda_check(c, e, "a step");
        return true;
    }
    cudaGetLastError(); /* somebody else has a part of the GPU: from now on the graphs */
    c->clusters = false;
    return false;
}
