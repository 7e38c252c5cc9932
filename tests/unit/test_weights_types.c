/* Number types of model files: each against a decoder of the test's own, and against ggml itself. */
#include "tests/support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu/weights.h"
#include "tests/support/blocks.h"
#include "tests/support/tiny_model.h"

#define MATRIX   "encoder.blocks.0.mlp.0.weight"
#define N_MATRIX ((size_t)512 * 128)
#define N_BLOCKS (N_MATRIX / 32)

static struct tiny_model model;
static char folder[256];
static struct subject {
    char path[300];
    struct tiny_layout layout;
} subjects[N_BLOCK_TYPES];
static float values[N_MATRIX];

static int setup(void **state)
{
    tiny_model_init(&model, 5, 20, 32);
    model.n_words = 300;
    snprintf(folder, sizeof(folder), "%s", tiny_folder());
    for (int k = 0; k < N_BLOCK_TYPES; k++) {
        snprintf(subjects[k].path, sizeof(subjects[k].path), "%s/%s.bin", folder, block_types[k].name);
        tiny_model_write_blocks(&model, subjects[k].path, &block_types[k], &subjects[k].layout);
    }
    return 0;
}

static int teardown(void **state)
{
    for (int k = 0; k < N_BLOCK_TYPES; k++)
        tiny_layout_finish(&subjects[k].layout);
    tiny_folder_remove(folder);
    tiny_model_finish(&model);
    return 0;
}

/* Where the numbers of tensor number `index` of the model begin in the file. */
static size_t data_offset(const struct tiny_layout *layout, int index)
{
    for (int i = 0; i < layout->n; i++) {
        if (!strcmp(layout->fields[i].what, "data") && index-- == 0)
            return layout->fields[i].offset;
    }
    fail();
    return 0;
}

static int index_of(const char *name)
{
    int i = 0;
    while (strcmp(model.tensors[i].name, name) != 0)
        i++;
    return i;
}

static void read_back(const struct subject *s, const char *name, float *dst, size_t n)
{
    struct weights *w = NULL;
    struct err err = {0};
    if (weights_open(s->path, &w, &err) < 0 || weights_read(w, name, dst, n, &err) < 0)
        fail_msg("%s", err.msg);
    weights_close(w);
}

static void overwrite(const struct subject *s, size_t offset, const void *bytes, size_t n)
{
    int fd = open(s->path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, bytes, n, (off_t)offset), n);
    close(fd);
}

static void quantised_tensors_are_near_what_they_were(void **state)
{
    for (int k = 0; k < N_BLOCK_TYPES; k++) {
        const struct block_type *type = &block_types[k];
        for (int i = 0; i < model.n_tensors; i++) {
            const struct tiny_tensor *t = &model.tensors[i];
            size_t n = (size_t)t->dims[0] * (size_t)(t->n_dims > 1 ? t->dims[1] : 1);
            if (t->n_dims > 2 || n > N_MATRIX)
                continue;
            read_back(&subjects[k], t->name, values, n);
            bool quantised = t->n_dims == 2 && !strstr(t->name, "positional");
            for (size_t j = 0; j < n; j++) {
                double bound = quantised ? block_error_bound(type, t->values + j / 32 * 32) : 0.0;
                if (fabs((double)values[j] - (double)t->values[j]) > bound)
                    fail_msg("%s: number %zu of %s is %g instead of %g", type->name, j, t->name,
                             (double)values[j], (double)t->values[j]);
            }
        }
    }
}

/* Random blocks, the numbers of which are all that a type can say. The products and sums are exact in double
 * precision, so rounding them to f32 once is what f32 arithmetic does. */
static void every_block_is_decoded_as_bit_by_bit(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (int k = 0; k < N_BLOCK_TYPES; k++) {
        const struct block_type *type = &block_types[k];
        unsigned char blocks[N_BLOCKS * BLOCK_BYTES_MAX];
        size_t bytes = (size_t)type->n_bytes;
        for (size_t i = 0; i < N_BLOCKS * bytes; i++)
            blocks[i] = (unsigned char)test_rng_next(&rng);
        for (size_t i = 0; i < N_BLOCKS; i++) {
            for (int half = 0; half < 1 + type->has_least; half++) {
                unsigned char *high = &blocks[i * bytes + 2 * (size_t)half + 1];
                if ((*high & 0x7c) == 0x7c)
                    *high ^= 0x40; /* neither infinity nor NaN */
            }
        }
        overwrite(&subjects[k], data_offset(&subjects[k].layout, index_of(MATRIX)), blocks, N_BLOCKS * bytes);
        read_back(&subjects[k], MATRIX, values, N_MATRIX);
        for (size_t i = 0; i < N_BLOCKS; i++) {
            double expected[32];
            block_dequantise(type, blocks + i * bytes, expected);
            for (size_t j = 0; j < 32; j++) {
                if (values[32 * i + j] != (float)expected[j])
                    fail_msg("%s: number %zu of block %zu is %g instead of %g", type->name, j, i,
                             (double)values[32 * i + j], expected[j]);
            }
        }
    }
}

