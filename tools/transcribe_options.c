#include "tools/transcribe_options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/longform.h"
#include "decoder/tokenizer.h"
#include "decoder/window.h"
#include "tools/transcript.h"

#define PROGRAM TRANSCRIBE_PROGRAM

enum kind { HEADING, FLAG, TEXT, WHOLE, REAL, LANGUAGE, FORMAT, CHOICE, HELP, VERSION };

struct row {
    enum kind kind;
    char letter;
    const char *name;
    size_t field;
    double least, most; /* WHOLE, REAL */
    const char
        *allowed; /* CHOICE: "default|other"; the field is a bool that tells whether it is the other one; of
                            more than two, the text */
    const char *argument, *help; /* no help: another name of the row above it */
};

#define FIELD(name) offsetof(struct transcribe_options, name)

/* clang-format off */
static const struct row rows[] = {
    {HEADING, 0, "Model and machine", 0, 0, 0, NULL, NULL, NULL},
    {TEXT, 'm', "model", FIELD(model), 0, 0, NULL, "auto|NAME|PATH",
     "the Whisper model (auto: tiny.en for English, else base, by --language or the locale)"},
    {CHOICE, 0, "engine", FIELD(engine), 0, 0, "auto|cuda|host", "auto|cuda|host",
     "auto: the GPU if it can be used, else the processor; cuda: the GPU or an error; host: no GPU (auto)"},
    {WHOLE, 't', "threads", FIELD(n_threads), 0, 64, NULL, "N",
     "threads of the host engine (0: as many as there are processors)"},
    {CHOICE, 0, "precision", FIELD(precision), 0, 0, "auto|f32|int8", "auto|f32|int8",
     "auto: the fastest, on the host with beams f32; f32: no GPU; int8: on a GPU, decoder weights of 8 bits"},

    {HEADING, 0, "What is said", 0, 0, 0, NULL, NULL, NULL},
    {LANGUAGE, 'l', "language", FIELD(language), 0, 0, NULL, "auto|CODE|NAME",
     "the language spoken (auto: found out by listening)"},
    {CHOICE, 0, "task", FIELD(translate), 0, 0, "transcribe|translate", "transcribe|translate",
     "translate: into English (transcribe)"},
    {CHOICE, 0, "gate", FIELD(no_gate), 0, 0, "on|off", "on|off",
     "on: only what the voice gate takes for speech is decoded (on)"},
    {TEXT, 0, "prompt", FIELD(prompt), 0, 0, NULL, "TEXT", "text that goes before: style, spelling, what it is about"},
    {TEXT, 0, "initial-prompt", FIELD(prompt), 0, 0, NULL, "TEXT", NULL},
    {FLAG, 0, "carry-prompt", FIELD(carry_prompt), 0, 0, NULL, NULL, "the prompt goes before every 30 seconds"},
    {FLAG, 0, "carry-initial-prompt", FIELD(carry_prompt), 0, 0, NULL, NULL, NULL},
    {TEXT, 0, "hotwords", FIELD(hotwords), 0, 0, NULL, "WORDS", "names and terms that are likely to be said"},

    {HEADING, 0, "Output", 0, 0, 0, NULL, NULL, NULL},
    {FORMAT, 'f', "format", 0, 0, 0, NULL, "FORMAT", "text, json, jsonl, srt, vtt, tsv or all; may be repeated (text)"},
    {FORMAT, 0, "output-format", 0, 0, 0, NULL, "FORMAT", NULL},
    {TEXT, 'o', "output-dir", FIELD(output_dir), 0, 0, NULL, "DIR",
     "write DIR/RECORDING.FORMAT, of text .txt (standard output, one format)"},
    {FLAG, 0, "word-timestamps", FIELD(word_times), 0, 0, NULL, NULL, "times of words, in json and jsonl; better subtitles"},
    {WHOLE, 0, "max-line-width", FIELD(line_width), 0, 1000, NULL, "N",
     "characters in a line of subtitles; word by word (0: any)"},
    {WHOLE, 0, "max-line-count", FIELD(line_count), 0, 100, NULL, "N", "lines of a subtitle (0: any)"},
    {FLAG, 'q', "quiet", FIELD(quiet), 0, 0, NULL, NULL, "nothing on standard error but errors and warnings"},

    {HEADING, 0, "Decoding", 0, 0, 0, NULL, NULL, NULL},
    {WHOLE, 0, "beam-size", FIELD(beam_size), 1, RUN_BEAMS_MAX, NULL, "N", "hypotheses at temperature 0 (1)"},
    {REAL, 0, "patience", FIELD(patience), 0.1, 10, NULL, "X", "how long a beam search goes on (1)"},
    {REAL, 0, "length-penalty", FIELD(length_penalty), -1, 10, NULL, "X",
     "exponent by which beams are measured (-1: divide by the length)"},
    {WHOLE, 0, "best-of", FIELD(best_of), 1, WINDOW_SAMPLES, NULL, "N", "samples at temperatures above 0 (5)"},
    {WHOLE, 0, "seed", FIELD(seed), 0, INT_MAX, NULL, "N", "of the samples: another one gives others (0)"},
    {REAL, 0, "temperature", FIELD(temperature), 0, 1, NULL, "X", "the first one (0: the most probable text)"},
    {REAL, 0, "temperature-increment", FIELD(temperature_increment), 0, 1, NULL, "X",
     "added up to 1 while the text looks wrong (0.2; 0: never)"},
    {REAL, 0, "temperature-increment-on-fallback", FIELD(temperature_increment), 0, 1, NULL, "X", NULL},
    {FLAG, 0, "no-condition-on-previous-text", FIELD(no_condition), 0, 0, NULL, NULL,
     "each 30 seconds are decoded for themselves"},
    {FLAG, 0, "without-timestamps", FIELD(without_timestamps), 0, 0, NULL, NULL,
     "text alone: a segment has up to 30 seconds"},
    {REAL, 0, "compression-ratio-threshold", FIELD(compression_ratio_threshold), 0, 100, NULL, "X",
     "more repetitive text looks wrong (2.4; 0: off)"},
    {REAL, 0, "logprob-threshold", FIELD(logprob_threshold), -100, 0, NULL, "X", "less probable text looks wrong (-1)"},
    {REAL, 0, "no-speech-threshold", FIELD(no_speech_threshold), 0, 1, NULL, "X",
     "what is less probable and no speech by more than this is silence (0.6)"},
    {REAL, 0, "hallucination-silence-threshold", FIELD(hallucination_silence), 0, 30, NULL, "SECONDS",
     "longer silence beside words that look made up is passed over, and they go (0: off)"},

    {HEADING, 0, "Help", 0, 0, 0, NULL, NULL, NULL},
    {HELP, 'h', "help", 0, 0, 0, NULL, NULL, "this page"},
    {VERSION, 0, "version", 0, 0, 0, NULL, NULL, "the version"},
};
/* clang-format on */

