#include "daemon/subscriber.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "daemon/base/clock.h"
#include "daemon/client.h"
#include "daemon/log.h"

#define GREETING_MS      250
#define GREETING_TICK_MS 50
#define FILES_BESIDES    256 /* descriptors for everything but clients */

struct subscriber {
    struct client client; /* first: the client's callbacks cast */
    struct reader reader;
    struct subscribers *all;
    struct subscriber *next, **link;
    int64_t begin_ns; /* when the present begins to flow by itself; 0: it does */
};

static struct subscriber *of_client(struct client *c)
{
    return (struct subscriber *)c;
}

static struct subscriber *of_reader(struct reader *r)
{
    return (struct subscriber *)((char *)r - offsetof(struct subscriber, reader));
}

static void pump(struct subscriber *s)
{
    while (client_ready(&s->client)) {
        struct message *batch[CLIENT_BATCH];
        int n = hub_read(s->all->hub, &s->reader, batch, CLIENT_BATCH, CLIENT_BATCH_BYTES);
        if (n == 0)
            break;
        client_write(&s->client, batch, n);
    }
    if (s->all->bye && client_ready(&s->client))
        client_end(&s->client, message_ref(s->all->bye));
}

/* What a subscriber wants may never come, but a heartbeat of some stream does. */
static void on_poke(struct reader *r)
{
    struct subscriber *s = of_reader(r);
    client_close_if_gone(&s->client);
    pump(s);
}

static void begin(struct subscriber *s, int64_t from_seq)
{
    s->begin_ns = 0;
    hub_attach(s->all->hub, &s->reader, from_seq);
    pump(s);
}

/* --- requests ------------------------------------------------------------------------------------------------ */

static void subscribe(struct subscriber *s, const struct request *r)
{
    struct hub *hub = s->all->hub;
    int64_t from = r->from_seq;
    /* A number that is yet to come is another session's as well, unless it says to be of this one. */
    if (r->session[0] ? strcmp(r->session, hub->session) != 0 : from > hub->journal.next)
        from = 1;
    s->reader.types = r->types;
    s->reader.streams = r->streams;
    if (from >= 0)
        begin(s, from);
    else if (s->begin_ns)
        begin(s, HUB_FROM_PRESENT);
}

static void on_line(struct client *c, const char *line, size_t n)
{
    struct subscriber *s = of_client(c);
    struct hub *hub = s->all->hub;
    struct request request;
    struct err err;
    char text[MESSAGE_ERR_MAX];
    int r = protocol_parse_request(line, n, hub->names, hub->n_streams, &request, &err);
    if (r == -EINVAL) {
        c->stats->clients_bad++;
        client_refuse(c, err.msg);
        return;
    }
    if (r == 0 && request.cmd != REQUEST_SUBSCRIBE)
        r = err_set(&err, -ENOTSUP, "this socket is for captions, it takes only subscribe");
    if (r == 0) {
        subscribe(s, &request);
        return;
    }
    size_t n_text = protocol_write_error(text, sizeof(text), protocol_cmd_name(request.cmd), err.msg);
    struct message *m = message_create(MESSAGE_OTHER, text, n_text);
    if (m)
        client_write(c, &m, 1);
}

static void on_drained(struct client *c)
{
    struct subscriber *s = of_client(c);
    if (!s->begin_ns)
        pump(s);
}

static void on_closed(struct client *c)
{
    struct subscriber *s = of_client(c);
    hub_detach(&s->reader);
    if (s->link) {
        *s->link = s->next;
        if (s->next)
            s->next->link = s->link;
        s->all->n--;
    }
    free(s);
}

/* --- life ---------------------------------------------------------------------------------------------------- */

static void on_greeting(uv_timer_t *timer)
{
    struct subscribers *all = timer->data;
    int64_t now = clock_now_ns();
    bool waiting = false;
    for (struct subscriber *s = all->first, *next; s; s = next) {
        next = s->next;
        if (s->begin_ns && s->begin_ns <= now && s->client.state == CLIENT_OPEN)
            begin(s, HUB_FROM_PRESENT);
        waiting |= s->begin_ns != 0;
    }
    if (!waiting)
        uv_timer_stop(timer);
}

static void add(struct subscribers *all, struct subscriber *s)
{
    s->all = all;
    s->reader = (struct reader){.poke = on_poke, .types = ~0u, .streams = ~0u};
    s->begin_ns = clock_now_ns() + GREETING_MS * 1000000LL;
    s->next = all->first;
    s->link = &all->first;
    if (s->next)
        s->next->link = &s->next;
    all->first = s;
    all->n++;
    all->hub->stats->clients_total++;
    struct message *hello = hub_hello(all->hub);
    if (hello)
        client_write(&s->client, &hello, 1);
    if (!uv_is_active((uv_handle_t *)&all->greeting))
        uv_timer_start(&all->greeting, on_greeting, GREETING_TICK_MS, GREETING_TICK_MS);
}

static void turn_away(struct subscribers *all, struct subscriber *s)
{
    char why[64];
    snprintf(why, sizeof(why), "there are %d clients already, clients-max is %d", all->n, all->n_max);
    all->hub->stats->clients_turned_away++;
    client_refuse(&s->client, why);
}

void subscribers_accept(void *ctx, uv_stream_t *server)
{
    static const struct client_ops ops = {
        .line = on_line, .drained = on_drained, .closed = on_closed, .one_way = true};
    struct subscribers *all = ctx;
    struct subscriber *s = calloc(1, sizeof(*s));
    if (!s)
        abort(); /* out of memory: libuv asks no more until a connection is accepted, so nobody would be again */
    s->all = all;
    int r = client_accept(&s->client, server, &ops, all->hub->stats, all->timeout_ms);
    if (r < 0)
        log_warning("a client could not be accepted: %s", uv_strerror(r));
    else if (all->n >= all->n_max)
        turn_away(all, s);
    else
        add(all, s);
}

/* A client takes a descriptor. */
static void raise_file_limit(int n_clients)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)n_clients + FILES_BESIDES;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < wanted)
        log_info("only %llu files may be open: fewer than clients-max clients",
                 (unsigned long long)limit.rlim_cur);
}

void subscribers_allow(struct subscribers *all, int n_max)
{
    all->n_max = n_max;
    raise_file_limit(n_max);
}

void subscribers_init(struct subscribers *all, uv_loop_t *loop, struct hub *hub, int n_max, int timeout_ms)
{
    *all = (struct subscribers){.hub = hub, .timeout_ms = timeout_ms};
    subscribers_allow(all, n_max);
    uv_timer_init(loop, &all->greeting);
    all->greeting.data = all;
}

void subscribers_end(struct subscribers *all, const char *reason, const char *message)
{
    all->bye = message_bye(reason, message);
    if (!all->bye)
        return;
    for (struct subscriber *s = all->first, *next; s; s = next) {
        next = s->next;
        if (s->begin_ns)
            begin(s, HUB_FROM_PRESENT);
        else
            pump(s);
    }
}

void subscribers_close(struct subscribers *all)
{
    for (struct subscriber *s = all->first, *next; s; s = next) {
        next = s->next;
        client_close(&s->client);
    }
    message_unref(all->bye);
    all->bye = NULL;
    if (!uv_is_closing((uv_handle_t *)&all->greeting))
        uv_close((uv_handle_t *)&all->greeting, NULL);
}
