/* A folder of models, changed in such a way that a model in it is always whole: it is made under a hidden name, checked,
 * and renamed into place. Whoever changes the folder holds its lock. One thread. */
#ifndef CAPTIOND_TOOLS_MODEL_STORE_H
#define CAPTIOND_TOOLS_MODEL_STORE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/base/err.h"
#include "daemon/model_path.h"

struct model_store {
    char folder[MODEL_PATH_MAX];
    int fd;                                 /* of the folder, locked */
    bool waited;                            /* somebody else had the lock first */
    const volatile sig_atomic_t *cancelled; /* set by a signal: what is under way ends with -ECANCELED */
};

/* Makes the folder if need be and takes its lock; says so once to standard error if that takes a while, because
 * another captiond-model is at work. 0; -ECANCELED; another negative errno. */
int model_store_open(struct model_store *, const char *folder, const volatile sig_atomic_t *cancelled,
                     struct err *);
void model_store_close(struct model_store *); /* NULL and zeroed objects are accepted */

/* A hidden path for something that becomes `name`: FOLDER/.name.SUFFIX */
int model_store_hidden(const struct model_store *, const char *name, const char *suffix,
                       char path[MODEL_PATH_MAX], struct err *);

/* -ENOSPC with a message where the folder's file system has less room. */
int model_store_check_room(const struct model_store *, int64_t bytes, struct err *);

/* Puts a hidden file or folder in place as FOLDER/name, durably and readable for everybody; what was there is replaced.
 * 0 or a negative errno. */
int model_store_place(const struct model_store *, const char *hidden, const char *name, struct err *);

/* Removes a file or a folder with all that is in it. What is not there is not missed. */
void model_store_remove(const char *path);

/* A file being written, its hash being computed. */
struct hashed_file {
    char path[MODEL_PATH_MAX];
    FILE *file;
    void *digest; /* EVP_MD_CTX */
    const volatile sig_atomic_t *cancelled;
    int64_t bytes;
};

/* algorithm: "sha256" or "sha1". */
int hashed_file_create(struct hashed_file *, const char *path, const char *algorithm,
                       const volatile sig_atomic_t *cancelled, struct err *);
int hashed_file_write(void *file, const void *data, size_t n); /* a sink: 0 or a negative errno */

/* Writes everything out and closes. expected NULL: any hash; else -EBADMSG where it is another. */
int hashed_file_finish(struct hashed_file *, const char *expected, struct err *);
void hashed_file_abandon(struct hashed_file *); /* closed and zeroed ones are accepted */

/* The hash of a file as it lies there. 0 where it is `expected`; -EBADMSG; another negative errno. */
int hashed_file_check(const char *path, const char *algorithm, const char *expected,
                      const volatile sig_atomic_t *cancelled, struct err *);

#endif
