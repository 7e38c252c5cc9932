/* From the normalised residual to the next token and its embedding. Inside step.cu. */
#ifndef CAPTIOND_GPU_CUDA_STEP_TOKENS_CUH
#define CAPTIOND_GPU_CUDA_STEP_TOKENS_CUH

#include "gpu/cuda/step_products.cuh"

/* A block: what the rules leave to each row of this step. Ends with a barrier. */
static __device__ __forceinline__ void apply_all_rules(const struct step_params *p, struct step_room *room)
{
    const struct token_masks masks = {p->select.masks, p->select.mask_words};
    int r = (int)threadIdx.x / WARP;
    if (threadIdx.x % WARP == 0 && r < p->embed.rows.n && room->rows[r].pos >= 0)
        apply_rules(&masks, &p->slots[room->rows[r].slot], room->rows[r].pos + 1, p->output.n_out,
                    &room->allowed[r]);
    __syncthreads();
}

/* --- the output layer, outside of the first cluster -------------------------------------------------------------------- */

/* A block's parts of the vocabulary, and with n_rows rows the groups of neighbouring outputs in them that a warp multiplies at
 * once. */
struct output_share {
    int first_part, n_parts, n_groups;
};

template <int n_rows> struct output_group {
    static const int outs = n_rows <= 2 ? 4 : 8 / n_rows;
};

template <int n_rows> static __device__ __forceinline__ struct output_share share_of_output(const struct step_params *p)
{
    int before = 1 << p->cluster_bits, n_blocks = (int)gridDim.x - before, me = (int)blockIdx.x - before;
    int n_parts = (p->output.n_out + PART_IDS - 1) / PART_IDS, first = n_parts * me / n_blocks,
        last = n_parts * (me + 1) / n_blocks, n_outs = least(last * PART_IDS, p->output.n_out) - first * PART_IDS;
    return {first, last - first, (n_outs + output_group<n_rows>::outs - 1) / output_group<n_rows>::outs};
}

/* A warp: the weights of its first groups, for good. Its groups are every 16th from its own number on. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void keep_weights(const struct step_params *p, struct output_share share,
                                                    const struct output_memory *m)
{
    const int outs = output_group<n_rows>::outs;
    const struct engine_weight *w = &p->output;
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, n = w->stride / 8, at = 0;
    for (int g = warp; g < share.n_groups && at + outs * n <= p->n_kept; g += STEP_WARPS) {
        for (int o = 0; o < outs; o++, at += n) {
            int out = least(share.first_part * PART_IDS + g * outs + o, w->n_out - 1);
            for (int i = lane; i < n; i += WARP)
                bring_weights<bytes>(m->kept + warp * p->n_kept + at + i, weight_at<bytes>(w, out, i));
        }
    }
    cp_async_commit();
    cp_async_wait<0>();
}

/* A warp: the weights of its other groups into the second-level cache. */
template <int n_rows>
static __device__ __forceinline__ void prefetch_weights(const struct step_params *p, struct output_share share)
{
    const int outs = output_group<n_rows>::outs;
    const struct engine_weight *w = &p->output;
    int warp = (int)threadIdx.x / WARP, a_group = outs * (w->stride / 8), first = p->n_kept / a_group;
    int lines = (int)(outs * weight_row_bytes(w) / LINE);
    for (int g = first * STEP_WARPS + warp; g < share.n_groups; g += STEP_WARPS) {
        const char *from = weight_row(w, share.first_part * PART_IDS + g * outs);
        for (int i = (int)threadIdx.x % WARP; i < lines && share.first_part * PART_IDS + (g + 1) * outs <= w->n_out; i += WARP)
            prefetch(from + (size_t)i * LINE);
    }
}

/* A block: the logits of its share, to shared memory and to memory. */
template <int n_rows, bool bytes>
static __device__ __forceinline__ void multiply_output(const struct step_params *p, struct output_share share,
                                                       const struct output_memory *m, unsigned active)
{
    const int outs = output_group<n_rows>::outs, lanes = WARP / (outs * n_rows);
    const struct engine_weight *w = &p->output;
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, a_group = outs * (w->stride / 8), at = 0;
    for (int g = warp; g < share.n_groups; g += STEP_WARPS, at += a_group) {
        const packed_weights *kept = at + a_group <= p->n_kept ? m->kept + warp * p->n_kept + at : NULL;
        int first = share.first_part * PART_IDS + g * outs;
        float sum = sum_outputs<n_rows, outs, bytes>(w, kept, first, m->normed);
        int value = lane / lanes, row = value % n_rows, out = first + value / n_rows;
        if (lane % lanes == 0 && out < w->n_out && (active >> row & 1)) {
            m->logits[row * p->parts_of_a_block * PART_IDS + out - share.first_part * PART_IDS] = sum;
            ((float *)p->select.logits.data)[(size_t)row * (size_t)p->select.logits.stride + (size_t)out] = sum;
        }
    }
}

