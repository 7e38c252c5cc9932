/* The languages of Whisper in the order of their tokens, which is part of the model format. Constant: any thread. */
#ifndef CAPTIOND_DECODER_LANGUAGE_H
#define CAPTIOND_DECODER_LANGUAGE_H

#define LANGUAGES_MAX 100 /* models before large-v3 have the first 99 */

/* The code of language `index` (0 to LANGUAGES_MAX − 1). Static. */
const char *language_code(int index);

/* The index of a code, or −1. Case counts. */
int language_index(const char *code);

#endif
