#include "decoder/word_times.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/sample_rate.h"
#include "decoder/align.h"
#include "decoder/words.h"

#define FRAMES_A_ROW 2 /* mel frames to one of the encoder's */

#define START_MAX  3
#define TEXT_MAX   (RUN_TOKENS_MAX / 2)
#define ROWS_MAX   (START_MAX + 1 + TEXT_MAX + 1)
#define TEXT_BYTES (RUN_TOKENS_MAX * 128)

#define MEDIAN_MOST   (7 * SAMPLE_RATE / 10) /* no word is expected to take longer */
#define PAUSE_MEDIANS 4 /* as many median words before the end of the first word are a pause */
#define SEGMENT_TRUST (SAMPLE_RATE / 2) /* a word that reaches further out of its segment is too long */

struct word_timer {
    struct text_model *model;
    const struct tokenizer *tokenizer;
    struct aligner *aligner;
    float *align; /* [ROWS_MAX + 1, n_align, RUN_AUDIO_FRAMES] */
    int32_t tokens[ROWS_MAX];
    float logprobs[TEXT_MAX]; /* of the text tokens */
    int n_text;
    int first[TEXT_MAX + 1];
    struct word_span spans[TEXT_MAX];
    struct word words[TEXT_MAX];
    int64_t lengths[TEXT_MAX];
    char arena[3 * TEXT_BYTES], text[4 * TEXT_BYTES];
};

/* Samples. */
struct usual {
    int64_t median, most; /* length of a word */
};

int word_timer_create(struct text_model *model, const struct tokenizer *tokenizer, struct word_timer **out,
                      struct err *err)
{
    if (model->n_align < 1)
        return err_set(err, -EINVAL, "the model has no alignment heads, so that words would have no times");
    struct word_timer *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(err, -ENOMEM, "no memory for the times of words");
    t->model = model;
    t->tokenizer = tokenizer;
    t->align = malloc((size_t)(ROWS_MAX + 1) * (size_t)model->n_align * RUN_AUDIO_FRAMES * sizeof(float));
    int r = t->align ? aligner_create(ROWS_MAX, RUN_AUDIO_FRAMES, &t->aligner, err)
                     : err_set(err, -ENOMEM, "no memory for the times of words");
    if (r < 0) {
        word_timer_destroy(t);
        return r;
    }
    *out = t;
    return 0;
}

void word_timer_destroy(struct word_timer *t)
{
    if (!t)
        return;
    aligner_destroy(t->aligner);
    free(t->align);
    free(t);
}

/* --- alignment --- */

static int count_text(const struct word_times_request *q, const struct segment *s, int32_t eot)
{
    int n = 0;
    for (int i = s->first; i < s->first + s->n_tokens; i++)
        n += q->tokens[i] < eot;
    return n;
}

/* Puts the start tokens, the text of all segments and the end of text into t->tokens: their number. */
static int gather(struct word_timer *t, const struct word_times_request *q)
{
    const struct special_tokens *s = tokenizer_special(t->tokenizer);
    int n = q->n_start < START_MAX ? q->n_start : START_MAX;
    memcpy(t->tokens, q->start, (size_t)n * sizeof(*q->start));
    t->tokens[n++] = s->no_timestamps;
    t->n_text = 0;
    for (int k = 0; k < q->n_segments; k++) {
        const struct segment *segment = &q->segments[k];
        for (int i = segment->first; i < segment->first + segment->n_tokens; i++) {
            if (q->tokens[i] >= s->eot || t->n_text == TEXT_MAX)
                continue;
            t->logprobs[t->n_text++] = q->logprobs[i];
            t->tokens[n++] = q->tokens[i];
        }
    }
    t->tokens[n++] = s->eot;
    return n;
}

