/* Damaged model files: each must be refused with a message of one line that names the file, and none may crash the
 * loader (meaningful under the sanitizers). */
#include "tests/support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gpu/weights.h"
#include "tests/support/tiny_model.h"

struct subject {
    const char *path; /* what is opened */
    char file[300];   /* what is damaged */
    struct tiny_layout layout;
    int fd;
    off_t size;
};

static struct tiny_model model;
static char folder[256], ct2[300], single[300];
static struct subject subjects[2];

static int setup(void **state)
{
    tiny_model_init(&model, 2, 20, 32);
    model.n_words = 300; /* a short vocabulary reads fast, and files may lack words */
    snprintf(folder, sizeof(folder), "%s", tiny_folder());
    snprintf(ct2, sizeof(ct2), "%s/ct2", folder);
    snprintf(single, sizeof(single), "%s/single.bin", folder);
    tiny_model_write_ct2(&model, ct2, true, &subjects[0].layout);
    tiny_model_write_ggml(&model, single, true, &subjects[1].layout);
    subjects[0].path = ct2;
    snprintf(subjects[0].file, sizeof(subjects[0].file), "%s/model.bin", ct2);
    subjects[1].path = single;
    snprintf(subjects[1].file, sizeof(subjects[1].file), "%s", single);
    for (int i = 0; i < 2; i++) {
        struct stat st;
        subjects[i].fd = open(subjects[i].file, O_RDWR | O_CLOEXEC);
        assert_true(subjects[i].fd >= 0);
        assert_int_equal(fstat(subjects[i].fd, &st), 0);
        subjects[i].size = st.st_size;
    }
    return 0;
}

static int teardown(void **state)
{
    for (int i = 0; i < 2; i++) {
        close(subjects[i].fd);
        tiny_layout_finish(&subjects[i].layout);
    }
    tiny_folder_remove(folder);
    tiny_model_finish(&model);
    return 0;
}

/* Opens it; a success is closed again. Checks that a refusal explains itself. */
static int open_damaged(const struct subject *s)
{
    struct weights *w = NULL;
    struct err err = {0};
    int r = weights_open(s->path, &w, &err);
    if (r < 0) {
        assert_null(w);
        assert_int_equal(err.code, r);
        if (strncmp(err.msg, s->path, strlen(s->path)) != 0 || strchr(err.msg, '\n'))
            fail_msg("\"%s\" does not name the file in one line", err.msg);
    }
    weights_close(w);
    return r;
}

static void copy_into(int fd, const void *bytes, size_t n, size_t offset)
{
    assert_int_equal(pwrite(fd, bytes, n, (off_t)offset), n);
}

static void read_from(int fd, void *bytes, size_t n, size_t offset)
{
    assert_int_equal(pread(fd, bytes, n, (off_t)offset), n);
}

static void truncated_at(const struct subject *s, off_t size)
{
    /* The tail is put back by extending the file with the bytes that were there. */
    size_t n = (size_t)(s->size - size);
    char *tail = malloc(n);
    read_from(s->fd, tail, n, (size_t)size);
    assert_int_equal(ftruncate(s->fd, size), 0);
    int r = open_damaged(s);
    copy_into(s->fd, tail, n, (size_t)size);
    free(tail);
    if (r != -EINVAL)
        fail_msg("cut to %lld of %lld bytes: %d", (long long)size, (long long)s->size, r);
}

static void truncation_anywhere_is_refused(void **state)
{
    for (int i = 0; i < 2; i++) {
        const struct subject *s = &subjects[i];
        for (int k = 0; k < s->layout.n; k++) {
            /* Tensors at a ggml file's end cannot be missed by it, but by the graph. */
            const struct tiny_field *f = &s->layout.fields[k];
            if (s->size - (off_t)f->offset > 2000000 && k > 60)
                continue; /* these copies would take most of the time */
            truncated_at(s, (off_t)f->offset);
            if (f->n_bytes > 1)
                truncated_at(s, (off_t)(f->offset + f->n_bytes / 2));
        }
        truncated_at(s, s->size - 1);
    }
}

/* Fields that may say something else without harm: a remark on the types, texts nobody needs, what may be missing. */
static bool may_change(const char *what)
{
    static const char *const names[] = {
        "ftype", "token", "alias", "target", "optional variable", "something/unknown"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (!strcmp(what, names[i]))
            return true;
    }
    return false;
}

