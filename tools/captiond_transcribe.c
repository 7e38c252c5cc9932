/* captiond-transcribe: recordings to text, with the engine and the decoder of captiond but without the daemon. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/base/stdout_finish.h"
#include "daemon/base/utf8.h"
#include "daemon/model_path.h"
#include "daemon/whisper_model.h"
#include "decoder/longform.h"
#include "decoder/prompt.h"
#include "tools/cells.h"
#include "tools/progress.h"
#include "tools/recording.h"
#include "tools/stop_signals.h"
#include "tools/transcribe_options.h"
#include "tools/transcript_output.h"

#define PROGRAM TRANSCRIBE_PROGRAM

struct transcriber {
    struct transcribe_options options;
    char model_path[MODEL_PATH_MAX];
    struct whisper_options engine; /* what the model was opened with */
    struct whisper_model model;
    double load_seconds;
    struct progress progress;
    /* the recording in work */
    struct transcript_output output;
    struct err *err;
    double audio_seconds, wall_seconds; /* of all recordings */
};

#define LINE_BYTES 8192 /* longer than any path */

/* A line on standard error. What is in a name shall not get hold of the terminal. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[LINE_BYTES];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof(line), format, list);
    va_end(list);
    utf8_make_printable(line);
    fprintf(stderr, "%s\n", line);
}

/* --- interruption: the recording in work is given up, so that no half file is left --- */

static volatile sig_atomic_t interrupted; /* the signal's number */
static const struct transcript_output *unfinished;
static pthread_t main_thread; /* whose `unfinished` is */

/* The second one does not wait until the program sees the first: it ends it at once. */
static void interrupt(int number)
{
    if (!pthread_equal(pthread_self(), main_thread)) {
        pthread_kill(main_thread, number);
        return;
    }
    if (interrupted) {
        transcript_output_unlink(unfinished);
        signal(number, SIG_DFL);
        raise(number);
    }
    interrupted = number;
}

static int check_interrupted(struct transcriber *t)
{
    return interrupted ? err_set(t->err, -EINTR, "interrupted") : 0;
}

/* --- a recording --- */

static double seconds_since(int64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) * 1e-9;
}

static int on_segment(void *ctx, const struct longform_segment *segment)
{
    struct transcriber *t = ctx;
    bool to_terminal = !t->options.output_dir;
    if (to_terminal)
        progress_clear(&t->progress);
    int r = transcript_output_segment(&t->output, segment, t->err);
    if (to_terminal)
        progress_restore(&t->progress);
    return r < 0 ? r : check_interrupted(t);
}

static int on_progress(void *ctx, int64_t done, int64_t total)
{
    struct transcriber *t = ctx;
    progress_show(&t->progress, done, total);
    return check_interrupted(t);
}

/* A GPU that is lost in the middle of a recording is no reason to end it, unless it was asked for by its name. */
static int take_over(void *ctx, struct err *err)
{
    struct transcriber *t = ctx;
    if (interrupted || !whisper_on_device(t->model.whisper) || strcmp(t->engine.engine, "auto") != 0)
        return err->code;
    progress_clear(&t->progress);
    say(PROGRAM ": %s: the host engine takes over", err->msg);
    progress_restore(&t->progress);
    t->engine.engine = "host";
    int r = whisper_model_reopen(&t->model, t->model_path, &t->engine, err);
    return r < 0 ? r : check_interrupted(t);
}

/* Temperatures from the first up to 1, as many as there is room for. */
static void set_temperatures(const struct transcribe_options *o, struct longform_options *l)
{
    l->n_temperatures = 0;
    do {
        l->temperatures[l->n_temperatures] =
            o->temperature + (float)l->n_temperatures * o->temperature_increment;
        l->n_temperatures++;
    } while (o->temperature_increment > 0.0f && l->n_temperatures < LONGFORM_TEMPERATURES &&
             o->temperature + (float)l->n_temperatures * o->temperature_increment < 1.0f + 1e-4f);
}

static void set_options(struct transcriber *t, struct longform_options *l)
{
    const struct transcribe_options *o = &t->options;
    longform_defaults(l);
    set_temperatures(o, l);
    l->language = o->language;
    l->translate = o->translate;
    l->condition_on_previous_text = !o->no_condition;
    l->without_timestamps = o->without_timestamps;
    l->word_times = o->word_times;
    l->hallucination_silence_s = o->hallucination_silence;
    l->prompt = o->prompt;
    l->carry_prompt = o->carry_prompt;
    l->hotwords = o->hotwords;
    l->beam_size = o->beam_size;
    l->patience = o->patience;
    l->length_penalty = o->length_penalty;
    l->best_of = o->best_of;
    l->seed = (uint64_t)o->seed;
    l->compression_ratio_threshold = o->compression_ratio_threshold;
    l->logprob_threshold = o->logprob_threshold;
    l->no_speech_threshold = o->no_speech_threshold;
    l->on_segment = on_segment;
    l->on_progress = on_progress;
    l->take_over = take_over;
    l->ctx = t;
}

