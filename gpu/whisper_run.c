/* Runs: from struct text_run to rows and slot states, and back. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "gpu/whisper_state.h"

/* --- checking --------------------------------------------------------------------------------------------------- */

static bool is_pending(const struct whisper *w, int slot)
{
    for (int i = 0; i < w->n_pending; i++) {
        if (w->pending[i]->slot == slot)
            return true;
    }
    return false;
}

/* The first thing about a run that does not fit, or NULL. */
static const char *misfit(const struct whisper *w, const struct text_run *r)
{
    const struct token_rules *rules = &r->rules;
    int n_vocab = w->dims->n_vocab, n_ctx = w->dims->n_text_ctx;
    if (r->audio < 0 || r->audio >= w->n_audio_slots)
        return "there is no such audio slot";
    if (r->n_cached < 0 || r->n_prompt <= r->n_cached || r->n_prompt >= n_ctx)
        return "the prompt is empty, already cached, or fills the context";
    if (r->n_draft < 0 || r->n_draft > n_ctx - r->n_prompt)
        return "the draft does not fit the context";
    for (int i = 0; i < r->n_prompt + r->n_draft; i++) {
        if (r->tokens[i] < 0 || r->tokens[i] >= n_vocab)
            return "a token is not in the vocabulary";
    }
    if (r->sample_begin < 1 || r->sample_begin > r->n_prompt)
        return "sample_begin is not in the prompt";
    if (r->max_tokens < 1 || r->out_capacity < r->max_tokens || !r->out_tokens || !r->out_logprobs)
        return "there is no room for max_tokens";
    if (r->probe_token >= n_vocab ||
        (r->probe_token >= 0 && (r->probe_index < r->n_cached || r->probe_index >= r->n_prompt)))
        return "the probe is outside of the vocabulary or of what is fed";
    if (rules->mask >= RUN_TOKEN_MASKS || rules->first_mask >= RUN_TOKEN_MASKS)
        return "there is no such mask";
    if (rules->eot < 0 || rules->eot >= n_vocab || rules->timestamp_begin < 0 ||
        rules->timestamp_begin > n_vocab || rules->no_timestamps >= n_vocab)
        return "a special token is not in the vocabulary";
    if (!(rules->temperature >= 0.0f) || isinf(rules->temperature))
        return "the temperature is not a number from 0 on";
    return NULL;
}

static int check_runs(const struct whisper *w, const struct text_run *runs, int n, struct err *err)
{
    for (int i = 0; i < n; i++) {
        if (runs[i].beam.width > 1)
            return err_set(err, -ENOTSUP, "the engine %s has no beam search", w->engine->v->name);
    }
    if (n < 1 || n > w->n_text_slots)
        return err_set(err, -EINVAL, "a batch of %d runs: there are %d slots", n, w->n_text_slots);
    for (int i = 0; i < n; i++) {
        if (runs[i].slot < 0 || runs[i].slot >= w->n_text_slots)
            return err_set(err, -EINVAL, "run in slot %d: there are %d slots", runs[i].slot, w->n_text_slots);
        bool taken = is_pending(w, runs[i].slot);
        for (int k = 0; k < i; k++)
            taken |= runs[k].slot == runs[i].slot;
        const char *why = taken ? "the slot has a run that was not waited for" : misfit(w, &runs[i]);
        if (why)
            return err_set(err, -EINVAL, "run in slot %d: %s", runs[i].slot, why);
    }
    return 0;
}

/* --- submitting ------------------------------------------------------------------------------------------------- */

static int32_t *stage(struct whisper *w, int n)
{
    int32_t *p = w->staging + w->staging_used;
    w->staging_used += (size_t)n;
    assert(w->staging_used <= w->staging_size);
    return p;
}

static void upload_ints(struct whisper *w, int32_t *dst, const int32_t *src, int n)
{
    w->engine->v->upload(w->engine, dst, src, (size_t)n * sizeof(*src));
}

static int most_tokens(const struct whisper *w, const struct text_run *r)
{
    int room = w->dims->n_text_ctx - r->n_prompt;
    return r->max_tokens < room ? r->max_tokens : room;
}

