#include "decoder/window.h"

#include <math.h>
#include <string.h>

#include "daemon/base/utf8.h"
#include "decoder/guard.h"
#include "decoder/loop.h"
#include "decoder/segment.h"
#include "decoder/words.h"

enum { MASK_ALL = 0, MASK_FIRST = 1 };

int window_set_masks(struct window *w, struct err *err)
{
    int32_t tokens[256];
    int n = tokenizer_suppressed(w->tokenizer, tokens, 256);
    int r = w->model->ops->set_mask(w->model, MASK_ALL, tokens, n, err);
    if (r < 0)
        return r;
    n = tokenizer_suppressed_first(w->tokenizer, tokens, 256);
    return w->model->ops->set_mask(w->model, MASK_FIRST, tokens, n, err);
}

int window_init(struct window *w, struct text_model *model, const struct tokenizer *tokenizer,
                const struct longform_options *o, struct err *err)
{
    w->model = model;
    w->tokenizer = tokenizer;
    w->options = o;
    w->limits = (struct quality_limits){.compression_ratio = o->compression_ratio_threshold,
                                        .avg_logprob = o->logprob_threshold,
                                        .no_speech_prob = o->no_speech_threshold};
    int most = model->n_text_slots < WINDOW_SAMPLES ? model->n_text_slots : WINDOW_SAMPLES;
    w->n_samples = o->best_of < 1 ? 1 : o->best_of < most ? o->best_of : most;
    return prompt_init(&w->before, tokenizer, model->n_text_ctx, o->hotwords, o->prompt, o->carry_prompt,
                       err);
}

static void build_prompt(struct window *w)
{
    int n = prompt_build(&w->before, tokenizer_special(w->tokenizer)->sot_prev, w->prompt);
    memcpy(w->prompt + n, w->start, (size_t)w->n_start * sizeof(*w->prompt));
    w->n_prompt = n + w->n_start;
}

/* Decodes into w->clean. Returns the bytes, and where the text without the white space around it lies. */
static size_t clean_text(struct window *w, const int32_t *tokens, int n, const char **inner, size_t *n_inner)
{
    size_t length = tokenizer_decode(w->tokenizer, tokens, n, w->text, sizeof(w->text));
    length = utf8_sanitize(w->text, length < WINDOW_TEXT_MAX ? length : WINDOW_TEXT_MAX, w->clean);
    *inner = w->clean;
    *n_inner = length;
    words_strip(inner, n_inner);
    return length;
}

const char *window_text(struct window *w, const int32_t *tokens, int n, bool *blank)
{
    const char *inner;
    size_t n_inner;
    w->clean[clean_text(w, tokens, n, &inner, &n_inner)] = '\0';
    *blank = n_inner == 0;
    return w->clean;
}

static void judge(struct window *w, struct attempt *a, const struct text_run *run, float no_speech_prob)
{
    double sum = 0.0;
    for (int i = 0; i < run->n_out; i++)
        sum += a->logprobs[i];
    a->n_tokens = run->stop == RUN_STOP_EOT ? run->n_out - 1 : run->n_out;
    const char *text;
    size_t length;
    clean_text(w, a->tokens, a->n_tokens, &text, &length);
    a->quality = (struct quality){.compression_ratio = quality_compression_ratio(text, length),
                                  .avg_logprob = (float)(sum / (a->n_tokens + 1)),
                                  .no_speech_prob = no_speech_prob};
    w->clean[text - w->clean + (ptrdiff_t)length] = '\0'; /* the white space behind it goes */
    a->quality.n_letters = words_letters(text);
    int32_t eot = run->rules.eot;
    a->quality.looped = loop_present(a->tokens, a->n_tokens, eot);
    for (int i = 0; i < a->n_tokens; i++)
        a->quality.n_tokens += a->tokens[i] < eot;
}

/* How probable a sample is beside others: MaximumLikelihoodRanker of whisper/decoding.py, which counts the tokens without the
 * end of text. */
static float rank(const struct window *w, const struct attempt *a)
{
    float sum = a->quality.avg_logprob * (float)(a->n_tokens + 1),
          n = (float)(a->n_tokens > 0 ? a->n_tokens : 1);
    float penalty = w->options->length_penalty;
    return sum / (penalty < 0.0f ? n : powf((5.0f + n) / 6.0f, penalty));
}

/* A sampled text that is far too short for what is said in the window has been made up, often from the words before. (What is
 * most probable may break off, which is minded elsewhere.) captiond's own criterion. */
static bool is_too_short(const struct window *w, const struct attempt *a)
{
    return a->temperature > 0.0f && guard_slowest(a->quality.n_letters) < w->limits.voice &&
           !quality_is_silence(&a->quality, &w->limits);
}

static bool is_refused(const struct window *w, const struct attempt *a)
{
    return quality_is_poor(&a->quality, &w->limits) || is_too_short(w, a);
}

static bool fits(const struct window *w, const struct attempt *a)
{
    return !is_refused(w, a) && !quality_is_silence(&a->quality, &w->limits);
}