static void every_lie_is_refused(void **state)
{
    for (int i = 0; i < 2; i++) {
        const struct subject *s = &subjects[i];
        for (int k = 0; k < s->layout.n; k++) {
            const struct tiny_field *f = &s->layout.fields[k];
            if (f->n_bytes == 0 || f->n_bytes > 64)
                continue;
            unsigned char truth[64], lie[64];
            read_from(s->fd, truth, f->n_bytes, f->offset);
            for (int kind = 0; kind < 6; kind++) {
                memcpy(lie, truth, f->n_bytes);
                size_t high = f->n_bytes - 1;
                if (kind == 0)
                    memset(lie, 0, f->n_bytes);
                else if (kind == 1)
                    memset(lie, 0xff, f->n_bytes);
                else if (kind == 2)
                    lie[0]++;
                else if (kind == 3)
                    lie[0]--;
                else if (kind == 4)
                    lie[high] ^= 0x40;
                else
                    lie[high] ^= 0x80;
                /* Half floats called bf16 have the same size: other numbers, but a sound file. */
                if (!memcmp(lie, truth, f->n_bytes) || (!strcmp(f->what, "type") && lie[0] == 5))
                    continue;
                copy_into(s->fd, lie, f->n_bytes, f->offset);
                int r = open_damaged(s);
                copy_into(s->fd, truth, f->n_bytes, f->offset);
                if (r == 0 && !may_change(f->what))
                    fail_msg("%s: a lie of kind %d in \"%s\" at byte %zu was believed", s->path, kind,
                             f->what, f->offset);
            }
        }
    }
}

/* Numbers are checked when they are read: one infinity or NaN among many is found, whatever its place. */
static void numbers_that_are_none_are_found(void **state)
{
    static const uint16_t odd[] = {0x7c00, 0xfc00, 0x7e00, 0x7c01};
    for (int i = 0; i < 2; i++) {
        const struct subject *s = &subjects[i];
        size_t n = 51864u * 128u, found = 0;
        float *values = malloc(n * sizeof(float));
        /* The embedding's data are the only place of the file that is followed by that many bytes. */
        for (int k = 0; k + 1 < s->layout.n; k++) {
            if (!strcmp(s->layout.fields[k].what, "data") &&
                s->layout.fields[k + 1].offset - s->layout.fields[k].offset >= n * 2)
                found = s->layout.fields[k].offset;
        }
        assert_true(found);
        const size_t places[] = {0, 31, 12345, n - 1};
        for (int k = 0; k < 4; k++) {
            uint16_t truth;
            size_t at = found + 2 * places[k];
            read_from(s->fd, &truth, 2, at);
            copy_into(s->fd, &odd[k], 2, at);
            struct weights *w = NULL;
            struct err err = {0};
            assert_int_equal(weights_open(s->path, &w, &err), 0);
            assert_int_equal(weights_read(w, "decoder.token_embedding.weight", values, n, &err), -EINVAL);
            assert_non_null(strstr(err.msg, "finite"));
            copy_into(s->fd, &truth, 2, at);
            assert_int_equal(weights_read(w, "decoder.token_embedding.weight", values, n, &err), 0);
            weights_close(w);
        }
        free(values);
    }
}

/* Random damage to the structure: any answer will do, no crash. */
static void random_damage_never_crashes(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 1);
    int refused = 0, rounds = 400;
    for (int round = 0; round < rounds; round++) {
        const struct subject *s = &subjects[round % 2];
        size_t offset[8], n = (size_t)test_rng_int(&rng, 1, 8);
        unsigned char truth[8];
        for (size_t i = 0; i < n; i++) {
            const struct tiny_field *f = &s->layout.fields[test_rng_int(&rng, 0, s->layout.n - 1)];
            offset[i] = f->offset + (f->n_bytes ? (size_t)test_rng_int(&rng, 0, (int)f->n_bytes - 1) : 0);
            read_from(s->fd, &truth[i], 1, offset[i]);
            unsigned char byte = (unsigned char)test_rng_next(&rng);
            copy_into(s->fd, &byte, 1, offset[i]);
        }
        refused += open_damaged(s) < 0;
        while (n-- > 0)
            copy_into(s->fd, &truth[n], 1, offset[n]);
    }
    assert_true(refused > rounds / 2);
    assert_int_equal(open_damaged(&subjects[0]), 0); /* and the files are whole again */
    assert_int_equal(open_damaged(&subjects[1]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(truncation_anywhere_is_refused),
        cmocka_unit_test(every_lie_is_refused),
        cmocka_unit_test(numbers_that_are_none_are_found),
        cmocka_unit_test(random_damage_never_crashes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
