/* How far a recording is, as a line on the terminal behind standard error: nothing where that is no terminal. Main
 * thread. */
#ifndef CAPTIOND_TOOLS_PROGRESS_H
#define CAPTIOND_TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

struct progress {
    bool on, shown;
    const char *name; /* of the recording */
    int index, n;     /* its place among several, from 1 */
    int64_t begun_ns, drawn_ns;
    int64_t done, total; /* samples */
};

/* Notes whether there is a terminal. */
void progress_init(struct progress *, bool quiet);

/* A recording begins. */
void progress_begin(struct progress *, const char *name, int index, int n);

/* Shows that `done` of `total` samples are transcribed, at most ten times a second. */
void progress_show(struct progress *, int64_t done, int64_t total);

/* Takes the line away before something else is written; shows it again after. */
void progress_clear(struct progress *);
void progress_restore(struct progress *);

/* Columns of the terminal behind standard error, 80 where it does not tell. */
int progress_columns(void);

/* The line itself, for a terminal of so many columns: its name, a bar, the part done, the time that is left. seconds:
 * since the recording began. */
void progress_line(const struct progress *, double seconds, int columns, char *line, size_t size);

#endif
