/* Choosing tokens, and a slot's way from token to token. */
#include <math.h>

#include "gpu/host/host.h"
#include "gpu/host/rules.h"

static int find_allowed(const struct rows_kernels *k, const float *logits, const struct id_ranges *allowed,
                        float value)
{
    int i = k->find(logits + allowed->text_first, allowed->text_last - allowed->text_first, value);
    if (i >= 0)
        return allowed->text_first + i;
    i = k->find(logits + allowed->stamp_first, allowed->stamp_last - allowed->stamp_first, value);
    return i >= 0 ? allowed->stamp_first + i : -1;
}

/* --- sampling ----------------------------------------------------------------------------------------------------- */

#define BLOCK 512 /* logits whose weights are added at once before a walk looks at them one by one */

static double range_sum(const struct rows_kernels *k, const float *logits, int first, int last,
                        float greatest, float scale)
{
    double sum = 0.0;
    for (int i = first; i < last; i += BLOCK)
        sum += k->sum_exp(logits + i, least(BLOCK, last - i), greatest, scale);
    return sum;
}

/* Walks on through a range until the weights e^((logit − greatest) · scale) have used up *left: the id where that
 * happens, or −1. */
static int walk(const struct rows_kernels *k, const float *logits, int first, int last, float greatest,
                float scale, double *left)
{
    for (int block = first; block < last; block += BLOCK) {
        int end = least(block + BLOCK, last);
        double sum = k->sum_exp(logits + block, end - block, greatest, scale);
        if (*left >= sum) {
            *left -= sum;
            continue;
        }
        for (int i = block; i < end; i++) {
            *left -= exp(((double)logits[i] - greatest) * scale);
            if (*left < 0.0)
                return i;
        }
        *left = 0.0; /* by rounding only: the next id it is */
    }
    return -1;
}

static int sample(const struct rows_kernels *k, const float *logits, const struct id_ranges *allowed,
                  float greatest, float temperature, double u)
{
    float scale = 1.0f / temperature;
    double left = u * (range_sum(k, logits, allowed->text_first, allowed->text_last, greatest, scale) +
                       range_sum(k, logits, allowed->stamp_first, allowed->stamp_last, greatest, scale));
    int token = walk(k, logits, allowed->text_first, allowed->text_last, greatest, scale, &left);
    if (token < 0)
        token = walk(k, logits, allowed->stamp_first, allowed->stamp_last, greatest, scale, &left);
    return token >= 0 ? token : find_allowed(k, logits, allowed, greatest);
}

/* --- a row ---------------------------------------------------------------------------------------------------------- */

struct select_job {
    const struct rows_kernels *kernels;
    const struct select_args *args;
};

static void choose(const struct select_args *a, const struct rows_kernels *k, int r)
{
    struct slot_state *s = &a->slots[a->rows.slot[r]];
    const struct token_rules *rules = &s->rules;
    int n = a->rows.pos[r] + 1, n_vocab = a->logits.cols;
    float *logits = (float *)a->logits.data + (size_t)r * (size_t)a->logits.stride;
    if (a->rows.pos[r] == s->probe_index)
        host_rules_probe(k, s, logits, n_vocab);
    if (n < s->n_prompt)
        return;
    float greatest;
    const struct token_masks masks = {a->masks, a->mask_words};
    struct id_ranges allowed = host_rules_apply(k, &masks, s, n, logits, n_vocab, &greatest);
    int token = -1;
    if (greatest > -INFINITY && rules->temperature > 0.0f)
        token = sample(k, logits, &allowed, greatest, rules->temperature, uniform(rules->seed, (uint64_t)n));
    else if (greatest > -INFINITY)
        token = find_allowed(k, logits, &allowed, greatest);
    /* Rules that leave nothing end the text. */
    a->chosen[r] = token >= 0 ? token : rules->eot;
    a->logprob[r] =
        token >= 0 ? logits[token] - greatest - host_rules_log_sum(k, logits, &allowed, greatest) : -INFINITY;
}

static void select_worker(void *arg, int worker, int n_workers)
{
    struct select_job *job = arg;
    int first, last;
    pool_share(job->args->rows.n, 1, worker, n_workers, &first, &last);
    for (int r = first; r < last; r++) {
        if (job->args->rows.pos[r] >= 0 && job->args->slots[job->args->rows.slot[r]].n_beams <= 1)
            choose(job->args, job->kernels, r);
    }
}

int host_select(struct host_engine *h, const struct select_args *a)
{
    struct select_job job = {h->rows, a};
    if (a->rows.n > 1)
        pool_run(h->pool, select_worker, &job);
    else
        select_worker(&job, 0, 1);
    return 0;
}

/* --- from token to token ------------------------------------------------------------------------------------------ */

int host_advance(struct host_engine *h, const struct advance_args *a)
{
    for (int r = 0, end; r < a->rows.n; r = end) {
        end = r + 1;
        if (a->rows.pos[r] < 0)
            continue;
        int slot = a->rows.slot[r];
        struct slot_state *s = &a->slots[slot];
        if (s->n_beams > 1)
            continue;
        while (end < a->rows.n && a->rows.slot[end] == slot)
            end++;
        while (r < end && a->rows.pos[r] != s->n_tokens - 1)
            r++;
        if (r == end || s->done != SLOT_ACTIVE)
            continue;
        advance_slot(s, a->chosen + r, a->logprob + r, end - r);
        if (s->done != SLOT_ACTIVE)
            --*a->n_active;
    }
    return 0;
}
