/* The products of a layer: a warp of the cluster an output, whose sum goes to whom it concerns. Inside step.cu.
 *
 * A warp has neighbouring outputs, whose weights are a piece of memory. */
#ifndef CAPTIOND_GPU_CUDA_STEP_PRODUCTS_CUH
#define CAPTIOND_GPU_CUDA_STEP_PRODUCTS_CUH

#include "gpu/cuda/step_room.cuh"

/* A warp's outputs of a product. */
struct outputs {
    int first, n;
};

static __device__ __forceinline__ struct outputs outputs_of(const struct step_params *p, int product, int n_out)
{
    int warp = ((int)threadIdx.x / WARP << p->cluster_bits) + rank_in_cluster(p), each = p->outputs_a_warp[product],
        first = warp * each, left = n_out - first;
    return {first, left < 0 ? 0 : least(left, each)};
}

/* Where a warp's first weights are: even products and odd ones have halves of their own. */
static __device__ __forceinline__ packed_weights *weights_ahead(const struct step_params *p,
                                                                const struct step_memory *m, int product)
{
    int warp = (int)threadIdx.x / WARP;
    return product % 2 == 0 ? m->ahead + warp * p->n_ahead[0]
                            : m->ahead + STEP_WARPS * p->n_ahead[0] + warp * p->n_ahead[1];
}

static __device__ __forceinline__ float *biases_ahead(struct step_room *room, int product)
{
    return room->bias + (product % 2 * STEP_WARPS + (int)threadIdx.x / WARP) * BIASES_AHEAD;
}

/* A block: what a product needs that nobody makes goes on its way: the first weights, biases, the norm. One group of copies. */
template <bool bytes>
static __device__ __forceinline__ void bring_product(const struct step_params *p, const struct step_layer *l,
                                                     int product, struct step_room *room,
                                                     const struct step_memory *m)
{
    const struct engine_weight *w = &l->weight[product];
    const struct outputs mine = outputs_of(p, product, w->n_out);
    int lane = (int)threadIdx.x % WARP, n = least(mine.n, p->outputs_ahead[product]) * (w->stride / 8);
    packed_weights *to = weights_ahead(p, m, product);
    __syncwarp(); /* nobody reads what was there before any more */
    if constexpr (bytes) {
        for (int i = lane; i < n; i += WARP)
            bring_weights<true>(to + i, weight_at<true>(w, mine.first, i));
    } else {
        const uint4 *from = (const uint4 *)(w->data + (size_t)mine.first * (size_t)w->stride);
        for (int i = lane; i < n; i += WARP)
            cp_async_16(to + i, from + i, 16);
    }
    if (l->bias[product] && lane < mine.n)
        cp_async_few<4>(biases_ahead(room, product) + lane, l->bias[product] + mine.first + lane);
    for (int i = (int)threadIdx.x; product % 2 == 0 && i < p->n_state / 4; i += STEP_THREADS) {
        cp_async_16(room->gamma + i * 4, l->gamma[product / 2] + i * 4, 16);
        cp_async_16(room->beta + i * 4, l->beta[product / 2] + i * 4, 16);
    }
    cp_async_commit();
}

/* Lanes first, first + step …: the same value to each block of the cluster. */
static __device__ __forceinline__ void push(const struct step_params *p, float *to, float x, int first, int step)
{
    for (int rank = first; rank < 1 << p->cluster_bits; rank += step)
        *in_block(to, rank) = x;
}

static __device__ __forceinline__ float *residual_at(const struct step_params *p, const struct step_memory *m,
                                                     int row, int out)
{
    return m->x + row * p->n_state + place(out, p->n_state);
}

