/* The tokens that a model's own folder says are never to be sampled: suppress_tokens and begin_suppress_tokens of
 * generation_config.json, as transformers writes it. Any thread. */
#ifndef CAPTIOND_DAEMON_GENERATION_CONFIG_H
#define CAPTIOND_DAEMON_GENERATION_CONFIG_H

#include "decoder/tokenizer.h"

/* Hands the lists of the folder `path` to the tokenizer. A folder without the file, and a list that is missing, null or
 * empty, leave OpenAI's lists as they are. -EINVAL for a file that is no JSON or names tokens that there
 * are not. */
int generation_config_apply(const char *path, struct tokenizer *, struct err *);

#endif
