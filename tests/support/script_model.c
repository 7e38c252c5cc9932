#include "tests/support/script_model.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define WINDOW (30 * 16000)

/* 0.5 + i · 2⁻²⁴ is exact in f32 for i < 2²³ (524 s). */
void script_audio(float *pcm, int64_t first, int n)
{
    for (int i = 0; i < n; i++)
        pcm[i] = 0.5f + (float)(first + i) * 0x1p-24f;
}

int64_t script_time(float sample)
{
    return (int64_t)((sample - 0.5f) * 0x1p24f);
}

static const char *token_bytes(const void *ctx, int32_t id, size_t *n_bytes)
{
    static char text[16];
    if (id < 256) {
        text[0] = (char)id;
        *n_bytes = 1;
        return text;
    }
    if (id == SCRIPT_HALF_A || id == SCRIPT_HALF_B) {
        *n_bytes = (size_t)snprintf(text, sizeof(text), "%s", id == SCRIPT_HALF_A ? " \xC3" : "\xA9");
        return text;
    }
    if (id == SCRIPT_COMMA || id == SCRIPT_PERIOD)
        *n_bytes = (size_t)snprintf(text, sizeof(text), "%s", id == SCRIPT_COMMA ? "," : ".");
    else if (id >= SCRIPT_WORD && id < SCRIPT_WORD + SCRIPT_WORDS)
        *n_bytes = (size_t)snprintf(text, sizeof(text), " w%d", id - SCRIPT_WORD);
    else
        *n_bytes = (size_t)snprintf(text, sizeof(text), "#%d", id);
    return text;
}

static struct script_model *self(struct text_model *m)
{
    return (struct script_model *)m;
}

static void count(struct script_model *s)
{
    s->n_operations++;
    s->lost |= s->n_operations == s->lose_at;
}

static int wait(struct text_model *m, struct err *err)
{
    struct script_model *s = self(m);
    if (!s->lost)
        return 0;
    s->n_work = 0;
    return err_set(err, -EIO, "scripted loss");
}

static void encode(struct text_model *m, int audio_slot, const float *pcm, int n_samples, int n_before,
                   enum audio_scale scale)
{
    struct script_model *s = self(m);
    count(s);
    s->n_encodes++;
    s->n_overlong += n_samples > WINDOW;
    s->audio_start[audio_slot] = script_time(pcm[0]);
    s->audio_samples[audio_slot] = n_samples;
    for (int i = 1; i <= n_before; i++)
        assert_int_equal(script_time(pcm[-i]), s->audio_start[audio_slot] - i);
}

/* The answer for the whole window. Returns its length without the end of text. */
static int hear(struct script_model *s, int audio)
{
    int64_t from = s->audio_start[audio], to = from + s->audio_samples[audio];
    int n = 0;
    int64_t end = from;
    for (int i = 0; i < s->n_words; i++) {
        const struct script_word *w = &s->words[i];
        if ((w->start + w->end) / 2 < from || (w->start + w->end) / 2 >= to)
            continue;
        bool misheard = w->end > to || (s->rng && test_rng_uniform(s->rng) < s->substitute);
        s->answer_start[n] = w->start < from ? from : w->start;
        end = w->end < to ? w->end : to;
        s->answer_end[n] = end;
        s->answer[n++] = misheard ? SCRIPT_WORD + SCRIPT_WORDS - 1 - (31 * s->n_runs + i) % 1000 : w->token;
        if (s->rng && test_rng_uniform(s->rng) < s->punctuate) {
            s->answer_start[n] = s->answer_end[n] = end;
            s->answer[n++] = SCRIPT_COMMA;
        }
    }
    for (int i = 0; i < s->n_extra; i++) {
        s->answer_start[n] = s->answer_end[n] = to;
        end = to;
        s->answer[n++] = s->extra[i];
    }
    while (s->loop && n > 0 && n < 448) {
        s->answer_start[n] = s->answer_start[n - 1];
        s->answer_end[n] = s->answer_end[n - 1];
        s->answer[n] = s->answer[n - 1];
        n++;
    }
    s->answer_start[n] = end;
    return n;
}

