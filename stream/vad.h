/* Probability of speech, one 32 ms frame at a time: Silero VAD's network (16 kHz), in plain C.
 *
 * https://github.com/snakers4/silero-vad, MIT; weights and notice in stream/silero/. Every frame must be given, in
 * order. An object belongs to one thread; the weights are constant and shared. */
#ifndef CAPTIOND_STREAM_VAD_H
#define CAPTIOND_STREAM_VAD_H

#define VAD_FRAME   512 /* samples a frame */
#define VAD_CONTEXT 64  /* samples of the previous frame that are seen again */

struct vad {
    float context[VAD_CONTEXT];
    float h[128], c[128]; /* LSTM state */
};

void vad_init(struct vad *);

/* pcm: VAD_FRAME samples. Returns the probability that the frame holds speech, 0 to 1. */
float vad_process(struct vad *, const float *pcm);

#endif
