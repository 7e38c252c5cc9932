#include "decoder/hypothesis.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/align.h"
#include "decoder/loop.h"
#include "decoder/segment.h"
#include "decoder/words.h"

#define ROWS_MAX (HYPOTHESIS_TOKENS + 2)

struct hypothesizer {
    struct text_model *model;
    const struct tokenizer *tokenizer;
    struct aligner *aligner;
    float *align; /* [ROWS_MAX, n_align, RUN_AUDIO_FRAMES] */
    int first[ROWS_MAX];
    int32_t out_tokens[HYPOTHESIS_TOKENS + 1];
    float out_logprobs[HYPOTHESIS_TOKENS + 1];
    int32_t spoken[2 * HYPOTHESIS_TOKENS]; /* committed and new */
    struct word_span spans[HYPOTHESIS_TOKENS];
    char arena[HYPOTHESIS_TEXT_BYTES];
};

int hypothesizer_create(struct text_model *model, const struct tokenizer *tokenizer,
                        struct hypothesizer **out, struct err *err)
{
    if (model->n_align < 1)
        return err_set(err, -EINVAL, "the model has no alignment heads, so that words would have no times");
    struct hypothesizer *h = calloc(1, sizeof(*h));
    if (!h)
        return err_set(err, -ENOMEM, "out of memory for live captions");
    h->model = model;
    h->tokenizer = tokenizer;
    h->align = malloc((size_t)ROWS_MAX * (size_t)model->n_align * RUN_AUDIO_FRAMES * sizeof(float));
    if (!h->align) {
        hypothesizer_destroy(h);
        return err_set(err, -ENOMEM, "out of memory for live captions");
    }
    int r = aligner_create(ROWS_MAX, RUN_AUDIO_FRAMES, &h->aligner, err);
    if (r < 0) {
        hypothesizer_destroy(h);
        return r;
    }
    *out = h;
    return 0;
}

void hypothesizer_destroy(struct hypothesizer *h)
{
    if (!h)
        return;
    aligner_destroy(h->aligner);
    free(h->align);
    free(h);
}

static int64_t sample_at(const struct hypothesis_request *q, int frame)
{
    int64_t offset = (int64_t)frame * ALIGN_FRAME_SAMPLES;
    return q->origin + (offset < q->n_samples ? offset : q->n_samples);
}

/* Frame at which token `index`, counted from the first committed one, begins; the end of the audio where no row
 * tells. */
static int token_frame(const struct hypothesizer *h, int index, int n_rows, int n_frames)
{
    return index < n_rows ? h->first[index] : n_frames;
}

static void fill_words(struct hypothesizer *h, const struct hypothesis_request *q, int n_rows, int n_frames,
                       struct hypothesis *out)
{
    int n_used;
    int n = words_split(h->tokenizer, out->tokens, out->n_tokens, q->spaced, h->spans, h->arena,
                        sizeof(h->arena), &n_used);
    n = words_join_opening(h->arena, h->spans, n);
    size_t used = 0;
    out->n_words = 0;
    for (int i = 0; i < n && used + (size_t)h->spans[i].n_text + 1 <= sizeof(out->text); i++) {
        const struct word_span *s = &h->spans[i];
        char *text = out->text + used;
        memcpy(text, h->arena + s->text, (size_t)s->n_text);
        text[s->n_text] = '\0';
        used += (size_t)s->n_text + 1;
        float sum = 0.0f;
        for (int t = s->first_token; t < s->first_token + s->n_tokens; t++)
            sum += out->logprobs[t];
        int begin = q->n_committed + s->first_token;
        out->words[out->n_words++] = (struct word){
            .text = text,
            .start = sample_at(q, token_frame(h, begin, n_rows, n_frames)),
            .end = sample_at(q, token_frame(h, begin + s->n_tokens, n_rows, n_frames)),
            .probability = expf(sum / (float)s->n_tokens),
            .first_token = s->first_token,
            .n_tokens = s->n_tokens,
        };
    }
}

/* Takes over the tokens of the run, without its end of text and without what is said again and again. */
static void take_tokens(struct hypothesizer *h, const struct hypothesis_request *q,
                        const struct text_run *run, struct hypothesis *out)
{
    int n = run->n_out;
    float sum = 0.0f;
    for (int i = 0; i < n; i++)
        sum += run->out_logprobs[i];
    out->avg_logprob = n > 0 ? sum / (float)n : 0.0f;
    if (run->stop == RUN_STOP_EOT)
        n--;
    /* A loop may have begun in the committed words. */
    memcpy(h->spoken, q->tokens + q->n_prompt - q->n_committed, (size_t)q->n_committed * sizeof(int32_t));
    memcpy(h->spoken + q->n_committed, h->out_tokens, (size_t)n * sizeof(int32_t));
    int kept = loop_cut_end(h->spoken, q->n_committed + n) - q->n_committed;
    kept = kept > 0 ? kept : 0;
    out->looped = kept < n;
    out->n_tokens = kept;
    memcpy(out->tokens, h->out_tokens, (size_t)kept * sizeof(int32_t));
    memcpy(out->logprobs, h->out_logprobs, (size_t)kept * sizeof(float));
}

