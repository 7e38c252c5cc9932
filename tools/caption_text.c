#include "tools/caption_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/sentence.h"

#define LINE_FIRST_SIZE 256
#define LINE_MAX_BYTES  8192 /* an unfinished line is broken here: speech without any full stop */

void caption_text_init(struct caption_text *t, enum caption_style style,
                       int (*write)(void *ctx, const char *text, size_t n), void *ctx)
{
    *t = (struct caption_text){.style = style, .write = write, .ctx = ctx, .open = -1};
}

void caption_text_finish(struct caption_text *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->n_lines; i++) {
        free(t->lines[i].name);
        free(t->lines[i].text);
    }
    t->n_lines = 0;
}

/* The stream's line, new for a name that was not seen before; −1 where there is no room or memory. */
static int line_of(struct caption_text *t, const char *name)
{
    for (int i = 0; i < t->n_lines; i++) {
        if (strcmp(t->lines[i].name, name) == 0)
            return i;
    }
    if (t->n_lines == STREAMS_MAX)
        return -1;
    char *copy = strdup(name);
    if (!copy)
        return -1;
    t->lines[t->n_lines] = (struct caption_line){.name = copy};
    return t->n_lines++;
}

/* A line's beginning: the name, where there are several, and no leading blanks. */
static int write_start(struct caption_text *t, const struct caption_line *line, const char **text, size_t *n)
{
    int r = 0;
    while (*n > 0 && **text == ' ') {
        (*text)++;
        (*n)--;
    }
    if (t->several && *n > 0) {
        r = t->write(t->ctx, line->name, strlen(line->name));
        if (r == 0)
            r = t->write(t->ctx, ": ", 2);
    }
    return r;
}

/* --- a sentence a line --------------------------------------------------------------------------------------- */

static int append(struct caption_line *line, const char *text, size_t n)
{
    if (line->n + n > line->size) {
        size_t size = line->size ? line->size : LINE_FIRST_SIZE;
        while (size < line->n + n)
            size *= 2;
        char *grown = realloc(line->text, size);
        if (!grown)
            return -ENOMEM;
        line->text = grown;
        line->size = size;
    }
    memcpy(line->text + line->n, text, n);
    line->n += n;
    return 0;
}

/* Writes the first n bytes of what has been collected as a line of its own, in one piece. */
static int write_line(struct caption_text *t, struct caption_line *line, size_t n)
{
    const char *text = line->text;
    size_t left = n;
    int r = write_start(t, line, &text, &left);
    if (r == 0 && left > 0) {
        r = t->write(t->ctx, text, left);
        if (r == 0)
            r = t->write(t->ctx, "\n", 1);
    }
    line->n -= n;
    memmove(line->text, line->text + n, line->n);
    return r;
}

static int add_sentences(struct caption_text *t, struct caption_line *line, const char *text, size_t n)
{
    int r = append(line, text, n);
    size_t sentence;
    while (r == 0 && (sentence = sentence_length(line->text, line->n)) > 0)
        r = write_line(t, line, sentence);
    if (r == 0 && line->n > LINE_MAX_BYTES)
        r = write_line(t, line, line->n);
    return r;
}

/* --- pieces as they come ------------------------------------------------------------------------------------- */

static int close_piece(struct caption_text *t)
{
    if (t->open < 0)
        return 0;
    t->open = -1;
    return t->write(t->ctx, "\n", 1);
}

static int add_piece(struct caption_text *t, int index, const char *text, size_t n)
{
    int r = 0;
    if (t->open != index) {
        r = close_piece(t);
        if (r == 0)
            r = write_start(t, &t->lines[index], &text, &n);
        if (n > 0)
            t->open = index;
    }
    return r == 0 && n > 0 ? t->write(t->ctx, text, n) : r;
}

/* --- events -------------------------------------------------------------------------------------------------- */

static int on_commit(struct caption_text *t, int index, const char *text)
{
    size_t n = strlen(text);
    char *clean = strdup(text);
    if (!clean)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)clean[i] < ' ' || clean[i] == 0x7f)
            clean[i] = ' ';
    }
    int r = t->style == CAPTION_SENTENCES ? add_sentences(t, &t->lines[index], clean, n)
                                          : add_piece(t, index, clean, n);
    free(clean);
    return r;
}

static int on_final(struct caption_text *t, int index)
{
    if (t->style == CAPTION_PIECES)
        return t->open == index ? close_piece(t) : 0;
    return t->lines[index].n > 0 ? write_line(t, &t->lines[index], t->lines[index].n) : 0;
}

int caption_text_event(struct caption_text *t, const char *type, const json_t *event)
{
    if (strcmp(type, "hello") == 0) {
        t->several = json_array_size(json_object_get(event, "streams")) > 1;
        return 0;
    }
    bool commit = strcmp(type, "commit") == 0;
    if (!commit && strcmp(type, "final") != 0)
        return 0;
    const char *stream = json_string_value(json_object_get(event, "stream"));
    const char *text = json_string_value(json_object_get(event, "text"));
    int index = line_of(t, stream ? stream : "");
    if (index < 0)
        return -ENOMEM;
    const char *reason = json_string_value(json_object_get(event, "reason"));
    if (commit)
        return text ? on_commit(t, index, text) : 0;
    return reason && strcmp(reason, "max_len") == 0 ? 0 : on_final(t, index); /* then the sentence goes on */
}

int caption_text_end(struct caption_text *t)
{
    int r = t->style == CAPTION_PIECES ? close_piece(t) : 0;
    for (int i = 0; r == 0 && i < t->n_lines; i++) {
        if (t->lines[i].n > 0)
            r = write_line(t, &t->lines[i], t->lines[i].n);
    }
    return r;
}