/* Some lanes have output `out` of a row: to where it is read next. */
static __device__ __forceinline__ void deliver(const struct step_params *p, const struct step_memory *m,
                                               int product, int row, int out, float x, int lane, int lanes)
{
    if (product == QKV) {
        int block = out / HEAD, which = block >= 2 * p->n_head ? 2 : block >= p->n_head ? 1 : 0;
        int unit = row * p->n_head + block - which * p->n_head, mine = unit >> p->cluster_bits;
        if (lane == 0)
            *in_block(m->heads + (mine * 3 + which) * HEAD + out % HEAD,
                      unit & ((1 << p->cluster_bits) - 1)) = x;
    } else if (product == QUERY) {
        push(p, m->query + row * p->n_state + out, x, lane, lanes);
    } else if (product == UP) {
        push(p, m->wide + row * p->n_hidden + place(out, p->n_hidden), gelu(x), lane, lanes);
    } else {
        push(p, residual_at(p, m, row, out), x, lane, lanes);
    }
}

/* A warp's sums of `outs` outputs, whose weights are in shared memory or, from `first` on, in memory. The order of a sum is
 * that of rows.cu. What is behind the last output of all is computed from the last one again. */
template <int n_rows, int outs, bool bytes>
static __device__ __forceinline__ float sum_outputs(const struct engine_weight *w, const packed_weights *ahead,
                                                    int first, const float *in)
{
    int n = w->stride / 8;
    float sums[outs * n_rows] = {};
    for (int i = (int)threadIdx.x % WARP; i < n; i += WARP) {
        packed_weights packed[outs];
        float weights[outs][8];
        if (ahead) {
            UNROLL
            for (int o = 0; o < outs; o++)
                packed[o] = ahead[o * n + i];
        } else {
            UNROLL
            for (int o = 0; o < outs; o++)
                packed[o] = load_weights<bytes>(weight_at<bytes>(w, least(first + o, w->n_out - 1), i));
        }
        UNROLL
        for (int o = 0; o < outs; o++)
            split_weights<bytes>(packed[o], weights[o]);
        multiply_eight<n_rows, outs>(weights, in, w->stride, i, sums);
    }
    return warp_sums<outs * n_rows>(sums);
}

/* A warp: up to `outs` of its outputs, from number `at` on. */
template <int n_rows, int outs, bool bytes>
static __device__ __forceinline__ void multiply_outputs(const struct step_params *p, const struct step_layer *l,
                                                        int product, struct step_room *room,
                                                        const struct step_memory *m, unsigned active,
                                                        struct outputs mine, int at)
{
    const int lanes = WARP / (outs * n_rows); /* that have the same sum in the end */
    const struct engine_weight *w = &l->weight[product];
    const bool adds = product % 2 == 1;
    bool there = at + outs <= p->outputs_ahead[product];
    const packed_weights *ahead = weights_ahead(p, m, product) + at * (w->stride / 8);
    int lane = (int)threadIdx.x % WARP, value = lane / lanes, row = value % n_rows, i = at + value / n_rows;
    bool is_mine = i < mine.n && (active >> row & 1);
    float before = is_mine && adds ? *residual_at(p, m, row, mine.first + i) : 0.0f;
    float sum = sum_outputs<n_rows, outs, bytes>(w, there ? ahead : NULL, mine.first + at, adds ? m->wide : m->normed);
    __syncwarp(); /* several lanes have read what one of them writes now */
    if (!is_mine)
        return;
    if (l->bias[product])
        sum += i < BIASES_AHEAD ? biases_ahead(room, product)[i] : l->bias[product][mine.first + i];
    deliver(p, m, product, row, mine.first + i, adds ? sum + before : sum, lane % lanes, lanes);
}

/* A warp. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void multiply_product(const struct step_params *p, const struct step_layer *l,
                                                        int product, struct step_room *room,
                                                        const struct step_memory *m, unsigned active)
{
    const int many = outputs_at_once(n_rows), few = many > 1 ? many / 2 : 1;
    const struct outputs mine = outputs_of(p, product, l->weight[product].n_out);
    int at = 0;
    for (; mine.n - at > few; at += many)
        multiply_outputs<n_rows, many, bytes>(p, l, product, room, m, active, mine, at);
    if (at < mine.n)
        multiply_outputs<n_rows, few, bytes>(p, l, product, room, m, active, mine, at);
}

#endif