/* speech: NULL for all of the recording */
static int transcribe_pcm(struct transcriber *t, const struct recording *recording,
                          const struct recording_speech *speech, struct longform_result *result,
                          struct err *err)
{
    struct longform_options o;
    static const struct longform_region none[1];
    set_options(t, &o);
    if (speech) {
        o.regions = speech->regions ? speech->regions : none;
        o.n_regions = speech->n_regions;
        o.voice = speech->bursts ? speech->bursts : none;
        o.n_voice = speech->n_bursts;
    }
    return longform_transcribe(&t->model.base, t->model.tokenizer, &o, recording->pcm, recording->n_samples,
                               result, err);
}

static void print_summary(const char *what, double audio, double wall, const char *more)
{
    say("%s: %.1f s of audio in %.2f s, real-time factor %.3f%s", what, audio, wall,
        audio > 0.0 ? wall / audio : 0.0, more);
}

static int transcribe_to_output(struct transcriber *t, const char *path, const struct recording *recording,
                                const struct recording_speech *speech, struct longform_result *result,
                                struct err *err)
{
    const struct transcribe_options *o = &t->options;
    const struct transcript_target target = {
        .folder = o->output_dir, .formats = o->formats, .layout = {o->line_width, o->line_count}};
    int r = transcript_output_open(&t->output, &target, path, err);
    if (r < 0)
        return r;
    r = transcribe_pcm(t, recording, speech, result, err);
    progress_clear(&t->progress);
    if (r == 0)
        r = transcript_output_finish(&t->output, result, err);
    else
        transcript_output_abandon(&t->output);
    return r;
}

/* Long recordings take seconds to be read and to be listened to, after either of which an interruption is heeded. */
static int transcribe_recording(struct transcriber *t, const char *path, const struct recording *recording,
                                struct longform_result *result, struct err *err)
{
    struct recording_speech speech = {0};
    bool gate = !t->options.no_gate;
    int r = check_interrupted(t);
    if (r == 0 && gate)
        r = recording_find_speech(recording, &speech, err);
    if (r == 0)
        r = check_interrupted(t);
    if (r == 0)
        r = transcribe_to_output(t, path, recording, gate ? &speech : NULL, result, err);
    recording_speech_free(&speech);
    return r;
}

#define MISSING_S 0.1 /* less may be what a codec adds or takes at the ends */

/* Sound that is not there, although nothing was wrong with what is: told, but no error. */
static void tell_missing(struct transcriber *t, const char *path, const struct recording *r)
{
    double seconds = (double)r->n_samples / SAMPLE_RATE;
    if (r->damage.code || r->seconds_told < seconds + MISSING_S)
        return;
    progress_clear(&t->progress);
    say(PROGRAM ": %s has %.1f s of sound, but %.1f s by its header: it was cut short or is damaged",
        strcmp(path, "-") == 0 ? "standard input" : path, seconds, r->seconds_told);
    progress_restore(&t->progress);
}

/* 0 or a negative errno, with err. */
static int transcribe_file(struct transcriber *t, const char *path, struct err *err)
{
    int64_t start = clock_now_ns();
    struct recording recording = {0};
    struct longform_result result = {0};
    t->err = err;
    int r = strcmp(path, "-") == 0 ? recording_read_stdin(&recording, err)
                                   : recording_read(path, &recording, err);
    if (r == 0) {
        tell_missing(t, path, &recording);
        r = transcribe_recording(t, path, &recording, &result, err);
        if (r < 0)
            err_prefix(err, "%s", path);
    }
    double audio = (double)recording.n_samples / SAMPLE_RATE, wall = seconds_since(start);
    const struct err damage = recording.damage;
    recording_free(&recording);
    if (r < 0)
        return r;
    t->audio_seconds += audio;
    t->wall_seconds += wall;
    if (!t->options.quiet) {
        char more[128];
        snprintf(more, sizeof(more), " (%s, %d window%s, %d decoder steps; loading took %.2f s)",
                 result.language, result.n_windows, result.n_windows == 1 ? "" : "s", result.n_steps,
                 t->load_seconds);
        print_summary(path, audio, wall, more);
    }
    return damage.code ? err_set(err, damage.code, "%s; what is behind it is left out", damage.msg) : 0;
}

/* --- all of them --- */

/* What "auto" stands for, as in captiond. */
static const char *model_name(const struct transcribe_options *o)
{
    if (strcmp(o->model, "auto") != 0)
        return o->model;
    return o->translate ? "base" : model_path_auto(o->language);
}

static int check_model(const struct transcriber *t, struct err *err)
{
    const struct transcribe_options *o = &t->options;
    const struct special_tokens *special = tokenizer_special(t->model.tokenizer);
    const char *hint = special->multilingual ? "" : ": try --model base";
    if (o->language && tokenizer_language_token(t->model.tokenizer, o->language) < 0)
        return err_set(err, -EINVAL, "model %s does not know the language %s%s", model_name(o), o->language,
                       hint);
    if (o->translate && !special->multilingual)
        return err_set(err, -EINVAL, "model %s is for English only and cannot translate%s", model_name(o),
                       hint);
    if (o->beam_size > whisper_beams_max(t->model.whisper))
        return err_set(err, -EINVAL, "--beam-size %d: the engine %s has no beam search; --engine host has it",
                       o->beam_size, whisper_engine_name(t->model.whisper));
    return 0;
}

