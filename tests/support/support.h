/* What the tests share: where models and recordings are, and random numbers that can be repeated. */
#ifndef CAPTIOND_TESTS_SUPPORT_H
#define CAPTIOND_TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

/* Path of an installed model ("tiny.en", "base") under $CAPTIOND_TEST_MODELS, else the user's model cache; NULL if
 * it is not there. Static storage, valid until the next call. */
const char *test_model(const char *name);

/* Path of a recording or other file of the speech collection under $CAPTIOND_TEST_SPEECH, else ../shared/speech; NULL
 * if it is not there. Static storage, valid until the next call. */
const char *test_speech(const char *file);

/* Says what is missing and ends the test as skipped; it is counted as such, never as passed. */
#define test_skip(...)                                                                                       \
    do {                                                                                                     \
        printf("SKIPPED: ");                                                                                 \
        printf(__VA_ARGS__);                                                                                 \
        printf("\n");                                                                                        \
        skip();                                                                                              \
    } while (0)

/* Appends, cut to `size` bytes with the NUL. */
void test_append(char *to, size_t size, const char *text);

/* The seed of this run: $CAPTIOND_TEST_SEED, else taken from the clock. Printed once. */
uint64_t test_seed(void);

struct test_rng {
    uint64_t state;
};

void test_rng_init(struct test_rng *, uint64_t stream); /* streams of one seed are independent */
uint64_t test_rng_next(struct test_rng *);
int test_rng_int(struct test_rng *, int low, int high); /* low ≤ result ≤ high */
float test_rng_uniform(struct test_rng *);              /* 0 ≤ result < 1 */
float test_rng_normal(struct test_rng *);               /* mean 0, variance 1 */

#endif
