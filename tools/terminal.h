/* The terminal while a picture fills it: its alternate screen, without echo and line editing, put back as it was
 * whatever ends the program but SIGKILL. One at a time. Belongs to the main thread. */
#ifndef CAPTIOND_TOOLS_TERMINAL_H
#define CAPTIOND_TOOLS_TERMINAL_H

#include "daemon/base/err.h"

/* What has happened, for terminal_event. */
enum terminal_event {
    TERMINAL_NOTHING,
    TERMINAL_QUIT,    /* Ctrl-C, q, SIGTERM, SIGHUP, or the terminal has gone */
    TERMINAL_PAUSE,   /* p */
    TERMINAL_REPAINT, /* another size, Ctrl-L, or back from Ctrl-Z */
};

/* Takes the terminal on standard input and output over. 0, or a negative errno. */
int terminal_enter(struct err *);

/* Gives it back. Does nothing where it has not been entered. */
void terminal_leave(void);

/* Two descriptors to poll for input: keys and signals. Then terminal_event until TERMINAL_NOTHING. Ctrl-Z is done in
 * there. */
void terminal_fds(int fds[2]);
enum terminal_event terminal_event(void);

void terminal_size(int *columns, int *rows);

/* Puts a picture of lines separated by newlines on the screen, from the top, in one write. 0 or a negative errno. */
int terminal_paint(const char *frame);

#endif
