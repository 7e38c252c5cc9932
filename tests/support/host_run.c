#include "tests/support/host_run.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/rules.h"

#define ROWS_MAX 8 /* tokens fed at a time, for the sake of memory */

/* A hypothesis of a beam search. */
struct beam {
    int32_t tokens[RUN_TOKENS_MAX]; /* with the prompt */
    float logprobs[RUN_TOKENS_MAX]; /* of the produced ones, by index */
    int n_tokens;
    float sum; /* of logprobs */
};

struct host_run {
    struct text_model *model;
    int mask_words;
    uint32_t *masks;                                      /* [RUN_TOKEN_MASKS, mask_words] */
    float *logits;                                        /* [ROWS_MAX, n_vocab] */
    struct beam beams[RUN_BEAMS_MAX], old[RUN_BEAMS_MAX]; /* of a search */
    struct beam best;                                     /* of the finished ones */
};

/* A run in work. */
struct sequence {
    struct text_run *run;
    int32_t tokens[RUN_TOKENS_MAX]; /* what is certain, then the rest of the draft */
    int n_tokens, n_draft;
    bool done;
};

int host_run_create(struct text_model *model, struct host_run **out, struct err *err)
{
    struct host_run *h = calloc(1, sizeof(*h));
    if (!h)
        return err_set(err, -ENOMEM, "no memory for decoding on the host");
    h->model = model;
    h->mask_words = (model->n_vocab + 31) / 32;
    h->masks = calloc((size_t)RUN_TOKEN_MASKS * (size_t)h->mask_words, sizeof(*h->masks));
    h->logits = calloc((size_t)ROWS_MAX * (size_t)model->n_vocab, sizeof(*h->logits));
    if (!h->masks || !h->logits) {
        host_run_destroy(h);
        return err_set(err, -ENOMEM, "no memory for decoding on the host");
    }
    *out = h;
    return 0;
}

void host_run_destroy(struct host_run *h)
{
    if (!h)
        return;
    free(h->logits);
    free(h->masks);
    free(h);
}

int host_run_set_mask(struct host_run *h, int index, const int32_t *tokens, int n, struct err *err)
{
    if (index < 0 || index >= RUN_TOKEN_MASKS)
        return err_set(err, -EINVAL, "there is no mask %d", index);
    for (int i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= h->model->n_vocab)
            return err_set(err, -EINVAL, "mask %d: there is no token %d", index, tokens[i]);
    }
    uint32_t *mask = h->masks + (size_t)index * (size_t)h->mask_words;
    memset(mask, 0, (size_t)h->mask_words * sizeof(*mask));
    for (int i = 0; i < n; i++)
        mask[tokens[i] / 32] |= 1u << (tokens[i] % 32);
    return 0;
}

/* Finished hypotheses that end a search, with the rounding of Python's round(). */
static int n_wanted(const struct beam_search *b)
{
    return (int)rintf((float)b->width * (b->patience == 0.0f ? 1.0f : b->patience));
}

static int check(const struct host_run *h, const struct text_run *r, struct err *err)
{
    if (r->n_prompt < 1 || r->n_cached < 0 || r->n_cached >= r->n_prompt || r->n_draft < 0 ||
        r->max_tokens < 1 || r->n_prompt + r->n_draft > h->model->n_text_ctx ||
        r->n_prompt >= h->model->n_text_ctx || h->model->n_text_ctx > RUN_TOKENS_MAX ||
        r->out_capacity < r->max_tokens || r->sample_begin < 1 || r->sample_begin > r->n_prompt ||
        r->rules.mask >= RUN_TOKEN_MASKS || r->rules.first_mask >= RUN_TOKEN_MASKS || r->beam.width < 0 ||
        r->beam.width > RUN_BEAMS_MAX)
        return err_set(err, -EINVAL, "a run's numbers do not fit");
    if (r->beam.width > 1 && (r->n_draft > 0 || r->rules.temperature > 0.0f || n_wanted(&r->beam) < 1))
        return err_set(err, -EINVAL, "a search has no draft and no temperature, and must come to an end");
    if (r->want_align)
        return err_set(err, -ENOTSUP, "a run on the host has no alignment rows");
    return 0;
}

static void append(struct sequence *s, int32_t token, float logprob, int n_ctx)
{
    struct text_run *r = s->run;
    s->tokens[s->n_tokens++] = token;
    r->out_tokens[r->n_out] = token;
    r->out_logprobs[r->n_out] = logprob;
    r->n_out++;
    s->done = true;
    if (token == r->rules.eot)
        r->stop = RUN_STOP_EOT;
    else if (r->n_out >= r->max_tokens)
        r->stop = RUN_STOP_LIMIT;
    else if (s->n_tokens >= n_ctx)
        r->stop = RUN_STOP_CTX;
    else
        s->done = false;
}

