/* Events to plain text: a sentence or utterance a line, or the committed pieces as they come.
 *
 * Pure: text goes to the caller's `write`, whole pieces at a time. Where the daemon has several streams each line begins
 * with the stream's name. Control characters become spaces. Belongs to one thread. */
#ifndef CAPTIOND_TOOLS_CAPTION_TEXT_H
#define CAPTIOND_TOOLS_CAPTION_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "daemon/event.h"

enum caption_style {
    CAPTION_SENTENCES, /* a line is written when it is complete */
    CAPTION_PIECES,    /* a commit is written at once, a newline at the end of an utterance */
};

struct caption_line {
    char *name; /* of the stream, owned */
    char *text; /* CAPTION_SENTENCES: committed and not yet written */
    size_t n, size;
};

struct caption_text {
    enum caption_style style;
    int (*write)(void *ctx, const char *text, size_t n); /* 0 or a negative errno */
    void *ctx;
    bool several; /* streams: lines carry names */
    int open;     /* CAPTION_PIECES: the stream whose line has been begun, −1: none */
    int n_lines;
    struct caption_line lines[STREAMS_MAX];
};

void caption_text_init(struct caption_text *, enum caption_style,
                       int (*write)(void *ctx, const char *text, size_t n), void *ctx);
void caption_text_finish(struct caption_text *); /* NULL and zeroed objects are accepted; writes nothing */

/* Takes one event of any type. 0, -ENOMEM, or what `write` returned. */
int caption_text_event(struct caption_text *, const char *type, const json_t *event);

/* Ends the lines that have been begun, when what follows does not continue them. */
int caption_text_end(struct caption_text *);

#endif
