/* The unfinished audio of a live stream and the text that is certain about it: the words committed within it, and the
 * newest ones before it. Plain data of decoder/live.c: saving and restoring it is assignment. Times are samples. */
#ifndef CAPTIOND_DECODER_LIVE_BUFFER_H
#define CAPTIOND_DECODER_LIVE_BUFFER_H

#include <stdbool.h>
#include <stdint.h>

#include "decoder/hypothesis.h"
#include "decoder/tokenizer.h"

#define LIVE_HISTORY    256 /* tokens of earlier text that are kept */
#define LIVE_SAID       5   /* words that are kept to know a repetition by */
#define LIVE_SAID_BYTES 64
#define LIVE_PROMPT     100 /* most tokens of earlier text in a prompt */

/* A committed word whose audio is still in the buffer. */
struct live_word {
    int n_tokens;
    int64_t end;
    bool closes; /* a sentence ends with it */
    bool mark;   /* punctuation alone: belongs to the word before */
};

struct live_buffer {
    int64_t start, end;
    int32_t committed[HYPOTHESIS_TOKENS]; /* tokens of the kept words */
    int n_committed;
    struct live_word kept[HYPOTHESIS_TOKENS];
    int n_kept;
    int64_t last_end;    /* of the newest committed word */
    int64_t heard_end;   /* of the newest audio in which words were heard that were not committed before */
    int64_t doubted_end; /* of the newest audio that was listened to a second time, in vain */
    int32_t history[LIVE_HISTORY];
    int n_history;
    char said[LIVE_SAID][LIVE_SAID_BYTES]; /* the newest committed words, oldest first */
    int n_said;
    bool stamped; /* passes are made with timestamps while the buffer holds no committed word */
    bool cut;     /* the buffer begins in the middle of speech that no committed word covers */
    bool opening; /* nothing has been put out in this utterance */
};

/* The frame of GUARD_FRAME samples in which sample `at` of the stream lies. */
int live_buffer_frame(const struct live_buffer *, int64_t at);

/* Empty from sample `start` on; its words become history, or with `reset` everything is forgotten. */
void live_buffer_restart(struct live_buffer *, int64_t start, bool reset);

/* True if an utterance from sample `start` on goes on with the buffer: it has words and room for more, the samples from
 * `oldest` on are still there, and the pause is short. */
bool live_buffer_joins(const struct live_buffer *, int64_t start, int64_t oldest);

/* The text before the buffer is no context for what comes. */
void live_buffer_forget(struct live_buffer *);

/* Adds a committed word that ends at `end`. Where there is no room all words become history first. */
void live_buffer_add(struct live_buffer *, const char *text, const int32_t *tokens, int n_tokens,
                     int64_t end);

/* The buffer begins at sample `at` from now on. Its first n words, which become history, end before. */
void live_buffer_cut(struct live_buffer *, int64_t at, int n);

/* Where committed words end is known better with more audio after them: ends [n_committed] of the tokens. */
void live_buffer_refine(struct live_buffer *, const int64_t *ends);

/* Cuts at the end of a committed word if the buffer is longer than `limit` samples or full of words: the last that ends a
 * sentence if enough audio stays, else the last that leaves half of the limit, else the last. The words that stay hold
 * the model to its place in the text. */
void live_buffer_trim(struct live_buffer *, int64_t limit);

/* First token of the history that goes into a prompt: about the last 200 characters, from a word's beginning on.
 * spaced: words begin with a space. */
int live_buffer_history(const struct live_buffer *, const struct tokenizer *, bool spaced);

#endif
