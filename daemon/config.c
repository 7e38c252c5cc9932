#include "daemon/config.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/socket_path.h"
#include "decoder/tokenizer.h"
#include "stream/source.h"

#define FILE_LINE_MAX 4096

static int check_socket(const char *value, struct err *err);
static int check_language(const char *value, struct err *err);

#define FIELD(name) offsetof(struct config, name)

static const struct config_key keys[] = {
    {.group = "Input",
     .name = "input",
     .type = CONFIG_INPUTS,
     .offset = FIELD(inputs),
     .fallback = "portaudio",
     .argument = "[NAME=]SOURCE",
     .help = "What to caption: portaudio (the default microphone), portaudio:DEVICE, monitor (what the\n"
             "computer plays), file:PATH, or pipe:RATE,CHANNELS,FORMAT (raw sound on standard input;\n"
             "s16le, s24le, s32le, f32le, u8). May be given several times, with names: mic=portaudio"},
    {.name = "pace",
     .type = CONFIG_CHOICE,
     .offset = FIELD(pace),
     .fallback = "realtime",
     .choices = "realtime|fast",
     .help = "How fast files are read: as they would be heard, or as fast as they are transcribed"},
    {.name = "once",
     .type = CONFIG_SWITCH,
     .offset = FIELD(once),
     .fallback = "off",
     .help = "End when every input has ended. Sockets are then only made where their paths are given"},
    {.name = "wait-for-device",
     .type = CONFIG_CHOICE,
     .offset = FIELD(wait_for_device),
     .fallback = "auto",
     .choices = "auto|yes|no",
     .help = "Whether a device that is missing at the start is waited for; auto: only as a service"},

    {.group = "Voice gate",
     .name = "gate",
     .type = CONFIG_SWITCH,
     .offset = FIELD(gate),
     .fallback = "on",
     .help = "Let only speech through to the model; off: everything, music and noise too"},
    {.name = "gate-threshold",
     .type = CONFIG_REAL,
     .offset = FIELD(gate_threshold),
     .fallback = "0.5",
     .min = 0.2,
     .max = 0.95,
     .argument = "P",
     .help = "Probability of speech at which an utterance begins"},
    {.name = "gate-min-speech",
     .type = CONFIG_INT,
     .offset = FIELD(gate_min_speech_ms),
     .fallback = "100",
     .min = 0,
     .max = 1000,
     .argument = "MS",
     .help = "Shorter bursts begin nothing"},
    {.name = "gate-silence",
     .type = CONFIG_INT,
     .offset = FIELD(gate_silence_ms),
     .fallback = "600",
     .min = 100,
     .max = 5000,
     .argument = "MS",
     .help = "Silence that ends an utterance"},
    {.name = "gate-pre-roll",
     .type = CONFIG_INT,
     .offset = FIELD(gate_pre_roll_ms),
     .fallback = "400",
     .min = 0,
     .max = 2000,
     .argument = "MS",
     .help = "Sound before the first speech that is transcribed with it"},
    {.name = "gate-pad",
     .type = CONFIG_INT,
     .offset = FIELD(gate_pad_ms),
     .fallback = "200",
     .min = 0,
     .max = 1000,
     .argument = "MS",
     .help = "Sound after the last speech that is transcribed with it"},

    {.group = "Model",
     .name = "model",
     .type = CONFIG_STRING,
     .offset = FIELD(model),
     .fallback = "auto",
     .argument = "NAME|PATH",
     .help = "A model's name (captiond-model list), a path, or auto: tiny.en where the locale is English,\n"
             "else base"},
    {.name = "engine",
     .type = CONFIG_CHOICE,
     .offset = FIELD(engine),
     .fallback = "auto",
     .choices = "auto|cuda|host",
     .help = "What computes"},
    {.name = "precision",
     .type = CONFIG_CHOICE,
     .offset = FIELD(precision),
     .fallback = "auto",
     .choices = "auto|f32",
     .help = "Number format of the products; auto: the fastest that the processor has"},
    {.name = "threads",
     .type = CONFIG_INT,
     .offset = FIELD(threads),
     .fallback = "0",
     .min = 0,
     .max = 256,
     .argument = "N",
     .help = "Threads that compute; 0: one for each processor"},
    {.name = "language",
     .type = CONFIG_STRING,
     .offset = FIELD(language),
     .fallback = "auto",
     .argument = "CODE",
     .check = check_language,
     .help = "Language that is spoken (en, de, …); auto: heard from the first words"},
    {.name = "task",
     .type = CONFIG_CHOICE,
     .offset = FIELD(task),
     .fallback = "transcribe",
     .choices = "transcribe|translate",
     .help = "Write what is said, or translate it into English"},

    {.group = "Captions",
     .name = "step",
     .type = CONFIG_INT,
     .offset = FIELD(step_ms),
     .fallback = "500",
     .min = 100,
     .max = 5000,
     .argument = "MS",
     .help = "New sound between two passes of the model, at least"},
    {.name = "max-buffer",
     .type = CONFIG_INT,
     .offset = FIELD(max_buffer_ms),
     .fallback = "15000",
     .min = 5000,
     .max = 28000,
     .argument = "MS",
     .help = "Sound that a pass looks at, at most; what is committed is cut off beyond it"},
    {.name = "max-lag",
     .type = CONFIG_INT,
     .offset = FIELD(max_lag_ms),
     .fallback = "10000",
     .min = 1000,
     .max = 30000,
     .argument = "MS",
     .help = "A machine that falls behind by more gives up the sound in between, and says so by a gap"},
    {.name = "max-utterance",
     .type = CONFIG_INT,
     .offset = FIELD(max_utterance_ms),
     .fallback = "30000",
     .min = 5000,
     .max = 600000,
     .argument = "MS",
     .help = "A longer utterance is ended between two words"},
    {.name = "draft",
     .type = CONFIG_SWITCH,
     .offset = FIELD(draft),
     .fallback = "on",
     .help = "Verify the words of the previous pass instead of decoding them again"},

    {.group = "Output",
     .name = "stdout",
     .type = CONFIG_CHOICE,
     .offset = FIELD(stdout_format),
     .fallback = "none",
     .choices = "none|text|jsonl",
     .help = "Print captions: a sentence or utterance a line, or every event as JSON"},
    {.name = "socket",
     .type = CONFIG_STRING,
     .offset = FIELD(socket),
     .fallback = "auto",
     .argument = "PATH",
     .check = check_socket,
     .help = "Unix socket for captions; auto: $XDG_RUNTIME_DIR/captiond/captions.sock\n"
             "(/run/captiond/captions.sock for the system service); none: no socket"},
    {.name = "control",
     .type = CONFIG_STRING,
     .offset = FIELD(control),
     .fallback = "auto",
     .argument = "PATH",
     .check = check_socket,
     .help = "Unix socket for captionctl's commands; auto: control.sock beside the other; none: no socket"},
    {.name = "socket-mode",
     .type = CONFIG_MODE,
     .offset = FIELD(socket_mode),
     .fallback = "0660",
     .argument = "MODE",
     .help = "Permissions of the captions socket: whoever may write to it may read along"},
    {.name = "control-mode",
     .type = CONFIG_MODE,
     .offset = FIELD(control_mode),
     .fallback = "0600",
     .argument = "MODE",
     .help = "Permissions of the control socket"},
    {.name = "clients-max",
     .type = CONFIG_INT,
     .offset = FIELD(clients_max),
     .fallback = "4096",
     .min = 1,
     .max = 65536,
     .argument = "N",
     .live = true,
     .help = "Clients at a time; further ones are told and turned away"},
    {.name = "client-timeout",
     .type = CONFIG_INT,
     .offset = FIELD(client_timeout_ms),
     .fallback = "5000",
     .min = 100,
     .max = 600000,
     .argument = "MS",
     .live = true,
     .help = "A client that takes nothing for so long is disconnected"},
    {.name = "history-events",
     .type = CONFIG_INT,
     .offset = FIELD(history_events),
     .fallback = "10000",
     .min = 16,
     .max = 10000000,
     .argument = "N",
     .live = true,
     .help = "Events that are kept for clients that come late or return"},
    {.name = "history-size",
     .type = CONFIG_INT,
     .offset = FIELD(history_kib),
     .fallback = "4096",
     .min = 256,
     .max = 1048576,
     .argument = "KIB",
     .live = true,
     .help = "Memory for these events, in KiB"},

    {.group = "Process",
     .name = "log-level",
     .type = CONFIG_CHOICE,
     .offset = FIELD(log_level),
     .fallback = "info",
     .choices = "error|warning|info|debug",
     .live = true,
     .help = "What is logged to standard error; never speech"},
    {.name = "allow-core-dumps",
     .type = CONFIG_SWITCH,
     .offset = FIELD(allow_core_dumps),
     .fallback = "off",
     .help = "Core dumps hold speech, so they are off; on for debugging"},
};
#define N_KEYS ((int)(sizeof(keys) / sizeof(keys[0])))
_Static_assert(sizeof(keys) / sizeof(keys[0]) <= CONFIG_KEYS_MAX, "struct config has room for every origin");