/* What a window cannot be told of is cut, as in other tools, but not in silence. */
static int check_prompt(const struct transcriber *t, struct err *err)
{
    const struct transcribe_options *o = &t->options;
    struct prompt told;
    int r = prompt_init(&told, t->model.tokenizer, t->model.base.n_text_ctx, o->hotwords, o->prompt,
                        o->carry_prompt, err);
    if (r == 0 && told.n_cut > 0)
        say(PROGRAM ": hotwords or prompt are too long: %d of their %d tokens do not fit and are left out; "
                    "of hotwords the last ones, of the prompt the %s",
            told.n_cut, told.n_cut + told.n_fixed + told.n_history, o->carry_prompt ? "last" : "first");
    return r;
}

static int open_model(struct transcriber *t, struct err *err)
{
    const struct transcribe_options *o = &t->options;
    int64_t start = clock_now_ns();
    int r = model_path_find(model_name(o), t->model_path, sizeof(t->model_path), err);
    if (r < 0)
        return r;
    /* Who searches with beams wants the best text: rounding then changes none of it, whatever the processor. */
    enum engine_precision precision = !strcmp(o->precision, "f32")    ? PRECISION_F32
                                      : !strcmp(o->precision, "int8") ? PRECISION_INT8
                                      : o->beam_size > 1              ? PRECISION_FINEST
                                                                      : PRECISION_AUTO;
    t->engine =
        (struct whisper_options){.engine = o->engine,
                                 .n_threads = o->n_threads,
                                 .precision = precision,
                                 .n_audio_slots = 1,
                                 .n_text_slots = o->best_of > o->beam_size ? o->best_of : o->beam_size};
    r = whisper_model_open(&t->model, t->model_path, &t->engine, err);
    if (r < 0)
        return r;
    t->load_seconds = seconds_since(start);
    r = check_model(t, err);
    return r < 0 ? r : check_prompt(t, err);
}

static void tell_no_device(const struct transcriber *t)
{
    const struct err *why = whisper_no_device(t->model.whisper);
    if (why->code && !t->options.quiet)
        say(PROGRAM ": the host engine computes: %s", why->msg);
}

/* Recordings whose files would overwrite each other are a mistake that is better told before than after. */
static int check_names(const struct transcribe_options *o, char **paths, int n)
{
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++) {
            bool twice = strcmp(paths[i], "-") == 0 && strcmp(paths[k], "-") == 0;
            if (!twice && !(o->output_dir && transcript_same_name(paths[i], paths[k])))
                continue;
            say(PROGRAM ": %s and %s would be written to the same file%s", paths[k], paths[i],
                twice ? ": standard input can be read only once" : "");
            return TRANSCRIBE_USAGE;
        }
    }
    return -1;
}

static int transcribe_all(struct transcriber *t, char **paths, int n)
{
    int n_done = 0, status = EXIT_SUCCESS;
    for (int i = 0; i < n && !interrupted; i++) {
        struct err err = {0};
        progress_begin(&t->progress, paths[i], i + 1, n);
        int r = transcribe_file(t, paths[i], &err);
        progress_clear(&t->progress);
        if (r < 0) {
            say(PROGRAM ": %s", err.msg);
            status = EXIT_FAILURE;
        }
        n_done += r == 0;
    }
    if (n_done > 1 && !t->options.quiet)
        print_summary("total", t->audio_seconds, t->wall_seconds, "");
    return interrupted ? 128 + interrupted : status;
}

int main(int argc, char **argv)
{
    static struct transcriber t;
    struct err err = {0};
    int first;
    cells_init();             /* numbers stay as in C */
    signal(SIGXFSZ, SIG_IGN); /* a limit to the size of files is told like a full disk */
    int status = transcribe_options_parse(&t.options, argc, argv, &first);
    if (status < 0)
        status = check_names(&t.options, argv + first, argc - first);
    if (status == EXIT_SUCCESS && stdout_finish(&err) < 0) {
        say(PROGRAM ": %s", err.msg);
        status = EXIT_FAILURE;
    }
    if (status >= 0)
        return status;
    progress_init(&t.progress, t.options.quiet);
    int r = t.options.output_dir ? transcript_make_folder(t.options.output_dir, &err) : 0;
    if (r == 0)
        r = open_model(&t, &err);
    if (r == 0) {
        tell_no_device(&t);
        unfinished = &t.output;
        main_thread = pthread_self();
        stop_signals_catch(interrupt, 0);
        status = transcribe_all(&t, argv + first, argc - first);
    } else {
        say(PROGRAM ": %s", err.msg);
        status = EXIT_FAILURE;
    }
    whisper_model_close(&t.model);
    return status;
}
