#include "tools/live_status.h"

#include <string.h>

#include "tools/ansi.h"
#include "tools/cells.h"

#define METER_CELLS 12
#define METER_LEAST 6       /* where there are several streams */
#define PLACE_CELLS 14      /* of one of them: that, five of its name, and blanks around and between */
#define METER_LOW   (-60.0) /* dB of an empty meter; a full one is 0 */
#define HELP        "p pauses, q quits"

struct look {
    const char *state, *says, *color;
};

static const struct look looks[] = {
    {"starting", "starting", ANSI_YELLOW},
    {"listening", "listening", ANSI_GREEN},
    {"speech", "hearing", ANSI_GREEN},
    {"silent", "silence", ANSI_YELLOW},
    {"no_device", "no microphone", ANSI_RED},
    {"paused", "paused", ANSI_YELLOW},
    {"ended", "ended", ANSI_DIM},
};

/* NULL before the first status. */
static const struct look *look_of(const struct view_stream *s)
{
    for (size_t i = 0; i < sizeof(looks) / sizeof(looks[0]); i++) {
        if (strcmp(s->state, looks[i].state) == 0)
            return &looks[i];
    }
    return NULL;
}

static bool listens(const struct view_stream *s)
{
    return strcmp(s->state, "listening") == 0 || strcmp(s->state, "speech") == 0;
}

static void put_state(FILE *f, const struct live_view *v, const struct view_stream *s, int *cells)
{
    const struct look *look = look_of(s);
    if (!look)
        return;
    const char *dot = strcmp(s->state, "speech") == 0 ? "●" : "○";
    fprintf(f, "%s%s%s %s", v->color ? look->color : "", dot, v->color ? ANSI_RESET : "", look->says);
    *cells += 2 + cells_text(look->says);
}

static void put_meter(FILE *f, const struct live_view *v, const struct view_stream *s, int width)
{
    static const char *const eighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    double part = (s->level_db - METER_LOW) / -METER_LOW;
    part = part < 0 ? 0 : part > 1 ? 1 : part;
    int filled = (int)(part * width * 8 + 0.5);
    fputs(v->color ? s->level_db > -3 ? ANSI_RED : ANSI_GREEN : "", f);
    for (int i = 0; i < width; i++) {
        int here = filled - 8 * i;
        fputs(here >= 8 ? "█" : here > 0 ? eighths[here] : "·", f);
    }
    fputs(v->color ? ANSI_RESET : "", f);
}

/* The figures at the end: latency, and how far behind the model is where it is. */
static void figures(const struct live_view *v, const struct view_stream *s, char *out, size_t size)
{
    int n = 0;
    out[0] = 0;
    if (listens(s) && s->lag_ms >= 0)
        n = snprintf(out, size, "  latency %.1f s", (double)s->lag_ms / 1000.0);
    if (n >= 0 && (size_t)n < size && s->queue_ms > 2000)
        n += snprintf(out + n, size - (size_t)n, "  %.0f s behind", s->queue_ms / 1000.0);
    if (n >= 0 && (size_t)n < size && v->model[0])
        snprintf(out + n, size - (size_t)n, "  %s", v->model);
}

/* One stream: state, level, device, figures; what does not fit is left out from the end. */
static void put_stream_status(FILE *f, const struct live_view *v, const struct view_stream *s, int columns)
{
    char end[128];
    int cells = 1;
    figures(v, s, end, sizeof(end));
    fputc(' ', f);
    put_state(f, v, s, &cells);
    if (listens(s) && cells + 2 + METER_CELLS <= columns) {
        fputs("  ", f);
        put_meter(f, v, s, METER_CELLS);
        cells += 2 + METER_CELLS;
    }
    int for_end = cells_text(end);
    bool has_more = s->message[0] && strcmp(s->message, s->state) != 0;
    const char *what = !listens(s) && has_more ? s->message : s->device;
    int for_device = columns - cells - for_end - 2;
    if (what[0] && for_device >= 8) {
        fputs("  " ANSI_DIM, f);
        cells += 2 + cells_put(f, what, for_device);
        fputs(ANSI_RESET, f);
    }
    if (cells + for_end <= columns) {
        fputs(end, f);
        cells += for_end;
    }
    int spare = columns - cells - (int)strlen(HELP) - 1;
    if (spare >= 2)
        fprintf(f, "%*s" ANSI_DIM HELP ANSI_RESET, spare, "");
}

/* Several: name and level of each, or why it has none; of more than there is room for, their number. */
static void put_streams_status(FILE *f, const struct live_view *v, int n, int columns)
{
    int most = columns / PLACE_CELLS, shown = n <= most ? n : (columns - 5) / PLACE_CELLS;
    int each = shown > 0 ? (n > shown ? columns - 5 : columns) / shown : 0, left = shown;
    for (int i = 0; i < v->n_streams && left > 0; i++) {
        const struct view_stream *s = &v->streams[i];
        if (!s->here)
            continue;
        int room = each - 3, meter = room - cells_text(s->name);
        meter = meter > METER_CELLS ? METER_CELLS : meter < METER_LEAST ? METER_LEAST : meter;
        fputs(" " ANSI_BOLD, f);
        int cells = 2 + cells_put(f, s->name, room - meter);
        fputs(ANSI_RESET " ", f);
        if (listens(s)) {
            put_meter(f, v, s, meter);
            cells += meter;
        } else {
            const struct look *look = look_of(s);
            cells += cells_put(f, look ? look->says : s->state, each - 1 - cells);
        }
        fprintf(f, "%*s", each - cells, "");
        left--;
    }
    if (n > shown && columns >= 5)
        fprintf(f, "+%d", n - shown);
}

void live_status_put(FILE *f, const struct live_view *v, int columns)
{
    if (v->notice[0]) {
        fputs(v->color ? ANSI_YELLOW : ANSI_BOLD, f);
        cells_put(f, v->notice, columns);
        fputs(ANSI_RESET, f);
        return;
    }
    int n = live_view_streams(v), first = 0;
    while (n == 1 && !v->streams[first].here)
        first++;
    if (n == 1)
        put_stream_status(f, v, &v->streams[first], columns);
    else if (n > 1)
        put_streams_status(f, v, n, columns);
}
