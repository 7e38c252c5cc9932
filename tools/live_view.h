/* Captions for a terminal: committed words in normal type, the tentative tail dimmed behind them, rolling up from the
 * bottom, and a status line below. This is the picture only: what has been heard, laid out for any size at any time.
 * tools/terminal.h puts it on the screen.
 *
 * Widths are those of the terminal's cells (wcwidth), so that Chinese, combining marks and emoji line up. Belongs to
 * one thread. */
#ifndef CAPTIOND_TOOLS_LIVE_VIEW_H
#define CAPTIOND_TOOLS_LIVE_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "daemon/event.h"

#define VIEW_PARAGRAPHS 1024 /* utterances kept; the oldest goes first */
#define VIEW_NAME_MAX   64

struct view_paragraph {
    char *text; /* what is committed, owned; NULL: nothing yet */
    size_t n;
    int stream;
    int64_t utt;
    bool note; /* a remark of ours, such as a gap */
};

struct view_stream {
    char name[VIEW_NAME_MAX], state[16], device[128];
    char message[128]; /* why it does not listen */
    char *partial;     /* tentative tail, owned; NULL: none */
    int64_t partial_utt;
    double level_db, rtf;
    int64_t lag_ms; /* of the last commit; −1: none yet */
    int queue_ms;
    bool here; /* in this session of the daemon */
};

struct live_view {
    struct view_paragraph
        paragraphs[VIEW_PARAGRAPHS]; /* a ring: the i-th is at (first + i) % VIEW_PARAGRAPHS */
    int first, n;
    const char *only; /* the stream whose captions are asked for; NULL: all */
    struct view_stream streams[STREAMS_MAX];
    int n_streams;
    char model[64];
    char notice[128]; /* in place of the status: "captiond has gone, waiting …"; "" : none */
    bool color;
};

/* `only` stays the caller's. */
void live_view_init(struct live_view *, const char *only, bool color);
void live_view_finish(struct live_view *); /* NULL and zeroed objects are accepted */

/* How many streams this session has that are asked for. */
int live_view_streams(const struct live_view *);

/* Takes one event of any type. 0 or -ENOMEM. */
int live_view_event(struct live_view *, const char *type, const json_t *event);

/* Takes a stream's members of a status event or of a reply to `status`. */
void live_view_status(struct live_view *, const json_t *status);

void live_view_notice(struct live_view *, const char *text); /* NULL: none */

/* The picture for a terminal of that size: `rows` lines with ANSI attributes, each at most `columns` cells wide,
 * separated by newlines; the last is the status line. To be freed; NULL where memory is out. */
char *live_view_frame(const struct live_view *, int columns, int rows);

/* All that is committed, as plain lines of at most `columns` cells; for the scrollback when the view ends. To be freed;
 * NULL: no memory. */
char *live_view_transcript(const struct live_view *, int columns);

#endif
