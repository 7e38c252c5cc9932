/* Zip files: what comes out is what went in, and damage is never handed on as data. */
#include "tests/support/support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/zip.h"
#include "tools/unzip.h"

#define BIG (700 * 1000) /* more than the reader's output buffer */

static char path[] = "/tmp/captiond-unzip-XXXXXX";
static unsigned char big[BIG];

struct collected {
    unsigned char data[BIG + 1];
    size_t n;
};

static int collect(void *ctx, const void *data, size_t n)
{
    struct collected *c = ctx;
    if (n > sizeof(c->data) - c->n)
        return -EFBIG;
    memcpy(c->data + c->n, data, n);
    c->n += n;
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (size_t i = 0; i < BIG; i++)
        big[i] = (unsigned char)(test_rng_int(&rng, 0, 1) ? 'x' : test_rng_int(&rng, 0, 255));
    int fd = mkstemp(path);
    close(fd);
    return fd < 0;
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

static void write_sample(size_t n)
{
    struct zip_writer w;
    zip_begin(&w, path);
    zip_add(&w, "empty", "", 0, false);
    zip_add(&w, "a/stored", "stored as it is", 15, false);
    zip_add(&w, "a/big", big, n, true);
    zip_end(&w);
}

static void members_come_out_as_they_went_in(void **state)
{
    (void)state;
    static struct collected c;
    struct unzip *z;
    struct err err = {0};
    write_sample(BIG);
    assert_int_equal(unzip_open(path, &z, &err), 0);
    c.n = 0;
    assert_int_equal(unzip_member(z, "empty", collect, &c, &err), 0);
    assert_int_equal(c.n, 0);
    assert_int_equal(unzip_member(z, "a/stored", collect, &c, &err), 0);
    assert_int_equal(c.n, 15);
    assert_memory_equal(c.data, "stored as it is", 15);
    c.n = 0;
    assert_int_equal(unzip_member(z, "a/big", collect, &c, &err), 0);
    assert_int_equal(c.n, BIG);
    assert_memory_equal(c.data, big, BIG);
    assert_int_equal(unzip_member(z, "a", collect, &c, &err), -ENOENT);
    unzip_close(z);
}

static int refuse(void *ctx, const void *data, size_t n)
{
    (void)ctx;
    (void)data;
    (void)n;
    return -ENOSPC;
}

static void a_sink_that_refuses_ends_it(void **state)
{
    (void)state;
    struct unzip *z;
    write_sample(BIG);
    assert_int_equal(unzip_open(path, &z, NULL), 0);
    assert_int_equal(unzip_member(z, "a/big", refuse, NULL, NULL), -ENOSPC);
    assert_int_equal(unzip_member(z, "a/stored", refuse, NULL, NULL), -ENOSPC);
    unzip_close(z);
}

/* Reads everything; returns true if all of it claims to be right. */
static bool read_all(struct collected *stored, struct collected *packed)
{
    struct unzip *z;
    stored->n = packed->n = 0;
    if (unzip_open(path, &z, NULL) < 0)
        return false;
    int a = unzip_member(z, "a/stored", collect, stored, NULL),
        b = unzip_member(z, "a/big", collect, packed, NULL);
    unzip_close(z);
    return a == 0 && b == 0;
}

/* Every byte changed, and the file cut at every length: an error, or the right data. */
static void damage_is_found_or_does_no_harm(void **state)
{
    (void)state;
    static struct collected stored, packed;
    static char file[4096];
    size_t n_big = 600;
    write_sample(n_big);
    FILE *f = fopen(path, "r+b");
    size_t n = fread(file, 1, sizeof(file), f);
    assert_true(n > 500 && n < sizeof(file));
    for (size_t i = 0; i < n; i++) {
        fseek(f, (long)i, SEEK_SET);
        fputc(file[i] ^ (1 << (i % 8)), f);
        fflush(f);
        if (read_all(&stored, &packed)) {
            assert_int_equal(stored.n, 15);
            assert_memory_equal(stored.data, "stored as it is", 15);
            assert_int_equal(packed.n, n_big);
            assert_memory_equal(packed.data, big, n_big);
        }
        fseek(f, (long)i, SEEK_SET);
        fputc(file[i], f);
        fflush(f);
    }
    assert_true(read_all(&stored, &packed));
    fclose(f);
    for (size_t length = n - 1; length > 0; length--) {
        assert_int_equal(truncate(path, (off_t)length), 0);
        assert_false(read_all(&stored, &packed));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_come_out_as_they_went_in),
        cmocka_unit_test(a_sink_that_refuses_ends_it),
        cmocka_unit_test(damage_is_found_or_does_no_harm),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
