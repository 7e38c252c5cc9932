#include "tools/model_import.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decoder/tokenizer.h"
#include "gpu/weights.h"

#define COPY_SIZE (256 * 1024)

/* Where a folder's file of tensors is given, its folder has the name. */
static void cut_file_name(char *path)
{
    static const char *const files[] = {"model.bin", "model.safetensors", "model.safetensors.index.json"};
    char *slash = strrchr(path, '/');
    for (size_t i = 0; slash && slash > path && i < sizeof(files) / sizeof(files[0]); i++) {
        if (!strcmp(slash + 1, files[i])) {
            *slash = 0;
            return;
        }
    }
}

int model_import_name(const char *path, const char *wanted, char name[MODEL_NAME_MAX], struct err *err)
{
    char full[MODEL_PATH_MAX];
    if (!wanted) {
        snprintf(full, sizeof(full), "%s", path);
        size_t n = strlen(full);
        while (n > 1 && full[n - 1] == '/')
            full[--n] = 0;
        cut_file_name(full);
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

static int copy_as(const char *path, const char *to, const char *name, const volatile sig_atomic_t *cancelled,
                   struct err *err)
{
    char target[MODEL_PATH_MAX + 256];
    snprintf(target, sizeof(target), "%s/%s", to, name);
    return copy_file(path, target, cancelled, err);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Files of tensors that a list names keep their names; the only one has the name by which a folder is known. */
static const char *tensors_name(const char *path, bool listed)
{
    const char *name = base_name(path), *type = strrchr(name, '.');
    if (listed)
        return name;
    return type && !strcmp(type, ".safetensors") ? "model.safetensors" : "model.bin";
}

static int copy_folder(const struct weights *w, const char *to, const volatile sig_atomic_t *cancelled,
                       struct err *err)
{
    static const char *const others[] = {"model.safetensors.index.json",
                                         "config.json",
                                         "generation_config.json",
                                         "tokenizer.json",
                                         "vocab.json",
                                         "vocabulary.json"};
    bool listed = false;
    int r = mkdir(to, 0755) < 0 ? err_set(err, -errno, "%s: %s", to, strerror(errno)) : 0;
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]) && r == 0; i++) {
        char source[MODEL_PATH_MAX + 32];
        snprintf(source, sizeof(source), "%s/%s", weights_folder(w), others[i]);
        if (access(source, F_OK) < 0)
            continue;
        listed = listed || i == 0;
        r = copy_as(source, to, others[i], cancelled, err);
    }
    for (int i = 0; weights_file(w, i) && r == 0; i++)
        r = copy_as(weights_file(w, i), to, tensors_name(weights_file(w, i), listed), cancelled, err);
    return r;
}

static int64_t bytes_of(const struct weights *w)
{
    int64_t bytes = 0;
    struct stat st;
    for (int i = 0; weights_file(w, i); i++)
        bytes += stat(weights_file(w, i), &st) == 0 ? st.st_size : 0;
    return bytes;
}

static int copy_model(const struct model_store *store, const struct weights *w, const char *placed,
                      struct err *err)
{
    char hidden[MODEL_PATH_MAX];
    int r = model_store_hidden(store, placed, "new", hidden, err);
    if (r == 0)
        r = model_store_check_room(store, bytes_of(w), err);
    if (r < 0)
        return r;
    model_store_remove(hidden); /* left by one that was killed */
    r = weights_folder(w) ? copy_folder(w, hidden, store->cancelled, err)
                          : copy_file(weights_file(w, 0), hidden, store->cancelled, err);
    if (r == 0)
        r = model_store_place(store, hidden, placed, err);
    model_store_remove(hidden);
    return r;
}

static const char *token_bytes(const void *ctx, int32_t id, size_t *n_bytes)
{
    return weights_token_bytes(ctx, id, n_bytes);
}

/* 0 if captiond could write text with the model's vocabulary. */
static int check_vocabulary(const struct weights *w, const char *path, struct err *err)
{
    struct tokenizer *t = NULL;
    int r = tokenizer_create(weights_dims(w)->n_vocab, token_bytes, w, &t, err);
    if (r < 0)
        err_prefix(err, "%s", path);
    else
        tokenizer_destroy(t);
    return r;
}

int model_import(const struct model_store *store, const char *path, const char *name, struct err *err)
{
    char placed[MODEL_NAME_MAX + 16], taken[MODEL_PATH_MAX + MODEL_NAME_MAX + 16];
    struct weights *w = NULL;
    int r = weights_open(path, &w, err);
    if (r < 0)
        return r;
    r = check_vocabulary(w, path, err);
    snprintf(placed, sizeof(placed), weights_folder(w) ? "%s" : "ggml-%s.bin", name);
    snprintf(taken, sizeof(taken), "%s/%s", store->folder, placed);
    /* A folder hides the file of the same name, so either must not be there. */
    if (r == 0 && (access(taken, F_OK) == 0 || model_path_find_in(store->folder, name, taken)))
        r = err_set(err, -EEXIST, "%s is there already: remove it first, or give another name with --name",
                    taken);
    if (r == 0)
        r = copy_model(store, w, placed, err);
    weights_close(w);
    return r;
}
