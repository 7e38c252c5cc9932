#include "daemon/model_path.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *env(const char *name)
{
    const char *value = getenv(name);
    return value && value[0] ? value : NULL;
}

const char *model_path_auto(const char *language)
{
    if (language)
        return strcmp(language, "en") == 0 ? "tiny.en" : "base";
    const char *locale = env("LC_ALL");
    if (!locale)
        locale = env("LC_MESSAGES");
    if (!locale)
        locale = env("LANG");
    if (!locale)
        return "tiny.en";
    size_t n = strcspn(locale, "_.@"); /* language[_TERRITORY][.codeset][@modifier] */
    static const char *const english[] = {"en", "C", "POSIX"};
    for (size_t i = 0; i < sizeof(english) / sizeof(english[0]); i++)
        if (n == strlen(english[i]) && !strncmp(locale, english[i], n))
            return "tiny.en";
    return "base";
}

bool model_path_is_name(const char *s)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(s);
    return n > 0 && n < MODEL_NAME_MAX && s[0] != '.' && strspn(s, allowed) == n;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), n_end = strlen(end);
    return n >= n_end && !strcmp(s + n - n_end, end);
}

/* Adds base/suffix as the next folder if base is an absolute path and the whole fits. */
static void add_folder(char folders[][MODEL_PATH_MAX], int *n, const char *base, const char *suffix)
{
    if (!base || base[0] != '/')
        return;
    int length = snprintf(folders[*n], MODEL_PATH_MAX, "%s%s", base, suffix);
    if (length > 0 && length < MODEL_PATH_MAX)
        (*n)++;
}

int model_path_folders(char folders[MODEL_FOLDERS_MAX][MODEL_PATH_MAX])
{
    int n = 0;
    add_folder(folders, &n, env("CAPTIOND_MODELS"), "");
    const char *cache = env("XDG_CACHE_HOME");
    if (cache)
        add_folder(folders, &n, cache, "/captiond/models");
    else
        add_folder(folders, &n, env("HOME"), "/.cache/captiond/models");
    add_folder(folders, &n, "/var/lib/captiond/models", "");
    return n;
}

bool model_path_find_in(const char *folder, const char *name, char path[MODEL_PATH_MAX])
{
    static const char *const files[] = {"model.bin", "model.safetensors", "model.safetensors.index.json"};
    char probe[MODEL_PATH_MAX + MODEL_NAME_MAX + 32];
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(probe, sizeof(probe), "%s/%s/%s", folder, name, files[i]);
        if (access(probe, F_OK) == 0)
            return snprintf(path, MODEL_PATH_MAX, "%s/%s", folder, name) < MODEL_PATH_MAX;
    }
    snprintf(probe, sizeof(probe), "%s/ggml-%s.bin", folder, name);
    if (access(probe, F_OK) == 0)
        return snprintf(path, MODEL_PATH_MAX, "%s", probe) < MODEL_PATH_MAX;
    return false;
}

/* The name under which a folder's entry would be found, or false: "tiny.en" and "ggml-tiny.en.bin" are both
 * tiny.en. */
static bool name_of(const char *entry, char name[MODEL_NAME_MAX])
{
    size_t n = strlen(entry);
    if (!strncmp(entry, "ggml-", 5) && ends_with(entry, ".bin") && n > 9 && n - 9 < MODEL_NAME_MAX) {
        memcpy(name, entry + 5, n - 9);
        name[n - 9] = 0;
    } else if (n < MODEL_NAME_MAX) {
        memcpy(name, entry, n + 1);
    } else {
        return false;
    }
    return model_path_is_name(name);
}

int model_path_each(const char *folder, int (*each)(void *ctx, const char *name, const char *path), void *ctx)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, NULL, alphasort);
    int r = 0;
    for (int i = 0; i < n; i++) {
        char name[MODEL_NAME_MAX], path[MODEL_PATH_MAX], entry[MODEL_PATH_MAX];
        snprintf(entry, sizeof(entry), "%s/%s", folder, entries[i]->d_name);
        /* A folder hides the file of the same name, as in the search: it is listed once, as what is found. */
        if (r == 0 && name_of(entries[i]->d_name, name) && model_path_find_in(folder, name, path) &&
            !strcmp(path, entry))
            r = each(ctx, name, path);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    return r;
}

/* "a, b, c": those that fit, whole. */
struct name_list {
    char text[ERR_MSG_MAX];
    size_t n, size;
};

