/* Log-mel frames, straight from the samples: transform, power, filterbank and logarithm in one kernel, scaling in a
 * second, since that needs the maximum of the window.
 *
 * The transform is a product in single precision, as on the host (gpu/host/kernels_mel.c): with
 * c[n] = w[n] (x[n] + x[400 − n]) and d[n] = w[n] (x[n] − x[400 − n]) the real part of bin k is Σ c[n] cos(2πkn/400), the
 * imaginary one −Σ d[n] sin(2πkn/400), n = 0 … 200, and a second fold n ↔ 200 − n leaves n = 0 … 100 and a product each for
 * even and odd k. 81 million multiply-adds for 30 s. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "gpu/mel_filter.h"
}

#define WINDOW      400
#define HOP         160
#define PAD_SAMPLES 200 /* a frame is centred: it begins so many samples before its hop */
#define FOLDED      101
#define COLUMNS     128 /* room for the 101 even or 100 odd bins */
#define BINS        MEL_FILTER_BINS
#define FRAMES      8 /* of a block */
#define THREADS     (2 * COLUMNS)
#define FRAMES_ROOM 3000
#define MELS_MAX    128

struct mel_tables {
    int n_mels;
    /* device memory */
    float *window;  /* [201], the last one halved: it meets itself in the fold */
    float2 *dft;    /* [even, odd bins][FOLDED][COLUMNS] cosine and sine */
    float *filters; /* [BINS][n_mels] */
    int2 *ranges;   /* [n_mels] first bin of a filter, and the one behind its last */
    float *pcm;     /* [n_rooms][samples of frames_room] */
    float *logs;    /* [frames_room][n_mels] */
    int *greatest;  /* [2] a window's maximum, as ordered(), and what is set back for the next one's */
    int frames_room;
    int turn; /* of the maxima */
    /* With several rooms the next windows' samples are on their way while one is transformed: in a stream of their own, to the
     * room of which the kernel has been longest done. */
    int n_rooms, room;
    cudaEvent_t arrived[ENGINE_WINDOWS_MAX], heard[ENGINE_WINDOWS_MAX];
};

/* What the kernels take by value. */
struct mel_params {
    int n_mels, n_frames, n_before, n_samples;
    const float *window;
    const float2 *dft;
    const float *filters;
    const int2 *ranges;
    const float *pcm; /* sample −n_before of the window and on */
    float *logs;
    int *greatest, *next_greatest;
};

/* An integer in the order of the floats, and back: there is an atomic maximum of integers only. */
static __host__ __device__ __forceinline__ int flipped(int bits)
{
    return bits >= 0 ? bits : bits ^ 0x7fffffff;
}

static __device__ __forceinline__ int ordered(float x)
{
    return flipped(__float_as_int(x));
}

/* Sample i of the window; the recording is mirrored at its first sample, where that is nearer than 200. */
static __device__ __forceinline__ float sample_at(const struct mel_params *p, int i)
{
    if (i < -p->n_before)
        i = -2 * p->n_before - i;
    return i < p->n_samples ? p->pcm[i + p->n_before] : 0.0f;
}

/* folded [even, odd bins][cosines, sines][FOLDED][FRAMES] */
static __device__ __forceinline__ void fold(const struct mel_params *p, float *folded)
{
    for (int i = (int)threadIdx.x; i < FOLDED * FRAMES; i += THREADS) {
        int f = i / FOLDED, n = i % FOLDED, begin = ((int)blockIdx.x * FRAMES + f) * HOP - PAD_SAMPLES;
        float a = sample_at(p, begin + n), b = sample_at(p, begin + WINDOW - n);
        float c = sample_at(p, begin + WINDOW / 2 - n), d = sample_at(p, begin + WINDOW / 2 + n);
        float w = p->window[n], v = p->window[WINDOW / 2 - n];
        float sum = w * a + w * b, difference = w * a - w * b, mirror = v * c + v * d,
              opposite = v * c - v * d;
        float *to = folded + n * FRAMES + f;
        to[0 * FOLDED * FRAMES] = sum + mirror;
        to[1 * FOLDED * FRAMES] = difference - opposite;
        to[2 * FOLDED * FRAMES] = sum - mirror;
        to[3 * FOLDED * FRAMES] = difference + opposite;
    }
}

