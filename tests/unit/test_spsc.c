/* The queue between two threads: its memory is there before it is used. What goes through it is tested with its users. */
#include "tests/support/support.h"

#include <sys/resource.h>

#include "daemon/base/spsc.h"

static long page_faults(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static void takes_its_memory_at_once(void **state)
{
    static char elem[4096];
    struct spsc q;
    assert_int_equal(spsc_init(&q, sizeof(elem), 512), 0);
    assert_int_equal(spsc_push(&q, elem, 1), 1);
    long before = page_faults();
    for (int i = 1; i < 512; i++)
        assert_int_equal(spsc_push(&q, elem, 1), 1);
    assert_true(page_faults() - before < 16); /* of 511 that there would be; some belong to the loop itself */
    assert_int_equal(spsc_push(&q, elem, 1), 0);
    spsc_finish(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_its_memory_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
