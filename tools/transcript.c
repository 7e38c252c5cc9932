#include "tools/transcript.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/utf8.h"

/* --- text and tsv --- */

static const char *skip_spaces(const char *text)
{
    while (*text == ' ')
        text++;
    return text;
}

/* One line, whatever the text. */
static void put_line(FILE *out, const char *text)
{
    for (; *text; text++)
        putc(*text == '\n' || *text == '\r' || *text == '\t' ? ' ' : *text, out);
    putc('\n', out);
}

/* The leading space of a segment joins it to the one before; here a line begins. */
static int text_segment(struct transcript *t, const struct longform_segment *s)
{
    put_line(t->out, skip_spaces(s->text));
    return 0;
}

static int tsv_begin(struct transcript *t)
{
    fputs("start\tend\ttext\n", t->out);
    return 0;
}

static int tsv_segment(struct transcript *t, const struct longform_segment *s)
{
    fprintf(t->out, "%lld\t%lld\t", (long long)sample_to_ms(s->start), (long long)sample_to_ms(s->end));
    put_line(t->out, skip_spaces(s->text));
    return 0;
}

/* --- json and jsonl: the names and units of openai-whisper --- */

#define DUMP (JSON_COMPACT | JSON_REAL_PRECISION(12))

static double rounded(double x)
{
    return round(x * 1e6) / 1e6;
}

static double seconds(int64_t sample)
{
    return (double)sample_to_ms(sample) / 1000.0;
}

static json_t *words_json(const struct longform_segment *s)
{
    json_t *words = json_array();
    for (int i = 0; i < s->n_words; i++) {
        const struct word *w = &s->words[i];
        json_array_append_new(words, json_pack("{s:s, s:f, s:f, s:f}", "word", w->text, "start",
                                               seconds(w->start), "end", seconds(w->end), "probability",
                                               rounded((double)w->probability)));
    }
    return words;
}

static json_t *segment_json(const struct transcript *t, const struct longform_segment *s)
{
    json_t *tokens = json_array();
    for (int i = 0; i < s->n_tokens; i++)
        json_array_append_new(tokens, json_integer(s->tokens[i]));
    json_t *segment =
        json_pack("{s:i, s:I, s:f, s:f, s:s, s:o, s:f, s:f, s:f, s:f, s:f}", "id", t->n_segments, "seek",
                  (json_int_t)(s->window / (SAMPLE_RATE / 100)), "start", seconds(s->start), "end",
                  seconds(s->end), "text", s->text, "tokens", tokens, "temperature",
                  rounded((double)s->temperature), "avg_logprob", rounded((double)s->avg_logprob),
                  "compression_ratio", rounded((double)s->compression_ratio), "no_speech_prob",
                  rounded((double)s->no_speech_prob), "confidence", rounded(exp((double)s->avg_logprob)));
    if (segment && s->words)
        json_object_set_new(segment, "words", words_json(s));
    return segment;
}

static int dump(FILE *out, json_t *json, const char *before, const char *after)
{
    if (!json)
        return -ENOMEM;
    fputs(before, out);
    int r = json_dumpf(json, out, DUMP); /* a stream that failed is known to its owner */
    fputs(after, out);
    json_decref(json);
    return r < 0 && !ferror(out) ? -ENOMEM : 0;
}

/* JSON has no other strings than of UTF-8. */
static json_t *name_json(const char *name)
{
    size_t n = strlen(name);
    char *clean = malloc(3 * n + 1);
    if (!clean)
        return NULL;
    utf8_sanitize(name, n, clean);
    json_t *json = json_string(clean);
    free(clean);
    return json;
}

static int jsonl_segment(struct transcript *t, const struct longform_segment *s)
{
    json_t *line = segment_json(t, s);
    if (line) {
        json_object_set_new(line, "language", json_string(s->language));
        json_object_set_new(line, "file", name_json(t->name));
    }
    t->n_segments++;
    return dump(t->out, line, "", "\n");
}

static int json_begin(struct transcript *t)
{
    fputs("{\"segments\":[", t->out);
    return 0;
}

static int json_segment(struct transcript *t, const struct longform_segment *s)
{
    size_t n = strlen(s->text);
    if (t->n_text + n + 1 > t->text_capacity) {
        size_t wanted = 2 * (t->n_text + n + 1);
        char *text = realloc(t->text, wanted);
        if (!text)
            return -ENOMEM;
        t->text = text;
        t->text_capacity = wanted;
    }
    memcpy(t->text + t->n_text, s->text, n + 1);
    t->n_text += n;
    int r = dump(t->out, segment_json(t, s), t->n_segments > 0 ? ",\n" : "\n", "");
    t->n_segments++;
    return r;
}

static int json_end(struct transcript *t, const struct longform_result *result)
{
    fputs("],\n\"text\":", t->out);
    json_t *text = json_string(t->text ? t->text : "");
    int r = text ? json_dumpf(text, t->out, JSON_ENCODE_ANY) : -1;
    json_decref(text);
    fprintf(t->out, ",\n\"language\":\"%s\",\"language_probability\":%.4f}\n", result->language,
            (double)result->language_probability);
    return r < 0 && !ferror(t->out) ? -ENOMEM : 0;
}

const struct transcript_format transcript_formats[TRANSCRIPT_FORMATS + 1] = {
    {"text", "txt", true, NULL, text_segment, NULL},
    {"json", "json", false, json_begin, json_segment, json_end},
    {"jsonl", "jsonl", true, NULL, jsonl_segment, NULL},
    {"srt", "srt", false, NULL, srt_segment, srt_end},
    {"vtt", "vtt", false, vtt_begin, vtt_segment, vtt_end},
    {"tsv", "tsv", false, tsv_begin, tsv_segment, NULL},
    {.name = NULL},
};

void transcript_finish(struct transcript *t)
{
    free(t->text);
    t->text = NULL;
}
