/* Runs the real captiond for the system tests, in a folder of its own, and talks to it.
 *
 * The program is $CAPTIOND_BIN, else build…/captiond beside the tests. Failures fail the running test. Timeouts are
 * generous, since nothing here measures speed; a sanitizer build gets ten times as much. */
#ifndef CAPTIOND_TESTS_DAEMON_H
#define CAPTIOND_TESTS_DAEMON_H

#include <stdbool.h>
#include <sys/types.h>

#include "tests/support/support.h"

#define DAEMON_ARGS_MAX 48

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DAEMON_SLOWNESS 10
#else
#define DAEMON_SLOWNESS 1
#endif
#define DAEMON_TIMEOUT_MS (20000 * DAEMON_SLOWNESS)

struct daemon {
    pid_t pid;                        /* 0: does not run */
    char dir[64];                     /* its folder, removed at the end */
    char captions[100], control[100]; /* the sockets' paths */
    char config[100], log[100];
    bool no_config; /* it is to look for its file itself */
    int in, out;    /* our ends of its standard input and output */
};

/* Makes the folder, with an empty configuration file. */
void daemon_init(struct daemon *);

/* Kills what runs and removes the folder. */
void daemon_finish(struct daemon *);

/* Starts it with `--config … --socket …` and these arguments, NULL ended. Does not wait. */
void daemon_start(struct daemon *, const char *const *args);

/* The same without a socket argument and with environment variables "NAME=VALUE" (NULL ended) set. `fds` are passed as
 * descriptors 3 and on; LISTEN_PID is set where there are any. */
void daemon_exec(struct daemon *, const char *const *args, const char *const *env, const int *fds, int n_fds);

/* The program's path, in static storage. */
const char *daemon_program(void);

/* Waits for the end. Returns the exit status, or 128 + signal. */
int daemon_wait(struct daemon *);
int daemon_stop(struct daemon *, int signum); /* sends the signal and waits */

/* Standard error so far, in static storage. */
const char *daemon_log(struct daemon *);
/* Waits until the log has `text`. */
void daemon_wait_log(struct daemon *, const char *text);

/* Starts it with the model, an idle pipe as its input, and the given arguments besides; waits until it is ready. Skips the
 * test where there is no model. */
void daemon_start_idle(struct daemon *, const char *const *args);

/* Connects, retrying until somebody listens. */
int daemon_connect(const char *path);

/* Lines from a descriptor. */
struct lines {
    int fd;
    size_t n, used;
    char buf[300 * 1024];
};
void lines_init(struct lines *, int fd);

/* The next line without newline, valid until the next call; NULL at the end of the input. Fails the test after
 * timeout_ms; with 0 it returns NULL instead where none is there. */
char *lines_next(struct lines *, int timeout_ms);

/* The next line whose "type" is `type`; others are skipped. */
char *lines_await(struct lines *, const char *type);

/* Integer and string members of a JSON line, by jansson; −1 and "" where they are missing. Static storage. */
long long line_int(const char *line, const char *key);
const char *line_string(const char *line, const char *key);
bool line_is(const char *line, const char *type);

void send_all(int fd, const char *text);

#endif
