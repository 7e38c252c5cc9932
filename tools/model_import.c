#include "tools/model_import.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gpu/weights.h"

#define COPY_SIZE (256 * 1024)

int model_import_name(const char *path, const char *wanted, char name[MODEL_NAME_MAX], struct err *err)
{
    char full[MODEL_PATH_MAX];
    if (!wanted) {
        snprintf(full, sizeof(full), "%s", path);
        size_t n = strlen(full);
        while (n > 1 && full[n - 1] == '/')
            full[--n] = 0;
        char *slash = strrchr(full, '/');
        char *base = slash ? slash + 1 : full;
        n = strlen(base);
        if (n > 4 && strcmp(base + n - 4, ".bin") == 0)
            base[n - 4] = 0;
        wanted = strncmp(base, "ggml-", 5) == 0 && base[5] ? base + 5 : base;
    }
    if (!model_path_is_name(wanted) || strcmp(wanted, "auto") == 0)
        return err_set(err, -EINVAL, "\"%s\" cannot be a model's name: give one with --name", wanted);
    snprintf(name, MODEL_NAME_MAX, "%s", wanted);
    return 0;
}

static int copy_file(const char *from, const char *to, const volatile sig_atomic_t *cancelled,
                     struct err *err)
{
    struct hashed_file out;
    FILE *in = fopen(from, "re");
    if (!in)
        return err_set(err, -errno, "%s: %s", from, strerror(errno));
    int r = hashed_file_create(&out, to, "sha256", cancelled, err);
    char *data = malloc(COPY_SIZE);
    if (!data)
        r = err_set(err, -ENOMEM, "out of memory");
    size_t n;
    while (r == 0 && (n = fread(data, 1, COPY_SIZE, in)) > 0) {
        r = hashed_file_write(&out, data, n);
        if (r < 0)
            err_set(err, r, "%s: %s", to, strerror(-r));
    }
    if (r == 0 && ferror(in))
        r = err_set(err, -EIO, "%s: cannot be read", from);
    if (r == 0)
        r = hashed_file_finish(&out, NULL, err);
    hashed_file_abandon(&out);
    free(data);
    fclose(in);
    return r;
}

static int copy_folder(const char *from, const char *to, const volatile sig_atomic_t *cancelled,
                       struct err *err)
{
    static const char *const files[] = {"config.json", "tokenizer.json", "model.bin"};
    if (mkdir(to, 0755) < 0)
        return err_set(err, -errno, "%s: %s", to, strerror(errno));
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char source[MODEL_PATH_MAX + 16], target[MODEL_PATH_MAX + 16];
        snprintf(source, sizeof(source), "%s/%s", from, files[i]);
        snprintf(target, sizeof(target), "%s/%s", to, files[i]);
        int r = copy_file(source, target, cancelled, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int check(const char *path, struct err *err)
{
    struct weights *w = NULL;
    int r = weights_open(path, &w, err);
    if (r == 0)
        weights_close(w);
    return r;
}

static int64_t bytes_at(const char *path, bool folder)
{
    char model[MODEL_PATH_MAX + 16];
    struct stat st;
    snprintf(model, sizeof(model), "%s%s", path, folder ? "/model.bin" : "");
    return stat(model, &st) == 0 ? st.st_size : 0;
}

int model_import(const struct model_store *store, const char *path, const char *name, struct err *err)
{
    char placed[MODEL_NAME_MAX + 16], hidden[MODEL_PATH_MAX], taken[MODEL_PATH_MAX + MODEL_NAME_MAX + 16];
    struct stat st;
    if (stat(path, &st) < 0)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    bool folder = S_ISDIR(st.st_mode);
    snprintf(placed, sizeof(placed), folder ? "%s" : "ggml-%s.bin", name);
    snprintf(taken, sizeof(taken), "%s/%s", store->folder, placed);
    if (access(taken, F_OK) == 0)
        return err_set(err, -EEXIST, "%s is there already: remove it first, or give another name with --name",
                       taken);
    int r = check(path, err);
    if (r == 0)
        r = model_store_hidden(store, placed, "new", hidden, err);
    if (r == 0)
        r = model_store_check_room(store, bytes_at(path, folder), err);
    if (r < 0)
        return r;
    model_store_remove(hidden); /* left by one that was killed */
    r = folder ? copy_folder(path, hidden, store->cancelled, err)
               : copy_file(path, hidden, store->cancelled, err);
    if (r == 0)
        r = model_store_place(store, hidden, placed, err);
    model_store_remove(hidden);
    return r;
}
