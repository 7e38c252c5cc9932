/* Which words of a hypothesis are final: the agreement of two hypotheses in a row, held back near the newest audio.
 *
 * LocalAgreement-2 (Liu et al. 2020, Macháček et al. 2023) over words that follow the committed ones. Pure functions
 * over word arrays. Closing punctuation is a word of its own here, since hypotheses that agree on the words
 * often differ in it: it never stands in the way of an agreement. */
#ifndef CAPTIOND_DECODER_COMMIT_H
#define CAPTIOND_DECODER_COMMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "decoder/word.h"

/* An agreed word waits until it ends this long before the newest audio: what is said next may change how the last words
 * are heard, the more so the less sure the model is of them. */
struct commit_hold {
    float probability; /* of words that are at least so probable; descending, the last 0 */
    int64_t samples;
};

#define COMMIT_HOLDS 3

struct commit_rules {
    struct commit_hold holds[COMMIT_HOLDS];
    int64_t certain; /* samples: a word that ends this long before the newest audio needs no agreement */
};

/* True when two words are the same but for case and punctuation. */
bool commit_same(const char *a, const char *b);

/* True for a word in which nothing is left without punctuation and space. */
bool commit_is_mark(const char *text);

/* Number of leading words of `now` that are final. `before` is the tail of the hypothesis before, which began at the same
 * committed word; both end where their audio ended, `audio_end` is that of `now`. A mark at the end of what is final
 * is only taken with the word that follows it: what closes a phrase is known once it goes on. */
int commit_count(const struct commit_rules *, const struct word *before, int n_before, const struct word *now,
                 int n_now, int64_t audio_end);

/* Number of leading words of `now` that say again what was said last: the longest n ≤ 5 for which the last n of
 * `said` equal the first n of `now`, if those begin before `limit`. For audio that was cut, whose beginning may hold the
 * end of a word that is committed; 0 else. */
int commit_repeated(const struct word *said, int n_said, const struct word *now, int n_now, int64_t limit);

#endif
