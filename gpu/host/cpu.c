#include <stdlib.h>
#include <string.h>

#include "gpu/host/host.h"

static const char *const names[] = {"generic", "avx2", "avx512", "avx512bf16"};

static enum isa best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
        return ISA_GENERIC;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return ISA_AVX2;
    return __builtin_cpu_supports("avx512bf16") ? ISA_AVX512BF16 : ISA_AVX512;
#else
    return ISA_GENERIC;
#endif
}

enum isa isa_detect(void)
{
    enum isa isa = best();
    const char *limit = getenv("CAPTIOND_ISA");
    for (int i = 0; limit && i < (int)isa; i++) {
        if (!strcmp(limit, names[i]))
            return (enum isa)i;
    }
    return isa;
}

const char *isa_name(enum isa isa)
{
    return names[isa];
}
