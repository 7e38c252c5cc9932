#include "tools/terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

/* Alternate screen, no cursor, no wrapping at the right margin. The picture is cut to the screen's width by us; with
 * wrapping off, a terminal whose widths differ from ours merely cuts a line. */
#define ENTER "\033[?1049h\033[?25l\033[?7l\033[2J"
#define LEAVE "\033[0m\033[?7h\033[?25h\033[?1049l"

#define SEQUENCE_MS 20 /* between the bytes that a key sends */

static struct {
    bool entered;
    struct termios before;
    sigset_t mask_before;
    int signals; /* signalfd */
} term = {.signals = -1};

static int write_all(const char *s, size_t n)
{
    while (n > 0) {
        ssize_t done = write(STDOUT_FILENO, s, n);
        if (done < 0 && errno == EAGAIN) {
            struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
            poll(&out, 1, -1);
        } else if (done < 0 && errno != EINTR) {
            return -errno;
        } else if (done > 0) {
            s += done;
            n -= (size_t)done;
        }
    }
    return 0;
}

static int take_screen(void)
{
    struct termios raw = term.before;
    /* Without ISIG Ctrl-C is a key of ours, and no signal to make or a script that has started us. */
    raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON | ISIG | IEXTEN);
    raw.c_iflag &= ~(tcflag_t)IXON; /* Ctrl-S would hold the picture, and us with it */
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw) < 0)
        return -errno;
    return write_all(ENTER, sizeof(ENTER) - 1);
}

static void release_screen(void)
{
    write_all(LEAVE, sizeof(LEAVE) - 1);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &term.before);
}

int terminal_enter(struct err *err)
{
    static bool registered;
    if (tcgetattr(STDIN_FILENO, &term.before) < 0)
        return err_set(err, -errno, "standard input is not a terminal");
    sigset_t mask;
    sigemptyset(&mask);
    static const int handled[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP};
    for (size_t i = 0; i < sizeof(handled) / sizeof(handled[0]); i++)
        sigaddset(&mask, handled[i]);
    term.signals = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
    if (term.signals < 0)
        return err_set(err, -errno, "signalfd: %s", strerror(errno));
    sigprocmask(SIG_BLOCK, &mask, &term.mask_before);
    if (!registered)
        registered = atexit(terminal_leave) == 0;
    term.entered = true;
    int r = take_screen();
    if (r < 0) {
        terminal_leave();
        return err_set(err, r, "terminal: %s", strerror(-r));
    }
    return 0;
}

void terminal_leave(void)
{
    if (!term.entered)
        return;
    term.entered = false;
    release_screen();
    close(term.signals);
    term.signals = -1;
    sigprocmask(SIG_SETMASK, &term.mask_before, NULL);
}

void terminal_fds(int fds[2])
{
    fds[0] = STDIN_FILENO;
    fds[1] = term.signals;
}

/* Ctrl-Z: the shell gets its screen, and we stop, with all that the shell has started with us, until it lets us go on.
 * Where no shell waits the kernel takes no notice of SIGTSTP, so that nobody stops whom nothing would wake. */
static void suspend(void)
{
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTSTP);
    release_screen();
    kill(0, SIGTSTP);
    sigprocmask(SIG_UNBLOCK, &stop, NULL); /* here we stop */
    sigprocmask(SIG_BLOCK, &stop, NULL);
    take_screen();
}

/* A function key or Alt with a letter is Escape and more, and must not be taken for the letter. */
static void forget_sequence(void)
{
    char rest[64];
    struct pollfd keys = {.fd = STDIN_FILENO, .events = POLLIN};
    while (poll(&keys, 1, SEQUENCE_MS) > 0 && read(STDIN_FILENO, rest, sizeof(rest)) > 0)
        ;
}

static enum terminal_event on_signal(int signal)
{
    switch (signal) {
    case SIGTSTP:
        suspend();
        return TERMINAL_REPAINT;
    case SIGWINCH:
        return TERMINAL_REPAINT;
    default:
        return TERMINAL_QUIT;
    }
}

enum terminal_event terminal_event(void)
{
    struct signalfd_siginfo info;
    if (read(term.signals, &info, sizeof(info)) == sizeof(info))
        return on_signal((int)info.ssi_signo);
    struct pollfd keys = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&keys, 1, 0) <= 0)
        return TERMINAL_NOTHING;
    char key;
    ssize_t n = read(STDIN_FILENO, &key, 1);
    if (n <= 0)
        return TERMINAL_QUIT; /* it has gone */
    switch (key) {
    case 'q':
    case 'Q':
    case 3: /* Ctrl-C */
    case 4: /* Ctrl-D */
        return TERMINAL_QUIT;
    case 26: /* Ctrl-Z */
        suspend();
        return TERMINAL_REPAINT;
    case 'p':
    case 'P':
    case ' ':
        return TERMINAL_PAUSE;
    case 12: /* Ctrl-L */
        return TERMINAL_REPAINT;
    case 27: /* Escape */
        forget_sequence();
        return terminal_event();
    default:
        return terminal_event(); /* keys that mean nothing are read and forgotten */
    }
}

void terminal_size(int *columns, int *rows)
{
    struct winsize size;
    *columns = 80;
    *rows = 24;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col && size.ws_row) {
        *columns = size.ws_col;
        *rows = size.ws_row;
    }
}

int terminal_paint(const char *frame)
{
    char *out = NULL;
    size_t n;
    FILE *f = open_memstream(&out, &n);
    if (!f)
        return -ENOMEM;
    fputs("\033[?2026h", f); /* show it only when it is complete, where the terminal knows this */
    for (int row = 1; frame; row++) {
        const char *end = strchr(frame, '\n');
        size_t length = end ? (size_t)(end - frame) : strlen(frame);
        fprintf(f, "\033[%d;1H\033[K%.*s\033[0m", row, (int)length, frame);
        frame = end ? end + 1 : NULL;
    }
    fputs("\033[?2026l", f);
    int r = fclose(f) == 0 ? write_all(out, n) : -ENOMEM;
    free(out);
    return r;
}
