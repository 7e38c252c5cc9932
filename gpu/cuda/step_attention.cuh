/* Attention of the step kernel: a team a row and a head, and of the window a part. Inside step.cu. */
#ifndef CAPTIOND_GPU_CUDA_STEP_ATTENTION_CUH
#define CAPTIOND_GPU_CUDA_STEP_ATTENTION_CUH

#include "gpu/cuda/step_products.cuh"

/* A block: its heads to their past and to themselves, whose keys and values go to the cache. */
static __device__ __forceinline__ void attend_to_past(const struct step_params *p, int layer,
                                                      struct step_room *room, const struct step_memory *m)
{
    int team = afresh((int)threadIdx.x) / ATTENTION_THREADS, me = (int)threadIdx.x % ATTENTION_THREADS;
    int n_units = p->embed.rows.n * p->n_head, rank = rank_in_cluster(p);
    for (int first = 0; (first << p->cluster_bits) + rank < n_units; first += TEAMS) {
        int mine = first + team, unit = (mine << p->cluster_bits) + rank;
        int r = unit / p->n_head, head = unit - r * p->n_head;
        int pos = unit < n_units && room->rows[r].pos < p->self.n_ctx ? room->rows[r].pos : -1;
        const float *query = m->heads + (pos < 0 ? 0 : mine * 3 * HEAD);
        __half *own = room->own + team * 2 * HEAD, *first_key = p->self.data;
        struct keys keys = {NULL, (size_t)p->self.n_ctx * HEAD, NULL, 0, pos, own};
        if (pos >= 0) {
            first_key = kv_keys(p->self, layer, room->rows[r].slot, head);
            own[me] = to_half(query[HEAD + me]); /* the key, and the value behind it */
            keys.first = first_key;
        }
        __syncthreads(); /* both are there */
        struct attended a = attend<TEAMS>(query, keys, pos + 1, room->weights + team * RUN_TOKENS_MAX);
        if (pos < 0)
            continue;
        first_key[(me < HEAD ? 0 : keys.to_values) + (size_t)(pos * HEAD + me % HEAD)] = own[me];
        if (me < HEAD)
            push(p, m->wide + r * p->n_state + place(head * HEAD + me, p->n_state), a.out / a.sum, 0, 1);
    }
}

/* What rows_attention.cuh calls a step's cross-attention in this layer. */
static __device__ __forceinline__ struct cross_params cross_of(const struct step_params *p,
                                                               const struct step_layer *l, int layer)
{
    struct cross_params c = {};
    c.rows = p->embed.rows;
    c.kv = p->cross;
    c.layer = layer;
    c.partial = p->partial;
    c.align_heads = l->align_heads;
    c.align_first = l->align_first;
    c.n_align = p->n_align;
    c.align = p->align;
    return c;
}

/* A team a row, a head and a part of the window. */
static __device__ __forceinline__ void attend_to_window(const struct step_params *p, const struct cross_params *c,
                                                        struct step_room *room, const struct step_memory *m)
{
    int team = afresh((int)threadIdx.x) / ATTENTION_THREADS, n_parts = (c->kv.n_ctx + CROSS_PART - 1) / CROSS_PART;
    int n_units = p->embed.rows.n * p->n_head * n_parts;
    for (int first = 0; first < n_units; first += TEAMS << p->cluster_bits) {
        int unit = first + (team << p->cluster_bits) + rank_in_cluster(p);
        int r = unit / n_parts / p->n_head, head = unit / n_parts - r * p->n_head, part = unit % n_parts;
        bool busy = unit < n_units && room->rows[r].pos >= 0;
        int n_keys = busy ? keys_in_part(room->rows[r].n_frames, part) : 0;
        float *weights = room->weights + team * RUN_TOKENS_MAX;
        struct keys window = cross_keys(c, n_keys ? room->rows[r].audio : 0, head, part);
        struct attended a = attend<TEAMS>(m->query + (n_keys ? r * p->n_state : 0) + head * HEAD, window, n_keys, weights);
        if (n_keys > 0)
            store_part(c, r, head, part, a, n_keys, weights);
        __syncthreads(); /* nobody reads the weights any more */
    }
}

/* A block: the parts of all rows and heads put together. Ends with a barrier. */
static __device__ __forceinline__ void join_window(const struct step_params *p, const struct cross_params *c,
                                                   const struct step_room *room, const struct step_memory *m)
{
    for (int r = 0; r < p->embed.rows.n; r++) {
        int n_frames = room->rows[r].n_frames;
        for (int i = (int)threadIdx.x; room->rows[r].pos >= 0 && i < p->n_state; i += STEP_THREADS) {
            struct attended a = join_parts(c, r, i / HEAD, n_frames, i % HEAD);
            m->wide[r * p->n_state + place(i, p->n_state)] = a.out / a.sum;
        }
    }
    __syncthreads();
}

/* The cluster: a block a row and a head that is recorded. */
static __device__ __forceinline__ void join_alignments(const struct step_params *p, const struct cross_params *c,
                                                       const struct step_room *room)
{
    int n_units = c->align ? p->embed.rows.n * p->n_head : 0;
    for (int unit = rank_in_cluster(p); unit < n_units; unit += 1 << p->cluster_bits) {
        int r = unit / p->n_head, head = unit - r * p->n_head, n_frames = room->rows[r].n_frames;
        if (room->rows[r].pos >= 0 && (c->align_heads >> head & 1))
            join_alignment(c, r, head, n_frames, join_parts(c, r, head, n_frames, 0));
    }
}

#endif
