/* Cuts text into the pieces within which byte pairs are merged, as GPT-2's regular expression does:
 *
 *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * Any thread. */
#ifndef CAPTIOND_DECODER_PRETOKENIZE_H
#define CAPTIOND_DECODER_PRETOKENIZE_H

#include <stddef.h>

/* Bytes of the first piece of text[0..n), n > 0; at least 1. A byte that is not valid UTF-8 counts as a character
 * that is neither letter, number nor space. */
size_t pretokenize_next(const char *text, size_t n);

#endif
