#include "tools/live_status.h"

#include <string.h>

#include "tools/ansi.h"
#include "tools/cells.h"

#define METER_CELLS 12
#define METER_LOW   (-60.0) /* dB of an empty meter; a full one is 0 */
#define HELP        "p pauses, q quits"

static const struct {
    const char *state, *says, *color;
} states[] = {
    {"starting", "starting", ANSI_YELLOW},
    {"listening", "listening", ANSI_GREEN},
    {"speech", "hearing", ANSI_GREEN},
    {"silent", "silence", ANSI_YELLOW},
    {"no_device", "no microphone", ANSI_RED},
    {"paused", "paused", ANSI_YELLOW},
    {"ended", "ended", ANSI_DIM},
};

static void put_state(FILE *f, const struct live_view *v, const struct view_stream *s, int *cells)
{
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        if (strcmp(s->state, states[i].state) != 0)
            continue;
        const char *dot = strcmp(s->state, "speech") == 0 ? "●" : "○";
        fprintf(f, "%s%s%s %s", v->color ? states[i].color : "", dot, v->color ? ANSI_RESET : "",
                states[i].says);
        *cells += 2 + cells_text(states[i].says);
    }
}

static void put_meter(FILE *f, const struct live_view *v, const struct view_stream *s)
{
    static const char *const eighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    double part = (s->level_db - METER_LOW) / -METER_LOW;
    part = part < 0 ? 0 : part > 1 ? 1 : part;
    int filled = (int)(part * METER_CELLS * 8 + 0.5);
    fputs(v->color ? s->level_db > -3 ? ANSI_RED : ANSI_GREEN : "", f);
    for (int i = 0; i < METER_CELLS; i++) {
        int here = filled - 8 * i;
        fputs(here >= 8 ? "█" : here > 0 ? eighths[here] : "·", f);
    }
    fputs(v->color ? ANSI_RESET : "", f);
}

/* The figures at the end: latency, and how far behind the model is where it is. */
static void figures(const struct live_view *v, const struct view_stream *s, bool listens, char *out,
                    size_t size)
{
    int n = 0;
    out[0] = 0;
    if (listens && s->lag_ms >= 0)
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
    bool listens = strcmp(s->state, "listening") == 0 || strcmp(s->state, "speech") == 0;
    figures(v, s, listens, end, sizeof(end));
    fputc(' ', f);
    put_state(f, v, s, &cells);
    if (listens && cells + 2 + METER_CELLS <= columns) {
        fputs("  ", f);
        put_meter(f, v, s);
        cells += 2 + METER_CELLS;
    }
    int for_end = cells_text(end);
    bool has_more = s->message[0] && strcmp(s->message, s->state) != 0;
    const char *what = !listens && has_more ? s->message : s->device;
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

static void put_streams_status(FILE *f, const struct live_view *v, int columns)
{
    int each = columns / v->n_streams;
    for (int i = 0; i < v->n_streams; i++) {
        const struct view_stream *s = &v->streams[i];
        int cells = 1 + cells_text(s->name) + 1;
        if (cells + METER_CELLS + 4 > each)
            break;
        fprintf(f, " " ANSI_BOLD "%s" ANSI_RESET " ", s->name);
        if (strcmp(s->state, "listening") == 0 || strcmp(s->state, "speech") == 0) {
            put_meter(f, v, s);
            cells += METER_CELLS;
        } else {
            cells += cells_put(f, s->state, METER_CELLS);
        }
        fprintf(f, "%*s", each - cells, "");
    }
}

void live_status_put(FILE *f, const struct live_view *v, int columns)
{
    if (v->notice[0]) {
        fputs(v->color ? ANSI_YELLOW : ANSI_BOLD, f);
        cells_put(f, v->notice, columns);
        fputs(ANSI_RESET, f);
    } else if (v->n_streams == 1) {
        put_stream_status(f, v, &v->streams[0], columns);
    } else if (v->n_streams > 1) {
        put_streams_status(f, v, columns);
    }
}
