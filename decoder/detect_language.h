/* Which language is spoken, by the model's first step. */
#ifndef CAPTIOND_DECODER_DETECT_LANGUAGE_H
#define CAPTIOND_DECODER_DETECT_LANGUAGE_H

#include "daemon/base/err.h"
#include "decoder/text_model.h"
#include "decoder/tokenizer.h"

/* Waits for the audio slot's window and finds its most probable language and the probability of that among languages, as
 * detect_language of OpenAI's whisper/decoding.py. The model is multilingual. Uses the text slot. logits: scratch [n_vocab];
 * *code is static. 0 or the engine's error. */
int detect_language(struct text_model *, const struct tokenizer *, int text_slot, int audio_slot,
                    float *logits, const char **code, float *probability, struct err *);

#endif