#define TEMPERATURE_LEAST 0.001f /* a temperature above 0 that decoding can divide by */

enum { N_ROWS = sizeof(rows) / sizeof(rows[0]), FIRST_LONG = 1000 };

static void print_help(void)
{
    puts("usage: " PROGRAM " [OPTION]… FILE…\n"
         "Writes what is said in recordings: a line a segment to standard output, or files. FILE may be -, "
         "standard\n"
         "input.");
    for (int i = 0; i < N_ROWS; i++) {
        const struct row *r = &rows[i];
        char left[64], letter[8] = "    ";
        if (r->kind == HEADING)
            printf("\n%s:\n", r->name);
        if (!r->help)
            continue;
        if (r->letter)
            snprintf(letter, sizeof(letter), "-%c, ", r->letter);
        int n = snprintf(left, sizeof(left), "  %s--%s %s", letter, r->name, r->argument ? r->argument : "");
        printf(n < 38 ? "%-38s%s\n" : "%s\n                                      %s\n", left, r->help);
    }
    puts("\nThe exit status is 0, 1 if a recording failed (the others are done), 2 for a bad command line, "
         "128 and the signal's\n"
         "number if it was interrupted.");
}

/* --- values --- */

static int bad(const struct row *r, const char *value, const char *allowed)
{
    fprintf(stderr, PROGRAM ": --%s \"%s\": must be %s\n", r->name, value, allowed);
    return TRANSCRIBE_USAGE;
}