/* Fills t->first with the frame at which each text token begins; the one after the last is that of the end of text. */
static int align(struct word_timer *t, const struct word_times_request *q, int n_tokens, struct err *err)
{
    const struct special_tokens *s = tokenizer_special(t->tokenizer);
    int32_t token;
    float logprob;
    struct text_run run = {
        .slot = q->text_slot,
        .audio = q->audio_slot,
        .n_prompt = n_tokens,
        .tokens = t->tokens,
        .sample_begin = 1, /* rows from the first token on */
        .max_tokens = 1,
        .rules = {.eot = s->eot,
                  .timestamp_begin = s->timestamp_begin,
                  .no_timestamps = s->no_timestamps,
                  .max_initial_timestamp = -1,
                  .mask = -1,
                  .first_mask = -1},
        .probe_token = -1,
        .want_align = 1,
        .out_capacity = 1,
        .out_tokens = &token,
        .out_logprobs = &logprob,
        .out_align = t->align,
    };
    int r = text_model_run(t->model, &run, 1, err);
    if (r < 0)
        return r;
    if (run.n_align_rows < n_tokens)
        return err_set(err, -EIO, "the engine gave %d of %d rows of attention", run.n_align_rows, n_tokens);
    int n_frames = q->n_frames / FRAMES_A_ROW;
    n_frames = n_frames < 1 ? 1 : n_frames > RUN_AUDIO_FRAMES ? RUN_AUDIO_FRAMES : n_frames;
    const struct align_span span = {
        .n_rows = n_tokens, .first = n_tokens - t->n_text - 2, .n = t->n_text + 1};
    align_some_rows(t->aligner, t->align, &span, t->model->n_align, RUN_AUDIO_FRAMES, n_frames, t->first);
    return 0;
}

/* --- words --- */

static int64_t length_of(const struct word *w)
{
    return w->end - w->start;
}

