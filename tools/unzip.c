#include "tools/unzip.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define END_SIGNATURE     0x06054b50u /* end of central directory */
#define CENTRAL_SIGNATURE 0x02014b50u
#define LOCAL_SIGNATURE   0x04034b50u
#define END_SIZE          22 /* without the comment, which may have 65535 bytes */
#define CENTRAL_SIZE      46
#define LOCAL_SIZE        30
#define OUT_SIZE          (256 * 1024)

enum { METHOD_STORED = 0, METHOD_DEFLATED = 8 };

struct unzip {
    const unsigned char *data; /* the file, mapped */
    size_t size;
    size_t directory, n_entries; /* offset and number of the central directory's entries */
    char path[512];
};

struct entry {
    unsigned method, flags;
    uint32_t crc, packed_size, size, local_offset;
    size_t name, n_name; /* offset in the file */
};

static unsigned u16(const struct unzip *z, size_t at)
{
    return z->data[at] | (unsigned)z->data[at + 1] << 8;
}

static uint32_t u32(const struct unzip *z, size_t at)
{
    return u16(z, at) | (uint32_t)u16(z, at + 2) << 16;
}

static bool inside(const struct unzip *z, size_t at, size_t n)
{
    return at <= z->size && n <= z->size - at;
}

static int damaged(const struct unzip *z, size_t at, struct err *err)
{
    return err_set(err, -EINVAL, "%s: damaged zip file (at byte %zu)", z->path, at);
}

/* The end record is the last one of the file, behind it only its comment. */
static int find_directory(struct unzip *z, struct err *err)
{
    size_t lowest = z->size > END_SIZE + 65535 ? z->size - END_SIZE - 65535 : 0;
    for (size_t at = z->size < END_SIZE ? 0 : z->size - END_SIZE + 1; at-- > lowest;) {
        if (u32(z, at) != END_SIGNATURE || at + END_SIZE + u16(z, at + 20) != z->size)
            continue;
        z->n_entries = u16(z, at + 10);
        z->directory = u32(z, at + 16);
        if (z->n_entries == 0xffff || z->directory == 0xffffffff)
            return err_set(err, -ENOTSUP, "%s: a ZIP64 file, which is not supported", z->path);
        return 0;
    }
    return err_set(err, -EINVAL, "%s: not a zip file", z->path);
}

static int map_file(struct unzip *z, int fd, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_set(err, -errno, "%s: %s", z->path, strerror(errno));
    if (st.st_size < END_SIZE)
        return err_set(err, -EINVAL, "%s: not a zip file", z->path);
    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return err_set(err, -errno, "%s: %s", z->path, strerror(errno));
    z->data = data;
    z->size = (size_t)st.st_size;
    return 0;
}

