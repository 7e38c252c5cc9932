/* Number types of model files. */
#include <string.h>

#include "gpu/weights_file.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "model files are little endian and are read as they lie");

/* Inner loops run over a constant number of elements, which the compiler turns into vector code. */
enum { STRIDE = 32 };

static bool decode_f32(const unsigned char *src, size_t n, float *dst)
{
    uint32_t odd = 0;
    memcpy(dst, src, n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &dst[i], sizeof(bits));
        odd |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !odd;
}

/* A half float's exponent and fraction moved into a float's place are the number times 2⁻¹¹², subnormals included. */
static uint32_t decode_f16_part(const uint16_t *half, int n, float *dst)
{
    uint32_t odd = 0;
    for (int i = 0; i < n; i++) {
        uint32_t h = half[i], magnitude = (h & 0x7fffu) << 13, sign = (h & 0x8000u) << 16;
        float scaled;
        memcpy(&scaled, &magnitude, sizeof(scaled));
        scaled *= 0x1p112f;
        memcpy(&magnitude, &scaled, sizeof(magnitude));
        magnitude |= sign;
        memcpy(&dst[i], &magnitude, sizeof(magnitude));
        odd |= (h & 0x7c00u) == 0x7c00u;
    }
    return odd;
}

static bool decode_f16(const unsigned char *src, size_t n, float *dst)
{
    uint16_t half[STRIDE];
    uint32_t odd = 0;
    size_t i = 0;
    for (; i + STRIDE <= n; i += STRIDE) {
        memcpy(half, src + 2 * i, sizeof(half));
        odd |= decode_f16_part(half, STRIDE, dst + i);
    }
    memcpy(half, src + 2 * i, 2 * (n - i));
    return !(odd | decode_f16_part(half, (int)(n - i), dst + i));
}

static bool decode_bf16(const unsigned char *src, size_t n, float *dst)
{
    uint32_t odd = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t high;
        memcpy(&high, src + 2 * i, sizeof(high));
        uint32_t bits = (uint32_t)high << 16;
        memcpy(&dst[i], &bits, sizeof(bits));
        odd |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !odd;
}

static bool decode_i8(const unsigned char *src, size_t n, float *dst)
{
    for (size_t i = 0; i < n; i++) {
        int8_t value;
        memcpy(&value, src + i, sizeof(value));
        dst[i] = (float)value;
    }
    return true;
}

static bool decode_i16(const unsigned char *src, size_t n, float *dst)
{
    for (size_t i = 0; i < n; i++) {
        int16_t value;
        memcpy(&value, src + 2 * i, sizeof(value));
        dst[i] = (float)value;
    }
    return true;
}

/* --- ggml's blocks of 32 ------------------------------------------------------------------------------------------ *
 *
 *            bytes of a block                                                    a number is
 *   q4_0     scale f16, 16 × nibbles                                             scale · (q − 8)
 *   q4_1     scale f16, least f16, 16 × nibbles                                  scale · q + least
 *   q5_0     scale f16, 32 fifth bits, 16 × nibbles                              scale · (q − 16)
 *   q5_1     scale f16, least f16, 32 fifth bits, 16 × nibbles                   scale · q + least
 *   q8_0     scale f16, 32 × i8                                                  scale · q
 *
 * The low nibbles are numbers 0–15 of the block, the high ones 16–31; bit i of the fifth bits belongs to number i.
 * Products and sums are rounded as f32, as ggml does. */

enum { BLOCK = 32 };

static uint32_t block_halves(const unsigned char *src, int n, float *values)
{
    uint16_t half[2];
    memcpy(half, src, (size_t)n * sizeof(half[0]));
    return decode_f16_part(half, n, values);
}

/* Nibbles, and a fifth bit of each from `high`, as whole numbers. */
static void unpack(const unsigned char *nibbles, uint32_t high, int *q)
{
    for (int i = 0; i < BLOCK / 2; i++) {
        q[i] = (nibbles[i] & 15) | (int)(high >> i & 1) << 4;
        q[i + BLOCK / 2] = nibbles[i] >> 4 | (int)(high >> (i + BLOCK / 2) & 1) << 4;
    }
}

/* Blocks whose numbers are `scale · (q − zero)`, or `scale · q + least` where the file has a least number. */
static inline bool decode_nibbles(const unsigned char *src, size_t n, float *dst, bool fifth, bool has_least)
{
    uint32_t odd = 0;
    for (; n >= BLOCK; n -= BLOCK, dst += BLOCK) {
        float head[2] = {0.0f, 0.0f};
        uint32_t high = 0;
        int q[BLOCK], zero = has_least ? 0 : fifth ? 16 : 8;
        odd |= block_halves(src, has_least ? 2 : 1, head);
        src += has_least ? 4 : 2;
        if (fifth)
            memcpy(&high, src, sizeof(high));
        src += fifth ? sizeof(high) : 0;
        unpack(src, high, q);
        src += BLOCK / 2;
        for (int i = 0; i < BLOCK; i++)
            dst[i] = (float)(q[i] - zero) * head[0];
        for (int i = 0; i < BLOCK && has_least; i++)
            dst[i] += head[1];
    }
    return !odd;
}

static bool decode_q4_0(const unsigned char *src, size_t n, float *dst)
{
    return decode_nibbles(src, n, dst, false, false);
}

static bool decode_q4_1(const unsigned char *src, size_t n, float *dst)
{
    return decode_nibbles(src, n, dst, false, true);
}

static bool decode_q5_0(const unsigned char *src, size_t n, float *dst)
{
    return decode_nibbles(src, n, dst, true, false);
}

static bool decode_q5_1(const unsigned char *src, size_t n, float *dst)
{
    return decode_nibbles(src, n, dst, true, true);
}

static bool decode_q8_0(const unsigned char *src, size_t n, float *dst)
{
    uint32_t odd = 0;
    for (; n >= BLOCK; n -= BLOCK, dst += BLOCK) {
        int8_t q[BLOCK];
        float scale;
        odd |= block_halves(src, 1, &scale);
        memcpy(q, src + 2, sizeof(q));
        src += 2 + sizeof(q);
        for (int i = 0; i < BLOCK; i++)
            dst[i] = (float)q[i] * scale;
    }
    return !odd;
}

const struct codec codec_f32 = {"f32", 1, 4, decode_f32, false};
const struct codec codec_f16 = {"f16", 1, 2, decode_f16, false};
const struct codec codec_bf16 = {"bf16", 1, 2, decode_bf16, false};
const struct codec codec_i8 = {"i8", 1, 1, decode_i8, true};
const struct codec codec_i16 = {"i16", 1, 2, decode_i16, true};
const struct codec codec_i32 = {"i32", 1, 4, NULL, false};
const struct codec codec_other = {"neither F32, F16 nor BF16", 1, 1, NULL, false};
const struct codec codec_q4_0 = {"q4_0", BLOCK, 18, decode_q4_0, false};
const struct codec codec_q4_1 = {"q4_1", BLOCK, 20, decode_q4_1, false};
const struct codec codec_q5_0 = {"q5_0", BLOCK, 22, decode_q5_0, false};
const struct codec codec_q5_1 = {"q5_1", BLOCK, 24, decode_q5_1, false};
const struct codec codec_q8_0 = {"q8_0", BLOCK, 34, decode_q8_0, false};