const struct config_key *config_keys(int *n)
{
    *n = N_KEYS;
    return keys;
}

/* --- checks of single values --------------------------------------------------------------------------------- */

static int check_socket(const char *value, struct err *err)
{
    if (!value[0])
        return err_set(err, -EINVAL, "must be a path, auto or none");
    return socket_path_check(value, err);
}

static int check_language(const char *value, struct err *err)
{
    if (strcmp(value, "auto") == 0 || tokenizer_language_code(value))
        return 0;
    return err_set(err, -EINVAL, "no language that Whisper knows: \"%s\"; a code like en or de, or auto",
                   value);
}

/* --- setting a value ----------------------------------------------------------------------------------------- */

static void *field(const struct config *config, const struct config_key *key)
{
    return (char *)config + key->offset;
}

static int set_string(char **to, const char *value, struct err *err)
{
    char *copy = strdup(value);
    if (!copy)
        return err_set(err, -ENOMEM, "out of memory");
    free(*to);
    *to = copy;
    return 0;
}

static int set_number(void *to, const struct config_key *key, const char *value, struct err *err)
{
    char *end, allowed[64];
    errno = 0;
    double number = key->type == CONFIG_INT ? (double)strtol(value, &end, 10) : strtod(value, &end);
    if (end == value || *end || errno || !(number >= key->min && number <= key->max)) {
        config_allowed(key, allowed, sizeof(allowed));
        return err_set(err, -EINVAL, "must be %s, not \"%s\"", allowed, value);
    }
    if (key->type == CONFIG_INT)
        *(int *)to = (int)number;
    else
        *(double *)to = number;
    return 0;
}

