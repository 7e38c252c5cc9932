#include "daemon/config.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/utf8.h"
#include "stream/source.h"

#define FILE_LINE_MAX   4096
#define BYTE_ORDER_MARK "\xEF\xBB\xBF"

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

/* Words for the model. It has a limit of its own, in tokens; this one bounds memory and messages. */
static int set_text(char **to, const char *value, struct err *err)
{
    size_t n = strlen(value);
    if (n > CONFIG_TEXT_MAX)
        return err_set(err, -EINVAL, "%zu bytes of text, at most %d are allowed", n, CONFIG_TEXT_MAX);
    bool plain = utf8_valid_prefix(value, n) == n;
    for (size_t i = 0; i < n; i++)
        plain &= (unsigned char)value[i] >= ' ' && value[i] != 0x7F;
    if (!plain)
        return err_set(err, -EINVAL, "must be text in UTF-8, without control characters");
    return set_string(to, value, err);
}

/* A further line of a text in the file. */
static int add_text(char **to, const char *value, struct err *err)
{
    char *whole = NULL;
    if (asprintf(&whole, "%s%s%s", *to, (*to)[0] && value[0] ? " " : "", value) < 0)
        return err_set(err, -ENOMEM, "out of memory");
    int r = set_text(to, whole, err);
    free(whole);
    return r;
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
        return set_string(to, value, err);
    case CONFIG_TEXT:
        return set_text(to, value, err);
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

/* NULL, with an error, where there is none. */
static const struct config_key *find_key(const char *name, struct err *err)
{
    int n;
    const struct config_key *keys = config_keys(&n);
    for (int i = 0; i < n; i++) {
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    }
    const char *near = config_nearest(name);
    if (near)
        err_set(err, -EINVAL, "unknown setting; did you mean %s?", near);
    else
        err_set(err, -EINVAL, "unknown setting");
    return NULL;
}

/* A later origin replaces an earlier one; within the file only inputs and texts may be repeated, among flags the last wins. */
static int set_key(struct config *config, const char *name, const char *value, enum config_origin origin,
                   struct err *err)
{
    int n;
    const struct config_key *key = find_key(name, err);
    if (!key)
        return -EINVAL;
    ptrdiff_t i = key - config_keys(&n);
    if (!value || (!value[0] && key->type != CONFIG_TEXT))
        return err_set(err, -EINVAL, "needs a value");
    bool again = origin == SET_BY_FILE && config->set_by[i] == origin;
    if (again && key->type == CONFIG_TEXT)
        return add_text(field(config, key), value, err);
    if (key->type == CONFIG_INPUTS && config->set_by[i] != origin)
        clear_inputs(config);
    else if (again && key->type != CONFIG_INPUTS)
        return err_set(err, -EINVAL, "is set a second time");
    config->set_by[i] = (unsigned char)origin;
    return set_value(config, key, value, err);
}

static int refuse_to_change(struct err *err)
{
    char names[ERR_MSG_MAX] = "";
    int n;
    const struct config_key *keys = config_keys(&n);
    for (int i = 0; i < n; i++) {
        size_t used = strlen(names);
        if (keys[i].live)
            snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", keys[i].name);
    }
    return err_set(err, -EINVAL, "needs a restart; what can change while captiond runs: %s", names);
}

int config_set_live(struct config *config, const char *name, const char *value, const struct config_key **out,
                    struct err *err)
{
    const struct config_key *key = find_key(name, err);
    int r = !key ? -EINVAL : key->live ? 0 : refuse_to_change(err);
    if (r == 0 && !value[0] && key->type != CONFIG_TEXT)
        r = err_set(err, -EINVAL, "needs a value");
    if (r == 0)
        r = set_value(config, key, value, err);
    if (r < 0) {
        err_prefix(err, "%s", name);
        return r;
    }
    *out = key;
    return 0;
}

static int set_defaults(struct config *config, struct err *err)
{
    int n;
    const struct config_key *keys = config_keys(&n);
    for (int i = 0; i < n; i++) {
        int r = set_value(config, &keys[i], keys[i].fallback, err);
        if (r < 0) {
            err_prefix(err, "%s: its default", keys[i].name);
            return r;
        }
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
 * since inih would take an indented line for a continuation of the one before. Of a section inih tells only with the key that
 * follows, if one does. */
static char *read_line(char *out, int size, void *ctx)
{
    struct file_reader *r = ctx;
    char line[FILE_LINE_MAX];
    if (r->failed || !fgets(line, sizeof(line), r->file))
        return NULL;
    r->line++;
    size_t skip = r->line == 1 && strncmp(line, BYTE_ORDER_MARK, 3) == 0 ? 3 : 0;
    skip += strspn(line + skip, " \t");
    size_t n = strlen(line + skip);
    bool whole = strchr(line, '\n') || feof(r->file);
    if (n >= (size_t)size || !whole) {
        r->failed = err_set(r->err, -EINVAL, "%s:%d: the line is too long, at most %d bytes are allowed",
                            r->path, r->line, size - 3);
        return NULL;
    }
    if (line[skip] == '[') {
        r->failed = err_set(r->err, -EINVAL, "%s:%d: this file has no sections, remove %.*s", r->path,
                            r->line, (int)strcspn(line + skip, "\r\n"), line + skip);
        return NULL;
    }
    memcpy(out, line + skip, n + 1);
    return out;
}

/* Takes off the backslash that keeps `;` at the beginning of a word from beginning a comment, see config_print. */
static void unescape(char *out, const char *value)
{
    for (const char *p = value; *p; p++) {
        if (*p != '\\' || !config_begins_comment(value, p))
            *out++ = *p;
    }
    *out = '\0';
}

static int on_entry(void *ctx, const char *section, const char *name, const char *value)
{
    struct file_reader *r = ctx;
    char text[FILE_LINE_MAX];
    if (r->failed)
        return 1;
    unescape(text, value ? value : ""); /* shorter than the line that it is from */
    r->failed = set_key(r->config, name, value ? text : NULL, SET_BY_FILE, r->err);
    if (r->failed && strstr(text, " #")) {
        struct err cause = *r->err;
        err_set(r->err, r->failed, "%s (a comment behind a value begins with ;)", cause.msg);
    }
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
    int n;
    const struct config_key *keys = config_keys(&n);
    for (int i = 0; i < n; i++) {
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
        const char *value = NULL;
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
            r = set_key(config, name, value, SET_BY_FLAG, err);
            if (r < 0) {
                err_prefix(err, "--%s", name);
                return r;
            }
        }
    }
    return 0;
}

static int check_together(const struct config *config, struct err *err)
{
    assert(config->socket && config->control); /* the defaults set every string */
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
    int n;
    const struct config_key *keys = config_keys(&n);
    clear_inputs(config);
    for (int i = 0; i < n; i++) {
        if (keys[i].type == CONFIG_STRING || keys[i].type == CONFIG_TEXT) {
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
        [CONFIG_STRING] = sizeof(char *), [CONFIG_TEXT] = sizeof(char *),
        [CONFIG_INT] = sizeof(int),       [CONFIG_REAL] = sizeof(double),
        [CONFIG_SWITCH] = sizeof(bool),   [CONFIG_CHOICE] = sizeof(int),
        [CONFIG_MODE] = sizeof(int),      [CONFIG_INPUTS] = 0, /* never changes in a running daemon */
    };
    char kept[sizeof(double)];
    memcpy(kept, field(a, key), sizes[key->type]);
    memcpy(field(a, key), field(b, key), sizes[key->type]);
    memcpy(field(b, key), kept, sizes[key->type]);
}
