/* Inside tests/support/tiny_*.c: writing a model's file and noting what lies where. */
#ifndef CAPTIOND_TESTS_TINY_WRITER_H
#define CAPTIOND_TESTS_TINY_WRITER_H

#include <stdio.h>

#include "tests/support/tiny_model.h"

struct writer {
    FILE *f;
    struct tiny_layout *layout; /* NULL: nothing is noted */
};

void writer_open(struct writer *, const char *path, struct tiny_layout *);
void writer_close(struct writer *);
void put(struct writer *, const char *what, const void *p, size_t n);
void put_int(struct writer *, const char *what, int32_t value);
/* The numbers of a tensor; they are not noted. */
void put_values(struct writer *, const float *values, size_t n, enum tiny_type);

/* The vocabulary as JSON, {"token": id, …}, in GPT-2's byte-level alphabet. */
void put_vocabulary(const struct tiny_model *, FILE *);
/* A JSON file with the last decoder layer's first two heads as alignment heads, not in order. */
void put_heads(const struct tiny_model *, const char *folder, const char *name);
/* A new file with this text. */
void tiny_write_text(const char *folder, const char *name, const char *text);

#endif