static int set_switch(bool *to, const char *value, struct err *err)
{
    static const char *const on[] = {"on", "yes", "true", "1"}, *const off[] = {"off", "no", "false", "0"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(value, on[i]) == 0 || strcmp(value, off[i]) == 0) {
            *to = strcmp(value, on[i]) == 0;
            return 0;
        }
    }
    return err_set(err, -EINVAL, "must be on or off, not \"%s\"", value);
}

static int set_choice(int *to, const struct config_key *key, const char *value, struct err *err)
{
    char allowed[64];
    size_t n = strlen(value);
    int index = 0;
    for (const char *choice = key->choices; choice; index++) {
        size_t length = strcspn(choice, "|");
        if (length == n && memcmp(choice, value, n) == 0) {
            *to = index;
            return 0;
        }
        choice = choice[length] ? choice + length + 1 : NULL;
    }
    config_allowed(key, allowed, sizeof(allowed));
    return err_set(err, -EINVAL, "must be %s, not \"%s\"", allowed, value);
}

static int set_mode(int *to, const char *value, struct err *err)
{
    char *end;
    long mode = strtol(value, &end, 8);
    if (end == value || *end || mode < 0 || mode > 0777)
        return err_set(err, -EINVAL, "must be permissions like 0660, not \"%s\"", value);
    *to = (int)mode;
    return 0;
}

/* The length of NAME where the value is NAME=SOURCE, 0 where it is a source alone. */
static size_t input_name_length(const char *value)
{
    size_t n = 0;
    while (isalnum((unsigned char)value[n]) || value[n] == '-' || value[n] == '_')
        n++;
    return value[n] == '=' ? n : 0;
}

