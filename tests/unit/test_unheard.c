/* Text that nobody said: what hallucination_unheard drops, by the voice that was heard and by the model's own doubt. */
#include "tests/support/support.h"

#include "decoder/hallucination.h"

#define SECOND 16000

static const struct quality_limits limits = {
    .compression_ratio = 2.4f, .avg_logprob = -1.0f, .no_speech_prob = 0.6f};
static const struct quality sure = {.avg_logprob = -0.3f, .no_speech_prob = 0.1f};
static const struct quality improbable = {.avg_logprob = -1.5f, .no_speech_prob = 0.4f};
static const struct quality silent = {.avg_logprob = -0.3f, .no_speech_prob = 0.9f};

/* Ten seconds with short sounds that the gate takes for a voice, as music has them: 1.5 s in all, 5 s with margins. */
static const struct longform_region sounds[] = {
    {SECOND / 2, SECOND * 5 / 4}, {4 * SECOND, SECOND * 17 / 4}, {SECOND * 17 / 2, 9 * SECOND}};

static bool unheard(const struct longform_region *spans, int n, const struct quality *q)
{
    return hallucination_unheard(spans, n, 0, 10 * SECOND, true, q, &limits);
}

static void text_that_the_model_believes_in_stays(void **state)
{
    assert_false(unheard(sounds, 3, &sure));
    assert_false(unheard(NULL, 0, &sure));
}

static void doubtful_text_goes_where_nobody_was_heard(void **state)
{
    assert_true(unheard(NULL, 0, &silent));
    assert_true(unheard(NULL, 0, &improbable));
    assert_false(unheard(sounds, 3, &silent));
}

static void improbable_text_needs_a_voice_for_a_quarter_of_its_time(void **state)
{
    static const struct longform_region enough[] = {{SECOND, SECOND * 7 / 2}},
                                        less[] = {{SECOND, SECOND * 7 / 2 - 1}};
    assert_true(unheard(sounds, 3, &improbable));
    assert_false(unheard(enough, 1, &improbable));
    assert_true(unheard(less, 1, &improbable));
}

/* The times of text without timestamps are the window's, in which a sentence may be short. */
static void text_without_times_needs_a_voice_near_it(void **state)
{
    assert_false(hallucination_unheard(sounds, 3, 0, 10 * SECOND, false, &improbable, &limits));
    assert_true(hallucination_unheard(sounds, 1, 0, 30 * SECOND, false, &improbable, &limits));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_that_the_model_believes_in_stays),
        cmocka_unit_test(doubtful_text_goes_where_nobody_was_heard),
        cmocka_unit_test(improbable_text_needs_a_voice_for_a_quarter_of_its_time),
        cmocka_unit_test(text_without_times_needs_a_voice_near_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
