/* Times of words against openai-whisper's, over the whole of offline decoding: tests/golden/word_times.tsv, written by
 * tools/golden/word_times.py. */
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/whisper_model.h"
#include "decoder/longform.h"
#include "tools/recording.h"

#define WORDS_MAX 200
/* Both sides compute in f32, and sums in another order move the cheapest path by a frame where two are nearly alike. */
#define FRAME_MS 20
/* On average. Ours comes from the decoding, where a timestamp could have come instead of the first word of a sentence, whose
 * probability is less by that; OpenAI's from the second pass, where none can. */
#define PROBABILITY_ERROR 0.05

struct golden_word {
    char text[64];
    int start_ms, end_ms;
    double probability;
};

struct words {
    struct golden_word list[WORDS_MAX];
    int n;
};

static void read_golden(const char *model, const char *recording, struct words *out)
{
    char line[256], m[32], r[64];
    FILE *f = fopen("tests/golden/word_times.tsv", "r");
    if (!f)
        fail_msg("tests/golden/word_times.tsv is missing; run from the root of the repository");
    out->n = 0;
    while (fgets(line, sizeof(line), f)) {
        struct golden_word *w = &out->list[out->n];
        int at = 0;
        line[strcspn(line, "\n")] = '\0';
        assert_int_equal(
            sscanf(line, "%31s %63s %d %d %lf%n", m, r, &w->start_ms, &w->end_ms, &w->probability, &at), 5);
        if (strcmp(m, model) != 0 || strcmp(r, recording) != 0)
            continue;
        snprintf(w->text, sizeof(w->text), "%s", line + at + 1);
        assert_true(++out->n < WORDS_MAX);
    }
    fclose(f);
    assert_true(out->n > 20);
}

static int take(void *ctx, const struct longform_segment *s)
{
    struct words *out = ctx;
    for (int i = 0; i < s->n_words; i++) {
        struct golden_word *w = &out->list[out->n++];
        assert_true(out->n < WORDS_MAX);
        snprintf(w->text, sizeof(w->text), "%s", s->words[i].text);
        w->start_ms = (int)(s->words[i].start / 16);
        w->end_ms = (int)(s->words[i].end / 16);
        w->probability = (double)s->words[i].probability;
    }
    return 0;
}

static void compare(const char *name)
{
    static const char *const recordings[] = {"harbour.flac", "speech.flac"};
    const char *path = test_model(name);
    if (!path)
        test_skip("the model %s is not installed", name);
    struct whisper_model model;
    struct err err = {0};
    const struct whisper_options options = {
        .engine = "host", .precision = PRECISION_F32, .n_audio_slots = 1, .n_text_slots = 1};
    if (whisper_model_open(&model, path, &options, &err) < 0)
        fail_msg("%s", err.msg);
    for (int k = 0; k < 2; k++) {
        static struct words want, got;
        char file[128];
        struct recording recording;
        struct longform_result result;
        struct longform_options o;
        longform_defaults(&o);
        o.language = "en";
        o.word_times = true;
        o.n_temperatures = 1;
        o.on_segment = take;
        o.ctx = &got;
        got.n = 0;
        read_golden(name, recordings[k], &want);
        snprintf(file, sizeof(file), "tests/fixtures/%s", recordings[k]);
        if (recording_read(file, &recording, &err) < 0 ||
            longform_transcribe(&model.base, model.tokenizer, &o, recording.pcm, recording.n_samples, &result,
                                &err) < 0)
            fail_msg("%s", err.msg);
        recording_free(&recording);
        double sum = 0.0;
        assert_int_equal(got.n, want.n);
        for (int i = 0; i < want.n; i++) {
            const struct golden_word *a = &want.list[i], *b = &got.list[i];
            assert_string_equal(b->text, a->text);
            if (abs(a->start_ms - b->start_ms) > FRAME_MS || abs(a->end_ms - b->end_ms) > FRAME_MS)
                fail_msg("%s:%s from %d to %d ms, not %d to %d", recordings[k], a->text, b->start_ms,
                         b->end_ms, a->start_ms, a->end_ms);
            sum += fabs(a->probability - b->probability);
        }
        if (!(sum / want.n <= PROBABILITY_ERROR))
            fail_msg("%s: probabilities differ by %.3f", recordings[k], sum / want.n);
    }
    whisper_model_close(&model);
}

static void words_of_tiny_en(void **state)
{
    (void)state;
    compare("tiny.en");
}

static void words_of_base(void **state)
{
    (void)state;
    compare("base");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(words_of_tiny_en), cmocka_unit_test(words_of_base)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
