#include "tests/support/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/support.h"

#define PIECE 65536

/* Reads up to the blank line. */
static bool read_request(int fd, char *request, size_t size)
{
    size_t n = 0;
    while (n + 1 < size && recv(fd, request + n, 1, 0) == 1) {
        request[++n] = 0;
        if (n >= 4 && strcmp(request + n - 4, "\r\n\r\n") == 0)
            return true;
    }
    return false;
}

static void send_body(struct http_server *s, int fd, size_t begin)
{
    size_t sent = 0, left = s->n - begin;
    while (left > 0 && !s->quit) {
        size_t n = left < PIECE ? left : PIECE;
        if (s->drop_after && sent + n > s->drop_after)
            n = s->drop_after - sent;
        if (s->cancel_after && sent >= s->cancel_after) {
            *s->cancelled = s->arrived();
            usleep(10000);
            continue;
        }
        if (n == 0 || send(fd, (const char *)s->data + begin + sent, n, MSG_NOSIGNAL) != (ssize_t)n)
            return;
        sent += n;
        left -= n;
    }
}

static void serve(struct http_server *s, int fd)
{
    char request[4096], head[256];
    if (!read_request(fd, request, sizeof(request)))
        return;
    const char *range = strstr(request, "\r\nRange: bytes=");
    size_t begin = range && !s->no_ranges ? strtoul(range + 15, NULL, 10) : 0;
    s->n_requests++;
    s->last_begin = begin;
    if (s->status != 200)
        snprintf(head, sizeof(head), "HTTP/1.1 %d Told So\r\nContent-Length: 0\r\n\r\n", s->status);
    else if (begin >= s->n)
        snprintf(head, sizeof(head), "HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n");
    else if (begin > 0)
        snprintf(head, sizeof(head),
                 "HTTP/1.1 206 Rest\r\nContent-Length: %zu\r\nContent-Range: bytes %zu-%zu/%zu\r\n\r\n",
                 s->n - begin, begin, s->n - 1, s->n);
    else
        snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", s->n);
    send(fd, head, strlen(head), MSG_NOSIGNAL);
    if (s->status == 200 && begin < s->n)
        send_body(s, fd, begin);
}

static void *run(void *ctx)
{
    struct http_server *s = ctx;
    while (!s->quit) {
        struct pollfd in = {.fd = s->fd, .events = POLLIN};
        if (poll(&in, 1, 20) != 1)
            continue;
        int fd = accept(s->fd, NULL, NULL);
        if (fd < 0)
            continue;
        serve(s, fd);
        close(fd);
    }
    return NULL;
}

void http_server_start(struct http_server *s)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof(address);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&address, n), 0);
    assert_int_equal(listen(s->fd, 8), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&address, &n), 0);
    snprintf(s->address, sizeof(s->address), "http://127.0.0.1:%d", ntohs(address.sin_port));
    if (!s->status)
        s->status = 200;
    s->quit = false;
    s->n_requests = 0;
    assert_int_equal(pthread_create(&s->thread, NULL, run, s), 0);
}

void http_server_stop(struct http_server *s)
{
    s->quit = true;
    pthread_join(s->thread, NULL);
    close(s->fd);
}
