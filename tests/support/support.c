#include "tests/support/support.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *existing(const char *path)
{
    return access(path, R_OK) == 0 ? path : NULL;
}

const char *test_model(const char *name)
{
    static char path[1024];
    const char *dir = getenv("CAPTIOND_TEST_MODELS");
    const char *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (dir)
        snprintf(path, sizeof(path), "%s/%s", dir, name);
    else if (cache && cache[0])
        snprintf(path, sizeof(path), "%s/captiond/models/%s", cache, name);
    else
        snprintf(path, sizeof(path), "%s/.cache/captiond/models/%s", home ? home : "", name);
    return existing(path);
}

const char *test_speech(const char *file)
{
    static char path[1024];
    const char *dir = getenv("CAPTIOND_TEST_SPEECH");
    snprintf(path, sizeof(path), "%s/%s", dir ? dir : "../shared/speech", file);
    return existing(path);
}

void test_append(char *to, size_t size, const char *text)
{
    size_t n = strlen(to);
    snprintf(to + n, size - n, "%s", text);
}

uint64_t test_seed(void)
{
    static uint64_t seed;
    if (!seed) {
        const char *given = getenv("CAPTIOND_TEST_SEED");
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        seed = given ? strtoull(given, NULL, 0) : (uint64_t)now.tv_sec * 1000003u + (uint64_t)now.tv_nsec;
        seed += seed == 0;
        printf("seed: CAPTIOND_TEST_SEED=%" PRIu64 "\n", seed);
    }
    return seed;
}

/* splitmix64, by Sebastiano Vigna, public domain algorithm */
uint64_t test_rng_next(struct test_rng *r)
{
    uint64_t z = r->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

void test_rng_init(struct test_rng *r, uint64_t stream)
{
    r->state = test_seed() ^ (stream * 0xD1342543DE82EF95u);
    test_rng_next(r);
}

int test_rng_int(struct test_rng *r, int low, int high)
{
    return low + (int)(test_rng_next(r) % (uint64_t)((int64_t)high - low + 1));
}

float test_rng_uniform(struct test_rng *r)
{
    return (float)(test_rng_next(r) >> 40) * 0x1p-24f;
}

float test_rng_normal(struct test_rng *r)
{
    float u = 1.0f - test_rng_uniform(r);
    return sqrtf(-2.0f * logf(u)) * cosf(6.2831853f * test_rng_uniform(r));
}
