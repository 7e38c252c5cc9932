/* captionctl: shows captiond's captions and tells the daemon what to do. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/socket_path.h"
#include "daemon/base/stdout_finish.h"
#include "tools/cells.h"
#include "tools/control_call.h"
#include "tools/follow.h"

#define PROGRAM "captionctl"

enum { EXIT_USAGE = 2, EXIT_NOT_CONNECTED = 3 };

static const char usage[] =
    "usage: " PROGRAM " COMMAND [OPTION]…\n"
    "\n"
    "follow      show captions as they are spoken\n"
    "  --format text      a sentence or utterance a line, when it is complete (the default)\n"
    "           stream    the committed words as they come\n"
    "           jsonl     every event, as the daemon writes it\n"
    "           live      the whole terminal: tentative words dimmed, level, latency\n"
    "  --from-seq N       begin with event N of the daemon's history (1: all that is kept)\n"
    "  --stream NAME      only this input\n"
    "  --no-reconnect     end when the connection is lost, with exit status 3\n"
    "status      what the daemon is doing; --json for programs\n"
    "flush       end the utterance here: commit what has been heard\n"
    "pause       stop listening; --stream NAME for one input\n"
    "resume      listen again\n"
    "set         what can be changed while the daemon runs, and what it is now\n"
    "set KEY=VALUE      change it until the daemon ends or rereads its file: set language=de\n"
    "devices     the inputs that the daemon could caption; --json for programs\n"
    "\n"
    "  --socket PATH      the captions socket (default: $XDG_RUNTIME_DIR/captiond/captions.sock,\n"
    "                     for root without it /run/captiond/captions.sock)\n"
    "  --control PATH     the control socket (default: control.sock in the captions socket's folder)\n"
    "  --help, --version\n"
    "\n"
    "The exit status is 0, 1 for an error, 2 for a bad command line, 3 where no daemon is (any more).\n";

struct options {
    const char *socket, *control, *stream;
    enum follow_format format;
    int64_t from_seq;
    bool reconnect, json;
};

static int usage_error(const char *what, const char *value)
{
    fprintf(stderr, PROGRAM ": %s%s%s; see " PROGRAM " --help\n", what, value ? " " : "", value ? value : "");
    return EXIT_USAGE;
}

static int parse_format(const char *value, enum follow_format *format)
{
    static const char *const names[] = {
        [FOLLOW_TEXT] = "text", [FOLLOW_STREAM] = "stream", [FOLLOW_JSONL] = "jsonl", [FOLLOW_LIVE] = "live"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(value, names[i]) == 0) {
            *format = (enum follow_format)i;
            return 0;
        }
    }
    return usage_error("--format must be text, stream, jsonl or live, not", value);
}

static int parse_seq(const char *value, int64_t *seq)
{
    char *end;
    errno = 0;
    long long n = strtoll(value, &end, 10);
    if (errno || end == value || *end || n < 0)
        return usage_error("--from-seq must be a number from 0 on, not", value);
    *seq = n;
    return 0;
}

/* 0: go on; otherwise the program ends with *status. */
static int parse_options(int argc, char **argv, struct options *o, int *status)
{
    static const struct option longs[] = {
        {"socket", required_argument, NULL, 's'}, {"control", required_argument, NULL, 'c'},
        {"format", required_argument, NULL, 'f'}, {"from-seq", required_argument, NULL, 'q'},
        {"stream", required_argument, NULL, 'i'}, {"no-reconnect", no_argument, NULL, 'n'},
        {"json", no_argument, NULL, 'j'},         {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},      {NULL, 0, NULL, 0},
    };
    *o = (struct options){.from_seq = -1, .reconnect = true};
    *status = 0;
    int option;
    while (*status == 0 && (option = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (option) {
        case 's':
            o->socket = optarg;
            break;
        case 'c':
            o->control = optarg;
            break;
        case 'f':
            *status = parse_format(optarg, &o->format);
            break;
        case 'q':
            *status = parse_seq(optarg, &o->from_seq);
            break;
        case 'i':
            o->stream = optarg;
            break;
        case 'n':
            o->reconnect = false;
            break;
        case 'j':
            o->json = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return 1;
        case 'v':
            puts(PROGRAM " " CAPTIOND_VERSION);
            return 1;
        default:
            *status = EXIT_USAGE; /* getopt has said why */
        }
    }
    return *status;
}

/* As the daemon chooses it: control.sock in the captions socket's folder, unless it is given. */
static int control_path(const struct options *o, char path[SOCKET_PATH_MAX], struct err *err)
{
    char full[4096];
    if (!o->control && !o->socket)
        return socket_path_default(SOCKET_NAME_CONTROL, path, err);
    const char *slash = o->socket ? strrchr(o->socket, '/') : NULL;
    if (o->control)
        snprintf(full, sizeof(full), "%s", o->control);
    else
        snprintf(full, sizeof(full), "%.*s" SOCKET_NAME_CONTROL, slash ? (int)(slash - o->socket) + 1 : 0,
                 o->socket);
    int r = socket_path_check(full, err);
    if (r == 0)
        memcpy(path, full, strlen(full) + 1);
    return r;
}

static int exit_status(int r, const struct err *err)
{
    if (r >= 0)
        return EXIT_SUCCESS;
    fprintf(stderr, PROGRAM ": %s\n", err->msg);
    return r == -ENOTCONN ? EXIT_NOT_CONNECTED : EXIT_FAILURE;
}

static int run_follow(const struct options *o)
{
    struct err err = {0};
    char captions[SOCKET_PATH_MAX], control[SOCKET_PATH_MAX];
    int r = o->socket ? socket_path_check(o->socket, &err)
                      : socket_path_default(SOCKET_NAME_CAPTIONS, captions, &err);
    if (r == 0 && control_path(o, control, &err) < 0)
        control[0] = 0; /* the live view does without its level meter */
    if (r == 0) {
        struct follow_options options = {
            .captions = o->socket ? o->socket : captions,
            .control = control,
            .stream = o->stream,
            .format = o->format,
            .from_seq = o->from_seq,
            .reconnect = o->reconnect,
        };
        r = follow(&options, &err);
    }
    return exit_status(r, &err);
}

static int run_command(const struct options *o, const char *command, const char *setting)
{
    struct err err = {0};
    char path[SOCKET_PATH_MAX];
    int r = control_path(o, path, &err);
    if (r == 0)
        r = control_call(path, command, o->stream, setting, o->json, &err);
    return exit_status(r, &err);
}

int main(int argc, char **argv)
{
    static const char *const commands[] = {"status", "flush", "pause", "resume", "devices", "set"};
    struct options o;
    struct err err = {0};
    int status;
    cells_init();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit to the size of files is told like a full disk */
    if (parse_options(argc, argv, &o, &status))
        return status ? status : exit_status(stdout_finish(&err), &err);
    if (optind >= argc)
        return usage_error("a command is needed", NULL);
    const char *command = argv[optind];
    const char *setting = strcmp(command, "set") == 0 && optind + 1 < argc ? argv[++optind] : NULL;
    if (optind + 1 < argc)
        return usage_error("unexpected argument", argv[optind + 1]);
    if (setting && (setting[0] == '=' || !strchr(setting, '=')))
        return usage_error("set needs KEY=VALUE, not", setting);
    if (strcmp(command, "follow") == 0)
        return run_follow(&o);
    if (o.stream && strcmp(command, "pause") != 0 && strcmp(command, "resume") != 0)
        return usage_error("--stream is for follow, pause and resume, not for", command);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(command, commands[i]) == 0)
            return run_command(&o, command, setting);
    }
    return usage_error("unknown command", command);
}
