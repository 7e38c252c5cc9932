/* Which language a live stream is in: as it is set, or detected pass by pass until that is confident, and then kept, for good
 * or for an utterance. Plain data of decoder/live.c. Codes are borrowed for good. */
#ifndef CAPTIOND_DECODER_LIVE_LANGUAGE_H
#define CAPTIOND_DECODER_LIVE_LANGUAGE_H

#include <stdbool.h>

struct live_language {
    const char *now;   /* of this pass; NULL: there was none yet */
    const char *usual; /* of the utterances before, where each is heard anew; NULL: not known */
    bool locked;
    bool doubtful; /* this pass may be in any language: nothing in it is shown */
};

/* From the beginning: the language that is set, or NULL. */
void live_language_start(struct live_language *, const char *code);

/* An utterance whose language is to be heard anew. */
void live_language_again(struct live_language *);

/* What a pass over n_samples of audio was found to be in, where it is not locked. */
void live_language_heard(struct live_language *, const char *code, float probability, int n_samples);

#endif
