/* An error with its cause, filled in where the cause is known and reported once, at the edge.
 *
 * Functions return 0 (or a count) on success and a negative errno on failure, and describe the failure in
 * the caller's struct err. The message says what failed, where, and where it helps what to do about it; it
 * has no trailing period or newline. Any thread; the object belongs to its caller. */
#ifndef CAPTIOND_BASE_ERR_H
#define CAPTIOND_BASE_ERR_H

#define ERR_MSG_MAX 512

struct err {
    int code; /* negative errno, 0 if no error has been recorded */
    char msg[ERR_MSG_MAX];
};

/* Records an error and returns its code, so that a failing path reads `return err_set(err, -EINVAL, …)`.
 * `err` may be NULL. A message too long for the buffer is cut. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of the recorded message, for callers that know the file or the key. `err` may be NULL. */
void err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
