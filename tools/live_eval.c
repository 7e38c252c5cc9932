/* live-eval: what live captions would have shown, and when, on the audio's own clock.
 *
 * Plays recordings through the voice gate and the live decoder as the daemon with pace fast does, a pass after every
 * step of audio, and writes a JSON line a pass: the audio heard so far, the words committed, the tentative tail. Word
 * error rate and latency are computed from that by tools/live_eval.py. Time spent computing is no part of it, and
 * is summed up by itself. */
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/whisper_model.h"
#include "decoder/live.h"
#include "stream/gate.h"
#include "tools/recording.h"

#define RATE  SAMPLE_RATE
#define BLOCK 1024

struct eval {
    struct live *live;
    const struct recording *recording;
    struct gate gate;
    int64_t step, seen;
    bool open;
    int n_passes, n_steps, n_draft, n_accepted;
    int64_t spent_ns;
};

static double seconds(int64_t sample)
{
    return (double)sample / RATE;
}

static void print_pass(const char *what, int64_t heard, const struct live_output *out)
{
    json_t *words = json_array();
    for (int i = 0; i < out->n_committed; i++) {
        const struct word *w = &out->committed[i];
        json_array_append_new(words, json_pack("[s, f, f, f]", w->text, seconds(w->start), seconds(w->end),
                                               (double)w->probability));
    }
    json_t *line = json_pack("{s:s, s:f, s:o, s:s}", "pass", what, "heard", seconds(heard), "commit", words,
                             "partial", out->partial);
    json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(line);
}

static int pass(struct eval *e, int64_t end, enum live_update_kind kind)
{
    int64_t start = live_buffer_start(e->live);
    struct live_output out;
    struct err err = {0};
    int64_t began = clock_now_ns();
    int r = live_update(e->live, e->recording->pcm + start, (int)(end - start),
                        start < AUDIO_BESIDE ? (int)start : AUDIO_BESIDE, kind, &out, &err);
    e->spent_ns += clock_now_ns() - began;
    if (r < 0) {
        fprintf(stderr, "live-eval: %s\n", err.msg);
        return r;
    }
    e->seen = end;
    e->n_passes += out.n_passes;
    e->n_steps += out.n_steps;
    e->n_draft += out.n_draft;
    e->n_accepted += out.n_accepted;
    print_pass(kind == LIVE_FINAL ? "final" : "tick", end, &out);
    return 0;
}

/* Ticks that are due up to the sample at which something became known, then that. */
static int act(struct eval *e, int64_t known, const struct gate_event *event)
{
    while (e->open && e->seen + e->step <= known) {
        if (event->type == GATE_END && e->seen + e->step == known)
            break;
        int r = pass(e, e->seen + e->step, LIVE_TICK);
        if (r < 0)
            return r;
    }
    if (event->type == GATE_START) {
        e->open = true;
        e->seen = event->at;
        live_begin(e->live, event->at, 0);
    } else if (event->type == GATE_END && e->open) {
        e->open = false;
        return pass(e, event->at > live_buffer_start(e->live) ? event->at : live_buffer_start(e->live),
                    LIVE_FINAL);
    }
    return 0;
}

static int play(struct eval *e, const struct gate_options *gate)
{
    const struct recording *r = e->recording;
    gate_init(&e->gate, gate, 0);
    struct gate_event event;
    for (int64_t at = 0; at < r->n_samples;) {
        int n = r->n_samples - at < BLOCK ? (int)(r->n_samples - at) : BLOCK;
        at += gate_process(&e->gate, r->pcm + at, n, &event);
        int status = act(e, e->gate.position, &event);
        if (status < 0)
            return status;
    }
    do {
        gate_finish(&e->gate, &event);
        if (event.at > r->n_samples)
            event.at = r->n_samples;
        int status = act(e, r->n_samples, &event);
        if (status < 0)
            return status;
    } while (event.type != GATE_NONE);
    if (!e->open)
        return 0;
    e->open = false;
    return pass(e, r->n_samples, LIVE_FINAL);
}

