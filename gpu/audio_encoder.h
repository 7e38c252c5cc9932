/* The audio encoder: windows of 30 s of sound to the cross-attention keys and values of every decoder layer. Inside gpu/ only;
 * tests look at its layers. Belongs to the engine's thread; all memory is taken in create.
 *
 * Up to engine.windows_max windows go through it together: as many rows of each, since shorter sound is followed by zeros. */
#ifndef CAPTIOND_GPU_AUDIO_ENCODER_H
#define CAPTIOND_GPU_AUDIO_ENCODER_H

#include "gpu/layers.h"
#include "gpu/whisper.h"

struct audio_encoder;

/* `cross` has a layer for each decoder layer and a slot for each window. */
int audio_encoder_create(struct layer_loader *, struct engine_kv *cross, struct audio_encoder **);
void audio_encoder_destroy(struct audio_encoder *); /* NULL is accepted */

/* Where the spectrogram of window `window` of those that go on together belongs: [2 · n_audio_ctx, n_mels] in the wide type. */
struct mat audio_encoder_mel(const struct audio_encoder *, int window);

/* Submits everything behind the spectrograms of windows 0 … n − 1, whose keys and values go to these slots. n_layers: how many
 * layers to run, of encoder and cross-attention each; fewer than all for warming up and for tests. */
void audio_encoder_submit(struct audio_encoder *, const int *slots, int n, int n_layers);

/* The residual stream of the first window behind the last submitted layer, f32 [n_audio_ctx, n_state], and its final norm in
 * the wide type. Engine memory. */
struct mat audio_encoder_residual(const struct audio_encoder *);
struct mat audio_encoder_output(const struct audio_encoder *);

#endif
