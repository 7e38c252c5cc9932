#include "decoder/live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/sample_rate.h"
#include "decoder/commit.h"
#include "decoder/detect_language.h"
#include "decoder/guard.h"
#include "decoder/hypothesis.h"
#include "decoder/left_out.h"
#include "decoder/live_buffer.h"
#include "decoder/live_language.h"
#include "decoder/live_text.h"
#include "decoder/words.h"

#define MS(x)        ((int64_t)(x)*SAMPLE_RATE / 1000)
#define MASK         0 /* suppressed everywhere: non-speech symbols, special tokens, timestamps */
#define MASK_FIRST   1 /* and at the beginning */
#define MASK_STAMPED 2 /* as MASK, with timestamps allowed */
#define PROMPT_MAX   (1 + LIVE_TOLD_MAX + LIVE_PROMPT + 4 + HYPOTHESIS_TOKENS)

static const struct commit_rules rules = {.holds = {{0.8f, MS(200)}, {0.5f, MS(1000)}, {0.0f, MS(3000)}},
                                          .certain = MS(6000)};

_Static_assert(PROMPT_MAX <= RUN_TOKENS_MAX, "all that a pass is given and may write fits into the context");

struct live {
    struct text_model *model;
    const struct tokenizer *tokenizer;
    struct live_options options;
    struct hypothesizer *hypothesizer;
    struct live_buffer b;
    struct hypothesis *now, *before, *doubted;
    int tail;                            /* first word of `before` that is not committed */
    struct live_settings settings, next; /* of this utterance, of the next one */
    struct live_language language;
    const char *text_language; /* of the words that the buffer holds as history */
    float *logits;             /* [n_vocab], NULL for English-only models */
    int32_t prompt[PROMPT_MAX];
    int64_t ends[HYPOTHESIS_TOKENS];
    float levels[RUN_AUDIO_FRAMES]; /* of the audio that was decoded last */
    int n_levels;
    struct live_text text;
};

/* --- life ----------------------------------------------------------------------------------------------------- */

static int set_masks(struct live *l, struct err *err)
{
    const struct special_tokens *special = tokenizer_special(l->tokenizer);
    int n_stamps = tokenizer_n_vocab(l->tokenizer) - special->timestamp_begin;
    int32_t *tokens = malloc((size_t)(256 + n_stamps) * sizeof(int32_t));
    if (!tokens)
        return err_set(err, -ENOMEM, "out of memory for live captions");
    int n = tokenizer_suppressed(l->tokenizer, tokens, 256);
    int r = l->model->ops->set_mask(l->model, MASK_STAMPED, tokens, n, err);
    for (int i = 0; i < n_stamps; i++)
        tokens[n++] = special->timestamp_begin + i;
    if (r >= 0)
        r = l->model->ops->set_mask(l->model, MASK, tokens, n, err);
    if (r >= 0) {
        n = tokenizer_suppressed_first(l->tokenizer, tokens, 256);
        r = l->model->ops->set_mask(l->model, MASK_FIRST, tokens, n, err);
    }
    free(tokens);
    return r < 0 ? r : 0;
}

static int check_language(const struct tokenizer *t, const char *language, struct err *err)
{
    if (language && tokenizer_special(t)->multilingual && tokenizer_language_token(t, language) < 0)
        return err_set(err, -EINVAL, "the model does not know the language \"%s\"", language);
    return 0;
}

static void start_language(struct live *l)
{
    bool multilingual = tokenizer_special(l->tokenizer)->multilingual;
    live_language_start(&l->language, multilingual ? l->settings.language : "en");
}

