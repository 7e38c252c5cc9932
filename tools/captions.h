/* A client of the captions socket that outlives the daemon: connects, subscribes, gives out one event at a time, and
 * comes back after a restart at the event after the last one it has seen.
 *
 * Never blocks. Whoever uses it polls captions_fd for at most captions_wait_ms and calls captions_next until it says
 * CAPTIONS_NOTHING. Belongs to one thread.
 *
 * A session is one run of the daemon. Within a session no event is given out twice; in a new one everything that it
 * has kept is given out, since nothing of it has been seen. The protocol is described in daemon/protocol.h. */
#ifndef CAPTIOND_TOOLS_CAPTIONS_H
#define CAPTIOND_TOOLS_CAPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "daemon/base/err.h"
#include "daemon/base/socket_path.h"
#include "daemon/protocol.h"
#include "tools/line_socket.h"

struct captions {
    char path[SOCKET_PATH_MAX];
    const char *stream; /* the only one that is wanted, borrowed; NULL: all */
    int64_t from_seq;   /* asked for by the user, for the first connection; −1: from the present on */
    struct line_socket socket;
    bool greeted;                       /* hello has been read on this connection */
    bool ended;                         /* bye has been read: the daemon closes the connection on purpose */
    char session[PROTOCOL_SESSION_MAX]; /* "" until the first hello */
    int64_t seen_seq; /* of this session nothing up to here is wanted again, once reconnected */
    bool resumed;     /* this connection continues an earlier one of the same session */
    int64_t retry_ns; /* when the next attempt is due */
    int delay_ms;     /* between this attempt and the next */
    json_t *event;    /* given out last */
};

struct captions_event {
    const char *line; /* as it came, without newline */
    size_t n;
    const json_t *json; /* the object */
    const char *type;   /* "commit", "hello", … */
};

enum captions_result {
    CAPTIONS_NOTHING, /* until captions_fd is readable or captions_wait_ms have passed */
    CAPTIONS_EVENT,
    CAPTIONS_LOST, /* there is no connection, err says why; said once for each attempt. It will be tried again */
};

/* path and stream as above; neither connects yet. 0 or -ENAMETOOLONG. */
int captions_init(struct captions *, const char *path, const char *stream, int64_t from_seq, struct err *);
void captions_finish(struct captions *); /* NULL and zeroed objects are accepted */

/* One step. The event is valid until the next call. Where trying again is of no use: -EPROTO, what listens there is not a
 * captiond that we understand; another negative errno before any daemon was reached, such as -EACCES. */
int captions_next(struct captions *, struct captions_event *, struct err *);

int captions_fd(const struct captions *);      /* −1 while there is no connection */
int captions_wait_ms(const struct captions *); /* until the next attempt; −1: until there is input */

#endif
