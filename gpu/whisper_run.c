/* Runs: from struct text_run to rows and slot states, and back. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "gpu/whisper_state.h"

/* --- checking --------------------------------------------------------------------------------------------------- */

static int width_of(const struct text_run *r)
{
    return r->beam.width > 1 ? r->beam.width : 1;
}

static bool overlap(const struct text_run *a, const struct text_run *b)
{
    return a->slot < b->slot + width_of(b) && b->slot < a->slot + width_of(a);
}

static bool overlaps_any(const struct text_run *r, struct text_run *const *others, int n)
{
    for (int i = 0; i < n; i++) {
        if (overlap(r, others[i]))
            return true;
    }
    return false;
}

/* Finished hypotheses that end a search: Python's round(), halves to even. */
static float n_wanted(const struct beam_search *b)
{
    return rintf((float)b->width * (b->patience == 0.0f ? 1.0f : b->patience));
}

static const char *beam_misfit(const struct text_run *r)
{
    const struct beam_search *b = &r->beam;
    if (b->width < 0 || b->width > RUN_BEAMS_MAX)
        return "there are more beams than fit a search";
    if (b->width <= 1)
        return NULL;
    if (!(n_wanted(b) >= 1.0f) || n_wanted(b) > 1e6f)
        return "the patience is not a number that lets a search end";
    if (!isfinite(b->length_penalty))
        return "the length penalty is not a number";
    if (r->n_draft > 0)
        return "a search cannot verify a draft";
    return r->rules.temperature > 0.0f ? "a search has no temperature" : NULL;
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
    if (rules->temperature != 0.0f &&
        (!(rules->temperature >= RUN_TEMPERATURE_LEAST) || isinf(rules->temperature)))
        return "the temperature is neither 0 nor a number from a millionth on";
    return beam_misfit(r);
}

static int check_runs(const struct whisper *w, struct text_run *const *runs, int n, struct err *err)
{
    if (n < 1 || n > w->n_text_slots)
        return err_set(err, -EINVAL, "a batch of %d runs: there are %d slots", n, w->n_text_slots);
    for (int i = 0; i < n; i++) {
        const struct text_run *r = runs[i];
        if (r->beam.width > 1 && !text_decoder_searches(w->decoder))
            return err_set(err, -ENOTSUP, "the %s engine has no beam search", w->engine->v->name);
        const char *why = misfit(w, r);
        if (r->slot < 0 || (!why && r->slot > w->n_text_slots - width_of(r)))
            return err_set(err, -EINVAL, "run in slot %d with %d beams: there are %d slots", r->slot,
                           r->beam.width, w->n_text_slots);
        if (!why && (overlaps_any(r, w->pending, w->n_pending) || overlaps_any(r, w->joined, w->n_joined) ||
                     overlaps_any(r, runs, i)))
            why = "the slot has a run that has not ended";
        if (why)
            return err_set(err, -EINVAL, "run in slot %d: %s", r->slot, why);
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

static void upload_slots(struct whisper *w, const struct text_run *r)
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
                             .probe_index = r->probe_index,
                             .n_beams = width_of(r),
                             .first_slot = r->slot};
    memcpy(s->tokens, r->tokens, (size_t)(r->n_prompt + r->n_draft) * sizeof(int32_t));
    memset(s->kv_slot, r->slot, (size_t)r->n_prompt);
    for (int i = 1; i < width_of(r); i++)
        s[i] = *s;
    w->engine->v->upload(w->engine, &w->slots[r->slot], s, (size_t)width_of(r) * sizeof(*s));
    if (r->beam.width <= 1)
        return;
    struct beam_state *b = &w->host_beams[r->slot];
    *b = (struct beam_state){.n_wanted = (int32_t)n_wanted(&r->beam),
                             .length_penalty = r->beam.length_penalty};
    w->engine->v->upload(w->engine, &w->beams[r->slot], b, sizeof(*b));
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

static struct pass_kind kind_of(struct text_run *const *runs, int n, int n_layers)
{
    struct pass_kind kind = {.n_layers = n_layers};
    for (int i = 0; i < n; i++) {
        kind.align |= runs[i]->want_align && runs[i]->out_align;
        kind.beams |= runs[i]->beam.width > 1;
    }
    return kind;
}

/* How many ends of runs stop the steps. */
static void upload_active(struct whisper *w, int n)
{
    int32_t *n_active = stage(w, 1);
    *n_active = n;
    upload_ints(w, w->n_active, n_active, 1);
}

/* The first pass of n runs. */
static void submit_first_pass(struct whisper *w, struct text_run *const *runs, int n, int n_layers)
{
    int n_rows = 0;
    for (int i = 0; i < n; i++)
        n_rows += rows_of(runs[i]);
    struct staged_rows rows = stage_rows(w, n_rows);
    for (int i = 0; i < n; i++) {
        const struct text_run *r = runs[i];
        upload_slots(w, r);
        for (int pos = r->n_cached; pos < r->n_prompt + r->n_draft; pos++)
            add_row(&rows, r->tokens[pos], pos, r->slot,
                    pos >= r->n_prompt - 1 || (r->probe_token >= 0 && pos == r->probe_index));
    }
    upload_rows(w, &rows);
    text_decoder_submit_rows(w->decoder, n_rows, kind_of(runs, n, n_layers));
}

/* Up to max_steps steps of n runs, and their states afterwards. */
static void submit_steps(struct whisper *w, struct text_run *const *runs, int n, int n_layers, int max_steps)
{
    int n_slots = 0, most = 0;
    for (int i = 0; i < n; i++)
        n_slots += width_of(runs[i]);
    int32_t *slots = stage(w, n_slots);
    n_slots = 0;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < width_of(runs[i]); k++)
            slots[n_slots++] = runs[i]->slot + k;
        int limit = most_tokens(w, runs[i]) - 1;
        most = limit > most ? limit : most;
    }
    upload_ints(w, text_decoder_step_slots(w->decoder), slots, n_slots);
    text_decoder_submit_steps(w->decoder, n_slots, kind_of(runs, n, n_layers),
                              max_steps < most ? max_steps : most);
    for (int i = 0; i < n; i++) {
        struct slot_state *s = &w->host_slots[runs[i]->slot];
        w->engine->v->download(w->engine, s, &w->slots[runs[i]->slot], sizeof(*s));
    }
}