int live_create(struct text_model *model, const struct tokenizer *tokenizer,
                const struct live_options *options, struct live **out, struct err *err)
{
    const struct live_settings *settings = &options->settings;
    int r = check_language(tokenizer, settings->language, err);
    if (r < 0)
        return r;
    struct live *l = calloc(1, sizeof(*l));
    if (!l)
        return err_set(err, -ENOMEM, "out of memory for live captions");
    l->model = model;
    l->tokenizer = tokenizer;
    l->options = *options;
    l->now = calloc(1, sizeof(*l->now));
    l->before = calloc(1, sizeof(*l->before));
    l->doubted = calloc(1, sizeof(*l->doubted));
    bool multilingual = tokenizer_special(tokenizer)->multilingual;
    if (multilingual)
        l->logits = malloc((size_t)model->n_vocab * sizeof(float));
    if (!l->now || !l->before || !l->doubted || (multilingual && !l->logits))
        r = err_set(err, -ENOMEM, "out of memory for live captions");
    if (r >= 0)
        r = hypothesizer_create(model, tokenizer, &l->hypothesizer, err);
    if (r >= 0)
        r = set_masks(l, err);
    if (r < 0) {
        live_destroy(l);
        return r;
    }
    l->settings = l->next = *settings;
    start_language(l);
    *out = l;
    return 0;
}

void live_destroy(struct live *l)
{
    if (!l)
        return;
    hypothesizer_destroy(l->hypothesizer);
    free(l->now);
    free(l->before);
    free(l->doubted);
    free(l->logits);
    free(l);
}

/* --- committed words ------------------------------------------------------------------------------------------ */

/* Whether the earlier text is in the language of this pass. */
static bool same_language(const struct live *l)
{
    return !l->text_language || strcmp(l->text_language, l->language.now) == 0;
}

/* Commits words [from, from + n) of a hypothesis. */
static void commit(struct live *l, const struct hypothesis *h, int from, int n)
{
    struct live_buffer *b = &l->b;
    if (n > 0 && !same_language(l))
        live_buffer_forget(b);
    if (n > 0)
        l->text_language = l->language.now;
    for (int i = from; i < from + n; i++) {
        const struct word *w = &h->words[i];
        live_text_commit(&l->text, b, w);
        live_buffer_add(b, w->text, h->tokens + w->first_token, w->n_tokens, b->last_end);
    }
}

/* --- the prompt ----------------------------------------------------------------------------------------------- */

/* Whether the language that is written has spaces between its words. */
static bool spaced(const struct live *l)
{
    return words_spaced(l->settings.translate ? "en" : l->language.now);
}

/* What stands before <|startoftranscript|>: what every pass is told of, and the earlier text, which a stamped pass goes
 * without. Returns the number of tokens. */
static int build_context(const struct live *l, int32_t *p)
{
    const struct live_buffer *b = &l->b;
    const struct live_settings *s = &l->settings;
    int first = b->n_history;
    if (!b->stamped && same_language(l))
        first = live_buffer_history(b, l->tokenizer, spaced(l));
    int n_history = b->n_history - first;
    if (s->n_told + n_history == 0)
        return 0;
    p[0] = tokenizer_special(l->tokenizer)->sot_prev;
    memcpy(p + 1, s->told, (size_t)s->n_told * sizeof(*p));
    memcpy(p + 1 + s->n_told, b->history + first, (size_t)n_history * sizeof(*p));
    return 1 + s->n_told + n_history;
}

