/* usage: gpu-times ENGINE[:int8] MODEL RECORDING [batch:N | streams:N]…
 *
 * Times of a model on an engine, a line of JSON for each. The recording's first 30 s are the window of everyone.
 *
 * batch:N is N windows at once: milliseconds to encode one, microseconds a step of all, milliseconds until all have 90
 * tokens, and how many times faster than real time that is; the least of several. "steps" says how they were repeated
 * (gpu/whisper.h), "pinned" whether the samples are where the engine reads them fast, as the daemon's ring is; "text" is what
 * the tokens say, bytes beyond ASCII as \u0080 to \u00ff. More windows than the engine has slots go one group after the
 * other.
 *
 * streams:N is N live inputs that each want a pass a second: a window encoded, forty tokens given, a draft of ten
 * verified and five new tokens. Whoever waits is taken at once, as one batch. What a batch took moves a clock that nobody waits
 * for, so ten seconds of streams take as long as their passes: the median and the 99th percentile, in milliseconds, of the time
 * from when a pass was due to its end.
 *
 * What is measured is looked at as well: nothing is sampled and everyone hears the same, so each has the tokens that one window
 * alone has in the same engine, and to the bit their probabilities. Else there is no figure, and the exit status is 1. */
#include <errno.h>
#include <math.h>
#include <sndfile.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gpu/text_decoder.h"
#include "gpu/whisper.h"

enum {
    TOKENS = 90,
    WINDOW = 480000,
    GROUP_MAX = PASS_ROWS_MAX,
    STREAMS_MAX = 1024,
    STREAM_SECONDS = 10,
    GIVEN = 40,
    DRAFT = 10,
    NEW = 5
};