static int parse_number(const struct row *r, const char *value, void *field)
{
    char *end, allowed[64];
    errno = 0;
    double x = strtod(value, &end);
    bool whole = r->kind == WHOLE;
    if (errno || end == value || *end || !(x >= r->least && x <= r->most) || (whole && x != floor(x))) {
        snprintf(allowed, sizeof(allowed), "a %snumber from %.10g to %.10g", whole ? "whole " : "", r->least,
                 r->most);
        return bad(r, value, allowed);
    }
    if (whole)
        *(int *)field = (int)x;
    else
        *(float *)field = (float)x;
    return -1;
}

static int parse_choice(const struct row *r, const char *value, void *field)
{
    char list[64], allowed[80] = "", *rest = list;
    int index = -1, i = 0;
    snprintf(list, sizeof(list), "%s", r->allowed);
    for (const char *word; (word = strsep(&rest, "|")); i++) {
        snprintf(allowed + strlen(allowed), sizeof(allowed) - strlen(allowed), "%s%s",
                 i == 0 ? ""
                 : rest ? ", "
                        : " or ",
                 word);
        if (strcmp(word, value) == 0)
            index = i;
    }
    if (index < 0)
        return bad(r, value, allowed);
    if (i > 2)
        *(const char **)field = value;
    else
        *(bool *)field = index == 1;
    return -1;
}

/* Adds one name, or several with commas between them. */
static int parse_formats(const struct row *r, const char *value, unsigned *formats)
{
    char list[128], *rest = list;
    if (snprintf(list, sizeof(list), "%s", value) >= (int)sizeof(list))
        return bad(r, value, "names of formats");
    for (const char *name; (name = strsep(&rest, ","));) {
        unsigned found = 0;
        for (int i = 0; transcript_formats[i].name; i++) {
            const struct transcript_format *f = &transcript_formats[i];
            if (strcmp(name, "all") == 0 || strcmp(name, f->name) == 0 || strcmp(name, f->extension) == 0)
                found |= 1u << i;
        }
        if (!found)
            return bad(r, value, "text, json, jsonl, srt, vtt, tsv or all");
        *formats |= found;
    }
    return -1;
}

static int parse_row(const struct row *r, const char *value, struct transcribe_options *o)
{
    void *field = (char *)o + r->field;
    switch (r->kind) {
    case FLAG:
        *(bool *)field = true;
        return -1;
    case TEXT:
        *(const char **)field = value;
        return -1;
    case WHOLE:
    case REAL:
        return parse_number(r, value, field);
    case CHOICE:
        return parse_choice(r, value, field);
    case FORMAT:
        return parse_formats(r, value, &o->formats);
    case LANGUAGE:
        o->language = tokenizer_language_code(value);
        return o->language || strcmp(value, "auto") == 0
                   ? -1
                   : bad(r, value, "auto or a language that Whisper knows, such as en or German");
    case HELP:
        print_help();
        return EXIT_SUCCESS;
    case VERSION:
        puts(PROGRAM " " CAPTIOND_VERSION);
        return EXIT_SUCCESS;
    case HEADING:
        break;
    }
    return TRANSCRIBE_USAGE;
}

/* --- the command line as a whole --- */

/* whisper writes its options with underscores. */
static void accept_underscores(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strncmp(argv[i], "--", 2) != 0)
            continue;
        for (char *c = argv[i]; *c && *c != '='; c++)
            *c = *c == '_' ? '-' : *c;
    }
}

