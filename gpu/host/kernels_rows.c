/* Compiled once for each instruction set, see the Makefile. */
#include "gpu/host/kernels_rows.h"

#include <math.h>

#include "gpu/host/simd.h"

#define VECS (PANEL / VEC) /* vectors a panel */

INLINE vf load_panel(enum panel_type type, const void *panel, int at)
{
    return type == PANEL_F16 ? vload_f16((const uint16_t *)panel + at) : vload((const float *)panel + at);
}

INLINE size_t panel_bytes(enum panel_type type, int n_in)
{
    return (size_t)n_in * PANEL * (type == PANEL_F16 ? 2 : 4);
}

static void store_outputs(const struct panel_product *a, int row, int output, const vf *acc)
{
    float y[PANEL];
    int n = a->n_out - output < PANEL ? a->n_out - output : PANEL;
    for (int v = 0; v < VECS; v++) {
        vf x = acc[v];
        if (a->bias && n == PANEL)
            x += vload(a->bias + output + v * VEC);
        vstore(y + v * VEC, x);
    }
    if (a->bias && n < PANEL) {
        for (int i = 0; i < n; i++)
            y[i] += a->bias[output + i];
    }
    if (a->gelu) {
        for (int v = 0; v < VECS; v++)
            vstore(y + v * VEC, vgelu(vload(y + v * VEC)));
    }
    if (a->add) {
        const float *add = a->add[row] + output;
        for (int i = 0; i < n; i++)
            y[i] += add[i];
    }
    memcpy(a->out[row] + output, y, (size_t)n * sizeof(float));
}

/* The sums of `rows` rows and `panels` panels stay in registers while the inputs pass. All sizes but n_in are compile-time
 * constants. */
INLINE void tile(const struct panel_product *a, enum panel_type type, int row, int panel, const int rows,
                 const int panels)
{
    vf acc[12][8 * VECS];
    const int n_in = a->n_in;
    const char *w[8];
    const float *x[12];
    for (int p = 0; p < panels; p++)
        w[p] = (const char *)a->panels + (size_t)(panel + p) * panel_bytes(type, n_in);
    for (int r = 0; r < rows; r++) {
        x[r] = a->x[row + r];
        for (int i = 0; i < panels * VECS; i++)
            acc[r][i] = (vf){0};
    }
    for (int k = 0; k < n_in; k++) {
        vf b[8 * VECS];
#pragma GCC unroll 16
        for (int i = 0; i < panels * VECS; i++)
            b[i] = load_panel(type, w[i / VECS], k * PANEL + i % VECS * VEC);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            vf s = vset(x[r][k]);
#pragma GCC unroll 16
            for (int i = 0; i < panels * VECS; i++)
                acc[r][i] += s * b[i];
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int p = 0; p < panels; p++)
            store_outputs(a, row + r, (panel + p) * PANEL, &acc[r][p * VECS]);
    }
}

/* Register tiles: as many sums as registers hold, and at least as many as hide the latency of a multiply-add. */
#if VEC == 16
#define TILE_1  8
#define TILE_2  4
#define TILE_4  4
#define TILE_8  2
#define TILE_12 2
#define MANY    12
#else
#define TILE_1  4
#define TILE_2  2
#define TILE_4  1
#define TILE_8  1
#define TILE_12 1
#define MANY    4
#endif

#define SWEEP(rows, width)                                                                                   \
    do {                                                                                                     \
        int p = first;                                                                                       \
        for (; p + (width) <= last; p += (width))                                                            \
            tile(a, type, row, p, rows, width);                                                              \
        for (; p < last; p++)                                                                                \
            tile(a, type, row, p, rows, 1);                                                                  \
    } while (0)

/* A few rows at all panels: the panels stream, the rows stay in the first-level cache. */
INLINE void product_rows(const struct panel_product *a, enum panel_type type, int row, int n, int first,
                         int last)
{
    switch (n) {
    case 1:
        SWEEP(1, TILE_1);
        break;
    case 2:
        SWEEP(2, TILE_2);
        break;
    case 3:
        SWEEP(3, TILE_4);
        break;
    case 4:
        SWEEP(4, TILE_4);
        break;
#if VEC == 16
    case 5:
        SWEEP(5, TILE_8);
        break;
    case 6:
        SWEEP(6, TILE_8);
        break;
    case 7:
        SWEEP(7, TILE_8);
        break;
    case 8:
        SWEEP(8, TILE_8);
        break;
    case 9:
        SWEEP(9, TILE_12);
        break;
    case 10:
        SWEEP(10, TILE_12);
        break;
    case 11:
        SWEEP(11, TILE_12);
        break;
    case 12:
        SWEEP(12, TILE_12);
        break;
#endif
    default:
        __builtin_unreachable();
    }
}

/* Many rows: a few panels at a time for all rows, so that a panel comes from memory once. */
INLINE void product_typed(const struct panel_product *a, enum panel_type type, int first, int last)
{
    if (a->n_rows <= MANY) {
        if (a->n_rows > 0)
            product_rows(a, type, 0, a->n_rows, first, last);
        return;
    }
    enum { GROUP = 8 };
    for (int p = first; p < last; p += GROUP) {
        int end = p + GROUP < last ? p + GROUP : last;
        for (int row = 0; row < a->n_rows; row += MANY) {
            int n = a->n_rows - row < MANY ? a->n_rows - row : MANY;
            product_rows(a, type, row, n, p, end);
        }
    }
}

