/* Captions on standard output: a reader of the hub whose writes happen on a worker thread, as a terminal or a pipe
 * may block for as long as it likes.
 *
 * text: a sentence or utterance a line, written as soon as it is complete. jsonl: every line that a client would get. When
 * the reader of our output is gone the printer ends quietly. Belongs to the loop. */
#ifndef CAPTIOND_DAEMON_PRINTER_H
#define CAPTIOND_DAEMON_PRINTER_H

#include <stdbool.h>
#include <uv.h>

#include "daemon/hub.h"

#define PRINTER_TEXT_MAX 4096 /* bytes of a line that is not complete; a longer one is broken */

struct printer {
    struct hub *hub;
    uv_loop_t *loop;
    struct reader reader;
    bool text;
    bool gone;  /* nobody reads what we write */
    int failed; /* the errno of another failure, 0 */
    void (*progress)(void *ctx);
    void *ctx;
    struct message *bye; /* the last line, when its turn comes */
    bool ending;         /* text: so do the lines that are not complete */
    bool writing;
    uv_work_t work;
    char *out; /* collects; grows to what one batch needs */
    size_t out_n, out_size;
    char *busy; /* being written by the worker */
    size_t busy_n, busy_size;
    int64_t busy_seq, written_seq; /* `busy`, and what is written, has every event before this one */
    int result;                    /* of the worker: 0 or a negative errno */
    struct {
        size_t n;
        char text[PRINTER_TEXT_MAX];
    } line[STREAMS_MAX]; /* text: the sentence that is not complete, by stream */
};

/* Attaches to the hub. `progress` is called on the loop whenever output was taken, or is gone. */
void printer_init(struct printer *, uv_loop_t *, struct hub *, bool text, void (*progress)(void *ctx),
                  void *ctx);

/* After everything that has been published come the lines that are not complete, or for jsonl a bye. Does nothing where nothing
 * was begun. */
void printer_end(struct printer *, const char *reason, const char *message);

/* Says in the log what is lost, where the process ends though nobody has taken what is being written. */
void printer_give_up(const struct printer *);

void printer_finish(struct printer *); /* NULL and zeroed objects are accepted; no write may be under way */

/* It is so far behind that a source that can wait should. */
bool printer_full(const struct printer *);

#endif
