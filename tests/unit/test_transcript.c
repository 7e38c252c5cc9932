/* The formats of captiond-transcribe, and its progress line: from segments that are made up to what a file holds. */
#include "tests/support/support.h"

#include <jansson.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/base/utf8.h"
#include "tools/cells.h"
#include "tools/progress.h"
#include "tools/transcript.h"

#define AT(seconds) ((int64_t)((seconds)*SAMPLE_RATE + 0.5))

static const int32_t tokens[] = {50364, 7, 50389};
static const struct word first_words[] = {{" Ferries", AT(0.5), AT(1.0), 0.9f, 0, 1},
                                          {" leave", AT(1.0), AT(1.4), 0.8f, 1, 1},
                                          {" every", AT(1.4), AT(1.9), 0.8f, 2, 1},
                                          {" hour,", AT(1.9), AT(2.5), 0.7f, 3, 2}};
static const struct word second_words[] = {{" R&D", AT(3601.0), AT(3601.5), 0.9f, 0, 1},
                                           {" --> <b>", AT(3601.5), AT(3602.0), 0.9f, 1, 1},
                                           {" naïve", AT(3602.0), AT(3602.0), 0.9f, 2, 1}};
static const struct longform_segment segments[] = {
    {.start = AT(0.5),
     .end = AT(2.5),
     .window = 0,
     .language = "en",
     .text = " Ferries leave every hour,",
     .tokens = tokens,
     .n_tokens = 3,
     .avg_logprob = -0.25f,
     .compression_ratio = 1.5f,
     .no_speech_prob = 0.125f,
     .temperature = 0.0f,
     .words = first_words,
     .n_words = 4},
    {.start = AT(3601.0),
     .end = AT(3602.0),
     .window = AT(3600),
     .language = "en",
     .text = " R&D --> <b> naïve",
     .tokens = tokens,
     .n_tokens = 3,
     .avg_logprob = -0.5f,
     .words = second_words,
     .n_words = 3},
};
static const struct longform_result result = {.language = "en", .language_probability = 0.75f};

static const struct transcript_format *format_of(const char *name)
{
    for (int i = 0; transcript_formats[i].name; i++) {
        if (strcmp(transcript_formats[i].name, name) == 0)
            return &transcript_formats[i];
    }
    fail_msg("no format is called %s", name);
    return NULL;
}

static const char *recording = "a.wav";

/* What the first n of the segments become. The text is the caller's. */
static char *write_all(const char *name, const struct longform_segment *list, int n, int width, int count)
{
    const struct transcript_format *f = format_of(name);
    char *text = NULL;
    size_t size;
    struct transcript *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    t->out = open_memstream(&text, &size);
    t->name = recording;
    t->layout = (struct subtitle_layout){width, count};
    if (f->begin)
        assert_int_equal(f->begin(t), 0);
    for (int i = 0; i < n; i++)
        assert_int_equal(f->segment(t, &list[i]), 0);
    if (f->end)
        assert_int_equal(f->end(t, &result), 0);
    assert_int_equal(fclose(t->out), 0);
    transcript_finish(t);
    free(t);
    return text;
}

static void expect(const char *name, int n, int width, int count, const char *want)
{
    char *text = write_all(name, segments, n, width, count);
    assert_string_equal(text, want);
    free(text);
}

static void text_and_tsv_have_a_line_a_segment(void **state)
{
    (void)state;
    expect("text", 2, 0, 0, "Ferries leave every hour,\nR&D --> <b> naïve\n");
    expect("tsv", 2, 0, 0,
           "start\tend\ttext\n500\t2500\tFerries leave every hour,\n3601000\t3602000\tR&D --> <b> naïve\n");
    struct longform_segment odd = segments[0];
    odd.text = " tab\tand\nline";
    char *text = write_all("tsv", &odd, 1, 0, 0);
    assert_string_equal(text, "start\tend\ttext\n500\t2500\ttab and line\n");
    free(text);
    expect("text", 0, 0, 0, "");
}

