#include "tools/follow.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "tools/caption_text.h"
#include "tools/captions.h"
#include "tools/live_view.h"
#include "tools/stop_signals.h"
#include "tools/terminal.h"

#define NS_PER_MS      1000000LL
#define LEVEL_EVERY_MS 250
#define PAINT_EVERY_MS 40 /* a burst of events is one picture */
#define NOTICE_MS      3000

struct follower {
    const struct follow_options *options;
    struct captions captions;
    struct caption_text text;
    bool done;
    bool said_lost; /* that there is no daemon is said once, not at every attempt */

    /* live */
    struct live_view view;
    struct line_socket control;
    bool asked, paused, dirty;
    int64_t ask_ns, paint_ns; /* when next */
    int64_t notice_ns;        /* when the notice goes; 0: when the daemon is back */
};

/* --- standard output ----------------------------------------------------------------------------------------- */

static volatile sig_atomic_t stop_signal; /* its number; text and lines only, the live view has its own way */

static void stop(int signal)
{
    stop_signal = signal;
}

/* Waits for a slow reader as long as it takes: the daemon keeps its history for us. */
static int write_out(void *ctx, const char *s, size_t n)
{
    (void)ctx;
    while (n > 0) {
        ssize_t done = write(STDOUT_FILENO, s, n);
        if (done < 0 && errno == EAGAIN) {
            struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
            poll(&out, 1, -1);
        } else if (done < 0 && (errno != EINTR || stop_signal)) {
            return -errno;
        } else if (done > 0) {
            s += done;
            n -= (size_t)done;
        }
    }
    return 0;
}

/* What is not speech but must not be passed over is said on standard error. */
static void remark(const char *type, const json_t *event)
{
    if (strcmp(type, "gap") == 0) {
        const char *cause = json_string_value(json_object_get(event, "cause"));
        fprintf(stderr, "captionctl: %.1f s of sound not transcribed (%s)\n",
                (double)json_integer_value(json_object_get(event, "lost_ms")) / 1000.0, cause ? cause : "?");
    } else if (strcmp(type, "missed") == 0) {
        fprintf(stderr, "captionctl: events %lld to %lld are no longer in the daemon's history\n",
                (long long)json_integer_value(json_object_get(event, "from_seq")),
                (long long)json_integer_value(json_object_get(event, "to_seq")));
    }
}

static int show_text(struct follower *f, const struct captions_event *e)
{
    int r = 0;
    /* A new session continues no line of the one before. */
    if (strcmp(e->type, "hello") == 0 && !f->captions.resumed)
        r = caption_text_end(&f->text);
    remark(e->type, e->json);
    return r == 0 ? caption_text_event(&f->text, e->type, e->json) : r;
}

static int show_line(const struct captions_event *e)
{
    char *line = malloc(e->n + 1);
    if (!line)
        return -ENOMEM;
    memcpy(line, e->line, e->n);
    line[e->n] = '\n';
    int r = write_out(NULL, line, e->n + 1);
    free(line);
    return r;
}

/* --- the live view's level meter and pause key ----------------------------------------------------------------- */

static bool concerns_us(const struct follower *f, const json_t *stream)
{
    const char *name = json_string_value(json_object_get(stream, "stream"));
    return !f->options->stream || (name && strcmp(name, f->options->stream) == 0);
}

static void take_reply(struct follower *f, const char *line, size_t n)
{
    json_t *reply = json_loadb(line, n, 0, NULL), *stream;
    const char *cmd = json_string_value(json_object_get(reply, "cmd"));
    size_t i;
    if (cmd && strcmp(cmd, "status") == 0) {
        f->asked = f->paused = false;
        json_array_foreach(json_object_get(reply, "streams"), i, stream)
        {
            const char *state = json_string_value(json_object_get(stream, "state"));
            live_view_status(&f->view, stream);
            f->paused |= concerns_us(f, stream) && state && strcmp(state, "paused") == 0;
            f->dirty = true;
        }
    }
    json_decref(reply);
}

static void control_close(struct follower *f)
{
    line_socket_close(&f->control);
    f->asked = false;
}

/* Nothing depends on the control socket: where it is missing or forbidden the meter moves with the status events. */
static void serve_control(struct follower *f, int64_t now)
{
    char *line;
    size_t n;
    int r = 0;
    if (f->control.fd >= 0) {
        while ((r = line_socket_read(&f->control, &line, &n, NULL)) == 1)
            take_reply(f, line, n);
        if (r < 0)
            control_close(f);
    }
    if (now < f->ask_ns || !f->options->control[0])
        return;
    f->ask_ns = now + LEVEL_EVERY_MS * NS_PER_MS;
    if (f->control.fd < 0 && line_socket_connect(&f->control, f->options->control, NULL) < 0) {
        f->ask_ns = now + 2000 * NS_PER_MS;
        return;
    }
    if (!f->asked && line_socket_send(&f->control, json_pack("{s:s}", "cmd", "status"), "", NULL) < 0)
        control_close(f);
    else
        f->asked = true;
}

