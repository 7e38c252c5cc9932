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

/* A panel's sums of one row: bias, GELU, addition. Only the last panel has fewer than PANEL outputs. */
INLINE void store_outputs(const struct panel_product *a, int row, int output, const vf *acc)
{
    float *out = a->out[row] + output;
    int n = a->n_out - output;
    if (n >= PANEL) {
        for (int v = 0; v < VECS; v++) {
            vf y = a->bias ? acc[v] + vload(a->bias + output + v * VEC) : acc[v];
            y = a->gelu ? vgelu(y) : y;
            vstore(out + v * VEC, a->add ? y + vload(a->add[row] + output + v * VEC) : y);
        }
        return;
    }
    float y[PANEL] = {0};
    if (a->bias)
        memcpy(y, a->bias + output, (size_t)n * sizeof(float));
    for (int v = 0; v < VECS; v++) {
        vf x = acc[v] + vload(y + v * VEC);
        vstore(y + v * VEC, a->gelu ? vgelu(x) : x);
    }
    for (int i = 0; i < n; i++)
        out[i] = a->add ? y[i] + a->add[row][output + i] : y[i];
}

static void store_tile(const struct panel_product *a, int row, int panel, int rows, int panels,
                       const vf acc[][8 * VECS])
{
    for (int r = 0; r < rows; r++) {
        for (int p = 0; p < panels; p++)
            store_outputs(a, row + r, (panel + p) * PANEL, &acc[r][p * VECS]);
    }
}

/* acc[r][·] += x[r][k] · (the weights of input k) */
INLINE void step(vf acc[][8 * VECS], enum panel_type type, const float *const *x, const char *const *w, int k,
                 const int rows, const int panels)
{
    const int vecs = panels * VECS;
    if (vecs < rows) { /* hold the fewer of the two operands */
        vf b[8 * VECS];
#pragma GCC unroll 8
        for (int i = 0; i < vecs; i++)
            b[i] = load_panel(type, w[i / VECS], k * PANEL + i % VECS * VEC);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vf s = vset(x[r][k]);
#pragma GCC unroll 8
            for (int i = 0; i < vecs; i++)
                acc[r][i] += s * b[i];
        }
    } else {
        vf s[ROWS_AT_ONCE];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            s[r] = vset(x[r][k]);
#pragma GCC unroll 16
        for (int i = 0; i < vecs; i++) {
            vf b = load_panel(type, w[i / VECS], k * PANEL + i % VECS * VEC);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                acc[r][i] += s[r] * b;
        }
    }
}

/* Bytes that are asked for before they are needed. The processor's own prefetcher stops at the border of a page, and a
 * panel is only a few pages long. On a Zen 5, one row through 40 MB: 458 us without, 355 at 8 kB, 305 at 16 to 20 kB,
 * 325 at 24 kB, where the first-level cache (48 kB) becomes too small. */
#define AHEAD 16384

/* The sums of `rows` rows and `panels` panels stay in registers while the inputs pass. All sizes but n_in are compile-time
 * constants. Every sum adds its products in the order of k whatever the tile, so that a row's result does not depend on
 * what is computed beside it. */
INLINE void tile(const struct panel_product *a, enum panel_type type, int row, int panel, bool last,
                 const int rows, const int panels)
{
    const int n_in = a->n_in, per_line = 64 / (PANEL * (type == PANEL_F16 ? 2 : 4));
    const size_t bytes = panel_bytes(type, n_in);
    vf acc[ROWS_AT_ONCE][8 * VECS];
    const char *w[8];
    const float *x[ROWS_AT_ONCE];
    for (int p = 0; p < panels; p++)
        w[p] = (const char *)a->panels + (size_t)(panel + p) * bytes;
    for (int r = 0; r < rows; r++) {
        x[r] = a->x[row + r];
        for (int i = 0; i < panels * VECS; i++)
            acc[r][i] = (vf){0};
    }
    /* First the rest of these panels is asked for, then the beginning of the next, if there are any. */
    const int lines = AHEAD / 64 / panels;
    int k = 0, end = n_in > lines * per_line ? n_in - lines * per_line : 0;
    size_t ahead = (size_t)lines * 64;
    for (int part = 0; part < 2; part++) {
        for (; k + per_line <= end; k += per_line) {
#pragma GCC unroll 8
            for (int p = 0; p < panels; p++)
                __builtin_prefetch(w[p] + (size_t)k * (size_t)(64 / per_line) + ahead, 0, 3);
#pragma GCC unroll 2
            for (int i = 0; i < per_line; i++)
                step(acc, type, x, w, k + i, rows, panels);
        }
        end = n_in;
        ahead = last ? 0 : ahead + (size_t)(panels - 1) * bytes;
    }
    for (; k < n_in; k++)
        step(acc, type, x, w, k, rows, panels);
    store_tile(a, row, panel, rows, panels, acc);
}

