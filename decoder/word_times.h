/* When each word of a decoded window was said, offline.
 *
 * After add_word_timestamps in OpenAI's whisper/timing.py: the text of the window is given to the decoder once more, as
 * a transcript without timestamps, and aligned by its attention; then words that the alignment made too long are
 * shortened at the ends of sentences and after pauses. Scratch memory is taken once; one thread. */
#ifndef CAPTIOND_DECODER_WORD_TIMES_H
#define CAPTIOND_DECODER_WORD_TIMES_H

#include <stdbool.h>
#include <stdint.h>

#include "decoder/segment.h"
#include "decoder/text_model.h"
#include "decoder/tokenizer.h"
#include "decoder/word.h"

struct word_timer;

/* -EINVAL for a model without alignment heads; -ENOMEM. */
int word_timer_create(struct text_model *, const struct tokenizer *, struct word_timer **, struct err *);
void word_timer_destroy(struct word_timer *); /* NULL is accepted */

struct word_times_request {
    int text_slot, audio_slot; /* the slot's cache is overwritten; the audio slot holds the window */
    const int32_t *start;      /* [n_start ≤ 3] start of transcript, language, task */
    int n_start;
    const int32_t *tokens; /* [n_tokens] of the window, timestamps included, at most n_text_ctx / 2 */
    int n_tokens;
    const float *logprobs; /* [n_tokens] */
    const struct segment *segments;
    int n_segments;
    bool spaced;         /* words are written with spaces */
    int64_t origin;      /* sample at which the window begins */
    int n_frames;        /* of audio in the window, 10 ms each */
    int64_t end;         /* of the recording: no time is later */
    int64_t last_speech; /* sample at which the last word before the window ended */
};

/* A segment with the times of its words. */
struct spoken_segment {
    int64_t start, end; /* samples: those of its first and last word, where they can be right */
    int first_word, n_words;
};

/* Aligns the window. Writes n_segments entries to out and lets *words point to the words of them all, whose texts have
 * their punctuation with them and whose first_token counts text tokens of the window; borrowed until the next call, and the
 * caller may change their times. A
 * word's probability is the mean of its tokens' in the decoding, under its rules and with its prompt; whisper/timing.py takes those
 * of the alignment, which knows neither. Returns the number of words, or the engine's error. */
int word_timer_run(struct word_timer *, const struct word_times_request *, struct spoken_segment *out,
                   struct word **words, struct err *);

/* Where the window's last word ends, or its last segment where there are no words; −1 without segments. */
int64_t word_times_end(const struct spoken_segment *segments, int n, const struct word *words);

#endif