static void toggle_pause(struct follower *f)
{
    if (f->said_lost)
        return;
    json_t *request = json_pack("{s:s}", "cmd", f->paused ? "resume" : "pause");
    if (f->options->stream)
        json_object_set_new(request, "streams", json_pack("[s]", f->options->stream));
    if (line_socket_send(&f->control, request, "the stream's name", NULL) < 0) {
        live_view_notice(&f->view, " The control socket cannot be reached: no pause from here.");
        f->notice_ns = clock_now_ns() + NOTICE_MS * NS_PER_MS;
    }
    f->ask_ns = 0;
    f->dirty = true;
}

static void serve_notice(struct follower *f, int64_t now)
{
    if (f->notice_ns && now >= f->notice_ns) {
        live_view_notice(&f->view, NULL);
        f->notice_ns = 0;
        f->dirty = true;
    }
}

static int paint(struct follower *f)
{
    int columns, rows;
    terminal_size(&columns, &rows);
    char *frame = live_view_frame(&f->view, columns, rows);
    int r = frame ? terminal_paint(frame) : -ENOMEM;
    free(frame);
    f->dirty = false;
    f->paint_ns = clock_now_ns() + PAINT_EVERY_MS * NS_PER_MS;
    return r;
}

static int serve_terminal(struct follower *f)
{
    for (;;) {
        switch (terminal_event()) {
        case TERMINAL_NOTHING:
            return 0;
        case TERMINAL_QUIT:
            f->done = true;
            return 0;
        case TERMINAL_PAUSE:
            toggle_pause(f);
            break;
        case TERMINAL_REPAINT:
            f->dirty = true;
            break;
        }
    }
}

/* --- events -------------------------------------------------------------------------------------------------- */

static int show(struct follower *f, const struct captions_event *e)
{
    switch (f->options->format) {
    case FOLLOW_JSONL:
        return show_line(e);
    case FOLLOW_LIVE:
        f->dirty = true;
        if (strcmp(e->type, "hello") == 0)
            live_view_notice(&f->view, NULL);
        return live_view_event(&f->view, e->type, e->json);
    default:
        return show_text(f, e);
    }
}

static int on_event(struct follower *f, const struct captions_event *e, struct err *err)
{
    f->said_lost = false;
    if (strcmp(e->type, "error") == 0) {
        /* We have sent one request: without it we would get what was not asked for. */
        const char *message = json_string_value(json_object_get(e->json, "message"));
        return err_set(err, -EPROTO, "the daemon says: %s", message ? message : "?");
    }
    int r = show(f, e);
    if (r < 0)
        return err_set(err, r, "standard output: %s", strerror(-r));
    if (strcmp(e->type, "bye") == 0) {
        const char *reason = json_string_value(json_object_get(e->json, "reason"));
        const char *message = json_string_value(json_object_get(e->json, "message"));
        f->done = reason && strcmp(reason, "end") == 0;
        if (reason && strcmp(reason, "error") == 0 && f->options->format != FOLLOW_LIVE)
            fprintf(stderr, "captionctl: the daemon says: %s\n", message ? message : "?");
    }
    return 0;
}

static int on_lost(struct follower *f, struct err *err)
{
    if (!f->options->reconnect) {
        err->code = -ENOTCONN;
        return -ENOTCONN;
    }
    if (!f->said_lost && f->options->format == FOLLOW_LIVE) {
        char text[sizeof(f->view.notice)];
        snprintf(text, sizeof(text), " Waiting for captiond (q quits) at %.80s …", f->captions.path);
        live_view_notice(&f->view, text);
        f->notice_ns = 0;
        f->dirty = true;
    } else if (!f->said_lost && !f->captions.ended) {
        fprintf(stderr, "captionctl: %s; waiting for it\n", err->msg);
    }
    f->said_lost = true;
    return 0;
}

static int drain(struct follower *f, struct err *err)
{
    struct captions_event e;
    for (;;) {
        int r = captions_next(&f->captions, &e, err);
        if (r == CAPTIONS_NOTHING || r < 0)
            return r;
        r = r == CAPTIONS_EVENT ? on_event(f, &e, err) : on_lost(f, err);
        if (r < 0 || f->done)
            return r;
    }
}