static void product(const struct panel_product *a, int first, int last)
{
    if (a->type == PANEL_F16)
        product_typed(a, PANEL_F16, first, last);
    else
        product_typed(a, PANEL_F32, first, last);
}

INLINE void weighted_sum_typed(enum panel_type type, const void *v, int n, const float *const *p,
                               float *const *out, const int rows)
{
    enum { N = 64 / VEC };
    for (int half = 0; half < N; half += 4) { /* 4 vectors × 8 rows of sums fit the registers at most */
        vf acc[ROWS_AT_ONCE][4];
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < 4; i++)
                acc[r][i] = (vf){0};
        }
        for (int t = 0; t < n; t++) {
            vf b[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                b[i] = load_panel(type, v, t * 64 + (half + i) * VEC);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                vf s = vset(p[r][t]);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++)
                    acc[r][i] += s * b[i];
            }
        }
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < 4; i++)
                vstore(out[r] + (half + i) * VEC, acc[r][i]);
        }
    }
}

static void weighted_sum(enum panel_type type, const void *v, int n, const float *const *p, int n_rows,
                         float *const *out)
{
    int r = 0;
    for (; r + 4 <= n_rows; r += 4) {
        if (type == PANEL_F16)
            weighted_sum_typed(PANEL_F16, v, n, p + r, out + r, 4);
        else
            weighted_sum_typed(PANEL_F32, v, n, p + r, out + r, 4);
    }
    for (; r < n_rows; r++) {
        if (type == PANEL_F16)
            weighted_sum_typed(PANEL_F16, v, n, p + r, out + r, 1);
        else
            weighted_sum_typed(PANEL_F32, v, n, p + r, out + r, 1);
    }
}

static float maximum(const float *x, int n)
{
    float m = -INFINITY;
    int i = 0;
    if (n >= VEC) {
        vf v = vload(x);
        for (i = VEC; i + VEC <= n; i += VEC)
            v = vmax(v, vload(x + i));
        m = vmaximum(v);
    }
    for (; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

static float sum_exp(const float *x, int n, float greatest, float scale)
{
    vf sum = {0};
    int i = 0;
    for (; i + VEC <= n; i += VEC)
        sum += vexp((vload(x + i) - greatest) * scale);
    float s = vsum(sum);
    for (; i < n; i++)
        s += expf((x[i] - greatest) * scale);
    return s;
}

static void softmax(float *p, int n)
{
    float greatest = maximum(p, n);
    vf sum = {0};
    int i = 0;
    for (; i + VEC <= n; i += VEC) {
        vf e = vexp(vload(p + i) - greatest);
        vstore(p + i, e);
        sum += e;
    }
    float s = vsum(sum);
    for (; i < n; i++) {
        p[i] = expf(p[i] - greatest);
        s += p[i];
    }
    float scale = 1.0f / s;
    for (i = 0; i < n; i++)
        p[i] *= scale;
}

static void layer_norm(const float *x, const float *gamma, const float *beta, int n, float *y)
{
    vf sum = {0}, squares = {0};
    for (int i = 0; i < n; i += VEC)
        sum += vload(x + i);
    float mean = vsum(sum) / (float)n;
    for (int i = 0; i < n; i += VEC) {
        vf d = vload(x + i) - mean;
        squares += d * d;
    }
    float scale = 1.0f / sqrtf(vsum(squares) / (float)n + 1e-5f);
    for (int i = 0; i < n; i += VEC)
        vstore(y + i, (vload(x + i) - mean) * scale * vload(gamma + i) + vload(beta + i));
}

static void to_f16(const float *x, int n, uint16_t *y)
{
    int i = 0;
    for (; i + VEC <= n; i += VEC)
        vstore_f16(y + i, vload(x + i));
    if (i < n) {
        float rest[VEC] = {0};
        uint16_t half[VEC];
        memcpy(rest, x + i, (size_t)(n - i) * sizeof(float));
        vstore_f16(half, vload(rest));
        memcpy(y + i, half, (size_t)(n - i) * sizeof(uint16_t));
    }
}

static void from_f16(const uint16_t *x, int n, float *y)
{
    int i = 0;
    for (; i + VEC <= n; i += VEC)
        vstore(y + i, vload_f16(x + i));
    if (i < n) {
        uint16_t rest[VEC] = {0};
        float wide[VEC];
        memcpy(rest, x + i, (size_t)(n - i) * sizeof(uint16_t));
        vstore(wide, vload_f16(rest));
        memcpy(y + i, wide, (size_t)(n - i) * sizeof(float));
    }
}

const struct rows_kernels KERNEL_NAME(rows_kernels);
const struct rows_kernels KERNEL_NAME(rows_kernels) = {
    .product = product,
    .weighted_sum = weighted_sum,
    .softmax = softmax,
    .layer_norm = layer_norm,
    .maximum = maximum,
    .sum_exp = sum_exp,
    .to_f16 = to_f16,
    .from_f16 = from_f16,
};