static void subtitles_are_what_players_read(void **state)
{
    (void)state;
    expect("srt", 2, 0, 0,
           "1\n00:00:00,500 --> 00:00:02,500\nFerries leave every hour,\n\n"
           "2\n01:00:01,000 --> 01:00:02,000\nR&D -- > <b> naïve\n\n");
    expect("vtt", 2, 0, 0,
           "WEBVTT\n\n00:00:00.500 --> 00:00:02.500\nFerries leave every hour,\n\n"
           "01:00:01.000 --> 01:00:02.000\nR&amp;D --&gt; &lt;b&gt; naïve\n\n");
    expect("vtt", 0, 0, 0, "WEBVTT\n\n");
}

static void lines_are_as_wide_as_asked(void **state)
{
    (void)state;
    /* A segment stays a cue, of as many lines as it takes; "naïve" counts five. */
    expect("srt", 2, 13, 0,
           "1\n00:00:00,500 --> 00:00:02,500\nFerries leave\nevery hour,\n\n"
           "2\n01:00:01,000 --> 01:00:02,000\nR&D -- > <b>\nnaïve\n\n");
    /* With a number of lines a cue ends where they are full, */
    expect("srt", 1, 7, 2,
           "1\n00:00:00,500 --> 00:00:01,400\nFerries\nleave\n\n"
           "2\n00:00:01,400 --> 00:00:02,500\nevery\nhour,\n\n");
    /* and goes beyond a segment, but not beyond a long pause. */
    struct word soon[3];
    memcpy(soon, second_words, sizeof(soon));
    for (int i = 0; i < 3; i++) {
        soon[i].start -= AT(3598);
        soon[i].end -= AT(3598);
    }
    struct longform_segment list[] = {segments[0], segments[1]};
    list[1].words = soon;
    list[1].n_words = 1;
    char *text = write_all("srt", list, 2, 40, 2);
    assert_string_equal(text, "1\n00:00:00,500 --> 00:00:03,500\nFerries leave every hour, R&D\n\n");
    free(text);
    list[1].words = second_words;
    text = write_all("srt", list, 2, 40, 2);
    assert_non_null(strstr(text, "hour,\n\n2\n01:00:01,000 --> 01:00:01,500\nR&D\n\n"));
    free(text);
}

/* Two segments that a model timed backwards, one of no length. */
static void cues_are_in_order_and_have_a_length(void **state)
{
    (void)state;
    struct longform_segment list[] = {segments[0], segments[0]};
    list[0].start = list[0].end = AT(2);
    list[1].start = AT(1);
    list[1].end = AT(1.5);
    char *text = write_all("vtt", list, 2, 0, 0);
    assert_non_null(strstr(text, "00:00:02.000 --> 00:00:02.001\n"));
    assert_null(strstr(text, "00:00:01.000 -->"));
    free(text);
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void check_segment(const json_t *s)
{
    assert_int_equal(json_integer_value(json_object_get(s, "id")), 0);
    assert_int_equal(json_integer_value(json_object_get(s, "seek")), 0);
    assert_float_equal(number(s, "start"), 0.5, 0.0);
    assert_float_equal(number(s, "end"), 2.5, 0.0);
    assert_float_equal(number(s, "avg_logprob"), -0.25, 0.0);
    assert_float_equal(number(s, "compression_ratio"), 1.5, 0.0);
    assert_float_equal(number(s, "no_speech_prob"), 0.125, 0.0);
    assert_float_equal(number(s, "temperature"), 0.0, 0.0);
    assert_float_equal(number(s, "confidence"), 0.778801, 0.0); /* e^-0.25 to six places */
    assert_string_equal(json_string_value(json_object_get(s, "text")), " Ferries leave every hour,");
    assert_int_equal(json_array_size(json_object_get(s, "tokens")), 3);
    const json_t *words = json_object_get(s, "words"), *last = json_array_get(words, 3);
    assert_int_equal(json_array_size(words), 4);
    assert_string_equal(json_string_value(json_object_get(last, "word")), " hour,");
    assert_float_equal(number(last, "start"), 1.9, 0.0);
    assert_float_equal(number(last, "probability"), 0.7, 0.0);
}

static void json_has_the_shape_of_openai_whispers(void **state)
{
    (void)state;
    json_error_t why;
    char *text = write_all("json", segments, 2, 0, 0);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        fail_msg("%s: %s", why.text, text);
    assert_string_equal(json_string_value(json_object_get(root, "text")),
                        " Ferries leave every hour, R&D --> <b> naïve");
    assert_string_equal(json_string_value(json_object_get(root, "language")), "en");
    assert_float_equal(number(root, "language_probability"), 0.75, 0.0);
    const json_t *list = json_object_get(root, "segments");
    assert_int_equal(json_array_size(list), 2);
    check_segment(json_array_get(list, 0));
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 1), "id")), 1);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 1), "seek")), 360000);
    json_decref(root);
    free(text);
    text = write_all("json", segments, 0, 0, 0);
    root = json_loads(text, 0, &why);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "text")), "");
    json_decref(root);
    free(text);
}