int whisper_submit_runs(struct whisper *w, struct text_run *runs, int n, int n_layers, struct err *err)
{
    struct text_run *added[PASS_ROWS_MAX];
    for (int i = 0; i < n && i < PASS_ROWS_MAX; i++)
        added[i] = &runs[i];
    int r = check_runs(w, added, n, err);
    if (r < 0)
        return r;
    whisper_submit_windows(w, WHISPER_LAYERS_MAX);
    upload_active(w, n);
    submit_first_pass(w, added, n, n_layers);
    submit_steps(w, added, n, n_layers, INT_MAX);
    for (int i = 0; i < n; i++)
        w->pending[w->n_pending++] = added[i];
    return 0;
}

int whisper_run(struct whisper *w, struct text_run *runs, int n, struct err *err)
{
    return whisper_submit_runs(w, runs, n, WHISPER_LAYERS_MAX, err);
}

/* The steps of a batch stop as soon as one run ends: the host has something to do then. */
static void begin_turn(struct whisper *w)
{
    if (!w->in_turn)
        upload_active(w, 1);
    w->in_turn = true;
}

int whisper_join(struct whisper *w, struct text_run *const *runs, int n, struct err *err)
{
    int r = check_runs(w, runs, n, err);
    if (r < 0)
        return r;
    whisper_submit_windows(w, WHISPER_LAYERS_MAX);
    begin_turn(w);
    submit_first_pass(w, runs, n, WHISPER_LAYERS_MAX);
    for (int i = 0; i < n; i++) {
        runs[i]->stop = RUN_IN_WORK;
        w->joined[w->n_joined++] = runs[i];
    }
    return 0;
}

/* --- results ---------------------------------------------------------------------------------------------------- */

