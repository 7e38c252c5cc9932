/* Copies a model that the user has into a folder of models, once it has been opened as the daemon would open it. */
#ifndef CAPTIOND_TOOLS_MODEL_IMPORT_H
#define CAPTIOND_TOOLS_MODEL_IMPORT_H

#include "tools/model_store.h"

/* The name that the model at `path` gets: `wanted`, else what its file or folder is called, without "ggml-" and ".bin". 0 or
 * -EINVAL. */
int model_import_name(const char *path, const char *wanted, char name[MODEL_NAME_MAX], struct err *);

/* Copies a ggml file to FOLDER/ggml-NAME.bin, and what belongs to a CTranslate2 or Hugging Face folder to FOLDER/NAME. The
 * store must be locked. 0; -EEXIST; what weights_open says of a model that cannot be used; another negative errno. Nothing
 * stays behind on failure. */
int model_import(const struct model_store *, const char *path, const char *name, struct err *);

#endif