int unzip_open(const char *path, struct unzip **out, struct err *err)
{
    struct unzip *z = calloc(1, sizeof(*z));
    if (!z)
        return err_set(err, -ENOMEM, "out of memory");
    strncpy(z->path, path, sizeof(z->path) - 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int r = fd < 0 ? err_set(err, -errno, "%s: %s", path, strerror(errno)) : map_file(z, fd, err);
    if (fd >= 0)
        close(fd);
    if (r == 0)
        r = find_directory(z, err);
    if (r < 0) {
        unzip_close(z);
        return r;
    }
    *out = z;
    return 0;
}

void unzip_close(struct unzip *z)
{
    if (!z)
        return;
    if (z->data)
        munmap((void *)z->data, z->size);
    free(z);
}

/* The entry at *at of the central directory; *at goes on to the next one. */
static int read_entry(const struct unzip *z, size_t *at, struct entry *e, struct err *err)
{
    if (!inside(z, *at, CENTRAL_SIZE) || u32(z, *at) != CENTRAL_SIGNATURE)
        return damaged(z, *at, err);
    *e = (struct entry){
        .flags = u16(z, *at + 8),
        .method = u16(z, *at + 10),
        .crc = u32(z, *at + 16),
        .packed_size = u32(z, *at + 20),
        .size = u32(z, *at + 24),
        .n_name = u16(z, *at + 28),
        .local_offset = u32(z, *at + 42),
        .name = *at + CENTRAL_SIZE,
    };
    size_t n = CENTRAL_SIZE + e->n_name + u16(z, *at + 30) + u16(z, *at + 32);
    if (!inside(z, *at, n))
        return damaged(z, *at, err);
    *at += n;
    return 0;
}

static int find_entry(const struct unzip *z, const char *name, struct entry *e, struct err *err)
{
    size_t at = z->directory, n_name = strlen(name);
    for (size_t i = 0; i < z->n_entries; i++) {
        int r = read_entry(z, &at, e, err);
        if (r < 0)
            return r;
        if (e->n_name == n_name && memcmp(z->data + e->name, name, n_name) == 0)
            return 0;
    }
    return err_set(err, -ENOENT, "%s: has no %s in it", z->path, name);
}

/* Hands the stored bytes out, or the inflated ones, and sums them up. */
static int copy_stored(const unsigned char *packed, const struct entry *e,
                       int (*sink)(void *, const void *, size_t), void *ctx, uLong *crc)
{
    *crc = crc32_z(crc32_z(0, NULL, 0), packed, e->packed_size);
    return sink(ctx, packed, e->packed_size);
}

static int inflate_all(const unsigned char *packed, const struct entry *e,
                       int (*sink)(void *, const void *, size_t), void *ctx, uLong *crc, bool *whole)
{
    z_stream s = {.next_in = (unsigned char *)packed, .avail_in = e->packed_size};
    unsigned char *out = malloc(OUT_SIZE);
    if (!out || inflateInit2(&s, -MAX_WBITS) != Z_OK) {
        free(out);
        return -ENOMEM;
    }
    int r = 0, state = Z_OK;
    *crc = crc32_z(0, NULL, 0);
    while (r == 0 && state == Z_OK && s.total_out <= e->size) {
        s.next_out = out;
        s.avail_out = OUT_SIZE;
        state = inflate(&s, Z_NO_FLUSH);
        size_t n = OUT_SIZE - s.avail_out;
        *crc = crc32_z(*crc, out, n);
        if (n > 0)
            r = sink(ctx, out, n);
    }
    *whole = state == Z_STREAM_END && s.total_out == e->size;
    inflateEnd(&s);
    free(out);
    return r;
}

int unzip_member(struct unzip *z, const char *name, int (*sink)(void *ctx, const void *data, size_t n),
                 void *ctx, struct err *err)
{
    struct entry e = {0};
    int r = find_entry(z, name, &e, err);
    if (r < 0)
        return r;
    size_t at = e.local_offset;
    if (!inside(z, at, LOCAL_SIZE) || u32(z, at) != LOCAL_SIGNATURE)
        return damaged(z, at, err);
    at += LOCAL_SIZE + u16(z, at + 26) + u16(z, at + 28);
    if (!inside(z, at, e.packed_size))
        return damaged(z, at, err);
    bool whole = e.packed_size == e.size;
    uLong crc = 0;
    if (e.flags & 1)
        return err_set(err, -ENOTSUP, "%s: %s is encrypted", z->path, name);
    if (e.method == METHOD_STORED)
        r = copy_stored(z->data + at, &e, sink, ctx, &crc);
    else if (e.method == METHOD_DEFLATED)
        r = inflate_all(z->data + at, &e, sink, ctx, &crc, &whole);
    else
        return err_set(err, -ENOTSUP, "%s: %s is packed by method %u, which is not supported", z->path, name,
                       e.method);
    if (r < 0)
        return err_set(err, r, "%s: %s", name, strerror(-r));
    if (!whole || crc != e.crc)
        return err_set(err, -EINVAL, "%s: %s is damaged", z->path, name);
    return 0;
}
