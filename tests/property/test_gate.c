/* The gate over real sound: how it is cut never changes the events, random options never break their order, and no word
 * is cut off. */
#include "tests/support/support.h"

#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "stream/gate.h"
#include "stream/resample.h"
#include "stream/ring.h"
#include "stream/source.h"

#define SAMPLES_MAX (700 * SAMPLE_RATE)
#define EVENTS_MAX  1000

static float pcm[SAMPLES_MAX];

static const struct gate_options usual = {.enabled = true,
                                          .threshold = 0.5f,
                                          .min_speech_ms = 100,
                                          .min_silence_ms = 600,
                                          .pre_roll_ms = 400,
                                          .pad_ms = 200};

struct events {
    struct gate_event event[EVENTS_MAX];
    int64_t known[EVENTS_MAX];
    int n;
};

static int load(const char *path)
{
    static float frames[1024 * 8], out[1024 * 17];
    char spec[1100];
    struct source *source;
    struct resampler *resampler;
    struct err err;
    int n = 0, got;
    snprintf(spec, sizeof(spec), "file:%s", path);
    assert_int_equal(source_open(spec, &source, &err), 0);
    assert_true(source->info.channels <= 8);
    assert_int_equal(resampler_create(source->info.rate, source->info.channels, &resampler, &err), 0);
    do {
        got = source->v->read(source, frames, 1024, 0, &err);
        int m = resampler_run(resampler, frames, got > 0 ? got : 0, got <= 0, out, &err);
        assert_true(m >= 0 && n + m <= SAMPLES_MAX);
        memcpy(pcm + n, out, (size_t)m * sizeof(float));
        n += m;
    } while (got > 0);
    assert_int_equal(got, SOURCE_EOF);
    resampler_destroy(resampler);
    source->v->close(source);
    return n;
}

static void note(struct events *events, const struct gate *gate, const struct gate_event *event)
{
    if (event->type == GATE_NONE)
        return;
    assert_true(events->n < EVENTS_MAX);
    events->known[events->n] = gate->position;
    events->event[events->n++] = *event;
}

/* rng: pieces of random length up to 2,000; NULL: everything at once. */
static void judge(const struct gate_options *options, int n, struct test_rng *rng, struct events *events)
{
    struct gate gate;
    struct gate_event event;
    memset(events, 0, sizeof(*events));
    gate_init(&gate, options, 0);
    for (int at = 0; at < n;) {
        int piece = rng ? test_rng_int(rng, 1, 2000) : n;
        piece = piece > n - at ? n - at : piece;
        int used = gate_process(&gate, pcm + at, piece, &event);
        assert_in_range(used, 1, piece);
        note(events, &gate, &event);
        at += used;
        assert_int_equal(gate.position, at);
    }
    for (int i = 0;; i++) {
        gate_finish(&gate, &event);
        if (event.type == GATE_NONE)
            break;
        assert_true(i < 2);
        note(events, &gate, &event);
    }
}

static void pieces_do_not_matter(void **state)
{
    struct test_rng rng;
    static struct events whole, pieces;
    int n = load("tests/fixtures/speech.flac");
    test_rng_init(&rng, 1);
    for (int round = 0; round < 10; round++) {
        int cut = test_rng_int(&rng, n / 2, n); /* so that the last frame is incomplete, in speech or not */
        judge(&usual, cut, NULL, &whole);
        judge(&usual, cut, &rng, &pieces);
        assert_true(whole.n > 0);
        assert_int_equal(pieces.n, whole.n);
        assert_memory_equal(&pieces, &whole, sizeof(whole));
    }
}

static void events_alternate_and_never_go_back(void **state)
{
    struct test_rng rng;
    static struct events events;
    int n = load("tests/fixtures/speech.flac");
    test_rng_init(&rng, 2);
    for (int round = 0; round < 15; round++) {
        struct gate_options options = {.enabled = true,
                                       .threshold = 0.2f + 0.7f * test_rng_uniform(&rng),
                                       .min_speech_ms = test_rng_int(&rng, 0, 300),
                                       .min_silence_ms = test_rng_int(&rng, 0, 1000),
                                       .pre_roll_ms = test_rng_int(&rng, 0, 3000),
                                       .pad_ms = test_rng_int(&rng, 0, 3000)};
        judge(&options, n, &rng, &events);
        assert_int_equal(events.n % 2, 0);
        int64_t last = 0, known = 0;
        for (int i = 0; i < events.n; i++) {
            assert_int_equal(events.event[i].type, i % 2 ? GATE_END : GATE_START);
            assert_true(events.event[i].at >= last);
            assert_true(events.event[i].at <= events.known[i]);
            assert_true(events.known[i] >= known);
            last = events.event[i].at;
            known = events.known[i];
        }
    }
}

