#include "tests/support/support.h"
#include "tests/support/engines.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void test_engine_wait(struct engine *e)
{
    struct err err = {0};
    if (e->v->wait(e, &err) < 0)
        fail_msg("%s", err.msg);
}

static size_t mat_bytes(struct mat m)
{
    return ((size_t)m.rows + 1) * (size_t)m.stride * dtype_bytes(m.type) + 4 * (size_t)m.cols;
}

/* A NaN of the type that no operation gives: it signals, and what is computed of it does not. */
static uint32_t untouched(enum dtype type)
{
    return type == DTYPE_F32 ? 0x7fa5a5a5 : type == DTYPE_F16 ? 0x7da5 : 0x7fa5;
}

struct mat test_mat(struct engine *e, enum dtype type, int rows, int cols, int stride)
{
    struct mat m = mat_view(NULL, type, rows, cols, stride);
    size_t bytes = mat_bytes(m);
    unsigned char *nan = malloc(bytes);
    m.data = e->v->alloc(e, bytes, NULL);
    assert_non_null(nan);
    assert_non_null(m.data);
    const uint32_t value = untouched(type);
    for (size_t i = 0, size = dtype_bytes(type); i + size <= bytes; i += size)
        memcpy(nan + i, &value, size);
    e->v->upload(e, m.data, nan, bytes);
    test_engine_wait(e);
    free(nan);
    return m;
}

static uint16_t to_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

static float from_bf16(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof(x));
    return x;
}

double test_half(double x)
{
    int e;
    frexp(x, &e);
    double quantum = ldexp(1.0, (e - 1 > -14 ? e - 1 : -14) - 10);
    return nearbyint(x / quantum) * quantum;
}

static uint16_t to_f16(float x)
{
    double h = fabs(test_half(x));
    int e, sign = signbit(x) ? 0x8000 : 0;
    frexp(h, &e);
    if (h > 65504.0)
        return (uint16_t)(sign | 0x7c00);
    if (h < 0x1p-14)
        return (uint16_t)(sign | (int)(h * 0x1p24));
    return (uint16_t)(sign | ((e + 14) << 10) | (int)(ldexp(h, 11 - e) - 1024.0));
}

static float from_f16(uint16_t h)
{
    int e = h >> 10 & 31, fraction = h & 1023;
    double x = e == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, e - 25);
    if (e == 31)
        x = fraction ? NAN : INFINITY;
    return (float)(h & 0x8000 ? -x : x);
}

static uint16_t narrow(enum dtype type, float x)
{
    return type == DTYPE_BF16 ? to_bf16(x) : to_f16(x);
}

static float widen(enum dtype type, uint16_t h)
{
    return type == DTYPE_BF16 ? from_bf16(h) : from_f16(h);
}

float test_round(enum dtype type, float x)
{
    return type == DTYPE_F32 ? x : widen(type, narrow(type, x));
}

double test_rounding(enum dtype type, double x)
{
    switch (type) {
    case DTYPE_BF16:
        return EPS_BF16 * fabs(x);
    case DTYPE_F16: /* below 2^−14 the distance from one number to the next is 2^−24 */
        return EPS_F16 * fabs(x) + 0x1p-25;
    default:
        return 0.0;
    }
}

void test_mat_write(struct engine *e, struct mat m, float *values)
{
    size_t cols = (size_t)m.cols;
    uint16_t *half = malloc((size_t)m.rows * cols * sizeof(*half));
    assert_non_null(half);
    for (int r = 0; r < m.rows; r++) {
        float *row = values + (size_t)r * cols;
        uint16_t *narrowed = half + (size_t)r * cols;
        for (size_t c = 0; c < cols && m.type != DTYPE_F32; c++) {
            narrowed[c] = narrow(m.type, row[c]);
            row[c] = widen(m.type, narrowed[c]);
        }
        e->v->upload(e, mat_rows(m, r, 1).data, m.type == DTYPE_F32 ? (void *)row : (void *)narrowed,
                     cols * dtype_bytes(m.type));
    }
    test_engine_wait(e);
    free(half);
}

void test_mat_read(struct engine *e, struct mat m, float *values)
{
    size_t bytes = mat_bytes(m), size = dtype_bytes(m.type);
    unsigned char *all = malloc(bytes);
    assert_non_null(all);
    e->v->download(e, all, m.data, bytes);
    test_engine_wait(e);
    for (int r = 0; r <= m.rows; r++) {
        const unsigned char *row = all + (size_t)r * (size_t)m.stride * size;
        for (int c = 0; c < m.stride; c++) {
            uint16_t half;
            uint32_t bits = 0;
            float x;
            memcpy(&half, row + (size_t)c * size, sizeof(half));
            memcpy(&bits, row + (size_t)c * size, size);
            memcpy(&x, &bits, sizeof(x));
            if (r < m.rows && c < m.cols)
                values[(size_t)r * (size_t)m.cols + (size_t)c] =
                    m.type == DTYPE_F32 ? x : widen(m.type, half);
            else if (bits != untouched(m.type))
                fail_msg("written outside of the matrix: row %d, column %d of [%d, %d]", r, c, m.rows,
                         m.cols);
        }
    }
    free(all);
}

float *test_vector(struct engine *e, const float *values, int n)
{
    float *v = e->v->alloc(e, (size_t)n * sizeof(float), NULL);
    assert_non_null(v);
    e->v->upload(e, v, values, (size_t)n * sizeof(float));
    test_engine_wait(e);
    return v;
}

void test_close(const char *what, const float *got, const double *want, const double *tolerance, int rows,
                int cols)
{
    double worst = -1.0;
    size_t at = 0;
    for (size_t i = 0; i < (size_t)rows * (size_t)cols; i++) {
        double miss = fabs(got[i] - want[i]) / tolerance[i];
        if (!(miss <= worst)) { /* a NaN counts as the worst */
            worst = miss;
            at = i;
            if (isnan(miss))
                break;
        }
    }
    if (!(worst <= 1.0))
        fail_msg("%s [%d, %d]: row %zu, column %zu is %.9g, not %.9g (%.3g times the tolerance of %.3g)",
                 what, rows, cols, at / (size_t)cols, at % (size_t)cols, got[at], want[at], worst,
                 tolerance[at]);
}
