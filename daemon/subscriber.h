/* The clients of the captions socket: each is a reader of the hub at the end of a connection.
 *
 * A new one gets `hello` at once, and a quarter of a second to say by `subscribe` what it wants before the present
 * begins to flow. Belongs to the loop. */
#ifndef CAPTIOND_DAEMON_SUBSCRIBER_H
#define CAPTIOND_DAEMON_SUBSCRIBER_H

#include <uv.h>

#include "daemon/hub.h"

struct subscriber;

struct subscribers {
    struct hub *hub;
    uv_timer_t greeting; /* runs while somebody has not subscribed yet */
    struct subscriber *first;
    int n;
    struct message *bye;   /* set: everyone is disconnected with it once up to date */
    int n_max, timeout_ms; /* the latter may be changed at any time */
};

/* So many clients at a time from now on, for which the limit of open files is raised as far as it can be. */
void subscribers_allow(struct subscribers *, int n_max);

void subscribers_init(struct subscribers *, uv_loop_t *, struct hub *, int n_max, int timeout_ms);

/* A connection waits on the listening stream: fits listener's callback, ctx is the struct subscribers. */
void subscribers_accept(void *ctx, uv_stream_t *server);

/* Everyone gets what is still unread and a last line, and is disconnected. Who is slow stays until subscribers_close. */
void subscribers_end(struct subscribers *, const char *reason, const char *message);

/* Closes what is left and the timer. The loop must run until they are gone. */
void subscribers_close(struct subscribers *);

#endif
