/* The table of settings in words: help, the example file, and what an error says is allowed. */
#include "daemon/config.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include <ini.h>

#include "daemon/base/socket_path.h"

#define FILE_TEXT_WIDTH 100 /* bytes of a text in a line */
#define FILE_LINE_BYTES (INI_MAX_LINE - 3)

static const void *field(const struct config *config, const struct config_key *key)
{
    return (const char *)config + key->offset;
}

static void choice_name(const char *choices, int index, char *out, size_t size)
{
    while (index-- > 0)
        choices = strchr(choices, '|') + 1;
    snprintf(out, size, "%.*s", (int)strcspn(choices, "|"), choices);
}

bool config_value(const struct config *config, const struct config_key *key, int index, char *out,
                  size_t size)
{
    const void *from = field(config, key);
    if (key->type == CONFIG_INPUTS ? index >= config->n_inputs : index > 0)
        return false;
    switch (key->type) {
    case CONFIG_STRING:
    case CONFIG_TEXT:
        snprintf(out, size, "%s", *(char *const *)from);
        break;
    case CONFIG_INT:
        snprintf(out, size, "%d", *(const int *)from);
        break;
    case CONFIG_REAL:
        snprintf(out, size, "%g", *(const double *)from);
        break;
    case CONFIG_SWITCH:
        snprintf(out, size, "%s", *(const bool *)from ? "on" : "off");
        break;
    case CONFIG_CHOICE:
        choice_name(key->choices, *(const int *)from, out, size);
        break;
    case CONFIG_MODE:
        snprintf(out, size, "%04o", (unsigned)*(const int *)from);
        break;
    case CONFIG_INPUTS:
        snprintf(out, size, "%s=%s", config->inputs[index].name, config->inputs[index].spec);
        break;
    }
    return true;
}

bool config_differs(const struct config *a, const struct config *b, const struct config_key *key)
{
    char in_a[CONFIG_VALUE_MAX], in_b[CONFIG_VALUE_MAX];
    bool more_a = true, more_b = true;
    for (int i = 0; more_a && more_b; i++) {
        more_a = config_value(a, key, i, in_a, sizeof(in_a));
        more_b = config_value(b, key, i, in_b, sizeof(in_b));
        if (more_a && more_b && strcmp(in_a, in_b) != 0)
            return true;
    }
    return more_a != more_b;
}

static const char *unit_of(const struct config_key *key)
{
    return strcmp(key->argument, "MS") == 0 ? " ms" : strcmp(key->argument, "KIB") == 0 ? " KiB" : "";
}

void config_allowed(const struct config_key *key, char *out, size_t size)
{
    out[0] = '\0';
    if (key->type == CONFIG_INT || key->type == CONFIG_REAL) {
        const char *format =
            key->max >= 1e6 ? "%.0f to %.0f%s" : "%g to %g%s"; /* %g would write an exponent */
        snprintf(out, size, format, key->min, key->max, unit_of(key));
    } else if (key->type == CONFIG_SWITCH) {
        snprintf(out, size, "on or off");
    } else if (key->type == CONFIG_TEXT) {
        snprintf(out, size, "at most %d bytes", CONFIG_TEXT_MAX);
    } else if (key->type == CONFIG_CHOICE) {
        size_t n = 0;
        for (const char *c = key->choices; c;) {
            size_t length = strcspn(c, "|");
            const char *next = c[length] ? c + length + 1 : NULL;
            const char *joint = n == 0 ? "" : next ? ", " : " or ";
            n += (size_t)snprintf(out + n, size - n, "%s%.*s", joint, (int)length, c);
            c = next;
        }
    }
}

/* --- a name that was meant ----------------------------------------------------------------------------------- */

static int min3(int a, int b, int c)
{
    int ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Levenshtein's distance, an exchange of neighbours counting once (optimal string alignment). */
static int distance(const char *a, const char *b)
{
    int d[64][64];
    int n = (int)strnlen(a, 63), m = (int)strnlen(b, 63);
    for (int i = 0; i <= n; i++)
        d[i][0] = i;
    for (int j = 0; j <= m; j++)
        d[0][j] = j;
    for (int i = 1; i <= n; i++) {
        for (int j = 1; j <= m; j++) {
            int change = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            d[i][j] = min3(d[i - 1][j] + 1, d[i][j - 1] + 1, change);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < d[i][j])
                d[i][j] = d[i - 2][j - 2] + 1;
        }
    }
    return d[n][m];
}

const char *config_nearest(const char *name)
{
    int n, best = 1 + (int)strnlen(name, 63) / 3; /* a third of the letters may be wrong */
    const char *nearest = NULL;
    const struct config_key *keys = config_keys(&n);
    for (int i = 0; i < n; i++) {
        int d = distance(name, keys[i].name);
        if (d < best || (d == best && !nearest)) {
            best = d;
            nearest = keys[i].name;
        }
    }
    return nearest;
}

/* --- help and example ---------------------------------------------------------------------------------------- */

