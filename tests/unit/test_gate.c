/* The gate's rules, by scripted probabilities: '9' is p = 0.9, '0' is p = 0. Frame k covers samples k · 512 on. */
#include "tests/support/support.h"

#include <string.h>

#include "stream/gate.h"
#include "stream/ring.h"

#define MS         (SAMPLE_RATE / 1000)
#define EVENTS_MAX 64

static const struct gate_options usual = {.enabled = true,
                                          .threshold = 0.5f,
                                          .min_speech_ms = 100,
                                          .min_silence_ms = 600,
                                          .pre_roll_ms = 400,
                                          .pad_ms = 200};

struct script {
    struct gate gate;
    int n_frames; /* judged so far */
    struct gate_event events[EVENTS_MAX];
    int frame[EVENTS_MAX]; /* in which each became known */
    int n_events;
};

static void begin(struct script *s, const struct gate_options *options)
{
    memset(s, 0, sizeof(*s));
    gate_init(&s->gate, options, 0);
}

static void play(struct script *s, char digit, int n)
{
    while (n-- > 0) {
        struct gate_event event;
        gate_judge(&s->gate, (float)(digit - '0') * 0.1f, (int64_t)s->n_frames * VAD_FRAME, &event);
        s->gate.position = (int64_t)(s->n_frames + 1) * VAD_FRAME;
        if (event.type != GATE_NONE) {
            assert_true(s->n_events < EVENTS_MAX);
            s->frame[s->n_events] = s->n_frames;
            s->events[s->n_events++] = event;
        }
        s->n_frames++;
    }
}

static void expect(const struct script *s, int i, enum gate_event_type type, int64_t at, int frame)
{
    assert_true(i < s->n_events);
    assert_int_equal(s->events[i].type, type);
    assert_int_equal(s->events[i].at, at);
    assert_int_equal(s->frame[i], frame);
}

static void opens_with_pre_roll_and_closes_with_padding(void **state)
{
    struct script s;
    begin(&s, &usual);
    play(&s, '0', 50);
    play(&s, '9', 30);
    play(&s, '0', 50);
    assert_int_equal(s.n_events, 2);
    /* 100 ms are 3.1 frames: known in the fourth */
    expect(&s, 0, GATE_START, 50 * VAD_FRAME - 400 * MS, 53);
    /* 600 ms are 18.75 frames */
    expect(&s, 1, GATE_END, 80 * VAD_FRAME + 200 * MS, 80 + 18);
}

static void short_bursts_open_nothing(void **state)
{
    struct script s;
    begin(&s, &usual);
    for (int i = 0; i < 10; i++) {
        play(&s, '9', 3);
        play(&s, '0', 1);
    }
    assert_int_equal(s.n_events, 0);
    play(&s, '9', 4);
    assert_int_equal(s.n_events, 1);
}

static void short_gaps_merge(void **state)
{
    struct script s;
    begin(&s, &usual);
    for (int i = 0; i < 5; i++) {
        play(&s, '9', 10);
        play(&s, '0', 18); /* 576 ms */
    }
    assert_int_equal(s.n_events, 1);
    play(&s, '0', 1);
    assert_int_equal(s.n_events, 2);
}

static void the_band_holds_what_was(void **state)
{
    struct script s;
    begin(&s, &usual);
    play(&s, '4', 100);
    assert_int_equal(s.n_events, 0); /* silence stays silence */
    play(&s, '9', 5);
    play(&s, '4', 100); /* speech stays speech */
    assert_int_equal(s.n_events, 1);
    play(&s, '3', 1);
    play(&s, '4', 40); /* … and silence again, even where the utterance is open */
    assert_int_equal(s.n_events, 2);
    expect(&s, 1, GATE_END, 205 * VAD_FRAME + 200 * MS, 205 + 18);
}

static void a_burst_must_be_sure(void **state)
{
    struct script s;
    begin(&s, &usual);
    play(&s, '6', 10);
    play(&s, '0', 1);
    assert_int_equal(s.n_events, 0);
    play(&s, '6', 10);
    play(&s, '8', 1); /* one sure frame tells the whole burst */
    assert_int_equal(s.n_events, 1);
    expect(&s, 0, GATE_START, 0, 21);

    begin(&s, &usual);
    play(&s, '0', 100);
    play(&s, '6', 16); /* 512 ms */
    assert_int_equal(s.n_events, 1);
    expect(&s, 0, GATE_START, 100 * VAD_FRAME - 400 * MS, 115);

    begin(&s, &usual);
    play(&s, '9', 1); /* another burst's certainty does not count */
    play(&s, '0', 1);
    play(&s, '6', 10);
    assert_int_equal(s.n_events, 0);
}