static void build_request(struct live *l, int n_samples, struct hypothesis_request *q)
{
    const struct special_tokens *special = tokenizer_special(l->tokenizer);
    const struct live_buffer *b = &l->b;
    int32_t *p = l->prompt;
    int n = build_context(l, p);
    q->sot_index = n;
    p[n++] = special->sot;
    if (special->multilingual) {
        p[n++] = tokenizer_language_token(l->tokenizer, l->language.now);
        p[n++] = l->settings.translate ? special->translate : special->transcribe;
    }
    p[n++] = special->no_timestamps;
    memcpy(p + n, b->committed, (size_t)b->n_committed * sizeof(int32_t));
    n += b->n_committed;
    q->n_prompt = n;
    q->n_committed = b->n_committed;
    int room = HYPOTHESIS_TOKENS - b->n_committed;
    int limit = guard_max_tokens(n_samples) - b->n_committed;
    q->max_tokens = limit < 8 ? 8 : limit;
    q->max_tokens = q->max_tokens < room ? q->max_tokens : room;
    q->n_draft = 0;
    q->stamped = b->stamped && b->n_committed == 0;
    if (l->options.draft && l->settings.beam_size <= 1 && !q->stamped) {
        for (int i = l->tail; i < l->before->n_words; i++) {
            const struct word *w = &l->before->words[i];
            if (q->n_draft + w->n_tokens >= q->max_tokens)
                break;
            memcpy(p + n + q->n_draft, l->before->tokens + w->first_token,
                   (size_t)w->n_tokens * sizeof(int32_t));
            q->n_draft += w->n_tokens;
        }
    }
    q->tokens = p;
    q->audio_slot = l->options.audio_slot;
    q->text_slot = l->options.text_slot;
    q->beam_size = l->settings.beam_size;
    q->mask = q->stamped ? MASK_STAMPED : MASK;
    q->first_mask = MASK_FIRST;
    q->spaced = spaced(l);
    q->origin = b->start;
    q->n_samples = n_samples;
}

/* --- language ------------------------------------------------------------------------------------------------- */

/* Decides the language of this pass. */
static int choose_language(struct live *l, int n_samples, struct err *err)
{
    const char *code;
    float probability;
    l->language.doubtful = false;
    if (l->language.locked)
        return 0;
    int r = detect_language(l->model, l->tokenizer, l->options.text_slot, l->options.audio_slot, l->logits,
                            &code, &probability, err);
    if (r < 0)
        return r;
    live_language_heard(&l->language, code, probability, n_samples);
    return 0;
}

void live_set(struct live *l, const struct live_settings *settings)
{
    l->next = *settings;
}

static bool told_the_same(const struct live_settings *a, const struct live_settings *b)
{
    return a->n_told == b->n_told && memcmp(a->told, b->told, (size_t)a->n_told * sizeof(*a->told)) == 0;
}

/* Takes over the settings for the utterance that begins. True where text of the ones before is no context for it: a name that
 * stands there as it was misheard would outweigh the hotword that somebody has set because of it. */
static bool take_settings(struct live *l)
{
    const char *before = l->settings.language, *language = l->next.language;
    bool same = before == language || (before && language && strcmp(before, language) == 0);
    bool anew = !same || l->next.language_choice != l->settings.language_choice;
    bool changes =
        anew || l->next.translate != l->settings.translate || !told_the_same(&l->next, &l->settings);
    l->settings = l->next;
    if (anew)
        start_language(l);
    return changes;
}

/* An utterance for itself, whose language is to be heard. True if it is one. */
static bool follow_language(struct live *l)
{
    bool multilingual = tokenizer_special(l->tokenizer)->multilingual;
    if (!l->settings.follow_language || l->settings.language || !multilingual)
        return false;
    live_language_again(&l->language);
    return true;
}

/* --- passes --------------------------------------------------------------------------------------------------- */

void live_begin(struct live *l, int64_t start, int64_t oldest)
{
    struct live_buffer *b = &l->b;
    l->before->n_words = l->tail = 0;
    b->opening = true;
    bool reset = take_settings(l), alone = reset | follow_language(l);
    if (alone || !live_buffer_joins(b, start, oldest))
        live_buffer_restart(b, start, reset);
}

int64_t live_buffer_start(const struct live *l)
{
    return l->b.start;
}

/* Takes out what nobody said: everything in a window without speech, words before a cut that are committed already, and words
 * at the end where there is no sound (left) to carry them. */
