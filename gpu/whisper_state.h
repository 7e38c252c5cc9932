/* Inside gpu/whisper*.c. */
#ifndef CAPTIOND_GPU_WHISPER_STATE_H
#define CAPTIOND_GPU_WHISPER_STATE_H

#include <assert.h>

#include "gpu/audio_encoder.h"
#include "gpu/text_decoder.h"

#define REGISTERED_MAX 64

/* Numbers that a slot's one run uploads: four for each row, its slot, and the count of active runs. Steps of a batch that
 * goes on upload no rows, and one slot and one count for each run at most. */
#define STAGING_PER_SLOT (4 * RUN_TOKENS_MAX + 2)

struct whisper {
    struct engine *engine;
    struct err no_device;    /* why it is the host engine */
    struct weights *weights; /* closed: dims and vocabulary */
    const struct whisper_dims *dims;
    int n_audio_slots, n_text_slots, mask_words;
    struct audio_encoder *encoder;
    struct text_decoder *decoder;
    struct engine_kv *cross;
    /* Engine memory. */
    float *log_max; /* [n_audio_slots] */
    struct slot_state *slots;
    struct beam_state *beams; /* [n_text_slots] */
    uint32_t *masks;
    int32_t *n_active;
    /* Host memory of what has been submitted and not been waited for. */
    struct slot_state *host_slots; /* [n_text_slots]: uploaded, then downloaded */
    struct beam_state *host_beams; /* [n_text_slots]: uploaded */
    uint32_t *host_mask;
    int windows[ENGINE_WINDOWS_MAX]; /* [n_windows] slots of those that wait for the encoder's layers */
    int n_windows;
    struct text_run **pending; /* [n_pending], each in other slots */
    int n_pending;
    struct text_run **joined; /* [n_joined]: in work from turn to turn, each in other slots */
    int n_joined;
    bool in_turn;     /* runs have joined since the last steps */
    int32_t *staging; /* for uploads; grows until the wait */
    size_t staging_size, staging_used;
    void *registered[REGISTERED_MAX];
    int n_registered;
};

/* The encoder's layers for all windows that wait for them. Before any work that may read what they give. */
void whisper_submit_windows(struct whisper *, int n_layers);
/* whisper_run with only some of the layers. */
int whisper_submit_runs(struct whisper *, struct text_run *runs, int n, int n_layers, struct err *);

#endif
