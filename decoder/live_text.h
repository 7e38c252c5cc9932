/* The words that one update of live captions gives back: committed ones, and the tentative tail. Scratch memory of
 * decoder/live.c. */
#ifndef CAPTIOND_DECODER_LIVE_TEXT_H
#define CAPTIOND_DECODER_LIVE_TEXT_H

#include <stddef.h>

#include "decoder/hypothesis.h"
#include "decoder/live_buffer.h"
#include "decoder/word.h"

#define LIVE_TEXT_WORDS (2 * HYPOTHESIS_TOKENS)

struct live_text {
    struct word words[LIVE_TEXT_WORDS]; /* committed; their texts are in `text` */
    int n_words;
    char text[2 * HYPOTHESIS_TEXT_BYTES];
    size_t used;
    char partial[HYPOTHESIS_TEXT_BYTES];
    int64_t partial_start, partial_end;
};

void live_text_clear(struct live_text *);

/* Appends a committed word, or a mark to the word before it. Times never go back: the buffer's last_end becomes the
 * word's. A mark at the beginning of an utterance closes the one before, which is final: it is not shown. */
void live_text_commit(struct live_text *, struct live_buffer *, const struct word *);

/* Makes words [first, n_words) of a hypothesis the tentative tail. */
void live_text_show(struct live_text *, const struct live_buffer *, const struct hypothesis *, int first);

#endif
