/* captiond-transcribe: recordings to text, with the engine and the decoder of captiond but without the daemon. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "daemon/model_path.h"
#include "daemon/whisper_model.h"
#include "decoder/longform.h"
#include "tools/recording.h"

#define PROGRAM     "captiond-transcribe"
#define THREADS_MAX 256
#define TEXT_SLOTS  5 /* samples at temperatures above 0 */

enum { EXIT_USAGE = 2 };

struct options {
    const char *model, *engine, *language;
    bool translate, gate, quiet;
    int n_threads;
    enum engine_precision precision;
};

struct transcriber {
    struct options options;
    struct whisper_model model;
    double load_seconds;
    const char *file; /* the one in work, for the progress line */
    bool progress;    /* a line on the terminal shows how far it is */
    struct err *err;  /* of the recording in work */
    double audio_seconds, wall_seconds;
};

static const char usage[] =
    "usage: " PROGRAM " [OPTION]… FILE…\n"
    "Writes what is said in recordings to standard output, a line a segment.\n"
    "\n"
    "  --model auto|NAME|PATH  the Whisper model (auto: tiny.en where the locale is English, else base)\n"
    "  --engine auto|host|cuda where it runs (auto)\n"
    "  --language CODE|NAME    the language spoken (found out by listening)\n"
    "  --task transcribe|translate  translate: into English (transcribe)\n"
    "  --threads N             threads of the host engine (0: as many as there are processors)\n"
    "  --precision auto|f32    auto: the fastest the processor has\n"
    "  --gate on|off           on: only what the voice gate takes for speech is decoded (on)\n"
    "  --quiet                 nothing on standard error but errors\n"
    "  --help, --version\n"
    "\n"
    "The exit status is 0, 1 if a recording failed (the others are done), 2 for a bad command line.\n";

/* --- command line --- */

static int bad_option(const char *option, const char *value, const char *allowed)
{
    fprintf(stderr, PROGRAM ": --%s \"%s\": must be %s\n", option, value, allowed);
    return EXIT_USAGE;
}

static int parse_threads(const char *value, int *out)
{
    char *end;
    errno = 0;
    long n = strtol(value, &end, 10);
    if (errno || end == value || *end || n < 0 || n > THREADS_MAX)
        return bad_option("threads", value, "a number from 0 to 256");
    *out = (int)n;
    return 0;
}

static int parse_switch(const char *option, const char *value, const char *yes, const char *no, bool *out)
{
    if (strcmp(value, yes) != 0 && strcmp(value, no) != 0) {
        fprintf(stderr, PROGRAM ": --%s \"%s\": must be %s or %s\n", option, value, yes, no);
        return EXIT_USAGE;
    }
    *out = strcmp(value, yes) == 0;
    return 0;
}

static int parse_language(const char *value, const char **out)
{
    *out = tokenizer_language_code(value);
    return *out ? 0 : bad_option("language", value, "a language that Whisper knows, such as en or German");
}

/* 0: go on; else the exit status plus one. */
static int parse_option(int option, struct options *o)
{
    bool full = false;
    int status = 0;
    switch (option) {
    case 'm':
        o->model = optarg;
        break;
    case 'e':
        o->engine = optarg;
        if (strcmp(optarg, "auto") != 0 && strcmp(optarg, "host") != 0 && strcmp(optarg, "cuda") != 0)
            status = bad_option("engine", optarg, "auto, host or cuda");
        break;
    case 'l':
        status = parse_language(optarg, &o->language);
        break;
    case 't':
        status = parse_switch("task", optarg, "translate", "transcribe", &o->translate);
        break;
    case 'n':
        status = parse_threads(optarg, &o->n_threads);
        break;
    case 'p':
        status = parse_switch("precision", optarg, "f32", "auto", &full);
        o->precision = full ? PRECISION_F32 : PRECISION_AUTO;
        break;
    case 'g':
        status = parse_switch("gate", optarg, "on", "off", &o->gate);
        break;
    case 'q':
        o->quiet = true;
        break;
    case 'h':
        fputs(usage, stdout);
        return EXIT_SUCCESS + 1;
    case 'v':
        puts(PROGRAM " " CAPTIOND_VERSION);
        return EXIT_SUCCESS + 1;
    default:
        status = EXIT_USAGE; /* getopt has said what is wrong */
    }
    return status ? status + 1 : 0;
}

static int parse_options(int argc, char **argv, struct options *o)
{
    static const struct option table[] = {
        {"model", required_argument, NULL, 'm'},
        {"engine", required_argument, NULL, 'e'},
        {"language", required_argument, NULL, 'l'},
        {"task", required_argument, NULL, 't'},
        {"threads", required_argument, NULL, 'n'},
        {"precision", required_argument, NULL, 'p'},
        {"gate", required_argument, NULL, 'g'},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},
        {0},
    };
    *o = (struct options){.model = "auto", .engine = "auto", .gate = true};
    for (int option; (option = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        int r = parse_option(option, o);
        if (r)
            return r;
    }
    if (optind == argc) {
        fprintf(stderr, PROGRAM ": no recording is given; try --help\n");
        return EXIT_USAGE + 1;
    }
    return 0;
}

/* --- a recording --- */

