/* Writes one line of JSON into a buffer of fixed size, without allocating.
 *
 * Commas are put where they belong; a key is NULL inside arrays and at the top. Strings are given as bytes: what is
 * not valid UTF-8 becomes U+FFFD, so that a device's name in some old encoding cannot spoil a line. A buffer that
 * is too small sets `overflow` and stays NUL-terminated. */
#ifndef CAPTIOND_DAEMON_JSONL_H
#define CAPTIOND_DAEMON_JSONL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct jsonl {
    char *buf; /* borrowed */
    size_t size, n;
    bool comma; /* the next member needs one before it */
    bool overflow;
};

void jsonl_init(struct jsonl *, char *buf, size_t size);

void jsonl_object(struct jsonl *, const char *key);
void jsonl_object_end(struct jsonl *);
void jsonl_array(struct jsonl *, const char *key);
void jsonl_array_end(struct jsonl *);

void jsonl_string(struct jsonl *, const char *key, const char *s);
void jsonl_bytes(struct jsonl *, const char *key, const char *s, size_t n);
void jsonl_int(struct jsonl *, const char *key, int64_t value);
void jsonl_real(struct jsonl *, const char *key, double value, int decimals); /* null if not finite */
void jsonl_bool(struct jsonl *, const char *key, bool value);

/* Ends the line. Returns its length with the newline, or 0 if it did not fit. */
size_t jsonl_finish_line(struct jsonl *);

#endif
