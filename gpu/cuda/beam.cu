/* Beam search: what each hypothesis offers, and which hypotheses go on. gpu/host/beam.c is the twin, and one test holds
 * both. */
#include "gpu/cuda/rules.cuh"

#include <errno.h>

#define OFFERS_MAX (RUN_BEAMS_MAX + 1) /* of one hypothesis */

/* --- what a hypothesis offers ------------------------------------------------------------------------------------------- */

/* What is left of a row, and how probable it is. */
struct weighed {
    struct allowed allowed;
    struct best best; /* the greatest logit and its first id; −∞: nothing is left */
    struct best mine; /* the same of this thread's ids: every RULES_THREADS-th of each range */
    float log_sum;    /* log Σ e^(logit − greatest) */
};

/* When all timestamps together are more probable than the best text token, text is no longer allowed. */
static __device__ __forceinline__ void weigh(const struct token_rules *rules, const float *logits,
                                             struct weighed *w, float *room, int *ids)
{
    struct allowed *a = &w->allowed;
    struct best text = best_of(a, logits, a->ids.text_first, a->ids.text_last);
    struct best stamp = best_of(a, logits, a->ids.stamp_first, a->ids.stamp_last);
    float top_text = block_max(text.value, room), top_stamp = block_max(stamp.value, room);
    if (rules->timestamps && top_stamp > -INFINITY) {
        float sum =
            block_sum(sum_of(a, logits, a->ids.stamp_first, a->ids.stamp_last, top_stamp, 1.0f), room);
        if (top_stamp + logf(sum) > top_text) {
            a->ids.text_first = a->ids.text_last;
            top_text = text.value = -INFINITY;
        }
    }
    w->mine = text.value >= stamp.value ? text : stamp; /* the lower id of equal ones */
    w->best.value = fmaxf(top_text, top_stamp);
    w->best.id = block_min(w->mine.value == w->best.value ? w->mine.id : NO_ID, ids);
}

/* Applies the rules to a row with n tokens of history. All threads of the block, and all get the same, `mine` excepted. */
static __device__ __forceinline__ struct weighed weigh_row(const struct token_masks *masks,
                                                           const struct slot_state *s, int n,
                                                           const float *logits, int n_vocab)
{
    SHARED(float, room, RULES_WARPS);
    SHARED(int, ids, RULES_WARPS);
    SHARED(struct allowed, allowed, 1);
    struct weighed w;
    if (threadIdx.x == 0)
        apply_rules(masks, s, n, n_vocab, allowed);
    __syncthreads();
    w.allowed = allowed[0];
    w.log_sum = 0.0f;
    weigh(&s->rules, logits, &w, room, ids);
    if (w.best.value == -INFINITY)
        return w;
    const struct id_ranges *left = &w.allowed.ids;
    float sum = sum_of(&w.allowed, logits, left->text_first, left->text_last, w.best.value, 1.0f) +
                sum_of(&w.allowed, logits, left->stamp_first, left->stamp_last, w.best.value, 1.0f);
    w.log_sum = logf(block_sum(sum, room));
    return w;
}

/* A warp's search of a thread's ids of a range, for the greatest logit that ranks behind `last`: each lane has every
 * 32nd of them. `found` is what it has found before, in lower ids. */
static __device__ __forceinline__ struct best next_of(const struct allowed *a, const float *logits, int first,
                                                      int end, int thread, struct best last,
                                                      struct best found)
{
    int lane = (int)threadIdx.x % WARP;
    for (int i = first + thread + lane * RULES_THREADS; i < end; i += WARP * RULES_THREADS) {
        float x = logits[i];
        bool behind = x < last.value || (x == last.value && i > last.id);
        if (behind && x > found.value && !suppressed(a, i))
            found = {x, i};
    }
    return found;
}

/* The thread whose best has been taken gets its next one; its whole warp looks for it, since the others of the block would
 * wait for as long as it took alone. */
static __device__ __forceinline__ void replace(struct weighed *w, const float *logits, struct best taken)
{
    const struct id_ranges *ids = &w->allowed.ids;
    int thread = (taken.id < ids->text_last ? taken.id - ids->text_first : taken.id - ids->stamp_first) %
                 RULES_THREADS;
    if ((int)threadIdx.x / WARP != thread / WARP)
        return;
    struct best next = {-INFINITY, NO_ID};
    next = next_of(&w->allowed, logits, ids->text_first, ids->text_last, thread, taken, next);
    next = next_of(&w->allowed, logits, ids->stamp_first, ids->stamp_last, thread, taken, next);
    float value = warp_max(next.value);
    int id = warp_min(next.value == value ? next.id : NO_ID);
    if ((int)threadIdx.x == thread)
        w->mine = {value, id};
}

