#include "tools/captions.h"

#include <errno.h>
#include <string.h>

#include "daemon/base/clock.h"

#define FIRST_DELAY_MS 100
#define MAX_DELAY_MS   2000
#define NS_PER_MS      1000000LL

int captions_init(struct captions *c, const char *path, const char *stream, int64_t from_seq, struct err *err)
{
    int r = socket_path_check(path, err);
    if (r < 0)
        return r;
    *c = (struct captions){.stream = stream, .from_seq = from_seq, .delay_ms = FIRST_DELAY_MS};
    memcpy(c->path, path, strlen(path) + 1);
    line_socket_init(&c->socket, PROTOCOL_LINE_MAX);
    return 0;
}

void captions_finish(struct captions *c)
{
    if (!c)
        return;
    line_socket_finish(&c->socket);
    json_decref(c->event);
    c->event = NULL;
}

int captions_fd(const struct captions *c)
{
    return c->socket.fd;
}

int captions_wait_ms(const struct captions *c)
{
    if (c->socket.fd >= 0)
        return -1;
    int64_t ns = c->retry_ns - clock_now_ns();
    return ns > 0 ? (int)(ns / NS_PER_MS) + 1 : 0;
}

static int lost(struct captions *c)
{
    line_socket_close(&c->socket);
    c->retry_ns = clock_now_ns() + c->delay_ms * NS_PER_MS;
    c->delay_ms = c->delay_ms * 2 < MAX_DELAY_MS ? c->delay_ms * 2 : MAX_DELAY_MS;
    return CAPTIONS_LOST;
}

/* Asks for what is wanted: what the user named the first time, what came after the last event later. */
static int subscribe(struct captions *c, bool first, struct err *err)
{
    json_t *request = json_pack("{s:s}", "cmd", "subscribe");
    if (first && c->from_seq >= 0)
        json_object_set_new(request, "from_seq", json_integer(c->from_seq));
    if (!first) {
        json_object_set_new(request, "from_seq", json_integer(c->seen_seq + 1));
        json_object_set_new(request, "session", json_string(c->session));
    }
    if (c->stream && json_object_set_new(request, "streams", json_pack("[s]", c->stream)) < 0) {
        json_decref(request);
        request = NULL;
    }
    return line_socket_send(&c->socket, request, "the stream's name", err);
}

static int on_hello(struct captions *c, const json_t *hello, struct err *err)
{
    const char *session = json_string_value(json_object_get(hello, "session"));
    json_int_t version = json_integer_value(json_object_get(hello, "v"));
    if (!session || strlen(session) >= sizeof(c->session))
        return err_set(err, -EPROTO, "%s: what listens there is not captiond", c->path);
    if (version != PROTOCOL_VERSION)
        return err_set(err, -EPROTO, "%s: captiond speaks version %lld of the protocol, this program only %d",
                       c->path, (long long)version, PROTOCOL_VERSION);
    bool first = !c->session[0];
    bool same = strcmp(session, c->session) == 0;
    /* Asked with the session that we know: the daemon compares it itself. One that has gone already cannot be asked,
     * but what it has sent is still to be read. */
    int r = subscribe(c, first, err);
    if (r < 0 && r != -EPIPE && r != -ECONNRESET)
        return r;
    if (first && c->from_seq < 0)
        c->seen_seq = json_integer_value(json_object_get(hello, "seq"));
    else if (!same)
        c->seen_seq = 0;
    c->resumed = same;
    memcpy(c->session, session, strlen(session) + 1);
    c->greeted = true;
    c->delay_ms = FIRST_DELAY_MS;
    return 0;
}

/* 1: give it out, 0: it has been given out before. */
static int on_event(struct captions *c, struct captions_event *e, struct err *err)
{
    e->json = c->event;
    e->type = json_string_value(json_object_get(c->event, "type"));
    if (!e->type)
        return err_set(err, -EPROTO, "%s: what listens there is not captiond", c->path);
    if (!c->greeted) {
        if (strcmp(e->type, "hello") == 0) {
            int r = on_hello(c, c->event, err);
            return r < 0 ? r : 1;
        }
        if (strcmp(e->type, "bye") != 0)
            return err_set(err, -EPROTO, "%s: what listens there is not captiond", c->path);
    }
    if (strcmp(e->type, "bye") == 0)
        c->ended = true;
    const json_t *seq = json_object_get(c->event, "seq");
    if (strcmp(e->type, "hello") == 0 || !json_is_integer(seq))
        return 1;
    if (c->resumed && json_integer_value(seq) <= c->seen_seq)
        return 0;
    if (json_integer_value(seq) > c->seen_seq)
        c->seen_seq = json_integer_value(seq);
    return 1;
}

static int try_connect(struct captions *c, struct err *err)
{
    c->greeted = c->ended = c->resumed = false;
    int r = line_socket_connect(&c->socket, c->path, err);
    if (r == -ENOENT || r == -ECONNREFUSED)
        err_set(err, r, "no captiond is listening at %s", c->path);
    return r;
}

/* A daemon that is not there yet, or is busy. Everything else that fails before any daemon was reached is the user's to mend. */
static bool may_pass(int r)
{
    return r == -ENOENT || r == -ECONNREFUSED || r == -EAGAIN;
}

int captions_next(struct captions *c, struct captions_event *e, struct err *err)
{
    json_decref(c->event);
    c->event = NULL;
    if (c->socket.fd < 0) {
        if (clock_now_ns() < c->retry_ns)
            return CAPTIONS_NOTHING;
        int r = try_connect(c, err);
        if (r < 0)
            return c->session[0] || may_pass(r) ? lost(c) : r;
    }
    for (;;) {
        char *line;
        size_t n;
        json_error_t why;
        int r = line_socket_read(&c->socket, &line, &n, err);
        if (r == 0)
            return CAPTIONS_NOTHING;
        if (r < 0)
            return lost(c);
        c->event = json_loadb(line, n, 0, &why);
        if (!c->event)
            return err_set(err, -EPROTO, "%s: what listens there does not speak JSON Lines", c->path);
        *e = (struct captions_event){.line = line, .n = n};
        r = on_event(c, e, err);
        if (r == 1)
            return CAPTIONS_EVENT;
        json_decref(c->event);
        c->event = NULL;
        if (r < 0)
            return r == -EPROTO || r == -EINVAL ? r : lost(c);
    }
}