static int evaluate(struct whisper_model *model, const struct live_options *options,
                    const struct gate_options *gate, int step_ms, const char *path)
{
    struct recording recording = {0};
    struct err err = {0};
    struct eval e = {.step = (int64_t)step_ms * RATE / 1000, .recording = &recording};
    int r = recording_read(path, &recording, &err);
    if (r == 0 && recording.damage.code) /* half a recording would be compared with all of its text */
        r = err_set(&err, recording.damage.code, "%s", recording.damage.msg);
    if (r >= 0)
        r = live_create(&model->base, model->tokenizer, options, &e.live, &err);
    if (r < 0) {
        fprintf(stderr, "live-eval: %s: %s\n", path, err.msg);
    } else {
        json_t *file = json_pack("{s:s, s:f}", "file", path, "seconds", seconds(recording.n_samples));
        json_dumpf(file, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(file);
        r = play(&e, gate);
        printf("{\"passes\":%d,\"steps\":%d,\"draft\":%d,\"accepted\":%d,\"spent\":%.3f}\n", e.n_passes,
               e.n_steps, e.n_draft, e.n_accepted, (double)e.spent_ns * 1e-9);
    }
    live_destroy(e.live);
    recording_free(&recording);
    return r;
}

static void usage(void)
{
    puts("usage: live-eval --model FOLDER [--language CODE] [--step MS] [--buffer MS] [--no-gate] "
         "[--no-draft] [--beam N] "
         "[--threads N] FILE…");
}

int main(int argc, char **argv)
{
    static const struct option long_options[] = {
        {"model", required_argument, NULL, 'm'}, {"language", required_argument, NULL, 'l'},
        {"step", required_argument, NULL, 's'},  {"buffer", required_argument, NULL, 'b'},
        {"no-gate", no_argument, NULL, 'g'},     {"no-draft", no_argument, NULL, 'd'},
        {"beam", required_argument, NULL, 'w'},  {"threads", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},        {0}};
    const char *path = NULL;
    int step_ms = 500;
    struct live_options options = {.draft = true, .max_buffer_ms = 25000, .settings = {.beam_size = 5}};
    struct gate_options gate = {.enabled = true,
                                .threshold = GATE_THRESHOLD,
                                .min_speech_ms = GATE_MIN_SPEECH_MS,
                                .min_silence_ms = GATE_MIN_SILENCE_MS,
                                .pre_roll_ms = GATE_PRE_ROLL_MS,
                                .pad_ms = GATE_PAD_MS};
    struct whisper_options whisper = {.engine = "host", .n_audio_slots = 1, .n_text_slots = 5};
    for (int c; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        switch (c) {
        case 'm':
            path = optarg;
            break;
        case 'l':
            options.settings.language = optarg;
            break;
        case 's':
            step_ms = atoi(optarg);
            break;
        case 'b':
            options.max_buffer_ms = atoi(optarg);
            break;
        case 'g':
            gate.enabled = false;
            break;
        case 'd':
            options.draft = false;
            break;
        case 'w':
            options.settings.beam_size = atoi(optarg);
            whisper.n_text_slots = options.settings.beam_size > 1 ? options.settings.beam_size : 1;
            break;
        case 't':
            whisper.n_threads = atoi(optarg);
            break;
        default:
            usage();
            return c == 'h' ? 0 : 2;
        }
    }
    if (!path || step_ms < 1 || optind == argc) {
        usage();
        return 2;
    }
    struct whisper_model model;
    struct err err = {0};
    if (whisper_model_open(&model, path, &whisper, &err) < 0) {
        fprintf(stderr, "live-eval: %s\n", err.msg);
        return 1;
    }
    int failed = 0;
    for (int i = optind; i < argc; i++)
        failed |= evaluate(&model, &options, &gate, step_ms, argv[i]) < 0;
    whisper_model_close(&model);
    return failed;
}