/* Rows of alignment, from position `first` on. With beams they lie where the hypothesis was when it was fed. */
static void download_alignment(const struct whisper *w, const struct slot_state *s, int slot, int first,
                               int n, float *out)
{
    size_t row = (size_t)w->dims->n_align * RUN_AUDIO_FRAMES;
    for (int i = 0, end; i < n; i = end) {
        int from = s->kv_slot[first + i];
        end = s->n_beams > 1 ? i + 1 : n;
        while (end < n && s->kv_slot[first + end] == from)
            end++;
        w->engine->v->download(w->engine, out + (size_t)i * row,
                               text_decoder_alignment(w->decoder, s->n_beams > 1 ? from : slot, first + i),
                               (size_t)(end - i) * row * sizeof(float));
    }
}

/* No rule forbids eot beside all else: where it is what is left, with no probability, the logits are not numbers; nor where a
 * probability is none, as beside infinite ones. */
static bool is_flawed(const struct text_run *r)
{
    for (int i = 0; i < r->n_out; i++) {
        if (isnan(r->out_logprobs[i]))
            return true;
    }
    return r->stop == RUN_STOP_EOT && r->n_out > 0 && r->out_logprobs[r->n_out - 1] == -INFINITY;
}

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
    if (is_flawed(r))
        r->stop = RUN_STOP_FLAW;
    r->n_align_rows = 0;
    if (!r->want_align || !r->out_align)
        return;
    /* The token that came last was not fed. */
    r->n_align_rows = s->n_tokens - s->sample_begin;
    download_alignment(w, s, r->slot, s->sample_begin - 1, r->n_align_rows, r->out_align);
}

int whisper_wait(struct whisper *w, struct err *err)
{
    whisper_submit_windows(w, WHISPER_LAYERS_MAX);
    int r = w->engine->v->wait(w->engine, err);
    int n = w->n_pending;
    w->n_pending = 0;
    w->staging_used = 0;
    if (r < 0) {
        w->n_joined = 0;
        w->in_turn = false;
    }
    if (r < 0 || n == 0)
        return r;
    bool flawed = false;
    for (int i = 0; i < n; i++) {
        collect(w, w->pending[i]);
        flawed |= w->pending[i]->stop == RUN_STOP_FLAW;
    }
    /* How many rows of alignment there are is known only now: a second, short wait for these. */
    r = whisper_wait(w, err);
    return r < 0 || !flawed ? r : err_set(err, -EIO, "engine %s: " RUN_FLAW, w->engine->v->name);
}

int whisper_step(struct whisper *w, int max_steps, struct err *err)
{
    if (w->n_joined == 0)
        return whisper_wait(w, err); /* encodings may have been submitted for runs that were refused */
    begin_turn(w);
    submit_steps(w, w->joined, w->n_joined, WHISPER_LAYERS_MAX, max_steps);
    w->in_turn = false;
    int r = whisper_wait(w, err);
    if (r < 0)
        return r;
    int n = w->n_joined;
    w->n_joined = 0;
    for (int i = 0; i < n; i++) {
        if (w->host_slots[w->joined[i]->slot].done == SLOT_ACTIVE)
            w->joined[w->n_joined++] = w->joined[i];
        else
            collect(w, w->joined[i]);
    }
    r = w->n_joined < n ? whisper_wait(w, err) : 0;
    return r < 0 ? r : w->n_joined;
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
    if (overlaps_any(&(struct text_run){.slot = slot}, w->joined, w->n_joined))
        return err_set(err, -EINVAL, "logits in slot %d: the slot has a run that has not ended", slot);
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
    r = whisper_wait(w, err);
    for (int i = 0; i < n && r == 0; i++) {
        if (!isfinite(logits[(size_t)i * (size_t)w->dims->n_vocab]))
            r = err_set(err, -ERANGE, "engine %s: " RUN_FLAW, w->engine->v->name);
    }
    return r;
}

void whisper_copy_slot(struct whisper *w, int src, int dst, int n)
{
    assert(src >= 0 && src < w->n_text_slots && dst >= 0 && dst < w->n_text_slots);
    assert(n >= 0 && n <= w->dims->n_text_ctx);
    text_decoder_copy_slot(w->decoder, src, dst, n);
}
