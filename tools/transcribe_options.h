/* The command line of captiond-transcribe: one table, from which parsing and help follow. Main thread. */
#ifndef CAPTIOND_TOOLS_TRANSCRIBE_OPTIONS_H
#define CAPTIOND_TOOLS_TRANSCRIBE_OPTIONS_H

#include <stdbool.h>

#define TRANSCRIBE_PROGRAM "captiond-transcribe"

enum { TRANSCRIBE_USAGE = 2 }; /* exit status of a bad command line */

struct transcribe_options {
    /* model and machine */
    const char *model, *engine, *precision;
    int n_threads;
    /* what is said */
    const char *language; /* a code; NULL: found out */
    bool translate, no_gate;
    const char *prompt, *hotwords;
    bool carry_prompt;
    /* decoding */
    int beam_size, best_of, seed;
    float patience, length_penalty;
    float temperature, temperature_increment;
    bool no_condition, without_timestamps;
    float compression_ratio_threshold, logprob_threshold, no_speech_threshold;
    /* words */
    bool word_times;
    float hallucination_silence;
    /* output */
    unsigned formats; /* bit i: transcript_formats[i]; at least one */
    const char *output_dir;
    int line_width, line_count; /* of subtitles; 0: as the segments are */
    bool quiet;
};

/* Fills in defaults and what the command line says; the recordings are argv[*first … argc). -1: go on; else the exit
 * status, everything being said. */
int transcribe_options_parse(struct transcribe_options *, int argc, char **argv, int *first);

#endif
