/* usage: gpu-times ENGINE MODEL BATCH…
 *
 * Times of a model on an engine, a line of JSON for each batch: milliseconds to encode a window, microseconds a step of the
 * batch, milliseconds for windows of 90 tokens, and how many times faster than real time that is. The least of five. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gpu/whisper.h"

enum { TOKENS = 90, WINDOW = 480000, BATCH_MAX = 64, REPEATS = 5 };

static int32_t produced[BATCH_MAX][TOKENS];
static float logprobs[BATCH_MAX][TOKENS];

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static int encode(struct whisper *w, const float *pcm, int n, struct err *err)
{
    for (int i = 0; i < n; i++)
        whisper_encode(w, i,
                       &(struct whisper_audio){.pcm = pcm, .n_samples = WINDOW, .scale = MEL_SCALE_OWN});
    return whisper_wait(w, err);
}

static int decode(struct whisper *w, int n, int n_tokens, struct err *err)
{
    static const int32_t prompt[] = {50257, 50362};
    struct text_run runs[BATCH_MAX];
    for (int i = 0; i < n; i++)
        runs[i] = (struct text_run){.slot = i,
                                    .audio = i,
                                    .n_prompt = 2,
                                    .tokens = prompt,
                                    .sample_begin = 2,
                                    .max_tokens = n_tokens,
                                    .rules = {.eot = 50256,
                                              .timestamp_begin = whisper_dims(w)->n_vocab - 1501,
                                              .no_timestamps = -1,
                                              .max_initial_timestamp = -1,
                                              .mask = 0,
                                              .first_mask = -1},
                                    .probe_token = -1,
                                    .out_capacity = TOKENS,
                                    .out_tokens = produced[i],
                                    .out_logprobs = logprobs[i]};
    int r = whisper_run(w, runs, n, err);
    return r < 0 ? r : whisper_wait(w, err);
}

/* The model never ends a text by itself: its end is suppressed. */
static int measure(const char *engine, const char *model, int n, const float *pcm, struct err *err)
{
    static const int32_t ends[] = {50256};
    const struct whisper_options options = {.engine = engine, .n_audio_slots = n, .n_text_slots = n};
    struct whisper *w = NULL;
    double encode_ms = 1e30, one_ms = 1e30, all_ms = 1e30;
    int r = whisper_open(model, &options, &w, err);
    if (r == 0)
        r = whisper_set_mask(w, 0, ends, 1, err);
    for (int i = 0; i < REPEATS && r == 0; i++) {
        double t[4] = {now_ms()};
        r = encode(w, pcm, n, err);
        t[1] = now_ms();
        r = r < 0 ? r : decode(w, n, 1, err);
        t[2] = now_ms();
        r = r < 0 ? r : decode(w, n, TOKENS, err);
        t[3] = now_ms();
        encode_ms = t[1] - t[0] < encode_ms ? t[1] - t[0] : encode_ms;
        one_ms = t[2] - t[1] < one_ms ? t[2] - t[1] : one_ms;
        all_ms = t[3] - t[2] < all_ms ? t[3] - t[2] : all_ms;
    }
    if (r == 0)
        printf("{\"engine\": \"%s\", \"batch\": %d, \"encode_ms\": %.3f, \"step_us\": %.1f, \"windows_ms\": "
               "%.2f, "
               "\"times_real_time\": %.0f}\n",
               whisper_engine_name(w), n, encode_ms / n, 1e3 * (all_ms - one_ms) / (TOKENS - 1),
               encode_ms + all_ms, 30e3 * n / (encode_ms + all_ms));
    fflush(stdout);
    whisper_close(w);
    return r;
}

int main(int argc, char **argv)
{
    static float pcm[WINDOW];
    struct err err = {0};
    if (argc < 4) {
        fprintf(stderr, "usage: gpu-times ENGINE MODEL BATCH…\n");
        return 2;
    }
    for (int i = 0; i < WINDOW; i++)
        pcm[i] = 0.1f * (float)(i % 997) / 997.0f;
    for (int i = 3; i < argc; i++) {
        int n = (int)strtol(argv[i], NULL, 10);
        bool fits = n >= 1 && n <= BATCH_MAX;
        if (!fits || measure(argv[1], argv[2], n, pcm, &err) < 0) {
            fprintf(stderr, "%s\n", fits ? err.msg : "a batch is 1 to 64");
            return 1;
        }
    }
    return 0;
}