/* A warp a part and a row: what select makes of it. */
static __device__ __forceinline__ void weigh_output(const struct step_params *p, struct output_share share,
                                                    const struct step_room *room, const struct output_memory *m,
                                                    unsigned active)
{
    int n_parts = (p->output.n_out + PART_IDS - 1) / PART_IDS, lane = (int)threadIdx.x % WARP;
    for (int r = 0; r < p->embed.rows.n; r++) {
        for (int i = (int)threadIdx.x / WARP; (active >> r & 1) && i < share.n_parts; i += STEP_WARPS) {
            int part = share.first_part + i;
            struct select_part found =
                weigh_part(&room->allowed[r], part * PART_IDS,
                           m->logits[(r * p->parts_of_a_block + i) * PART_IDS + lane]);
            if (lane == 0)
                p->parts[(size_t)r * (size_t)n_parts + (size_t)part] = found;
        }
    }
}

/* --- in the first cluster, a block a row ------------------------------------------------------------------------------- */

/* All blocks of the cluster learn of a row, and have its embedding. s: the row's slot (shared). */
static __device__ __forceinline__ void begin_row(const struct step_params *p, struct step_room *room,
                                                 const struct step_memory *m, int r, const struct slot_state *s)
{
    const struct engine_weight *w = &p->tokens;
    bool active = s->done == SLOT_ACTIVE && s->n_tokens > 0;
    int pos = active ? s->n_tokens - 1 : -1, token = active ? s->tokens[pos] : 0;
    const struct step_row row = {pos, room->rows[r].slot, s->audio, s->n_frames};
    if (threadIdx.x == 0) {
        p->embed.rows.pos[r] = pos;
        p->embed.rows.token[r] = token;
    }
    if ((int)threadIdx.x < 1 << p->cluster_bits)
        *in_block(&room->rows[r], (int)threadIdx.x) = row;
    if (pos < 0 || token < 0 || token >= w->n_out)
        return;
    for (int i = (int)threadIdx.x; i < p->n_state / 8 << p->cluster_bits; i += STEP_THREADS) {
        int eight = i >> p->cluster_bits, rank = i & ((1 << p->cluster_bits) - 1);
        float embedding[8];
        embed_eight(w, p->embed.positions, token, pos, eight, embedding);
        float4 *low = (float4 *)(m->x + r * p->n_state + eight * 4), *high = low + p->n_state / 8;
        *in_block(low, rank) = {embedding[0], embedding[1], embedding[2], embedding[3]};
        *in_block(high, rank) = {embedding[4], embedding[5], embedding[6], embedding[7]};
    }
}

/* A block takes its row's slot. Ends with a barrier. */
static __device__ __forceinline__ void take_slot(const struct step_params *p, struct step_room *room, int r,
                                                 struct slot_state *s)
{
    int slot = p->embed.rows.slot[r];
    for (int i = (int)threadIdx.x; i < (int)(sizeof(*s) / sizeof(int)); i += STEP_THREADS)
        ((int *)s)[i] = ((const int *)&p->slots[slot])[i];
    if (threadIdx.x == 0)
        room->rows[r].slot = slot;
    __syncthreads();
}

/* One thread: what advance_slot has changed also goes to memory. */
static __device__ __forceinline__ void give_slot(const struct slot_state *s, struct slot_state *to)
{
    int last = s->n_tokens - 1;
    to->tokens[last] = s->tokens[last];
    to->logprobs[last] = s->logprobs[last];
    to->n_tokens = s->n_tokens;
    to->n_steps = s->n_steps;
    to->n_draft = s->n_draft;
    to->n_accepted = s->n_accepted;
    to->done = s->done;
}

/* A row's next token, once all parts are there; then its next step begins. s: the row's slot (shared). */
static __device__ __forceinline__ void finish_row(const struct step_params *p, struct step_room *room,
                                                  const struct step_memory *m, int r, struct slot_state *s)
{
    const struct select_args *a = &p->select;
    int pos = room->rows[r].pos, n_vocab = p->output.n_out, n_parts = (n_vocab + PART_IDS - 1) / PART_IDS;
    struct slot_state *to = &a->slots[room->rows[r].slot];
    const float *logits = (const float *)a->logits.data + (size_t)r * (size_t)a->logits.stride;
    if (pos < 0 || s->n_beams > 1)
        return;
    if (pos == s->probe_index)
        probe_row(to, pos, logits, n_vocab);
    struct choice c = choose(&s->rules, pos + 1, &room->allowed[r], p->parts + (size_t)r * (size_t)n_parts,
                             logits, n_vocab);
    __syncthreads(); /* everybody has read what is changed now */
    if (threadIdx.x == 0) {
        a->chosen[r] = c.id;
        a->logprob[r] = c.logprob;
        advance_slot(s, &c.id, &c.logprob, 1);
        give_slot(s, to);
        if (s->done != SLOT_ACTIVE)
            atomicAdd(p->advance.n_active, -1);
    }
    __syncthreads();
    begin_row(p, room, m, r, s);
}

#endif
