/* Offline transcription of a whole recording: sequential 30 s windows with timestamps and seeking, after OpenAI's
 * whisper/transcribe.py. One thread; blocks. Uses audio slot 0, text slots from 0 on, and masks 0 and 1 of the text
 * model. */
#ifndef CAPTIOND_DECODER_LONGFORM_H
#define CAPTIOND_DECODER_LONGFORM_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/err.h"
#include "decoder/longform_region.h"
#include "decoder/text_model.h"
#include "decoder/tokenizer.h"
#include "decoder/word.h"

#define LONGFORM_TEMPERATURES 16

struct longform_segment {
    int64_t start, end;    /* samples */
    int64_t window;        /* sample at which the window that it was heard in begins */
    const char *language;  /* static */
    const char *text;      /* UTF-8, leading space kept; borrowed for the callback */
    const int32_t *tokens; /* with timestamps */
    int n_tokens;
    float avg_logprob, compression_ratio, no_speech_prob, temperature;
    const struct word
        *words; /* with word_times; punctuation belongs to its word. Borrowed for the callback */
    int n_words;
};

struct longform_options {
    const char *language; /* NULL: detect on the first 30 s of speech */
    bool translate;
    bool condition_on_previous_text;
    bool without_timestamps; /* a window is one segment */
    bool word_times;         /* also seek by the end of the last word */
    float
        hallucination_silence_s; /* with word_times: silence of more seconds beside words that look made up makes them go
                                      and is passed over; 0: off. 2 is a good value */
    const char *prompt;   /* NULL, or text that stands before the first window, … */
    bool carry_prompt;    /* … before every window */
    const char *hotwords; /* NULL, or words and names that are likely, told to every window */
    float temperatures[LONGFORM_TEMPERATURES]; /* tried in order until a result is good enough */
    int n_temperatures;
    int beam_size;        /* hypotheses at temperature 0; 1: greedy; at most RUN_BEAMS_MAX and n_text_slots */
    float patience;       /* of the beam search, as run.h has it: 1 */
    float length_penalty; /* of beams and samples; negative, the default: divide by the length */
    int best_of;   /* samples at temperatures above 0, the best of which is taken; 5, at most n_text_slots */
    uint64_t seed; /* of the samples: the same one gives the same text; 0 */
    float compression_ratio_threshold; /* 2.4; 0: off */
    float logprob_threshold;           /* −1.0 */
    float no_speech_threshold;         /* 0.6 */
    const struct longform_region
        *regions; /* NULL: everything. Else ascending; what lies outside is not decoded */
    int n_regions;
    /* NULL, or where the voice gate heard somebody, ascending, without margins. Text that is improbable where nobody
     * was heard is dropped. */
    const struct longform_region *voice;
    int n_voice;
    /* NULL, or called for each segment with text, in order; a non-zero return stops the run and is returned. */
    int (*on_segment)(void *ctx, const struct longform_segment *);
    /* NULL, or called after each window with the samples done; as on_segment. */
    int (*on_progress)(void *ctx, int64_t done, int64_t total);
    /* NULL, or called when the engine has failed, with its error: 0 if another engine computes behind the same text_model
     * from now on, which is then asked again for what the first one owes; else what the run ends with. */
    int (*take_over)(void *ctx, struct err *);
    void *ctx;
};

/* Defaults of OpenAI's command line, but for beam_size, which is 1. */
void longform_defaults(struct longform_options *);

struct longform_result {
    const char *language;       /* static */
    float language_probability; /* 0 where it was not told and nothing was heard */
    int n_windows, n_fallbacks; /* fallbacks: windows that were decoded again at a higher temperature */
    int n_steps;
};

/* pcm: the whole recording, 16 kHz mono, n_samples. 0; -EINVAL for a language or a task that the model does not know;
 * -ENOMEM; the engine's error; what on_segment returned. */
int longform_transcribe(struct text_model *, const struct tokenizer *, const struct longform_options *,
                        const float *pcm, int64_t n_samples, struct longform_result *, struct err *);

#endif