/* Blocks and numbers as ggml decodes them, bit for bit; tools/golden/ggml_blocks.py wrote them. */
static void blocks_are_decoded_as_by_ggml(void **state)
{
    FILE *golden = fopen("tests/golden/ggml_blocks.txt", "re");
    assert_non_null(golden);
    int n_lines = 0;
    char name[8], hex[2 * BLOCK_BYTES_MAX + 1];
    for (; fscanf(golden, "%7s %68s", name, hex) == 2; n_lines++) {
        int k = 0;
        while (strcmp(block_types[k].name, name) != 0)
            k++;
        unsigned char block[BLOCK_BYTES_MAX];
        size_t bytes = (size_t)block_types[k].n_bytes;
        assert_int_equal(strlen(hex), 2 * bytes);
        for (size_t i = 0; i < bytes; i++) {
            const char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};
            block[i] = (unsigned char)strtoul(digits, NULL, 16);
        }
        overwrite(&subjects[k], data_offset(&subjects[k].layout, index_of(MATRIX)), block, bytes);
        read_back(&subjects[k], MATRIX, values, N_MATRIX);
        for (int i = 0; i < 32; i++) {
            char number[16];
            uint32_t bits;
            assert_int_equal(fscanf(golden, "%15s", number), 1);
            memcpy(&bits, &values[i], sizeof(bits));
            if (bits != strtoul(number, NULL, 16))
                fail_msg("%s, line %d, number %d: %08x instead of %s", name, n_lines + 1, i, bits, number);
        }
    }
    fclose(golden);
    assert_int_equal(n_lines, 85);
}

/* A scale that is no number, in any block, is found and its place is named. */
static void scales_that_are_no_numbers_are_found(void **state)
{
    for (int k = 0; k < N_BLOCK_TYPES; k++) {
        for (int half = 0; half < 1 + block_types[k].has_least; half++) {
            const struct subject *s = &subjects[k];
            struct weights *w = NULL;
            struct err err = {0};
            char place[64];
            tiny_model_write_blocks(&model, s->path, &block_types[k], NULL);
            size_t block = data_offset(&s->layout, index_of(MATRIX)) + 777 * (size_t)block_types[k].n_bytes;
            overwrite(s, block + 2 * (size_t)half, "\x01\x7c", 2);
            assert_int_equal(weights_open(s->path, &w, &err), 0);
            assert_int_equal(weights_read(w, MATRIX, values, N_MATRIX, &err), -EINVAL);
            snprintf(place, sizeof(place), "at byte %zu", block);
            if (!strstr(err.msg, place) || !strstr(err.msg, MATRIX))
                fail_msg("\"%s\" does not name byte %zu", err.msg, block);
            weights_close(w);
        }
    }
}

static void old_layouts_and_unknown_types_are_refused(void **state)
{
    static const struct {
        int ftype, type;
        const char *says;
    } cases[] = {
        {2, 2, "layout 0"}, {1002, 2, "layout 1"}, {2012, 12, "q4_K"},
        {2002, 4, "q4_2"},  {2002, 99, "unknown"},
    };
    const struct subject *s = &subjects[0];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int n_types = 0;
        for (int k = 0; k < s->layout.n; k++) {
            const struct tiny_field *f = &s->layout.fields[k];
            if (!strcmp(f->what, "ftype"))
                overwrite(s, f->offset, &cases[i].ftype, 4);
            if (!strcmp(f->what, "type") && n_types++ == index_of(MATRIX))
                overwrite(s, f->offset, &cases[i].type, 4);
        }
        struct weights *w = NULL;
        struct err err = {0};
        assert_int_equal(weights_open(s->path, &w, &err), -EINVAL);
        if (!strstr(err.msg, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", err.msg, cases[i].says);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantised_tensors_are_near_what_they_were),
        cmocka_unit_test(every_block_is_decoded_as_bit_by_bit),
        cmocka_unit_test(blocks_are_decoded_as_by_ggml),
        cmocka_unit_test(scales_that_are_no_numbers_are_found),
        cmocka_unit_test(old_layouts_and_unknown_types_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