/* Where the answer goes on after the committed words: their number, punctuation aside. */
static int place(const struct script_model *s, const struct text_run *r, int n)
{
    int words = 0, at = 0;
    for (int i = r->sample_begin; i < r->n_prompt; i++)
        words += r->tokens[i] >= SCRIPT_WORD;
    while (at < n && words > 0)
        words -= s->answer[at++] >= SCRIPT_WORD;
    return at;
}

/* Leaves words out of the answer from `at` on; the first that stays begins where they began. Returns its new length. */
static int leave_out(struct script_model *s, int at, int n)
{
    int64_t start = s->answer_start[at];
    int from = n - 4;
    for (int i = 0; i <= 4; i++) {
        s->answer[at + i] = s->answer[from + i];
        s->answer_start[at + i] = s->answer_start[from + i];
        s->answer_end[at + i] = s->answer_end[from + i];
    }
    s->answer_start[at] = start;
    return at + 4;
}

static int answer_frame(const struct script_model *s, int audio, int64_t at)
{
    int last = (s->audio_samples[audio] - 1) / 320 - 3;
    int frame = (int)((at - s->audio_start[audio]) / 320);
    return frame < last ? frame : last;
}

/* Where each token that a row predicts begins. A committed word lies where the answer has it, whatever it is called there;
 * a committed comma at the end of its word. Returns the number of rows. */
static int row_starts(const struct script_model *s, const struct text_run *r, int at, int n, int64_t *starts)
{
    int rows = 0, word = 0;
    for (int i = r->sample_begin; i < r->n_prompt; i++) {
        bool is_word = r->tokens[i] >= SCRIPT_WORD;
        while (is_word && word < n && s->answer[word] < SCRIPT_WORD)
            word++;
        starts[rows++] = is_word || word == 0 ? s->answer_start[word] : s->answer_end[word - 1];
        word += is_word && word < n;
    }
    int n_text = r->n_out - (r->stop == RUN_STOP_EOT);
    for (int i = 0; i < n_text; i++)
        starts[rows++] = s->answer_start[at + i < n ? at + i : n];
    if (r->stop == RUN_STOP_EOT)
        starts[rows++] = s->answer_start[n];
    return rows;
}

/* A row looks at the frames from where its token begins to where the next one does; the end of text at what follows the
 * last word, but never less than the last four frames, the fewest that a median over 7 lets pass. */
static void write_rows(const struct script_model *s, struct text_run *r, int at, int n)
{
    int64_t starts[1024];
    r->n_align_rows = row_starts(s, r, at, n, starts);
    for (int row = 0; row < r->n_align_rows; row++) {
        int begin = answer_frame(s, r->audio, starts[row]);
        int end = row + 1 < r->n_align_rows ? answer_frame(s, r->audio, starts[row + 1]) : RUN_AUDIO_FRAMES;
        for (int h = 0; h < s->base.n_align; h++) {
            float *w = r->out_align + ((size_t)row * (size_t)s->base.n_align + (size_t)h) * RUN_AUDIO_FRAMES;
            for (int f = 0; f < RUN_AUDIO_FRAMES; f++)
                w[f] = f >= begin && f < end ? 0.2f : 1e-4f;
        }
    }
}

static int run(struct text_model *m, struct text_run *runs, int n_runs, struct err *err)
{
    struct script_model *s = self(m);
    for (int k = 0; k < n_runs; k++) {
        struct text_run *r = &runs[k];
        s->n_runs++;
        if (s->fail_in > 0 && --s->fail_in == 0) {
            s->fail_in = s->fail_again-- > 0;
            return err_set(err, -EIO, "scripted failure");
        }
        s->n_prompt_text = r->probe_index > 0 ? r->probe_index - 1 : 0;
        memcpy(s->context, r->tokens + 1, (size_t)s->n_prompt_text * sizeof(*s->context));
        s->beam_width = r->beam.width;
        s->language_token = r->tokens[r->probe_index + 1];
        s->task_token = r->tokens[r->probe_index + 2];
        assert_true(r->n_prompt + r->n_draft + 1 <= m->n_text_ctx);
        assert_true(r->out_capacity >= r->max_tokens);
        assert_true(r->n_draft < r->max_tokens);
        int n = hear(s, r->audio), at = place(s, r, n);
        for (int i = r->sample_begin; s->deaf && i < r->n_prompt; i++)
            at = r->tokens[i] == SCRIPT_PERIOD ? n : at;
        if (s->skips && !r->rules.timestamps && n - at > 8)
            n = leave_out(s, at, n);
        bool drafting = true;
        r->n_out = r->n_accepted = 0;
        r->n_steps = 1;
        r->stop = RUN_STOP_LIMIT;
        while (r->n_out < r->max_tokens) {
            int32_t token = at + r->n_out < n ? s->answer[at + r->n_out] : r->rules.eot;
            bool accepted = drafting && r->n_out < r->n_draft && r->tokens[r->n_prompt + r->n_out] == token;
            r->n_accepted += accepted;
            r->n_steps += !accepted && !drafting;
            drafting = accepted;
            r->out_logprobs[r->n_out] = s->logprob;
            r->out_tokens[r->n_out++] = token;
            if (token == r->rules.eot) {
                r->stop = RUN_STOP_EOT;
                break;
            }
        }
        r->probe_prob = s->no_speech_prob;
        if (r->want_align)
            write_rows(s, r, at, n);
    }
    return 0;
}

