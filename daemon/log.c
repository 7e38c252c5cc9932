#include "daemon/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024
_Static_assert(2 * LINE_MAX_BYTES <= PIPE_BUF, "a line and what is said before it must be one write");

static _Atomic int level = LOG_LEVEL_INFO;
static bool journald;
static int out = STDERR_FILENO;

/* Held for no longer than a write that does not block. */
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;
static unsigned n_lost; /* under `writing`: lines for which there was no room, since the last that had some */

static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    uintmax_t device, inode;
    struct stat st;
    return stream && sscanf(stream, "%ju:%ju", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
           st.st_dev == (dev_t)device && st.st_ino == (ino_t)inode;
}

/* A terminal that is ready may have room for less than a line: opened anew, it can be told not to block, without that being so for
 * the shell and whoever else has it. */
static int open_terminal(void)
{
    return isatty(STDERR_FILENO) ? open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
}

void log_init(enum log_level l)
{
    int terminal = open_terminal();
    if (terminal >= 0)
        out = terminal;
    journald = stderr_is_journal();
    log_set_level(l);
}

void log_set_level(enum log_level l)
{
    atomic_store_explicit(&level, (int)l, memory_order_relaxed);
}

/* With the newline. Returns the length, less than LINE_MAX_BYTES. */
static int format_line(char *line, enum log_level l, const char *fmt, va_list ap)
{
    static const struct {
        const char *journald, *terminal;
    } prefix[] = {
        [LOG_LEVEL_ERROR] = {"<3>", "captiond: error: "},
        [LOG_LEVEL_WARNING] = {"<4>", "captiond: warning: "},
        [LOG_LEVEL_INFO] = {"<6>", "captiond: "},
    };
    int n = snprintf(line, LINE_MAX_BYTES, "%s", journald ? prefix[l].journald : prefix[l].terminal);
    int m = vsnprintf(line + n, LINE_MAX_BYTES - 1 - (size_t)n, fmt, ap);
    n += m < 0 ? 0 : m;
    if (n > LINE_MAX_BYTES - 2)
        n = LINE_MAX_BYTES - 2;
    /* A newline from a device's name or a library would start a line without a priority. */
    for (int i = 0; i < n; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[n++] = '\n';
    return n;
}

static int format_warning(char *line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = format_line(line, LOG_LEVEL_WARNING, fmt, ap);
    va_end(ap);
    return n;
}

/* Nobody waits for who reads standard error, be it a pipe into a program that sleeps: captions and a stop would wait as well. A
 * pipe that is ready has room for PIPE_BUF bytes. What finds no room is counted, and told before the next line that does. */
static void put_line(const char *line, int n)
{
    char text[2 * LINE_MAX_BYTES];
    struct pollfd ready = {.fd = out, .events = POLLOUT};
    pthread_mutex_lock(&writing);
    int used = n_lost
                   ? format_warning(text, "%u lines of the log are lost: standard error was not read", n_lost)
                   : 0;
    memcpy(text + used, line, (size_t)n);
    ssize_t r = poll(&ready, 1, 0) == 0 ? 0 : write(out, text, (size_t)used + (size_t)n);
    bool room =
        r < 0 ? errno != EAGAIN : r == used + n; /* after another error there is nowhere left to say it */
    n_lost = room ? 0 : n_lost + 1;
    pthread_mutex_unlock(&writing);
}

static void write_line(enum log_level l, const char *fmt, va_list ap)
{
    char line[LINE_MAX_BYTES];
    if ((int)l <= atomic_load_explicit(&level, memory_order_relaxed))
        put_line(line, format_line(line, l, fmt, ap));
}

#define DEFINE_LOG(name, LEVEL)                                                                              \
    void name(const char *fmt, ...)                                                                          \
    {                                                                                                        \
        va_list ap;                                                                                          \
        va_start(ap, fmt);                                                                                   \
        write_line(LEVEL, fmt, ap);                                                                          \
        va_end(ap);                                                                                          \
    }

DEFINE_LOG(log_error, LOG_LEVEL_ERROR)
DEFINE_LOG(log_warning, LOG_LEVEL_WARNING)
DEFINE_LOG(log_info, LOG_LEVEL_INFO)
