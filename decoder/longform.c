#include "decoder/longform.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "decoder/loop.h"
#include "decoder/segment.h"
#include "decoder/window.h"

#define FRAME         160  /* samples of a mel frame, the unit of seeking */
#define WINDOW_FRAMES 3000 /* 30 s */
#define EDGE          200  /* samples beside a window that its outermost frames see */
#define STALL_FRAMES  100  /* a window that moves on by less than 1 s has stalled; … */
#define STALLS_MAX    2    /* … after as many in a row the rest of the window is skipped */

struct longform {
    struct text_model *model;
    const struct tokenizer *tokenizer;
    const struct longform_options *options;
    const float *pcm;
    int64_t n_samples;
    int n_frames; /* whole frames of the recording */
    int seek;     /* frame where the next window begins */
    int n_stalls;
    int encoded_seek, encoded_frames; /* the window that the audio slot holds; 0 frames: none */
    struct longform_result result;
    float *logits; /* [n_vocab] */
    struct window window;
    struct segment segments[SEGMENTS_MAX(RUN_TOKENS_MAX)];
};

void longform_defaults(struct longform_options *o)
{
    *o = (struct longform_options){
        .condition_on_previous_text = true,
        .temperatures = {0.0f, 0.2f, 0.4f, 0.6f, 0.8f, 1.0f},
        .n_temperatures = 6,
        .beam_size = 1,
        .patience = 1.0f,
        .length_penalty = -1.0f,
        .best_of = 5,
        .compression_ratio_threshold = 2.4f,
        .logprob_threshold = -1.0f,
        .no_speech_threshold = 0.6f,
    };
}

/* --- audio --- */

/* Hands n_frames frames from frame `seek` on to the model. What follows them is not heard. */
static int encode(struct longform *l, int seek, int n_frames, enum audio_scale scale, struct err *err)
{
    int64_t first = (int64_t)seek * FRAME, left = l->n_samples - first;
    /* The last frames see beyond their own samples; less than a whole frame more keeps their number. */
    int64_t n = (int64_t)n_frames * FRAME + (n_frames == WINDOW_FRAMES ? EDGE : FRAME - 1);
    l->model->ops->encode(l->model, WINDOW_AUDIO_SLOT, l->pcm + first, (int)(n < left ? n : left),
                          first < EDGE ? (int)first : EDGE, scale);
    return l->model->ops->wait(l->model, err);
}

/* Encodes a window, unless the audio slot holds it already. */
static int encode_window(struct longform *l, int seek, int n_frames, struct err *err)
{
    if (l->encoded_seek == seek && l->encoded_frames == n_frames)
        return 0;
    l->encoded_seek = seek;
    l->encoded_frames = n_frames;
    return encode(l, seek, n_frames, AUDIO_SCALE_GIVEN, err);
}

