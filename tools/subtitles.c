/* SubRip and WebVTT. Lines are broken as by SubtitlesWriter in openai-whisper's whisper/utils.py. */
#include <stdbool.h>
#include <string.h>

#include "tools/transcript.h"

#define LONG_PAUSE (3 * SAMPLE_RATE)
#define LEAST_MS   1 /* a cue ends later than it begins */

struct cue_style {
    void (*head)(struct transcript *, int64_t start_ms, int64_t end_ms);
    void (*text)(FILE *, const char *);
};

/* --- writing a cue --- */

static void put_time(FILE *out, int64_t ms, char point)
{
    fprintf(out, "%02lld:%02d:%02d%c%03d", (long long)(ms / 3600000), (int)(ms / 60000 % 60),
            (int)(ms / 1000 % 60), point, (int)(ms % 1000));
}

static void put_times(FILE *out, int64_t start_ms, int64_t end_ms, char point)
{
    put_time(out, start_ms, point);
    fputs(" --> ", out);
    put_time(out, end_ms, point);
    putc('\n', out);
}

static void srt_head(struct transcript *t, int64_t start_ms, int64_t end_ms)
{
    fprintf(t->out, "%d\n", t->n_cues);
    put_times(t->out, start_ms, end_ms, ',');
}

static void vtt_head(struct transcript *t, int64_t start_ms, int64_t end_ms)
{
    put_times(t->out, start_ms, end_ms, '.');
}

/* An arrow would begin a new cue for some readers. */
static void srt_text(FILE *out, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c == '>' && c - text >= 2 && c[-1] == '-' && c[-2] == '-')
            putc(' ', out);
        putc(*c, out);
    }
}

static void vtt_text(FILE *out, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c == '&')
            fputs("&amp;", out);
        else if (*c == '<')
            fputs("&lt;", out);
        else if (*c == '>')
            fputs("&gt;", out);
        else
            putc(*c, out);
    }
}

static const struct cue_style srt = {srt_head, srt_text};
static const struct cue_style vtt = {vtt_head, vtt_text};

/* Readers want cues in order and of some length. */
static void put_cue(struct transcript *t, const struct cue_style *style, int64_t start, int64_t end,
                    const char *text)
{
    t->cue_start = start > t->cue_start ? start : t->cue_start;
    int64_t start_ms = sample_to_ms(t->cue_start), end_ms = sample_to_ms(end);
    t->n_cues++;
    style->head(t, start_ms, end_ms < start_ms + LEAST_MS ? start_ms + LEAST_MS : end_ms);
    style->text(t->out, text);
    fputs("\n\n", t->out);
}

/* --- filling a cue --- */

static void flush_cue(struct transcript *t, const struct cue_style *style)
{
    if (t->cue.text[0])
        put_cue(t, style, t->cue.start, t->cue.end, t->cue.text);
    t->cue.text[0] = '\0';
    t->cue.width = t->cue.n_lines = 0;
}

static int characters(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

/* A line or a word without white space around it, on one line. */
static void copy_trimmed(char *to, size_t size, const char *text)
{
    static const char spaces[] = " \t\r\n";
    text += strspn(text, spaces);
    size_t n = strlen(text);
    while (n > 0 && strchr(spaces, text[n - 1]))
        n--;
    n = n < size - 1 ? n : size - 1;
    while (n > 0 && n == size - 1 && ((unsigned char)text[n] & 0xC0) == 0x80)
        n--;
    for (size_t i = 0; i < n; i++)
        to[i] = text[i] == '\n' || text[i] == '\r' ? ' ' : text[i];
    to[n] = '\0';
}

/* first: of its segment. A cue goes beyond its segment where both width and number of lines are given. */
static void add_word(struct transcript *t, const struct cue_style *style, const struct word *w, bool first)
{
    struct cue *cue = &t->cue;
    const struct subtitle_layout *l = &t->layout;
    char word[1024];
    bool flows = l->line_count > 0;
    copy_trimmed(word, sizeof(word), w->text);
    if (!word[0])
        return;
    bool pause = flows && w->start - cue->last_word > LONG_PAUSE;
    int gap = cue->width > 0 && w->text[0] == ' ';
    size_t used = strlen(cue->text), left = sizeof(cue->text) - used;
    bool has_room = cue->width + gap + characters(word) <= l->line_width && strlen(word) + 3 < left;
    bool breaks = first && !flows;
    if (cue->width > 0 && has_room && !pause && !breaks) {
        snprintf(cue->text + used, left, "%s%s", gap ? " " : "", word);
        cue->width += gap + characters(word);
    } else {
        bool full = (flows && cue->n_lines >= l->line_count) || strlen(word) + 3 >= left;
        if (pause || full || breaks)
            flush_cue(t, style);
        used = strlen(cue->text);
        snprintf(cue->text + used, sizeof(cue->text) - used, "%s%s", used > 0 ? "\n" : "", word);
        cue->width = characters(word);
        cue->n_lines++;
        if (used == 0)
            cue->start = w->start;
    }
    cue->end = w->end;
    cue->last_word = w->start;
}

static int add_segment(struct transcript *t, const struct cue_style *style, const struct longform_segment *s)
{
    if (t->layout.line_width > 0 && s->n_words > 0) {
        for (int i = 0; i < s->n_words; i++)
            add_word(t, style, &s->words[i], i == 0);
        return 0;
    }
    flush_cue(t, style);
    char text[CUE_BYTES];
    copy_trimmed(text, sizeof(text), s->text);
    if (text[0])
        put_cue(t, style, s->start, s->end, text);
    return 0;
}

int srt_segment(struct transcript *t, const struct longform_segment *s)
{
    return add_segment(t, &srt, s);
}

int srt_end(struct transcript *t, const struct longform_result *result)
{
    (void)result;
    flush_cue(t, &srt);
    return 0;
}

int vtt_begin(struct transcript *t)
{
    fputs("WEBVTT\n\n", t->out);
    return 0;
}

int vtt_segment(struct transcript *t, const struct longform_segment *s)
{
    return add_segment(t, &vtt, s);
}

int vtt_end(struct transcript *t, const struct longform_result *result)
{
    (void)result;
    flush_cue(t, &vtt);
    return 0;
}
