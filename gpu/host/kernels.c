/* Chooses the kernels' tables by instruction set. */
#include "gpu/host/host.h"
#include "gpu/host/kernels_rows.h"
#include "gpu/host/kernels_wide.h"

extern const struct rows_kernels rows_kernels_generic;
extern const struct wide_kernels wide_kernels_generic;
#if defined(__x86_64__)
extern const struct rows_kernels rows_kernels_avx2, rows_kernels_avx512, rows_kernels_avx512bf16;
extern const struct wide_kernels wide_kernels_avx2, wide_kernels_avx512, wide_kernels_avx512bf16;
#endif

const struct rows_kernels *rows_kernels_for(enum isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case ISA_AVX2:
        return &rows_kernels_avx2;
    case ISA_AVX512:
        return &rows_kernels_avx512;
    case ISA_AVX512BF16:
        return &rows_kernels_avx512bf16;
#endif
    default:
        return &rows_kernels_generic;
    }
}

const struct wide_kernels *wide_kernels_for(enum isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case ISA_AVX2:
        return &wide_kernels_avx2;
    case ISA_AVX512:
        return &wide_kernels_avx512;
    case ISA_AVX512BF16:
        return &wide_kernels_avx512bf16;
#endif
    default:
        return &wide_kernels_generic;
    }
}
