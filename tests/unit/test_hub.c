#include "tests/support/support.h"

#include <string.h>

#include "daemon/hub.h"

static const char *const names[] = {"mic", "monitor"};

struct fixture {
    struct hub hub;
    struct stats stats;
    int pokes;
};

struct test_reader {
    struct reader reader;
    struct fixture *fixture;
};

static void count_poke(struct reader *r)
{
    ((struct test_reader *)r)->fixture->pokes++;
}

static void begin(struct fixture *f, int64_t history)
{
    struct err err;
    memset(f, 0, sizeof(*f));
    const struct hub_options options = {.stream_names = names,
                                        .n_streams = 2,
                                        .history_events = history,
                                        .history_bytes = 1 << 20,
                                        .stats = &f->stats};
    assert_int_equal(hub_init(&f->hub, &options, &err), 0);
}

static struct test_reader reader_of(struct fixture *f)
{
    return (struct test_reader){.reader = {.poke = count_poke, .types = ~0u, .streams = ~0u}, .fixture = f};
}

static void publish(struct fixture *f, enum event_type type, int stream, int64_t utt, const char *text)
{
    static int rev;
    struct event e = {.type = type, .stream = stream, .utt = utt, .rev = ++rev, .lag_ms = -1};
    e.end_ms = 1000;
    snprintf(e.text, sizeof(e.text), "%s", text);
    hub_publish(&f->hub, &e);
    hub_poke(&f->hub);
}

/* What the reader gets now, abbreviated: "s" speech_start, "p" partial, "c", "f", "g", "t" status, "m" missed;
 * text in parentheses. */
static const char *read_all(struct fixture *f, struct reader *r, int max)
{
    static char out[32 * 1024];
    static const char letters[] = "spcfgtm";
    struct message *m[16];
    size_t used = 0;
    out[0] = '\0';
    for (int n; (n = hub_read(&f->hub, r, m, max, 1 << 16)) > 0;) {
        assert_true(n <= max);
        for (int i = 0; i < n; i++) {
            const char *text = strstr(m[i]->data, "\"text\":\"");
            int length = text ? (int)strcspn(text + 8, "\"") : 0;
            used += (size_t)snprintf(out + used, sizeof(out) - used, "%c%s%.*s%s", letters[m[i]->type],
                                     length ? "(" : "", length, text ? text + 8 : "", length ? ")" : "");
            message_unref(m[i]);
        }
    }
    return out;
}

static void tells_everyone_everything_in_order(void **state)
{
    struct fixture f;
    begin(&f, 100);
    struct test_reader a = reader_of(&f), b = reader_of(&f);
    hub_attach(&f.hub, &a.reader, HUB_FROM_PRESENT);
    hub_attach(&f.hub, &b.reader, HUB_FROM_PRESENT);
    publish(&f, EVENT_SPEECH_START, 0, 1, "");
    publish(&f, EVENT_COMMIT, 0, 1, " one");
    publish(&f, EVENT_COMMIT, 0, 1, " two");
    publish(&f, EVENT_FINAL, 0, 1, "");
    assert_int_equal(f.pokes, 8);
    assert_string_equal(read_all(&f, &a.reader, 16), "sc( one)c( two)f( one two)");
    assert_string_equal(read_all(&f, &b.reader, 1), "sc( one)c( two)f( one two)");
    assert_string_equal(read_all(&f, &b.reader, 1), "");
    assert_int_equal(f.stats.commits, 2);
    hub_detach(&a.reader);
    publish(&f, EVENT_SPEECH_START, 0, 2, "");
    assert_int_equal(f.pokes, 9);
    hub_detach(&b.reader);
    hub_finish(&f.hub);
}

/* The text of `final` is that of its own utterance and stream. */
static void joins_commits_by_utterance(void **state)
{
    struct fixture f;
    begin(&f, 100);
    struct test_reader a = reader_of(&f);
    publish(&f, EVENT_SPEECH_START, 0, 1, "");
    publish(&f, EVENT_SPEECH_START, 1, 1, "");
    publish(&f, EVENT_COMMIT, 0, 1, " one");
    publish(&f, EVENT_COMMIT, 1, 1, " uno");
    publish(&f, EVENT_FINAL, 0, 1, "");
    publish(&f, EVENT_SPEECH_START, 0, 2, "");
    publish(&f, EVENT_COMMIT, 0, 2, " two");
    publish(&f, EVENT_FINAL, 1, 1, "");
    publish(&f, EVENT_FINAL, 0, 2, "");
    a.reader.types = 1u << MESSAGE_FINAL;
    hub_attach(&f.hub, &a.reader, 1);
    assert_string_equal(read_all(&f, &a.reader, 16), "f( one)f( uno)f( two)");
    hub_detach(&a.reader);
    hub_finish(&f.hub);
}

