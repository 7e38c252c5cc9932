/* Beam search: what each hypothesis offers, and which hypotheses go on. */
#include <math.h>
#include <string.h>

#include "gpu/host/host.h"
#include "gpu/host/rules.h"

#define OFFERS_MAX (RUN_BEAMS_MAX + 1) /* of one hypothesis */

/* --- what a hypothesis offers ------------------------------------------------------------------------------------- */

struct select_job {
    const struct rows_kernels *kernels;
    const struct beam_select_args *args;
};

static void offer(const struct beam_select_args *a, const struct rows_kernels *k, int r)
{
    struct slot_state *s = &a->slots[a->rows.slot[r]];
    struct beam_candidate *best = a->candidates + (size_t)r * OFFERS_MAX;
    int n = a->rows.pos[r] + 1, n_best = 0;
    float *logits = (float *)a->logits.data + (size_t)r * (size_t)a->logits.stride;
    if (a->rows.pos[r] == s->probe_index)
        host_rules_probe(k, s, logits, a->logits.cols);
    if (n < s->n_prompt)
        return;
    float greatest;
    const struct token_masks masks = {a->masks, a->mask_words};
    struct id_ranges x = host_rules_apply(k, &masks, s, n, logits, a->logits.cols, &greatest);
    if (greatest > -INFINITY) {
        int most = s->n_beams + 1;
        float log_sum = host_rules_log_sum(k, logits, &x, greatest);
        n_best = k->top(logits + x.text_first, x.text_last - x.text_first, x.text_first, best, 0, most);
        n_best =
            k->top(logits + x.stamp_first, x.stamp_last - x.stamp_first, x.stamp_first, best, n_best, most);
        for (int i = 0; i < n_best; i++)
            best[i].logprob = best[i].logprob - greatest - log_sum;
    } else {
        best[n_best++] = (struct beam_candidate){s->rules.eot, -INFINITY};
    }
    if (n_best < OFFERS_MAX)
        best[n_best].token = -1;
}

static void select_worker(void *arg, int worker, int n_workers)
{
    struct select_job *job = arg;
    const struct beam_select_args *a = job->args;
    int first, last;
    pool_share(a->rows.n, 1, worker, n_workers, &first, &last);
    for (int r = first; r < last; r++) {
        if (a->rows.pos[r] >= 0 && a->slots[a->rows.slot[r]].n_beams > 1)
            offer(a, job->kernels, r);
    }
}

int host_beam_select(struct host_engine *h, const struct beam_select_args *a)
{
    struct select_job job = {h->rows, a};
    if (a->rows.n > 1)
        pool_run(h->pool, select_worker, &job);
    else
        select_worker(&job, 0, 1);
    return 0;
}

/* --- which go on ---------------------------------------------------------------------------------------------------- */

/* The candidates of all hypotheses, the best first. */
struct ranking {
    struct ranked {
        struct beam_candidate candidate;
        float sum;
        int beam;
    } at[RUN_BEAMS_MAX * OFFERS_MAX];
    int n;
};

static void rank(struct ranking *ranking, struct beam_candidate candidate, float sum, int beam)
{
    int i = ranking->n++;
    for (; i > 0 && sum > ranking->at[i - 1].sum; i--)
        ranking->at[i] = ranking->at[i - 1];
    ranking->at[i] = (struct ranked){candidate, sum, beam};
}

/* Rows first … last − 1 are of the search. */
static void rank_all(const struct beam_advance_args *a, int first_slot, int first, int last,
                     struct ranking *ranking)
{
    ranking->n = 0;
    for (int r = first; r < last; r++) {
        const struct slot_state *s = &a->slots[a->rows.slot[r]];
        if (a->rows.pos[r] < 0 || a->rows.pos[r] != s->n_tokens - 1 || s->done != SLOT_ACTIVE)
            continue;
        const struct beam_candidate *c = a->candidates + (size_t)r * OFFERS_MAX;
        for (int i = 0; i <= s->n_beams && c[i].token >= 0; i++)
            rank(ranking, c[i], s->sum_logprob + c[i].logprob, a->rows.slot[r] - first_slot);
    }
}

static float score(const struct beam_state *b, float sum, int length)
{
    float n = length > 0 ? (float)length : 1.0f;
    return sum / (b->length_penalty < 0.0f ? n : powf((5.0f + n) / 6.0f, b->length_penalty));
}

/* A hypothesis has come to its end: with the token `last`, or where that is NULL unfinished. Keeps it if it is the best. */
static void finish_hypothesis(struct beam_state *b, const struct slot_state *s, const struct ranked *last)
{
    int from = s->n_prompt, n = s->n_tokens;
    float value = score(b, last ? last->sum : s->sum_logprob, n - from);
    if (b->n_finished++ > 0 && !(value > b->best_score))
        return;
    size_t produced = (size_t)(n - from);
    memcpy(b->tokens + from, s->tokens + from, produced * sizeof(*b->tokens));
    memcpy(b->logprobs + from, s->logprobs + from, produced * sizeof(*b->logprobs));
    memcpy(b->kv_slot + from, s->kv_slot + from, produced * sizeof(*b->kv_slot));
    if (last) {
        b->tokens[n] = last->candidate.token;
        b->logprobs[n++] = last->candidate.logprob;
    }
    b->best_score = value;
    b->n_tokens = n;
}