/* power [FRAMES][BINS]: a thread has one bin of all frames. */
static __device__ __forceinline__ void transform(const struct mel_params *p, const float *folded,
                                                 float *power)
{
    int odd = (int)threadIdx.x / COLUMNS, column = (int)threadIdx.x % COLUMNS, bin = 2 * column + odd;
    const float *cosines = folded + 2 * odd * FOLDED * FRAMES, *sines = cosines + FOLDED * FRAMES;
    float re[FRAMES] = {}, im[FRAMES] = {};
    if (bin >= BINS)
        return;
    for (int n = 0; n < FOLDED; n++) {
        const float2 b = p->dft[(odd * FOLDED + n) * COLUMNS + column];
        for (int f = 0; f < FRAMES; f++) {
            re[f] = fmaf(cosines[n * FRAMES + f], b.x, re[f]);
            im[f] = fmaf(sines[n * FRAMES + f], b.y, im[f]);
        }
    }
    for (int f = 0; f < FRAMES; f++)
        power[f * BINS + bin] = re[f] * re[f] + im[f] * im[f];
}

static __global__ void __launch_bounds__(THREADS) mel_kernel(struct mel_params p)
{
    SHARED(float, folded, 4 * FOLDED * FRAMES);
    SHARED(float, power, FRAMES *BINS);
    fold(&p, folded);
    __syncthreads();
    transform(&p, folded, power);
    __syncthreads();
    float greatest = -10.0f;
    for (int i = (int)threadIdx.x; i < FRAMES * p.n_mels; i += THREADS) {
        int m = i % p.n_mels, f = i / p.n_mels, frame = (int)blockIdx.x * FRAMES + f;
        if (frame >= p.n_frames)
            continue;
        float sum = 0.0f;
        for (int k = p.ranges[m].x; k < p.ranges[m].y; k++)
            sum = fmaf(p.filters[k * p.n_mels + m], power[f * BINS + k], sum);
        float y = log10f(fmaxf(sum, 1e-10f));
        p.logs[(size_t)frame * (size_t)p.n_mels + (size_t)m] = y;
        greatest = fmaxf(greatest, y);
    }
    greatest = warp_max(greatest);
    if (threadIdx.x % WARP == 0)
        atomicMax(p.greatest, ordered(greatest));
    if (threadIdx.x == 0 && blockIdx.x == 0)
        *p.next_greatest = ordered(-10.0f);
}

static __global__ void raise_kernel(const int *greatest, float *log_max)
{
    *log_max = fmaxf(*log_max, __int_as_float(flipped(*greatest)));
}

/* Frames from n_heard on are zeros. grid: frames */
static __global__ void __launch_bounds__(MELS_MAX)
    scale_kernel(const float *logs, const int *greatest, const float *given, int n_heard, struct mat out)
{
    int f = (int)blockIdx.x, m = (int)threadIdx.x;
    float floor = (given ? *given : __int_as_float(flipped(*greatest))) - 8.0f;
    if (m >= out.cols)
        return;
    float y = (fmaxf(logs[(size_t)f * (size_t)out.cols + (size_t)m], floor) + 4.0f) * 0.25f;
    store(out.data, out.type == DTYPE_F16, (size_t)f * (size_t)out.stride + (size_t)m,
          f < n_heard ? y : 0.0f);
}

/* --- submitting ------------------------------------------------------------------------------------------------------- */

/* Samples that the frames can see. */
static int seen_samples(int n_frames)
{
    return n_frames * HOP + PAD_SAMPLES;
}

