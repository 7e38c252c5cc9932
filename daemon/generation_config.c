#include "daemon/generation_config.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#define PATH_BYTES 4096

/* The list's number of tokens, or -EINVAL. */
static int read_list(const json_t *root, const char *name, int n_vocab, int32_t *tokens, const char *path,
                     struct err *err)
{
    const json_t *list = json_object_get(root, name);
    int n = (int)json_array_size(list);
    if (list && !json_is_null(list) && !json_is_array(list))
        return err_set(err, -EINVAL, "%s: %s is not an array", path, name);
    if (n > TOKENIZER_SUPPRESSED_MAX)
        return err_set(err, -EINVAL, "%s: %s has more than %d tokens", path, name, TOKENIZER_SUPPRESSED_MAX);
    for (int i = 0; i < n; i++) {
        const json_t *token = json_array_get(list, (size_t)i);
        json_int_t id = json_is_integer(token) ? json_integer_value(token) : -1;
        if (id < 0 || id >= n_vocab)
            return err_set(err, -EINVAL, "%s: %s[%d] is no token of the model", path, name, i);
        tokens[i] = (int32_t)id;
    }
    return n;
}

int generation_config_apply(const char *path, struct tokenizer *t, struct err *err)
{
    char file[PATH_BYTES];
    json_error_t why;
    if (snprintf(file, sizeof(file), "%s/generation_config.json", path) >= (int)sizeof(file) ||
        access(file, F_OK) < 0)
        return 0;
    json_t *root = json_load_file(file, 0, &why);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(err, -EINVAL, "%s: %s", file, root ? "not an object" : why.text);
    }
    int32_t all[TOKENIZER_SUPPRESSED_MAX], first[TOKENIZER_SUPPRESSED_MAX];
    int n_all = read_list(root, "suppress_tokens", tokenizer_n_vocab(t), all, file, err);
    int n_first =
        n_all < 0 ? n_all : read_list(root, "begin_suppress_tokens", tokenizer_n_vocab(t), first, file, err);
    json_decref(root);
    if (n_first < 0)
        return n_first;
    tokenizer_set_suppressed(t, all, n_all, first, n_first);
    return 0;
}
