/* Where sentences end in a transcript, for output that is one sentence a line. Any thread. */
#ifndef CAPTIOND_BASE_SENTENCE_H
#define CAPTIOND_BASE_SENTENCE_H

#include <stddef.h>

/* The length of the first sentence of text[0..n), 0 where none is complete. A sentence ends at the end of a word that
 * closes with . ? ! … or their wide forms, quotes and brackets after it included. "Mr." and other titles, initials, "U.S." and
 * "i.e." end none. "No.", "etc.", months and the like do unless a digit or a small letter follows, so behind them
 * the sentence is complete when the next word is there. The text is taken to end at the end of a word. */
size_t sentence_length(const char *text, size_t n);

#endif
