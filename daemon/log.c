#include "daemon/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

static _Atomic int level = LOG_LEVEL_INFO;
static bool journald;

static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    uintmax_t device, inode;
    struct stat st;
    return stream && sscanf(stream, "%ju:%ju", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
           st.st_dev == (dev_t)device && st.st_ino == (ino_t)inode;
}

void log_init(enum log_level l)
{
    journald = stderr_is_journal();
    log_set_level(l);
}

void log_set_level(enum log_level l)
{
    atomic_store_explicit(&level, (int)l, memory_order_relaxed);
}

static void write_line(enum log_level l, const char *fmt, va_list ap)
{
    static const struct {
        const char *journald, *terminal;
    } prefix[] = {
        [LOG_LEVEL_ERROR] = {"<3>", "captiond: error: "},
        [LOG_LEVEL_WARNING] = {"<4>", "captiond: warning: "},
        [LOG_LEVEL_INFO] = {"<6>", "captiond: "},
    };
    if ((int)l > atomic_load_explicit(&level, memory_order_relaxed))
        return;
    char line[LINE_MAX_BYTES];
    int n = snprintf(line, sizeof(line), "%s", journald ? prefix[l].journald : prefix[l].terminal);
    int m = vsnprintf(line + n, sizeof(line) - 1 - (size_t)n, fmt, ap);
    n += m < 0 ? 0 : m;
    if (n > LINE_MAX_BYTES - 2)
        n = LINE_MAX_BYTES - 2;
    /* A newline from a device's name or a library would start a line without a priority. */
    for (int i = 0; i < n; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        return; /* there is nowhere left to say it */
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
