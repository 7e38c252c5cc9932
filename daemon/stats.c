#include "daemon/stats.h"

#include <math.h>

/* Bucket b holds values up to base · ratio^b. */
static const double base = 1e-3, ratio = 1.125;

static int bucket_of(double value)
{
    if (value <= base)
        return 0;
    int b = (int)ceil(log(value / base) / log(ratio));
    return b < HISTOGRAM_BUCKETS ? b : HISTOGRAM_BUCKETS - 1;
}

void histogram_add(struct histogram *h, double value)
{
    if (!(value >= 0.0))
        value = 0.0;
    h->bucket[bucket_of(value)]++;
    h->n++;
    if (value > h->max)
        h->max = value;
}

double histogram_percentile(const struct histogram *h, double p)
{
    uint64_t rank = (uint64_t)ceil(p * (double)h->n), seen = 0;
    for (int b = 0; b < HISTOGRAM_BUCKETS; b++) {
        seen += h->bucket[b];
        if (seen >= rank && seen > 0) {
            double top = base * pow(ratio, b);
            return top < h->max ? top : h->max;
        }
    }
    return 0.0;
}