/* Takes the logits after position pos, which is that of the newest certain token or an earlier one of the prompt.
 * Returns whether the next position was fed rightly: with a token of the prompt or of the draft. */
static bool take_row(struct host_run *h, struct sequence *s, int pos, float *logits)
{
    struct text_run *r = s->run;
    int n_vocab = h->model->n_vocab;
    if (pos == r->probe_index && r->probe_token >= 0)
        r->probe_prob = expf(rules_logprob(logits, n_vocab, r->probe_token));
    if (pos < r->n_prompt - 1)
        return true;
    rules_filter(&r->rules, h->masks, s->tokens, s->n_tokens, r->sample_begin, logits, n_vocab);
    int32_t token = rules_choose(&r->rules, s->n_tokens, logits, n_vocab);
    bool accepted = s->n_draft > 0 && s->tokens[s->n_tokens] == token;
    append(s, token, rules_logprob(logits, n_vocab, token), h->model->n_text_ctx);
    r->n_accepted += accepted;
    s->n_draft = accepted && !s->done ? s->n_draft - 1 : 0;
    return accepted && !s->done;
}

static int run_greedy(struct host_run *h, struct text_run *r, struct err *err)
{
    struct sequence s = {.run = r, .n_tokens = r->n_prompt, .n_draft = r->n_draft};
    memcpy(s.tokens, r->tokens, (size_t)(r->n_prompt + r->n_draft) * sizeof(*s.tokens));
    bool batch = true;     /* the prompt and the draft: one pass to an engine, however they are fed here */
    int pos = r->n_cached; /* of the next token to feed */
    while (!s.done) {
        int n_known = s.n_tokens + s.n_draft, n = n_known - pos < ROWS_MAX ? n_known - pos : ROWS_MAX;
        int status =
            h->model->ops->logits(h->model, r->slot, r->audio, s.tokens + pos, n, pos, h->logits, err);
        if (status < 0)
            return status;
        r->n_steps += !batch;
        bool more = true;
        for (int i = 0; i < n && more; i++)
            more = take_row(h, &s, pos++, h->logits + (size_t)i * (size_t)h->model->n_vocab);
        batch = batch && more;
    }
    return 0;
}

/* --- beam search ---------------------------------------------------------------------------------------------------- */

/* One slot is enough: each hypothesis is fed to it anew, from its first produced token on. */

struct candidate {
    int32_t token;
    float logprob, sum;
    int beam;
};

/* The candidates of all hypotheses. */
struct candidates {
    struct candidate at[RUN_BEAMS_MAX * (RUN_BEAMS_MAX + 1)];
    int n;
};

/* Feeds the tokens from `pos` on; h->logits begins with the row after the last of them. */
static int feed(struct host_run *h, struct text_run *r, const struct beam *b, int pos, struct err *err)
{
    size_t n_vocab = (size_t)h->model->n_vocab;
    while (pos < b->n_tokens) {
        int n = b->n_tokens - pos < ROWS_MAX ? b->n_tokens - pos : ROWS_MAX;
        int status =
            h->model->ops->logits(h->model, r->slot, r->audio, b->tokens + pos, n, pos, h->logits, err);
        if (status < 0)
            return status;
        int probed = r->probe_index - pos;
        if (r->probe_token >= 0 && b->n_tokens == r->n_prompt && probed >= 0 && probed < n)
            r->probe_prob =
                expf(rules_logprob(h->logits + (size_t)probed * n_vocab, h->model->n_vocab, r->probe_token));
        pos += n;
        if (pos == b->n_tokens)
            memmove(h->logits, h->logits + (size_t)(n - 1) * n_vocab, n_vocab * sizeof(*h->logits));
    }
    return 0;
}

/* Takes the width + 1 greatest logits of the row in h->logits. */
static void take_candidates(struct host_run *h, const struct text_run *r, int beam, struct candidates *c)
{
    const struct beam *b = &h->beams[beam];
    float *logits = h->logits;
    int n_vocab = h->model->n_vocab;
    rules_filter(&r->rules, h->masks, b->tokens, b->n_tokens, r->sample_begin, logits, n_vocab);
    float most = -INFINITY, most_logprob = -INFINITY;
    for (int i = 0; i <= r->beam.width; i++) {
        int32_t token = 0;
        for (int32_t id = 1; id < n_vocab; id++)
            token = logits[id] > logits[token] ? id : token;
        if (logits[token] == -INFINITY && i > 0)
            break;
        bool none = logits[token] == -INFINITY; /* the rules leave nothing: the text ends */
        if (i == 0 && !none) {
            most = logits[token];
            most_logprob = rules_logprob(logits, n_vocab, token);
        }
        float logprob = none ? -INFINITY : most_logprob + (logits[token] - most);
        c->at[c->n++] = (struct candidate){none ? r->rules.eot : token, logprob, b->sum + logprob, beam};
        logits[token] = -INFINITY;
    }
}

