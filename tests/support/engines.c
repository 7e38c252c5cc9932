#include "tests/support/support.h"
#include "tests/support/engines.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/host/host.h"

struct engine *test_engine_open(const struct engine_case *c, int n_mels)
{
    struct engine *e = NULL;
    struct err err = {0};
    const struct engine_options options = {
        .n_threads = c->n_threads, .precision = c->precision, .n_mels = n_mels, .deferred = c->deferred};
    assert_int_equal(setenv("CAPTIOND_ISA", c->isa, 1), 0);
    if (engine_open("host", &options, &e, &err) < 0)
        fail_msg("%s", err.msg);
    unsetenv("CAPTIOND_ISA");
    printf("%s %s, %d threads%s\n", c->isa, e->wide_type == DTYPE_BF16 ? "bf16" : "f32", c->n_threads,
           c->deferred ? ", deferred" : "");
    return e;
}

static void run_case(const struct engine_case *c, void (*fn)(struct engine *))
{
    struct engine *e = test_engine_open(c, 80);
    fn(e);
    engine_close(e);
}

void test_engines(void (*fn)(struct engine *))
{
    for (int isa = 0; isa <= (int)isa_detect(); isa++) {
        struct engine_case c = {.isa = isa_name((enum isa)isa), .n_threads = 1 + isa % 2};
        run_case(&c, fn);
        if (isa != (int)isa_detect())
            continue;
        for (c.n_threads = 1; c.n_threads <= 4; c.n_threads++)
            run_case(&c, fn);
        c.n_threads = 2;
        c.deferred = true;
        run_case(&c, fn);
        c.precision = PRECISION_F32;
        run_case(&c, fn);
    }
}

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

struct mat test_mat(struct engine *e, enum dtype type, int rows, int cols, int stride)
{
    struct mat m = mat_view(NULL, type, rows, cols, stride);
    size_t bytes = mat_bytes(m);
    unsigned char *nan = malloc(bytes);
    m.data = e->v->alloc(e, bytes);
    assert_non_null(nan);
    assert_non_null(m.data);
    memset(nan, 0xff, bytes); /* a NaN in every type */
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

float test_round(enum dtype type, float x)
{
    return type == DTYPE_BF16 ? from_bf16(to_bf16(x)) : x;
}

void test_mat_write(struct engine *e, struct mat m, float *values)
{
    uint16_t *half = malloc((size_t)m.cols * sizeof(*half));
    assert_non_null(half);
    for (int r = 0; r < m.rows; r++) {
        float *row = values + (size_t)r * (size_t)m.cols;
        for (int c = 0; c < m.cols && m.type == DTYPE_BF16; c++) {
            half[c] = to_bf16(row[c]);
            row[c] = from_bf16(half[c]);
        }
        e->v->upload(e, mat_rows(m, r, 1).data, m.type == DTYPE_BF16 ? (void *)half : (void *)row,
                     (size_t)m.cols * dtype_bytes(m.type));
        test_engine_wait(e);
    }
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
            float x;
            memcpy(&half, row + (size_t)c * size, sizeof(half));
            memcpy(&x, row + (size_t)c * size, m.type == DTYPE_BF16 ? sizeof(half) : sizeof(x));
            if (r < m.rows && c < m.cols)
                values[(size_t)r * (size_t)m.cols + (size_t)c] = m.type == DTYPE_BF16 ? from_bf16(half) : x;
            else if (half != 0xffff)
                fail_msg("written outside of the matrix: row %d, column %d of [%d, %d]", r, c, m.rows,
                         m.cols);
        }
    }
    free(all);
}

float *test_vector(struct engine *e, const float *values, int n)
{
    float *v = e->v->alloc(e, (size_t)n * sizeof(float));
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
