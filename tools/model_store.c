#include "tools/model_store.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define COPY_SIZE (256 * 1024)

/* --- the folder ---------------------------------------------------------------------------------------------- */

static int make_one_public(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)ftw;
    if (type != FTW_SL)
        chmod(path, S_ISDIR(st->st_mode) ? 0755 : 0644); /* some file systems have no permissions */
    return 0;
}

/* What root gets or imports is for the user that the service runs as, whatever root's umask: models are no secret. */
static void make_public(const char *path)
{
    nftw(path, make_one_public, 8, FTW_PHYS);
}

static int make_folders(const char *path, struct err *err)
{
    char part[MODEL_PATH_MAX];
    size_t n = strlen(path);
    if (n >= sizeof(part))
        return err_set(err, -ENAMETOOLONG, "%s: the path is too long", path);
    memcpy(part, path, n + 1);
    for (char *slash = part + 1; *slash; slash++) {
        if (*slash != '/')
            continue;
        *slash = 0;
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return err_set(err, -errno, "%s: %s", part, strerror(errno));
        *slash = '/';
    }
    if (mkdir(part, 0755) == 0)
        make_public(part);
    else if (errno != EEXIST)
        return err_set(err, -errno, "%s: %s", part, strerror(errno));
    return 0;
}

/* The folder itself is what is locked, so that no lock file stays behind. */
static int lock_folder(struct model_store *s, struct err *err)
{
    while (flock(s->fd, s->waited ? LOCK_EX : LOCK_EX | LOCK_NB) < 0) {
        if (*s->cancelled)
            return err_set(err, -ECANCELED, "interrupted");
        if (errno == EWOULDBLOCK) {
            fprintf(stderr, "Waiting for another captiond-model that is at work in %s …\n", s->folder);
            s->waited = true;
        } else if (errno != EINTR) {
            return err_set(err, -errno, "%s: cannot be locked: %s", s->folder, strerror(errno));
        }
    }
    return 0;
}

int model_store_open(struct model_store *s, const char *folder, const volatile sig_atomic_t *cancelled,
                     struct err *err)
{
    int r = make_folders(folder, err);
    if (r < 0)
        return r;
    *s = (struct model_store){.fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .cancelled = cancelled};
    if (s->fd < 0)
        return err_set(err, -errno, "%s: %s", folder, strerror(errno));
    memcpy(s->folder, folder, strlen(folder) + 1);
    r = lock_folder(s, err);
    if (r < 0) {
        close(s->fd);
        s->fd = -1;
    }
    return r;
}

void model_store_close(struct model_store *s)
{
    if (!s || !s->folder[0] || s->fd < 0)
        return;
    close(s->fd); /* and unlocks */
    s->fd = -1;
}

int model_store_hidden(const struct model_store *s, const char *name, const char *suffix,
                       char path[MODEL_PATH_MAX], struct err *err)
{
    int n = snprintf(path, MODEL_PATH_MAX, "%s/.%s.%s", s->folder, name, suffix);
    return n < MODEL_PATH_MAX ? 0 : err_set(err, -ENAMETOOLONG, "%s: the path is too long", s->folder);
}

int model_store_check_room(const struct model_store *s, int64_t bytes, struct err *err)
{
    struct statvfs st;
    if (fstatvfs(s->fd, &st) < 0)
        return 0;
    int64_t room = (int64_t)st.f_bavail * (int64_t)st.f_frsize;
    if (room >= bytes)
        return 0;
    return err_set(err, -ENOSPC, "%s: %lld MB are needed, %lld MB are free", s->folder,
                   (long long)bytes / 1000000 + 1, (long long)room / 1000000);
}

static int sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return r;
}