static bool input_name_taken(const struct config *config, const char *name)
{
    for (int i = 0; i < config->n_inputs; i++) {
        if (strcmp(config->inputs[i].name, name) == 0)
            return true;
    }
    return false;
}

/* Streams without a name are called after their kind: mic, monitor, file, pipe; a second one file-2. */
static void name_input(const struct config *config, const char *spec, char *name)
{
    int kind = (int)strcspn(spec, ":");
    bool microphone = strncmp(spec, "portaudio", (size_t)kind) == 0;
    snprintf(name, CONFIG_INPUT_NAME, "%.*s", microphone ? 3 : kind, microphone ? "mic" : spec);
    for (int i = 2; input_name_taken(config, name); i++)
        snprintf(name, CONFIG_INPUT_NAME, "%.*s-%d", microphone ? 3 : kind, microphone ? "mic" : spec, i);
}

static int add_input(struct config *config, const char *value, struct err *err)
{
    if (config->n_inputs == STREAMS_MAX)
        return err_set(err, -EINVAL, "at most %d inputs are allowed", STREAMS_MAX);
    struct config_input input = {0};
    size_t n = input_name_length(value);
    if (n >= sizeof(input.name))
        return err_set(err, -EINVAL, "an input's name has at most %zu characters: %.*s",
                       sizeof(input.name) - 1, (int)n, value);
    const char *spec = n ? value + n + 1 : value;
    int r = source_check_spec(spec, err);
    if (r < 0)
        return r;
    memcpy(input.name, value, n);
    if (n == 0)
        name_input(config, spec, input.name);
    else if (input_name_taken(config, input.name))
        return err_set(err, -EINVAL, "two inputs are called %s", input.name);
    r = set_string(&input.spec, spec, err);
    if (r == 0)
        config->inputs[config->n_inputs++] = input;
    return r;
}

static void clear_inputs(struct config *config)
{
    for (int i = 0; i < config->n_inputs; i++)
        free(config->inputs[i].spec);
    config->n_inputs = 0;
}

static int set_value(struct config *config, const struct config_key *key, const char *value, struct err *err)
{
    int r = key->check ? key->check(value, err) : 0;
    if (r < 0)
        return r;
    void *to = field(config, key);
    switch (key->type) {
    case CONFIG_STRING:
        return value[0] ? set_string(to, value, err) : err_set(err, -EINVAL, "needs a value");
    case CONFIG_INT:
    case CONFIG_REAL:
        return set_number(to, key, value, err);
    case CONFIG_SWITCH:
        return set_switch(to, value, err);
    case CONFIG_CHOICE:
        return set_choice(to, key, value, err);
    case CONFIG_MODE:
        return set_mode(to, value, err);
    case CONFIG_INPUTS:
        return add_input(config, value, err);
    }
    return -EINVAL;
}

/* A later origin replaces an earlier one; within the file only inputs may be repeated, among flags the last wins. */
static int set_key(struct config *config, const char *name, const char *value, enum config_origin origin,
                   struct err *err)
{
    int i = 0;
    while (i < N_KEYS && strcmp(keys[i].name, name) != 0)
        i++;
    if (i == N_KEYS) {
        const char *near = config_nearest(name);
        return near ? err_set(err, -EINVAL, "unknown setting; did you mean %s?", near)
                    : err_set(err, -EINVAL, "unknown setting");
    }
    const struct config_key *key = &keys[i];
    if (key->type == CONFIG_INPUTS && config->set_by[i] != origin)
        clear_inputs(config);
    else if (origin == SET_BY_FILE && config->set_by[i] == origin && key->type != CONFIG_INPUTS)
        return err_set(err, -EINVAL, "is set a second time");
    config->set_by[i] = (unsigned char)origin;
    return set_value(config, key, value, err);
}

static int set_defaults(struct config *config, struct err *err)
{
    for (int i = 0; i < N_KEYS; i++) {
        int r = set_value(config, &keys[i], keys[i].fallback, err);
        if (r < 0)
            return err_prefix(err, "%s: its default", keys[i].name);
    }
    return 0;
}

