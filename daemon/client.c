#include "daemon/client.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/log.h"
#include "daemon/protocol.h"

#define INPUT_MAX     (2 * PROTOCOL_REQUEST_MAX)
#define END_WITHIN_MS 1000

static void process_input(struct client *);

static struct client *of(void *handle)
{
    return ((uv_handle_t *)handle)->data;
}

/* --- writing ------------------------------------------------------------------------------------------------- */

static void drop_batch(struct client *c)
{
    for (int i = 0; i < c->n_batch; i++)
        message_unref(c->batch[i]);
    c->n_batch = 0;
}

static void on_end_timer(uv_timer_t *timer)
{
    client_close(of(timer));
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    client_close(req->data);
}

/* What is queued goes out, then the peer sees the end. */
static void shut_down(struct client *c)
{
    c->shutdown.data = c;
    if (uv_shutdown(&c->shutdown, (uv_stream_t *)&c->pipe, on_shutdown) < 0)
        client_close(c);
}

static void on_written(uv_write_t *req, int status)
{
    struct client *c = req->data;
    drop_batch(c);
    if (c->state == CLIENT_CLOSING)
        return;
    if (status < 0) {
        client_close(c);
        return;
    }
    if (c->state == CLIENT_ENDING) {
        struct message *last = c->last;
        c->last = NULL;
        if (last)
            client_write(c, &last, 1);
        if (c->n_batch == 0 && c->state == CLIENT_ENDING)
            shut_down(c);
        return;
    }
    uv_timer_stop(&c->timer);
    if (c->ops->drained)
        c->ops->drained(c);
    if (client_ready(c))
        process_input(c);
}

/* A peer that has taken something since the last look has time again. */
static void on_write_timer(uv_timer_t *timer)
{
    struct client *c = of(timer);
    size_t unwritten = uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe);
    if (unwritten < c->unwritten) {
        c->unwritten = unwritten;
        return;
    }
    c->stats->clients_slow++;
    log_info("a client was disconnected: it took nothing for %d ms", c->timeout_ms);
    client_close(c);
}

static void write_rest(struct client *c, uv_buf_t *bufs, int n, size_t written)
{
    while (written >= bufs->len) {
        written -= bufs->len;
        bufs++;
        n--;
    }
    bufs->base += written;
    bufs->len -= written;
    c->write.data = c;
    if (uv_write(&c->write, (uv_stream_t *)&c->pipe, bufs, (unsigned)n, on_written) < 0) {
        drop_batch(c);
        client_close(c);
        return;
    }
    if (c->reading)
        uv_read_stop((uv_stream_t *)&c->pipe);
    c->reading = false;
    c->unwritten = uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe);
    if (c->state == CLIENT_OPEN)
        uv_timer_start(&c->timer, on_write_timer, (uint64_t)c->timeout_ms, (uint64_t)c->timeout_ms);
}

bool client_ready(const struct client *c)
{
    return c->state == CLIENT_OPEN && c->n_batch == 0;
}

void client_write(struct client *c, struct message *const *messages, int n)
{
    uv_buf_t bufs[CLIENT_BATCH];
    size_t total = 0;
    for (int i = 0; i < n; i++) {
        c->batch[i] = messages[i];
        bufs[i] = uv_buf_init(messages[i]->data, (unsigned)messages[i]->size);
        total += messages[i]->size;
    }
    c->n_batch = n;
    int written = uv_try_write((uv_stream_t *)&c->pipe, bufs, (unsigned)n);
    if (written < 0 && written != UV_EAGAIN) {
        drop_batch(c);
        client_close(c);
    } else if (written >= 0 && (size_t)written == total) {
        drop_batch(c);
    } else {
        write_rest(c, bufs, n, written > 0 ? (size_t)written : 0);
    }
}

/* --- reading ------------------------------------------------------------------------------------------------- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct client *c = of(handle);
    if (!c->in)
        c->in = malloc(INPUT_MAX);
    /* An empty buffer is reported as UV_ENOBUFS and ends the connection. */
    *buf = c->in ? uv_buf_init(c->in + c->in_n, (unsigned)(INPUT_MAX - c->in_n)) : uv_buf_init(NULL, 0);
}

