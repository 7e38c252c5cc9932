/* Where a recording's transcripts go: standard output in one format, or files in a folder in several.
 *
 * A file is written under a temporary name beside its own and renamed when all of the recording's files are complete, so
 * that a name is never that of half a transcript. One thread. */
#ifndef CAPTIOND_TOOLS_TRANSCRIPT_OUTPUT_H
#define CAPTIOND_TOOLS_TRANSCRIPT_OUTPUT_H

#include "daemon/base/err.h"
#include "tools/transcript.h"

struct transcript_target {
    const char *folder; /* NULL: standard output */
    unsigned formats;   /* bit i: transcript_formats[i] */
    struct subtitle_layout layout;
};

struct transcript_file {
    const struct transcript_format *format;
    struct transcript transcript;
    char *path, *temporary; /* NULL for standard output */
};

struct transcript_output {
    struct transcript_file files[TRANSCRIPT_FORMATS];
    int n;
};

/* Makes the folder, with those above it, unless it is there. 0 or a negative errno. */
int transcript_make_folder(const char *folder, struct err *);

/* Opens everything for the recording called `name` ("-": standard input, written as "stdin"); name is borrowed until
 * the end. 0 or a negative errno, and nothing is left then. */
int transcript_output_open(struct transcript_output *, const struct transcript_target *, const char *name,
                           struct err *);

/* Writes a segment in every format. 0 or a negative errno: a full disk is found out here or at the end. */
int transcript_output_segment(struct transcript_output *, const struct longform_segment *, struct err *);

/* Completes the files and gives them their names. 0 or a negative errno: nothing is left then but files that already had
 * theirs. */
int transcript_output_finish(struct transcript_output *, const struct longform_result *, struct err *);

/* Gives up: no file remains. Does nothing after finish. Zeroed objects are accepted. */
void transcript_output_abandon(struct transcript_output *);

/* Removes the files that have no name yet, and nothing else: for the handler of a signal that then ends the program. */
void transcript_output_unlink(const struct transcript_output *);

/* True where the two recordings' files would have the same names. */
bool transcript_same_name(const char *a, const char *b);

#endif
