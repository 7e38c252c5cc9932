/* Choosing tokens: the rules of daemon/base/run.h on rows of logits, and a slot's way from token to token. The rules are
 * those of OpenAI's whisper/decoding.py; gpu/host/sample.c is the twin, and one test holds both.
 *
 * A block has a row, and passes over its logits two or three times, from the second-level cache. The logits stay what they
 * are. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>

#define SAMPLE_FUNCTION static __device__
#include "gpu/sample_rules.h"

#define THREADS 512
#define WARPS   (THREADS / WARP)
#define NO_ID   0x7fffffff

/* What the rules leave: two ranges, less those that a mask suppresses. */
struct allowed {
    struct id_ranges ids;
    const uint32_t *masks[2]; /* or NULL */
    int no_timestamps;        /* suppressed id, −1: none */
};

static __device__ __forceinline__ bool suppressed(const struct allowed *a, int id)
{
    for (int i = 0; i < 2; i++) {
        if (a->masks[i] && (a->masks[i][id / 32] >> id % 32 & 1))
            return true;
    }
    return id == a->no_timestamps;
}

/* n: tokens of history. */
static __device__ void apply_rules(const struct select_args *a, const struct slot_state *s, int n,
                                   struct allowed *allowed)
{
    const struct token_rules *rules = &s->rules;
    int n_vocab = a->logits.cols, stamps = least(rules->timestamp_begin, n_vocab);
    *allowed = {{0, stamps, stamps, n_vocab}, {NULL, NULL}, -1};
    if (rules->mask >= 0)
        allowed->masks[0] = a->masks + (size_t)rules->mask * (size_t)a->mask_words;
    if (rules->first_mask >= 0 && n == s->sample_begin)
        allowed->masks[1] = a->masks + (size_t)rules->first_mask * (size_t)a->mask_words;
    if (!rules->timestamps)
        return;
    allowed->no_timestamps = rules->no_timestamps;
    apply_timestamp_pairs(rules, s->tokens, s->sample_begin, n, &allowed->ids);
}

/* --- reductions of a block: each is used again and again, hence the first barrier -------------------------------------- */

static __device__ float block_max(float v, float *room)
{
    v = warp_max(v);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP] = v;
    __syncthreads();
    return warp_max(threadIdx.x % WARP < WARPS ? room[threadIdx.x % WARP] : -INFINITY);
}

static __device__ float block_sum(float v, float *room)
{
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % WARP < WARPS ? room[threadIdx.x % WARP] : 0.0f);
}

static __device__ int warp_min(int v)
{
    for (int lane = WARP / 2; lane > 0; lane /= 2)
        v = least(v, __shfl_xor_sync(LANES, v, lane));
    return v;
}

static __device__ int block_min(int v, int *room)
{
    v = warp_min(v);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP] = v;
    __syncthreads();
    return warp_min(threadIdx.x % WARP < WARPS ? room[threadIdx.x % WARP] : NO_ID);
}

/* A thread's greatest logit among a range's allowed ids, and the first id that has it. */
struct best {
    float value;
    int id;
};

static __device__ struct best best_of(const struct allowed *a, const float *logits, int first, int last)
{
    struct best b = {-INFINITY, NO_ID};
    for (int i = first + (int)threadIdx.x; i < last; i += THREADS) {
        if (logits[i] > b.value && !suppressed(a, i))
            b = {logits[i], i};
    }
    return b;
}

/* A thread's part of Σ e^((logit − greatest) · scale) over a range's allowed ids. */
static __device__ float sum_of(const struct allowed *a, const float *logits, int first, int last,
                               float greatest, float scale)
{
    float sum = 0.0f;
    for (int i = first + (int)threadIdx.x; i < last; i += THREADS) {
        if (!suppressed(a, i))
            sum += expf((logits[i] - greatest) * scale);
    }
    return sum;
}

/* --- sampling ---------------------------------------------------------------------------------------------------------- */

/* A thread's walk through its ids of a range until their weights have used up *left: the id, or NO_ID. *last: the last
 * one that has any weight. */
