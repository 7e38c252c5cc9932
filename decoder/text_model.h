/* The text model as the decoder sees it: encode a window, run slots, wait. daemon/ puts the real model behind
 * it; tests put scripted logits there.
 *
 * The functions mean what their namesakes in gpu/whisper.h mean; numbers and arrays are described in
 * daemon/base/run.h. One thread. */
#ifndef CAPTIOND_DECODER_TEXT_MODEL_H
#define CAPTIOND_DECODER_TEXT_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/err.h"
#include "daemon/base/run.h"
#include "daemon/base/sample_rate.h"

struct text_model;

#define AUDIO_WINDOW (30 * SAMPLE_RATE) /* samples that the model hears at once */
#define AUDIO_BESIDE 200                /* samples beside a window that its outermost frames see */

enum audio_scale {
    AUDIO_SCALE_OWN,  /* normalise the window by its own maximum: live */
    AUDIO_SCALE_SCAN, /* first pass over a recording: only raise the recording's maximum */
    AUDIO_SCALE_GIVEN, /* normalise by the recording's maximum: offline, as OpenAI's implementation does. Frames
                          from n_samples / 160 on are 0, not the silence that the other scales see there */
};

struct text_model_ops {
    /* Submits the encoding of up to AUDIO_WINDOW samples from pcm. n_samples counts from pcm and may exceed that; n_before
     * samples (0 to AUDIO_BESIDE) before pcm are readable. pcm stays unchanged until wait. */
    void (*encode)(struct text_model *, int audio_slot, const float *pcm, int n_samples, int n_before,
                   enum audio_scale);
    void (*reset_scale)(struct text_model *, int audio_slot);
    int (*run)(struct text_model *, struct text_run *runs, int n, struct err *);
    /* f32 [n, n_vocab]; waits. -ERANGE where they are no numbers. */
    int (*logits)(struct text_model *, int slot, int audio_slot, const int32_t *tokens, int n, int pos,
                  float *logits, struct err *);
    void (*copy_slot)(struct text_model *, int src, int dst, int n);
    int (*set_mask)(struct text_model *, int index, const int32_t *tokens, int n, struct err *);
    int (*wait)(struct text_model *, struct err *);
    /* A batch that goes on while runs join and leave it: for daemon/batcher.c. decoder/ has no use for them, and a batcher's
     * client has them not. */
    int (*join)(struct text_model *, struct text_run *const *runs, int n, struct err *);
    int (*step)(struct text_model *, int max_steps, struct err *);
};

struct text_model {
    const struct text_model_ops *ops;
    int n_vocab, n_text_ctx, n_align; /* alignment heads */
    int n_audio_slots, n_text_slots;
};

/* Does n runs and waits for them, whatever becomes of them, for they are the caller's. */
static inline int text_model_run(struct text_model *m, struct text_run *runs, int n, struct err *err)
{
    int r = m->ops->run(m, runs, n, err);
    int waited = m->ops->wait(m, r < 0 ? NULL : err);
    return r < 0 ? r : waited;
}

#endif
