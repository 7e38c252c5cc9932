/* Writes zip files, for tests of the reader. */
#ifndef CAPTIOND_TESTS_ZIP_H
#define CAPTIOND_TESTS_ZIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define ZIP_MEMBERS_MAX 16

struct zip_writer {
    FILE *file;
    int n;
    struct {
        char name[128];
        unsigned method, crc;
        size_t packed, size, offset;
    } members[ZIP_MEMBERS_MAX];
};

void zip_begin(struct zip_writer *, const char *path);
void zip_add(struct zip_writer *, const char *name, const void *data, size_t n, bool deflated);
void zip_end(struct zip_writer *);

#endif