static int check(struct transcribe_options *o, int n_files)
{
    const char *why = NULL;
    if (o->formats == 0)
        o->formats = 1;
    o->word_times |= o->line_width > 0; /* lines are broken between words whose times are known */
    bool several = (o->formats & (o->formats - 1)) != 0;
    if (n_files == 0)
        why = "no recording is given; try --help";
    else if (!o->output_dir && several)
        why = "several formats need --output-dir";
    else if (o->temperature_increment > 0.0f &&
             o->temperature + LONGFORM_TEMPERATURES * o->temperature_increment < 1.0f + 1e-4f)
        why = "--temperature-increment leads to too many temperatures: 0, or at least 0.07";
    else if (rintf((float)o->beam_size * o->patience) < 1.0f)
        why = "--patience is too little for so narrow a beam: its product with --beam-size must be above 0.5";
    else if (o->temperature > 0.0f && o->temperature < TEMPERATURE_LEAST)
        why = "a temperature is 0 or at least 0.001";
    else if (o->line_count > 0 && o->line_width == 0)
        why = "--max-line-count needs --max-line-width";
    else if (o->hallucination_silence > 0.0f && !o->word_times)
        why = "--hallucination-silence-threshold needs --word-timestamps";
    for (int i = 0; !why && !o->output_dir && n_files > 1 && transcript_formats[i].name; i++) {
        if (o->formats >> i & 1 && !transcript_formats[i].can_follow)
            why = "several recordings in this format need --output-dir";
    }
    if (why) {
        fprintf(stderr, PROGRAM ": %s\n", why);
        return TRANSCRIBE_USAGE;
    }
    return -1;
}

static const struct row *row_of(int option)
{
    for (int i = 0; i < N_ROWS; i++) {
        if (rows[i].kind != HEADING && (option == FIRST_LONG + i || option == rows[i].letter))
            return &rows[i];
    }
    return NULL;
}

/* What getopt_long refuses: `option` is what it returned, `word` the argument that it was at. */
static int refuse(int option, const char *word)
{
    const struct row *r = optopt ? row_of(optopt) : NULL;
    size_t length = strcspn(word, "=");
    bool begins = false;
    for (int i = 0; i < N_ROWS && length > 2; i++)
        begins |= rows[i].kind != HEADING && strncmp(word + 2, rows[i].name, length - 2) == 0;
    fprintf(stderr, PROGRAM ": ");
    if (r)
        fprintf(stderr, "--%s %s", r->name, option == ':' ? "needs a value" : "takes no value");
    else if (optopt)
        fprintf(stderr, "unknown option -%c", optopt);
    else
        fprintf(stderr, "%s %.*s", begins ? "more than one option begins with" : "unknown option",
                (int)length, word);
    fprintf(stderr, "; see " PROGRAM " --help\n");
    return TRANSCRIBE_USAGE;
}

static void set_defaults(struct transcribe_options *o)
{
    struct longform_options d;
    longform_defaults(&d);
    *o = (struct transcribe_options){.model = "auto",
                                     .engine = "auto",
                                     .precision = "auto",
                                     .beam_size = d.beam_size,
                                     .best_of = d.best_of,
                                     .patience = d.patience,
                                     .length_penalty = d.length_penalty,
                                     .temperature_increment = d.temperatures[1],
                                     .compression_ratio_threshold = d.compression_ratio_threshold,
                                     .logprob_threshold = d.logprob_threshold,
                                     .no_speech_threshold = d.no_speech_threshold};
}

int transcribe_options_parse(struct transcribe_options *o, int argc, char **argv, int *first)
{
    struct option table[N_ROWS + 1];
    char letters[2 * N_ROWS + 2] = ":"; /* a missing value is told apart */
    int n = 0;
    for (int i = 0; i < N_ROWS; i++) {
        const struct row *r = &rows[i];
        bool alone = r->kind == FLAG || r->kind == HELP || r->kind == VERSION;
        if (r->kind == HEADING)
            continue;
        table[n++] = (struct option){r->name, alone ? no_argument : required_argument, NULL, FIRST_LONG + i};
        if (r->letter)
            snprintf(letters + strlen(letters), sizeof(letters) - strlen(letters), "%c%s", r->letter,
                     alone ? "" : ":");
    }
    table[n] = (struct option){0};
    set_defaults(o);
    accept_underscores(argc, argv);
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, letters, table, NULL)) != -1;) {
        const struct row *r = row_of(option);
        int status = r ? parse_row(r, optarg, o) : refuse(option, argv[optind - 1]);
        if (status >= 0)
            return status;
    }
    *first = optind;
    return check(o, argc - optind);
}