/* A slow reader gets the newest partial only, and never one that a commit or final has overtaken. */
static void coalesces_partials(void **state)
{
    struct fixture f;
    begin(&f, 100);
    struct test_reader a = reader_of(&f);
    hub_attach(&f.hub, &a.reader, HUB_FROM_PRESENT);
    publish(&f, EVENT_SPEECH_START, 0, 1, "");
    publish(&f, EVENT_PARTIAL, 0, 1, " o");
    publish(&f, EVENT_PARTIAL, 0, 1, " on");
    assert_string_equal(read_all(&f, &a.reader, 16), "sp( on)");
    assert_string_equal(read_all(&f, &a.reader, 16), "");
    publish(&f, EVENT_PARTIAL, 0, 1, " one t");
    publish(&f, EVENT_COMMIT, 0, 1, " one");
    publish(&f, EVENT_PARTIAL, 0, 1, " two");
    publish(&f, EVENT_PARTIAL, 1, 1, " uno");
    assert_string_equal(read_all(&f, &a.reader, 16), "c( one)p( two)p( uno)");
    publish(&f, EVENT_PARTIAL, 0, 1, " two th");
    publish(&f, EVENT_FINAL, 0, 1, "");
    assert_string_equal(read_all(&f, &a.reader, 16), "f( one)");
    hub_detach(&a.reader);
    hub_finish(&f.hub);
}

/* With one message at a time too, a partial comes behind everything that was told before it. */
static void keeps_partials_behind_commits(void **state)
{
    struct fixture f;
    struct message *m;
    begin(&f, 100);
    struct test_reader a = reader_of(&f);
    hub_attach(&f.hub, &a.reader, HUB_FROM_PRESENT);
    publish(&f, EVENT_COMMIT, 0, 1, " one");
    publish(&f, EVENT_COMMIT, 0, 1, " two");
    publish(&f, EVENT_PARTIAL, 0, 1, " three");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(hub_read(&f.hub, &a.reader, &m, 1, 1), 1);
        assert_int_equal(m->type, i < 2 ? MESSAGE_COMMIT : MESSAGE_PARTIAL);
        message_unref(m);
    }
    hub_detach(&a.reader);
    hub_finish(&f.hub);
}

static void replays_and_tells_what_is_missing(void **state)
{
    struct fixture f;
    begin(&f, 4);
    struct test_reader a = reader_of(&f);
    for (int i = 0; i < 10; i++)
        publish(&f, EVENT_COMMIT, 0, 1, " x");
    hub_attach(&f.hub, &a.reader, 9);
    assert_string_equal(read_all(&f, &a.reader, 16), "c( x)c( x)");
    hub_attach(&f.hub, &a.reader, 3);
    struct message *m;
    assert_int_equal(hub_read(&f.hub, &a.reader, &m, 1, 1), 1);
    assert_string_equal(m->data, "{\"type\":\"missed\",\"from_seq\":3,\"to_seq\":6}\n");
    message_unref(m);
    assert_string_equal(read_all(&f, &a.reader, 16), "c( x)c( x)c( x)c( x)");
    /* A reader that the history overtakes is told as well. */
    for (int i = 0; i < 6; i++)
        publish(&f, EVENT_COMMIT, 0, 1, " y");
    assert_string_equal(read_all(&f, &a.reader, 16), "mc( y)c( y)c( y)c( y)");
    assert_int_equal(f.stats.missed, 6);
    /* A number of the future means now. */
    hub_attach(&f.hub, &a.reader, 1000);
    publish(&f, EVENT_COMMIT, 0, 1, " z");
    assert_string_equal(read_all(&f, &a.reader, 16), "c( z)");
    hub_detach(&a.reader);
    hub_finish(&f.hub);
}

/* Who comes in the middle of an utterance sees it from its beginning, and the state of every stream. */
static void begins_with_the_present(void **state)
{
    struct fixture f;
    begin(&f, 100);
    struct test_reader a = reader_of(&f);
    publish(&f, EVENT_STATUS, 0, 0, "");
    publish(&f, EVENT_STATUS, 1, 0, "");
    publish(&f, EVENT_SPEECH_START, 1, 1, "");
    publish(&f, EVENT_COMMIT, 1, 1, " old");
    publish(&f, EVENT_FINAL, 1, 1, "");
    publish(&f, EVENT_SPEECH_START, 1, 2, "");
    publish(&f, EVENT_COMMIT, 1, 2, " new");
    publish(&f, EVENT_STATUS, 0, 0, "");
    publish(&f, EVENT_PARTIAL, 1, 2, " tail");
    hub_attach(&f.hub, &a.reader, HUB_FROM_PRESENT);
    assert_string_equal(read_all(&f, &a.reader, 16), "tsc( new)tp( tail)");
    publish(&f, EVENT_FINAL, 1, 2, "");
    publish(&f, EVENT_SPEECH_START, 0, 1, "");
    assert_string_equal(read_all(&f, &a.reader, 16), "f( new)s");
    hub_detach(&a.reader);
    hub_finish(&f.hub);
}