/* With a full hang-up nobody reads any more; a half-closed peer still may. */
static bool hung_up(struct client *c)
{
    struct pollfd p = {.events = POLLOUT};
    return uv_fileno((uv_handle_t *)&c->pipe, &p.fd) < 0 ||
           (poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct client *c = of(stream);
    if (n > 0) {
        c->in_n += (size_t)n;
        process_input(c);
    } else if (n == UV_EOF) {
        uv_read_stop(stream);
        c->reading = false;
        c->eof = true;
        if (hung_up(c))
            client_close(c);
        else
            process_input(c);
    } else if (n < 0) {
        client_close(c);
    }
}

static void start_reading(struct client *c)
{
    if (c->reading || c->eof || !client_ready(c) || c->hold)
        return;
    if (uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read) < 0)
        client_close(c);
    else
        c->reading = true;
}

static void refuse_long_line(struct client *c)
{
    char why[128];
    snprintf(why, sizeof(why), "a request has at most %d bytes", PROTOCOL_REQUEST_MAX);
    c->stats->clients_bad++;
    client_refuse(c, why);
}

/* Hands complete lines to the owner as long as it takes them. */
static void process_input(struct client *c)
{
    while (client_ready(c) && !c->hold && c->in_n > 0) {
        char *newline = memchr(c->in, '\n', c->in_n);
        size_t n = newline ? (size_t)(newline - c->in) : c->in_n;
        if (n >= PROTOCOL_REQUEST_MAX) {
            refuse_long_line(c);
            return;
        }
        if (!newline && !c->eof)
            break;
        size_t used = newline ? n + 1 : n;
        char line[PROTOCOL_REQUEST_MAX];
        memcpy(line, c->in, n);
        memmove(c->in, c->in + used, c->in_n - used);
        c->in_n -= used;
        if (n > 0 && line[n - 1] == '\r')
            n--;
        if (n > 0)
            c->ops->line(c, line, n);
    }
    if (c->in_n == 0) {
        free(c->in);
        c->in = NULL;
    }
    if (c->eof && c->in_n == 0 && !c->hold && !c->ops->one_way && client_ready(c))
        client_end(c, NULL);
    else
        start_reading(c);
    /* A full buffer is only possible while a line waits, and then reading stands still. */
    if (c->reading && (c->hold || c->in_n == INPUT_MAX)) {
        uv_read_stop((uv_stream_t *)&c->pipe);
        c->reading = false;
    }
}

void client_resume(struct client *c)
{
    c->hold = false;
    if (client_ready(c))
        process_input(c);
}

/* --- life ---------------------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    struct client *c = of(handle);
    if (--c->n_handles > 0)
        return;
    drop_batch(c);
    message_unref(c->last);
    c->last = NULL;
    free(c->in);
    c->in = NULL;
    c->ops->closed(c);
}

void client_close(struct client *c)
{
    if (c->state == CLIENT_CLOSING)
        return;
    c->state = CLIENT_CLOSING;
    c->reading = false;
    uv_close((uv_handle_t *)&c->pipe, on_closed);
    uv_close((uv_handle_t *)&c->timer, on_closed);
}

void client_close_if_gone(struct client *c)
{
    if (c->eof && c->state == CLIENT_OPEN && hung_up(c))
        client_close(c);
}

void client_end(struct client *c, struct message *last)
{
    if (c->state != CLIENT_OPEN) {
        message_unref(last);
        return;
    }
    c->state = CLIENT_ENDING;
    uv_read_stop((uv_stream_t *)&c->pipe);
    c->reading = false;
    uv_timer_start(&c->timer, on_end_timer, END_WITHIN_MS, 0);
    if (c->n_batch > 0) {
        c->last = last;
        return;
    }
    if (last)
        client_write(c, &last, 1);
    if (c->state == CLIENT_ENDING && c->n_batch == 0)
        shut_down(c);
}

void client_refuse(struct client *c, const char *why)
{
    client_end(c, message_bye("error", why));
}

int client_accept(struct client *c, uv_stream_t *server, const struct client_ops *ops, struct stats *stats,
                  int timeout_ms)
{
    *c = (struct client){.ops = ops, .stats = stats, .timeout_ms = timeout_ms, .n_handles = 2};
    uv_pipe_init(server->loop, &c->pipe, 0);
    uv_timer_init(server->loop, &c->timer);
    c->pipe.data = c->timer.data = c;
    int r = uv_accept(server, (uv_stream_t *)&c->pipe);
    if (r < 0) {
        client_close(c);
        return r;
    }
    int fd, size = CLIENT_SNDBUF;
    if (uv_fileno((uv_handle_t *)&c->pipe, &fd) == 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    start_reading(c);
    return 0;
}
