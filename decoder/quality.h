/* Signs that a decoded window went wrong, after decode_with_fallback in OpenAI's whisper/transcribe.py. */
#ifndef CAPTIOND_DECODER_QUALITY_H
#define CAPTIOND_DECODER_QUALITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the text divided by its bytes after zlib's compression: ordinary text stays below 2, a repetition loop
 * exceeds 2.4. 0 for no text. */
float quality_compression_ratio(const char *text, size_t n_bytes);

struct quality {
    float compression_ratio;
    float avg_logprob; /* mean log-probability of the tokens, end of text included */
    float no_speech_prob;
    int n_tokens; /* of text */
    bool looped;  /* it says the same again and again (decoder/loop.h) */
    int n_letters;
};

struct quality_limits {
    float compression_ratio; /* 0: no limit */
    float avg_logprob;
    float no_speech_prob;
    int n_tokens;  /* more text than can be said in the time for which somebody speaks; 0: no limit */
    int64_t voice; /* samples of voice that the whole text must be enough for; 0: no limit */
};

/* The window holds no speech, and the text is improbable: drop it. */
bool quality_is_silence(const struct quality *, const struct quality_limits *);

/* The text is repetitive, too long or improbable (and not silence): decode again at a higher temperature. Length and
 * loops are captiond's own criteria. */
bool quality_is_poor(const struct quality *, const struct quality_limits *);

/* `poor` has no fault but its compression ratio, and `other`, decoded independently and not poor, repeats nearly as much: it
 * is the speaker who says things again (menus, refrains). captiond's own criterion. */
bool quality_is_confirmed(const struct quality *poor, const struct quality *other,
                          const struct quality_limits *);

#endif
