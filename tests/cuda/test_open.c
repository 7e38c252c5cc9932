/* What the CUDA engine says where it cannot run: no driver, too old a driver, no GPU, too old a GPU, other versions, too
 * little memory. */
#include "tests/support/support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/cuda/plugin.h"

int captiond_cuda_open(const struct cuda_plugin_terms *, const struct engine_options *, struct engine **,
                       struct err *);
/* tests/cuda/harness/device.cpp: version of the driver, what cudaGetDeviceCount returns, compute capability, bytes (0: many) */
void harness_machine(int driver, int error_of_count, int major, size_t memory);
unsigned harness_device_flags(void); /* that were set */

bool harness_is_reset(void); /* cudaDeviceReset, and nothing since */

enum {
    SUCCESS = 0,
    INSUFFICIENT_DRIVER = 35,
    UNAVAILABLE = 46,
    NO_DEVICE = 100,
    DRIVER_MISMATCH = 803,
    UNKNOWN = 999,
    GOOD = 99000
};

static const struct engine_options options = {.n_mels = 80};

static void expect_refusal(const struct cuda_plugin_terms *terms, const struct engine_options *o, int code,
                           const char *words)
{
    struct engine *e = NULL;
    struct err err = {0};
    assert_int_equal(captiond_cuda_open(terms, o, &e, &err), code);
    assert_null(e);
    assert_int_equal(err.code, code);
    if (!strstr(err.msg, words))
        fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
}

static void test_machines(void **state)
{
    static const struct {
        int driver, count, major, code;
        size_t memory;
        const char *words;
    } cases[] = {
        {0, INSUFFICIENT_DRIVER, 8, -ENODEV, 0, "no NVIDIA driver"},
        {12020, INSUFFICIENT_DRIVER, 8, -ENODEV, 0, "knows CUDA up to 12.2"},
        {12030, SUCCESS, 8, -ENODEV, 0, "knows CUDA up to 12.3"},
        {GOOD, NO_DEVICE, 8, -ENODEV, 0, "no NVIDIA GPU"},
        {GOOD, DRIVER_MISMATCH, 8, -EIO, 0, "restart the computer"},
        {GOOD, UNKNOWN, 8, -EIO, 0, "nvidia-modprobe"},
        {GOOD, UNAVAILABLE, 8, -EIO, 0, "another program"},
        {GOOD, SUCCESS, 6, -ENODEV, 0, "too old"},
        {GOOD, SUCCESS, 8, -ENOMEM, 1 << 20, "no memory for attention"},
        {GOOD, SUCCESS, 8, -ENOMEM, 8 << 20, "spectrogram"},
    };
    const struct cuda_plugin_terms terms = cuda_plugin_ours();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        harness_machine(cases[i].driver, cases[i].count, cases[i].major, cases[i].memory);
        expect_refusal(&terms, &options, cases[i].code, cases[i].words);
    }
    harness_machine(GOOD, SUCCESS, 8, 0);
}

static void test_terms(void **state)
{
    const struct engine_options single = {.n_mels = 80, .precision = PRECISION_F32};
    struct cuda_plugin_terms terms = cuda_plugin_ours();
    expect_refusal(&terms, &single, -ENOTSUP, "half precision");
    terms.vtable_bytes++;
    expect_refusal(&terms, &options, -ENOTSUP, "of version");
    terms = cuda_plugin_ours();
    terms.others++;
    expect_refusal(&terms, &options, -ENOTSUP, "of version");
}

/* A daemon's waits leave the processor to others: cudaDeviceScheduleBlockingSync. */
static void test_waits(void **state)
{
    const struct cuda_plugin_terms terms = cuda_plugin_ours();
    for (int yields = 0; yields < 2; yields++) {
        struct engine *e = NULL;
        struct err err = {0};
        assert_int_equal(
            captiond_cuda_open(&terms, &(struct engine_options){.n_mels = 80, .yields = yields}, &e, &err),
            0);
        assert_int_equal(harness_device_flags(), yields ? 4 : 0);
        e->v->destroy(e);
    }
}

/* What CUDA has for itself is given back with the last engine, and by one that cannot start. */
static void test_gives_back(void **state)
{
    const struct cuda_plugin_terms terms = cuda_plugin_ours();
    struct engine *e[2] = {0};
    struct err err = {0};
    for (int i = 0; i < 2; i++)
        assert_int_equal(captiond_cuda_open(&terms, &options, &e[i], &err), 0);
    engine_close(e[0]);
    assert_false(harness_is_reset());
    engine_close(e[1]);
    assert_true(harness_is_reset());
    harness_machine(GOOD, SUCCESS, 8, 8 << 20);
    expect_refusal(&terms, &options, -ENOMEM, "spectrogram");
    assert_true(harness_is_reset());
    harness_machine(GOOD, SUCCESS, 8, 0);
}

/* An engine that is open and finds no more memory goes on with what it has. */
static void test_little_memory(void **state)
{
    const struct cuda_plugin_terms terms = cuda_plugin_ours();
    struct engine *e = NULL;
    struct engine_weight *w = NULL;
    struct engine_kv *kv = NULL;
    struct err err = {0};
    float *values = calloc(1 << 22, sizeof(float));
    harness_machine(GOOD, SUCCESS, 8, 14 << 20);
    assert_int_equal(captiond_cuda_open(&terms, &options, &e, &err), 0);
    assert_int_equal(e->v->weight_create(e, WEIGHT_ROWS, 1 << 11, 1 << 11, values, &w, &err), -ENOMEM);
    assert_non_null(strstr(err.msg, "the GPU's 14 MB"));
    assert_int_equal(e->v->kv_create(e, 6, 4, 1500, 8, &kv, &err), -ENOMEM);
    assert_null(e->v->alloc(e, 1 << 24, &err));
    assert_int_equal(err.code, -ENOMEM);
    assert_non_null(strstr(err.msg, "the GPU's 14 MB"));
    assert_int_equal(e->v->weight_create(e, WEIGHT_ROWS, 8, 8, values, &w, &err), 0);
    values[5] = 1e6f;
    struct engine_weight *large = NULL;
    assert_int_equal(e->v->weight_create(e, WEIGHT_ROWS, 8, 8, values, &large, &err), -ERANGE);
    e->v->weight_destroy(e, w);
    assert_int_equal(e->v->wait(e, &err), 0);
    engine_close(e);
    harness_machine(GOOD, SUCCESS, 8, 0);
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_machines),   cmocka_unit_test(test_terms),         cmocka_unit_test(test_waits),
        cmocka_unit_test(test_gives_back), cmocka_unit_test(test_little_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