/* --- the file ------------------------------------------------------------------------------------------------ */

struct file_reader {
    FILE *file;
    const char *path;
    struct config *config;
    struct err *err;
    int line;
    int failed; /* the first error; the lines after it are skipped */
};

/* inih reads line by line through this, so that the number of the line is known. Blanks at its beginning are taken off,
 * since inih would take an indented line for a continuation of the one before. */
static char *read_line(char *out, int size, void *ctx)
{
    struct file_reader *r = ctx;
    char line[FILE_LINE_MAX];
    if (r->failed || !fgets(line, sizeof(line), r->file))
        return NULL;
    r->line++;
    size_t skip = strspn(line, " \t");
    size_t n = strlen(line + skip);
    bool whole = strchr(line, '\n') || feof(r->file);
    if (n >= (size_t)size || !whole) {
        r->failed = err_set(r->err, -EINVAL, "%s:%d: the line is too long, at most %d bytes are allowed",
                            r->path, r->line, size - 3);
        return NULL;
    }
    memcpy(out, line + skip, n + 1);
    return out;
}

static int on_entry(void *ctx, const char *section, const char *name, const char *value)
{
    struct file_reader *r = ctx;
    if (r->failed)
        return 1;
    if (section[0]) {
        r->failed = err_set(r->err, -EINVAL, "%s:%d: this file has no sections, remove [%s]", r->path,
                            r->line, section);
        return 1;
    }
    r->failed = set_key(r->config, name, value, SET_BY_FILE, r->err);
    if (r->failed)
        err_prefix(r->err, "%s:%d: %s", r->path, r->line, name);
    return 1;
}

static int read_file(struct config *config, const char *path, bool optional, struct err *err)
{
    struct file_reader r = {.file = fopen(path, "re"), .path = path, .config = config, .err = err};
    if (!r.file) {
        int code = -errno;
        return optional && code == -ENOENT ? 0 : err_set(err, code, "%s: %s", path, strerror(-code));
    }
    int bad_line = ini_parse_stream(read_line, &r, on_entry, &r);
    if (!r.failed && ferror(r.file))
        r.failed = err_set(err, -EIO, "%s: cannot be read", path);
    if (!r.failed && bad_line)
        r.failed = err_set(err, -EINVAL, "%s:%d: expected KEY = VALUE or a comment", path, bad_line);
    fclose(r.file);
    if (!r.failed)
        r.failed = set_string(&config->file, path, err);
    return r.failed;
}

static int read_default_file(struct config *config, struct err *err)
{
    char path[4096];
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    path[0] = '\0';
    if (xdg && xdg[0])
        snprintf(path, sizeof(path), "%s/captiond/captiond.conf", xdg);
    else if (home && home[0])
        snprintf(path, sizeof(path), "%s/.config/captiond/captiond.conf", home);
    int r = path[0] ? read_file(config, path, true, err) : 0;
    if (r < 0 || config->file)
        return r;
    return read_file(config, "/etc/captiond/captiond.conf", true, err);
}

/* --- the command line ---------------------------------------------------------------------------------------- */

static const struct {
    const char *flag;
    enum config_action action;
} actions[] = {
    {"help", ACTION_HELP},
    {"version", ACTION_VERSION},
    {"list-devices", ACTION_LIST_DEVICES},
    {"print-config", ACTION_PRINT_CONFIG},
};

static bool find_action(const char *name, enum config_action *action)
{
    for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
        if (strcmp(name, actions[i].flag) == 0) {
            *action = actions[i].action;
            return true;
        }
    }
    return false;
}

static bool is_switch(const char *name)
{
    for (int i = 0; i < N_KEYS; i++) {
        if (strcmp(name, keys[i].name) == 0)
            return keys[i].type == CONFIG_SWITCH;
    }
    return false;
}