static void upload_slot(struct whisper *w, const struct text_run *r)
{
    struct slot_state *s = &w->host_slots[r->slot];
    *s = (struct slot_state){.rules = r->rules,
                             .audio = r->audio,
                             .n_frames = w->dims->n_audio_ctx,
                             .n_ctx = w->dims->n_text_ctx,
                             .n_prompt = r->n_prompt,
                             .n_tokens = r->n_prompt,
                             .n_draft = r->n_draft,
                             .sample_begin = r->sample_begin,
                             .max_tokens = r->max_tokens,
                             .probe_token = r->probe_token,
                             .probe_index = r->probe_index};
    memcpy(s->tokens, r->tokens, (size_t)(r->n_prompt + r->n_draft) * sizeof(int32_t));
    w->engine->v->upload(w->engine, &w->slots[r->slot], s, sizeof(*s));
}

struct staged_rows {
    int32_t *token, *pos, *slot, *logit_pos;
    int n;
};

static struct staged_rows stage_rows(struct whisper *w, int n)
{
    return (struct staged_rows){
        .token = stage(w, n), .pos = stage(w, n), .slot = stage(w, n), .logit_pos = stage(w, n)};
}

static void add_row(struct staged_rows *rows, int32_t token, int pos, int slot, bool wants_logits)
{
    int i = rows->n++;
    rows->token[i] = token;
    rows->pos[i] = pos;
    rows->slot[i] = slot;
    rows->logit_pos[i] = wants_logits ? pos : -1;
}

static void upload_rows(struct whisper *w, const struct staged_rows *rows)
{
    const struct row_arrays *a = text_decoder_rows(w->decoder);
    upload_ints(w, a->token, rows->token, rows->n);
    upload_ints(w, a->pos, rows->pos, rows->n);
    upload_ints(w, a->slot, rows->slot, rows->n);
    upload_ints(w, a->logit_pos, rows->logit_pos, rows->n);
}

static int rows_of(const struct text_run *r)
{
    return r->n_prompt + r->n_draft - r->n_cached;
}

int whisper_submit_runs(struct whisper *w, struct text_run *runs, int n, int n_layers, struct err *err)
{
    int e = check_runs(w, runs, n, err);
    if (e < 0)
        return e;
    int n_rows = 0, max_steps = 0;
    bool align = false;
    for (int i = 0; i < n; i++) {
        n_rows += rows_of(&runs[i]);
        align |= runs[i].want_align && runs[i].out_align;
        int most = most_tokens(w, &runs[i]);
        max_steps = most - 1 > max_steps ? most - 1 : max_steps;
    }
    struct staged_rows rows = stage_rows(w, n_rows);
    int32_t *slots = stage(w, n), *n_active = stage(w, 1);
    *n_active = n;
    for (int i = 0; i < n; i++) {
        const struct text_run *r = &runs[i];
        slots[i] = r->slot;
        upload_slot(w, r);
        for (int pos = r->n_cached; pos < r->n_prompt + r->n_draft; pos++)
            add_row(&rows, r->tokens[pos], pos, r->slot,
                    pos >= r->n_prompt - 1 || (r->probe_token >= 0 && pos == r->probe_index));
    }
    upload_rows(w, &rows);
    upload_ints(w, text_decoder_step_slots(w->decoder), slots, n);
    upload_ints(w, w->n_active, n_active, 1);
    text_decoder_submit_rows(w->decoder, n_rows, align, n_layers);
    text_decoder_submit_steps(w->decoder, n, align, max_steps);
    for (int i = 0; i < n; i++) {
        struct slot_state *s = &w->host_slots[runs[i].slot];
        w->engine->v->download(w->engine, s, &w->slots[runs[i].slot], sizeof(*s));
        w->pending[w->n_pending++] = &runs[i];
    }
    return 0;
}

int whisper_run(struct whisper *w, struct text_run *runs, int n, struct err *err)
{
    return whisper_submit_runs(w, runs, n, WHISPER_LAYERS_MAX, err);
}