/* The panels first … last − 1, `width` at a time and the rest in halves of that. */
#define SWEEP(rows, width)                                                                                   \
    do {                                                                                                     \
        int p = first;                                                                                       \
        for (; p + (width) <= last; p += (width))                                                            \
            tile(a, type, row, p, p + (width) == last, rows, width);                                         \
        if ((width) > 4 && p + 4 <= last) {                                                                  \
            tile(a, type, row, p, p + 4 == last, rows, (width) > 4 ? 4 : 1);                                 \
            p += 4;                                                                                          \
        }                                                                                                    \
        if ((width) > 2 && p + 2 <= last) {                                                                  \
            tile(a, type, row, p, p + 2 == last, rows, (width) > 2 ? 2 : 1);                                 \
            p += 2;                                                                                          \
        }                                                                                                    \
        if ((width) > 1 && p < last)                                                                         \
            tile(a, type, row, p, true, rows, 1);                                                            \
    } while (0)

/* A few rows at the panels first … last − 1: the panels stream, the rows stay in the first-level cache. The widths are
 * such that the sums fill the registers (32 of 16 floats, or 16 smaller ones) and hide the latency of a multiply-add. */
#if VEC == 16
#define AT_ONCE 8
#define WIDTHS                                                                                               \
    SWEEP_OF(1, 6)                                                                                           \
    SWEEP_OF(2, 8) SWEEP_OF(3, 8) SWEEP_OF(4, 4) SWEEP_OF(5, 4) SWEEP_OF(6, 4) SWEEP_OF(7, 3) SWEEP_OF(8, 3)
#elif VEC == 8
#define AT_ONCE 6
#define WIDTHS  SWEEP_OF(1, 4) SWEEP_OF(2, 2) SWEEP_OF(3, 2) SWEEP_OF(4, 1) SWEEP_OF(5, 1) SWEEP_OF(6, 1)
#else
#define AT_ONCE 2
#define WIDTHS  SWEEP_OF(1, 2) SWEEP_OF(2, 1)
#endif

INLINE void product_rows(const struct panel_product *a, enum panel_type type, int row, int n, int first,
                         int last)
{
#define SWEEP_OF(rows, width)                                                                                \
    case rows:                                                                                               \
        SWEEP(rows, width);                                                                                  \
        break;
    switch (n) {
        WIDTHS
    default:
        __builtin_unreachable();
    }
#undef SWEEP_OF
}

/* Many rows in blocks of equal size. For several blocks, some panels at a time, so that a panel comes from memory once
 * and from the second-level cache after that. */
INLINE void product_typed(const struct panel_product *a, enum panel_type type, int first, int last)
{
    int n_blocks = (a->n_rows + AT_ONCE - 1) / AT_ONCE;
    int group = n_blocks == 1 ? last - first : a->n_in <= 1024 ? 24 : 12;
    for (int p = first; p < last; p += group) {
        int end = p + group < last ? p + group : last;
        for (int block = 0; block < n_blocks; block++) {
            int row = a->n_rows * block / n_blocks;
            product_rows(a, type, row, a->n_rows * (block + 1) / n_blocks - row, p, end);
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

INLINE void weighted_sum_rows(enum panel_type type, const void *v, int n, const float *const *p,
                              float *const *out, const int rows)
{
    enum { N = 64 / VEC, PART = N < 4 ? N : 4 }; /* PART vectors for each row at a time, as registers allow */
    const size_t bytes = type == PANEL_F16 ? 128 : 256;
    const size_t ahead = (size_t)n * bytes > 2 * AHEAD ? AHEAD : 0; /* past the end: the next head's keys */
    for (int part = 0; part < N; part += PART) {
        vf acc[ROWS_AT_ONCE][PART];
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < PART; i++)
                acc[r][i] = (vf){0};
        }
        for (int t = 0; t < n; t++) {
            const char *line = (const char *)v + (size_t)t * bytes + ahead;
            __builtin_prefetch(line, 0, 3);
            __builtin_prefetch(line + 64, 0, 3);
            if (type == PANEL_F32) {
                __builtin_prefetch(line + 128, 0, 3);
                __builtin_prefetch(line + 192, 0, 3);
            }
            vf b[PART];
#pragma GCC unroll 4
            for (int i = 0; i < PART; i++)
                b[i] = load_panel(type, v, t * 64 + (part + i) * VEC);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                vf s = vset(p[r][t]);
#pragma GCC unroll 4
                for (int i = 0; i < PART; i++)
                    acc[r][i] += s * b[i];
            }
        }
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < PART; i++)
                vstore(out[r] + (part + i) * VEC, acc[r][i]);
        }
    }
}