/* The state of every stream is told even if it was long ago. */
static void remembers_old_statuses(void **state)
{
    struct fixture f;
    begin(&f, 4);
    struct test_reader a = reader_of(&f);
    publish(&f, EVENT_STATUS, 1, 0, "");
    publish(&f, EVENT_STATUS, 0, 0, "");
    for (int i = 0; i < 10; i++)
        publish(&f, EVENT_COMMIT, 0, 1, " x");
    struct message *m[4];
    hub_attach(&f.hub, &a.reader, HUB_FROM_PRESENT);
    assert_int_equal(hub_read(&f.hub, &a.reader, m, 4, 4096), 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(m[i]->type, MESSAGE_STATUS);
        assert_int_equal(m[i]->seq, i + 1);
        message_unref(m[i]);
    }
    publish(&f, EVENT_COMMIT, 0, 1, " y");
    assert_string_equal(read_all(&f, &a.reader, 16), "c( y)");
    hub_detach(&a.reader);
    hub_finish(&f.hub);
}

/* Whoever listens gets the newest heartbeat, and nobody's captions leave the history for it. */
static void beats_outside_the_history(void **state)
{
    struct fixture f;
    begin(&f, 4);
    struct test_reader a = reader_of(&f), late = reader_of(&f), deaf = reader_of(&f);
    struct event beat = {.type = EVENT_STATUS, .stream = 1, .use = STATUS_HEARTBEAT, .queue_ms = 1};
    deaf.reader.types = ~(1u << MESSAGE_STATUS);
    hub_attach(&f.hub, &a.reader, HUB_FROM_PRESENT);
    hub_attach(&f.hub, &deaf.reader, HUB_FROM_PRESENT);
    publish(&f, EVENT_STATUS, 1, 0, "");
    publish(&f, EVENT_COMMIT, 0, 1, " kept");
    for (; beat.queue_ms <= 10; beat.queue_ms++)
        hub_publish(&f.hub, &beat);
    assert_int_equal(f.hub.journal.next, 3);
    assert_int_equal(f.hub.streams[1].status.queue_ms, 10);
    struct message *m[4];
    assert_int_equal(hub_read(&f.hub, &a.reader, m, 4, 4096), 3);
    assert_int_equal(m[2]->seq, 0);
    assert_non_null(strstr(m[2]->data, "\"queue_ms\":10"));
    assert_null(strstr(m[2]->data, "seq"));
    for (int i = 0; i < 3; i++)
        message_unref(m[i]);
    assert_string_equal(read_all(&f, &a.reader, 16), "");
    assert_string_equal(read_all(&f, &deaf.reader, 16), "c( kept)");
    hub_attach(&f.hub, &late.reader, 1);
    assert_string_equal(read_all(&f, &late.reader, 16), "tc( kept)t");
    hub_publish(&f.hub, &beat);
    publish(&f, EVENT_STATUS, 1, 0, ""); /* newer than the heartbeat, which is no news any more */
    assert_string_equal(read_all(&f, &a.reader, 16), "t");
    hub_detach(&a.reader);
    hub_detach(&late.reader);
    hub_detach(&deaf.reader);
    hub_finish(&f.hub);
}

/* A sample is for `captionctl status` alone. */
static void keeps_samples(void **state)
{
    struct fixture f;
    begin(&f, 100);
    struct event e = {.type = EVENT_STATUS, .stream = 1, .use = STATUS_SAMPLE, .queue_ms = 77};
    hub_publish(&f.hub, &e);
    assert_int_equal(f.hub.journal.next, 1);
    assert_int_equal(f.hub.streams[1].status.queue_ms, 77);
    hub_finish(&f.hub);
}

