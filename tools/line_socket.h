/* A connection to a Unix socket that speaks in lines, without ever blocking: for the clients of captiond.
 *
 * Belongs to one thread. Whoever uses it polls `fd` for input and calls line_socket_read. */
#ifndef CAPTIOND_TOOLS_LINE_SOCKET_H
#define CAPTIOND_TOOLS_LINE_SOCKET_H

#include <stddef.h>

#include <jansson.h>

#include "daemon/base/err.h"

struct line_socket {
    int fd; /* −1: not connected */
    char *buf;
    size_t size, begin, end; /* buf[begin … end) has been received and not been given out */
    size_t searched;         /* of it there is no newline in the first so many bytes */
    size_t line_max;
};

/* Nothing is connected or allocated yet. Lines longer than line_max bytes are an error. */
void line_socket_init(struct line_socket *, size_t line_max);
void line_socket_finish(struct line_socket *); /* NULL, zeroed and closed ones are accepted */

/* Connects; what an earlier connection left unread is dropped. 0, or a negative errno with a message. */
int line_socket_connect(struct line_socket *, const char *path, struct err *);
void line_socket_close(struct line_socket *);

/* The next line, without its newline but NUL-terminated, valid until the next call. 1; 0 where none is complete
 * yet; -EPIPE at the end of the connection (an unfinished line is dropped); -EMSGSIZE; another negative errno. */
int line_socket_read(struct line_socket *, char **line, size_t *n, struct err *);

/* Sends a request whole (it fits the kernel's buffer) or fails, and in any case takes it over. `what` names the part of it that
 * its user has given, for the error where that makes it too long or (NULL, as json_pack returns) is no valid UTF-8. 0 or a
 * negative errno. */
int line_socket_send(struct line_socket *, json_t *request, const char *what, struct err *);

#endif
