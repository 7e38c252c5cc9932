#include "tools/line_socket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/base/socket_path.h"
#include "daemon/protocol.h"

#define FIRST_SIZE 16384

void line_socket_init(struct line_socket *s, size_t line_max)
{
    *s = (struct line_socket){.fd = -1, .line_max = line_max};
}

void line_socket_finish(struct line_socket *s)
{
    if (!s)
        return;
    if (s->buf)
        line_socket_close(s);
    free(s->buf);
    line_socket_init(s, s->line_max);
}

void line_socket_close(struct line_socket *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

int line_socket_connect(struct line_socket *s, const char *path, struct err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    line_socket_close(s);
    s->begin = s->end = s->searched = 0;
    if (!s->buf) {
        s->buf = malloc(FIRST_SIZE);
        if (!s->buf)
            return err_set(err, -ENOMEM, "out of memory");
        s->size = FIRST_SIZE;
    }
    int r = socket_path_check(path, err);
    if (r < 0)
        return r;
    memcpy(address.sun_path, path, strlen(path) + 1);
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0)
        return err_set(err, -errno, "socket: %s", strerror(errno));
    if (connect(s->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int code = errno;
        line_socket_close(s);
        return err_set(err, -code, "%s: %s", path, strerror(code));
    }
    return 0;
}

/* Room for more: moves what is unread to the front, or takes twice the memory. */
static int make_room(struct line_socket *s, struct err *err)
{
    if (s->begin > 0) {
        memmove(s->buf, s->buf + s->begin, s->end - s->begin);
        s->end -= s->begin;
        s->begin = 0;
    }
    if (s->end < s->size)
        return 0;
    if (s->size > s->line_max)
        return err_set(err, -EMSGSIZE, "a line is longer than %zu bytes", s->line_max);
    char *buf = realloc(s->buf, 2 * s->size);
    if (!buf)
        return err_set(err, -ENOMEM, "out of memory");
    s->buf = buf;
    s->size *= 2;
    return 0;
}

int line_socket_read(struct line_socket *s, char **line, size_t *n, struct err *err)
{
    while (s->fd >= 0) {
        size_t unread = s->end - s->begin;
        char *start = s->buf + s->begin;
        char *newline = memchr(start + s->searched, '\n', unread - s->searched);
        if (newline) {
            *newline = 0;
            *line = start;
            *n = (size_t)(newline - start);
            s->begin += *n + 1;
            s->searched = 0;
            return 1;
        }
        s->searched = unread;
        if (s->end == s->size) {
            int r = make_room(s, err);
            if (r < 0)
                return r;
        }
        ssize_t got = recv(s->fd, s->buf + s->end, s->size - s->end, 0);
        if (got == 0 || (got < 0 && errno == ECONNRESET))
            return err_set(err, -EPIPE, "captiond has closed the connection");
        if (got < 0 && errno == EAGAIN)
            return 0;
        if (got < 0 && errno != EINTR)
            return err_set(err, -errno, "%s", strerror(errno));
        s->end += got > 0 ? (size_t)got : 0;
    }
    return err_set(err, -ENOTCONN, "not connected");
}

int line_socket_send(struct line_socket *s, json_t *request, const char *what, struct err *err)
{
    char line[PROTOCOL_REQUEST_MAX];
    size_t n = json_dumpb(request, line, sizeof(line) - 1, JSON_COMPACT);
    json_decref(request);
    if (n == 0)
        return err_set(err, -EINVAL, "%.64s is no valid UTF-8", what);
    if (n >= sizeof(line))
        return err_set(err, -EINVAL, "%.64s… is too long: a request has at most %zu bytes", what,
                       sizeof(line));
    line[n++] = '\n';
    ssize_t sent = send(s->fd, line, n, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
        return err_set(err, -EPIPE, "captiond has closed the connection");
    if (sent < 0)
        return err_set(err, -errno, "%s", strerror(errno));
    if ((size_t)sent < n)
        return err_set(err, -EAGAIN, "the other side takes nothing");
    return 0;
}
