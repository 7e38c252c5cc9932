/* A listening Unix socket: made by us, or handed over by systemd.
 *
 * A path is taken only if nobody lives there: a socket that still answers is another daemon's, one that refuses is left
 * over from a crash and is replaced. The folder is locked meanwhile, so that two daemons starting together cannot
 * both find the same leftover. Belongs to the loop. */
#ifndef CAPTIOND_DAEMON_LISTENER_H
#define CAPTIOND_DAEMON_LISTENER_H

#include <stdbool.h>
#include <sys/types.h>
#include <uv.h>

#include "daemon/base/err.h"
#include "daemon/base/socket_path.h"

typedef void (*listener_accept_fn)(void *ctx, uv_stream_t *server); /* must take the connection */

struct listener {
    int fd;    /* bound and listening, not yet accepting; −1 once the handle has it, or if there is none */
    bool open; /* the handle is in use */
    uv_pipe_t pipe;
    listener_accept_fn accept;
    void *ctx;
    char path[SOCKET_PATH_MAX]; /* made by us, to be removed; "" if not */
    dev_t device;               /* of the socket's inode: someone else's at the same path stays */
    ino_t inode;
};

/* Binds and listens at `path` with the permissions `mode`; makes its folder where only that is missing (0700 for users,
 * 0755 under /run). Connections wait in the kernel until listener_start. 0; -EADDRINUSE when a daemon lives there or
 * something else than a socket is in the way; -ENAMETOOLONG; the errno of the system. */
int listener_bind(struct listener *, const char *path, int mode, struct err *);

/* Takes a listening Unix socket from systemd. 0, or -EINVAL for anything else. */
int listener_adopt(struct listener *, int fd, struct err *);

/* Begins to accept. Does nothing where there is no socket. */
int listener_start(struct listener *, uv_loop_t *, listener_accept_fn, void *ctx, struct err *);

/* Stops accepting and removes the path. Works on listeners that were only initialised, and twice. */
void listener_close(struct listener *);

void listener_init(struct listener *);

#endif