static cudaError_t grow(struct cuda_engine *c, int n_frames)
{
    struct mel_tables *t = c->mel;
    if (n_frames <= t->frames_room)
        return cudaSuccess;
    cudaFree(t->pcm);
    cudaFree(t->logs);
    t->pcm = t->logs = NULL;
    t->frames_room = 0;
    size_t pcm = (size_t)t->n_rooms * (size_t)(PAD_SAMPLES + seen_samples(n_frames)),
           logs = (size_t)n_frames * (size_t)t->n_mels;
    cudaError_t e = cudaMalloc((void **)&t->pcm, pcm * sizeof(float));
    e = e ? e : cudaMalloc((void **)&t->logs, logs * sizeof(float));
    t->frames_room = e ? 0 : n_frames;
    return e;
}

/* The samples' place on the GPU, where they will be when the stream's next operation begins; NULL: they will not. */
static const float *send(struct cuda_engine *c, const float *from, size_t n)
{
    struct mel_tables *t = c->mel;
    float *to = t->pcm + (size_t)t->room * (size_t)(PAD_SAMPLES + seen_samples(t->frames_room));
    cudaStream_t stream = t->n_rooms > 1 ? c->sound : c->stream;
    cudaError_t e = t->n_rooms > 1 ? cudaStreamWaitEvent(stream, t->heard[t->room], 0) : cudaSuccess;
    if (e == cudaSuccess && n > 0)
        e = cudaMemcpyAsync(to, from, n * sizeof(float), cudaMemcpyHostToDevice, stream);
    if (e == cudaSuccess && t->n_rooms > 1) {
        e = cudaEventRecord(t->arrived[t->room], stream);
        e = e ? e : cudaStreamWaitEvent(c->stream, t->arrived[t->room], 0);
    }
    if (e != cudaSuccess)
        cudaStreamSynchronize(c->sound); /* or a copy might go on when the wait is over */
    return cuda_check(c, e, "mel") < 0 ? NULL : to;
}

int cuda_mel(struct cuda_engine *c, const struct mel_args *a)
{
    struct mel_tables *t = c->mel;
    bool writes = a->scale != MEL_SCALE_SCAN;
    if (a->n_before < 0 || a->n_before > PAD_SAMPLES || a->n_samples < 0 || a->out.rows <= 0 ||
        (!a->log_max && a->scale != MEL_SCALE_OWN) ||
        (writes && (a->out.cols != t->n_mels || !is_single_or_half(a->out))) || c->recording)
        return cuda_fail(c, -EINVAL, "mel: types or shapes do not fit");
    int r = cuda_check(c, grow(c, a->out.rows), "mel");
    if (r < 0)
        return r;
    int n_samples = a->n_samples < seen_samples(a->out.rows) ? a->n_samples : seen_samples(a->out.rows);
    const float *pcm = send(c, a->pcm - a->n_before, (size_t)(a->n_before + n_samples));
    if (!pcm)
        return -EIO;
    int *greatest = t->greatest + t->turn;
    const struct mel_params p = {t->n_mels, a->out.rows, a->n_before, n_samples,
                                 t->window, t->dft,      t->filters,  t->ranges,
                                 pcm,       t->logs,     greatest,    t->greatest + 1 - t->turn};
    LAUNCH(mel_kernel, (a->out.rows + FRAMES - 1) / FRAMES, THREADS, 0, c->stream, p);
    r = cuda_check(c, cudaGetLastError(), "mel");
    if (r < 0)
        return r;
    t->turn = 1 - t->turn;
    if (t->n_rooms > 1)
        cuda_check(c, cudaEventRecord(t->heard[t->room], c->stream), "mel");
    t->room = (t->room + 1) % t->n_rooms;
    if (writes) {
        bool given = a->scale == MEL_SCALE_GIVEN;
        LAUNCH(scale_kernel, a->out.rows, MELS_MAX, 0, c->stream, t->logs, greatest,
               given ? a->log_max : (const float *)NULL, given ? a->n_samples / HOP : a->out.rows, a->out);
    } else {
        LAUNCH(raise_kernel, 1, 1, 0, c->stream, greatest, a->log_max);
    }
    return cuda_check(c, cudaGetLastError(), "mel");
}

/* --- tables ----------------------------------------------------------------------------------------------------------- */

