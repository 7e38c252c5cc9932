/* Inside gpu/weights*.c: the JSON files that lie beside the tensors of a model's folder. */
#ifndef CAPTIOND_GPU_WEIGHTS_JSON_H
#define CAPTIOND_GPU_WEIGHTS_JSON_H

#include <jansson.h>

#include "gpu/weights_file.h"

/* Loads FOLDER/file. 0; -ENOENT; -EINVAL with the place of the error; -ENOMEM. The caller decrements *root. */
int weights_load_json(const struct weights *, const char *file, json_t **root, struct err *);

/* Takes alignment_heads of FOLDER/file, [[layer, head], …], into w->align; where there are more than there is room
 * for, the last ones. A file that is not there has none. 0; -EINVAL. */
int weights_read_heads(struct weights *, const char *file, struct err *);

/* Fills the vocabulary from the folder's tokenizer.json, else from vocab.json (Hugging Face) or vocabulary.json
 * (CTranslate2's converter): tokens in GPT-2's byte-level alphabet. 0; -EINVAL; -ENOENT where it has none of them. */
int weights_read_vocabulary(struct weights *, struct err *);

#endif