static __device__ int walk(const struct allowed *a, const float *logits, int first, int last, float greatest,
                           float scale, double *left, int *last_id)
{
    for (int i = first + (int)threadIdx.x; i < last; i += THREADS) {
        double weight = suppressed(a, i) ? 0.0 : (double)expf((logits[i] - greatest) * scale);
        if (weight == 0.0)
            continue;
        *last_id = i;
        *left -= weight;
        if (*left < 0.0)
            return i;
    }
    return NO_ID;
}

/* The ids in the order thread by thread; within one, text before timestamps. */
static __device__ int sample(const struct allowed *a, const float *logits, float greatest, float temperature,
                             double u)
{
    SHARED(double, sums, THREADS);
    SHARED(double, left, 1);
    SHARED(int, chosen, 2); /* a thread, then an id */
    float scale = 1.0f / temperature;
    int me = (int)threadIdx.x, last_id = NO_ID;
    sums[me] = (double)sum_of(a, logits, a->ids.text_first, a->ids.text_last, greatest, scale) +
               (double)sum_of(a, logits, a->ids.stamp_first, a->ids.stamp_last, greatest, scale);
    __syncthreads();
    if (me == 0) {
        double total = 0.0;
        for (int i = 0; i < THREADS; i++)
            total += sums[i];
        left[0] = u * total;
        for (int i = 0; i < THREADS; i++) {
            if (sums[i] > 0.0)
                chosen[0] = i; /* of the threads with any weight, the last one at most */
            if (left[0] < sums[i])
                break;
            left[0] -= sums[i];
        }
    }
    __syncthreads();
    if (me == chosen[0]) {
        double rest = left[0];
        int id = walk(a, logits, a->ids.text_first, a->ids.text_last, greatest, scale, &rest, &last_id);
        if (id == NO_ID)
            id = walk(a, logits, a->ids.stamp_first, a->ids.stamp_last, greatest, scale, &rest, &last_id);
        chosen[1] = id == NO_ID ? last_id : id; /* past the end by rounding only */
    }
    __syncthreads();
    return chosen[1];
}

/* --- a row ------------------------------------------------------------------------------------------------------------- */

static __device__ void probe(struct slot_state *s, const float *logits, int n_vocab, float *room)
{
    const struct allowed all = {{0, n_vocab, n_vocab, n_vocab}, {NULL, NULL}, -1};
    float greatest = block_max(best_of(&all, logits, 0, n_vocab).value, room);
    float sum = block_sum(sum_of(&all, logits, 0, n_vocab, greatest, 1.0f), room);
    if (threadIdx.x == 0)
        s->probe_prob = expf(logits[s->probe_token] - greatest) / sum;
}

/* The greatest allowed logit and its first id. When all timestamps together are more probable than the best text token,
 * text is no longer allowed. */
static __device__ struct best weigh(const struct token_rules *rules, const float *logits, struct allowed *a,
                                    float *room, int *ids)
{
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
    struct best b = {fmaxf(top_text, top_stamp), NO_ID};
    if (text.value == b.value)
        b.id = text.id;
    else if (stamp.value == b.value)
        b.id = stamp.id;
    b.id = block_min(b.id, ids);
    return b;
}

