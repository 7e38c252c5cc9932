/* A web server on 127.0.0.1 that has one file and misbehaves as told, for tests of downloads. */
#ifndef CAPTIOND_TESTS_HTTP_SERVER_H
#define CAPTIOND_TESTS_HTTP_SERVER_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct http_server {
    /* What it serves, set before the start. */
    const void *data;
    size_t n;
    int status;            /* other than 200: the answer to every request */
    bool no_ranges;        /* a request for the rest gets the whole */
    size_t drop_after;     /* > 0: the connection is closed after so many bytes of the body */
    size_t cancel_after;   /* > 0: after so many bytes nothing more is sent, and *cancelled set once … */
    bool (*arrived)(void); /* … this says that some of them have been stored */
    volatile sig_atomic_t *cancelled;

    char address[64]; /* http://127.0.0.1:PORT */
    _Atomic int n_requests;
    _Atomic size_t last_begin; /* first byte that the last request asked for */
    int fd;
    _Atomic bool quit;
    pthread_t thread;
};

void http_server_start(struct http_server *);
void http_server_stop(struct http_server *);

#endif
