/* One connection: lines in, messages out, and neither ever waits for the peer.
 *
 * Reading is bounded by PROTOCOL_REQUEST_MAX and stands still while a write is under way, so a peer that asks faster than
 * it reads only fills its own socket. At most one batch of messages is being written; a peer that takes nothing of
 * it for the timeout is disconnected. Embedded as the first member of what it serves (subscriber, control peer).
 * Belongs to the loop. */
#ifndef CAPTIOND_DAEMON_CLIENT_H
#define CAPTIOND_DAEMON_CLIENT_H

#include <stdbool.h>
#include <uv.h>

#include "daemon/message.h"
#include "daemon/stats.h"

#define CLIENT_BATCH       16    /* messages in one write */
#define CLIENT_BATCH_BYTES 16384 /* no more messages are added beyond this */
#define CLIENT_SNDBUF      16384 /* small, so that a frozen peer shows soon */

struct client;

struct client_ops {
    void (*line)(struct client *, const char *line, size_t n); /* a request, newline excluded */
    void (*drained)(struct client *); /* the write is done: the next may begin; NULL: none is due */
    void (*closed)(struct client *);  /* the last call: the handles are gone, the object may be freed */
    bool one_way;                     /* a peer that only shuts down its writing side still wants to read */
};

enum client_state { CLIENT_OPEN, CLIENT_ENDING, CLIENT_CLOSING };

struct client {
    const struct client_ops *ops;
    struct stats *stats;
    int timeout_ms;
    enum client_state state;
    uv_pipe_t pipe;
    uv_timer_t timer;
    uv_write_t write;
    uv_shutdown_t shutdown;
    int n_handles;
    struct message *batch[CLIENT_BATCH]; /* being written */
    int n_batch;
    size_t unwritten;     /* bytes of it when the timer was last looked at */
    struct message *last; /* to be written before the end */
    char *in;             /* NULL or INPUT_MAX bytes: a request that is not complete */
    size_t in_n;
    bool reading, eof;
    bool hold; /* set by the owner: no further requests until client_resume */
};

/* Takes a waiting connection from the listening stream. 0, or libuv's error, after which the client is closing: `closed`
 * is called in either case. */
int client_accept(struct client *, uv_stream_t *server, const struct client_ops *, struct stats *,
                  int timeout_ms);

/* A message can be given to client_write. */
bool client_ready(const struct client *);

/* Writes up to CLIENT_BATCH messages; takes over their references. Only where client_ready. */
void client_write(struct client *, struct message *const *, int n);

/* Goes on with requests after `hold`. */
void client_resume(struct client *);

/* Writes `last` (taken over; NULL: nothing) behind what is under way, then closes; within a second in any case. */
void client_end(struct client *, struct message *last);

/* The same with a bye that says why. */
void client_refuse(struct client *, const char *why);

void client_close(struct client *); /* at once; idempotent */

/* After the end of what it says, a peer that leaves is noticed by writing to it, or by this: closes then. */
void client_close_if_gone(struct client *);

#endif
