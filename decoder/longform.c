#include "decoder/longform.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "decoder/detect_language.h"
#include "decoder/guard.h"
#include "decoder/hallucination.h"
#include "decoder/loop.h"
#include "decoder/segment.h"
#include "decoder/window.h"
#include "decoder/window_audio.h"
#include "decoder/word_times.h"
#include "decoder/words.h"

#define STALL_FRAMES  100   /* a window that moves on by less than 1 s has stalled; … */
#define STALLS_MAX    2     /* … after as many in a row the rest of the window is skipped */
#define LEFTOVER      300   /* so little of a region is not decoded where nobody is heard in it: 3 s */
#define VOICE_MARGIN  8000  /* samples: nor does the gate miss more at the edges of speech: 0.5 s */
#define LEFT_OUT      32000 /* so much sound behind the last word has words in it: 2 s */
#define LEFT_OUT_STEP 200   /* frames by which the window moves on then, at least: 2 s */
#define STAMP_ERROR   50    /* frames by which a word may end later than its timestamp says: 0.5 s */
#define SEED_STRIDE   0xD1342543DE82EF95u /* odd, and far from multiples of run.h's step between positions */
#define PAUSE_SEARCH  500 /* the last frames of a window without timestamps, where a pause ends it: 5 s */

struct longform {
    struct text_model *model;
    const struct tokenizer *tokenizer;
    const struct longform_options *options;
    struct window_audio audio;
    int seek; /* frame where the next window begins */
    int n_stalls;
    struct longform_result result;
    float *logits; /* [n_vocab] */
    struct window window;
    struct word_timer *timer; /* NULL until it is needed */
    int64_t last_speech;      /* sample at which the last word ended */
    struct segment segments[SEGMENTS_MAX(RUN_TOKENS_MAX)];
    struct spoken_segment spoken[SEGMENTS_MAX(RUN_TOKENS_MAX)];
    float levels[RUN_AUDIO_FRAMES];
};