static void jsonl_has_an_object_a_line(void **state)
{
    (void)state;
    char *text = write_all("jsonl", segments, 2, 0, 0);
    json_t *first = json_loads(text, JSON_DISABLE_EOF_CHECK, NULL);
    assert_non_null(first);
    check_segment(first);
    assert_string_equal(json_string_value(json_object_get(first, "language")), "en");
    assert_string_equal(json_string_value(json_object_get(first, "file")), "a.wav");
    json_decref(first);
    char *second = strchr(text, '\n') + 1;
    json_t *object = json_loads(second, 0, NULL);
    assert_non_null(object);
    assert_int_equal(json_integer_value(json_object_get(object, "id")), 1);
    json_decref(object);
    free(text);
    /* A name of an older system is none of UTF-8. */
    recording = "caf\xe9.wav";
    text = write_all("jsonl", segments, 1, 0, 0);
    recording = "a.wav";
    object = json_loads(text, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(object, "file")), "caf\xef\xbf\xbd.wav");
    json_decref(object);
    free(text);
}

static void the_progress_line_fits(void **state)
{
    (void)state;
    char line[512];
    setlocale(LC_CTYPE, "C.UTF-8");
    struct progress p = {
        .name = "folder/interview.mp3", .index = 2, .n = 5, .done = 30 * 16000, .total = 120 * 16000};
    progress_line(&p, 10.0, 80, line, sizeof(line));
    assert_string_equal(line, "2/5 interview.mp3  [=======>                      ]  25 %  0:30 left");
    progress_line(&p, 3000.0, 80, line, sizeof(line));
    assert_non_null(strstr(line, "2:30:00 left"));
    for (int columns = 20; columns < 200; columns++) {
        progress_line(&p, 10.0, columns, line, sizeof(line));
        assert_true(cells_text(line) < columns);
        assert_non_null(strstr(line, "25 %"));
    }
    p.n = 1;
    p.done = 0;
    p.name = "-";
    progress_line(&p, 0.0, 80, line, sizeof(line));
    assert_non_null(strstr(line, "standard input"));
    assert_null(strstr(line, "left"));
    p.name = "a\x1b[31mb.wav";
    progress_line(&p, 0.0, 80, line, sizeof(line));
    assert_non_null(strstr(line, "a?[31mb.wav"));
}

static void names_are_made_printable(void **state)
{
    (void)state;
    char text[] = "a\x1b[2J\n\tb \x7f Ä \xc2\x9b \xc2\xa0 \xe9. € 😀 \xe2\x82";
    utf8_make_printable(text);
    assert_string_equal(text, "a?[2J??b ? Ä ?? \xc2\xa0 ?. € 😀 ??");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_and_tsv_have_a_line_a_segment),
        cmocka_unit_test(subtitles_are_what_players_read),
        cmocka_unit_test(lines_are_as_wide_as_asked),
        cmocka_unit_test(cues_are_in_order_and_have_a_length),
        cmocka_unit_test(json_has_the_shape_of_openai_whispers),
        cmocka_unit_test(jsonl_has_an_object_a_line),
        cmocka_unit_test(the_progress_line_fits),
        cmocka_unit_test(names_are_made_printable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
