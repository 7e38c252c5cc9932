/* The resampler: how the input is cut never matters, every sample is where it belongs, and none is missing. */
#include "tests/support/support.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "stream/resample.h"
#include "stream/ring.h"

#define FRAMES_MAX 200000
#define OUT_MAX    (FRAMES_MAX * 16 + 4096)

static float in[FRAMES_MAX * 8];
static float out[OUT_MAX], other[OUT_MAX];

/* Counts calls, to show that none is made where none may be. Sanitizers bring an allocator of their own. */
static long n_allocations;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
#define COUNTS_ALLOCATIONS 1
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
void *malloc(size_t size)
{
    n_allocations++;
    return __libc_malloc(size);
}
void *calloc(size_t n, size_t size)
{
    n_allocations++;
    return __libc_calloc(n, size);
}
#endif

static struct resampler *must_create(int rate, int channels)
{
    struct resampler *r;
    struct err err;
    assert_int_equal(resampler_create(rate, channels, &r, &err), 0);
    return r;
}

/* Gives n frames in pieces of at most max_piece, of random length if rng is given, and flushes. */
static int convert(struct resampler *r, const float *frames, int n, int channels, int max_piece,
                   struct test_rng *rng, float *to)
{
    int given = 0;
    for (int at = 0;;) {
        struct err err;
        int piece = rng ? test_rng_int(rng, 0, max_piece) : max_piece;
        piece = piece > n - at ? n - at : piece;
        bool last = at + piece == n;
        assert_true(given + resampler_output_max(r, piece) <= OUT_MAX);
        int got = resampler_run(r, frames + (size_t)at * (size_t)channels, piece, last, to + given, &err);
        assert_true(got >= 0 && got <= resampler_output_max(r, piece));
        given += got;
        at += piece;
        if (last)
            return given;
    }
}

static const int rates[] = {1000,  8000,  11025, 16000, 22050, 24000,  32000,
                            44056, 44100, 48000, 88200, 96000, 192000, 768000};
#define N_RATES ((int)(sizeof(rates) / sizeof(rates[0])))

static void pieces_do_not_matter(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (int round = 0; round < 40; round++) {
        int rate = round < N_RATES ? rates[round] : test_rng_int(&rng, 8000, 192000);
        int channels = test_rng_int(&rng, 1, 8), n = test_rng_int(&rng, 0, rate < 16000 ? 5000 : 20000);
        int max_piece = test_rng_int(&rng, 1, 3) == 1 ? test_rng_int(&rng, 1, 20) : RESAMPLER_FRAMES_MAX;
        for (int i = 0; i < n * channels; i++)
            in[i] = test_rng_normal(&rng) * 0.2f;
        struct resampler *r = must_create(rate, channels);
        int whole = convert(r, in, n, channels, RESAMPLER_FRAMES_MAX, NULL, out);
        int pieces = convert(r, in, n, channels, max_piece, &rng, other);
        assert_int_equal(whole, llround((double)n * SAMPLE_RATE / rate));
        assert_int_equal(pieces, whole);
        assert_memory_equal(out, other, (size_t)whole * sizeof(float));
        resampler_destroy(r);
    }
}

/* Output k is the input at k / 16000 s. A hundredth of a sample of delay would be an error of 2e-3 at 1 kHz; libsamplerate
 * promises 121 dB (1e-6) of noise in the pass band, and f32 sums add the rest. */
static void samples_are_where_they_belong(void **state)
{
    static const double tones[] = {100.0, 1000.0, 3000.0};
    for (int i = 0; i < N_RATES; i++) {
        int rate = rates[i], n = rate / 2 < FRAMES_MAX ? rate / 2 : FRAMES_MAX;
        for (size_t t = 0; t < 3; t++) {
            if (tones[t] > 0.4 * rate)
                continue;
            double turn = 2.0 * M_PI * tones[t];
            for (int k = 0; k < n; k++)
                in[k] = (float)(0.5 * sin(turn * k / rate));
            struct resampler *r = must_create(rate, 1);
            int got = convert(r, in, n, 1, 1000, NULL, out);
            double worst = 0.0;
            for (int k = got / 4; k < got * 3 / 4; k++)
                worst = fmax(worst, fabs(out[k] - 0.5 * sin(turn * k / SAMPLE_RATE)));
            if (worst > 2e-5)
                print_error("%d Hz, %g Hz tone: %g\n", rate, tones[t], worst);
            assert_true(worst < 2e-5);
            resampler_destroy(r);
        }
    }
}

/* What 16 kHz cannot hold must not fold back into speech. */
static void nothing_folds_back(void **state)
{
    for (int k = 0; k < 48000; k++)
        in[k] = (float)sin(2.0 * M_PI * 12000.0 * k / 48000);
    struct resampler *r = must_create(48000, 1);
    int got = convert(r, in, 48000, 1, 4096, NULL, out);
    for (int k = 1000; k < got - 1000; k++)
        assert_true(fabsf(out[k]) < 1e-4f);
    resampler_destroy(r);
}

