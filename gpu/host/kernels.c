/* The kernels' tables by instruction set. */
#include "gpu/host/host.h"
#include "gpu/host/kernels_rows.h"
#include "gpu/host/kernels_wide.h"

extern const struct rows_kernels rows_kernels_generic;
extern const struct wide_kernels wide_kernels_generic;
#if defined(__x86_64__)
extern const struct rows_kernels rows_kernels_avx2, rows_kernels_avx512, rows_kernels_avx512bf16;
extern const struct wide_kernels wide_kernels_avx2, wide_kernels_avx512, wide_kernels_avx512bf16;
#endif

static const struct {
    const struct rows_kernels *rows;
    const struct wide_kernels *wide;
} tables[] = {
    [ISA_GENERIC] = {&rows_kernels_generic, &wide_kernels_generic},
#if defined(__x86_64__)
    [ISA_AVX2] = {&rows_kernels_avx2, &wide_kernels_avx2},
    [ISA_AVX512] = {&rows_kernels_avx512, &wide_kernels_avx512},
    [ISA_AVX512BF16] = {&rows_kernels_avx512bf16, &wide_kernels_avx512bf16},
#endif
};

const struct rows_kernels *rows_kernels_for(enum isa isa)
{
    return tables[isa].rows;
}

const struct wide_kernels *wide_kernels_for(enum isa isa)
{
    return tables[isa].wide;
}
