/* From tokens to words, as OpenAI's whisper does it (Tokenizer.split_to_word_tokens, merge_punctuations).
 *
 * A span is a run of tokens and its text. Text is cut at spaces in languages that write them, else at every token
 * that completes a character. Pure functions over the caller's arrays. */
#ifndef CAPTIOND_DECODER_WORDS_H
#define CAPTIOND_DECODER_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decoder/tokenizer.h"

struct word_span {
    int first_token, n_tokens;
    int text, n_text; /* offset and bytes in the arena; spans lie one behind the other */
};

/* False for the languages that whisper splits without spaces: zh, ja, th, lo, my, yue. NULL is spaced. */
bool words_spaced(const char *language);

/* Cuts n text tokens into spans (room for n) and their text into the arena, whose size is 3 × the bytes of the tokens
 * at most: bytes that are no UTF-8 become U+FFFD. Tokens at the end that begin a character without completing it are
 * left out. Returns the number of spans; *n_used receives the tokens they hold. */
int words_split(const struct tokenizer *, const int32_t *tokens, int n, bool spaced, struct word_span *spans,
                char *arena, size_t capacity, int *n_used);

/* Joins opening punctuation (" (", " «") to the span that follows it. Returns the new number. */
int words_join_opening(const char *arena, struct word_span *spans, int n);

/* True for a span that is nothing but punctuation of the kind that belongs to the word before it (". , 。"). */
bool words_is_closing(const char *text, int n_text);

/* The same for what belongs to the word after it, with its leading space: " (", " “". */
bool words_is_opening(const char *text, int n_text);

/* True for ". 。 ! ！ ? ？" by itself. */
bool words_is_sentence_end(const char *text, int n_text);

/* Takes the white space around text[0..n) away. */
void words_strip(const char **text, size_t *n);

/* How long a text takes to say, in letters: a character each, a digit four, ASCII's marks and spaces none. */
int words_letters(const char *text);

#endif
