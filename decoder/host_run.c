#include "decoder/host_run.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/rules.h"

#define ROWS_MAX 8 /* tokens fed at a time, for the sake of memory */

struct host_run {
    struct text_model *model;
    int mask_words;
    uint32_t *masks; /* [RUN_TOKEN_MASKS, mask_words] */
    float *logits;   /* [ROWS_MAX, n_vocab] */
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

static int check(const struct host_run *h, const struct text_run *r, struct err *err)
{
    if (r->n_prompt < 1 || r->n_cached < 0 || r->n_cached >= r->n_prompt || r->n_draft < 0 ||
        r->max_tokens < 1 || r->n_prompt + r->n_draft > h->model->n_text_ctx ||
        r->n_prompt >= h->model->n_text_ctx || h->model->n_text_ctx > RUN_TOKENS_MAX ||
        r->out_capacity < r->max_tokens || r->sample_begin < 1 || r->sample_begin > r->n_prompt ||
        r->rules.mask >= RUN_TOKEN_MASKS || r->rules.first_mask >= RUN_TOKEN_MASKS)
        return err_set(err, -EINVAL, "a run's numbers do not fit");
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

int host_run(struct host_run *h, struct text_run *r, struct err *err)
{
    int status = check(h, r, err);
    if (status < 0)
        return status;
    struct sequence s = {.run = r, .n_tokens = r->n_prompt, .n_draft = r->n_draft};
    memcpy(s.tokens, r->tokens, (size_t)(r->n_prompt + r->n_draft) * sizeof(*s.tokens));
    r->n_out = r->n_accepted = r->n_align_rows = 0;
    r->n_steps = 1;
    r->probe_prob = 0.0f;
    bool batch = true;     /* the prompt and the draft: one pass to an engine, however they are fed here */
    int pos = r->n_cached; /* of the next token to feed */
    while (!s.done) {
        int n_known = s.n_tokens + s.n_draft, n = n_known - pos < ROWS_MAX ? n_known - pos : ROWS_MAX;
        status = h->model->ops->logits(h->model, r->slot, r->audio, s.tokens + pos, n, pos, h->logits, err);
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
