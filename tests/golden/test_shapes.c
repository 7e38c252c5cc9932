/* Small models in the shapes of the published ones (mel bins, vocabulary, depths that differ, widths), against what
 * transformers computes with the same weights in double precision: tools/golden/shapes.py wrote shapes.txt. Every format
 * of model files must give the same logits, bit for bit.
 *
 * tests/run: 200 s */
#include "tests/support/support.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu/whisper.h"
#include "tests/support/tiny_model.h"

#define STRIDE    1621
#define N_IDS     32
#define N_SAMPLES 9600
#define TOKENS    32

/* The engine's roundings (test_whisper_graph measures 5e-6 of the logits' size, which is 1 here) and those of the
 * reference's log-mel, which transformers keeps in f32: 1e-6 of values up to 2, through up to six layers. */
#define MOST_ALLOWED 1e-4

struct step {
    int token;
    double margin, logits[N_IDS];
};

struct shape {
    char name[32];
    unsigned long long seed;
    struct whisper_dims dims;
    int tokens[TOKENS], n_prompt, n_steps;
    struct step steps[TOKENS];
};

static char folder[256];

static bool read_shape(FILE *f, struct shape *s)
{
    struct whisper_dims *d = &s->dims;
    char line[4096], *at = line;
    *s = (struct shape){0};
    if (fscanf(f, " model %31s %llu %d %d %d %d %d %d %d", s->name, &s->seed, &d->n_mels, &d->n_audio_ctx,
               &d->n_audio_layer, &d->n_vocab, &d->n_text_ctx, &d->n_text_layer, &d->n_text_state) != 9)
        return false;
    d->n_audio_state = d->n_text_state;
    d->n_audio_head = d->n_text_head = d->n_text_state / 64;
    assert_int_equal(fscanf(f, " prompt %4095[^\n]", line), 1);
    for (int n; sscanf(at, "%d%n", &s->tokens[s->n_prompt], &n) == 1; at += n)
        s->n_prompt++;
    for (; fgetc(f) == '\n' && fscanf(f, "step %d", &s->steps[s->n_steps].token) == 1; s->n_steps++) {
        struct step *step = &s->steps[s->n_steps];
        s->tokens[s->n_prompt + s->n_steps] = step->token;
        assert_int_equal(fscanf(f, "%lf", &step->margin), 1);
        for (int i = 0; i < N_IDS; i++)
            assert_int_equal(fscanf(f, "%lf", &step->logits[i]), 1);
    }
    return s->n_steps > 0;
}

static double compare(const struct shape *s, const float *logits)
{
    double most = 0.0;
    size_t n_vocab = (size_t)s->dims.n_vocab;
    for (int i = 0; i < s->n_steps; i++) {
        const float *row = logits + (size_t)(s->n_prompt - 1 + i) * n_vocab;
        int best = 0;
        for (int id = 1; id < s->dims.n_vocab; id++)
            best = row[id] > row[best] ? id : best;
        if (best != s->steps[i].token && s->steps[i].margin > 2 * MOST_ALLOWED)
            fail_msg("%s, step %d: token %d instead of %d", s->name, i, best, s->steps[i].token);
        for (int k = 0; k < N_IDS; k++)
            most = fmax(most, fabs((double)row[k * STRIDE] - s->steps[i].logits[k]));
    }
    return most;
}

/* The logits after every token of the prompt and the steps. */
static void compute(const struct shape *s, const char *path, float *logits)
{
    const struct whisper_options options = {
        .engine = "host", .n_threads = 2, .precision = PRECISION_F32, .n_audio_slots = 1, .n_text_slots = 1};
    static float pcm[N_SAMPLES];
    struct whisper *w = NULL;
    struct err err = {0};
    int32_t tokens[TOKENS];
    int n = s->n_prompt + s->n_steps - 1;
    if (whisper_open(path, &options, &w, &err) < 0)
        fail_msg("%s", err.msg);
    tiny_model_noise("pcm", s->seed, 0.1f, pcm, N_SAMPLES);
    const struct whisper_audio audio = {.pcm = pcm, .n_samples = N_SAMPLES, .scale = MEL_SCALE_OWN};
    whisper_encode(w, 0, &audio);
    for (int i = 0; i < n; i++)
        tokens[i] = s->tokens[i];
    if (whisper_logits(w, 0, 0, tokens, n, 0, logits, &err) < 0)
        fail_msg("%s", err.msg);
    whisper_close(w);
}

static void check_shape(const struct shape *s)
{
    struct tiny_model m;
    char path[300];
    size_t n = (size_t)(s->n_prompt + s->n_steps - 1) * (size_t)s->dims.n_vocab;
    float *logits = malloc(n * sizeof(float)), *others = malloc(n * sizeof(float));
    tiny_model_init_dims(&m, s->seed, &s->dims);
    m.n_words = 300;
    snprintf(path, sizeof(path), "%s/ggml.bin", folder);
    tiny_model_write_ggml(&m, path, true, NULL);
    compute(s, path, logits);
    unlink(path);
    double most = compare(s, logits);
    print_message("%s: largest error %.2g\n", s->name, most);
    assert_true(most < MOST_ALLOWED);
    for (int i = 0; i < 2 && s->dims.n_text_state < 1024;
         i++) { /* the widest one's files would take a while */
        snprintf(path, sizeof(path), "%s/%s", folder, i ? "hub" : "ct2");
        if (i == 0)
            tiny_model_write_ct2(&m, path, true, NULL);
        else
            tiny_model_write_safetensors(&m, path, TINY_F32, 2, NULL);
        compute(s, path, others);
        assert_memory_equal(logits, others, n * sizeof(float));
    }
    tiny_model_finish(&m);
    free(logits);
    free(others);
}

static void every_shape_gives_what_transformers_gives(void **state)
{
    static struct shape shape;
    FILE *f = fopen("tests/golden/shapes.txt", "re");
    int n = 0;
    assert_non_null(f);
    snprintf(folder, sizeof(folder), "%s", tiny_folder());
    for (; read_shape(f, &shape); n++)
        check_shape(&shape);
    fclose(f);
    tiny_folder_remove(folder);
    assert_int_equal(n, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_shape_gives_what_transformers_gives)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