static int append_name(void *ctx, const char *name, const char *path)
{
    (void)path;
    struct name_list *list = ctx;
    int n = snprintf(list->text + list->n, list->size - list->n, "%s%s", list->n ? ", " : "", name);
    if (n < 0 || (size_t)n >= list->size - list->n) {
        list->text[list->n] = 0;
        return 1;
    }
    list->n += (size_t)n;
    return 0;
}

/* captiond-model's table (tools/model_sources.c) has these, as a test makes sure. */
static const char *const known[] = {
    "tiny.en",   "tiny",   "base.en",        "base",     "small.en", "small", "large-v3-turbo-q5_0",
    "medium.en", "medium", "large-v3-turbo", "large-v2", "large-v3",
};

bool model_path_is_known(const char *name)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (!strcmp(name, known[i]))
            return true;
    return false;
}

/* The service has other folders than the user who gets it a model: they are named. What nobody can get is misspelt, or
 * one of the user's own. */
static int not_installed(const char *name, char folders[][MODEL_PATH_MAX], int n_folders, struct err *err)
{
    struct name_list where = {.size = ERR_MSG_MAX / 2}, installed = {.size = 1};
    for (int i = 0; i < n_folders; i++)
        append_name(&where, folders[i], NULL);
    char what[64 + 2 * MODEL_NAME_MAX], text[ERR_MSG_MAX];
    if (model_path_is_known(name))
        snprintf(what, sizeof(what),
                 "model %s is not installed: run `captiond-model get %s` (--folder is one of", name, name);
    else
        snprintf(what, sizeof(what),
                 "there is no model \"%s\": `captiond-model list` names all (looked for in", name);
    int n = snprintf(text, sizeof(text), "%s %s; installed: ", what, where.text);
    if (n < ERR_MSG_MAX - 2)
        installed.size = ERR_MSG_MAX - 1 - (size_t)n;
    for (int i = 0; i < n_folders; i++)
        if (model_path_each(folders[i], append_name, &installed))
            break;
    return err_set(err, -ENOENT, "%s%s)", text, installed.n ? installed.text : "none");
}

/* Whether the path is the model of that name in the folder. */
static bool is_model_of(const char *path, const char *folder, char name[MODEL_NAME_MAX])
{
    char found[MODEL_PATH_MAX];
    size_t n = strlen(folder);
    return !strncmp(path, folder, n) && path[n] == '/' && name_of(path + n + 1, name) &&
           model_path_find_in(folder, name, found) && !strcmp(found, path);
}

void model_path_advise(const char *path, struct err *err)
{
    char folders[MODEL_FOLDERS_MAX][MODEL_PATH_MAX], name[MODEL_NAME_MAX];
    int n = model_path_folders(folders), i = 0;
    while (i < n && !is_model_of(path, folders[i], name))
        i++;
    if (i == n || !err)
        return;
    struct err cause = *err;
    if (model_path_is_known(name))
        err_set(err, cause.code, "%s (damaged? Remove %s and run `captiond-model get %s`)", cause.msg, path,
                name);
    else
        err_set(err, cause.code, "%s (damaged? Remove %s and import it again)", cause.msg, path);
}

static int copy_path(const char *from, char *path, size_t size, struct err *err)
{
    size_t n = strlen(from);
    if (n >= size)
        return err_set(err, -ENAMETOOLONG, "path of the model is too long: %s", from);
    memcpy(path, from, n + 1);
    return 0;
}

int model_path_find(const char *name_or_path, char *path, size_t size, struct err *err)
{
    if (strchr(name_or_path, '/') || ends_with(name_or_path, ".bin")) {
        if (access(name_or_path, F_OK) < 0)
            return err_set(err, -errno, "model %s: %s", name_or_path, strerror(errno));
        return copy_path(name_or_path, path, size, err);
    }
    if (!model_path_is_name(name_or_path))
        return err_set(err, -EINVAL, "\"%s\" is neither a model's name nor a path (a path has a slash)",
                       name_or_path);
    const char *name = strcmp(name_or_path, "auto") ? name_or_path : model_path_auto(NULL);
    char folders[MODEL_FOLDERS_MAX][MODEL_PATH_MAX], found[MODEL_PATH_MAX];
    int n = model_path_folders(folders);
    for (int i = 0; i < n; i++)
        if (model_path_find_in(folders[i], name, found))
            return copy_path(found, path, size, err);
    return not_installed(name, folders, n, err);
}
