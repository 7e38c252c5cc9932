/* The hub and its sockets under load, without a model: a publisher of our own feeds the daemon's parts in a process of
 * its own, and a thousand clients read. What is measured is the parts alone, not inference beside them. */
#include "tests/support/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "daemon/base/clock.h"
#include "daemon/hub.h"
#include "daemon/listener.h"
#include "daemon/subscriber.h"

#define N_CLIENTS  1000
#define N_EVENTS   100
#define PERIOD_MS  25
#define TIMEOUT_MS 1000 /* of a client that takes nothing */

struct publisher {
    uv_loop_t loop;
    uv_timer_t tick;
    struct stats stats;
    struct hub hub;
    struct subscribers subscribers;
    struct listener listener;
    int sent;
    int padding; /* bytes of text besides */
    int go;      /* readable when the clients are ready */
};

/* A commit whose text begins with the time of its publication. */
static void publish(uv_timer_t *timer)
{
    struct publisher *p = timer->data;
    struct event e = {.type = EVENT_COMMIT, .utt = 1, .lag_ms = -1};
    struct pollfd go = {.fd = p->go, .events = POLLIN};
    if (poll(&go, 1, 0) == 0)
        return;
    int n = snprintf(e.text, sizeof(e.text), "%lld ", (long long)clock_now_ns());
    memset(e.text + n, 'x', (size_t)p->padding);
    hub_publish(&p->hub, &e);
    hub_poke(&p->hub);
    if (++p->sent == N_EVENTS) {
        subscribers_end(&p->subscribers, "end", "");
        listener_close(&p->listener);
        uv_close((uv_handle_t *)timer, NULL);
    }
}

static long resident_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%*d %ld", &pages) != 1)
        pages = -1;
    if (f)
        fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* The child: serves until all clients have been told everything; reports its memory and how many were slow. */
static void serve(const char *path, int padding, int go, int report)
{
    static const char *const names[] = {"mic"};
    struct publisher *p = calloc(1, sizeof(*p));
    struct err err;
    const struct hub_options options = {.stream_names = names,
                                        .n_streams = 1,
                                        .history_events = 10000,
                                        .history_bytes = 256 << 10,
                                        .stats = &p->stats};
    signal(SIGPIPE, SIG_IGN);
    uv_loop_init(&p->loop);
    listener_init(&p->listener);
    if (hub_init(&p->hub, &options, &err) < 0 || listener_bind(&p->listener, path, 0600, &err) < 0)
        _exit(1);
    p->padding = padding;
    p->go = go;
    subscribers_init(&p->subscribers, &p->loop, &p->hub, N_CLIENTS, TIMEOUT_MS);
    if (listener_start(&p->listener, &p->loop, subscribers_accept, &p->subscribers, &err) < 0)
        _exit(1);
    uv_timer_init(&p->loop, &p->tick);
    p->tick.data = p;
    uv_timer_start(&p->tick, publish, 0, PERIOD_MS);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    long result[3] = {resident_kib(), (long)p->stats.clients_slow, (long)p->stats.missed};
    ssize_t n = write(report, result, sizeof(result));
    subscribers_close(&p->subscribers);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    int busy = uv_loop_close(&p->loop);
    hub_finish(&p->hub);
    free(p);
    _exit(n != (ssize_t)sizeof(result) || busy);
}

struct crowd {
    int fds[N_CLIENTS];
    int64_t seq[N_CLIENTS];
    double ms[N_CLIENTS * N_EVENTS];
    int n_ms;
};

static int by_value(const void *x, const void *y)
{
    double u = *(const double *)x, v = *(const double *)y;
    return (u > v) - (u < v);
}

/* Lines are shorter than what one read takes, and events come one at a time, so a read ends with a line. */
static void take(struct crowd *c, int i, char *data, size_t n)
{
    int64_t now = clock_now_ns();
    assert_int_equal(data[n - 1], '\n');
    data[n - 1] = '\0';
    for (char *line = data, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        const char *seq = strstr(line, "\"seq\":"), *text = strstr(line, "\"text\":\"");
        if (!text)
            continue;
        assert_int_equal(atoll(seq + 6), c->seq[i] + 1);
        c->seq[i]++;
        c->ms[c->n_ms++] = (double)(now - atoll(text + 8)) * 1e-6;
    }
}

