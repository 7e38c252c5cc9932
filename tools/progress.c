#include "tools/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "daemon/base/utf8.h"
#include "tools/cells.h"

#define REDRAW_NS  100000000 /* 100 ms */
#define COLUMNS    80        /* where the terminal does not tell */
#define BAR_MOST   30
#define PERCENT    5 /* characters of "  0 %" */
#define NARROW     30
#define NAME_MOST  40
#define NAME_BYTES 256 /* no more of a name is ever shown */

void progress_init(struct progress *p, bool quiet)
{
    *p = (struct progress){.on = !quiet && isatty(STDERR_FILENO)};
}

void progress_begin(struct progress *p, const char *name, int index, int n)
{
    p->name = name;
    p->index = index;
    p->n = n;
    p->begun_ns = clock_now_ns();
    p->drawn_ns = 0;
    p->done = p->total = 0;
    progress_restore(p);
}

static void format_duration(double seconds, char *text, size_t size)
{
    int64_t s = (int64_t)(seconds + 0.5);
    if (s >= 3600)
        snprintf(text, size, "%d:%02d:%02d", (int)(s / 3600), (int)(s / 60 % 60), (int)(s % 60));
    else
        snprintf(text, size, "%d:%02d", (int)(s / 60), (int)(s % 60));
}

/* "  42 %  0:12 left", or nothing yet. */
static void format_tail(const struct progress *p, double seconds, char *text, size_t size)
{
    char left[32];
    if (p->total <= 0 || p->done <= 0) {
        snprintf(text, size, "  0 %%");
        return;
    }
    double part = (double)p->done / (double)p->total;
    format_duration(seconds * (1.0 - part) / part, left, sizeof(left));
    snprintf(text, size, "%3d %%  %s left", (int)(100.0 * part), left);
}

void progress_line(const struct progress *p, double seconds, int columns, char *line, size_t size)
{
    char tail[64], place[32] = "";
    format_tail(p, seconds, tail, sizeof(tail));
    if (columns < NARROW)
        tail[PERCENT] = '\0';
    if (p->n > 1)
        snprintf(place, sizeof(place), "%d/%d ", p->index, p->n);
    const char *slash = strrchr(p->name, '/'), *last = slash ? slash + 1 : p->name;
    char name[NAME_BYTES];
    snprintf(name, sizeof(name), "%s", strcmp(p->name, "-") == 0 ? "standard input" : last);
    utf8_make_printable(name);
    int room = columns - 1 - (int)strlen(place) - (int)strlen(tail) - 2;
    int name_most = room / 2 < NAME_MOST ? room / 2 : NAME_MOST;
    FILE *out = fmemopen(line, size, "w");
    if (!out) {
        line[0] = '\0';
        return;
    }
    fputs(place, out);
    int used = name_most > 3 ? cells_put(out, name, name_most) : 0;
    int bar = room - used - 4 < BAR_MOST ? room - used - 4 : BAR_MOST;
    int filled = p->total > 0 ? (int)((double)bar * (double)p->done / (double)p->total) : 0;
    if (bar >= 5) {
        fputs("  [", out);
        for (int i = 0; i < bar; i++)
            putc(i < filled ? '=' : i == filled ? '>' : ' ', out);
        putc(']', out);
    }
    fprintf(out, " %s", tail);
    fclose(out);
    line[size - 1] = '\0';
}

int progress_columns(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : COLUMNS;
}

void progress_restore(struct progress *p)
{
    char line[1024];
    if (!p->on)
        return;
    p->drawn_ns = clock_now_ns();
    progress_line(p, (double)(p->drawn_ns - p->begun_ns) * 1e-9, progress_columns(), line, sizeof(line));
    fprintf(stderr, "\r\033[K%s", line);
    p->shown = true;
}

void progress_show(struct progress *p, int64_t done, int64_t total)
{
    p->done = done;
    p->total = total;
    if (p->on && clock_now_ns() - p->drawn_ns >= REDRAW_NS)
        progress_restore(p);
}

void progress_clear(struct progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    p->shown = false;
}