/* --name VALUE, --name=VALUE, and for switches --name alone. */
static int next_flag(int argc, char *const *argv, int *i, char *name, size_t size, const char **value,
                     struct err *err)
{
    const char *arg = argv[*i];
    if (strcmp(arg, "-h") == 0)
        arg = "--help";
    if (strncmp(arg, "--", 2) != 0 || !arg[2])
        return err_set(err, -EINVAL, "unexpected argument \"%s\": every setting is a flag, see --help", arg);
    const char *equals = strchr(arg, '=');
    size_t n = equals ? (size_t)(equals - arg - 2) : strlen(arg + 2);
    snprintf(name, size, "%.*s", (int)n, arg + 2);
    (*i)++;
    enum config_action action;
    if (equals) {
        *value = equals + 1;
    } else if (find_action(name, &action)) {
        *value = "";
    } else if (*i < argc && strncmp(argv[*i], "--", 2) != 0) {
        *value = argv[(*i)++];
    } else if (is_switch(name)) {
        *value = "on";
    } else {
        *value = NULL;
    }
    return 0;
}

/* Goes through the flags twice: first for --config and the action, then, on top of the file, for the settings. */
static int read_flags(struct config *config, int argc, char *const *argv, bool settings,
                      enum config_action *action, const char **path, struct err *err)
{
    for (int i = 1; i < argc;) {
        char name[64];
        const char *value;
        int r = next_flag(argc, argv, &i, name, sizeof(name), &value, err);
        if (r < 0)
            return r;
        if (find_action(name, action))
            continue;
        if (strcmp(name, "config") == 0) {
            if (!value || !value[0])
                return err_set(err, -EINVAL, "--config needs a file");
            *path = value;
        } else if (settings) {
            r = set_key(config, name, value ? value : "", SET_BY_FLAG, err);
            if (r < 0)
                return err_prefix(err, "--%s", name);
        }
    }
    return 0;
}

static int check_together(const struct config *config, struct err *err)
{
    bool paths = strcmp(config->socket, "auto") != 0 && strcmp(config->socket, "none") != 0;
    if (paths && strcmp(config->socket, config->control) == 0)
        return err_set(err, -EINVAL, "socket and control must differ: both are %s", config->socket);
    int pipes = 0;
    for (int i = 0; i < config->n_inputs; i++)
        pipes += strncmp(config->inputs[i].spec, "pipe:", 5) == 0;
    if (pipes > 1)
        return err_set(err, -EINVAL, "input: only one can be a pipe, there is one standard input");
    return 0;
}

int config_load(struct config *out, int argc, char *const *argv, enum config_action *action, struct err *err)
{
    struct config config = {0};
    enum config_action asked = ACTION_RUN;
    const char *path = NULL;
    int r = set_defaults(&config, err);
    if (r == 0)
        r = read_flags(&config, argc, argv, false, &asked, &path, err);
    if (r == 0 && asked != ACTION_HELP && asked != ACTION_VERSION)
        r = path ? read_file(&config, path, false, err) : read_default_file(&config, err);
    if (r == 0)
        r = read_flags(&config, argc, argv, true, &asked, &path, err);
    if (r == 0)
        r = check_together(&config, err);
    if (r < 0) {
        config_finish(&config);
        return r;
    }
    *out = config;
    *action = asked;
    return 0;
}

void config_finish(struct config *config)
{
    if (!config)
        return;
    clear_inputs(config);
    for (int i = 0; i < N_KEYS; i++) {
        if (keys[i].type == CONFIG_STRING) {
            char **s = field(config, &keys[i]);
            free(*s);
            *s = NULL;
        }
    }
    free(config->file);
    config->file = NULL;
}

void config_swap(struct config *a, struct config *b, const struct config_key *key)
{
    static const size_t sizes[] = {
        [CONFIG_STRING] = sizeof(char *),
        [CONFIG_INT] = sizeof(int),
        [CONFIG_REAL] = sizeof(double),
        [CONFIG_SWITCH] = sizeof(bool),
        [CONFIG_CHOICE] = sizeof(int),
        [CONFIG_MODE] = sizeof(int),
        [CONFIG_INPUTS] = 0, /* never changes in a running daemon */
    };
    char kept[sizeof(double)];
    memcpy(kept, field(a, key), sizes[key->type]);
    memcpy(field(a, key), field(b, key), sizes[key->type]);
    memcpy(field(b, key), kept, sizes[key->type]);
}
