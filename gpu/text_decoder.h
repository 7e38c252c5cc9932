/* The text decoder: tokens of any mix of slots to chosen tokens. Inside gpu/ only. Belongs to the engine's thread; all
 * memory is taken and all graphs are recorded in create. */
#ifndef CAPTIOND_GPU_TEXT_DECODER_H
#define CAPTIOND_GPU_TEXT_DECODER_H

#include "gpu/layers.h"
#include "gpu/whisper.h"

/* Rows that one pass computes at most; longer prompts take several. */
#define PASS_ROWS_MAX 64

struct text_decoder;

struct text_decoder_options {
    int n_slots;              /* at most PASS_ROWS_MAX */
    struct engine_kv *cross;  /* of the encoded windows */
    struct slot_state *slots; /* engine memory [n_slots] */
    struct beam_state *beams; /* engine memory [n_slots]; unused where the engine does not search */
    const uint32_t *masks;    /* engine memory [RUN_TOKEN_MASKS, mask_words] */
    int32_t *n_active;        /* engine memory, 1 value */
};

int text_decoder_create(struct layer_loader *, const struct text_decoder_options *, struct text_decoder **);
void text_decoder_destroy(struct text_decoder *); /* NULL is accepted */

/* Token, position and slot of the rows of a first pass: engine memory [rows_max] each, for upload. logit_pos is the
 * position again where a row's logits are wanted, else −1. */
struct row_arrays {
    int32_t *token, *pos, *slot, *logit_pos;
    int rows_max; /* n_slots · RUN_TOKENS_MAX */
};
const struct row_arrays *text_decoder_rows(const struct text_decoder *);

struct pass_kind {
    bool align;   /* records the alignment heads */
    bool beams;   /* some slots belong to beam searches */
    int n_layers; /* of a first pass: fewer than all to warm up */
};

bool text_decoder_searches(const struct text_decoder *); /* whether the engine has beam search */

/* Submits the first pass over n of these rows in pieces of PASS_ROWS_MAX: it fills the caches, chooses tokens and
 * advances the slots. */
void text_decoder_submit_rows(struct text_decoder *, int n, struct pass_kind);

/* Submits up to max_steps steps of the n slots listed in text_decoder_step_slots (engine memory, for upload). */
int32_t *text_decoder_step_slots(const struct text_decoder *);
void text_decoder_submit_steps(struct text_decoder *, int n, struct pass_kind, int max_steps);

/* Launches each recorded step once, at most: with no slot active it computes nothing. */
void text_decoder_launch_each(const struct text_decoder *);

/* Submits rows first … first + n − 1 (n ≤ PASS_ROWS_MAX) and leaves their logits, f32 [n, n_vocab], in engine memory. */
struct mat text_decoder_submit_logits(struct text_decoder *, int first, int n);

void text_decoder_copy_slot(struct text_decoder *, int src, int dst, int n);

/* Row (slot, pos) of the recorded alignment: engine memory [n_align, RUN_AUDIO_FRAMES]; following positions follow. */
const float *text_decoder_alignment(const struct text_decoder *, int slot, int pos);

#endif
