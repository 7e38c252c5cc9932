#include "tools/live_view.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/ansi.h"
#include "tools/cells.h"
#include "tools/live_status.h"

void live_view_init(struct live_view *v, const char *only, bool color)
{
    memset(v, 0, sizeof(*v));
    v->only = only;
    v->color = color;
}

void live_view_finish(struct live_view *v)
{
    if (!v)
        return;
    for (int i = 0; i < VIEW_PARAGRAPHS; i++)
        free(v->paragraphs[i].text);
    for (int i = 0; i < v->n_streams; i++)
        free(v->streams[i].partial);
    memset(v, 0, sizeof(*v));
}

/* --- what has been heard ------------------------------------------------------------------------------------- */

static struct view_paragraph *paragraph_at(const struct live_view *v, int i)
{
    return (struct view_paragraph *)&v->paragraphs[(v->first + i) % VIEW_PARAGRAPHS];
}

static struct view_paragraph *add_paragraph(struct live_view *v, int stream, int64_t utt)
{
    if (v->n == VIEW_PARAGRAPHS) {
        free(v->paragraphs[v->first].text);
        v->first = (v->first + 1) % VIEW_PARAGRAPHS;
        v->n--;
    }
    struct view_paragraph *p = paragraph_at(v, v->n++);
    *p = (struct view_paragraph){.stream = stream, .utt = utt};
    return p;
}

static struct view_paragraph *paragraph_of(struct live_view *v, int stream, int64_t utt)
{
    for (int i = v->n - 1; i >= 0; i--) {
        struct view_paragraph *p = paragraph_at(v, i);
        if (p->stream == stream && p->utt == utt && !p->note)
            return p;
    }
    return add_paragraph(v, stream, utt);
}

/* An utterance of which nothing was left takes no place from what was heard before it. */
static void drop_if_empty(struct live_view *v, int stream, int64_t utt)
{
    const struct view_paragraph *newest = v->n > 0 ? paragraph_at(v, v->n - 1) : NULL;
    if (newest && newest->stream == stream && newest->utt == utt && !newest->text)
        v->n--;
}

static void copy_name(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from ? from : "");
    for (char *c = to; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' ';
    }
}

int live_view_streams(const struct live_view *v)
{
    int n = 0;
    for (int i = 0; i < v->n_streams; i++)
        n += v->streams[i].here;
    return n;
}

/* −1: too many streams, or not asked for. */
static int stream_of(struct live_view *v, const json_t *object)
{
    const char *name = json_string_value(json_object_get(object, "stream"));
    if (!name)
        name = json_string_value(json_object_get(object, "name"));
    if (!name || (v->only && strcmp(name, v->only) != 0))
        return -1;
    for (int i = 0; i < v->n_streams; i++) {
        if (strncmp(v->streams[i].name, name, VIEW_NAME_MAX - 1) == 0)
            return i;
    }
    if (v->n_streams == STREAMS_MAX)
        return -1;
    struct view_stream *s = &v->streams[v->n_streams];
    *s = (struct view_stream){.level_db = -120, .lag_ms = -1, .here = true};
    copy_name(s->name, sizeof(s->name), name);
    return v->n_streams++;
}

static char *clean_copy(const char *text)
{
    char *copy = strdup(text);
    for (char *c = copy; c && *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' ';
    }
    return copy;
}

static int append_text(struct view_paragraph *p, const char *text)
{
    char *clean = clean_copy(text);
    size_t n = strlen(text);
    char *grown = clean ? realloc(p->text, p->n + n + 1) : NULL;
    if (grown) {
        memcpy(grown + p->n, clean, n + 1);
        p->text = grown;
        p->n += n;
    }
    free(clean);
    return grown ? 0 : -ENOMEM;
}

static void set_partial(struct view_stream *s, char *text, int64_t utt)
{
    free(s->partial);
    s->partial = text;
    s->partial_utt = utt;
}

static int add_note(struct live_view *v, int stream, const char *text)
{
    struct view_paragraph *p = add_paragraph(v, stream, 0);
    p->note = true;
    return append_text(p, text);
}

static int on_gap(struct live_view *v, int stream, const json_t *e)
{
    char text[128];
    const char *cause = json_string_value(json_object_get(e, "cause"));
    snprintf(text, sizeof(text), "(%.1f s of sound not transcribed: %s)",
             (double)json_integer_value(json_object_get(e, "lost_ms")) / 1000.0, cause ? cause : "unknown");
    return add_note(v, stream, text);
}

