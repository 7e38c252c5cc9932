/* One query of one head in double precision, and how far single precision may be from it. */
#ifndef CAPTIOND_TESTS_ORACLE_ATTENTION_REFERENCE_H
#define CAPTIOND_TESTS_ORACLE_ATTENTION_REFERENCE_H

#include <math.h>

enum { HEAD_SIZE = 64 };

/* keys, values: n rows of 64, `stride` apart. p: [n] the weights. Returns the bound of the relative error of a weight;
 * out[d] is then within that times Σ p |v|. */
static inline double attention_reference(const float *q, const double *keys, const double *values, int n,
                                         int stride, double *p, double *out, double *magnitude)
{
    double greatest = -INFINITY, sum = 0.0, score_error = 0.0;
    for (int t = 0; t < n; t++) {
        double s = 0.0, m = 0.0;
        for (int d = 0; d < HEAD_SIZE; d++) {
            s += q[d] * keys[t * stride + d] / 8.0;
            m += fabs(q[d] * keys[t * stride + d]) / 8.0;
        }
        p[t] = s;
        greatest = s > greatest ? s : greatest;
        /* 64 products and sums, then the difference to the greatest score. */
        score_error = fmax(score_error, 0x1p-24 * (66.0 * m + 2.0 * fabs(s)));
    }
    for (int t = 0; t < n; t++)
        sum += p[t] = exp(p[t] - greatest);
    for (int d = 0; d < HEAD_SIZE; d++)
        out[d] = magnitude[d] = 0.0;
    for (int t = 0; t < n; t++) {
        p[t] /= sum;
        for (int d = 0; d < HEAD_SIZE; d++) {
            out[d] += p[t] * values[t * stride + d];
            magnitude[d] += fabs(p[t] * values[t * stride + d]);
        }
    }
    /* Twice the score's error (a weight and the sum of weights), the exponential's 2e-7 twice, sums of n terms over at
     * least 4 lanes twice and, of the output, in one chain. */
    return 2.0 * score_error + 4e-7 + 1.5 * n * 0x1p-24;
}

#endif
