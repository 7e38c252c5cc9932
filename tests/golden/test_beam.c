/* Beam search against OpenAI's implementation with the same weights: beam.tsv, made by tools/golden/beam.py. Needs the
 * real models, and for most windows the speech collection.
 * tests/run: 300 s */
#include "tests/support/support.h"

#include <math.h>
#include <sndfile.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/whisper_model.h"

#define DATA    "tests/golden/beam.tsv"
#define FIXTURE "tests/fixtures/harbour.flac"
#define WINDOW  480000
#define SAMPLE  224 /* tokens of a window at most */

/* A line of the data. */
struct expected {
    char model[16], recording[64];
    struct beam_search beam;
    int stamps, n;
    float avg_logprob;
    int32_t tokens[SAMPLE];
};

static bool read_line(FILE *f, struct expected *e)
{
    char line[8192], *rest = line;
    int length = 0;
    if (!fgets(line, sizeof(line), f))
        return false;
    assert_non_null(strchr(line, '\n'));
    assert_int_equal(sscanf(line, "%15s %63s %d %f %f %d %f%n", e->model, e->recording, &e->beam.width,
                            &e->beam.patience, &e->beam.length_penalty, &e->stamps, &e->avg_logprob, &length),
                     7);
    rest += length;
    e->n = 0;
    for (char *end; *rest == '\t'; rest = end) {
        assert_true(e->n < SAMPLE);
        e->tokens[e->n++] = (int32_t)strtol(rest + 1, &end, 10);
    }
    return true;
}

static void hear(struct whisper_model *m, const char *path)
{
    static float pcm[WINDOW];
    struct err err = {0};
    SF_INFO info = {0};
    SNDFILE *f = sf_open(path, SFM_READ, &info);
    if (!f)
        fail_msg("%s: %s", path, sf_strerror(NULL));
    memset(pcm, 0, sizeof(pcm));
    assert_true(info.samplerate == 16000 && info.channels == 1 && sf_readf_float(f, pcm, WINDOW) > 0);
    sf_close(f);
    m->base.ops->encode(&m->base, 0, pcm, WINDOW, 0, AUDIO_SCALE_OWN);
    assert_int_equal(m->base.ops->wait(&m->base, &err), 0);
}

struct found {
    int32_t tokens[SAMPLE];
    float logprobs[SAMPLE];
    int n; /* without eot */
    float avg_logprob;
};

static void search(struct whisper_model *m, const struct expected *e, struct found *out)
{
    const struct special_tokens *s = tokenizer_special(m->tokenizer);
    int32_t prompt[4] = {s->sot};
    int n = 1;
    if (s->multilingual) {
        prompt[n++] = tokenizer_language_token(m->tokenizer, "en");
        prompt[n++] = s->transcribe;
    }
    if (!e->stamps)
        prompt[n++] = s->no_timestamps;
    struct text_run run = {.n_prompt = n,
                           .tokens = prompt,
                           .sample_begin = n,
                           .max_tokens = SAMPLE,
                           .rules = {.eot = s->eot,
                                     .timestamp_begin = s->timestamp_begin,
                                     .no_timestamps = s->no_timestamps,
                                     .timestamps = e->stamps,
                                     .max_initial_timestamp = e->stamps ? 50 : -1,
                                     .mask = 0,
                                     .first_mask = 1},
                           .beam = e->beam,
                           .probe_token = -1,
                           .out_capacity = SAMPLE,
                           .out_tokens = out->tokens,
                           .out_logprobs = out->logprobs};
    struct err err = {0};
    float sum = 0.0f;
    if (m->base.ops->run(&m->base, &run, 1, &err) < 0 || m->base.ops->wait(&m->base, &err) < 0)
        fail_msg("%s", err.msg);
    for (int i = 0; i < run.n_out; i++)
        sum += out->logprobs[i];
    out->n = run.n_out - (run.stop == RUN_STOP_EOT);
    out->avg_logprob = sum / (float)(out->n + 1);
}

static void set_masks(struct whisper_model *m)
{
    struct err err = {0};
    int32_t tokens[256];
    int n = tokenizer_suppressed(m->tokenizer, tokens, 256);
    assert_int_equal(m->base.ops->set_mask(&m->base, 0, tokens, n, &err), 0);
    n = tokenizer_suppressed_first(m->tokenizer, tokens, 256);
    assert_int_equal(m->base.ops->set_mask(&m->base, 1, tokens, n, &err), 0);
}

/* Logits agree to 4e-4 (test_whisper.c), so log-probabilities do to twice that, and their mean does. */
#define CLOSE 8e-4f

/* In f32 the tokens are OpenAI's. Where two hypotheses are as good as one another to CLOSE either may be found. */
static void check(const char *name)
{
    static struct expected e;
    static struct found found;
    const char *path = test_model(name);
    if (!path)
        test_skip("the model %s is not there", name);
    struct err err = {0};
    struct whisper_model m;
    const struct whisper_options options = {.engine = "host",
                                            .n_threads = 2,
                                            .precision = PRECISION_F32,
                                            .n_audio_slots = 1,
                                            .n_text_slots = RUN_BEAMS_MAX};
    if (whisper_model_open(&m, path, &options, &err) < 0)
        fail_msg("%s", err.msg);
    set_masks(&m);
    FILE *f = fopen(DATA, "r");
    if (!f)
        fail_msg(DATA " is missing: run the test in the repository's root");
    int n = 0, n_other = 0;
    while (read_line(f, &e)) {
        char file[80];
        snprintf(file, sizeof(file), "%s.flac", e.recording);
        const char *recording = strcmp(e.recording, "harbour") != 0 ? test_speech(file) : FIXTURE;
        if (strcmp(e.model, name) != 0 || !recording)
            continue;
        hear(&m, recording);
        search(&m, &e, &found);
        bool same = found.n == e.n && !memcmp(found.tokens, e.tokens, (size_t)e.n * sizeof(*e.tokens));
        if (!same)
            print_message("%s, %s, %d beams: other tokens, of %f instead of %f\n", name, e.recording,
                          e.beam.width, (double)found.avg_logprob, (double)e.avg_logprob);
        assert_true(fabsf(found.avg_logprob - e.avg_logprob) < CLOSE);
        n++;
        n_other += !same;
    }
    fclose(f);
    whisper_model_close(&m);
    print_message("%s: %d windows, %d with other tokens\n", name, n, n_other);
    assert_true(n > 0 && n_other <= 1);
}

static void test_tiny_en(void **state)
{
    (void)state;
    check("tiny.en");
}

static void test_base(void **state)
{
    (void)state;
    check("base");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny_en),
        cmocka_unit_test(test_base),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
