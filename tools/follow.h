/* `captionctl follow`: events from the captions socket to standard output or onto the terminal until the user, the
 * reader of our output or the daemon's captions come to an end. */
#ifndef CAPTIOND_TOOLS_FOLLOW_H
#define CAPTIOND_TOOLS_FOLLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/err.h"

enum follow_format { FOLLOW_TEXT, FOLLOW_STREAM, FOLLOW_JSONL, FOLLOW_LIVE };

struct follow_options {
    const char *captions; /* socket */
    const char *control;  /* socket; "": none. The live view asks it for the level several times a second */
    const char *stream;   /* the only one that is wanted; NULL: all */
    enum follow_format format;
    int64_t from_seq; /* −1: from the present on */
    bool reconnect;
};

/* 0 when the captions have ended (the daemon has told so by `bye`, reason end), when nobody reads our output any more
 * and when the user quits; -ENOTCONN when the connection is lost or cannot be made, and should not be tried again;
 * another negative errno. */
int follow(const struct follow_options *, struct err *);

#endif
