#include "tests/support/zip.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "tests/support/support.h"

static void put(FILE *f, unsigned long value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        fputc(i < 8 ? (int)(value >> (8 * i)) & 0xff : 0, f);
}

/* What the local header and the central directory's entry have in common. */
static void put_member(struct zip_writer *z, int i)
{
    FILE *f = z->file;
    put(f, 20, 2); /* version needed */
    put(f, 0, 2);  /* flags */
    put(f, z->members[i].method, 2);
    put(f, 0, 4); /* time and date */
    put(f, z->members[i].crc, 4);
    put(f, z->members[i].packed, 4);
    put(f, z->members[i].size, 4);
    put(f, strlen(z->members[i].name), 2);
    put(f, 0, 2); /* extra field */
}

void zip_begin(struct zip_writer *z, const char *path)
{
    *z = (struct zip_writer){.file = fopen(path, "wb")};
    assert_non_null(z->file);
}

static size_t deflate_raw(const void *data, size_t n, unsigned char *out, size_t size)
{
    z_stream s = {
        .next_in = (unsigned char *)data, .avail_in = (uInt)n, .next_out = out, .avail_out = (uInt)size};
    assert_int_equal(deflateInit2(&s, 6, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&s, Z_FINISH), Z_STREAM_END);
    deflateEnd(&s);
    return s.total_out;
}

void zip_add(struct zip_writer *z, const char *name, const void *data, size_t n, bool deflated)
{
    assert_true(z->n < ZIP_MEMBERS_MAX);
    int i = z->n++;
    unsigned char *packed = malloc(n + n / 8 + 1024);
    assert_non_null(packed);
    size_t n_packed = n;
    if (deflated)
        n_packed = deflate_raw(data, n, packed, n + n / 8 + 1024);
    else
        memcpy(packed, data, n);
    snprintf(z->members[i].name, sizeof(z->members[i].name), "%s", name);
    z->members[i].method = deflated ? 8 : 0;
    z->members[i].crc = (unsigned)crc32_z(crc32_z(0, NULL, 0), data, n);
    z->members[i].packed = n_packed;
    z->members[i].size = n;
    z->members[i].offset = (size_t)ftell(z->file);
    put(z->file, 0x04034b50, 4);
    put_member(z, i);
    fputs(name, z->file);
    assert_int_equal(fwrite(packed, 1, n_packed, z->file), n_packed);
    free(packed);
}

void zip_end(struct zip_writer *z)
{
    long directory = ftell(z->file);
    for (int i = 0; i < z->n; i++) {
        put(z->file, 0x02014b50, 4);
        put(z->file, 20, 2); /* made by */
        put_member(z, i);
        put(z->file, 0, 2 + 2 + 2 + 4); /* comment, disk, attributes */
        put(z->file, z->members[i].offset, 4);
        fputs(z->members[i].name, z->file);
    }
    long end = ftell(z->file);
    put(z->file, 0x06054b50, 4);
    put(z->file, 0, 4); /* disks */
    put(z->file, (unsigned long)z->n, 2);
    put(z->file, (unsigned long)z->n, 2);
    put(z->file, (unsigned long)(end - directory), 4);
    put(z->file, (unsigned long)directory, 4);
    put(z->file, 0, 2);
    assert_int_equal(fclose(z->file), 0);
}