/* A sample that loops is the most probable of several: taken as the best, it would have all of them refused. captiond's own
 * criterion. */
static bool is_better_sample(const struct window *w, const struct attempt *a, const struct attempt *b)
{
    return fits(w, a) != fits(w, b) ? fits(w, a) : rank(w, a) > rank(w, b);
}

/* cached: the slot holds the prompt already, all but its last token. Else the no-speech probability is asked for,
 * which belongs to the start of the transcript. */
static struct text_run prepare_run(struct window *w, int sample, float temperature, bool cached,
                                   uint64_t seed)
{
    const struct special_tokens *s = tokenizer_special(w->tokenizer);
    struct attempt *a = &w->attempts[sample];
    a->temperature = temperature;
    return (struct text_run){
        .slot = sample,
        .audio = WINDOW_AUDIO_SLOT,
        .n_cached = cached ? w->n_prompt - 1 : 0,
        .n_prompt = w->n_prompt,
        .tokens = w->prompt,
        .sample_begin = w->n_prompt,
        .max_tokens = w->model->n_text_ctx / 2,
        .rules = {.eot = s->eot,
                  .timestamp_begin = s->timestamp_begin,
                  .no_timestamps = s->no_timestamps,
                  .timestamps = !w->options->without_timestamps,
                  .max_initial_timestamp = FIRST_STAMP_MAX,
                  .mask = MASK_ALL,
                  .first_mask = MASK_FIRST,
                  .temperature = temperature,
                  .seed = seed + (uint64_t)sample},
        .beam = {.width = temperature > 0.0f ? 1 : w->options->beam_size,
                 .patience = w->options->patience,
                 .length_penalty = w->options->length_penalty},
        .probe_token = cached ? -1 : s->no_speech,
        .probe_index = cached ? w->n_prompt - 1 : w->n_prompt - w->n_start,
        .out_capacity = RUN_TOKENS_MAX,
        .out_tokens = a->tokens,
        .out_logprobs = a->logprobs,
    };
}

/* Decodes at one temperature; the best of several samples comes to stand in attempts[0]. The first temperature of a window fills
 * slot 0 with the prompt. */
static int try_temperature(struct window *w, int index, uint64_t seed, float *no_speech_prob, struct err *err)
{
    struct text_run runs[WINDOW_SAMPLES];
    float temperature = w->options->temperatures[index];
    int n = temperature > 0.0f ? w->n_samples : 1;
    for (int i = 0; i < n; i++) {
        if (i > 0 && index > 0)
            w->model->ops->copy_slot(w->model, 0, i, w->n_prompt - 1);
        runs[i] = prepare_run(w, i, temperature, index > 0, seed + (uint64_t)(index * WINDOW_SAMPLES));
    }
    int r = text_model_run(w->model, runs, n, err);
    if (r < 0)
        return r;
    if (index == 0)
        *no_speech_prob = runs[0].probe_prob;
    int best = 0;
    for (int i = 0; i < n; i++) {
        judge(w, &w->attempts[i], &runs[i], *no_speech_prob);
        w->n_steps += runs[i].n_steps;
        if (is_better_sample(w, &w->attempts[i], &w->attempts[best]))
            best = i;
    }
    if (best > 0)
        w->attempts[0] = w->attempts[best];
    return 0;
}

static bool repeats(const struct window *w, const struct attempt *a)
{
    return a->quality.looped ||
           (w->limits.compression_ratio > 0.0f && a->quality.compression_ratio > w->limits.compression_ratio);
}

/* Less repetitive, not too short, else more probable. */
static bool is_better(const struct window *w, const struct attempt *a, const struct attempt *b)
{
    if (repeats(w, a) != repeats(w, b))
        return repeats(w, b);
    if (is_too_short(w, a) != is_too_short(w, b))
        return is_too_short(w, b);
    return a->quality.avg_logprob > b->quality.avg_logprob;
}

/* A text that was refused for being repetitive and is confirmed by a sampled one is taken after all, for it is the more
 * probable one. Where every temperature fails, the best attempt is taken, as in faster-whisper; whisper/transcribe.py takes
 * the last one, whose text a temperature of 1 has often made up. */
int window_decode(struct window *w, uint64_t seed, struct err *err)
{
    float no_speech_prob = 0.0f;
    build_prompt(w);
    for (int i = 0; i < w->options->n_temperatures; i++) {
        int r = try_temperature(w, i, seed, &no_speech_prob, err);
        if (r < 0)
            return r;
        if (!is_refused(w, &w->attempts[0])) {
            if (i > 0 && quality_is_confirmed(&w->best.quality, &w->attempts[0].quality, &w->limits))
                w->attempts[0] = w->best;
            return 0;
        }
        if (i == 0 || is_better(w, &w->attempts[0], &w->best))
            w->best = w->attempts[0];
        w->n_fallbacks += i == 0 && w->options->n_temperatures > 1;
    }
    w->attempts[0] = w->best;
    return 0;
}