/* Loudness of 20 ms from `at` on, in dB relative to full scale. */
static double loudness(int64_t at, int n)
{
    const int window = SAMPLE_RATE / 50;
    double sum = 1e-12;
    for (int64_t i = at; i < at + window && i < n; i++)
        sum += (double)pcm[i] * pcm[i];
    return 10.0 * log10(sum / window);
}

static bool inside(const struct events *events, int64_t at)
{
    for (int i = 0; i + 1 < events->n; i += 2) {
        if (at >= events->event[i].at && at < events->event[i + 1].at)
            return true;
    }
    return false;
}

/* make_speech.py printed where the sentences are; the noise between them lies at −66 dB. */
static void holds_every_loud_sample(void **state)
{
    static struct events events;
    int n = load("tests/fixtures/speech.flac"), n_loud = 0;
    judge(&usual, n, NULL, &events);
    assert_int_equal(events.n, 6); /* the second sentence follows the first after 250 ms */
    for (int at = 0; at + 320 <= n; at += 320) {
        if (loudness(at, n) < -50.0)
            continue;
        n_loud++;
        assert_true(inside(&events, at) && inside(&events, at + 319));
    }
    assert_true(n_loud > 300);
    /* … and little else: at most pre-roll and padding around each */
    int64_t held = 0;
    for (int i = 0; i < events.n; i += 2)
        held += events.event[i + 1].at - events.event[i].at;
    assert_true(held < 9.7 * SAMPLE_RATE + 3 * 0.8 * SAMPLE_RATE);
}

/* Outside the utterances no three windows in a row, 60 ms, may come within 25 dB of the loudest speech: a click of the
 * microphone is shorter, a word is longer, and these recordings' noise is lower. (Loudness cannot judge those where
 * somebody draws breath or turns a page.) */
static void cuts_no_word_of_clean_recordings(void **state)
{
    static const char *const names[] = {
        "en_arctic_aew_a0001", "en_cards_001",  "en_cards_005",  "en_ls_1995", "en_ls_6930",
        "en_ls_7902",          "en_fleurs_002", "en_fleurs_003", "en_watson",  "en_pico_a",
        "en_watson_pause",     "en_harvard_8k", "en_longpause"};
    static struct events events;
    int n_found = 0, n_cut = 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char file[64];
        snprintf(file, sizeof(file), "%s.flac", names[i]);
        const char *path = test_speech(file);
        if (!path)
            continue;
        n_found++;
        int n = load(path), n_loud = 0;
        judge(&usual, n, NULL, &events);
        double speech = -120.0;
        for (int at = 0; at + 320 <= n; at += 320)
            speech = fmax(speech, loudness(at, n));
        for (int at = 0; at + 320 <= n; at += 320) {
            bool outside = !inside(&events, at) && loudness(at, n) > speech - 25.0;
            n_loud = outside ? n_loud + 1 : 0;
            if (n_loud == 3) {
                print_error("%s: something loud at %.2f s lies outside\n", names[i],
                            (double)at / SAMPLE_RATE);
                n_cut++;
            }
        }
    }
    if (n_found == 0)
        test_skip("no recordings");
    assert_int_equal(n_cut, 0);
}

static void opens_on_speech_and_not_on_silence_or_noise(void **state)
{
    const char *any = test_speech("MANIFEST.tsv");
    if (!any) {
        test_skip("no recordings");
        return;
    }
    char pattern[1024];
    static struct events events;
    glob_t files;
    int n_speech = 0, n_quiet = 0, n_missed = 0, n_false = 0;
    snprintf(pattern, sizeof(pattern), "%.*s*.flac", (int)(strlen(any) - strlen("MANIFEST.tsv")), any);
    assert_int_equal(glob(pattern, 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        const char *name = strrchr(files.gl_pathv[i], '/') + 1;
        bool quiet =
            !strncmp(name, "x_esc50", 7) || !strncmp(name, "x_noise", 7) || !strncmp(name, "x_silence", 9);
        if (name[0] == 'x' && !quiet)
            continue; /* music: some of it is sung */
        if (strstr(name, "_long") || strstr(name, "161s"))
            continue; /* minutes long */
        int n = load(files.gl_pathv[i]);
        judge(&usual, n, NULL, &events);
        n_speech += !quiet;
        n_quiet += quiet;
        n_missed += !quiet && events.n == 0;
        n_false += quiet && events.n > 0;
        if (quiet == (events.n > 0))
            print_error("%s: %d events\n", name, events.n);
    }
    globfree(&files);
    printf("%d recordings of speech, %d of silence or noise\n", n_speech, n_quiet);
    assert_int_equal(n_missed, 0);
    assert_int_equal(n_false, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_do_not_matter),
        cmocka_unit_test(events_alternate_and_never_go_back),
        cmocka_unit_test(holds_every_loud_sample),
        cmocka_unit_test(cuts_no_word_of_clean_recordings),
        cmocka_unit_test(opens_on_speech_and_not_on_silence_or_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