static void on_hello(struct live_view *v, const json_t *e)
{
    copy_name(v->model, sizeof(v->model), json_string_value(json_object_get(e, "model")));
    size_t i;
    json_t *name;
    for (int k = 0; k < v->n_streams; k++)
        v->streams[k].here = false;
    json_array_foreach(json_object_get(e, "streams"), i, name)
    {
        json_t *object = json_pack("{s:O}", "stream", name);
        int index = stream_of(v, object);
        json_decref(object);
        if (index < 0)
            continue;
        v->streams[index].here = true;
        /* What was open in an earlier session will not go on, and its numbers come again. */
        set_partial(&v->streams[index], NULL, 0);
    }
    for (int k = 0; k < v->n; k++)
        paragraph_at(v, k)->utt = 0;
}

int live_view_event(struct live_view *v, const char *type, const json_t *e)
{
    if (strcmp(type, "hello") == 0) {
        on_hello(v, e);
        return 0;
    }
    if (strcmp(type, "status") == 0) {
        live_view_status(v, e);
        return 0;
    }
    if (strcmp(type, "missed") == 0)
        return add_note(v, 0, "(captions before this are no longer kept)");
    int stream = stream_of(v, e);
    if (stream < 0)
        return 0;
    if (strcmp(type, "gap") == 0)
        return on_gap(v, stream, e);
    struct view_stream *s = &v->streams[stream];
    const char *text = json_string_value(json_object_get(e, "text"));
    int64_t utt = json_integer_value(json_object_get(e, "utt"));
    if (strcmp(type, "partial") == 0 && text) {
        char *clean = clean_copy(text);
        if (!clean)
            return -ENOMEM;
        set_partial(s, clean, utt);
        paragraph_of(v, stream, utt);
    } else if (strcmp(type, "commit") == 0 && text) {
        const json_t *lag = json_object_get(e, "lag_ms");
        s->lag_ms = json_is_integer(lag) ? json_integer_value(lag) : -1;
        set_partial(s, NULL, 0);
        return append_text(paragraph_of(v, stream, utt), text);
    } else if (strcmp(type, "final") == 0) {
        set_partial(s, NULL, 0);
        drop_if_empty(v, stream, utt);
    }
    return 0;
}

void live_view_status(struct live_view *v, const json_t *status)
{
    int i = stream_of(v, status);
    if (i < 0)
        return;
    struct view_stream *s = &v->streams[i];
    copy_name(s->state, sizeof(s->state), json_string_value(json_object_get(status, "state")));
    copy_name(s->device, sizeof(s->device), json_string_value(json_object_get(status, "device")));
    copy_name(s->message, sizeof(s->message), json_string_value(json_object_get(status, "message")));
    s->level_db = json_number_value(json_object_get(status, "level_db"));
    s->rtf = json_number_value(json_object_get(status, "rtf"));
    s->queue_ms = (int)json_integer_value(json_object_get(status, "queue_ms"));
}

void live_view_notice(struct live_view *v, const char *text)
{
    copy_name(v->notice, sizeof(v->notice), text);
}

/* --- captions ------------------------------------------------------------------------------------------------ */

/* A paragraph as one string: the stream's name where there are several, what is committed, what is tentative. */
struct styled {
    char *text;
    const char *committed, *tentative; /* where these begin */
    bool note;
};

static const char *partial_of(const struct live_view *v, const struct view_paragraph *p)
{
    const struct view_stream *s = &v->streams[p->stream];
    return s->partial && s->partial_utt == p->utt && !p->note ? s->partial : "";
}

static bool style(const struct live_view *v, const struct view_paragraph *p, struct styled *out)
{
    const struct view_stream *s = &v->streams[p->stream];
    const char *text = p->text ? p->text : "";
    const char *partial = partial_of(v, p);
    const char *name = live_view_streams(v) > 1 && !p->note ? s->name : "";
    while (*text == ' ')
        text++;
    while (!*text && *partial == ' ')
        partial++;
    *out = (struct styled){.note = p->note};
    if (!*text && !*partial)
        return true;
    if (asprintf(&out->text, "%s%s%s%s", name, *name ? ": " : "", text, partial) < 0) {
        out->text = NULL;
        return false;
    }
    out->committed = out->text + (*name ? strlen(name) + 2 : 0);
    out->tentative = out->committed + strlen(text);
    return true;
}