/* An end that cannot wait: the rest of each open utterance becomes a gap, and its commits stay in its final. */
static void closes_utterances(void **state)
{
    struct fixture f;
    const int64_t now_ms[] = {3500, 3500}, none[] = {-1, -1};
    begin(&f, 100);
    struct test_reader a = reader_of(&f);
    publish(&f, EVENT_SPEECH_START, 0, 1, "");
    publish(&f, EVENT_COMMIT, 0, 1, " one");
    hub_attach(&f.hub, &a.reader, HUB_FROM_PRESENT);
    hub_close_utterances(&f.hub, (const int64_t[]){3000, -1},
                         now_ms); /* the first is told: from its last word on */
    assert_string_equal(read_all(&f, &a.reader, 16), "sc( one)gf( one)");
    assert_int_equal(f.stats.lost_ms, 2500);
    hub_close_utterances(&f.hub, none, now_ms);
    assert_string_equal(read_all(&f, &a.reader, 16), "");
    hub_close_utterances(&f.hub, (const int64_t[]){-1, 3000},
                         now_ms); /* one that goes on, with no word yet */
    assert_string_equal(read_all(&f, &a.reader, 16), "g");
    assert_int_equal(f.stats.lost_ms, 2500 + 500);
    hub_detach(&a.reader);
    hub_finish(&f.hub);
}

/* Readers of every speed, at random: replayable events arrive in order, each once or told as missed. */
static void never_loses_silently(void **state)
{
    struct fixture f;
    struct test_rng rng;
    struct test_reader readers[8];
    int64_t expected[8];
    test_rng_init(&rng, 3);
    begin(&f, 50);
    for (int i = 0; i < 8; i++) {
        readers[i] = reader_of(&f);
        hub_attach(&f.hub, &readers[i].reader, 1);
        expected[i] = 1;
    }
    for (int k = 0; k < 5000; k++) {
        publish(&f, test_rng_int(&rng, 0, 1) ? EVENT_COMMIT : EVENT_PARTIAL, 0, 1, " x");
        for (int i = 0; i < 8; i++) {
            struct message *m[4];
            if (test_rng_int(&rng, 0, i * 12) > 4)
                continue;
            int n = hub_read(&f.hub, &readers[i].reader, m, test_rng_int(&rng, 1, 4), 4096);
            for (int j = 0; j < n; j++) {
                long long from, to;
                if (m[j]->type == MESSAGE_OTHER) {
                    assert_int_equal(sscanf(m[j]->data,
                                            "{\"type\":\"missed\",\"from_seq\":%lld,\"to_seq\":%lld}", &from,
                                            &to),
                                     2);
                    assert_int_equal(from, expected[i]);
                    expected[i] = to + 1;
                } else if (m[j]->seq) {
                    assert_int_equal(m[j]->seq, expected[i]);
                    expected[i]++;
                }
                message_unref(m[j]);
            }
        }
    }
    assert_true(f.stats.missed > 0);
    for (int i = 0; i < 8; i++)
        hub_detach(&readers[i].reader);
    hub_finish(&f.hub);
}

/* Who can make the source wait for a reader is told in time, whichever bound of the history is the nearer one. */
static void tells_who_nearly_misses(void **state)
{
    struct fixture f;
    char text[EVENT_TEXT_MAX];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int by_bytes = 0; by_bytes < 2; by_bytes++) {
        begin(&f, by_bytes ? 1000 : 16);
        f.hub.journal.bytes_max = 32 * 1024;
        struct test_reader a = reader_of(&f);
        for (int i = 0; i < 100; i++)
            publish(&f, EVENT_COMMIT, 0, 1, "");
        hub_attach(&f.hub, &a.reader, HUB_FROM_PRESENT);
        assert_false(hub_nearly_forgets(&f.hub, &a.reader));
        int n = 0;
        for (; !hub_nearly_forgets(&f.hub, &a.reader); n++)
            publish(&f, EVENT_COMMIT, 0, 1, by_bytes ? text : "");
        assert_in_range(n, 9, 16);
        assert_null(strchr(read_all(&f, &a.reader, 16), 'm'));
        assert_false(hub_nearly_forgets(&f.hub, &a.reader));
        hub_detach(&a.reader);
        hub_finish(&f.hub);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_everyone_everything_in_order),
        cmocka_unit_test(joins_commits_by_utterance),
        cmocka_unit_test(coalesces_partials),
        cmocka_unit_test(keeps_partials_behind_commits),
        cmocka_unit_test(replays_and_tells_what_is_missing),
        cmocka_unit_test(begins_with_the_present),
        cmocka_unit_test(remembers_old_statuses),
        cmocka_unit_test(beats_outside_the_history),
        cmocka_unit_test(keeps_samples),
        cmocka_unit_test(closes_utterances),
        cmocka_unit_test(never_loses_silently),
        cmocka_unit_test(tells_who_nearly_misses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
