#include "tests/support/support.h"

#include <string.h>

#include "daemon/journal.h"

static void append(struct journal *j, size_t size)
{
    char data[256];
    memset(data, 'x', sizeof(data));
    struct message *m = message_create(MESSAGE_COMMIT, data, size);
    assert_non_null(m);
    journal_append(j, m);
    message_unref(m);
}

/* Seqs begin at 1 and have no holes; each is found under its own. */
static void numbers_events(void **state)
{
    struct journal j;
    assert_int_equal(journal_init(&j, 8, 1 << 20), 0);
    assert_null(journal_get(&j, 1));
    for (int i = 1; i <= 5; i++) {
        append(&j, 10);
        assert_int_equal(journal_get(&j, i)->seq, i);
    }
    assert_null(journal_get(&j, 0));
    assert_null(journal_get(&j, 6));
    journal_finish(&j);
}

static void is_bounded_by_count(void **state)
{
    struct journal j;
    assert_int_equal(journal_init(&j, 8, 1 << 20), 0);
    for (int i = 0; i < 100; i++)
        append(&j, 10);
    assert_int_equal(j.oldest, 93);
    assert_int_equal(j.bytes, 80);
    assert_null(journal_get(&j, 92));
    for (int64_t seq = 93; seq <= 100; seq++)
        assert_int_equal(journal_get(&j, seq)->seq, seq);
    journal_finish(&j);
}

/* By bytes too; an event larger than the bound is still kept until the next one comes. */
static void is_bounded_by_bytes(void **state)
{
    struct journal j;
    assert_int_equal(journal_init(&j, 100, 100), 0);
    for (int i = 0; i < 50; i++)
        append(&j, 30);
    assert_int_equal(j.next - j.oldest, 3);
    assert_int_equal(j.bytes, 90);
    append(&j, 200);
    assert_int_equal(j.next - j.oldest, 1);
    assert_int_equal(j.bytes, 200);
    append(&j, 30);
    assert_int_equal(j.next - j.oldest, 1);
    assert_int_equal(j.bytes, 30);
    journal_finish(&j);
}

/* A reader's reference outlives the history's. */
static void shares_messages(void **state)
{
    struct journal j;
    assert_int_equal(journal_init(&j, 1, 1 << 20), 0);
    append(&j, 10);
    struct message *m = message_ref(journal_get(&j, 1));
    assert_int_equal(m->refs, 2);
    append(&j, 10);
    assert_int_equal(m->refs, 1);
    assert_int_equal(m->seq, 1);
    message_unref(m);
    journal_finish(&j);
}

/* Random appends and resizes against the definition: the newest that fit, under their own numbers. */
static void resizes(void **state)
{
    struct test_rng rng;
    struct journal j;
    size_t sizes[2001] = {0};
    test_rng_init(&rng, 1);
    assert_int_equal(journal_init(&j, 10, 500), 0);
    for (int i = 1; i <= 2000; i++) {
        if (test_rng_int(&rng, 0, 19) == 0)
            assert_int_equal(
                journal_resize(&j, test_rng_int(&rng, 1, 40), (size_t)test_rng_int(&rng, 100, 2000)), 0);
        sizes[i] = (size_t)test_rng_int(&rng, 1, 200);
        append(&j, sizes[i]);
        assert_int_equal(j.next, i + 1);
        size_t bytes = 0;
        for (int64_t seq = j.oldest; seq < j.next; seq++) {
            assert_int_equal(journal_get(&j, seq)->seq, seq);
            assert_int_equal(journal_get(&j, seq)->size, sizes[seq]);
            bytes += sizes[seq];
        }
        assert_int_equal(j.bytes, bytes);
        assert_true(j.next - j.oldest <= j.capacity);
        assert_true(bytes <= j.bytes_max || j.next - j.oldest == 1);
    }
    journal_finish(&j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_events),
        cmocka_unit_test(is_bounded_by_count),
        cmocka_unit_test(is_bounded_by_bytes),
        cmocka_unit_test(shares_messages),
        cmocka_unit_test(resizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
