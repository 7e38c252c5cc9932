/* The wire format: JSON Lines, UTF-8, one object a line, both ways. Pure: no sockets, no state.
 *
 * The captions socket tells what is heard. Every connection begins with
 *   {"type":"hello","v":1,"session":"…","seq":41,"oldest_seq":3,"t0_unix_ms":…,"model":"tiny.en","policy":"la2",…}
 * followed by events: speech_start, partial, commit, final, gap, status. A status has the t0_unix_ms of its stream, by the
 * newest sound, and is told anew when that moves; hello's is what it began with. Besides there are
 *   {"type":"missed","from_seq":3,"to_seq":17}   these events are no longer in the history
 *   {"type":"error","cmd":"…","message":"…"}     about the client's last request; cmd: unless it is not known
 *   {"type":"bye","reason":"shutdown|end|error","message":"…"}   the last line of a connection
 * Events but partials carry `seq`, which grows by one and begins at 1 in each session (a run of the daemon). A partial is
 * the tail behind all commits before it and holds until the stream's next partial, commit or final.
 *
 * A client that says nothing within a quarter of a second of connecting gets what describes the present (each stream's latest
 * status, the events of utterances that are still open) and from then on everything. One that subscribes by then
 * gets just what it asks for, without a doubled event.
 *
 * Requests on the captions socket:
 *   {"cmd":"subscribe","from_seq":44,"session":"…","types":["commit","final"],"streams":["mic"]}
 * Every field but cmd may be left out. from_seq replays the history from there on; if `session` is given and is not
 * this one, or it is not given and from_seq is beyond the next seq, the whole history is sent, as from_seq means nothing here.
 *
 * Requests on the control socket: status, flush, pause, resume (both take "streams"), devices, and
 *   {"cmd":"set","key":"language","value":"de"}
 * which changes a setting until the daemon ends or rereads its file; without key and value it changes nothing. The reply has
 * "settings":{"language":"de",…}, all that can be set, as they are then. Each request is answered by one {"type":"reply","cmd":"…",…} or {"type":"error","cmd":"…","message":"…"}. */
#ifndef CAPTIOND_DAEMON_PROTOCOL_H
#define CAPTIOND_DAEMON_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/err.h"
#include "daemon/event.h"

#define PROTOCOL_VERSION     1
#define PROTOCOL_REQUEST_MAX 4096        /* bytes of a request, newline included */
#define PROTOCOL_TEXT_MAX    (16 * 1024) /* bytes of an utterance's text in `final`: some 15 minutes of speech */
#define PROTOCOL_LINE_MAX    (256 * 1024) /* any line the daemon writes, escapes included */
#define PROTOCOL_NAME_MAX    64           /* bytes of a setting's name, and NUL */
#define PROTOCOL_VALUE_MAX   (2 * 1024)   /* bytes of a setting's value, and NUL */
#define PROTOCOL_SESSION_MAX 33           /* characters of a session's name, and NUL */

/* Writes the event's line (with newline) into buf and returns its length; 0 if it does not fit, which
 * PROTOCOL_LINE_MAX rules out. seq 0: none. The utterance's whole text is for
 * EVENT_FINAL alone. */
struct protocol_text {
    const char *text;
    size_t n;
    bool cut; /* it was longer */
};
size_t protocol_write_event(char *buf, size_t size, const struct event *, int64_t seq,
                            const char *stream_name, struct protocol_text utterance);

struct protocol_hello {
    const char *session, *model, *engine;
    int64_t seq, oldest_seq; /* newest and oldest event; oldest is seq + 1 where there is none */
    int64_t t0_unix_ms;      /* when the audio clocks began */
    const char *const *streams;
    int n_streams;
};

size_t protocol_write_hello(char *buf, size_t size, const struct protocol_hello *);
size_t protocol_write_missed(char *buf, size_t size, int64_t from_seq, int64_t to_seq);
size_t protocol_write_error(char *buf, size_t size, const char *cmd,
                            const char *message); /* cmd may be NULL */
size_t protocol_write_bye(char *buf, size_t size, const char *reason, const char *message);

const char *protocol_state_name(enum stream_state);
const char *protocol_cause_name(enum gap_cause);

enum request_cmd {
    REQUEST_UNKNOWN, /* of none that was parsed */
    REQUEST_SUBSCRIBE,
    REQUEST_STATUS,
    REQUEST_FLUSH,
    REQUEST_PAUSE,
    REQUEST_RESUME,
    REQUEST_DEVICES,
    REQUEST_SET,
};

struct request {
    enum request_cmd cmd;
    int64_t from_seq; /* −1: not given */
    char session[PROTOCOL_SESSION_MAX];
    char key[PROTOCOL_NAME_MAX], value[PROTOCOL_VALUE_MAX]; /* an empty key: neither is given */
    unsigned types;   /* bit t: MESSAGE type t is wanted; all unless given */
    unsigned streams; /* bit i: stream i is meant; all unless given */
};

const char *protocol_cmd_name(enum request_cmd); /* NULL for REQUEST_UNKNOWN */

/* Parses one request of n bytes (newline excluded). 0; -EINVAL where the line is no JSON object; -ENOTSUP where the
 * object is no request we know, names what is not there, or holds a wrong type. On failure only `cmd` is set, for the answer. */
int protocol_parse_request(const char *line, size_t n, const char *const *streams, int n_streams,
                           struct request *, struct err *);

#endif
