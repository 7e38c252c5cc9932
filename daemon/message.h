/* One line for the clients: written once, shared by all of them, freed when the last one has sent it.
 *
 * Belongs to the loop's thread; immutable after message_create. */
#ifndef CAPTIOND_DAEMON_MESSAGE_H
#define CAPTIOND_DAEMON_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/base/err.h"

#define MESSAGE_ERR_MAX                                                                                      \
    (6 * ERR_MSG_MAX + 256) /* bytes of a line that tells an error: a control character takes six */

enum message_type {
    MESSAGE_SPEECH_START, /* the first six follow enum event_type */
    MESSAGE_PARTIAL,
    MESSAGE_COMMIT,
    MESSAGE_FINAL,
    MESSAGE_GAP,
    MESSAGE_STATUS,
    MESSAGE_OTHER, /* hello, missed, error, bye, replies: for one client alone */
};

struct message {
    int refs;
    enum message_type type;
    int stream;  /* index of the input; −1 for MESSAGE_OTHER */
    int64_t seq; /* 0: cannot be replayed */
    int64_t utt;
    int rev;     /* MESSAGE_PARTIAL */
    size_t size; /* bytes of data, newline included */
    char data[]; /* and a NUL */
};

/* A copy of `size` bytes with one reference, owned by the caller. The other fields are zero and for the caller to set.
 * NULL: no memory. */
struct message *message_create(enum message_type, const char *data, size_t size);

/* The last line of a connection, of any text that fits into struct err. NULL: no memory. */
struct message *message_bye(const char *reason, const char *text);

struct message *message_ref(struct message *);
void message_unref(struct message *); /* NULL is accepted */

#endif
