/* A Whisper model on an engine: audio encoder, text decoder and their caches.
 *
 * Belongs to the engine's thread. encode and run only submit; results are there after whisper_wait.
 * All memory is taken in whisper_open. */
#ifndef CAPTIOND_GPU_WHISPER_H
#define CAPTIOND_GPU_WHISPER_H

#include "daemon/base/err.h"
#include "daemon/base/run.h"
#include "gpu/engine.h"

struct whisper;

struct whisper_dims {
    int n_mels, n_audio_ctx, n_audio_state, n_audio_head, n_audio_layer;
    int n_vocab, n_text_ctx, n_text_state, n_text_head, n_text_layer;
    int n_align; /* alignment heads */
};

#define WHISPER_SLOTS_MAX 64

struct whisper_options {
    const char *engine; /* "host", "cuda", or "auto": cuda where it can be used with this model, else host */
    int n_threads;
    enum engine_precision precision;
    bool deferred, yields; /* as in engine_options */
    int n_audio_slots;     /* windows that can be encoded at once, 1 … WHISPER_SLOTS_MAX */
    int n_text_slots;      /* sequences, as many */
};

/* Loads a model (gpu/weights.h says what there is) and readies the engine. The file is checked completely before use
 * and may be replaced on return. 0; -ENOENT; -EINVAL for a damaged or unsupported file (err names file, field and
 * offset); -ENOMEM. */
int whisper_open(const char *path, const struct whisper_options *, struct whisper **, struct err *);
void whisper_close(struct whisper *); /* NULL is accepted */

const struct whisper_dims *whisper_dims(const struct whisper *);
const char *whisper_engine_name(const struct whisper *); /* "host f32 (avx2)", … */
/* How the last run's steps were repeated: with CUDA by a "kernel", a "graph" or "launches", the fastest first; NULL: the
 * engine has one way. */
const char *whisper_repeats(const struct whisper *);
/* The widest beam search that runs may ask for: 1 where the engine has none, or there is one text slot. */
int whisper_beams_max(const struct whisper *);
bool whisper_on_device(const struct whisper *); /* which may be lost; the host engine may not */
/* Why "auto" took the host engine: code 0 if it did not, or no other engine is installed, as on most machines. */
const struct err *whisper_no_device(const struct whisper *);
struct engine *whisper_engine(struct whisper *); /* for the oracle and golden tests */

/* The model's folder, borrowed until close; NULL where it is one file. */
const char *whisper_folder(const struct whisper *);

/* The bytes of text token `id`, as weights_token_bytes; borrowed until close. */
const char *whisper_token_bytes(const struct whisper *, int32_t id, size_t *n_bytes);

/* Makes the ring's memory fit for fast reads; it must outlive the model. A failure is a warning. */
int whisper_register_audio(struct whisper *, void *p, size_t bytes, struct err *);

/* Registers the tokens of suppression mask `index` (0 … RUN_TOKEN_MASKS − 1). Waits. */
int whisper_set_mask(struct whisper *, int index, const int32_t *tokens, int n, struct err *);

struct whisper_audio {
    const float *pcm;     /* 16 kHz mono, host memory, unchanged until the wait */
    int n_samples;        /* from pcm on; more than 30 s is seen only by the last frames */
    int n_before;         /* readable samples before pcm, 0 to 200 */
    enum mel_scale scale; /* MEL_SCALE_SCAN raises the recording's maximum and encodes nothing */
};

/* Sets the recording's log-mel maximum back, before a first MEL_SCALE_SCAN. */
void whisper_reset_scale(struct whisper *, int audio_slot);

/* Submits log-mel, encoder and cross-attention keys and values of one 30 s window. Several that follow one another go through
 * the encoder together where that is faster; each gives the bits that it gives alone. */
void whisper_encode(struct whisper *, int audio_slot, const struct whisper_audio *);

/* Submits n runs in different slots as one batch. Results are filled in by whisper_wait. -EINVAL for a run whose
 * numbers do not fit, -ENOTSUP for beams where the engine has no search (nothing is submitted then). */
int whisper_run(struct whisper *, struct text_run *runs, int n, struct err *);

/* A batch that goes on while runs join and leave it.
 *
 * join submits the first pass of n runs, which must stay where they are until they have ended; their `stop` is RUN_IN_WORK
 * until then. -EINVAL, -ENOTSUP: as of whisper_run, and the runs in work are none the worse. step submits up to max_steps
 * steps of all runs in work, fewer when one ends, and waits, be there none: the runs that have ended by then have their results and leave.
 * Returns how many go on. After an error, of any wait, none does: their results are not there. What a run gives does not
 * depend on what was beside it. */
int whisper_join(struct whisper *, struct text_run *const *runs, int n, struct err *);
int whisper_step(struct whisper *, int max_steps, struct err *);

/* Feeds n tokens at positions pos … pos + n − 1 of a slot and returns the logits after each: f32 [n, n_vocab].
 * Waits. -ERANGE where they are no numbers, which is nobody else's error. */
int whisper_logits(struct whisper *, int slot, int audio_slot, const int32_t *tokens, int n, int pos,
                   float *logits, struct err *);

/* Submits a copy of the first n positions of one slot's cache to another slot. */
void whisper_copy_slot(struct whisper *, int src, int dst, int n);

/* 0; the engine's error; -EIO where a run of whisper_run has ended with RUN_STOP_FLAW. */
int whisper_wait(struct whisper *, struct err *);

#endif
