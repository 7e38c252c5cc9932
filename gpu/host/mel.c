#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/host/host.h"
#include "gpu/host/kernels_wide.h"
#include "gpu/mel_filter.h"

#define PAD_SAMPLES 200 /* a frame is centred: it begins so many samples before its hop */

int mel_basis_create(int n_mels, struct mel_basis **out)
{
    struct mel_basis *b = aligned_alloc(_Alignof(struct mel_basis), sizeof(*b));
    if (!b)
        return -ENOMEM;
    memset(b, 0, sizeof(*b));
    b->n_mels = n_mels;
    for (int n = 0; n <= MEL_WINDOW / 2; n++)
        b->window[n] =
            (float)((0.5 - 0.5 * cos(2.0 * M_PI * n / MEL_WINDOW)) * (n == MEL_WINDOW / 2 ? 0.5 : 1.0));
    for (int k = 0; k < MEL_FILTER_BINS; k++) {
        int odd = k % 2, column = k / 2;
        for (int n = 0; n < MEL_FOLDED; n++) {
            /* Sample 100 meets itself in the second fold: it arrives doubled, or as 0. */
            double half = n == MEL_FOLDED - 1 ? 0.5 : 1.0,
                   angle = 2.0 * M_PI * (k * n % MEL_WINDOW) / MEL_WINDOW;
            b->dft[odd][0][n * MEL_BINS + column] = (float)(half * cos(angle));
            b->dft[odd][1][n * MEL_BINS + column] = (float)(half * sin(angle));
        }
        for (int m = 0; m < n_mels; m++)
            b->filters[(odd * MEL_BINS + column) * n_mels + m] =
                (float)mel_filter(m, n_mels, k * MEL_FILTER_BIN_HZ);
    }
    *out = b;
    return 0;
}

void mel_basis_destroy(struct mel_basis *b)
{
    free(b);
}

struct mel_job {
    const struct host_engine *h;
    const struct mel_args *args;
    float *logs; /* [n_frames, n_mels] */
    float greatest[HOST_THREADS_MAX];
    float floor;
    struct tickets tiles, scaled; /* of MEL_FRAMES frames */
};

/* Sample i of the window; the recording is mirrored at its first sample, where that is nearer than 200. */
static float sample_at(const struct mel_args *a, int i)
{
    if (i < -a->n_before)
        i = -2 * a->n_before - i;
    return i < a->n_samples ? a->pcm[i] : 0.0f;
}

static int frames_in_tile(const struct mel_job *job, int tile)
{
    int n = job->args->out.rows - tile * MEL_FRAMES;
    return n < MEL_FRAMES ? n : MEL_FRAMES;
}

static float log_tile(const struct mel_job *job, int tile)
{
    const struct mel_args *a = job->args;
    const int begin = tile * MEL_FRAMES * MEL_HOP - PAD_SAMPLES;
    float edge[MEL_SAMPLES];
    const float *x = edge;
    if (begin >= -a->n_before && begin + MEL_SAMPLES <= a->n_samples) {
        x = a->pcm + begin;
    } else {
        for (int i = 0; i < MEL_SAMPLES; i++)
            edge[i] = sample_at(a, begin + i);
    }
    float *out = job->logs + (size_t)tile * MEL_FRAMES * (size_t)job->h->mel->n_mels;
    return job->h->wide->mel(job->h->mel, x, frames_in_tile(job, tile), out);
}

static void log_frames(void *arg, int worker, int n_workers)
{
    struct mel_job *job = arg;
    float greatest = -10.0f;
    for (int tile; tickets_take(&job->tiles, worker, &tile);) {
        float top = log_tile(job, tile);
        greatest = top > greatest ? top : greatest;
    }
    job->greatest[worker] = greatest;
}

static void scale_frames(void *arg, int worker, int n_workers)
{
    struct mel_job *job = arg;
    const struct mat out = job->args->out;
    const struct mel_args *a = job->args;
    const int n_mels = job->h->mel->n_mels;
    const int n_heard = a->scale == MEL_SCALE_GIVEN ? a->n_samples / MEL_HOP : out.rows;
    for (int tile; tickets_take(&job->scaled, worker, &tile);) {
        for (int i = 0; i < frames_in_tile(job, tile); i++) {
            int f = tile * MEL_FRAMES + i;
            void *row = mat_rows(out, f, 1).data;
            if (f < n_heard)
                job->h->wide->mel_scale(job->logs + (size_t)f * (size_t)n_mels, job->floor, n_mels, row,
                                        out.type == DTYPE_BF16);
            else
                memset(row, 0, (size_t)n_mels * dtype_bytes(out.type));
        }
    }
}

int host_mel(struct host_engine *h, const struct mel_args *a)
{
    size_t n = (size_t)a->out.rows * (size_t)h->mel->n_mels;
    bool writes = a->scale != MEL_SCALE_SCAN;
    if (a->n_before < 0 || a->n_samples < 0 || a->out.rows <= 0 ||
        (!a->log_max && a->scale != MEL_SCALE_OWN) ||
        (writes && (a->out.cols != h->mel->n_mels || a->out.type == DTYPE_F16)))
        return err_set(&h->err, -EINVAL, "mel: types or shapes do not fit");
    int n_tiles = (a->out.rows + MEL_FRAMES - 1) / MEL_FRAMES;
    struct mel_job job = {.h = h, .args = a, .logs = host_scratch(h, n * sizeof(float))};
    if (!job.logs)
        return -ENOMEM;
    tickets_init(&job.tiles, h->pool, n_tiles);
    tickets_init(&job.scaled, h->pool, n_tiles);
    pool_run(h->pool, log_frames, &job);
    float greatest = job.greatest[0];
    for (int i = 1; i < pool_size(h->pool); i++)
        greatest = job.greatest[i] > greatest ? job.greatest[i] : greatest;
    if (a->scale == MEL_SCALE_SCAN) {
        *a->log_max = greatest > *a->log_max ? greatest : *a->log_max;
        return 0;
    }
    job.floor = (a->scale == MEL_SCALE_GIVEN ? *a->log_max : greatest) - 8.0f;
    pool_run(h->pool, scale_frames, &job);
    return 0;
}