/* --- results ---------------------------------------------------------------------------------------------------- */

static void collect(const struct whisper *w, struct text_run *r)
{
    const struct slot_state *s = &w->host_slots[r->slot];
    r->n_out = s->n_tokens - s->n_prompt;
    memcpy(r->out_tokens, s->tokens + s->n_prompt, (size_t)r->n_out * sizeof(int32_t));
    memcpy(r->out_logprobs, s->logprobs + s->n_prompt, (size_t)r->n_out * sizeof(float));
    r->n_accepted = s->n_accepted;
    r->n_steps = s->n_steps;
    r->probe_prob = s->probe_prob;
    r->stop = s->done == SLOT_DONE_EOT     ? RUN_STOP_EOT
              : s->done == SLOT_DONE_LIMIT ? RUN_STOP_LIMIT
                                           : RUN_STOP_CTX;
    r->n_align_rows = 0;
    if (!r->want_align || !r->out_align)
        return;
    /* The token that came last was not fed. */
    r->n_align_rows = s->n_tokens - s->sample_begin;
    size_t row_bytes = (size_t)w->dims->n_align * RUN_AUDIO_FRAMES * sizeof(float);
    w->engine->v->download(w->engine, r->out_align,
                           text_decoder_alignment(w->decoder, r->slot, s->sample_begin - 1),
                           (size_t)r->n_align_rows * row_bytes);
}

int whisper_wait(struct whisper *w, struct err *err)
{
    int r = w->engine->v->wait(w->engine, err);
    int n = w->n_pending;
    w->n_pending = 0;
    w->staging_used = 0;
    if (r < 0 || n == 0)
        return r;
    /* How many rows of alignment there are is known only now: a second, short wait for these. */
    for (int i = 0; i < n; i++)
        collect(w, w->pending[i]);
    return w->engine->v->wait(w->engine, err);
}

/* --- single steps ----------------------------------------------------------------------------------------------- */

int whisper_logits(struct whisper *w, int slot, int audio_slot, const int32_t *tokens, int n, int pos,
                   float *logits, struct err *err)
{
    if (slot < 0 || slot >= w->n_text_slots || audio_slot < 0 || audio_slot >= w->n_audio_slots || n < 1 ||
        pos < 0 || n > w->dims->n_text_ctx - pos)
        return err_set(err, -EINVAL,
                       "logits of %d tokens from %d on in slots %d and %d: outside of the model", n, pos,
                       slot, audio_slot);
    for (int i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= w->dims->n_vocab)
            return err_set(err, -EINVAL, "token %d is not in the vocabulary", tokens[i]);
    }
    int r = whisper_wait(w, err); /* runs that still need the slots and the staging */
    if (r < 0)
        return r;
    struct slot_state *s = &w->host_slots[slot];
    *s = (struct slot_state){
        .audio = audio_slot, .n_frames = w->dims->n_audio_ctx, .n_ctx = w->dims->n_text_ctx};
    w->engine->v->upload(w->engine, &w->slots[slot], s, sizeof(*s));
    struct staged_rows rows = stage_rows(w, n);
    for (int i = 0; i < n; i++)
        add_row(&rows, tokens[i], pos + i, slot, true);
    upload_rows(w, &rows);
    for (int first = 0; first < n; first += PASS_ROWS_MAX) {
        int part = n - first < PASS_ROWS_MAX ? n - first : PASS_ROWS_MAX;
        struct mat m = text_decoder_submit_logits(w->decoder, first, part);
        size_t n_vocab = (size_t)w->dims->n_vocab;
        w->engine->v->download(w->engine, logits + (size_t)first * n_vocab, m.data,
                               (size_t)part * n_vocab * sizeof(float));
    }
    return whisper_wait(w, err);
}

void whisper_copy_slot(struct whisper *w, int src, int dst, int n)
{
    assert(src >= 0 && src < w->n_text_slots && dst >= 0 && dst < w->n_text_slots);
    assert(n >= 0 && n <= w->dims->n_text_ctx);
    text_decoder_copy_slot(w->decoder, src, dst, n);
}