int model_store_place(const struct model_store *s, const char *hidden, const char *name, struct err *err)
{
    char path[MODEL_PATH_MAX], old[MODEL_PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/%s", s->folder, name);
    int r = model_store_hidden(s, name, "old", old, err);
    if (r < 0 || n >= MODEL_PATH_MAX)
        return err_set(err, -ENAMETOOLONG, "%s: the path is too long", s->folder);
    make_public(hidden);
    r = sync_path(hidden);
    /* A folder cannot be renamed over one that is not empty. */
    bool replaces = rename(path, old) == 0;
    if (r == 0 && rename(hidden, path) < 0)
        r = -errno;
    if (r < 0 && replaces)
        rename(old, path);
    model_store_remove(old);
    if (r < 0)
        return err_set(err, r, "%s: %s", path, strerror(-r));
    fsync(s->fd);
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    remove(path);
    return 0;
}

void model_store_remove(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* --- files with a hash --------------------------------------------------------------------------------------- */

int hashed_file_create(struct hashed_file *f, const char *path, const char *algorithm,
                       const volatile sig_atomic_t *cancelled, struct err *err)
{
    const EVP_MD *md = EVP_get_digestbyname(algorithm);
    *f = (struct hashed_file){.cancelled = cancelled};
    snprintf(f->path, sizeof(f->path), "%s", path);
    f->digest = EVP_MD_CTX_new();
    if (!md || !f->digest || !EVP_DigestInit_ex(f->digest, md, NULL)) {
        hashed_file_abandon(f);
        return err_set(err, -ENOMEM, "the hash %s is not available", algorithm);
    }
    f->file = fopen(path, "we");
    if (!f->file) {
        int code = -errno;
        hashed_file_abandon(f);
        return err_set(err, code, "%s: %s", path, strerror(-code));
    }
    return 0;
}

int hashed_file_write(void *file, const void *data, size_t n)
{
    struct hashed_file *f = file;
    if (*f->cancelled)
        return -ECANCELED;
    errno = 0;
    if (fwrite(data, 1, n, f->file) != n)
        return errno ? -errno : -EIO;
    EVP_DigestUpdate(f->digest, data, n);
    f->bytes += (int64_t)n;
    return 0;
}

static int check_digest(EVP_MD_CTX *digest, const char *path, const char *expected, struct err *err)
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    EVP_DigestFinal_ex(digest, hash, &n);
    for (unsigned i = 0; i < n; i++)
        snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    if (!expected || strcmp(hex, expected) == 0)
        return 0;
    return err_set(err, -EBADMSG, "%s: not the published file: its hash is %s, %s is right", path, hex,
                   expected);
}

int hashed_file_finish(struct hashed_file *f, const char *expected, struct err *err)
{
    int r = 0;
    if (fflush(f->file) != 0 || fsync(fileno(f->file)) < 0)
        r = err_set(err, -errno, "%s: %s", f->path, strerror(errno));
    fclose(f->file);
    f->file = NULL;
    if (r == 0)
        r = check_digest(f->digest, f->path, expected, err);
    hashed_file_abandon(f);
    return r;
}

void hashed_file_abandon(struct hashed_file *f)
{
    if (f->file)
        fclose(f->file);
    EVP_MD_CTX_free(f->digest);
    f->file = NULL;
    f->digest = NULL;
}

static int digest_file(EVP_MD_CTX *digest, FILE *file, const volatile sig_atomic_t *cancelled)
{
    char *data = malloc(COPY_SIZE);
    size_t n;
    if (!data)
        return -ENOMEM;
    while (!*cancelled && (n = fread(data, 1, COPY_SIZE, file)) > 0)
        EVP_DigestUpdate(digest, data, n);
    free(data);
    return *cancelled ? -ECANCELED : ferror(file) ? -EIO : 0;
}

int hashed_file_check(const char *path, const char *algorithm, const char *expected,
                      const volatile sig_atomic_t *cancelled, struct err *err)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    int r = -ENOMEM;
    if (digest && EVP_DigestInit_ex(digest, EVP_get_digestbyname(algorithm), NULL))
        r = digest_file(digest, file, cancelled);
    fclose(file);
    if (r < 0)
        err_set(err, r, "%s: %s", path, strerror(-r));
    else
        r = check_digest(digest, path, expected, err);
    EVP_MD_CTX_free(digest);
    return r;
}
