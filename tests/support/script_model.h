/* A text model that hears what a script says: for tests of live captions without weights.
 *
 * The audio carries its own clock: script_audio fills sample i with a number that gives i back. Encoding notes which
 * span was given; a run then answers the words that lie in it, one token a word, from the place that the committed
 * words in the prompt reach. A word whose end is not in the window yet is misheard, as by a real model. */
#ifndef CAPTIOND_TESTS_SCRIPT_MODEL_H
#define CAPTIOND_TESTS_SCRIPT_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "decoder/text_model.h"
#include "decoder/tokenizer.h"
#include "tests/support/support.h"

#define SCRIPT_WORD   1000 /* token of the first word: its text is " w0"; the next one's is " w1" … */
#define SCRIPT_WORDS  20000
#define SCRIPT_COMMA  400 /* "," */
#define SCRIPT_PERIOD 401 /* "." */
#define SCRIPT_HALF_A 402 /* the two halves of "é" with a space before */
#define SCRIPT_HALF_B 403

struct script_word {
    int32_t token;
    int64_t start, end;
};

struct script_model {
    struct text_model base;
    struct tokenizer *tokenizer;
    const struct script_word *words;
    int n_words;
    /* How it errs. */
    struct test_rng *rng; /* NULL: never at random */
    float substitute;     /* probability that a word of a pass is another one */
    float punctuate;      /* probability that a comma follows a word in a pass */
    bool deaf;            /* after "." in the prompt's committed words nothing more is heard */
    bool skips;           /* without timestamps, of more than eight words it says the last four */
    bool loop;            /* goes on saying the last word until the limit */
    int fail_in;          /* > 0: the run with this count fails … */
    int fail_again;       /* … and so many after it */
    int lose_at; /* > 0: at the operation with this count the engine is lost, as the next wait and all later ones tell */
    float no_speech_prob, logprob; /* of every token */
    const char *language;          /* what detection finds … */
    float language_prob;           /* … and how surely */
    int32_t extra[4];              /* said after the last word, with nothing in the audio for it */
    int n_extra;
    /* A batch that goes on. */
    struct text_run *work[16];
    int left[16], n_work; /* steps to their ends */
    enum run_stop stops[16];
    bool lost;
    /* What was asked. */
    int n_operations;
    int n_encodes, n_runs, n_detections, n_overlong;
    int n_prompt_text; /* tokens between <|startofprev|> and <|startoftranscript|> in the last run */
    int32_t language_token, task_token; /* multilingual: of the last run */
    int32_t context[448];               /* these n_prompt_text tokens */
    int beam_width;                     /* of the last run */
    int64_t audio_start[16];
    int audio_samples[16];
    int32_t answer[512];
    int64_t answer_start[512], answer_end[512];
};

void script_audio(float *pcm, int64_t first, int n);
int64_t script_time(float sample);

void script_model_init(struct script_model *, int n_vocab, const struct script_word *, int n_words);
void script_model_finish(struct script_model *);

#endif
