#include "decoder/align.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MEDIAN_WIDTH 7
#define MEDIAN_PAD   (MEDIAN_WIDTH / 2)

enum step { STEP_BOTH, STEP_ROW, STEP_COLUMN };

struct aligner {
    int max_rows, max_frames;
    float *matrix;   /* [max_rows, max_frames] negated mean over the heads: a cost */
    float *head;     /* [max_rows, max_frames] one head's rows, standardised */
    float *padded;   /* [max_frames + 2 · MEDIAN_PAD] one row with its mirrored edges */
    float *previous; /* [max_frames + 1] accumulated cost of the row above */
    float *current;  /* [max_frames + 1] */
    uint8_t *trace;  /* [max_rows, max_frames] enum step that led here */
};

int aligner_create(int max_rows, int max_frames, struct aligner **out, struct err *err)
{
    struct aligner *a = calloc(1, sizeof(*a));
    if (!a)
        return err_set(err, -ENOMEM, "out of memory for word alignment");
    size_t cells = (size_t)max_rows * (size_t)max_frames;
    a->max_rows = max_rows;
    a->max_frames = max_frames;
    a->matrix = malloc(cells * sizeof(float));
    a->head = malloc(cells * sizeof(float));
    a->padded = malloc((size_t)(max_frames + 2 * MEDIAN_PAD) * sizeof(float));
    a->previous = malloc((size_t)(max_frames + 1) * sizeof(float));
    a->current = malloc((size_t)(max_frames + 1) * sizeof(float));
    a->trace = malloc(cells);
    if (!a->matrix || !a->head || !a->padded || !a->previous || !a->current || !a->trace) {
        aligner_destroy(a);
        return err_set(err, -ENOMEM, "out of memory for word alignment");
    }
    *out = a;
    return 0;
}

void aligner_destroy(struct aligner *a)
{
    if (!a)
        return;
    free(a->matrix);
    free(a->head);
    free(a->padded);
    free(a->previous);
    free(a->current);
    free(a->trace);
    free(a);
}

/* The softmax over the frames that count is the one over all frames, divided by their sum. */
static void scale_rows(const float *weights, int n_rows, size_t row_stride, int n_frames, float *out)
{
    for (int i = 0; i < n_rows; i++) {
        const float *in = weights + (size_t)i * row_stride;
        float sum = 0.0f;
        for (int f = 0; f < n_frames; f++)
            sum += in[f];
        float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
        for (int f = 0; f < n_frames; f++)
            out[(size_t)i * (size_t)n_frames + (size_t)f] = in[f] * scale;
    }
}

/* Mean 0 and deviation 1 over the rows, for each frame by itself. */
static void standardise(float *x, int n_rows, int n_frames)
{
    for (int f = 0; f < n_frames; f++) {
        double sum = 0.0, squares = 0.0;
        for (int i = 0; i < n_rows; i++)
            sum += x[(size_t)i * (size_t)n_frames + (size_t)f];
        double mean = sum / n_rows;
        for (int i = 0; i < n_rows; i++) {
            double d = x[(size_t)i * (size_t)n_frames + (size_t)f] - mean;
            squares += d * d;
        }
        float scale = squares > 0.0 ? (float)(1.0 / sqrt(squares / n_rows)) : 0.0f;
        for (int i = 0; i < n_rows; i++) {
            float *v = &x[(size_t)i * (size_t)n_frames + (size_t)f];
            *v = (*v - (float)mean) * scale;
        }
    }
}

static inline void order(float *a, float *b)
{
    float low = *a < *b ? *a : *b;
    *b = *a < *b ? *b : *a;
    *a = low;
}

/* Sorting network cut down to the fourth of seven: no branches, so that rows are filtered several frames at a time. */
static inline float median7(const float *p)
{
    float a = p[0], b = p[1], c = p[2], d = p[3], e = p[4], f = p[5], g = p[6];
    order(&a, &f);
    order(&a, &d);
    order(&b, &g);
    order(&c, &e);
    order(&a, &b);
    order(&d, &f);
    order(&c, &g);
    order(&c, &d);
    order(&d, &g);
    order(&e, &f);
    order(&b, &e);
    order(&b, &d);
    order(&d, &e);
    return d;
}

/* Median over 7 frames, the row mirrored at its edges; a row too short to be mirrored stays as it is. The result
 * times `scale` is added to `sum`. */
static void add_filtered(const float *row, int n, float *padded, float scale, float *sum)
{
    if (n <= MEDIAN_PAD) {
        for (int f = 0; f < n; f++)
            sum[f] += scale * row[f];
        return;
    }
    memcpy(padded + MEDIAN_PAD, row, (size_t)n * sizeof(float));
    for (int k = 1; k <= MEDIAN_PAD; k++) {
        padded[MEDIAN_PAD - k] = row[k];
        padded[MEDIAN_PAD + n - 1 + k] = row[n - 1 - k];
    }
    for (int f = 0; f < n; f++)
        sum[f] += scale * median7(padded + f);
}

void align_some_rows(struct aligner *a, const float *weights, const struct align_span *span, int n_heads,
                     int stride, int n_frames, int *first)
{
    size_t frames = (size_t)n_frames;
    memset(a->matrix, 0, (size_t)span->n * frames * sizeof(float));
    for (int h = 0; h < n_heads; h++) {
        scale_rows(weights + (size_t)h * (size_t)stride, span->n_rows, (size_t)n_heads * (size_t)stride,
                   n_frames, a->head);
        standardise(a->head, span->n_rows, n_frames);
        for (int i = 0; i < span->n; i++)
            add_filtered(a->head + (size_t)(span->first + i) * frames, n_frames, a->padded,
                         -1.0f / (float)n_heads, a->matrix + (size_t)i * frames);
    }
    align_path(a, a->matrix, span->n, n_frames, first);
}

void align_rows(struct aligner *a, const float *weights, int n_rows, int n_heads, int stride, int n_frames,
                int *first)
{
    const struct align_span all = {.n_rows = n_rows, .first = 0, .n = n_rows};
    align_some_rows(a, weights, &all, n_heads, stride, n_frames, first);
}

void align_path(struct aligner *a, const float *cost, int n, int m, int *first)
{
    a->previous[0] = 0.0f;
    for (int j = 1; j <= m; j++)
        a->previous[j] = INFINITY;
    for (int i = 0; i < n; i++) {
        uint8_t *trace = a->trace + (size_t)i * (size_t)m;
        a->current[0] = INFINITY;
        for (int j = 1; j <= m; j++) {
            float both = a->previous[j - 1], row = a->previous[j], column = a->current[j - 1];
            float least = column;
            trace[j - 1] = STEP_COLUMN;
            if (both < row && both < column) {
                least = both;
                trace[j - 1] = STEP_BOTH;
            } else if (row < both && row < column) {
                least = row;
                trace[j - 1] = STEP_ROW;
            }
            a->current[j] = cost[(size_t)i * (size_t)m + (size_t)(j - 1)] + least;
        }
        float *swap = a->previous;
        a->previous = a->current;
        a->current = swap;
    }
    int i = n - 1, j = m - 1;
    while (i >= 0) {
        first[i] = j;
        /* At the left edge every way leads up, also where costs are no numbers and cannot be compared. */
        enum step step = j == 0 ? STEP_ROW : (enum step)a->trace[(size_t)i * (size_t)m + (size_t)j];
        i -= step != STEP_COLUMN;
        j -= step != STEP_ROW;
    }
}
