#include "daemon/control.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/client.h"
#include "daemon/log.h"
#include "daemon/protocol.h"
#include "stream/source.h"

#define REPLY_MAX (64 * 1024)

struct control_peer {
    struct client client; /* first: the client's callbacks cast */
    struct control *control;
    struct control_peer *next, **link;
    /* A search for devices, which may take seconds, on a worker thread. */
    uv_work_t work;
    bool working, closed;
    int n_devices;
    struct err err;
    struct source_device *devices; /* [SOURCE_DEVICES_MAX] */
};

static struct control_peer *of_client(struct client *c)
{
    return (struct control_peer *)c;
}

static void send_line(struct control_peer *p, const char *line, size_t n)
{
    struct message *m = message_create(MESSAGE_OTHER, line, n);
    if (m)
        client_write(&p->client, &m, 1);
    else
        client_close(&p->client);
}

static void send_error(struct control_peer *p, const char *cmd, const char *message)
{
    char line[MESSAGE_ERR_MAX];
    send_line(p, line, protocol_write_error(line, sizeof(line), cmd, message));
}

static void begin_reply(struct jsonl *j, char *buf, enum request_cmd cmd)
{
    jsonl_init(j, buf, REPLY_MAX);
    jsonl_object(j, NULL);
    jsonl_string(j, "type", "reply");
    jsonl_string(j, "cmd", protocol_cmd_name(cmd));
}

static void end_reply(struct control_peer *p, struct jsonl *j, enum request_cmd cmd)
{
    jsonl_object_end(j);
    size_t n = jsonl_finish_line(j);
    if (n)
        send_line(p, j->buf, n);
    else
        send_error(p, protocol_cmd_name(cmd), "the reply is too long");
}

/* --- devices ------------------------------------------------------------------------------------------------- */

static void search_devices(uv_work_t *work)
{
    struct control_peer *p = work->data;
    p->n_devices = source_list_devices(p->devices, SOURCE_DEVICES_MAX, &p->err);
}

static void write_devices(struct jsonl *j, const struct source_device *devices, int n)
{
    jsonl_array(j, "devices");
    for (int i = 0; i < n; i++) {
        jsonl_object(j, NULL);
        jsonl_string(j, "name", devices[i].name);
        jsonl_string(j, "host_api", devices[i].host_api);
        jsonl_int(j, "channels", devices[i].channels);
        jsonl_int(j, "default_rate", devices[i].default_rate);
        jsonl_bool(j, "default", devices[i].is_default);
        jsonl_bool(j, "monitor", devices[i].is_monitor);
        jsonl_object_end(j);
    }
    jsonl_array_end(j);
}

static void on_devices(uv_work_t *work, int status)
{
    struct control_peer *p = work->data;
    p->working = false;
    if (p->closed) {
        free(p->devices);
        free(p);
        return;
    }
    if (client_ready(&p->client) && p->n_devices < 0) {
        send_error(p, protocol_cmd_name(REQUEST_DEVICES), p->err.msg);
    } else if (client_ready(&p->client)) {
        static char buf[REPLY_MAX];
        struct jsonl j;
        begin_reply(&j, buf, REQUEST_DEVICES);
        write_devices(&j, p->devices, p->n_devices);
        end_reply(p, &j, REQUEST_DEVICES);
    }
    free(p->devices);
    p->devices = NULL;
    client_resume(&p->client);
}

static void start_devices(struct control_peer *p)
{
    p->devices = calloc(SOURCE_DEVICES_MAX, sizeof(*p->devices));
    p->work.data = p;
    if (!p->devices || uv_queue_work(p->client.pipe.loop, &p->work, search_devices, on_devices) < 0) {
        free(p->devices);
        p->devices = NULL;
        send_error(p, protocol_cmd_name(REQUEST_DEVICES), "out of memory");
        return;
    }
    p->working = true;
    p->client.hold = true;
}

/* --- requests ------------------------------------------------------------------------------------------------ */

static int set(struct control *control, const struct request *r, struct jsonl *j, struct err *err)
{
    int failed = r->key[0] ? control->ops->set(control->ctx, r->key, r->value, err) : 0;
    if (failed < 0)
        return failed;
    jsonl_object(j, "settings");
    control->ops->write_settings(control->ctx, j);
    jsonl_object_end(j);
    return 0;
}

static void answer(struct control_peer *p, const struct request *r)
{
    static char buf[REPLY_MAX];
    struct control *control = p->control;
    struct jsonl j;
    struct err err;
    begin_reply(&j, buf, r->cmd);
    switch (r->cmd) {
    case REQUEST_UNKNOWN:
        assert(false); /* no such request is parsed */
    case REQUEST_FLUSH:
        control->ops->flush(control->ctx);
        break;
    case REQUEST_PAUSE:
    case REQUEST_RESUME:
        control->ops->pause(control->ctx, r->streams, r->cmd == REQUEST_PAUSE);
        break;
    case REQUEST_STATUS:
        control->ops->write_status(control->ctx, &j);
        break;
    case REQUEST_DEVICES:
        start_devices(p);
        return;
    case REQUEST_SET:
        if (set(control, r, &j, &err) < 0) {
            send_error(p, protocol_cmd_name(r->cmd), err.msg);
            return;
        }
        break;
    case REQUEST_SUBSCRIBE:
        send_error(p, protocol_cmd_name(r->cmd), "captions are on the other socket");
        return;
    }
    end_reply(p, &j, r->cmd);
}

static void on_line(struct client *c, const char *line, size_t n)
{
    struct control_peer *p = of_client(c);
    const struct hub *hub = p->control->hub;
    struct request request;
    struct err err;
    int r = protocol_parse_request(line, n, hub->names, hub->n_streams, &request, &err);
    if (r == 0) {
        answer(p, &request);
    } else if (r == -EINVAL) {
        c->stats->clients_bad++;
        client_refuse(c, err.msg);
    } else {
        send_error(p, protocol_cmd_name(request.cmd), err.msg);
    }
}

static void on_closed(struct client *c)
{
    struct control_peer *p = of_client(c);
    if (p->link) {
        *p->link = p->next;
        if (p->next)
            p->next->link = p->link;
        p->control->n--;
    }
    p->closed = true;
    if (!p->working)
        free(p);
}

/* --- life ---------------------------------------------------------------------------------------------------- */

void control_init(struct control *control, struct hub *hub, const struct control_ops *ops, void *ctx,
                  int timeout_ms)
{
    *control = (struct control){.ops = ops, .ctx = ctx, .hub = hub, .timeout_ms = timeout_ms};
}

void control_accept(void *ctx, uv_stream_t *server)
{
    static const struct client_ops ops = {.line = on_line, .closed = on_closed};
    struct control *control = ctx;
    struct control_peer *p = calloc(1, sizeof(*p));
    if (!p)
        abort(); /* as for a client in subscriber.c */
    p->control = control;
    int r = client_accept(&p->client, server, &ops, control->hub->stats, control->timeout_ms);
    if (r < 0) {
        log_warning("a control connection could not be accepted: %s", uv_strerror(r));
        return;
    }
    if (control->n >= CONTROL_PEERS_MAX) {
        client_refuse(&p->client, "too many control connections");
        return;
    }
    p->next = control->first;
    p->link = &control->first;
    if (p->next)
        p->next->link = &p->next;
    control->first = p;
    control->n++;
}

void control_close(struct control *control)
{
    for (struct control_peer *p = control->first, *next; p; p = next) {
        next = p->next;
        client_close(&p->client);
    }
}
