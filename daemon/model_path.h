/* Where models are: from what a user writes after --model to the file or folder to open.
 *
 * A model is a folder NAME with a model.bin (CTranslate2) or model.safetensors (Hugging Face; or the index of several) in
 * it, or a file ggml-NAME.bin. They are looked for in
 * $CAPTIOND_MODELS, then the user's cache ($XDG_CACHE_HOME/captiond/models, else ~/.cache/captiond/models), then
 * /var/lib/captiond/models, the service's own. Reads the environment and the file system, nothing else. Any
 * thread, as long as nobody changes the environment. */
#ifndef CAPTIOND_DAEMON_MODEL_PATH_H
#define CAPTIOND_DAEMON_MODEL_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/base/err.h"

#define MODEL_PATH_MAX    1024
#define MODEL_NAME_MAX    64
#define MODEL_FOLDERS_MAX 3

/* Turns `name_or_path` into a path in path[0 … size):
 *   auto   model_path_auto's model for the user's language;
 *   a path, that is anything with a slash or ending in .bin, is taken as it is;
 *   a name is looked for in the folders; in each, the folder NAME wins over ggml-NAME.bin.
 * 0; -ENOENT with a message that says how to get the model, or that there is none of that name, where it was looked for,
 * and which ones are installed;
 * -EINVAL for what is neither a name nor a path; -ENAMETOOLONG. `path` is untouched on failure. */
int model_path_find(const char *name_or_path, char *path, size_t size, struct err *);

/* True for the name of a model that `captiond-model get` can fetch. */
bool model_path_is_known(const char *name);

/* Adds to the message of a model that cannot be loaded what to do about it, if `path` is one that model_path_find gives
 * for a name: others are not ours to get anew. */
void model_path_advise(const char *path, struct err *);

/* The model that "auto" stands for: tiny.en for English, base, which knows 99 languages, for every other language (a
 * code). NULL: the user's, that of messages: LC_ALL, LC_MESSAGES or LANG, the first that is not
 * empty. None at all, C and POSIX count as English, the language in which programs speak there. */
const char *model_path_auto(const char *language);

/* True for what can be a model's name: letters, digits, '.', '_' and '-', not beginning with '.', shorter than
 * MODEL_NAME_MAX. */
bool model_path_is_name(const char *s);

/* The folders in the order of the search. Returns their number, at most MODEL_FOLDERS_MAX; a folder that the
 * environment does not give, or gives as a relative or too long path, is left out. They need not exist. */
int model_path_folders(char folders[MODEL_FOLDERS_MAX][MODEL_PATH_MAX]);

/* Looks for a name in one folder; path is set where it is found. */
bool model_path_find_in(const char *folder, const char *name, char path[MODEL_PATH_MAX]);

/* Calls `each` for every model in `folder`, in the order of file names, until it returns other than 0, and returns that. A
 * folder that is not there has no models. */
int model_path_each(const char *folder, int (*each)(void *ctx, const char *name, const char *path),
                    void *ctx);

#endif