/* grid: rows */
static __global__ void __launch_bounds__(RULES_THREADS, 2) beam_select_kernel(struct beam_select_args args)
{
    SHARED(float, room, RULES_WARPS);
    SHARED(int, ids, RULES_WARPS);
    int r = (int)blockIdx.x, pos = args.rows.pos[r], n = pos + 1, n_offers = 0;
    if (pos < 0)
        return;
    struct slot_state *s = &args.slots[args.rows.slot[r]];
    const float *logits = (const float *)args.logits.data + (size_t)r * (size_t)args.logits.stride;
    const struct token_masks masks = {args.masks, args.mask_words};
    struct beam_candidate *offers = args.candidates + (size_t)r * OFFERS_MAX;
    if (s->n_beams <= 1)
        return;
    probe_row(s, pos, logits, args.logits.cols);
    if (n < s->n_prompt)
        return;
    struct weighed w = weigh_row(&masks, s, n, logits, args.logits.cols);
    struct best top = w.best;
    while (top.value > -INFINITY) {
        if (threadIdx.x == 0)
            offers[n_offers] = {top.id, top.value - w.best.value - w.log_sum};
        if (++n_offers > s->n_beams)
            break;
        replace(&w, logits, top);
        top.value = block_max(w.mine.value, room);
        top.id = block_min(w.mine.value == top.value ? w.mine.id : NO_ID, ids);
    }
    if (threadIdx.x > 0)
        return;
    if (n_offers == 0) /* rules that leave nothing end the text */
        offers[n_offers++] = {s->rules.eot, -INFINITY};
    if (n_offers < OFFERS_MAX)
        offers[n_offers].token = -1;
}

int cuda_beam_select(struct cuda_engine *c, const struct beam_select_args *a)
{
    if (a->logits.type != DTYPE_F32 || a->mask_words * 32 < a->logits.cols)
        return cuda_fail(c, -EINVAL, "beam_select: types or shapes do not fit");
    if (a->rows.n <= 0)
        return 0;
    LAUNCH(beam_select_kernel, a->rows.n, RULES_THREADS, 0, c->stream, *a);
    return cuda_check(c, cudaGetLastError(), "beam_select");
}

/* --- which go on -------------------------------------------------------------------------------------------------------- */

#define ADVANCE_THREADS 128
#define RANKED_MAX      (RUN_BEAMS_MAX * OFFERS_MAX)
static_assert(RANKED_MAX <= ADVANCE_THREADS, "a thread has a candidate");

struct ranked {
    struct beam_candidate candidate;
    float sum;
    int beam;
};

/* What becomes of a search in this step. */
struct verdict {
    struct ranked chosen[RUN_BEAMS_MAX]; /* the new hypotheses, and whose continuations they are */
    int n_chosen;
    struct ranked
        finished; /* the best of those that have ended now; beam −1: none is better than the one before */
    int filled;   /* the new hypothesis that is better still when all is over; −1: none */
    int32_t done;
};

/* Which rows, one a hypothesis, are the newest of theirs; −1: none. All threads of the block. */
static __device__ __forceinline__ void find_rows(const struct beam_advance_args *a, int first_slot,
                                                 int *row_of_beam)
{
    if (threadIdx.x < RUN_BEAMS_MAX)
        row_of_beam[threadIdx.x] = -1;
    __syncthreads();
    for (int r = (int)threadIdx.x; r < a->rows.n; r += ADVANCE_THREADS) {
        int pos = a->rows.pos[r];
        if (pos < 0)
            continue;
        const struct slot_state *s = &a->slots[a->rows.slot[r]];
        if (s->n_beams > 1 && s->first_slot == first_slot && s->done == SLOT_ACTIVE && pos == s->n_tokens - 1)
            row_of_beam[a->rows.slot[r] - first_slot] = r;
    }
    __syncthreads();
}

/* The candidates of all hypotheses, the best first, ties to the lower beam and then to the better candidate: each thread has
 * one and counts those before it. Returns how many there are. All threads of the block. */
