#include "daemon/printer.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/sentence.h"
#include "daemon/base/utf8.h"
#include "daemon/log.h"

#define BATCH        32
#define BATCH_BYTES  (64 * 1024)
#define UNREAD_LIMIT 256 /* events */

static void pump(struct printer *);

/* --- what is written ----------------------------------------------------------------------------------------- */

static void put(struct printer *p, const char *s, size_t n)
{
    if (p->out_n + n > p->out_size) {
        size_t size = (p->out_n + n) * 2;
        char *out = realloc(p->out, size);
        if (!out) {
            p->failed = -ENOMEM;
            return;
        }
        p->out = out;
        p->out_size = size;
    }
    memcpy(p->out + p->out_n, s, n);
    p->out_n += n;
}

/* One line of text, its leading spaces removed, after the stream's name where there are several. */
static void put_line(struct printer *p, int stream, const char *text, size_t n)
{
    while (n > 0 && *text == ' ') {
        text++;
        n--;
    }
    if (n == 0)
        return;
    if (p->hub->n_streams > 1) {
        put(p, p->hub->names[stream], strlen(p->hub->names[stream]));
        put(p, ": ", 2);
    }
    size_t at = p->out_n;
    put(p, text, n);
    /* A terminal would obey control characters. */
    for (; at < p->out_n; at++) {
        if (iscntrl((unsigned char)p->out[at]))
            p->out[at] = ' ';
    }
    put(p, "\n", 1);
}

static void take_line(struct printer *p, int stream, size_t n)
{
    char *text = p->line[stream].text;
    put_line(p, stream, text, n);
    p->line[stream].n -= n;
    memmove(text, text + n, p->line[stream].n);
}

static void add_text(struct printer *p, int stream, const char *text)
{
    size_t n = strlen(text);
    while (n > 0) {
        size_t room = PRINTER_TEXT_MAX - p->line[stream].n;
        size_t part = n > room ? utf8_complete_prefix(text, room) : n;
        memcpy(p->line[stream].text + p->line[stream].n, text, part);
        p->line[stream].n += part;
        text += part;
        n -= part;
        size_t sentence;
        while ((sentence = sentence_length(p->line[stream].text, p->line[stream].n)) > 0)
            take_line(p, stream, sentence);
        if (n > 0)
            take_line(p, stream, p->line[stream].n);
    }
}

static void print_message(struct printer *p, const struct message *m)
{
    if (!p->text) {
        put(p, m->data, m->size);
        return;
    }
    json_t *o = json_loadb(m->data, m->size, 0, NULL);
    const char *text = json_string_value(json_object_get(o, "text"));
    const char *reason = json_string_value(json_object_get(o, "reason"));
    if (m->type == MESSAGE_COMMIT && text)
        add_text(p, m->stream, text);
    else if (reason && strcmp(reason, "max_len") != 0) /* after which the sentence goes on */
        take_line(p, m->stream, p->line[m->stream].n);
    else if (json_object_get(o, "to_seq"))
        log_warning("standard output is read too slowly: events %lld to %lld are no longer kept",
                    (long long)json_integer_value(json_object_get(o, "from_seq")),
                    (long long)json_integer_value(json_object_get(o, "to_seq")));
    json_decref(o);
}

/* --- writing ------------------------------------------------------------------------------------------------- */

/* Worker thread: may block. */
static void write_out(uv_work_t *work)
{
    struct printer *p = work->data;
    size_t done = 0;
    p->result = 0;
    while (done < p->busy_n) {
        ssize_t n = write(STDOUT_FILENO, p->busy + done, p->busy_n - done);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN) {
            struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
            poll(&out, 1, -1);
        } else if (errno != EINTR) {
            p->result = -errno;
            return;
        }
    }
}

static void stop(struct printer *p)
{
    p->gone = true;
    hub_detach(&p->reader);
}

static void on_written(uv_work_t *work, int status)
{
    struct printer *p = work->data;
    p->writing = false;
    if (p->result == 0) {
        p->written_seq = p->busy_seq;
        pump(p);
    } else {
        if (p->result != -EPIPE) {
            p->failed = p->result;
            log_error("standard output: %s", strerror(-p->result));
        }
        stop(p);
    }
    p->progress(p->ctx);
}

/* The next messages, references for the caller; behind all others the last line. */
static int take_batch(struct printer *p, struct message **batch)
{
    int n = hub_read(p->hub, &p->reader, batch, BATCH, BATCH_BYTES);
    if (n == 0 && p->bye) {
        batch[n++] = p->bye;
        p->bye = NULL;
    }
    return n;
}

static void pump(struct printer *p)
{
    struct message *batch[BATCH];
    while (!p->writing && !p->gone) {
        int n = take_batch(p, batch);
        for (int i = 0; i < n; i++) {
            print_message(p, batch[i]);
            message_unref(batch[i]);
        }
        if (n == 0 && !p->ending)
            return;
        for (int i = 0; n == 0 && i < p->hub->n_streams; i++)
            take_line(p, i, p->line[i].n);
        p->ending &= n > 0;
        if (p->failed) {
            log_error("standard output: %s", strerror(-p->failed));
            stop(p);
        } else if (p->out_n > 0) {
            char *free_buffer = p->busy;
            size_t free_size = p->busy_size;
            p->busy = p->out;
            p->busy_n = p->out_n;
            p->busy_size = p->out_size;
            p->busy_seq = p->reader.next_seq;
            p->out = free_buffer;
            p->out_size = free_size;
            p->out_n = 0;
            p->writing = uv_queue_work(p->loop, &p->work, write_out, on_written) == 0;
        }
    }
}

static void on_poke(struct reader *r)
{
    pump((struct printer *)((char *)r - offsetof(struct printer, reader)));
}

/* --- life ---------------------------------------------------------------------------------------------------- */

void printer_init(struct printer *p, uv_loop_t *loop, struct hub *hub, bool text, void (*progress)(void *ctx),
                  void *ctx)
{
    memset(p, 0, sizeof(*p));
    p->loop = loop;
    p->hub = hub;
    p->text = text;
    p->progress = progress;
    p->ctx = ctx;
    p->work.data = p;
    p->reader.poke = on_poke;
    p->reader.types = text ? 1u << MESSAGE_COMMIT | 1u << MESSAGE_FINAL : ~0u;
    p->reader.streams = ~0u;
    p->written_seq = 1;
    hub_attach(hub, &p->reader, 1);
    if (!text) {
        struct message *hello = hub_hello(hub);
        if (hello)
            put(p, hello->data, hello->size);
        message_unref(hello);
    }
}

void printer_end(struct printer *p, const char *reason, const char *message)
{
    if (!p->hub || p->gone)
        return;
    p->ending = p->text;
    if (!p->text)
        p->bye = message_bye(reason, message);
    pump(p);
}

void printer_give_up(const struct printer *p)
{
    if (!p->hub || p->gone || !p->writing)
        return;
    long long last = (long long)p->hub->journal.next - 1;
    if (p->written_seq <= last)
        log_warning("standard output was not read to the end: events %lld to %lld are not all in it",
                    (long long)p->written_seq, last);
    else
        log_warning("standard output was not read to the end: its last line is not in it");
}

void printer_finish(struct printer *p)
{
    if (!p || !p->hub)
        return;
    message_unref(p->bye);
    hub_detach(&p->reader);
    free(p->out);
    free(p->busy);
    memset(p, 0, sizeof(*p));
}

bool printer_full(const struct printer *p)
{
    return p->hub && !p->gone &&
           (hub_unread(p->hub, &p->reader) > UNREAD_LIMIT || hub_nearly_forgets(p->hub, &p->reader));
}