static struct text_run prepare_run(struct hypothesizer *h, const struct hypothesis_request *q)
{
    const struct special_tokens *special = tokenizer_special(h->tokenizer);
    return (struct text_run){
        .slot = q->text_slot,
        .audio = q->audio_slot,
        .n_prompt = q->n_prompt,
        .n_draft = q->n_draft,
        .tokens = q->tokens,
        .sample_begin = q->n_prompt - q->n_committed,
        .max_tokens = q->max_tokens,
        .rules = {.eot = special->eot,
                  .timestamp_begin = special->timestamp_begin,
                  .no_timestamps = special->no_timestamps,
                  .max_initial_timestamp = -1,
                  .mask = q->mask,
                  .first_mask = q->first_mask},
        .beam = {.width = q->beam_size, .patience = 1.0f, .length_penalty = -1.0f},
        .probe_token = special->no_speech,
        .probe_index = q->sot_index,
        .want_align = 1,
        .out_capacity = HYPOTHESIS_TOKENS + 1,
        .out_tokens = h->out_tokens,
        .out_logprobs = h->out_logprobs,
        .out_align = h->align,
    };
}

/* Asks for timestamps instead of alignment rows. */
static void stamp_run(struct text_run *run)
{
    run->n_prompt--; /* without <|notimestamps|> */
    run->sample_begin = run->n_prompt;
    run->want_align = 0;
    run->out_align = NULL;
    run->rules.timestamps = 1;
    run->rules.max_initial_timestamp = FIRST_STAMP_MAX;
}

/* Leaves the timestamps out of a run's result. */
static void drop_stamps(struct hypothesizer *h, struct text_run *run)
{
    int n = 0;
    for (int i = 0; i < run->n_out; i++) {
        if (h->out_tokens[i] >= run->rules.timestamp_begin)
            continue;
        h->out_tokens[n] = h->out_tokens[i];
        h->out_logprobs[n++] = h->out_logprobs[i];
    }
    run->n_out = n;
}

/* Feeds the text of a stamped run once more, as it would have come without timestamps, for its alignment rows. */
static int align_stamped(struct hypothesizer *h, const struct hypothesis_request *q,
                         const struct hypothesis *found, struct text_run *run, struct err *err)
{
    int32_t tokens[RUN_TOKENS_MAX], last;
    float logprob;
    memcpy(tokens, q->tokens, (size_t)q->n_prompt * sizeof(int32_t));
    memcpy(tokens + q->n_prompt, found->tokens, (size_t)found->n_tokens * sizeof(int32_t));
    *run = prepare_run(h, q);
    run->tokens = tokens;
    run->n_prompt += found->n_tokens;
    run->max_tokens = run->out_capacity = 1;
    run->beam = (struct beam_search){0};
    run->out_tokens = &last;
    run->out_logprobs = &logprob;
    return text_model_run(h->model, run, 1, err);
}

int hypothesizer_run(struct hypothesizer *h, const struct hypothesis_request *q, struct hypothesis *out,
                     int64_t *committed_ends, struct err *err)
{
    struct text_run run = prepare_run(h, q);
    if (q->stamped)
        stamp_run(&run);
    int r = text_model_run(h->model, &run, 1, err);
    if (r < 0)
        return r;
    if (q->stamped)
        drop_stamps(h, &run);
    take_tokens(h, q, &run, out);
    out->no_speech_prob = run.probe_prob;
    out->n_steps = run.n_steps;
    out->n_draft = q->n_draft;
    out->n_accepted = run.n_accepted;
    if (q->stamped) {
        r = align_stamped(h, q, out, &run, err);
        if (r < 0)
            return r;
        out->n_steps += run.n_steps;
    }
    int n_frames = (q->n_samples + ALIGN_FRAME_SAMPLES - 1) / ALIGN_FRAME_SAMPLES;
    n_frames = n_frames < 1 ? 1 : n_frames > RUN_AUDIO_FRAMES ? RUN_AUDIO_FRAMES : n_frames;
    int n_rows = q->n_committed + out->n_tokens + 1;
    if (n_rows > run.n_align_rows)
        n_rows = run.n_align_rows;
    if (n_rows > 0)
        align_rows(h->aligner, h->align, n_rows, h->model->n_align, RUN_AUDIO_FRAMES, n_frames, h->first);
    for (int i = 0; i < q->n_committed; i++)
        committed_ends[i] = sample_at(q, token_frame(h, i + 1, n_rows, n_frames));
    fill_words(h, q, n_rows, n_frames, out);
    return 0;
}
