/* What the tests of the decoder's operations share: matrices in engine memory, and the roundings of which tolerances are
 * made. */
#ifndef CAPTIOND_TESTS_ORACLE_ROWS_H
#define CAPTIOND_TESTS_ORACLE_ROWS_H

#include "tests/support/support.h"

#include "tests/support/engines.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define F32_EPS 0x1p-24 /* greatest relative rounding error of single precision */
#define F16_EPS 0x1p-11 /* and of half precision */

static inline void wait_for(struct engine *e)
{
    struct err err = {0};
    if (e->v->wait(e, &err) < 0)
        fail_msg("%s", err.msg);
}

/* The memory of an engine from open_engine can be looked at between two waits. */
static inline void *take(struct engine *e, size_t bytes)
{
    void *p = e->v->alloc(e, bytes, NULL);
    assert_non_null(p);
    return p;
}

static inline struct mat take_mat(struct engine *e, int rows, int cols, int stride)
{
    float *data = take(e, (size_t)(rows ? rows : 1) * (size_t)stride * sizeof(float));
    return mat_view(data, DTYPE_F32, rows, cols, stride);
}

static inline void give_mat(struct engine *e, struct mat m)
{
    e->v->free(e, m.data);
}

static inline float *at(struct mat m, int row)
{
    return (float *)m.data + (size_t)row * (size_t)m.stride;
}

static inline void fill(struct test_rng *rng, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = scale * test_rng_normal(rng);
}

static inline void fill_mat(struct test_rng *rng, struct mat m, float scale)
{
    fill(rng, m.data, (size_t)m.rows * (size_t)m.stride, scale);
}

static inline struct rows take_rows(struct engine *e, int n)
{
    size_t bytes = (size_t)(n ? n : 1) * sizeof(int32_t);
    return (struct rows){.n = n, .token = take(e, bytes), .pos = take(e, bytes), .slot = take(e, bytes)};
}

static inline void give_rows(struct engine *e, struct rows rows)
{
    e->v->free(e, rows.token);
    e->v->free(e, rows.pos);
    e->v->free(e, rows.slot);
}

#endif
