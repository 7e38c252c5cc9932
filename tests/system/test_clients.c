/* Clients of the real daemon: what they get, when they come late, when they are many, when they talk nonsense. */
#include "tests/support/daemon.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/clock.h"

static struct daemon d;
static struct lines *a, *b;

static int set_up(void **state)
{
    daemon_init(&d);
    a = malloc(sizeof(*a));
    b = malloc(sizeof(*b));
    return a && b ? 0 : -1;
}

static int tear_down(void **state)
{
    daemon_finish(&d);
    free(a);
    free(b);
    return 0;
}

static void connect_lines(struct lines *l, const char *path)
{
    lines_init(l, daemon_connect(path));
}

/* Starts the daemon on a recording. */
static void start_on(const char *recording, const char *pace, const char *const *more)
{
    static char model[1024], input[1100];
    const char *found = test_model("tiny.en"), *speech = test_speech(recording);
    if (!found || !speech)
        test_skip("no model tiny.en or no recording %s", recording);
    snprintf(model, sizeof(model), "%s", found);
    snprintf(input, sizeof(input), "mic=file:%s", speech);
    const char *args[DAEMON_ARGS_MAX] = {"--model", model, "--threads", "2",
                                         "--input", input, "--pace",    pace};
    for (int n = 8; more && *more; n++)
        args[n] = *more++;
    daemon_start(&d, args);
}

/* Everything in order and without a hole; the finals hold what the commits said; the end is announced. The words of the
 * recording's text that the model cannot miss are there. */
static void tells_a_recording(void **state)
{
    char commits[4096] = "", finals[4096] = "";
    long long seq = 0;
    char *line;
    start_on("en_jfk_stereo.flac", "fast", (const char *[]){"--once", NULL});
    connect_lines(a, d.captions);
    send_all(a->fd, "{\"cmd\":\"subscribe\",\"from_seq\":1}\n");
    line = lines_next(a, DAEMON_TIMEOUT_MS);
    assert_true(line_is(line, "hello"));
    assert_int_equal(line_int(line, "v"), 1);
    assert_int_equal(strlen(line_string(line, "session")), 32);
    assert_true(line_int(line, "t0_unix_ms") > 1500000000000);
    while (!line_is(line = lines_next(a, DAEMON_TIMEOUT_MS), "bye")) {
        bool beat = line_is(line, "status") && line_int(line, "seq") < 0; /* where it takes over 5 s */
        if (!line_is(line, "partial") && !beat)
            assert_int_equal(line_int(line, "seq"), ++seq);
        assert_string_equal(line_string(line, "stream"), "mic");
        if (line_is(line, "commit"))
            test_append(commits, sizeof(commits), line_string(line, "text"));
        if (line_is(line, "final"))
            test_append(finals, sizeof(finals), line_string(line, "text"));
    }
    assert_string_equal(line_string(line, "reason"), "end");
    assert_null(lines_next(a, DAEMON_TIMEOUT_MS));
    assert_int_equal(daemon_wait(&d), 0);
    assert_string_equal(commits, finals);
    assert_non_null(strcasestr(commits, "Americans"));
    assert_non_null(strcasestr(commits, "for your country"));
    close(a->fd);
}

static long long await_end_of_input(struct lines *l)
{
    long long seq = 0;
    bool ended = false, final = false;
    while (!ended) {
        char *line = lines_next(l, DAEMON_TIMEOUT_MS);
        assert_non_null(line);
        if (line_int(line, "seq") > 0)
            seq = line_int(line, "seq");
        ended = line_is(line, "status") && strcmp(line_string(line, "state"), "ended") == 0;
        /* The last words of the 11 s end with the file, or shortly before. */
        final |= line_is(line, "final") && line_int(line, "end_ms") > 10000;
    }
    assert_true(final);
    return seq;
}

