/* Standard output that is a pipe which nobody reads for a while. */
#include "tests/support/support.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "daemon/printer.h"

#define OUT_MAX (64 * 1024)

static const char *const names[] = {"mic"};

struct stage {
    uv_loop_t loop;
    struct stats stats;
    struct hub hub;
    struct printer printer;
    int out, stdout_kept; /* the pipe's end, and what our standard output was */
    size_t n;
    char text[OUT_MAX]; /* what has been read from it */
};

static void on_progress(void *ctx)
{
}

static void begin(struct stage *s, int64_t history)
{
    struct err err;
    int ends[2];
    memset(s, 0, sizeof(*s));
    const struct hub_options options = {.stream_names = names,
                                        .n_streams = 1,
                                        .history_events = history,
                                        .history_bytes = 1 << 20,
                                        .stats = &s->stats};
    assert_int_equal(uv_loop_init(&s->loop), 0);
    assert_int_equal(hub_init(&s->hub, &options, &err), 0);
    assert_int_equal(pipe(ends), 0);
    assert_true(fcntl(ends[1], F_SETPIPE_SZ, 4096) >= 0);
    s->out = ends[0];
    fflush(stdout);
    s->stdout_kept = dup(STDOUT_FILENO);
    dup2(ends[1], STDOUT_FILENO);
    close(ends[1]);
    printer_init(&s->printer, &s->loop, &s->hub, false, on_progress, NULL);
}

static void publish(struct stage *s)
{
    struct event e = {.type = EVENT_COMMIT, .utt = 1, .text = " something that has been said"};
    hub_publish(&s->hub, &e);
    hub_poke(&s->hub);
    uv_run(&s->loop, UV_RUN_NOWAIT);
}

/* Everything up to a line of this type. */
static void read_until(struct stage *s, const char *type)
{
    while (!strstr(s->text, type)) {
        struct pollfd p = {.fd = s->out, .events = POLLIN};
        uv_run(&s->loop, UV_RUN_NOWAIT);
        if (poll(&p, 1, 10) == 0)
            continue;
        ssize_t n = read(s->out, s->text + s->n, OUT_MAX - 1 - s->n);
        assert_true(n > 0);
        s->n += (size_t)n;
        s->text[s->n] = '\0';
    }
    uv_run(&s->loop, UV_RUN_DEFAULT);
}

static void end(struct stage *s)
{
    dup2(s->stdout_kept, STDOUT_FILENO);
    close(s->stdout_kept);
    close(s->out);
    printer_finish(&s->printer);
    hub_finish(&s->hub);
    assert_int_equal(uv_loop_close(&s->loop), 0);
}

/* A source that waits while the printer is full loses nothing, be the history ever so short. */
static void is_full_before_something_is_missed(void **state)
{
    static struct stage s;
    char last[32];
    begin(&s, 16);
    int n = 0;
    for (; n < 1000 && !printer_full(&s.printer); n++)
        publish(&s);
    printer_end(&s.printer, "end", "the input has ended");
    read_until(&s, "\"bye\"");
    end(&s);
    assert_in_range(n, 9, 999);
    snprintf(last, sizeof(last), "\"seq\":%d,", n);
    assert_non_null(strstr(s.text, last));
    assert_null(strstr(s.text, "\"missed\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_full_before_something_is_missed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
