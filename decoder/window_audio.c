#include "decoder/window_audio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/window.h"

static int encode(struct window_audio *a, int first, int n_frames, enum audio_scale scale, struct err *err)
{
    a->encoded_first = first;
    a->encoded_n_frames = scale == AUDIO_SCALE_GIVEN ? n_frames : 0;
    int64_t at = (int64_t)first * MEL_FRAME, left = a->n_samples - at;
    /* The last frames see beyond their own samples; less than a whole frame more keeps their number. */
    int64_t n = (int64_t)n_frames * MEL_FRAME + (n_frames == WINDOW_FRAMES ? AUDIO_BESIDE : MEL_FRAME - 1);
    a->model->ops->encode(a->model, WINDOW_AUDIO_SLOT, a->pcm + at, (int)(n < left ? n : left),
                          at < AUDIO_BESIDE ? (int)at : AUDIO_BESIDE, scale);
    return a->model->ops->wait(a->model, err);
}

int window_audio_scan(struct window_audio *a, struct err *err)
{
    a->model->ops->reset_scale(a->model, WINDOW_AUDIO_SLOT);
    for (int first = 0; first < a->n_frames; first += WINDOW_FRAMES) {
        int r = encode(a, first, WINDOW_FRAMES, AUDIO_SCALE_SCAN, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int window_audio_encode(struct window_audio *a, int first, int n_frames, struct err *err)
{
    if (a->encoded_first == first && a->encoded_n_frames == n_frames)
        return 0;
    return encode(a, first, n_frames, AUDIO_SCALE_GIVEN, err);
}

static int encode_regions(struct window_audio *a, const struct longform_region *regions, int n_regions,
                          struct err *err)
{
    const int most = AUDIO_WINDOW;
    int used = 0;
    float *pcm = calloc((size_t)most, sizeof(*pcm));
    if (!pcm)
        return err_set(err, -ENOMEM, "no memory for finding out the language");
    for (int i = 0; i < n_regions && used < most; i++) {
        int64_t n = regions[i].end - regions[i].start;
        n = n < most - used ? n : most - used;
        memcpy(pcm + used, a->pcm + regions[i].start, (size_t)n * sizeof(*pcm));
        used += (int)n;
    }
    a->encoded_n_frames = 0;
    a->model->ops->encode(a->model, WINDOW_AUDIO_SLOT, pcm, used, 0, AUDIO_SCALE_OWN);
    int r = a->model->ops->wait(a->model, err);
    free(pcm);
    return r;
}

int window_audio_encode_for_language(struct window_audio *a, const struct longform_region *regions,
                                     int n_regions, int first, int n_frames, struct err *err)
{
    if (n_frames < WINDOW_FRAMES && regions && n_regions > 1)
        return encode_regions(a, regions, n_regions, err);
    /* For this alone OpenAI's implementation lets a short recording be followed by silence. The window's own maximum
     * is that of the recording then. */
    if (n_frames == a->n_frames && n_frames < WINDOW_FRAMES)
        return encode(a, first, n_frames, AUDIO_SCALE_OWN, err);
    return window_audio_encode(a, first, n_frames, err);
}