/* threshold + 0.2 would be more than 1: half the way up, 0.95, is what 0.96 and not 0.94 reaches. */
static void a_high_threshold_can_be_sure(void **state)
{
    static const struct {
        float peak;
        int n_events;
    } cases[] = {{0.94f, 0}, {0.96f, 1}};
    struct gate_options strict = usual;
    strict.threshold = 0.9f;
    for (size_t i = 0; i < 2; i++) {
        struct gate gate;
        struct gate_event event;
        int n_events = 0;
        gate_init(&gate, &strict, 0);
        for (int frame = 0; frame < 10; frame++) {
            gate_judge(&gate, frame == 5 ? cases[i].peak : 0.91f, (int64_t)frame * VAD_FRAME, &event);
            n_events += event.type == GATE_START;
        }
        assert_int_equal(n_events, cases[i].n_events);
    }
}

static void pre_roll_ends_at_the_last_end(void **state)
{
    struct script s;
    begin(&s, &usual);
    play(&s, '9', 10);
    expect(&s, 0, GATE_START, 0, 3); /* nor before the stream */
    play(&s, '0', 20);
    play(&s, '9', 4);
    assert_int_equal(s.n_events, 3);
    assert_int_equal(s.events[1].at, 10 * VAD_FRAME + 200 * MS);
    assert_int_equal(s.events[2].at, 30 * VAD_FRAME - 400 * MS); /* far enough */

    struct gate_options wide = usual;
    wide.pre_roll_ms = 1000;
    begin(&s, &wide);
    play(&s, '9', 10);
    play(&s, '0', 20);
    play(&s, '9', 4);
    assert_int_equal(s.events[2].at, s.events[1].at);
}

static void padding_never_reaches_into_the_future(void **state)
{
    struct gate_options eager = usual;
    struct script s;
    eager.min_silence_ms = 100;
    eager.pad_ms = 1000;
    begin(&s, &eager);
    play(&s, '9', 10);
    play(&s, '0', 4);
    assert_int_equal(s.n_events, 2);
    expect(&s, 1, GATE_END, 14 * VAD_FRAME, 13);
}

static void the_end_closes(void **state)
{
    struct script s;
    struct gate_event event;
    begin(&s, &usual);
    gate_finish(&s.gate, &event);
    assert_int_equal(event.type, GATE_NONE);

    play(&s, '9', 10);
    gate_finish(&s.gate, &event);
    assert_int_equal(event.type, GATE_END);
    assert_int_equal(event.at, 10 * VAD_FRAME);
    gate_finish(&s.gate, &event);
    assert_int_equal(event.type, GATE_NONE);

    begin(&s, &usual); /* in the hangover the padding still holds */
    play(&s, '9', 10);
    play(&s, '0', 15);
    gate_finish(&s.gate, &event);
    assert_int_equal(event.type, GATE_END);
    assert_int_equal(event.at, 10 * VAD_FRAME + 200 * MS);
}

/* 100 samples of silence close it, in a frame that is only complete with the zeros after the end. */
static void the_last_frame_does_not_outlast_the_input(void **state)
{
    static const float zeros[100];
    struct gate_options eager = usual;
    struct script s;
    struct gate_event event;
    eager.min_silence_ms = 20;
    eager.pad_ms = 1000;
    begin(&s, &eager);
    play(&s, '9', 10);
    assert_int_equal(gate_process(&s.gate, zeros, 100, &event), 100);
    assert_int_equal(event.type, GATE_NONE);
    gate_finish(&s.gate, &event);
    assert_int_equal(event.type, GATE_END);
    assert_int_equal(event.at, 10 * VAD_FRAME + 100);
    assert_false(s.gate.speaking);
    gate_finish(&s.gate, &event);
    assert_int_equal(event.type, GATE_NONE);
}

static void without_a_gate_all_is_one_utterance(void **state)
{
    static const float zeros[3000];
    struct gate gate;
    struct gate_event event;
    const struct gate_options off = {.enabled = false};
    gate_init(&gate, &off, 777);
    int64_t position = 777;
    int n_events = 0;
    for (int i = 0; i < 10; i++) {
        for (int at = 0; at < 3000;) {
            int used = gate_process(&gate, zeros + at, 3000 - at, &event);
            assert_in_range(used, 1, 3000 - at);
            at += used;
            if (event.type == GATE_NONE)
                continue;
            n_events++;
            assert_int_equal(event.type, GATE_START);
            assert_int_equal(event.at, 777);
        }
        position += 3000;
        assert_int_equal(gate.position, position);
    }
    assert_int_equal(n_events, 1);
    gate_finish(&gate, &event);
    assert_int_equal(event.type, GATE_END);
    assert_int_equal(event.at, position);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_with_pre_roll_and_closes_with_padding),
        cmocka_unit_test(short_bursts_open_nothing),
        cmocka_unit_test(short_gaps_merge),
        cmocka_unit_test(the_band_holds_what_was),
        cmocka_unit_test(a_burst_must_be_sure),
        cmocka_unit_test(a_high_threshold_can_be_sure),
        cmocka_unit_test(pre_roll_ends_at_the_last_end),
        cmocka_unit_test(padding_never_reaches_into_the_future),
        cmocka_unit_test(the_end_closes),
        cmocka_unit_test(the_last_frame_does_not_outlast_the_input),
        cmocka_unit_test(without_a_gate_all_is_one_utterance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