/* Finds the greatest log-mel value of the whole recording, by which every window is then normalised. */
static int scan(struct longform *l, struct err *err)
{
    l->model->ops->reset_scale(l->model, WINDOW_AUDIO_SLOT);
    for (int seek = 0; seek < l->n_frames; seek += WINDOW_FRAMES) {
        int r = encode(l, seek, WINDOW_FRAMES, AUDIO_SCALE_SCAN, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- language --- */

/* By the n_frames frames from frame `seek` on. */
static int detect_language(struct longform *l, int seek, int n_frames, struct err *err)
{
    const struct special_tokens *s = tokenizer_special(l->tokenizer);
    /* For this alone OpenAI's implementation lets a short recording be followed by silence. The window's own maximum
     * is that of the recording then. */
    int r = n_frames == l->n_frames && n_frames < WINDOW_FRAMES
                ? encode(l, seek, n_frames, AUDIO_SCALE_OWN, err)
                : encode_window(l, seek, n_frames, err);
    if (r == 0)
        r = l->model->ops->logits(l->model, 0, WINDOW_AUDIO_SLOT, &s->sot, 1, 0, l->logits, err);
    if (r < 0)
        return r;
    const float *x = l->logits + s->first_language;
    int best = 0;
    double sum = 0.0;
    for (int i = 1; i < s->n_languages; i++)
        best = x[i] > x[best] ? i : best;
    for (int i = 0; i < s->n_languages; i++)
        sum += exp((double)x[i] - x[best]);
    l->result.language = tokenizer_token_language(l->tokenizer, s->first_language + best);
    l->result.language_probability = (float)(1.0 / sum);
    return 0;
}

/* Takes the language that is asked for, else finds out the one of the first window, and sets the start tokens. */
static int choose_language(struct longform *l, int seek, int n_frames, struct err *err)
{
    const struct longform_options *o = l->options;
    const struct special_tokens *s = tokenizer_special(l->tokenizer);
    const char *code = o->language ? tokenizer_language_code(o->language) : "en";
    if (!code || tokenizer_language_token(l->tokenizer, code) < 0)
        return err_set(err, -EINVAL, "the model does not know the language \"%s\"%s", o->language,
                       s->multilingual ? "" : ": it is for English only");
    if (o->translate && !s->multilingual)
        return err_set(err, -EINVAL, "the model is for English only and cannot translate");
    l->result.language = code;
    l->result.language_probability = 1.0f;
    if (!o->language && s->multilingual && n_frames > 0) {
        int r = detect_language(l, seek, n_frames, err);
        if (r < 0)
            return r;
    }
    struct window *w = &l->window;
    w->start[w->n_start++] = s->sot;
    if (s->multilingual) {
        w->start[w->n_start++] = tokenizer_language_token(l->tokenizer, l->result.language);
        w->start[w->n_start++] = o->translate ? s->translate : s->transcribe;
    }
    if (o->without_timestamps)
        w->start[w->n_start++] = s->no_timestamps;
    return 0;
}

/* --- windows --- */

static int emit(struct longform *l, const struct segment *s, int window)
{
    const struct attempt *a = &l->window.attempts[0];
    const int32_t *tokens = a->tokens + s->first;
    bool blank;
    const char *text = window_text(&l->window, tokens, s->n_tokens, &blank);
    if (s->start == s->end || blank)
        return 0;
    prompt_remember(&l->window.before, tokens, s->n_tokens);
    /* A model may time the end of a recording's last words after the recording's. */
    int64_t start = (int64_t)(window + s->start) * FRAME, end = (int64_t)(window + s->end) * FRAME;
    end = end < l->n_samples ? end : l->n_samples;
    struct longform_segment segment = {
        .start = start < end ? start : end,
        .end = end,
        .window = (int64_t)window * FRAME,
        .language = l->result.language,
        .text = text,
        .tokens = tokens,
        .n_tokens = s->n_tokens,
        .avg_logprob = a->quality.avg_logprob,
        .compression_ratio = a->quality.compression_ratio,
        .no_speech_prob = a->quality.no_speech_prob,
        .temperature = a->temperature,
    };
    return l->options->on_segment ? l->options->on_segment(l->options->ctx, &segment) : 0;
}

/* Moves on by `advance` frames. Whisper's rules leave every segment a length, so that a window moves on by 20 ms at
 * least; a row of such windows would take for ever all the same. */
static void move_on(struct longform *l, int advance, int n_frames)
{
    l->n_stalls = advance < STALL_FRAMES ? l->n_stalls + 1 : 0;
    if (advance <= 0 || l->n_stalls > STALLS_MAX) {
        advance = n_frames;
        l->n_stalls = 0;
    }
    l->seek += advance;
}

/* Decodes the window of n_frames frames at l->seek, tells its segments, and moves on. */
static int transcribe_window(struct longform *l, int n_frames, struct err *err)
{
    struct window *w = &l->window;
    int r = encode_window(l, l->seek, n_frames, err);
    if (r == 0)
        r = window_decode(w, (uint64_t)l->seek << 16, err);
    if (r < 0)
        return r;
    l->result.n_windows++;
    struct attempt *a = &w->attempts[0];
    if (a->quality.looped)
        a->n_tokens = loop_cut(a->tokens, a->logprobs, a->n_tokens, tokenizer_special(l->tokenizer)->eot);
    if (quality_is_silence(&a->quality, &w->limits)) {
        move_on(l, n_frames, n_frames);
        return 0;
    }
    int advance;
    int n = segment_tokens(a->tokens, a->n_tokens, tokenizer_special(l->tokenizer)->timestamp_begin, n_frames,
                           l->segments, &advance);
    for (int i = 0; i < n; i++) {
        r = emit(l, &l->segments[i], l->seek);
        if (r)
            return r;
    }
    if (!l->options->condition_on_previous_text || a->temperature > 0.5f)
        prompt_forget(&w->before);
    move_on(l, advance, n_frames);
    return 0;
}

/* A span of frames. */
struct span {
    int first, end;
};

static struct span span_of_region(const struct longform *l, int i)
{
    if (!l->options->regions)
        return (struct span){0, l->n_frames};
    const struct longform_region *region = &l->options->regions[i];
    int64_t end = (region->end + FRAME - 1) / FRAME;
    return (struct span){(int)(region->start / FRAME), end < l->n_frames ? (int)end : l->n_frames};
}

static int window_frames(struct span s)
{
    int n = s.end - s.first;
    return n < 0 ? 0 : n < WINDOW_FRAMES ? n : WINDOW_FRAMES;
}

static int transcribe_span(struct longform *l, struct span s, struct err *err)
{
    if (l->seek < s.first)
        l->seek = s.first;
    while (l->seek < s.end) {
        int r = transcribe_window(l, window_frames((struct span){l->seek, s.end}), err);
        if (r)
            return r;
        int64_t done = l->seek < l->n_frames ? (int64_t)l->seek * FRAME : l->n_samples;
        r = l->options->on_progress ? l->options->on_progress(l->options->ctx, done, l->n_samples) : 0;
        if (r)
            return r;
    }
    return 0;
}

static int transcribe_all(struct longform *l, struct err *err)
{
    int n = l->options->regions ? l->options->n_regions : 1;
    struct span first = n > 0 ? span_of_region(l, 0) : (struct span){0, 0};
    int r = n > 0 ? scan(l, err) : 0;
    if (r == 0)
        r = choose_language(l, first.first, window_frames(first), err);
    for (int i = 0; r == 0 && i < n; i++)
        r = transcribe_span(l, span_of_region(l, i), err);
    return r;
}

int longform_transcribe(struct text_model *model, const struct tokenizer *tokenizer,
                        const struct longform_options *options, const float *pcm, int64_t n_samples,
                        struct longform_result *result, struct err *err)
{
    if (n_samples / FRAME > INT_MAX - 2 * WINDOW_FRAMES)
        return err_set(err, -EINVAL, "the recording is too long");
    int r = -ENOMEM;
    struct longform *l = calloc(1, sizeof(*l));
    float *logits = calloc((size_t)model->n_vocab, sizeof(*logits));
    if (!l || !logits) {
        err_set(err, r, "no memory for the decoder");
        goto out;
    }
    l->model = model;
    l->tokenizer = tokenizer;
    l->options = options;
    l->pcm = pcm;
    l->n_samples = n_samples;
    l->n_frames = (int)(n_samples / FRAME);
    l->logits = logits;
    r = window_init(&l->window, model, tokenizer, options, err);
    if (r == 0)
        r = transcribe_all(l, err);
    if (r == 0) {
        l->result.n_steps = l->window.n_steps;
        l->result.n_fallbacks = l->window.n_fallbacks;
        *result = l->result;
    }
out:
    free(logits);
    free(l);
    return r;
}