static __device__ __forceinline__ int rank_all(const struct beam_advance_args *a, int first_slot,
                                               const int *row_of_beam, struct ranked *ranked)
{
    SHARED(float, sums, RANKED_MAX);
    SHARED(bool, is_there, RANKED_MAX);
    int me = (int)threadIdx.x, beam = me / OFFERS_MAX, rank = 0, n = 0;
    struct ranked mine = {{-1, 0.0f}, 0.0f, beam};
    bool there = false;
    if (me < RANKED_MAX && row_of_beam[beam] >= 0) {
        const struct slot_state *s = &a->slots[first_slot + beam];
        const struct beam_candidate *c = a->candidates + (size_t)row_of_beam[beam] * OFFERS_MAX;
        there = me % OFFERS_MAX <= s->n_beams;
        for (int i = 0; i <= me % OFFERS_MAX; i++)
            there = there && c[i].token >= 0;
        mine.candidate = there ? c[me % OFFERS_MAX] : mine.candidate;
        mine.sum =
            fmaxf(s->sum_logprob + mine.candidate.logprob, -INFINITY); /* what is no number ranks last */
    }
    if (me < RANKED_MAX) {
        sums[me] = mine.sum;
        is_there[me] = there;
    }
    __syncthreads();
    for (int i = 0; i < RANKED_MAX; i++) {
        n += is_there[i];
        rank += is_there[i] && (sums[i] > mine.sum || (sums[i] == mine.sum && i < me));
    }
    if (there)
        ranked[rank] = mine;
    __syncthreads();
    return n;
}

/* Counts a hypothesis that has ended: whether it is the best so far. */
static __device__ __forceinline__ bool is_best(struct beam_state *b, float sum, int length)
{
    float n = length > 0 ? (float)length : 1.0f;
    float score = sum / (b->length_penalty < 0.0f ? n : powf((5.0f + n) / 6.0f, b->length_penalty));
    if (b->n_finished++ > 0 && !(score > b->best_score))
        return false;
    b->best_score = score;
    return true;
}

/* One thread. `length`: tokens produced before this step. */
static __device__ __forceinline__ void judge(struct beam_state *b, const struct slot_state *first, int length,
                                             const struct ranked *ranked, int n_ranked, struct verdict *v)
{
    v->n_chosen = 0;
    v->finished.beam = -1;
    v->filled = -1;
    v->done = SLOT_ACTIVE;
    for (int i = 0; i < n_ranked && v->n_chosen < first->n_beams; i++) {
        if (ranked[i].candidate.token != first->rules.eot)
            v->chosen[v->n_chosen++] = ranked[i];
        else if (b->n_finished < b->n_wanted && is_best(b, ranked[i].sum, length))
            v->finished = ranked[i];
    }
    if (b->n_finished >= b->n_wanted || v->n_chosen == 0 || length + 1 >= first->max_tokens)
        v->done = SLOT_DONE_LIMIT;
    else if (first->n_prompt + length + 1 >= first->n_ctx)
        v->done = SLOT_DONE_CTX;
    for (int i = 0; v->done && i < v->n_chosen && b->n_finished < first->n_beams; i++) {
        if (is_best(b, v->chosen[i].sum, length + 1))
            v->filled = i;
    }
}

/* Positions first … last − 1 of what a hypothesis has, from its slot or the search's best to the other. A thread has the same
 * positions in every copy. */
template <class To, class From>
static __device__ __forceinline__ void copy_history(To *to, const From *from, int first, int last)
{
    for (int t = first + (int)threadIdx.x; t < last; t += ADVANCE_THREADS) {
        to->tokens[t] = from->tokens[t];
        to->logprobs[t] = from->logprobs[t];
        to->kv_slot[t] = from->kv_slot[t];
    }
}

/* Position t of one of the slots' arrays, of all hypotheses at once. */
template <class T>
static __device__ __forceinline__ void
permute(struct slot_state *slots, T (slot_state::*array)[RUN_TOKENS_MAX], const struct verdict *v, int t)
{
    T old[RUN_BEAMS_MAX];
    UNROLL
    for (int i = 0; i < RUN_BEAMS_MAX; i++)
        old[i] = i < v->n_chosen ? (slots[v->chosen[i].beam].*array)[t] : T();
    UNROLL
    for (int i = 0; i < RUN_BEAMS_MAX; i++) {
        if (i < v->n_chosen)
            (slots[i].*array)[t] = old[i];
    }
}

