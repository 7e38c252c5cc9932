/* When each token was said: the alignment heads' attention, and the monotonic path through it.
 *
 * After OpenAI's whisper/timing.py (find_alignment, median_filter, dtw). An aligner holds scratch memory and
 * belongs to one thread. */
#ifndef CAPTIOND_DECODER_ALIGN_H
#define CAPTIOND_DECODER_ALIGN_H

#include "daemon/base/err.h"

#define ALIGN_FRAME_SAMPLES 320 /* a frame of the encoder's output: 20 ms at 16 kHz */

struct aligner;

/* Takes memory for up to max_rows rows of max_frames frames. 0 or -ENOMEM. */
int aligner_create(int max_rows, int max_frames, struct aligner **, struct err *);
void aligner_destroy(struct aligner *); /* NULL is accepted */

/* weights: [n_rows, n_heads, stride] cross-attention after softmax, of which the first n_frames of each row count
 * (those that hold audio); row i is the input that predicted token i, the last row the one that predicted the end.
 * Writes to first[i] the frame at which token i begins: ascending, in [0, n_frames). Each row is scaled to sum to 1
 * over the frames that count, standardised over the rows frame by frame, median-filtered over 7 frames and
 * averaged over the heads; `first` follows the path of least cost. n_rows ≥ 1, n_heads ≥ 1, n_frames ≥ 1. */
void align_rows(struct aligner *, const float *weights, int n_rows, int n_heads, int stride, int n_frames,
                int *first);

/* The same for rows of which only some are aligned; the others count in the standardisation, as the prompt's and the
 * end's do in OpenAI's implementation. */
struct align_span {
    int n_rows;   /* all */
    int first, n; /* those that are aligned */
};
void align_some_rows(struct aligner *, const float *weights, const struct align_span *, int n_heads,
                     int stride, int n_frames, int *first);

/* Dynamic time warping over cost [n, m], row-major: the path from (0, 0) to (n − 1, m − 1) by steps of one row, one
 * column or both. Writes the first column of the path in each row. Ties go as in timing.py: along the row. */
void align_path(struct aligner *, const float *cost, int n, int m, int *first);

#endif
