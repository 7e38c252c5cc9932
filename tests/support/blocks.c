#include "tests/support/blocks.h"

#include <math.h>
#include <string.h>

uint16_t to_half(float x)
{
    uint32_t bits, magnitude;
    memcpy(&bits, &x, sizeof(bits));
    magnitude = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude >= 0x38800000) /* 2⁻¹⁴ */
        return (uint16_t)(sign | (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13);
    float shifted = fabsf(x) + 0.5f; /* whose last bit is 2⁻²⁴, as a subnormal half's */
    memcpy(&magnitude, &shifted, sizeof(magnitude));
    return (uint16_t)(sign | (magnitude - 0x3f000000));
}

float from_half(uint16_t h)
{
    uint32_t bits = (h & 0x7fffu) << 13;
    float x = (float)(h & 0x3ff) * 0x1p-24f;
    if (h & 0x7c00) {
        bits += 0x38000000;
        memcpy(&x, &bits, sizeof(x));
    }
    return h & 0x8000 ? -x : x;
}

/* --- blocks ------------------------------------------------------------------------------------------------------- */

const struct block_type block_types[N_BLOCK_TYPES] = {
    {"q4_0", 2, 18, 4, 0}, {"q4_1", 3, 20, 4, 1}, {"q5_0", 6, 22, 5, 0},
    {"q5_1", 7, 24, 5, 1}, {"q8_0", 8, 34, 8, 0},
};

/* Where the numbers of a block lie: its scale and least number, and the whole number i. */
static float head(const unsigned char *block, int index)
{
    return from_half((uint16_t)(block[2 * index] | block[2 * index + 1] << 8));
}

static void set_head(unsigned char *block, int index, float value)
{
    uint16_t half = to_half(value);
    block[2 * index] = (unsigned char)half;
    block[2 * index + 1] = (unsigned char)(half >> 8);
}

/* Bit `bit` of number i, as the number of a bit of the whole block. */
static int bit_place(const struct block_type *t, int i, int bit)
{
    int begin = 8 * (t->has_least ? 4 : 2);
    if (t->n_bits == 8)
        return begin + 8 * i + bit;
    if (bit == 4)
        return begin + i;
    begin += t->n_bits == 5 ? 32 : 0;
    return begin + 8 * (i % 16) + (i < 16 ? 0 : 4) + bit;
}

static void set_number(const struct block_type *t, unsigned char *block, int i, int value)
{
    for (int bit = 0; bit < t->n_bits; bit++) {
        int place = bit_place(t, i, bit);
        block[place / 8] |= (unsigned char)((value >> bit & 1) << place % 8);
    }
}

static int number(const struct block_type *t, const unsigned char *block, int i)
{
    int value = 0;
    for (int bit = 0; bit < t->n_bits; bit++) {
        int place = bit_place(t, i, bit);
        value |= (block[place / 8] >> place % 8 & 1) << bit;
    }
    return t->n_bits == 8 && value > 127 ? value - 256 : value;
}

static int zero_of(const struct block_type *t)
{
    return t->has_least || t->n_bits == 8 ? 0 : 1 << (t->n_bits - 1);
}

/* The distance between two neighbours of the grid. Without a least number the extreme of greater magnitude lies at
 * the grid's negative end, which reaches one step further than its other end. */
static float step(const struct block_type *t, const float *values, float *least)
{
    float low = values[0], high = values[0];
    for (int i = 1; i < 32; i++) {
        low = fminf(low, values[i]);
        high = fmaxf(high, values[i]);
    }
    *least = t->has_least ? low : 0.0f;
    if (t->has_least)
        return (high - low) / (float)((1 << t->n_bits) - 1);
    if (t->n_bits == 8)
        return fmaxf(high, -low) / 127.0f;
    return (high > -low ? high : low) / -(float)zero_of(t);
}

void block_quantise(const struct block_type *t, const float values[32], unsigned char *block)
{
    float least, scale = step(t, values, &least);
    int zero = zero_of(t), low = t->n_bits == 8 ? -127 : 0, high = (1 << (t->n_bits - (t->n_bits == 8))) - 1;
    memset(block, 0, (size_t)t->n_bytes);
    set_head(block, 0, scale);
    if (t->has_least)
        set_head(block, 1, least);
    for (int i = 0; i < 32; i++) {
        int q = scale == 0.0f ? zero : zero + (int)lrintf((values[i] - least) / scale);
        q = q < low ? low : q > high ? high : q;
        set_number(t, block, i, q & ((1 << t->n_bits) - 1));
    }
}

void block_dequantise(const struct block_type *t, const unsigned char *block, double values[32])
{
    for (int i = 0; i < 32; i++)
        values[i] = (double)head(block, 0) * (number(t, block, i) - zero_of(t)) +
                    (t->has_least ? (double)head(block, 1) : 0.0);
}

double block_error_bound(const struct block_type *t, const float values[32])
{
    float least, scale = fabsf(step(t, values, &least));
    /* Half a step, a whole one at the short end; scale and least number are rounded to half floats (2⁻¹¹ of them,
     * 2⁻²⁵ where they are subnormal), the scale's error once for each step. */
    double steps = t->has_least || t->n_bits == 8 ? 0.5 : 1.0, count = 1 << t->n_bits;
    return steps * (double)scale + count * ((double)scale * 0x1p-11 + 0x1p-25) +
           fabs((double)least) * 0x1p-11 + 0x1p-25;
}