/* Reads all but the first client until they are gone. */
static void read_crowd(struct crowd *c, int go)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC), open = N_CLIENTS - 1;
    for (int i = 1; i < N_CLIENTS; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, c->fds[i], &e), 0);
    }
    assert_int_equal(write(go, "", 1), 1);
    while (open > 0) {
        struct epoll_event events[N_CLIENTS];
        int n = epoll_wait(epoll, events, N_CLIENTS, DAEMON_TIMEOUT_MS);
        assert_true(n > 0);
        for (int k = 0; k < n; k++) {
            static char data[256 * 1024];
            int i = (int)events[k].data.u32;
            ssize_t got = read(c->fds[i], data, sizeof(data));
            if (got > 0) {
                take(c, i, data, (size_t)got);
            } else {
                close(c->fds[i]);
                open--;
            }
        }
    }
    close(epoll);
}

static void run(struct crowd *c, int padding, long result[3])
{
    struct daemon d; /* for its folder */
    int go[2], report[2], status;
    daemon_init(&d);
    assert_int_equal(pipe(go), 0);
    assert_int_equal(pipe(report), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        serve(d.captions, padding, go[0], report[1]);
    close(report[1]);
    for (int i = 0; i < N_CLIENTS; i++) {
        c->fds[i] = daemon_connect(d.captions);
        send_all(c->fds[i], "{\"cmd\":\"subscribe\",\"from_seq\":1}\n");
    }
    read_crowd(c, go[1]);
    assert_int_equal(read(report[0], result, 3 * sizeof(long)), 3 * sizeof(long));
    close(c->fds[0]);
    close(report[0]);
    close(go[0]);
    close(go[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    daemon_finish(&d);
}

static int allow_files(void **state)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    return files.rlim_max < N_CLIENTS + 100;
}

#define P99_MS   25.0
#define ATTEMPTS 3

/* Runs once; returns the 99th percentile of the time from an event's publication to its reading by a client. */
static double measure_p99(struct crowd *c)
{
    long result[3];
    memset(c, 0, sizeof(*c));
    run(c, 200, result);
    for (int i = 1; i < N_CLIENTS; i++)
        assert_int_equal(c->seq[i], N_EVENTS);
    qsort(c->ms, (size_t)c->n_ms, sizeof(double), by_value);
    double p99 = c->ms[c->n_ms * 99 / 100];
    print_message("%d clients, %d events each: p50 %.1f ms, p99 %.1f ms, max %.1f ms; %ld KiB resident\n",
                  N_CLIENTS - 1, N_EVENTS, c->ms[c->n_ms / 2], p99, c->ms[c->n_ms - 1], result[0]);
    return p99;
}

/* A thousand clients, 40 events a second, the first client frozen. Everyone else gets every event, and 99 of 100 within
 * 25 ms of its publication, the reading by this test included. What else the machine does only adds to that, so the best
 * of a few attempts counts. */
static void is_prompt_for_a_thousand(void **state)
{
    double best = 1e9;
    struct crowd *c = malloc(sizeof(*c));
    assert_non_null(c);
    for (int i = 0; i < ATTEMPTS && best > P99_MS * DAEMON_SLOWNESS; i++) {
        double p99 = measure_p99(c);
        best = p99 < best ? p99 : best;
    }
    free(c);
    assert_true(best <= P99_MS * DAEMON_SLOWNESS);
}

/* With more than its socket can hold the frozen client is cut off, alone, and the history bounds the memory: 1,000 clients
 * with a kilobyte unread each would already be a megabyte, 100 events unread by each of them a hundred. */
static void cuts_off_the_frozen(void **state)
{
    long small[3], large[3];
    struct crowd *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    run(c, 0, small);
    memset(c, 0, sizeof(*c));
    run(c, 950, large);
    for (int i = 1; i < N_CLIENTS; i++)
        assert_int_equal(c->seq[i], N_EVENTS);
    assert_int_equal(large[1], 1);
    assert_int_equal(large[2], 0);
    print_message("resident with short lines %ld KiB, with long ones %ld KiB\n", small[0], large[0]);
    if (DAEMON_SLOWNESS == 1)
        assert_true(large[0] - small[0] < 1024);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_prompt_for_a_thousand),
        cmocka_unit_test(cuts_off_the_frozen),
    };
    return cmocka_run_group_tests(tests, allow_files, NULL);
}