/* grid: rows */
static __global__ void __launch_bounds__(THREADS) select_kernel(struct select_args args)
{
    SHARED(float, room, WARPS);
    SHARED(int, ids, WARPS);
    SHARED(struct allowed, shared_allowed, 1);
    int r = (int)blockIdx.x, pos = args.rows.pos[r], n = pos + 1;
    if (pos < 0)
        return;
    struct slot_state *s = &args.slots[args.rows.slot[r]];
    const struct token_rules *rules = &s->rules;
    const float *logits = (const float *)args.logits.data + (size_t)r * (size_t)args.logits.stride;
    if (pos == s->probe_index && s->probe_token >= 0 && s->probe_token < args.logits.cols)
        probe(s, logits, args.logits.cols, room);
    if (n < s->n_prompt)
        return;
    if (threadIdx.x == 0)
        apply_rules(&args, s, n, shared_allowed);
    __syncthreads();
    struct allowed allowed = shared_allowed[0];
    struct best b = weigh(rules, logits, &allowed, room, ids);
    if (b.value == -INFINITY) { /* rules that leave nothing end the text */
        if (threadIdx.x == 0) {
            args.chosen[r] = rules->eot;
            args.logprob[r] = -INFINITY;
        }
        return;
    }
    float sum = sum_of(&allowed, logits, allowed.ids.text_first, allowed.ids.text_last, b.value, 1.0f) +
                sum_of(&allowed, logits, allowed.ids.stamp_first, allowed.ids.stamp_last, b.value, 1.0f);
    sum = block_sum(sum, room);
    if (rules->temperature > 0.0f)
        b.id = sample(&allowed, logits, b.value, rules->temperature, uniform(rules->seed, (uint64_t)n));
    if (threadIdx.x == 0) {
        args.chosen[r] = b.id;
        args.logprob[r] = logits[b.id] - b.value - logf(sum);
    }
}

int cuda_select(struct cuda_engine *c, const struct select_args *a)
{
    if (a->logits.type != DTYPE_F32 || a->mask_words * 32 < a->logits.cols)
        return cuda_fail(c, -EINVAL, "select: types or shapes do not fit");
    if (a->rows.n <= 0)
        return 0;
    LAUNCH(select_kernel, a->rows.n, THREADS, 0, c->stream, *a);
    return cuda_check(c, cudaGetLastError(), "select");
}

/* --- from token to token ----------------------------------------------------------------------------------------------- */

#define ADVANCE_THREADS 64

/* One more certain token at the end. */
static __device__ void append(struct slot_state *s, int32_t token, float logprob)
{
    s->tokens[s->n_tokens] = token;
    s->logprobs[s->n_tokens] = logprob;
    s->n_tokens++;
    if (token == s->rules.eot)
        s->done = SLOT_DONE_EOT;
    else if (s->n_tokens - s->n_prompt >= s->max_tokens)
        s->done = SLOT_DONE_LIMIT;
    else if (s->n_tokens >= s->n_ctx)
        s->done = SLOT_DONE_CTX;
}

/* first … last − 1: the slot's rows from position n_tokens − 1 on; the draft's follow the newest certain token's. */
static __device__ void advance_slot(struct slot_state *s, const struct advance_args *a, int first, int last)
{
    s->n_steps++;
    for (int row = first; row < last && s->done == SLOT_ACTIVE; row++) {
        bool accepted = s->n_draft > 0 && s->tokens[s->n_tokens] == a->chosen[row];
        append(s, a->chosen[row], a->logprob[row]);
        if (!accepted)
            break;
        s->n_accepted++;
        s->n_draft--;
    }
    s->n_draft = 0;
}

/* The thread of a slot's first busy row has the slot. */
static __global__ void __launch_bounds__(ADVANCE_THREADS) advance_kernel(struct advance_args a)
{
    int r = (int)blockIdx.x * ADVANCE_THREADS + (int)threadIdx.x;
    if (r >= a.rows.n || a.rows.pos[r] < 0)
        return;
    int slot = a.rows.slot[r], end = r + 1;
    for (int before = r - 1; before >= 0 && a.rows.slot[before] == slot; before--) {
        if (a.rows.pos[before] >= 0)
            return;
    }
    struct slot_state *s = &a.slots[slot];
    while (end < a.rows.n && a.rows.slot[end] == slot)
        end++;
    while (r < end && a.rows.pos[r] != s->n_tokens - 1)
        r++;
    if (r == end || s->done != SLOT_ACTIVE)
        return;
    advance_slot(s, &a, r, end);
    if (s->done != SLOT_ACTIVE)
        atomicAdd(a.n_active, -1);
}

int cuda_advance(struct cuda_engine *c, const struct advance_args *a)
{
    if (a->rows.n <= 0)
        return 0;
    LAUNCH(advance_kernel, (a->rows.n + ADVANCE_THREADS - 1) / ADVANCE_THREADS, ADVANCE_THREADS, 0, c->stream,
           *a);
    return cuda_check(c, cudaGetLastError(), "advance");
}
