/* The triangles of the mel filterbank, as in librosa.filters.mel(sr=16000, n_fft=400, n_mels): for every engine. */
#ifndef CAPTIOND_GPU_MEL_FILTER_H
#define CAPTIOND_GPU_MEL_FILTER_H

#define MEL_FILTER_BINS   201  /* of the power spectrum of 400 samples: 0 … 8 kHz */
#define MEL_FILTER_BIN_HZ 40.0 /* from one to the next */

/* Weight of frequency hz in triangle m of n_mels between 0 and 8 kHz, of unit area, on Slaney's scale. */
double mel_filter(int m, int n_mels, double hz);

#endif
