/* UTF-8 as defined by RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. Any thread. */
#ifndef CAPTIOND_BASE_UTF8_H
#define CAPTIOND_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the longest prefix of s[0..n) that is valid UTF-8. A sequence that is merely cut off at the end is
 * left out of the prefix too. */
size_t utf8_valid_prefix(const char *s, size_t n);

/* Bytes of s[0..n) before a sequence that is cut off at the end and could still become valid; n if none is.
 * Decoders hold these bytes back until the next token completes them. */
size_t utf8_complete_prefix(const char *s, size_t n);

/* The code point at s[0], with n > 0 bytes there. Returns its bytes, 1 to 4; 0 where no whole valid sequence begins, and `code`
 * is untouched. */
int utf8_next(const char *s, size_t n, uint32_t *code);

/* Replaces every invalid byte by U+FFFD, into out (at least 3 × n + 1 bytes). Returns the bytes written,
 * without the NUL that ends them. */
size_t utf8_sanitize(const char *s, size_t n, char *out);

/* For a message with a file's or a device's name, which may hold anything: puts a ? in the place of each byte of a control
 * character, which a terminal would obey, and of each invalid one. */
void utf8_make_printable(char *s);

#endif
