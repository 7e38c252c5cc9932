/* The control socket: one request a line, one reply each, in order. What the requests do is the service's affair.
 * Belongs to the loop. */
#ifndef CAPTIOND_DAEMON_CONTROL_H
#define CAPTIOND_DAEMON_CONTROL_H

#include <stdbool.h>
#include <uv.h>

#include "daemon/hub.h"
#include "daemon/jsonl.h"

struct control_ops {
    void (*flush)(void *ctx);                               /* end the open utterances here */
    void (*pause)(void *ctx, unsigned streams, bool pause); /* close or reopen the devices of these streams */
    /* Changes a setting; a negative errno with a message where it cannot. */
    int (*set)(void *ctx, const char *key, const char *value, struct err *);
    void (*write_settings)(void *ctx, struct jsonl *); /* what `set` can change, as it is: members */
    void (*write_status)(void *ctx, struct jsonl *);   /* members of the reply */
};

struct control_peer;

struct control {
    const struct control_ops *ops;
    void *ctx;
    struct hub *hub; /* names of streams, statistics */
    int timeout_ms;
    struct control_peer *first;
    int n;
};

#define CONTROL_PEERS_MAX 64

void control_init(struct control *, struct hub *, const struct control_ops *, void *ctx, int timeout_ms);

/* Fits listener's callback; ctx is the struct control. */
void control_accept(void *ctx, uv_stream_t *server);

/* Disconnects everyone. The loop must run until they are gone. */
void control_close(struct control *);

#endif