struct bench {
    struct whisper *whisper;
    const float *pcm;
    int n_slots;
    bool pinned;
    int n_tokens; /* of a window: 90, or as many as a small model has room for */
    int32_t prompt[8];
    int n_prompt;
    int32_t eot;
    int32_t text[RUN_TOKENS_MAX]; /* prompt and what the model makes of the window when it is alone */
    float text_logprobs[RUN_TOKENS_MAX];
    struct text_run runs[GROUP_MAX]; /* of the last decode, and what they */
    int32_t produced[GROUP_MAX][RUN_TOKENS_MAX];
    float logprobs[GROUP_MAX][RUN_TOKENS_MAX];
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static int encode(struct bench *b, int n, struct err *err)
{
    for (int i = 0; i < n; i++)
        whisper_encode(b->whisper, i,
                       &(struct whisper_audio){.pcm = b->pcm, .n_samples = WINDOW, .scale = MEL_SCALE_OWN});
    return whisper_wait(b->whisper, err);
}

/* n_given tokens of the text, a draft of n_draft, up to n_new tokens in all behind what is given. */
static int decode(struct bench *b, int n, int n_given, int n_draft, int n_new, struct err *err)
{
    for (int i = 0; i < n; i++)
        b->runs[i] = (struct text_run){.slot = i,
                                       .audio = i,
                                       .n_prompt = n_given,
                                       .n_draft = n_draft,
                                       .tokens = b->text,
                                       .sample_begin = b->n_prompt,
                                       .max_tokens = n_new,
                                       .rules = {.eot = b->eot,
                                                 .timestamp_begin = whisper_dims(b->whisper)->n_vocab - 1501,
                                                 .no_timestamps = -1,
                                                 .max_initial_timestamp = -1,
                                                 .mask = 0,
                                                 .first_mask = -1},
                                       .probe_token = -1,
                                       .out_capacity = RUN_TOKENS_MAX,
                                       .out_tokens = b->produced[i],
                                       .out_logprobs = b->logprobs[i]};
    int r = whisper_run(b->whisper, b->runs, n, err);
    return r < 0 ? r : whisper_wait(b->whisper, err);
}

/* Before something is measured: what an earlier decode produced must not pass for that of the next one. */
static void forget(struct bench *b)
{
    memset(b->produced, 0xff, sizeof(b->produced));
    memset(b->logprobs, 0xff, sizeof(b->logprobs));
}

/* That n windows have the n_new tokens of the text behind n_given. */
static int expect_text(const struct bench *b, int n, int n_given, int n_new, struct err *err)
{
    for (int i = 0; i < n * n_new; i++) {
        int window = i / n_new, k = i % n_new, at = n_given + k;
        int32_t token = b->produced[window][k];
        if (k >= b->runs[window].n_out)
            return err_set(err, -EIO, "window %d of %d has %d tokens for %d", window + 1, n, k, n_new);
        if (token != b->text[at])
            return err_set(err, -EIO, "token %d of window %d of %d is %d, and %d when the window is alone",
                           k + 1, window + 1, n, token, b->text[at]);
        if (b->logprobs[window][k] != b->text_logprobs[at])
            return err_set(
                err, -EIO,
                "token %d of window %d of %d has the log-probability %a, and %a when the window is alone",
                k + 1, window + 1, n, (double)b->logprobs[window][k], (double)b->text_logprobs[at]);
    }
    return 0;
}

/* English without timestamps. The model never ends a text by itself: its end is suppressed. */
static int open_bench(struct bench *b, const char *engine, const char *model, int n, struct err *err)
{
    char name[16];
    const char *colon = strchr(engine, ':');
    if (colon && strcmp(colon, ":int8") != 0)
        return err_set(err, -EINVAL, "%s: only int8 can stand behind the engine's name", engine);
    snprintf(name, sizeof(name), "%.*s", colon ? (int)(colon - engine) : 15, engine);
    const struct whisper_options options = {.engine = name,
                                            .precision = colon ? PRECISION_INT8 : PRECISION_AUTO,
                                            .n_audio_slots = n,
                                            .n_text_slots = n};
    int r = whisper_open(model, &options, &b->whisper, err);
    if (r < 0)
        return r;
    const struct whisper_dims *d = whisper_dims(b->whisper);
    bool english = d->n_vocab == 51864;
    const int32_t one[] = {50257, 50362}, many[] = {50258, 50259, d->n_vocab == 51866 ? 50360 : 50359,
                                                    d->n_vocab == 51866 ? 50364 : 50363};
    b->n_slots = n;
    b->n_prompt = english ? 2 : 4;
    b->eot = english ? 50256 : 50257;
    memcpy(b->prompt, english ? one : many, (size_t)b->n_prompt * sizeof(int32_t));
    memcpy(b->text, b->prompt, sizeof(b->prompt));
    b->n_tokens = d->n_text_ctx - b->n_prompt - 1 < TOKENS ? d->n_text_ctx - b->n_prompt - 1 : TOKENS;
    r = whisper_set_mask(b->whisper, 0, &b->eot, 1, err);
    r = r < 0 ? r : encode(b, 1, err);
    r = r < 0 ? r : decode(b, 1, b->n_prompt, 0, b->n_tokens, err);
    if (r < 0)
        return r;
    if (b->runs[0].n_out != b->n_tokens)
        return err_set(err, -EIO, "a window alone has %d tokens for %d", b->runs[0].n_out, b->n_tokens);
    memcpy(b->text + b->n_prompt, b->produced[0], (size_t)b->n_tokens * sizeof(int32_t));
    memcpy(b->text_logprobs + b->n_prompt, b->logprobs[0], (size_t)b->n_tokens * sizeof(float));
    return 0;
}

/* As the inside of a string of JSON. */
static void print_text(const struct bench *b)
{
    for (int i = 0; i < b->n_tokens; i++) {
        size_t n = 0;
        const char *bytes = whisper_token_bytes(b->whisper, b->text[b->n_prompt + i], &n);
        for (size_t k = 0; bytes && k < n; k++) {
            unsigned char c = (unsigned char)bytes[k];
            printf(c < 0x20 || c > 0x7e || c == '"' || c == '\\' ? "\\u%04x" : "%c", c);
        }
    }
}

static int measure_batch(struct bench *b, int n, int repeats, struct err *err)
{
    double encode_ms = 1e30, one_ms = 1e30, all_ms = 1e30;
    int r = 0;
    double begin = now_ms();
    for (int i = 0; i < repeats && r == 0 && (i == 0 || now_ms() - begin < 4e3); i++) {
        double spent[3] = {0.0, 0.0, 0.0};
        for (int first = 0; first < n && r == 0; first += b->n_slots) {
            int group = n - first < b->n_slots ? n - first : b->n_slots;
            forget(b);
            double t[4] = {now_ms()};
            r = encode(b, group, err);
            t[1] = now_ms();
            r = r < 0 ? r : decode(b, group, b->n_prompt, 0, 1, err);
            t[2] = now_ms();
            r = r < 0 ? r : decode(b, group, b->n_prompt, 0, b->n_tokens, err);
            t[3] = now_ms();
            r = r < 0 ? r : expect_text(b, group, b->n_prompt, b->n_tokens, err);
            for (int k = 0; k < 3; k++)
                spent[k] += t[k + 1] - t[k];
        }
        encode_ms = fmin(encode_ms, spent[0]);
        one_ms = fmin(one_ms, spent[1]);
        all_ms = fmin(all_ms, spent[2]);
    }
    if (r < 0)
        return r;
    const char *steps = whisper_repeats(b->whisper);
    printf("{\"engine\": \"%s\", \"batch\": %d, \"slots\": %d, \"tokens\": %d, \"encode_ms\": %.4f, "
           "\"step_us\": %.2f, \"steps\": \"%s\", "
           "\"windows_ms\": %.3f, \"times_real_time\": %.1f, \"pinned\": %s, \"text\": \"",
           whisper_engine_name(b->whisper), n, b->n_slots, b->n_tokens, encode_ms / n,
           1e3 * (all_ms - one_ms) / (b->n_tokens - 1), steps ? steps : "", encode_ms + all_ms,
           30e3 * n / (encode_ms + all_ms), b->pinned ? "true" : "false");
    print_text(b);
    printf("\"}\n");
    return 0;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure_streams(struct bench *b, int n, struct err *err)
{
    static double due[STREAMS_MAX], lag[STREAMS_MAX * STREAM_SECONDS];
    int n_lags = 0, r = 0, first = 0;
    int n_draft = b->n_tokens < GIVEN + DRAFT + NEW ? 1 : DRAFT;
    int n_given = b->n_prompt + (b->n_tokens < GIVEN + DRAFT + NEW ? 1 : GIVEN);
    double clock = 0.0, end = 1e3 * STREAM_SECONDS;
    for (int i = 0; i < n; i++)
        due[i] = 1e3 * i / n;
    while (r == 0 && n_lags < n * STREAM_SECONDS && clock < 4.0 * end) {
        int group = 0;
        double oldest = 1e30;
        /* In the order of the streams, which is the order in which they are due. */
        while (group < b->n_slots && group < n && due[(first + group) % n] <= clock)
            group++;
        for (int i = 0; i < n; i++)
            oldest = fmin(oldest, due[i]);
        if (group == 0) {
            clock = oldest;
            continue;
        }
        forget(b);
        double begin = now_ms();
        r = encode(b, group, err);
        r = r < 0 ? r : decode(b, group, n_given, n_draft, n_draft + NEW, err);
        clock += now_ms() - begin;
        r = r < 0 ? r : expect_text(b, group, n_given, n_draft + NEW, err);
        for (int i = 0; i < group; i++) {
            int s = (first + i) % n;
            if (n_lags < STREAMS_MAX * STREAM_SECONDS)
                lag[n_lags++] = clock - due[s];
            due[s] += 1e3;
        }
        first = (first + group) % n;
    }
    if (r < 0)
        return r;
    qsort(lag, (size_t)n_lags, sizeof(lag[0]), by_size);
    printf(
        "{\"engine\": \"%s\", \"streams\": %d, \"passes\": %d, \"lag_ms_p50\": %.2f, \"lag_ms_p99\": %.2f}\n",
        whisper_engine_name(b->whisper), n, n_lags, lag[n_lags / 2], lag[(n_lags * 99 + 99) / 100 - 1]);
    return 0;
}

static int measure(const char *engine, const char *model, float *pcm, const char *what, struct err *err)
{
    static struct bench b;
    const char *colon = strchr(what, ':');
    char *end = NULL;
    int n = colon ? (int)strtol(colon + 1, &end, 10) : 0;
    bool streams = !strncmp(what, "streams:", 8);
    if (n < 1 || *end != '\0' || n > STREAMS_MAX || (!streams && strncmp(what, "batch:", 6) != 0))
        return err_set(err, -EINVAL, "%s is neither batch:N nor streams:N, N up to %d", what, STREAMS_MAX);
    memset(&b, 0, sizeof(b));
    b.pcm = pcm;
    int r = open_bench(&b, engine, model, n < GROUP_MAX ? n : GROUP_MAX, err);
    struct err slower;
    if (r == 0)
        b.pinned = whisper_register_audio(b.whisper, pcm, WINDOW * sizeof(*pcm), &slower) == 0;
    if (r == 0)
        r = streams ? measure_streams(&b, n, err) : measure_batch(&b, n, n <= 16 ? 7 : 3, err);
    fflush(stdout);
    whisper_close(b.whisper);
    return r;
}

static int read_window(const char *path, float *pcm)
{
    SF_INFO info = {0};
    SNDFILE *f = sf_open(path, SFM_READ, &info);
    if (!f)
        return fprintf(stderr, "%s: %s\n", path, sf_strerror(NULL)), -1;
    bool fits = info.samplerate == 16000 && info.channels == 1;
    if (!fits)
        fprintf(stderr, "%s: not 16 kHz mono\n", path);
    sf_count_t n = fits ? sf_readf_float(f, pcm, WINDOW) : 0;
    if (fits && n <= 0)
        fprintf(stderr, "%s: no sound can be read from it\n", path);
    sf_close(f);
    return n > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    static float pcm[WINDOW];
    struct err err = {0};
    if (argc < 5) {
        fprintf(stderr, "usage: gpu-times ENGINE[:int8] MODEL RECORDING [batch:N | streams:N]…\n");
        return 2;
    }
    if (read_window(argv[3], pcm) < 0)
        return 1;
    for (int i = 4; i < argc; i++) {
        if (measure(argv[1], argv[2], pcm, argv[i], &err) < 0) {
            fprintf(stderr, "gpu-times: %s: %s\n", argv[i], err.msg);
            return 1;
        }
    }
    return 0;
}
