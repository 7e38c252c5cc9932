/* What can be set, from where, and within which bounds.
 *
 * One table (config_table.c) describes every setting: its name, which is both the flag's and the key's in the file, type,
 * default, bounds, help, and whether a running daemon can change it. Flags, file, --help and the example configuration all
 * come from it; a new setting is a field here and a row there. Flags win over the file, the file over the defaults.
 * Belongs to the main thread. */
#ifndef CAPTIOND_DAEMON_CONFIG_H
#define CAPTIOND_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "daemon/base/err.h"
#include "daemon/event.h"

#define CONFIG_KEYS_MAX   64
#define CONFIG_INPUT_NAME 32   /* bytes of a stream's name, NUL included */
#define CONFIG_TEXT_MAX   1024 /* bytes of a text */
#define CONFIG_VALUE_MAX  4200 /* bytes of any value, written out, and NUL */

/* The order of each is that of its choices in the table. */
enum config_pace { PACE_REALTIME, PACE_FAST };
enum config_stdout { STDOUT_NONE, STDOUT_TEXT, STDOUT_JSONL };
enum config_task { TASK_TRANSCRIBE, TASK_TRANSLATE };
enum config_wait { WAIT_AUTO, WAIT_YES, WAIT_NO };
enum config_engine { CONFIG_ENGINE_AUTO, CONFIG_ENGINE_CUDA, CONFIG_ENGINE_HOST };
enum config_precision { CONFIG_PRECISION_AUTO, CONFIG_PRECISION_F32, CONFIG_PRECISION_INT8 };

struct config_input {
    char name[CONFIG_INPUT_NAME];
    char *spec; /* for source_open */
};

struct config {
    struct config_input inputs[STREAMS_MAX];
    int n_inputs;
    int pace, wait_for_device;
    bool once;

    bool gate;
    double gate_threshold;
    int gate_min_speech_ms, gate_silence_ms, gate_pre_roll_ms, gate_pad_ms;

    char *model, *language;
    int engine, precision, task, threads;
    bool language_lock;
    char *prompt, *hotwords; /* "": none */

    int step_ms, max_buffer_ms, max_lag_ms, max_utterance_ms;
    bool draft, guard;
    int beam_size;

    int stdout_format;
    char *socket, *control; /* "auto", "none" or a path */
    int socket_mode, control_mode;
    int clients_max, client_timeout_ms, history_events, history_kib;

    int log_level;
    bool allow_core_dumps;

    char *file;                            /* that was read; NULL: none */
    unsigned char set_by[CONFIG_KEYS_MAX]; /* enum config_origin of each key */
};

enum config_origin { SET_BY_DEFAULT, SET_BY_FILE, SET_BY_FLAG };

/* What the command line asks for besides settings. */
enum config_action { ACTION_RUN, ACTION_HELP, ACTION_VERSION, ACTION_LIST_DEVICES, ACTION_PRINT_CONFIG };

enum config_type {
    CONFIG_STRING,
    CONFIG_TEXT, /* words for the model: UTF-8 of one line, may be empty; several lines of the file are one text */
    CONFIG_INT,
    CONFIG_REAL,
    CONFIG_SWITCH, /* on or off */
    CONFIG_CHOICE, /* one of `choices`; stored as its index */
    CONFIG_MODE,   /* permissions, octal */
    CONFIG_INPUTS, /* may be given several times */
};

struct config_key {
    const char *group; /* heading in front of this key; NULL: the one before goes on */
    const char *name;
    enum config_type type;
    size_t offset; /* of the field in struct config */
    const char *fallback;
    double min, max;     /* numbers */
    const char *choices; /* "a|b|c" */
    const char *argument;
    bool live;     /* SIGHUP and `captionctl set` change it in a running daemon */
    bool decoding; /* pipeline_settings reads it: a captioner has to be told */
    const char *help;
    int (*check)(const char *value, struct err *); /* in addition to type and bounds; NULL: nothing more */
};

const struct config_key *config_keys(int *n);

/* Reads defaults, file and flags into a new configuration. Without --config the file is
 * $XDG_CONFIG_HOME/captiond/captiond.conf (~/.config/…), else /etc/captiond/captiond.conf, and may be missing.
 * 0, or a negative errno with a message that names flag or file, line and key and says what is allowed; then
 * there is nothing to finish. */
int config_load(struct config *, int argc, char *const *argv, enum config_action *, struct err *);
void config_finish(struct config *); /* NULL and zeroed objects are accepted */

/* Sets a `live` key by name, by the same rules as in a file, and says which it is. -EINVAL with a message that names the key, for
 * one that is not live with all that are; then nothing is changed. The rest of the configuration may be zero. */
int config_set_live(struct config *, const char *name, const char *value, const struct config_key **,
                    struct err *);

/* The key's value as it would be written in a file. Inputs have several, by index. False: there is none such. */
bool config_value(const struct config *, const struct config_key *, int index, char *out, size_t size);

bool config_differs(const struct config *, const struct config *, const struct config_key *);

/* Exchanges the key's value between two configurations. */
void config_swap(struct config *, struct config *, const struct config_key *);

void config_print_help(FILE *);

/* A commented file with every key: set ones as they are, the others commented out with their defaults. 0; -E2BIG or -EINVAL where a
 * value that a flag has given cannot stand in a file: then the file ends before it. */
int config_print(const struct config *, FILE *, struct err *);

/* Whether a file would take what begins at `at` in a value for a comment: a word of `;`, with backslashes before that or without. */
bool config_begins_comment(const char *text, const char *at);

/* What the key allows, for people: "100 to 5000 ms", "realtime or fast". */
void config_allowed(const struct config_key *, char *out, size_t size);

/* The name that was probably meant, or NULL where nothing is near. */
const char *config_nearest(const char *name);

#endif
