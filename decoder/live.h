/* Live transcription of one stream: growing audio in, committed words and a tentative tail out.
 *
 * LocalAgreement-2 over passes that verify the previous hypothesis as a draft. One object a stream, used by the
 * thread of the text model; all memory is taken in create. The caller keeps the audio (the ring) and hands the
 * span from live_buffer_start() on to each update. Times are sample indices on the stream's clock. */
#ifndef CAPTIOND_DECODER_LIVE_H
#define CAPTIOND_DECODER_LIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/err.h"
#include "decoder/text_model.h"
#include "decoder/tokenizer.h"
#include "decoder/word.h"

struct live;

/* Tokens of hotwords and prompt that passes can be told of. Half of what OpenAI's whisper/decoding.py has room for,
 * n_text_ctx / 2 − 1, as faster-whisper does it; the other half is for the text before. */
#define LIVE_TOLD_MAX 111

/* What can change from one utterance to the next. Plain data. */
struct live_settings {
    const char *language;     /* ISO code that the model knows, borrowed for good; NULL: detect */
    unsigned language_choice; /* with another number even the same language, NULL say, is chosen anew */
    bool follow_language; /* detect it in every utterance, instead of keeping to the first confident result */
    bool translate;
    bool unguarded;              /* leave what the model writes where there is no speech */
    int beam_size;               /* hypotheses of a pass, each in a text slot; 0 or 1: greedy */
    int32_t told[LIVE_TOLD_MAX]; /* what every pass is told of before the earlier text, see prompt_tell */
    int n_told;
};

struct live_options {
    int audio_slot, text_slot; /* with beams: the first of beam_size text slots */
    bool draft;        /* verify the previous hypothesis instead of decoding it again; not with beams */
    int max_buffer_ms; /* the buffer is trimmed beyond this; at most 28000 */
    struct live_settings settings; /* at first */
};

enum live_update_kind {
    LIVE_TICK,  /* speech goes on */
    LIVE_FINAL, /* the utterance ends with this audio: everything is committed */
};

struct live_output {
    const struct word *committed; /* newly committed words; borrowed until the next call */
    int n_committed;
    const char *partial; /* tentative tail, "" if none; its leading space kept; borrowed */
    int64_t partial_start, partial_end;
    const char *language;                       /* ISO code of the decoded language */
    int n_steps, n_draft, n_accepted, n_passes; /* decoder work of this update */
};

int live_create(struct text_model *, const struct tokenizer *, const struct live_options *, struct live **,
                struct err *);
void live_destroy(struct live *); /* NULL is accepted */

/* An utterance that begins within this time after the last one goes on in the same buffer. */
#define LIVE_JOIN_MS 2000

/* A new utterance whose audio begins at sample `start`. `oldest` is the first sample that the caller still has: where
 * the old buffer is complete and the pause short, it goes on, since the model hears better with context. Earlier
 * text stays as prompt, unless new settings make it none. */
void live_begin(struct live *, int64_t start, int64_t oldest);

/* The first sample of the stream that the next update still needs. Never decreases within an utterance. */
int64_t live_buffer_start(const struct live *);

/* One pass over samples [live_buffer_start(), live_buffer_start() + n_samples). `pcm` stays unchanged during the
 * call. `n_before` (0 to AUDIO_BESIDE) samples before it are readable. More than 30 s is cut from the left, the uncommitted
 * words there being committed first. Returns 0, or the engine's error; then nothing is committed and the same
 * audio can be given again. */
int live_update(struct live *, const float *pcm, int n_samples, int n_before, enum live_update_kind,
                struct live_output *, struct err *);

/* Ends the utterance without decoding (the audio is lost): the tentative words of the last pass are committed. */
void live_abandon(struct live *, struct live_output *);

/* Copies settings, which hold from the next live_begin on. Where the language or the task changes, the utterance that begins has
 * neither buffer nor text of the ones before. An English-only model stays with English. */
void live_set(struct live *, const struct live_settings *);

#endif
