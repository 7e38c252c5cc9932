/* A transcript being written: one recording in one format, segment by segment.
 *
 * A format is an entry of a table: what it writes first, for each segment, and last. Whether the stream took it all is
 * for its owner to check. One thread. */
#ifndef CAPTIOND_TOOLS_TRANSCRIPT_H
#define CAPTIOND_TOOLS_TRANSCRIPT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/base/sample_rate.h"
#include "decoder/longform.h"

#define TRANSCRIPT_FORMATS 6

struct subtitle_layout {
    int line_width, line_count; /* characters, lines; 0: any */
};

#define CUE_BYTES 8192

/* A subtitle that may still grow. */
struct cue {
    int64_t start, end;   /* samples */
    char text[CUE_BYTES]; /* lines with newlines between them, "" for none */
    int width;            /* characters of the last line */
    int n_lines;
    int64_t last_word; /* where the last word began */
};

struct transcript {
    FILE *out;
    const char *name; /* of the recording, as it was given */
    struct subtitle_layout layout;
    int n_segments, n_cues;
    char *text; /* all of it, for json */
    size_t n_text, text_capacity;
    struct cue cue;
    int64_t cue_start; /* of the last one that was written */
};

struct transcript_format {
    const char *name, *extension;
    bool can_follow; /* one recording's may follow another's in a stream */
    /* NULL or 0; -ENOMEM. */
    int (*begin)(struct transcript *);
    int (*segment)(struct transcript *, const struct longform_segment *);
    int (*end)(struct transcript *, const struct longform_result *);
};

/* text first, as the default; ends with an entry without a name. */
extern const struct transcript_format transcript_formats[TRANSCRIPT_FORMATS + 1];

/* Frees what the formats keep, but not `out`. */
void transcript_finish(struct transcript *);

/* --- what the table is made of: subtitles.c --- */

int srt_segment(struct transcript *, const struct longform_segment *);
int srt_end(struct transcript *, const struct longform_result *);
int vtt_begin(struct transcript *);
int vtt_segment(struct transcript *, const struct longform_segment *);
int vtt_end(struct transcript *, const struct longform_result *);

#endif
