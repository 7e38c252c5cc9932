#include "gpu/mel_filter.h"

#include <math.h>

/* Slaney's scale: linear below 1 kHz, logarithmic above (Auditory Toolbox, as in librosa). */
static double mel_to_hz(double mel)
{
    const double hz_per_mel = 200.0 / 3.0, mel_1khz = 15.0;
    return mel < mel_1khz ? hz_per_mel * mel : 1000.0 * exp(log(6.4) / 27.0 * (mel - mel_1khz));
}

static double hz_to_mel(double hz)
{
    return hz < 1000.0 ? hz * 3.0 / 200.0 : 15.0 + log(hz / 1000.0) * 27.0 / log(6.4);
}

double mel_filter(int m, int n_mels, double hz)
{
    double step = hz_to_mel(8000.0) / (n_mels + 1);
    double left = mel_to_hz(step * m), top = mel_to_hz(step * (m + 1)), right = mel_to_hz(step * (m + 2));
    double up = (hz - left) / (top - left), down = (right - hz) / (right - top);
    double height = up < down ? up : down;
    return height > 0.0 ? height * 2.0 / (right - left) : 0.0;
}