/* --- the loop ------------------------------------------------------------------------------------------------ */

static int earlier(int a_ms, int64_t at_ns, int64_t now)
{
    int64_t ms = at_ns > now ? (at_ns - now) / NS_PER_MS + 1 : 0;
    return a_ms < 0 || ms < a_ms ? (int)ms : a_ms;
}

/* poll() that a signal ends also when it comes just before. */
static int wait_for_any(struct pollfd *fds, nfds_t n, int wait_ms)
{
    const struct timespec timeout = clock_timespec(wait_ms * NS_PER_MS);
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    int r = stop_signal ? 0 : ppoll(fds, n, wait_ms < 0 ? NULL : &timeout, &before);
    int why = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = why;
    return r;
}

/* Waits until there is something to do: captions, keys, an answer, or the end of whoever reads our output. */
static int wait_for_more(struct follower *f, struct err *err)
{
    bool live = f->options->format == FOLLOW_LIVE;
    int64_t now = clock_now_ns();
    int wait_ms = captions_wait_ms(&f->captions);
    struct pollfd fds[5] = {{.fd = captions_fd(&f->captions), .events = POLLIN},
                            {.fd = live ? -1 : STDOUT_FILENO, .events = 0},
                            {.fd = -1, .events = POLLIN},
                            {.fd = -1, .events = POLLIN},
                            {.fd = live ? f->control.fd : -1, .events = POLLIN}};
    if (live) {
        int term[2];
        terminal_fds(term);
        fds[2].fd = term[0];
        fds[3].fd = term[1];
        if (f->options->control[0])
            wait_ms = earlier(wait_ms, f->ask_ns, now);
        if (f->dirty)
            wait_ms = earlier(wait_ms, f->paint_ns, now);
        if (f->notice_ns)
            wait_ms = earlier(wait_ms, f->notice_ns, now);
    }
    if (wait_for_any(fds, 5, wait_ms) < 0 && errno != EINTR)
        return err_set(err, -errno, "poll: %s", strerror(errno));
    if (fds[1].revents & (POLLERR | POLLHUP))
        f->done = true;
    return 0;
}

static int run(struct follower *f, struct err *err)
{
    bool live = f->options->format == FOLLOW_LIVE;
    int r = 0;
    while (r == 0 && !f->done && !stop_signal) {
        r = drain(f, err);
        if (r == 0 && live && !f->done) {
            r = serve_terminal(f);
            serve_control(f, clock_now_ns());
            serve_notice(f, clock_now_ns());
        }
        if (r == 0 && live && f->dirty && clock_now_ns() >= f->paint_ns)
            r = paint(f);
        if (r == 0 && !f->done)
            r = wait_for_more(f, err);
    }
    return r;
}

/* The picture goes with the alternate screen: what was heard stays behind as text. */
static void leave_live(struct follower *f)
{
    int columns, rows;
    terminal_leave();
    terminal_size(&columns, &rows);
    char *text = live_view_transcript(&f->view, columns);
    if (text)
        write_out(NULL, text, strlen(text));
    free(text);
}

int follow(const struct follow_options *options, struct err *err)
{
    static struct follower f; /* the view is too big for the stack */
    struct follow_options own = *options;
    if (own.format == FOLLOW_LIVE && (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))) {
        fprintf(stderr, "captionctl: not on a terminal, so captions come as text\n");
        own.format = FOLLOW_TEXT;
    }
    f = (struct follower){.options = &own, .dirty = true};
    int r = captions_init(&f.captions, own.captions, own.stream, own.from_seq, err);
    if (r < 0)
        return r;
    line_socket_init(&f.control, PROTOCOL_LINE_MAX);
    caption_text_init(&f.text, own.format == FOLLOW_STREAM ? CAPTION_PIECES : CAPTION_SENTENCES, write_out,
                      NULL);
    live_view_init(&f.view, own.stream, !getenv("NO_COLOR"));
    if (own.format == FOLLOW_LIVE)
        r = terminal_enter(err);
    else
        stop_signals_catch(stop, (int)SA_RESETHAND); /* the last words come before the end */
    if (r == 0) {
        r = run(&f, err);
        if (own.format == FOLLOW_LIVE)
            leave_live(&f);
        else if (r != -EPIPE && r != -EINTR)
            caption_text_end(&f.text);
    }
    live_view_finish(&f.view);
    caption_text_finish(&f.text);
    line_socket_finish(&f.control);
    captions_finish(&f.captions);
    if (stop_signal)
        raise(stop_signal);
    return r == -EPIPE ? 0 : r;
}