static int logits(struct text_model *m, int slot, int audio_slot, const int32_t *tokens, int n, int pos,
                  float *out, struct err *err)
{
    struct script_model *s = self(m);
    const struct special_tokens *special = tokenizer_special(s->tokenizer);
    s->n_detections++;
    count(s);
    int32_t found = tokenizer_language_token(s->tokenizer, s->language);
    float rest = logf((1.0f - s->language_prob) / (float)(special->n_languages - 1));
    for (int i = 0; i < m->n_vocab; i++)
        out[i] = i == found ? logf(s->language_prob) : rest;
    return wait(m, err);
}

static int set_mask(struct text_model *m, int index, const int32_t *tokens, int n, struct err *err)
{
    return 0;
}

/* The answer is there at once, and told when its steps have been made. */
static int join(struct text_model *m, struct text_run *const *runs, int n, struct err *err)
{
    struct script_model *s = self(m);
    count(s);
    for (int i = 0; i < n; i++) {
        int r = run(m, runs[i], 1, err);
        if (r < 0) {
            s->n_work -= i;
            return r;
        }
        s->left[s->n_work] = runs[i]->n_steps - 1;
        s->stops[s->n_work] = runs[i]->stop;
        s->work[s->n_work++] = runs[i];
        runs[i]->stop = RUN_IN_WORK;
    }
    return 0;
}

static int step(struct text_model *m, int max_steps, struct err *err)
{
    struct script_model *s = self(m);
    count(s);
    int r = wait(m, err), n = s->n_work, n_steps = max_steps;
    for (int i = 0; i < n; i++)
        n_steps = s->left[i] < n_steps ? s->left[i] : n_steps;
    s->n_work = 0;
    for (int i = 0; i < n; i++) {
        int left = s->left[i] - n_steps;
        if (left == 0) {
            s->work[i]->stop = s->stops[i];
            continue;
        }
        s->left[s->n_work] = left;
        s->stops[s->n_work] = s->stops[i];
        s->work[s->n_work++] = s->work[i];
    }
    return r < 0 ? r : s->n_work;
}

static const struct text_model_ops ops = {.encode = encode,
                                          .run = run,
                                          .logits = logits,
                                          .set_mask = set_mask,
                                          .wait = wait,
                                          .join = join,
                                          .step = step};

void script_model_init(struct script_model *s, int n_vocab, const struct script_word *words, int n_words)
{
    memset(s, 0, sizeof(*s));
    struct err err = {0};
    int r = tokenizer_create(n_vocab, token_bytes, NULL, &s->tokenizer, &err);
    if (r < 0)
        fail_msg("%s", err.msg);
    s->base = (struct text_model){.ops = &ops,
                                  .n_vocab = n_vocab,
                                  .n_text_ctx = 448,
                                  .n_align = 2,
                                  .n_audio_slots = 16,
                                  .n_text_slots = 16};
    s->words = words;
    s->n_words = n_words;
    s->logprob = -0.1f;
    s->language = "en";
    s->language_prob = 0.9f;
}

void script_model_finish(struct script_model *s)
{
    tokenizer_destroy(s->tokenizer);
}