/* Writes the part of [begin, end) that lies in [from, to) with an attribute. */
static void put_part(FILE *f, const char *begin, const char *end, const char *from, const char *to,
                     const char *attribute)
{
    if (from < begin)
        from = begin;
    if (to > end)
        to = end;
    if (from >= to)
        return;
    fputs(attribute, f);
    fwrite(from, 1, (size_t)(to - from), f);
    if (*attribute)
        fputs(ANSI_RESET, f);
}

static char *styled_line(const struct live_view *v, const struct styled *s, const char *begin,
                         const char *end)
{
    char *line = NULL;
    size_t n;
    FILE *f = open_memstream(&line, &n);
    if (!f)
        return NULL;
    const char *text_end = s->text + strlen(s->text);
    put_part(f, begin, end, s->text, s->committed, v->color ? ANSI_CYAN : ANSI_BOLD);
    put_part(f, begin, end, s->committed, s->tentative, s->note ? v->color ? ANSI_YELLOW : ANSI_DIM : "");
    put_part(f, begin, end, s->tentative, text_end, ANSI_DIM);
    if (fclose(f) == 0)
        return line;
    free(line);
    return NULL;
}

/* The last `rows` lines of all paragraphs into lines[], oldest first. Returns their number or −1. */
static int caption_lines(const struct live_view *v, int columns, int rows, char **lines)
{
    int n = 0, first = v->n;
    for (int shown = 0; first > 0 && shown < rows; first--) {
        const struct view_paragraph *p = paragraph_at(v, first - 1);
        shown += p->text || *partial_of(v, p);
    }
    for (int i = first; i < v->n; i++) {
        struct styled s;
        if (!style(v, paragraph_at(v, i), &s))
            return -1;
        const char *at = s.text;
        while (at && *at) {
            const char *end = cells_line_end(at, columns);
            char *line = styled_line(v, &s, at, end);
            if (n == rows) {
                free(lines[0]);
                memmove(lines, lines + 1, (size_t)(rows - 1) * sizeof(*lines));
                n--;
            }
            lines[n++] = line;
            at = end + strspn(end, " ");
        }
        free(s.text);
    }
    return n;
}

char *live_view_frame(const struct live_view *v, int columns, int rows)
{
    char *frame = NULL;
    size_t size;
    columns = columns < 1 ? 1 : columns;
    int status = rows >= 2 ? 1 : 0, blank = rows >= 4 ? 1 : 0;
    int text_rows = rows - status - blank > 1 ? rows - status - blank : 1;
    char **lines = calloc((size_t)text_rows, sizeof(*lines));
    int n = lines ? caption_lines(v, columns, text_rows, lines) : -1;
    FILE *f = n >= 0 ? open_memstream(&frame, &size) : NULL;
    if (f) {
        for (int i = 0; i < text_rows; i++) {
            int k = i - (text_rows - n);
            fprintf(f, "%s%s", i ? "\n" : "", k >= 0 && lines[k] ? lines[k] : "");
        }
        fputs(blank ? "\n\n" : status ? "\n" : "", f);
        if (status)
            live_status_put(f, v, columns);
        if (fclose(f) != 0) {
            free(frame);
            frame = NULL;
        }
    }
    for (int i = 0; lines && i < text_rows; i++)
        free(lines[i]);
    free(lines);
    return frame;
}

char *live_view_transcript(const struct live_view *v, int columns)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    bool ok = true;
    if (!f)
        return NULL;
    for (int i = 0; i < v->n; i++) {
        struct styled s;
        bool styled = style(v, paragraph_at(v, i), &s);
        ok = ok && styled;
        const char *at = styled && s.committed < s.tentative ? s.text : s.tentative;
        while (at && at < s.tentative) {
            const char *end = cells_line_end(at, columns);
            end = end < s.tentative ? end : s.tentative;
            fprintf(f, "%.*s\n", (int)(end - at), at);
            at = end + strspn(end, " ");
        }
        free(s.text);
    }
    if (fclose(f) == 0 && ok)
        return text;
    free(text);
    return NULL;
}