/* What moves when hypotheses change places. */
struct history {
    int32_t tokens[RUN_TOKENS_MAX];
    float logprobs[RUN_TOKENS_MAX];
    uint8_t kv_slot[RUN_TOKENS_MAX];
};

/* Hypothesis i becomes a copy of hypothesis source[i] and one token more. */
static void regroup(struct slot_state *beams, int first_slot, const struct ranked *const *chosen,
                    int n_chosen)
{
    struct history old[RUN_BEAMS_MAX];
    int from = beams->n_prompt, n = beams->n_tokens, width = beams->n_beams;
    size_t produced = (size_t)(n - from);
    for (int i = 0; i < width; i++) {
        memcpy(old[i].tokens, beams[i].tokens + from, produced * sizeof(int32_t));
        memcpy(old[i].logprobs, beams[i].logprobs + from, produced * sizeof(float));
        memcpy(old[i].kv_slot, beams[i].kv_slot + from, produced);
    }
    for (int i = 0; i < n_chosen; i++) {
        struct slot_state *s = &beams[i];
        const struct history *h = &old[chosen[i]->beam];
        memcpy(s->tokens + from, h->tokens, produced * sizeof(int32_t));
        memcpy(s->logprobs + from, h->logprobs, produced * sizeof(float));
        memcpy(s->kv_slot + from, h->kv_slot, produced);
        s->tokens[n] = chosen[i]->candidate.token;
        s->logprobs[n] = chosen[i]->candidate.logprob;
        s->kv_slot[n] = (uint8_t)(first_slot + i); /* where it will be fed */
        s->sum_logprob = chosen[i]->sum;
        s->n_tokens = n + 1;
        s->done = SLOT_ACTIVE;
    }
    for (int i = n_chosen; i < width; i++)
        beams[i].done = SLOT_DONE_EMPTY;
}

/* The best of all goes into the first slot. */
static void end_search(struct beam_state *b, struct slot_state *beams, int n_left, int32_t done)
{
    int width = beams->n_beams, from = beams->n_prompt;
    for (int i = 0; i < n_left && b->n_finished < width; i++)
        finish_hypothesis(b, &beams[i], NULL);
    size_t produced = (size_t)(b->n_tokens - from);
    memcpy(beams->tokens + from, b->tokens + from, produced * sizeof(int32_t));
    memcpy(beams->logprobs + from, b->logprobs + from, produced * sizeof(float));
    memcpy(beams->kv_slot + from, b->kv_slot + from, produced);
    beams->n_tokens = b->n_tokens;
    for (int i = 0; i < width; i++)
        beams[i].done = done;
    if (beams->tokens[b->n_tokens - 1] == beams->rules.eot)
        beams->done = SLOT_DONE_EOT;
}

/* Why the search ends, or SLOT_ACTIVE. n_left: hypotheses that are not finished. */
static int32_t why_done(const struct beam_state *b, const struct slot_state *beams, int n_left)
{
    if (b->n_finished >= b->n_wanted || n_left == 0)
        return SLOT_DONE_LIMIT;
    if (beams->n_tokens - beams->n_prompt >= beams->max_tokens)
        return SLOT_DONE_LIMIT;
    return beams->n_tokens >= beams->n_ctx ? SLOT_DONE_CTX : SLOT_ACTIVE;
}

static void advance_search(const struct beam_advance_args *a, int first_slot, int first, int last)
{
    struct slot_state *beams = &a->slots[first_slot];
    struct beam_state *b = &a->beams[first_slot];
    struct ranking ranking;
    rank_all(a, first_slot, first, last, &ranking);
    if (ranking.n == 0)
        return;
    beams->n_steps++;
    const struct ranked *chosen[RUN_BEAMS_MAX];
    int n_chosen = 0;
    for (int i = 0; i < ranking.n && n_chosen < beams->n_beams; i++) {
        const struct ranked *c = &ranking.at[i];
        if (c->candidate.token != beams->rules.eot)
            chosen[n_chosen++] = c;
        else if (b->n_finished < b->n_wanted)
            finish_hypothesis(b, &beams[c->beam], c);
    }
    regroup(beams, first_slot, chosen, n_chosen);
    int32_t done = why_done(b, beams, n_chosen);
    if (done == SLOT_ACTIVE)
        return;
    end_search(b, beams, n_chosen, done);
    --*a->n_active;
}

int host_beam_advance(struct host_engine *h, const struct beam_advance_args *a)
{
    for (int r = 0, end; r < a->rows.n; r = end) {
        const struct slot_state *s = &a->slots[a->rows.slot[r]];
        end = r + 1;
        if (s->n_beams <= 1)
            continue;
        while (end < a->rows.n && a->slots[a->rows.slot[end]].n_beams > 1 &&
               a->slots[a->rows.slot[end]].first_slot == s->first_slot)
            end++;
        advance_search(a, s->first_slot, r, end);
    }
    return 0;
}