/* After the fact: the history, what has left it, filters, and a number from another session. */
static void replays_for_latecomers(void **state)
{
    char request[256];
    char *line;
    start_on("en_jfk_stereo.flac", "fast", (const char *[]){"--history-events", "16", NULL});
    connect_lines(a, d.captions);
    long long newest = await_end_of_input(a);
    assert_true(newest > 17);

    connect_lines(b, d.captions);
    send_all(b->fd, "{\"cmd\":\"subscribe\",\"from_seq\":1}\n");
    line = lines_await(b, "hello");
    assert_int_equal(line_int(line, "seq"), newest);
    assert_int_equal(line_int(line, "oldest_seq"), newest - 15);
    line = lines_next(b, DAEMON_TIMEOUT_MS);
    assert_true(line_is(line, "missed"));
    assert_int_equal(line_int(line, "from_seq"), 1);
    assert_int_equal(line_int(line, "to_seq"), newest - 16);
    for (long long seq = newest - 15; seq <= newest; seq++)
        assert_int_equal(line_int(lines_next(b, DAEMON_TIMEOUT_MS), "seq"), seq);

    /* Subscribing again on the same connection; only finals. */
    snprintf(request, sizeof(request), "{\"cmd\":\"subscribe\",\"from_seq\":%lld,\"types\":[\"final\"]}\n",
             newest - 15);
    send_all(b->fd, request);
    line = lines_next(b, DAEMON_TIMEOUT_MS);
    assert_true(line_is(line, "final"));
    while (line_int(line, "end_ms") <= 10000)
        assert_true(line_is(line = lines_next(b, DAEMON_TIMEOUT_MS), "final"));
    close(b->fd);

    /* from_seq of a session that is over: all there is, also where only the number tells. */
    for (int named = 0; named < 2; named++) {
        connect_lines(b, d.captions);
        snprintf(request, sizeof(request), "{\"cmd\":\"subscribe\",\"from_seq\":%lld%s}\n",
                 named ? newest : newest + 2, named ? ",\"session\":\"old\"" : "");
        send_all(b->fd, request);
        assert_int_equal(line_int(lines_await(b, "missed"), "to_seq"), newest - 16);
        close(b->fd);
    }

    /* Who says nothing gets the present: the latest status, for nobody speaks any more. */
    connect_lines(b, d.captions);
    assert_true(line_is(lines_next(b, DAEMON_TIMEOUT_MS), "hello"));
    line = lines_next(b, DAEMON_TIMEOUT_MS);
    assert_true(line_is(line, "status"));
    assert_string_equal(line_string(line, "state"), "ended");
    close(b->fd);
    close(a->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

static void expect_goodbye(struct lines *l, const char *message)
{
    char *line = lines_await(l, "bye");
    assert_string_equal(line_string(line, "reason"), "error");
    if (!strstr(line_string(line, "message"), message))
        fail_msg("no \"%s\" in %s", message, line);
    assert_null(lines_next(l, DAEMON_TIMEOUT_MS));
    close(l->fd);
}

static long long resident_kib(void)
{
    connect_lines(b, d.control);
    send_all(b->fd, "{\"cmd\":\"status\"}\n");
    long long kib = line_int(lines_await(b, "reply"), "rss_kib");
    close(b->fd);
    assert_true(kib > 0);
    return kib;
}

/* One clear line and the end of the connection, for both sockets; bounded memory; nobody else notices. */
static void ends_with_those_who_talk_nonsense(void **state)
{
    const char *const paths[] = {d.captions, d.control};
    static char block[65536];
    memset(block, 'x', sizeof(block));
    daemon_start_idle(&d, NULL);
    int witness = daemon_connect(d.captions);
    long long before = resident_kib();
    for (int i = 0; i < 2; i++) {
        connect_lines(a, paths[i]);
        send_all(a->fd, "GET / HTTP/1.1\r\n");
        expect_goodbye(a, "not JSON");
        connect_lines(a, paths[i]);
        send_all(a->fd, "[]\n");
        expect_goodbye(a, "one JSON object");

        /* A gigabyte without a newline: only what the kernel buffers is ever taken. */
        connect_lines(a, paths[i]);
        long long sent = 0;
        ssize_t n;
        while (sent < 1LL << 30 && (n = send(a->fd, block, sizeof(block), MSG_NOSIGNAL)) > 0)
            sent += n;
        assert_true(sent < 4 << 20);
        expect_goodbye(a, "at most 4096 bytes");
    }
    assert_true(resident_kib() < before + 4096);
    lines_init(a, witness);
    assert_true(line_is(lines_next(a, DAEMON_TIMEOUT_MS), "hello"));
    assert_true(line_is(lines_next(a, DAEMON_TIMEOUT_MS), "status"));
    assert_null(lines_next(a, 0));
    close(witness);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    /* Nor does it get into the log. */
    assert_null(strstr(daemon_log(&d), "HTTP"));
    assert_null(strstr(daemon_log(&d), "xxxx"));
}

/* What is JSON but no request of this socket is answered, and the connection stays. */
static void answers_wrong_requests(void **state)
{
    daemon_start_idle(&d, NULL);
    connect_lines(a, d.captions);
    send_all(a->fd, "{\"cmd\":\"flush\"}\n{\"cmd\":\"sing\"}\n{\"cmd\":\"subscribe\",\"from_sec\":3}\n\n");
    assert_true(line_is(lines_next(a, DAEMON_TIMEOUT_MS), "hello"));
    assert_non_null(strstr(lines_await(a, "error"), "only subscribe"));
    assert_non_null(strstr(lines_await(a, "error"), "unknown cmd"));
    const char *line = lines_await(a, "error");
    assert_non_null(strstr(line, "from_sec"));
    assert_string_equal(line_string(line, "cmd"), "subscribe");
    send_all(a->fd, "{\"cmd\":\"subscribe\",\"from_seq\":1}\r\n");
    assert_int_equal(line_int(lines_await(a, "status"), "seq"), 1);
    connect_lines(b, d.control);
    send_all(b->fd,
             "{\"cmd\":\"subscribe\"}\n{\"cmd\":\"pause\",\"streams\":[\"nobody\"]}\n{\"cmd\":\"flush\"}\n");
    assert_non_null(strstr(lines_await(b, "error"), "other socket"));
    line = lines_await(b, "error");
    assert_non_null(strstr(line, "nobody"));
    assert_string_equal(line_string(line, "cmd"), "pause");
    assert_string_equal(line_string(lines_await(b, "reply"), "cmd"), "flush");
    close(a->fd);
    close(b->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* As `echo '{"cmd":"status"}' | socat` and `socat -u` do it. */
static void serves_half_closed_peers(void **state)
{
    daemon_start_idle(&d, NULL);
    connect_lines(a, d.captions);
    shutdown(a->fd, SHUT_WR);
    assert_true(line_is(lines_next(a, DAEMON_TIMEOUT_MS), "hello"));
    assert_true(line_is(lines_next(a, DAEMON_TIMEOUT_MS), "status"));
    connect_lines(b, d.control);
    send_all(b->fd, "{\"cmd\":\"status\"}"); /* no newline */
    shutdown(b->fd, SHUT_WR);
    char *reply = lines_await(b, "reply");
    assert_int_equal(line_int(reply, "clients"), 1);
    assert_null(lines_next(b, DAEMON_TIMEOUT_MS));
    close(b->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    assert_true(line_is(lines_await(a, "bye"), "bye"));
    close(a->fd);
}

static long long count_clients(void)
{
    connect_lines(b, d.control);
    send_all(b->fd, "{\"cmd\":\"status\"}\n");
    long long n = line_int(lines_await(b, "reply"), "clients");
    close(b->fd);
    return n;
}

/* One that wants what never comes, and has nothing more to say, is seen to go all the same. */
static void notices_a_half_closed_peer_go(void **state)
{
    daemon_start_idle(&d, NULL);
    connect_lines(a, d.captions);
    send_all(a->fd, "{\"cmd\":\"subscribe\",\"types\":[\"final\"]}\n");
    lines_await(a, "hello");
    shutdown(a->fd, SHUT_WR);
    usleep(500000); /* until the daemon has seen that, or it would see the end of the connection at once */
    assert_int_equal(count_clients(), 1);
    close(a->fd);
    for (int waited = 0; count_clients() > 0; waited += 100) {
        assert_true(waited < DAEMON_TIMEOUT_MS);
        usleep(100000);
    }
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

static void turns_away_too_many(void **state)
{
    daemon_start_idle(&d, (const char *[]){"--clients-max", "1", NULL});
    connect_lines(a, d.captions);
    assert_true(line_is(lines_next(a, DAEMON_TIMEOUT_MS), "hello"));
    connect_lines(b, d.captions);
    expect_goodbye(b, "clients-max is 1");
    close(a->fd);
    /* There is room again, once the daemon has seen the first one go. */
    for (bool served = false; !served; close(b->fd)) {
        connect_lines(b, d.captions);
        served = line_is(lines_next(b, DAEMON_TIMEOUT_MS), "hello");
    }
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* --- many ---------------------------------------------------------------------------------------------------- */

#define N_CLIENTS 1000
#define N_SEQS    200

struct crowd {
    struct pollfd polls[N_CLIENTS];
    struct {
        char line[4096];
        size_t n;
        long long seq;
    } client[N_CLIENTS];
    int64_t first_ns[N_SEQS]; /* when the first client got the event */
    double late_ms[N_SEQS * N_CLIENTS];
    int n_late;
    int n_gone;
};

static void take_lines(struct crowd *c, int i, const char *data, size_t n)
{
    int64_t now = clock_now_ns();
    for (size_t k = 0; k < n; k++) {
        if (data[k] != '\n') {
            assert_true(c->client[i].n < sizeof(c->client[i].line) - 1);
            c->client[i].line[c->client[i].n++] = data[k];
            continue;
        }
        c->client[i].line[c->client[i].n] = '\0';
        c->client[i].n = 0;
        const char *at = strstr(c->client[i].line, "\"seq\":");
        if (!at || strstr(c->client[i].line, "\"hello\""))
            continue;
        long long seq = atoll(at + 6);
        assert_int_equal(seq, c->client[i].seq + 1);
        c->client[i].seq = seq;
        assert_true(seq < N_SEQS);
        if (!c->first_ns[seq])
            c->first_ns[seq] = now;
        c->late_ms[c->n_late++] = (double)(now - c->first_ns[seq]) * 1e-6;
    }
}

static int by_value(const void *x, const void *y)
{
    double u = *(const double *)x, v = *(const double *)y;
    return (u > v) - (u < v);
}

/* A thousand clients on a recording in real time, the first of which never reads: everyone else gets every event, and
 * soon after the one that got it first (this includes the time this test takes to read them one by one). */
static void serves_a_thousand(void **state)
{
    struct rlimit files = {N_CLIENTS + 100, N_CLIENTS + 100};
    struct crowd *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        test_skip("only fewer than %d files can be open", N_CLIENTS + 100);
    start_on("en_jfk_stereo.flac", "realtime", (const char *[]){"--once", NULL});
    for (int i = 0; i < N_CLIENTS; i++) {
        c->polls[i] = (struct pollfd){.fd = daemon_connect(d.captions), .events = i ? POLLIN : 0};
        send_all(c->polls[i].fd, "{\"cmd\":\"subscribe\",\"from_seq\":1}\n");
    }
    while (c->n_gone < N_CLIENTS - 1) {
        assert_true(poll(c->polls + 1, N_CLIENTS - 1, DAEMON_TIMEOUT_MS) > 0);
        for (int i = 1; i < N_CLIENTS; i++) {
            char data[16384];
            if (!c->polls[i].revents)
                continue;
            ssize_t n = read(c->polls[i].fd, data, sizeof(data));
            if (n <= 0) {
                close(c->polls[i].fd);
                c->polls[i].fd = -1;
                c->n_gone++;
            } else {
                take_lines(c, i, data, (size_t)n);
            }
        }
    }
    close(c->polls[0].fd);
    assert_int_equal(daemon_wait(&d), 0);
    for (int i = 2; i < N_CLIENTS; i++)
        assert_int_equal(c->client[i].seq, c->client[1].seq);
    assert_true(c->client[1].seq > 10);
    qsort(c->late_ms, (size_t)c->n_late, sizeof(double), by_value);
    print_message(
        "%d clients, %lld events each: behind the first one by p50 %.1f ms, p99 %.1f ms, max %.1f ms\n",
        N_CLIENTS - 1, c->client[1].seq, c->late_ms[c->n_late / 2], c->late_ms[c->n_late * 99 / 100],
        c->late_ms[c->n_late - 1]);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tells_a_recording, set_up, tear_down),
        cmocka_unit_test_setup_teardown(replays_for_latecomers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ends_with_those_who_talk_nonsense, set_up, tear_down),
        cmocka_unit_test_setup_teardown(answers_wrong_requests, set_up, tear_down),
        cmocka_unit_test_setup_teardown(serves_half_closed_peers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(notices_a_half_closed_peer_go, set_up, tear_down),
        cmocka_unit_test_setup_teardown(turns_away_too_many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(serves_a_thousand, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
