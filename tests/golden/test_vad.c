/* The voice gate's network against onnxruntime's probabilities of the same recording (vad.py). */
#include "tests/support/support.h"

#include <math.h>

#include "stream/ring.h"
#include "stream/source.h"
#include "stream/vad.h"

#define FRAMES_MAX 1000

static float pcm[FRAMES_MAX * VAD_FRAME];
static float expected[FRAMES_MAX];
static int n_expected;

static int load(void **state)
{
    struct source *source;
    struct err err;
    assert_int_equal(source_open("file:tests/fixtures/speech.flac", &source, &err), 0);
    assert_int_equal(source->info.rate, SAMPLE_RATE);
    assert_int_equal(source->info.channels, 1);
    int n = 0, got;
    while ((got = source->v->read(source, pcm + n, FRAMES_MAX * VAD_FRAME - n, 0, &err)) > 0)
        n += got;
    source->v->close(source);

    FILE *f = fopen("tests/golden/vad.txt", "r");
    assert_non_null(f);
    while (n_expected < FRAMES_MAX && fscanf(f, "%f", &expected[n_expected]) == 1)
        n_expected++;
    fclose(f);
    assert_int_equal(n_expected, n / VAD_FRAME);
    return 0;
}

/* Two orders of summing 129 × 3 and 2 × 128 products in f32, then 490 frames of recurrence: 5e-6 was seen. */
static void probabilities_are_the_reference_s(void **state)
{
    struct vad vad;
    double worst = 0.0;
    int n_speech = 0;
    vad_init(&vad);
    for (int i = 0; i < n_expected; i++) {
        float p = vad_process(&vad, pcm + i * VAD_FRAME);
        worst = fmax(worst, fabs((double)p - expected[i]));
        n_speech += expected[i] > 0.5f;
    }
    printf("%d frames, %d of speech, largest difference %.2e\n", n_expected, n_speech, worst);
    assert_true(worst < 1e-4);
    assert_in_range(n_speech, 100, n_expected - 100);
}

/* Frames carry state, so the same recording must give other probabilities when it is met halfway. */
static void state_carries_over(void **state)
{
    struct vad a, b;
    vad_init(&a);
    vad_init(&b);
    int differ = 0;
    for (int i = 0; i < n_expected; i++) {
        float p = vad_process(&a, pcm + i * VAD_FRAME);
        if (i >= n_expected / 2)
            differ += vad_process(&b, pcm + i * VAD_FRAME) != p;
    }
    assert_true(differ > 0);
    vad_init(&a);
    vad_init(&b);
    for (int i = 0; i < 20; i++)
        assert_true(vad_process(&a, pcm + i * VAD_FRAME) == vad_process(&b, pcm + i * VAD_FRAME));
}

/* Silence, full-scale noise, and values no microphone gives must leave a probability, not a NaN. */
static void extremes_stay_probabilities(void **state)
{
    struct test_rng rng;
    struct vad vad;
    float frame[VAD_FRAME];
    test_rng_init(&rng, 1);
    vad_init(&vad);
    for (int i = 0; i < 200; i++) {
        float scale = i % 4 == 0 ? 0.0f : i % 4 == 1 ? 1.0f : i % 4 == 2 ? 1000.0f : 1e-30f;
        for (int k = 0; k < VAD_FRAME; k++)
            frame[k] = scale * (test_rng_uniform(&rng) * 2.0f - 1.0f);
        float p = vad_process(&vad, frame);
        assert_true(p >= 0.0f && p <= 1.0f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probabilities_are_the_reference_s),
        cmocka_unit_test(state_carries_over),
        cmocka_unit_test(extremes_stay_probabilities),
    };
    return cmocka_run_group_tests(tests, load, NULL);
}