#define SUM_MOST (VEC == 16 ? 6 : 2) /* rows whose sums fit the registers */

INLINE void weighted_sum_typed(enum panel_type type, const void *v, int n, const float *const *p, int n_rows,
                               float *const *out)
{
    int n_blocks = (n_rows + SUM_MOST - 1) / SUM_MOST;
    for (int block = 0; block < n_blocks; block++) {
        int r = n_rows * block / n_blocks;
        switch (n_rows * (block + 1) / n_blocks - r) {
        case 1:
            weighted_sum_rows(type, v, n, p + r, out + r, 1);
            break;
        case 2:
            weighted_sum_rows(type, v, n, p + r, out + r, 2);
            break;
#if VEC == 16
        case 3:
            weighted_sum_rows(type, v, n, p + r, out + r, 3);
            break;
        case 4:
            weighted_sum_rows(type, v, n, p + r, out + r, 4);
            break;
        case 5:
            weighted_sum_rows(type, v, n, p + r, out + r, 5);
            break;
        case 6:
            weighted_sum_rows(type, v, n, p + r, out + r, 6);
            break;
#endif
        default:
            __builtin_unreachable();
        }
    }
}

static void weighted_sum(enum panel_type type, const void *v, int n, const float *const *p, int n_rows,
                         float *const *out)
{
    if (type == PANEL_F16)
        weighted_sum_typed(PANEL_F16, v, n, p, n_rows, out);
    else
        weighted_sum_typed(PANEL_F32, v, n, p, n_rows, out);
}

INLINE void weighted_sum_at_typed(enum panel_type type, const void *const *v, int n, const float *p,
                                  float *out)
{
    enum { N = 64 / VEC, PART = N < 4 ? N : 4 };
    for (int part = 0; part < N; part += PART) {
        vf acc[PART];
        for (int i = 0; i < PART; i++)
            acc[i] = (vf){0};
        for (int t = 0; t < n; t++) {
            vf s = vset(p[t]);
#pragma GCC unroll 4
            for (int i = 0; i < PART; i++)
                acc[i] += s * load_panel(type, v[t], (part + i) * VEC);
        }
        for (int i = 0; i < PART; i++)
            vstore(out + (part + i) * VEC, acc[i]);
    }
}

static void weighted_sum_at(enum panel_type type, const void *const *v, int n, const float *p, float *out)
{
    if (type == PANEL_F16)
        weighted_sum_at_typed(PANEL_F16, v, n, p, out);
    else
        weighted_sum_at_typed(PANEL_F32, v, n, p, out);
}