static void guard_words(struct live *l, struct hypothesis *h, const float *pcm, int n_samples)
{
    struct live_buffer *b = &l->b;
    bool guarded = !l->settings.unguarded;
    if (guarded && b->n_committed == 0 && guard_no_speech(h->no_speech_prob, h->avg_logprob))
        h->n_words = 0;
    if (b->cut) {
        struct word said[LIVE_SAID];
        for (int i = 0; i < b->n_said; i++)
            said[i] = (struct word){.text = b->said[i]};
        int n = commit_repeated(said, b->n_said, h->words, h->n_words, b->start + MS(300));
        h->n_words -= n;
        memmove(h->words, h->words + n, (size_t)h->n_words * sizeof(h->words[0]));
    }
    l->n_levels = guard_levels(pcm, n_samples, l->levels);
    while (h->n_words > 0) {
        const struct word *w = &h->words[h->n_words - 1];
        int first = live_buffer_frame(&l->b, w->start), last = live_buffer_frame(&l->b, w->end);
        bool past = w->start >= b->start + n_samples - MS(100);
        if (!past && !(guarded && guard_inaudible(l->levels, l->n_levels, first, last)))
            break;
        h->n_words--;
    }
    /* The alignment gives the silence before the first word to that word. */
    if (h->n_words > 0) {
        struct word *w = &h->words[0];
        int first = live_buffer_frame(&l->b, w->start);
        int heard = guard_first_loud(l->levels, l->n_levels, first, live_buffer_frame(&l->b, w->end));
        w->start += GUARD_FRAME * (int64_t)(heard - first);
    }
}

/* No committed word to cut at: what is left of the older half's words is committed, and the half is given up. */
static void trim_half(struct live *l)
{
    struct live_buffer *b = &l->b;
    int64_t limit = MS(l->options.max_buffer_ms);
    if (b->end - b->start <= limit)
        return;
    int64_t middle = b->end - limit / 2;
    int n = 0;
    while (l->tail + n < l->before->n_words && l->before->words[l->tail + n].end <= middle)
        n++;
    commit(l, l->before, l->tail, n);
    l->tail += n;
    live_buffer_cut(b, n > 0 ? b->last_end : middle, b->n_kept);
}

static void begin_output(struct live *l, struct live_output *out)
{
    memset(out, 0, sizeof(*out));
    live_text_clear(&l->text);
}

static void end_output(struct live *l, struct live_output *out)
{
    struct live_text *t = &l->text;
    live_text_show(t, &l->b, l->before, l->language.doubtful ? l->before->n_words : l->tail);
    out->committed = t->words;
    out->n_committed = t->n_words;
    out->partial = t->partial;
    out->partial_start = t->partial_start;
    out->partial_end = t->partial_end;
    out->language = l->language.now;
}

/* Encodes and decodes the window; the new hypothesis becomes `now`. */
static int decode(struct live *l, const float *pcm, int n_samples, int n_before, struct live_output *out,
                  struct err *err)
{
    l->model->ops->encode(l->model, l->options.audio_slot, pcm, n_samples, n_before, AUDIO_SCALE_OWN);
    int r = choose_language(l, n_samples, err);
    if (r < 0) {
        l->model->ops->wait(l->model, NULL);
        return r;
    }
    struct hypothesis_request q;
    build_request(l, n_samples, &q);
    r = hypothesizer_run(l->hypothesizer, &q, l->now, l->ends, err);
    if (r < 0)
        return r;
    out->n_passes++;
    out->n_steps += l->now->n_steps;
    out->n_draft += l->now->n_draft;
    out->n_accepted += l->now->n_accepted;
    if (l->now->looped)
        l->b.n_history = 0; /* loops feed on the prompt */
    return 0;
}

/* Gives up what lies more than 30 s back. */
static void cut_window(struct live *l, int excess)
{
    struct live_buffer *b = &l->b;
    int64_t at = b->start + excess;
    int n = 0;
    while (l->tail + n < l->before->n_words && l->before->words[l->tail + n].start < at)
        n++;
    commit(l, l->before, l->tail, n);
    l->tail += n;
    n = 0;
    while (n < b->n_kept && b->kept[n].end <= at)
        n++;
    live_buffer_cut(b, at, n);
}

