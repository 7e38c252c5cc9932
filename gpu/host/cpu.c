#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/host/host.h"

static const char *const names[] = {"generic", "avx2", "avx512", "avx512bf16"};

static enum isa best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    unsigned a, b, c, d;
    bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C); /* not every compiler's builtin knows it */
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !f16c)
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

/* The processors' worth of time that a control group gives its processes, rounded up; `most` if it sets no limit. */
static int group_quota(const char *path, int most)
{
    long quota, period;
    FILE *f = fopen(path, "re");
    int n = f ? fscanf(f, "%ld %ld", &quota, &period) : 0; /* "max 100000" is no limit */
    if (f)
        fclose(f);
    if (n != 2 || quota <= 0 || period <= 0 || quota / period >= most)
        return most;
    return (int)((quota + period - 1) / period);
}

int processor_count(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : CPU_COUNT(&set);
    char group[512] = "", path[600];
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(path, sizeof(path), f)) {
        if (sscanf(path, "0::%511[^\n]", group) == 1) /* the unified hierarchy's line */
            break;
    }
    if (f)
        fclose(f);
    for (char *end = group; end;) { /* the group and all that it is in: any may have the limit */
        snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cpu.max", group);
        n = group_quota(path, n);
        end = strrchr(group, '/');
        if (end)
            *end = '\0';
    }
    return n;
}
