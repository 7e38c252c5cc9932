/* Puts a Whisper model (gpu/whisper.h) behind the decoder's view of it (decoder/text_model.h), and makes the
 * tokenizer from the model's vocabulary. Belongs to the engine's thread. */
#ifndef CAPTIOND_DAEMON_WHISPER_MODEL_H
#define CAPTIOND_DAEMON_WHISPER_MODEL_H

#include "decoder/text_model.h"
#include "decoder/tokenizer.h"
#include "gpu/whisper.h"

struct whisper_model {
    struct text_model base; /* what decoder/ is given */
    struct whisper *whisper;
    struct tokenizer *tokenizer;
};

/* Opens the model file and its tokenizer. On failure nothing is left to close; the message of a model that looks damaged
 * says what to do (model_path_advise). */
int whisper_model_open(struct whisper_model *, const char *path, const struct whisper_options *,
                       struct err *);

/* Opens the same file once more with other options (the same slots) and puts it in the place of what there is, which is closed.
 * On failure everything stays as it is. */
int whisper_model_reopen(struct whisper_model *, const char *path, const struct whisper_options *,
                         struct err *);
void whisper_model_close(struct whisper_model *); /* NULL, zeroed and closed objects are accepted */

#endif