struct host_tables {
    float window[WINDOW / 2 + 1];
    float2 dft[2 * FOLDED * COLUMNS];
    float filters[BINS * MELS_MAX];
    int2 ranges[MELS_MAX];
};

static void fill_tables(struct host_tables *h, int n_mels)
{
    const double pi = 3.14159265358979323846;
    for (int n = 0; n <= WINDOW / 2; n++)
        h->window[n] = (float)((0.5 - 0.5 * cos(2.0 * pi * n / WINDOW)) * (n == WINDOW / 2 ? 0.5 : 1.0));
    for (int k = 0; k < BINS; k++) {
        for (int n = 0; n < FOLDED; n++) {
            /* Sample 100 meets itself in the second fold: it arrives doubled, or as 0. */
            double half = n == FOLDED - 1 ? 0.5 : 1.0, angle = 2.0 * pi * (k * n % WINDOW) / WINDOW;
            float2 *to = &h->dft[(k % 2 * FOLDED + n) * COLUMNS + k / 2];
            to->x = (float)(half * cos(angle));
            to->y = (float)(half * sin(angle));
        }
        for (int m = 0; m < n_mels; m++) {
            h->filters[k * n_mels + m] = (float)mel_filter(m, n_mels, k * MEL_FILTER_BIN_HZ);
            if (h->filters[k * n_mels + m] <= 0.0f)
                continue;
            h->ranges[m].x = h->ranges[m].y ? h->ranges[m].x : k;
            h->ranges[m].y = k + 1;
        }
    }
}

static cudaError_t make(struct cuda_engine *c, void **to, const void *from, size_t bytes)
{
    cudaError_t e = cudaMalloc(to, bytes);
    return e ? e : cuda_to_device(c, *to, from, bytes);
}

int cuda_mel_create(int n_mels, struct cuda_engine *c, struct err *err)
{
    struct mel_tables *t = (struct mel_tables *)calloc(1, sizeof(*t));
    struct host_tables *h = (struct host_tables *)calloc(1, sizeof(*h));
    cudaError_t e = cudaErrorMemoryAllocation;
    c->mel = t;
    if (t && h) {
        const float least = -10.0f;
        int ordered_least[2];
        memcpy(&ordered_least[0], &least, sizeof(least));
        ordered_least[0] = ordered_least[1] = flipped(ordered_least[0]);
        fill_tables(h, n_mels);
        t->n_mels = n_mels;
        e = make(c, (void **)&t->window, h->window, sizeof(h->window));
        e = e ? e : make(c, (void **)&t->dft, h->dft, sizeof(h->dft));
        e = e ? e : make(c, (void **)&t->filters, h->filters, sizeof(h->filters));
        e = e ? e : make(c, (void **)&t->ranges, h->ranges, sizeof(h->ranges));
        e = e ? e : make(c, (void **)&t->greatest, ordered_least, sizeof(ordered_least));
        t->n_rooms = c->base.windows_max;
        for (int i = 0; i < t->n_rooms && t->n_rooms > 1 && !e; i++) {
            e = cudaEventCreateWithFlags(&t->arrived[i], cudaEventDisableTiming);
            e = e ? e : cudaEventCreateWithFlags(&t->heard[i], cudaEventDisableTiming);
        }
        e = e ? e : grow(c, FRAMES_ROOM);
    }
    free(h);
    if (e != cudaSuccess)
        return cuda_memory_error(err, e, "the spectrogram", sizeof(struct host_tables));
    return 0;
}

void cuda_mel_destroy(struct mel_tables *t)
{
    if (!t)
        return;
    cudaFree(t->window);
    cudaFree(t->dft);
    cudaFree(t->filters);
    cudaFree(t->ranges);
    cudaFree(t->greatest);
    for (int i = 0; i < ENGINE_WINDOWS_MAX; i++) {
        if (t->arrived[i])
            cudaEventDestroy(t->arrived[i]);
        if (t->heard[i])
            cudaEventDestroy(t->heard[i]);
    }
    cudaFree(t->pcm);
    cudaFree(t->logs);
    free(t);
}