static void print_lines(FILE *f, const char *prefix, const char *text)
{
    while (text) {
        int n = (int)strcspn(text, "\n");
        fprintf(f, "%s%.*s\n", prefix, n, text);
        text = text[n] ? text + n + 1 : NULL;
    }
}

static void describe(FILE *f, const char *prefix, const struct config_key *key)
{
    char allowed[128];
    config_allowed(key, allowed, sizeof(allowed));
    print_lines(f, prefix, key->help);
    fprintf(f, "%s(%s%sdefault %s)\n", prefix, allowed, allowed[0] ? "; " : "",
            key->fallback[0] ? key->fallback : "none");
}

static const char *argument_of(const struct config_key *key)
{
    return key->type == CONFIG_SWITCH ? "on|off" : key->choices ? key->choices : key->argument;
}

void config_print_help(FILE *f)
{
    int n;
    const struct config_key *keys = config_keys(&n);
    fputs("captiond: live captions from a microphone to a Unix socket\n"
          "\n"
          "usage: captiond [--config FILE] [--SETTING VALUE]...\n"
          "\n"
          "  --config FILE     settings; without it ~/.config/captiond/captiond.conf, else\n"
          "                    /etc/captiond/captiond.conf, where they exist\n"
          "  --list-devices    what portaudio:DEVICE can name\n"
          "  --print-config    all settings, in the form of a file\n"
          "  --version, --help\n"
          "\n"
          "Each setting below is a flag, and a line `setting = value` in the file. Flags win.\n",
          f);
    for (int i = 0; i < n; i++) {
        if (keys[i].group)
            fprintf(f, "\n%s\n", keys[i].group);
        fprintf(f, "  --%s %s\n", keys[i].name, argument_of(&keys[i]));
        describe(f, "        ", &keys[i]);
    }
    fputs("\nExit status: 0 done or stopped by SIGTERM or SIGINT; 1 failed while running; 2 wrong flag, "
          "setting\n"
          "or configuration file.\n",
          f);
}

bool config_begins_comment(const char *text, const char *at)
{
    return (at == text || isspace((unsigned char)at[-1])) && at[strspn(at, "\\")] == ';';
}

/* A backslash before a word that would begin a comment keeps it, and the reader takes it off. */
static int escape(char *out, const char *words, int n)
{
    char *end = out;
    for (int i = 0; i < n; i++) {
        if (config_begins_comment(words, words + i))
            *end++ = '\\';
        *end++ = words[i];
    }
    *end = '\0';
    return (int)(end - out);
}

static int print_line(FILE *f, const char *name, const char *value, int n, struct err *err)
{
    char words[2 * CONFIG_VALUE_MAX];
    if (n > 0 && (isspace((unsigned char)value[0]) || isspace((unsigned char)value[n - 1])))
        return err_set(err, -EINVAL, "%s: a file keeps no blanks around a value: give it as a flag", name);
    if (strlen(name) + strlen(" = ") + (size_t)escape(words, value, n) > FILE_LINE_BYTES)
        return err_set(err, -E2BIG,
                       "%s: \"%.40s…\" does not fit into a line of a file, of %d bytes: give it as a flag",
                       name, value, FILE_LINE_BYTES);
    fprintf(f, "%s = %s\n", name, words);
    return 0;
}

/* The lines of a file are short, so a long text has several, broken at blanks. */
static int print_value(FILE *f, const struct config_key *key, const char *value, struct err *err)
{
    while (key->type == CONFIG_TEXT && strlen(value) > FILE_TEXT_WIDTH) {
        int n = FILE_TEXT_WIDTH;
        while (n > 0 && value[n] != ' ')
            n--;
        if (n == 0) /* a long word by itself */
            n = (int)strcspn(value, " ");
        if (value[n] == '\0')
            break;
        int r = print_line(f, key->name, value, n, err);
        if (r < 0)
            return r;
        value += n + 1;
    }
    return print_line(f, key->name, value, (int)strlen(value), err);
}

int config_print(const struct config *config, FILE *f, struct err *err)
{
    int n, r = 0;
    const struct config_key *keys = config_keys(&n);
    char value[CONFIG_VALUE_MAX];
    fputs("# Configuration of captiond. Lines that are commented out show the defaults.\n"
          "# Settings marked * can change in a running daemon: captionctl set, or this file and SIGHUP. The "
          "others need a restart.\n",
          f);
    for (int i = 0; i < n && r == 0; i++) {
        if (keys[i].group)
            fprintf(f, "\n# --- %s ---\n", keys[i].group);
        fputc('\n', f);
        describe(f, keys[i].live ? "# * " : "# ", &keys[i]);
        if (config->set_by[i] == SET_BY_DEFAULT)
            fprintf(f, "#%s =%s%s\n", keys[i].name, keys[i].fallback[0] ? " " : "", keys[i].fallback);
        else
            for (int k = 0; r == 0 && config_value(config, &keys[i], k, value, sizeof(value)); k++)
                r = print_value(f, &keys[i], value, err);
    }
    return r;
}