static void sixteen_kilohertz_pass_untouched(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 2);
    for (int i = 0; i < 50000; i++)
        in[i] = test_rng_normal(&rng);
    struct resampler *r = must_create(SAMPLE_RATE, 1);
    assert_int_equal(convert(r, in, 50000, 1, 4096, &rng, out), 50000);
    assert_memory_equal(in, out, 50000 * sizeof(float));
    resampler_destroy(r);
}

static void channels_are_averaged(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 3);
    float *mono = in + 40000;
    for (int i = 0; i < 10000; i++) {
        float a = test_rng_normal(&rng), b = test_rng_normal(&rng);
        in[4 * i] = a;
        in[4 * i + 1] = b;
        in[4 * i + 2] = -a;
        in[4 * i + 3] = 3.0f * b;
        mono[i] = b; /* (a + b − a + 3b) / 4 */
    }
    struct resampler *four = must_create(48000, 4), *one = must_create(48000, 1);
    int n = convert(four, in, 10000, 4, 999, NULL, out);
    assert_int_equal(convert(one, mono, 10000, 1, 999, NULL, other), n);
    for (int i = 0; i < n; i++)
        assert_true(fabsf(out[i] - other[i]) < 1e-5f);
    resampler_destroy(four);
    resampler_destroy(one);
}

/* A file may hold anything. The damage must end where the broken samples end. */
static void broken_samples_do_no_lasting_harm(void **state)
{
    static const int some_rates[] = {16000, 48000};
    for (size_t i = 0; i < 2; i++) {
        struct resampler *r = must_create(some_rates[i], 1);
        for (int k = 0; k < 20000; k++)
            in[k] = 0.25f;
        in[5000] = NAN;
        in[5001] = INFINITY;
        in[5002] = -INFINITY;
        in[5003] = 1e38f;
        int n = convert(r, in, 20000, 1, 4096, NULL, out);
        for (int k = 0; k < n; k++)
            assert_true(fabsf(out[k]) <= 2000.0f); /* false for a NaN */
        for (int k = n / 2; k < n * 3 / 4; k++)
            assert_true(fabsf(out[k] - 0.25f) < 1e-4f);
        resampler_destroy(r);
    }
}

static void reset_forgets(void **state)
{
    struct resampler *r = must_create(44100, 1);
    struct err err;
    for (int k = 0; k < 8000; k++)
        in[k] = sinf((float)k * 0.05f);
    int n = convert(r, in, 4000, 1, 4000, NULL, out);
    resampler_run(r, in + 4000, 4000, false, other, &err);
    resampler_reset(r);
    assert_int_equal(convert(r, in, 4000, 1, 4000, NULL, other), n);
    assert_memory_equal(out, other, (size_t)n * sizeof(float));
    resampler_destroy(r);
}

static void takes_memory_only_when_created(void **state)
{
    struct resampler *r = must_create(44100, 2);
    struct err err;
    long before = n_allocations;
    for (int i = 0; i < 100; i++)
        resampler_run(r, in, 1 + i * 40, i == 99, out, &err);
    resampler_reset(r);
    long after = n_allocations;
    resampler_destroy(r);
#ifdef COUNTS_ALLOCATIONS
    assert_true(before > 0);
#endif
    assert_int_equal(after, before);
}

static void refuses_what_it_cannot_do(void **state)
{
    struct resampler *r = NULL;
    struct err err;
    assert_int_equal(resampler_create(999, 1, &r, &err), -EINVAL);
    assert_int_equal(resampler_create(768001, 1, &r, &err), -EINVAL);
    assert_int_equal(resampler_create(48000, 0, &r, &err), -EINVAL);
    assert_int_equal(resampler_create(48000, 65, &r, &err), -EINVAL);
    assert_null(r);
    r = must_create(48000, 64);
    assert_int_equal(resampler_run(r, in, RESAMPLER_FRAMES_MAX + 1, false, out, &err), -EINVAL);
    assert_int_equal(resampler_run(r, in, -1, false, out, &err), -EINVAL);
    resampler_destroy(r);
    resampler_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_do_not_matter),
        cmocka_unit_test(samples_are_where_they_belong),
        cmocka_unit_test(nothing_folds_back),
        cmocka_unit_test(sixteen_kilohertz_pass_untouched),
        cmocka_unit_test(channels_are_averaged),
        cmocka_unit_test(broken_samples_do_no_lasting_harm),
        cmocka_unit_test(reset_forgets),
        cmocka_unit_test(takes_memory_only_when_created),
        cmocka_unit_test(refuses_what_it_cannot_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