/* What a window gave. */
struct outcome {
    int n_frames;          /* of audio in the window */
    int n_segments;        /* in l->segments */
    bool ends_with_single; /* with a single timestamp: no speech follows */
    int advance;           /* frames to the next window */
    struct word *words;    /* NULL: segments have the times of their timestamps, else of l->spoken */
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

/* --- another engine --- */

/* What an engine has to know of the vocabulary and of the recording. */
static int tell_engine(struct longform *l, struct err *err)
{
    int r = window_set_masks(&l->window, err);
    return r < 0 ? r : window_audio_scan(&l->audio, err);
}

/* The engine has failed: 0 if another one has taken its place. */
static int take_over(struct longform *l, struct err *err)
{
    const struct longform_options *o = l->options;
    int r = o->take_over ? o->take_over(o->ctx, err) : err->code;
    return r < 0 ? r : tell_engine(l, err);
}

/* --- language --- */

static int find_language(struct longform *l, int seek, int n_frames, struct err *err)
{
    const struct longform_options *o = l->options;
    int r = window_audio_encode_for_language(&l->audio, o->regions, o->n_regions, seek, n_frames, err);
    if (r < 0)
        return r;
    return detect_language(l->model, l->tokenizer, 0, WINDOW_AUDIO_SLOT, l->logits, &l->result.language,
                           &l->result.language_probability, err);
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
    l->result.language_probability = o->language || !s->multilingual ? 1.0f : 0.0f;
    if (!o->language && s->multilingual && n_frames > 0) {
        int r = find_language(l, seek, n_frames, err);
        if (r < 0 && (r = take_over(l, err)) == 0)
            r = find_language(l, seek, n_frames, err);
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

/* --- the segments of a window --- */

static bool voice_known(const struct longform *l)
{
    return l->options->voice != NULL;
}

/* Samples of voice in frames [first, end), or no further than `margin` samples from it. */
static int64_t voice_in(const struct longform *l, int first, int end, int64_t margin)
{
    return longform_region_within(l->options->voice, l->options->n_voice, (int64_t)first * MEL_FRAME,
                                  (int64_t)end * MEL_FRAME, margin);
}

/* Makes the text behind the last segment, which the window's end cut off, one more segment of the request. Where there
 * is none although more will be heard, words are looked for up to the last timestamp and a little more. */
static void add_tail(struct longform *l, const struct outcome *o, struct word_times_request *q)
{
    const struct segment *last = &l->segments[o->n_segments - 1];
    int first = last->first + last->n_tokens, n_text = 0;
    for (int i = first; i < q->n_tokens; i++)
        n_text += q->tokens[i] < tokenizer_special(l->tokenizer)->eot;
    if (n_text > 0)
        l->segments[q->n_segments++] = (struct segment){
            .first = first, .n_tokens = q->n_tokens - first, .start = last->end, .end = o->n_frames};
    else if (!o->ends_with_single && o->advance + STAMP_ERROR < q->n_frames)
        q->n_frames = o->advance + STAMP_ERROR;
}

/* Times the words of all segments. Then o->advance leads to the end of the last word, unless nothing follows it. In two
 * things this is not whisper/transcribe.py: text that the window's end cut off is aligned as well, since its sound would
 * be taken for the last word's, and nothing is passed over that the timestamps would have heard again. */
static int time_words(struct longform *l, struct outcome *o, struct err *err)
{
    struct window *w = &l->window;
    const struct attempt *a = &w->attempts[0];
    int r = l->timer ? 0 : word_timer_create(l->model, l->tokenizer, &l->timer, err);
    if (r < 0)
        return r;
    int64_t origin = (int64_t)l->seek * MEL_FRAME;
    struct word_times_request q = {
        .text_slot = 0,
        .audio_slot = WINDOW_AUDIO_SLOT,
        .start = w->start,
        .n_start = w->n_start - l->options->without_timestamps,
        .tokens = a->tokens,
        .n_tokens = a->n_tokens,
        .logprobs = a->logprobs,
        .segments = l->segments,
        .n_segments = o->n_segments,
        .spaced = words_spaced(l->options->translate ? "en" : l->result.language),
        .origin = origin,
        .n_frames = o->n_frames,
        .end = l->audio.n_samples,
        .last_speech = l->last_speech,
    };
    add_tail(l, o, &q);
    r = word_timer_run(l->timer, &q, l->spoken, &o->words, err);
    if (r < 0)
        return r;
    int64_t end = word_times_end(l->spoken, o->n_segments, o->words);
    if (!o->ends_with_single && end > origin && (end - origin) / MEL_FRAME < o->advance)
        o->advance = (int)((end - origin) / MEL_FRAME);
    return 0;
}

/* Leaves out segments of words that look made up, and sets where to go on. */
static void pass_over_silence(struct longform *l, struct outcome *o)
{
    int64_t origin = (int64_t)l->seek * MEL_FRAME, seek = -1;
    struct silence_search q = {
        .window = origin,
        .window_end = origin + WINDOW_FRAMES * MEL_FRAME,
        .audio_end = origin + (int64_t)o->n_frames * MEL_FRAME,
        .recording_end = l->audio.n_samples,
        .last_speech = l->last_speech,
        .threshold = (int64_t)(l->options->hallucination_silence_s * 100.0f) * MEL_FRAME,
    };
    int64_t end = word_times_end(l->spoken, o->n_segments, o->words);
    if (!o->ends_with_single && end > origin && q.window_end - end <= q.threshold)
        o->advance = o->n_frames;
    o->n_segments = hallucination_find(&q, l->spoken, o->n_segments, o->words, &seek);
    if (seek >= 0)
        o->advance = (int)((seek - origin) / MEL_FRAME);
}

/* Where the last word ends if it is not said very slowly, in frames of the window. What is left out behind it is in the span
 * that the alignment gives it. */
static int end_of_last_word(const struct longform *l, const struct outcome *o)
{
    const struct spoken_segment *s = &l->spoken[o->n_segments - 1];
    if (s->n_words == 0)
        return o->n_frames;
    const struct word *w = &o->words[s->first_word + s->n_words - 1];
    int64_t end = w->start + guard_slowest(words_letters(w->text));
    end = end < w->end ? end : w->end;
    return (int)(end / MEL_FRAME) - l->seek;
}

/* True when more is heard in the last segment than its text takes to say, although nothing of it would be heard again. */
static bool is_short_of_text(struct longform *l, const struct outcome *o)
{
    if (!voice_known(l) || l->model->n_align < 1 || o->n_segments == 0 || o->advance < o->n_frames)
        return false;
    const struct segment *last = &l->segments[o->n_segments - 1];
    bool blank;
    const char *text =
        window_text(&l->window, l->window.attempts[0].tokens + last->first, last->n_tokens, &blank);
    return !blank &&
           voice_in(l, l->seek + last->start, l->seek + o->n_frames, 0) > guard_slowest(words_letters(text));
}

/* Whisper now and then breaks off in the middle of a sentence and has its last word last to the end of the window. What is
 * said behind that word is heard again. True if there is anything. */
static bool seek_left_out(struct longform *l, struct outcome *o)
{
    int end = end_of_last_word(l, o);
    if (end < LEFT_OUT_STEP || voice_in(l, l->seek + end, l->seek + o->n_frames, 0) <= LEFT_OUT)
        return false;
    struct segment *last = &l->segments[o->n_segments - 1];
    struct spoken_segment *spoken = &l->spoken[o->n_segments - 1];
    int64_t sample = (int64_t)(l->seek + end) * MEL_FRAME;
    last->end = end > last->start ? end : last->end;
    spoken->end = sample < spoken->end ? sample : spoken->end;
    if (spoken->n_words > 0) {
        struct word *w = &o->words[spoken->first_word + spoken->n_words - 1];
        w->end = sample < w->end ? sample : w->end;
    }
    o->advance = end;
    return true;
}

/* The next window hears what is behind o->advance: the last segment ends there. */
static void end_with_window(struct longform *l, const struct outcome *o)
{
    if (o->n_segments == 0)
        return;
    struct segment *last = &l->segments[o->n_segments - 1];
    if (last->start < o->advance && last->end > o->advance)
        last->end = o->advance;
}

static int find_segments(struct longform *l, struct outcome *o, struct err *err)
{
    const struct attempt *a = &l->window.attempts[0];
    int32_t stamp = tokenizer_special(l->tokenizer)->timestamp_begin;
    bool cut_off =
        a->n_tokens >= l->model->n_text_ctx / 2 || a->n_tokens >= l->model->n_text_ctx - l->window.n_prompt;
    if (l->options->without_timestamps) {
        l->segments[0] =
            (struct segment){.first = 0, .n_tokens = a->n_tokens, .start = 0, .end = o->n_frames};
        o->n_segments = 1;
        o->advance = o->n_frames;
    } else {
        o->n_segments = segment_tokens(a->tokens, a->n_tokens, stamp, o->n_frames, l->segments, &o->advance);
        o->ends_with_single = segment_ends_with_single(a->tokens, a->n_tokens, stamp);
    }
    /* Text that breaks off at the limit of tokens, with no timestamp to go on from: behind the last word. */
    bool breaks_off = cut_off && o->n_segments == 1 && o->advance == o->n_frames && l->model->n_align > 0;
    bool short_of_text = is_short_of_text(l, o);
    if (!l->options->word_times && !breaks_off && !short_of_text)
        return 0;
    int advance = o->advance, r = time_words(l, o, err);
    if (r < 0)
        return r;
    bool left_out = short_of_text && seek_left_out(l, o);
    if (!l->options->word_times) {
        o->words = NULL;
        if (!breaks_off && !left_out)
            o->advance = advance;
        end_with_window(l, o);
        return 0;
    }
    if (l->options->hallucination_silence_s > 0.0f && !left_out)
        pass_over_silence(l, o);
    int64_t end = word_times_end(l->spoken, o->n_segments, o->words);
    l->last_speech = end >= 0 ? end : l->last_speech;
    return 0;
}

/* Tells a segment, unless it is empty or was not said. */
static int emit(struct longform *l, const struct outcome *o, int index)
{
    const struct segment *s = &l->segments[index];
    const struct attempt *a = &l->window.attempts[0];
    const int32_t *tokens = a->tokens + s->first;
    bool blank;
    const char *text = window_text(&l->window, tokens, s->n_tokens, &blank);
    struct longform_segment segment = {
        .start = (int64_t)(l->seek + s->start) * MEL_FRAME,
        .end = (int64_t)(l->seek + s->end) * MEL_FRAME,
        .window = (int64_t)l->seek * MEL_FRAME,
        .language = l->result.language,
        .text = text,
        .tokens = tokens,
        .n_tokens = s->n_tokens,
        .avg_logprob = a->quality.avg_logprob,
        .compression_ratio = a->quality.compression_ratio,
        .no_speech_prob = a->quality.no_speech_prob,
        .temperature = a->temperature,
    };
    if (o->words) {
        const struct spoken_segment *spoken = &l->spoken[index];
        segment.start = spoken->start;
        segment.end = spoken->end;
        segment.words = o->words + spoken->first_word;
        segment.n_words = spoken->n_words;
    }
    if (segment.start == segment.end || blank)
        return 0;
    bool timed = o->words || !l->options->without_timestamps;
    if (voice_known(l) && hallucination_unheard(l->options->voice, l->options->n_voice, segment.start,
                                                segment.end, timed, &a->quality, &l->window.limits))
        return 0;
    prompt_remember(&l->window.before, tokens, s->n_tokens);
    /* A model may time the end of a recording's last words after the recording's. */
    segment.end = segment.end < l->audio.n_samples ? segment.end : l->audio.n_samples;
    segment.start = segment.start < segment.end ? segment.start : segment.end;
    return l->options->on_segment ? l->options->on_segment(l->options->ctx, &segment) : 0;
}

/* --- windows --- */

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

/* Decodes the window of n_frames frames at l->seek and finds its segments. Nothing but counters keeps it from being done once
 * more. */
static int decode_window(struct longform *l, int n_frames, struct outcome *o, struct err *err)
{
    struct window *w = &l->window;
    uint64_t seed = l->options->seed * SEED_STRIDE + ((uint64_t)l->seek << 16);
    w->limits.n_tokens =
        voice_known(l) ? guard_max_tokens(voice_in(l, l->seek, l->seek + n_frames, VOICE_MARGIN)) : 0;
    w->limits.voice =
        voice_known(l) && l->options->without_timestamps ? voice_in(l, l->seek, l->seek + n_frames, 0) : 0;
    *o = (struct outcome){.n_frames = n_frames, .advance = n_frames};
    int r = window_audio_encode(&l->audio, l->seek, n_frames, err);
    if (r == 0)
        r = window_decode(w, seed, err);
    struct attempt *a = &w->attempts[0];
    if (r < 0 || quality_is_silence(&a->quality, &w->limits))
        return r;
    if (a->quality.looped)
        a->n_tokens = loop_cut(a->tokens, a->logprobs, a->n_tokens, tokenizer_special(l->tokenizer)->eot);
    return find_segments(l, o, err);
}

/* Decodes the window of n_frames frames at l->seek, tells its segments, and moves on. */
static int transcribe_window(struct longform *l, int n_frames, struct err *err)
{
    struct window *w = &l->window;
    const struct attempt *a = &w->attempts[0];
    const int n_steps = w->n_steps, n_fallbacks = w->n_fallbacks;
    struct outcome o;
    int r = decode_window(l, n_frames, &o, err);
    if (r < 0 && (r = take_over(l, err)) == 0) {
        w->n_steps = n_steps;
        w->n_fallbacks = n_fallbacks;
        r = decode_window(l, n_frames, &o, err);
    }
    if (r < 0)
        return r;
    l->result.n_windows++;
    if (quality_is_silence(&a->quality, &w->limits)) {
        move_on(l, n_frames, n_frames);
        return 0;
    }
    for (int i = 0; r == 0 && i < o.n_segments; i++)
        r = emit(l, &o, i);
    if (r)
        return r;
    if (!l->options->condition_on_previous_text || a->temperature > 0.5f ||
        (l->options->n_temperatures > 1 && quality_is_poor(&a->quality, &w->limits)))
        prompt_forget(&w->before);
    move_on(l, o.advance, n_frames);
    return 0;
}

/* A span of frames. */
struct span {
    int first, end;
};

static struct span span_of_region(const struct longform *l, int i)
{
    if (!l->options->regions)
        return (struct span){0, l->audio.n_frames};
    const struct longform_region *region = &l->options->regions[i];
    int64_t end = (region->end + MEL_FRAME - 1) / MEL_FRAME;
    return (struct span){(int)(region->start / MEL_FRAME),
                         end < l->audio.n_frames ? (int)end : l->audio.n_frames};
}

static int window_frames(struct span s)
{
    int n = s.end - s.first;
    return n < 0 ? 0 : n < WINDOW_FRAMES ? n : WINDOW_FRAMES;
}

/* Frames of the next window. Without timestamps a window that is not the last one ends in a pause, lest a word be cut
 * in two: nothing would tell. */
static int next_window(struct longform *l, struct span s)
{
    int n = window_frames((struct span){l->seek, s.end});
    if (!l->options->without_timestamps || l->options->word_times || l->seek + n >= s.end)
        return n;
    const float *pcm = l->audio.pcm + (int64_t)l->seek * MEL_FRAME;
    int n_levels = guard_levels(pcm, n * MEL_FRAME, l->levels);
    return 2 * guard_quietest(l->levels, n_levels, (n - PAUSE_SEARCH) / 2, n_levels - 1);
}

static int transcribe_span(struct longform *l, struct span s, struct err *err)
{
    if (l->seek < s.first)
        l->seek = s.first;
    while (l->seek < s.end) {
        bool leftover =
            voice_known(l) && s.end - l->seek < LEFTOVER && voice_in(l, l->seek, s.end, VOICE_MARGIN) == 0;
        int r = 0;
        if (leftover)
            l->seek = s.end;
        else
            r = transcribe_window(l, next_window(l, s), err);
        if (r)
            return r;
        int64_t done = l->seek < l->audio.n_frames ? (int64_t)l->seek * MEL_FRAME : l->audio.n_samples;
        r = l->options->on_progress ? l->options->on_progress(l->options->ctx, done, l->audio.n_samples) : 0;
        if (r)
            return r;
    }
    return 0;
}

static int transcribe_all(struct longform *l, struct err *err)
{
    int n = l->options->regions ? l->options->n_regions : 1;
    struct span first = n > 0 ? span_of_region(l, 0) : (struct span){0, 0};
    int r = n > 0 ? tell_engine(l, err) : 0;
    if (r < 0)
        r = take_over(l, err);
    if (r == 0 && l->options->word_times)
        r = word_timer_create(l->model, l->tokenizer, &l->timer, err);
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
    if (n_samples / MEL_FRAME > INT_MAX - 2 * WINDOW_FRAMES)
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
    l->audio = (struct window_audio){
        .model = model, .pcm = pcm, .n_samples = n_samples, .n_frames = (int)(n_samples / MEL_FRAME)};
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
    if (l)
        word_timer_destroy(l->timer);
    free(logits);
    free(l);
    return r;
}