/* The best first; equal ones stay in their order. */
static void sort_candidates(struct candidates *c)
{
    for (int i = 1; i < c->n; i++) {
        struct candidate x = c->at[i];
        int k = i;
        for (; k > 0 && x.sum > c->at[k - 1].sum; k--)
            c->at[k] = c->at[k - 1];
        c->at[k] = x;
    }
}

static float score(const struct text_run *r, const struct beam *b)
{
    int length = b->n_tokens - r->n_prompt;
    if (length > 0 && b->tokens[b->n_tokens - 1] == r->rules.eot)
        length--;
    double n = length > 0 ? length : 1, alpha = r->beam.length_penalty;
    return (float)(b->sum / (alpha < 0.0 ? n : pow((5.0 + n) / 6.0, alpha)));
}

static void finish(struct host_run *h, const struct text_run *r, const struct beam *b, int *n_finished)
{
    if (*n_finished == 0 || score(r, b) > score(r, &h->best))
        h->best = *b;
    ++*n_finished;
}

static struct beam extended(const struct beam *b, const struct candidate *c)
{
    struct beam next = *b;
    next.tokens[next.n_tokens] = c->token;
    next.logprobs[next.n_tokens++] = c->logprob;
    next.sum = c->sum;
    return next;
}

/* The candidates become finished hypotheses and new ones; returns how many new ones there are. */
static int take_best(struct host_run *h, const struct text_run *r, const struct candidates *c,
                     int *n_finished)
{
    int n = 0;
    memcpy(h->old, h->beams, sizeof(h->old));
    for (int i = 0; i < c->n && n < r->beam.width; i++) {
        struct beam next = extended(&h->old[c->at[i].beam], &c->at[i]);
        if (c->at[i].token != r->rules.eot)
            h->beams[n++] = next;
        else if (*n_finished < n_wanted(&r->beam))
            finish(h, r, &next, n_finished);
    }
    return n;
}

static void take_result(const struct host_run *h, struct text_run *r)
{
    const struct beam *b = &h->best;
    r->n_out = b->n_tokens - r->n_prompt;
    memcpy(r->out_tokens, b->tokens + r->n_prompt, (size_t)r->n_out * sizeof(*b->tokens));
    memcpy(r->out_logprobs, b->logprobs + r->n_prompt, (size_t)r->n_out * sizeof(*b->logprobs));
    if (b->tokens[b->n_tokens - 1] == r->rules.eot)
        r->stop = RUN_STOP_EOT;
}

static int run_beams(struct host_run *h, struct text_run *r, struct err *err)
{
    int n_beams = 1, n_finished = 0;
    struct beam *first = &h->beams[0];
    first->n_tokens = r->n_prompt;
    first->sum = 0.0f;
    memcpy(first->tokens, r->tokens, (size_t)r->n_prompt * sizeof(*r->tokens));
    for (int n_produced = 0;; r->n_steps++) {
        struct candidates candidates = {.n = 0};
        for (int i = 0; i < n_beams; i++) {
            int status = feed(h, r, &h->beams[i], n_produced == 0 ? r->n_cached : r->n_prompt, err);
            if (status < 0)
                return status;
            take_candidates(h, r, i, &candidates);
        }
        sort_candidates(&candidates);
        n_beams = take_best(h, r, &candidates, &n_finished);
        n_produced++;
        bool ends = n_finished >= n_wanted(&r->beam) || n_beams == 0 || n_produced >= r->max_tokens;
        r->stop = ends ? RUN_STOP_LIMIT : RUN_STOP_CTX;
        if (ends || r->n_prompt + n_produced >= h->model->n_text_ctx)
            break;
    }
    for (int i = 0; i < n_beams && n_finished < r->beam.width; i++)
        finish(h, r, &h->beams[i], &n_finished);
    take_result(h, r);
    return 0;
}

int host_run(struct host_run *h, struct text_run *r, struct err *err)
{
    int status = check(h, r, err);
    if (status < 0)
        return status;
    r->n_out = r->n_accepted = r->n_align_rows = 0;
    r->n_steps = 1;
    r->probe_prob = 0.0f;
    return r->beam.width > 1 ? run_beams(h, r, err) : run_greedy(h, r, err);
}