static int compare_lengths(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static struct usual usual_length(struct word_timer *t, int n)
{
    int n_lengths = 0;
    for (int i = 0; i < n; i++) {
        if (length_of(&t->words[i]) > 0)
            t->lengths[n_lengths++] = length_of(&t->words[i]);
    }
    if (n_lengths == 0)
        return (struct usual){0, 0};
    qsort(t->lengths, (size_t)n_lengths, sizeof(t->lengths[0]), compare_lengths);
    int64_t median = (t->lengths[(n_lengths - 1) / 2] + t->lengths[n_lengths / 2]) / 2;
    median = median < MEDIAN_MOST ? median : MEDIAN_MOST;
    return (struct usual){median, 2 * median};
}

/* Times and probabilities of the spans, which are words and punctuation still apart. Texts stay in the arena. */
static int fill_words(struct word_timer *t, const struct word_times_request *q, const int32_t *text)
{
    int n_used;
    int n =
        words_split(t->tokenizer, text, t->n_text, q->spaced, t->spans, t->arena, sizeof(t->arena), &n_used);
    for (int i = 0; i < n; i++) {
        const struct word_span *s = &t->spans[i];
        float sum = 0.0f;
        for (int k = s->first_token; k < s->first_token + s->n_tokens; k++)
            sum += expf(t->logprobs[k]);
        t->words[i] = (struct word){
            .start = q->origin + (int64_t)t->first[s->first_token] * ALIGN_FRAME_SAMPLES,
            .end = q->origin + (int64_t)t->first[s->first_token + s->n_tokens] * ALIGN_FRAME_SAMPLES,
            .probability = sum / (float)s->n_tokens,
            .first_token = s->first_token,
            .n_tokens = s->n_tokens,
        };
    }
    return n;
}

/* A word beside the end of a sentence has swallowed the pause where it is more than twice as long as usual. */
static void shorten_at_sentence_ends(struct word_timer *t, int n, const struct usual *usual)
{
    for (int i = 1; usual->most > 0 && i < n; i++) {
        const struct word_span *here = &t->spans[i], *before = here - 1;
        struct word *w = &t->words[i];
        if (length_of(w) <= usual->most)
            continue;
        if (words_is_sentence_end(t->arena + here->text, here->n_text))
            w->end = w->start + usual->most;
        else if (words_is_sentence_end(t->arena + before->text, before->n_text))
            w->start = w->end - usual->most;
    }
}

/* Joins punctuation to its words, whose times and probabilities stay. Texts go to t->text. Returns the number left. */
static int join_punctuation(struct word_timer *t, int n)
{
    int kept = 0;
    size_t used = 0;
    for (int i = 0; i < n;) {
        int main = i;
        while (main + 1 < n && words_is_opening(t->arena + t->spans[main].text, t->spans[main].n_text))
            main++;
        int next = main + 1;
        const struct word_span *here = &t->spans[main];
        bool ends_with_space = here->n_text > 0 && t->arena[here->text + here->n_text - 1] == ' ';
        while (!ends_with_space && next < n &&
               words_is_closing(t->arena + t->spans[next].text, t->spans[next].n_text))
            next++;
        struct word w = t->words[main];
        w.first_token = t->spans[i].first_token;
        w.n_tokens = t->spans[next - 1].first_token + t->spans[next - 1].n_tokens - w.first_token;
        const char *text = t->arena + t->spans[i].text;
        size_t length = (size_t)(t->arena + t->spans[next - 1].text + t->spans[next - 1].n_text - text);
        i = next;
        if (length == 0) /* tokens without bytes */
            continue;
        memcpy(t->text + used, text, length);
        t->text[used + length] = '\0';
        w.text = t->text + used;
        used += length + 1;
        t->words[kept++] = w;
    }
    return kept;
}

/* --- segments --- */

/* The first word after a pause, and the second one with it, may have swallowed the pause. */
static void shorten_after_pause(struct word *words, int n, int64_t last_speech, const struct usual *usual)
{
    struct word *first = &words[0], *second = n > 1 ? &words[1] : NULL;
    if (first->end - last_speech <= PAUSE_MEDIANS * usual->median)
        return;
    if (length_of(first) <= usual->most && !(second && second->end - first->start > 2 * usual->most))
        return;
    if (second && length_of(second) > usual->most) {
        int64_t boundary = second->end - usual->most;
        boundary = boundary > second->end / 2 ? boundary : second->end / 2;
        first->end = second->start = boundary;
    }
    first->start = first->end > usual->most ? first->end - usual->most : 0;
}

/* Times of segment and words agree in the end; where they differ by too much the segment is right. */
static void settle(struct spoken_segment *s, struct word *words, int n, const struct usual *usual)
{
    struct word *first = &words[0], *last = &words[n - 1];
    if (s->start < first->end && s->start - SEGMENT_TRUST > first->start) {
        int64_t start = first->end - usual->median < s->start ? first->end - usual->median : s->start;
        first->start = start > 0 ? start : 0;
    } else {
        s->start = first->start;
    }
    if (s->end > last->start && s->end + SEGMENT_TRUST < last->end)
        last->end = last->start + usual->median > s->end ? last->start + usual->median : s->end;
    else
        s->end = last->end;
}

static void assign(struct word_timer *t, const struct word_times_request *q, int n_words,
                   const struct usual *usual, struct spoken_segment *out)
{
    int32_t eot = tokenizer_special(t->tokenizer)->eot;
    int64_t last_speech = q->last_speech;
    int at = 0;
    for (int k = 0; k < q->n_segments; k++) {
        const struct segment *segment = &q->segments[k];
        struct spoken_segment *s = &out[k];
        *s = (struct spoken_segment){.start = q->origin + (int64_t)segment->start * MEL_FRAME,
                                     .end = q->origin + (int64_t)segment->end * MEL_FRAME,
                                     .first_word = at};
        int n_text = count_text(q, segment, eot), taken = 0;
        while (at < n_words && taken < n_text)
            taken += t->words[at++].n_tokens;
        s->n_words = at - s->first_word;
        if (s->n_words == 0)
            continue;
        shorten_after_pause(t->words + s->first_word, s->n_words, last_speech, usual);
        settle(s, t->words + s->first_word, s->n_words, usual);
        last_speech = s->end;
    }
}

static void clamp(const struct word_times_request *q, int n_words, struct word *words,
                  struct spoken_segment *out)
{
    for (int i = 0; i < n_words; i++) {
        words[i].end = words[i].end < q->end ? words[i].end : q->end;
        words[i].start = words[i].start < words[i].end ? words[i].start : words[i].end;
    }
    for (int k = 0; k < q->n_segments; k++) {
        out[k].end = out[k].end < q->end ? out[k].end : q->end;
        out[k].start = out[k].start < out[k].end ? out[k].start : out[k].end;
    }
}

int word_timer_run(struct word_timer *t, const struct word_times_request *q, struct spoken_segment *out,
                   struct word **words, struct err *err)
{
    int n_tokens = gather(t, q), n = 0;
    struct usual usual = {0, 0};
    if (t->n_text > 0) {
        int r = align(t, q, n_tokens, err);
        if (r < 0)
            return r;
        n = fill_words(t, q, t->tokens + n_tokens - 1 - t->n_text);
        usual = usual_length(t, n);
        shorten_at_sentence_ends(t, n, &usual);
        n = join_punctuation(t, n);
    }
    assign(t, q, n, &usual, out);
    clamp(q, n, t->words, out);
    *words = t->words;
    return n;
}

int64_t word_times_end(const struct spoken_segment *segments, int n, const struct word *words)
{
    for (int k = n - 1; k >= 0; k--) {
        if (segments[k].n_words > 0)
            return words[segments[k].first_word + segments[k].n_words - 1].end;
    }
    return n > 0 ? segments[n - 1].end : -1;
}