static float maximum(const float *x, int n)
{
    float m = -INFINITY;
    int i = 0;
    if (n >= 4 * VEC) {
        vf v[4];
        for (int j = 0; j < 4; j++)
            v[j] = vload(x + j * VEC);
        for (i = 4 * VEC; i + 4 * VEC <= n; i += 4 * VEC) {
            for (int j = 0; j < 4; j++)
                v[j] = vmax(v[j], vload(x + i + j * VEC));
        }
        m = vmaximum(vmax(vmax(v[0], v[1]), vmax(v[2], v[3])));
    }
    for (; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

/* One more value into the list, if it is greater than the last of a full one. */
static int offer(struct beam_candidate *best, int n_best, int most, int32_t id, float value)
{
    int i = n_best < most ? n_best : most - 1;
    if (n_best == most && value <= best[i].logprob)
        return n_best;
    for (; i > 0 && value > best[i - 1].logprob; i--)
        best[i] = best[i - 1];
    best[i] = (struct beam_candidate){id, value};
    return n_best < most ? n_best + 1 : most;
}

/* Few values pass the bar once the list is full: a comparison for each vector is all that most of them cost. */
static int top(const float *x, int n, int32_t first_id, struct beam_candidate *best, int n_best, int most)
{
    float bar = n_best == most ? best[most - 1].logprob : -INFINITY;
    int i = 0;
    for (; i + VEC <= n; i += VEC) {
        for (uint32_t bits = vgreater(vload(x + i), bar); bits; bits &= bits - 1) {
            int at = i + __builtin_ctz(bits);
            n_best = offer(best, n_best, most, first_id + at, x[at]);
            bar = n_best == most ? best[most - 1].logprob : -INFINITY;
        }
    }
    for (; i < n; i++) {
        if (x[i] > -INFINITY)
            n_best = offer(best, n_best, most, first_id + i, x[i]);
    }
    return n_best;
}

static int find(const float *x, int n, float value)
{
    int i = 0;
    for (; i + VEC <= n; i += VEC) {
        uint32_t bits = vequal(vload(x + i), value);
        if (bits)
            return i + __builtin_ctz(bits);
    }
    for (; i < n; i++) {
        if (x[i] == value)
            return i;
    }
    return -1;
}

/* In parts, since rounding errors grow with the length of a chain of additions. */
static float sum_exp(const float *x, int n, float greatest, float scale)
{
    enum { PART = 64 * VEC };
    vf total = {0};
    int i = 0;
    while (i + 2 * VEC <= n) {
        int end = n - i < PART ? n : i + PART;
        vf sum[2] = {{0}};
        for (; i + 2 * VEC <= end; i += 2 * VEC) {
            sum[0] += vexp((vload(x + i) - greatest) * scale);
            sum[1] += vexp((vload(x + i + VEC) - greatest) * scale);
        }
        total += sum[0] + sum[1];
    }
    float s = vsum(total);
    for (; i < n; i++)
        s += expf((x[i] - greatest) * scale);
    return s;
}

static float exponentials(float *p, int n)
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
    return s;
}

static void layer_norm(const float *x, const float *gamma, const float *beta, int n, float *y)
{
    vf sums = {0}, squares = {0};
    int whole = n / VEC * VEC;
    for (int i = 0; i < whole; i += VEC)
        sums += vload(x + i);
    float sum = vsum(sums);
    for (int i = whole; i < n; i++)
        sum += x[i];
    float mean = sum / (float)n;
    for (int i = 0; i < whole; i += VEC) {
        vf d = vload(x + i) - mean;
        squares += d * d;
    }
    float square = vsum(squares);
    for (int i = whole; i < n; i++)
        square += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(square / (float)n + 1e-5f);
    for (int i = 0; i < whole; i += VEC)
        vstore(y + i, (vload(x + i) - mean) * scale * vload(gamma + i) + vload(beta + i));
    for (int i = whole; i < n; i++)
        y[i] = (x[i] - mean) * scale * gamma[i] + beta[i];
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

static void gather(enum panel_type type, const void *panels, int n_in, int output, float *out)
{
    const char *panel = (const char *)panels + (size_t)(output / PANEL) * panel_bytes(type, n_in);
    if (type == PANEL_F32) {
        for (int k = 0; k < n_in; k++)
            out[k] = ((const float *)(const void *)panel)[k * PANEL + output % PANEL];
        return;
    }
    for (int k = 0; k < n_in; k += VEC) {
        uint16_t half[VEC] = {0};
        int n = n_in - k < VEC ? n_in - k : VEC;
        for (int i = 0; i < n; i++)
            half[i] = ((const uint16_t *)(const void *)panel)[(k + i) * PANEL + output % PANEL];
        from_f16(half, n, out + k);
    }
}

const struct rows_kernels KERNEL_NAME(rows_kernels);
const struct rows_kernels KERNEL_NAME(rows_kernels) = {
    .product = product,
    .weighted_sum = weighted_sum,
    .weighted_sum_at = weighted_sum_at,
    .exponentials = exponentials,
    .layer_norm = layer_norm,
    .maximum = maximum,
    .top = top,
    .find = find,
    .sum_exp = sum_exp,
    .to_f16 = to_f16,
    .from_f16 = from_f16,
    .gather = gather,
};
