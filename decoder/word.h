/* A word with its time, as alignment finds it and commits carry it. Plain data. */
#ifndef CAPTIOND_DECODER_WORD_H
#define CAPTIOND_DECODER_WORD_H

#include <stdint.h>

struct word {
    const char *text;   /* UTF-8 with its leading space, borrowed from whoever gives the word */
    int64_t start, end; /* samples at 16 kHz on the stream's clock, start ≤ end */
    float probability;  /* mean of its tokens': live the geometric one, of recordings the arithmetic one */
    int first_token, n_tokens; /* in the pass it comes from */
};

#endif