static double seconds_since(int64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) * 1e-9;
}

static void clear_progress(const struct transcriber *t)
{
    if (t->progress)
        fputs("\r\033[K", stderr);
}

/* The leading space of a segment joins it to the one before; here a line begins. */
static int write_segment(void *ctx, const struct longform_segment *segment)
{
    struct transcriber *t = ctx;
    const char *text = segment->text;
    while (*text == ' ')
        text++;
    clear_progress(t);
    if (printf("%s\n", text) < 0 || fflush(stdout) != 0)
        return err_set(t->err, -errno, "cannot write to standard output: %s", strerror(errno));
    return 0;
}

static int show_progress(void *ctx, int64_t done, int64_t total)
{
    struct transcriber *t = ctx;
    if (t->progress)
        fprintf(stderr, "\r%s: %d %%", t->file, (int)(100 * done / (total > 0 ? total : 1)));
    return 0;
}

static int transcribe_pcm(struct transcriber *t, const struct recording *recording,
                          struct longform_result *result, struct err *err)
{
    struct longform_options o;
    longform_defaults(&o);
    t->err = err;
    o.language = t->options.language;
    o.translate = t->options.translate;
    o.on_segment = write_segment;
    o.on_progress = show_progress;
    o.ctx = t;
    static const struct longform_region none[1];
    struct longform_region *regions = NULL;
    if (t->options.gate) {
        o.n_regions = recording_find_speech(recording, &regions, err);
        if (o.n_regions < 0)
            return o.n_regions;
        o.regions = regions ? regions : none;
    }
    int r = longform_transcribe(&t->model.base, t->model.tokenizer, &o, recording->pcm, recording->n_samples,
                                result, err);
    free(regions);
    return r;
}

static void print_summary(const struct transcriber *t, const char *what, double audio, double wall)
{
    fprintf(stderr, "%s: %.1f s of audio in %.2f s, real-time factor %.3f", what, audio, wall,
            audio > 0.0 ? wall / audio : 0.0);
}

/* 0 or a negative errno, with err. */
static int transcribe_file(struct transcriber *t, const char *path, struct err *err)
{
    int64_t start = clock_now_ns();
    struct recording recording;
    struct longform_result result = {0};
    t->file = path;
    int r = recording_read(path, &recording, err);
    if (r < 0)
        return r;
    r = transcribe_pcm(t, &recording, &result, err);
    clear_progress(t);
    if (r < 0)
        err_prefix(err, "%s", path);
    double audio = (double)recording.n_samples / RECORDING_RATE, wall = seconds_since(start);
    recording_free(&recording);
    if (r < 0)
        return r;
    t->audio_seconds += audio;
    t->wall_seconds += wall;
    if (!t->options.quiet) {
        print_summary(t, path, audio, wall);
        fprintf(stderr, " (%s, %d window%s, %d decoder steps; loading took %.2f s)\n", result.language,
                result.n_windows, result.n_windows == 1 ? "" : "s", result.n_steps, t->load_seconds);
    }
    return 0;
}

static int open_model(struct transcriber *t, struct err *err)
{
    char path[MODEL_PATH_MAX];
    int64_t start = clock_now_ns();
    int r = model_path_find(t->options.model, path, sizeof(path), err);
    if (r < 0)
        return r;
    const struct whisper_options options = {.engine = t->options.engine,
                                            .n_threads = t->options.n_threads,
                                            .precision = t->options.precision,
                                            .n_audio_slots = 1,
                                            .n_text_slots = TEXT_SLOTS};
    r = whisper_model_open(&t->model, path, &options, err);
    if (r < 0)
        return r;
    t->load_seconds = seconds_since(start);
    const char *language = t->options.language;
    const struct special_tokens *special = tokenizer_special(t->model.tokenizer);
    const char *hint = special->multilingual ? "" : ": try --model base";
    if (language && tokenizer_language_token(t->model.tokenizer, language) < 0)
        return err_set(err, -EINVAL, "model %s does not know the language %s%s", t->options.model, language,
                       hint);
    if (t->options.translate && !special->multilingual)
        return err_set(err, -EINVAL, "model %s is for English only and cannot translate%s", t->options.model,
                       hint);
    return 0;
}

int main(int argc, char **argv)
{
    struct transcriber t = {0};
    struct err err = {0};
    int status = parse_options(argc, argv, &t.options);
    if (status)
        return status - 1;
    t.progress = !t.options.quiet && isatty(STDERR_FILENO);
    if (open_model(&t, &err) < 0) {
        fprintf(stderr, PROGRAM ": %s\n", err.msg);
        whisper_model_close(&t.model);
        return EXIT_FAILURE;
    }
    int n_done = 0;
    for (int i = optind; i < argc; i++) {
        err = (struct err){0};
        int r = transcribe_file(&t, argv[i], &err);
        if (r < 0) {
            clear_progress(&t);
            fprintf(stderr, PROGRAM ": %s\n", err.msg);
            status = EXIT_FAILURE;
        }
        n_done += r == 0;
    }
    if (n_done > 1 && !t.options.quiet) {
        print_summary(&t, "total", t.audio_seconds, t.wall_seconds);
        fputc('\n', stderr);
    }
    whisper_model_close(&t.model);
    return status;
}
