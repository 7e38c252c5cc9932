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

const struct codec codec_f32 = {"f32", 1, 4, decode_f32};
const struct codec codec_f16 = {"f16", 1, 2, decode_f16};
const struct codec codec_bf16 = {"bf16", 1, 2, decode_bf16};
const struct codec codec_i8 = {"i8", 1, 1, NULL};
const struct codec codec_i16 = {"i16", 1, 2, NULL};
const struct codec codec_i32 = {"i32", 1, 4, NULL};
