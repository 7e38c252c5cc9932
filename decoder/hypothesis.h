/* One pass of the text decoder over one window: tokens in, the words after them and their times out.
 *
 * The pass is given what is certain (earlier text, special tokens, the words that are committed) and a guess how it
 * goes on, the draft, which is verified in one batch. Scratch memory is taken once; one thread. */
#ifndef CAPTIOND_DECODER_HYPOTHESIS_H
#define CAPTIOND_DECODER_HYPOTHESIS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/err.h"
#include "decoder/text_model.h"
#include "decoder/tokenizer.h"
#include "decoder/word.h"

#define HYPOTHESIS_TOKENS     224 /* committed and new ones of a window: half the context, as in whisper */
#define HYPOTHESIS_TEXT_BYTES 65536

struct hypothesis {
    int32_t tokens[HYPOTHESIS_TOKENS]; /* text tokens after the committed ones */
    float logprobs[HYPOTHESIS_TOKENS];
    int n_tokens;
    struct word words[HYPOTHESIS_TOKENS]; /* text in `text`; closing punctuation is a word of its own */
    int n_words;
    float avg_logprob;    /* over the tokens and the end of text */
    float no_speech_prob; /* of the window, right after <|startoftranscript|> */
    bool looped;          /* the model repeated itself; the repetitions are left out */
    int n_steps, n_draft, n_accepted;
    char text[HYPOTHESIS_TEXT_BYTES];
};

struct hypothesis_request {
    int audio_slot, text_slot;
    int beam_size; /* 0 or 1: greedy; else that many text slots, and no draft */
    const int32_t
        *tokens; /* [n_prompt + n_draft]: prompt, its last n_committed being committed words, then draft */
    int n_prompt, n_committed, n_draft;
    int sot_index;  /* of <|startoftranscript|> in tokens */
    int max_tokens; /* of new ones, the draft included */
    int first_mask; /* rules for the first word of the window, −1: none */
    int mask;       /* rules for every token */
    bool
        stamped; /* let the model write timestamps: it then leaves out less, but takes a second pass for the words'
                       times. The prompt ends with <|notimestamps|>; no committed words, no draft */
    bool spaced;    /* words are written with spaces */
    int64_t origin; /* sample at which the window begins */
    int n_samples;  /* of audio in the window, ≤ 30 s */
};

struct hypothesizer;

int hypothesizer_create(struct text_model *, const struct tokenizer *, struct hypothesizer **, struct err *);
void hypothesizer_destroy(struct hypothesizer *); /* NULL is accepted */

/* Runs the decoder over the encoded (or submitted) window and waits. committed_ends [n_committed] receives the sample at which
 * each committed token ends by this pass's alignment. 0 or the engine's error, *out being unspecified then. */
int hypothesizer_run(struct hypothesizer *, const struct hypothesis_request *, struct hypothesis *out,
                     int64_t *committed_ends, struct err *);

#endif