/* Hypothesis i becomes a copy of hypothesis chosen[i].beam, whose positions from … n − 1 were produced, and one token
 * more. */
static __device__ __forceinline__ void regroup(struct slot_state *slots, int first_slot, int width,
                                               const struct verdict *v, int from, int n)
{
    for (int t = from + (int)threadIdx.x; t < n; t += ADVANCE_THREADS) {
        permute(slots, &slot_state::tokens, v, t);
        permute(slots, &slot_state::logprobs, v, t);
        permute(slots, &slot_state::kv_slot, v, t);
    }
    int i = (int)threadIdx.x;
    if (i >= width)
        return;
    struct slot_state *s = &slots[i];
    s->done = i < v->n_chosen ? SLOT_ACTIVE : SLOT_DONE_EMPTY;
    if (i >= v->n_chosen)
        return;
    s->tokens[n] = v->chosen[i].candidate.token;
    s->logprobs[n] = v->chosen[i].candidate.logprob;
    s->kv_slot[n] = (uint8_t)(first_slot + i); /* where it will be fed */
    s->sum_logprob = v->chosen[i].sum;
    s->n_tokens = n + 1;
}

/* The best of all goes into the first slot. */
static __device__ __forceinline__ void end_search(struct beam_state *b, struct slot_state *slots, int width,
                                                  const struct verdict *v, int from, int n)
{
    int best = v->filled;
    if (best > 0)
        copy_history(slots, &slots[best], from, n + 1);
    if (best < 0)
        copy_history(slots, b, from, b->n_tokens);
    if ((int)threadIdx.x < width)
        slots[threadIdx.x].done = v->done;
    __syncthreads();
    if (threadIdx.x > 0 || best >= 0)
        return;
    slots->n_tokens = b->n_tokens;
    slots->done = SLOT_DONE_EOT;
}

/* grid: rows. The block of the last row of a search's first slot has the search: as long as there is any hypothesis, the first
 * slot has one. The others look at nothing that it changes. There are few such blocks, so none need be saved registers for
 * (the 1). */
static __global__ void __launch_bounds__(ADVANCE_THREADS, 1) beam_advance_kernel(struct beam_advance_args a)
{
    SHARED(int, row_of_beam, RUN_BEAMS_MAX);
    SHARED(struct ranked, ranked, RANKED_MAX);
    SHARED(struct verdict, verdict, 1);
    int r = (int)blockIdx.x, pos = a.rows.pos[r], first_slot = a.rows.slot[r];
    if (pos < 0 || (r + 1 < a.rows.n && a.rows.slot[r + 1] == first_slot && a.rows.pos[r + 1] > pos))
        return;
    struct slot_state *slots = &a.slots[first_slot];
    struct beam_state *b = &a.beams[first_slot];
    int width = slots->n_beams;
    if (width <= 1 || slots->first_slot != first_slot)
        return;
    int from = slots->n_prompt, n = slots->n_tokens;
    if (slots->done != SLOT_ACTIVE || pos != n - 1)
        return;
    find_rows(&a, first_slot, row_of_beam);
    int n_ranked = rank_all(&a, first_slot, row_of_beam, ranked);
    if (n_ranked == 0)
        return;
    if (threadIdx.x == 0) {
        judge(b, slots, n - from, ranked, n_ranked, verdict);
        slots->n_steps++;
    }
    __syncthreads();
    if (verdict->finished.beam >= 0) {
        copy_history(b, &slots[verdict->finished.beam], from, n);
        if (threadIdx.x == 0) {
            b->tokens[n] = verdict->finished.candidate.token;
            b->logprobs[n] = verdict->finished.candidate.logprob;
            b->n_tokens = n + 1;
        }
    }
    regroup(slots, first_slot, width, verdict, from, n);
    __syncthreads();
    if (verdict->done == SLOT_ACTIVE)
        return;
    end_search(b, slots, width, verdict, from, n);
    if (threadIdx.x == 0)
        atomicAdd(a.n_active, -1);
}

int cuda_beam_advance(struct cuda_engine *c, const struct beam_advance_args *a)
{
    if (a->rows.n <= 0)
        return 0;
    LAUNCH(beam_advance_kernel, a->rows.n, ADVANCE_THREADS, 0, c->stream, *a);
    return cuda_check(c, cudaGetLastError(), "beam_advance");
}