/* Decodes the audio from sample `at` on by itself, with timestamps. Where that brings nothing more the first hypothesis
 * stays. */
static int listen_again(struct live *l, int64_t at, const float *pcm, int n_samples, int n_before,
                        struct live_output *out, struct err *err)
{
    struct live_buffer *b = &l->b, saved = l->b;
    struct hypothesis *swap = l->doubted;
    int offset = (int)(at - b->start);
    l->doubted = l->now;
    l->now = swap;
    if (offset > 0 || b->n_kept > 0)
        live_buffer_cut(b, at, b->n_kept);
    b->stamped = true;
    n_before = offset + n_before < AUDIO_BESIDE ? offset + n_before : AUDIO_BESIDE;
    int r = decode(l, pcm + offset, n_samples - offset, n_before, out, err);
    if (r >= 0)
        guard_words(l, l->now, pcm + offset, n_samples - offset);
    if (r >= 0 && left_out_found(l->doubted, l->now))
        return 0;
    *b = saved;
    b->doubted_end = b->end;
    l->now = l->doubted;
    l->doubted = swap;
    return r;
}

/* Decodes, and where the hypothesis leaves out speech once more. */
static int listen(struct live *l, const float *pcm, int n_samples, int n_before, bool last,
                  struct live_output *out, struct err *err)
{
    struct live_buffer *b = &l->b;
    int r = decode(l, pcm, n_samples, n_before, out, err);
    if (r < 0)
        return r;
    b->end = b->start + n_samples;
    guard_words(l, l->now, pcm, n_samples);
    live_buffer_refine(b, l->ends);
    int64_t at = left_out_find(b, l->now, l->levels, l->n_levels, last);
    if (at >= 0) {
        r = listen_again(l, at, pcm, n_samples, n_before, out, err);
        if (r < 0)
            return r;
    }
    if (l->now->n_words > 0)
        b->heard_end = b->end;
    return 0;
}

int live_update(struct live *l, const float *pcm, int n_samples, int n_before, enum live_update_kind kind,
                struct live_output *out, struct err *err)
{
    struct live_buffer saved;
    int saved_tail = l->tail, excess = n_samples > AUDIO_WINDOW ? n_samples - AUDIO_WINDOW : 0;
    if (n_samples <= 0 && kind == LIVE_FINAL) {
        live_abandon(l, out);
        return 0;
    }
    begin_output(l, out);
    if (n_samples <= 0) {
        end_output(l, out);
        return 0;
    }
    if (excess) {
        saved = l->b;
        cut_window(l, excess);
        pcm += excess;
        n_samples -= excess;
        n_before = AUDIO_BESIDE;
    }
    int r = listen(l, pcm, n_samples, n_before, kind == LIVE_FINAL, out, err);
    if (r < 0) {
        if (excess) {
            l->b = saved;
            l->tail = saved_tail;
        }
        return r;
    }
    int n = l->now->n_words;
    if (kind == LIVE_TICK)
        n = !l->language.locked
                ? 0
                : commit_count(&rules, l->before->words + l->tail, l->before->n_words - l->tail,
                               l->now->words, l->now->n_words, l->b.end);
    commit(l, l->now, 0, n);
    struct hypothesis *swap = l->before;
    l->before = l->now;
    l->now = swap;
    l->tail = n;
    if (kind == LIVE_TICK) {
        live_buffer_trim(&l->b, MS(l->options.max_buffer_ms));
        trim_half(l);
    }
    end_output(l, out);
    return 0;
}

void live_abandon(struct live *l, struct live_output *out)
{
    begin_output(l, out);
    commit(l, l->before, l->tail, l->before->n_words - l->tail);
    l->tail = l->before->n_words;
    end_output(l, out);
}
