/* The picture of the live view: lines that fit, words that are not lost, at any size. */
#include "tests/support/support.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cells.h"
#include "tools/live_view.h"

static struct live_view view;

static void event(const char *json)
{
    json_error_t why;
    json_t *e = json_loads(json, 0, &why);
    if (!e)
        fail_msg("%s: %s", json, why.text);
    assert_int_equal(live_view_event(&view, json_string_value(json_object_get(e, "type")), e), 0);
    json_decref(e);
}

static int start(void **state)
{
    (void)state;
    live_view_init(&view, NULL, true);
    event("{\"type\":\"hello\",\"model\":\"base\",\"streams\":[\"mic\"]}");
    return 0;
}

static int stop(void **state)
{
    (void)state;
    live_view_finish(&view);
    return 0;
}

/* The picture without attributes, its lines in lines[]. Returns their number. */
static int picture(int columns, int rows, char lines[][512])
{
    char *frame = live_view_frame(&view, columns, rows);
    assert_non_null(frame);
    int row = 0;
    size_t n = 0;
    for (const char *c = frame; *c; c++) {
        if (*c == '\033') {
            c += strcspn(c, "mhlJKH");
        } else if (*c == '\n') {
            lines[row++][n] = 0;
            n = 0;
        } else {
            assert_true(n + 1 < 512);
            lines[row][n++] = *c;
        }
    }
    lines[row++][n] = 0;
    free(frame);
    return row;
}

static void words_roll_up_from_the_bottom(void **state)
{
    (void)state;
    char lines[32][512];
    event("{\"type\":\"commit\",\"stream\":\"mic\",\"utt\":1,\"text\":\" The quick brown fox\"}");
    event("{\"type\":\"commit\",\"stream\":\"mic\",\"utt\":1,\"text\":\" jumps.\"}");
    event("{\"type\":\"partial\",\"stream\":\"mic\",\"utt\":2,\"text\":\" Over the\"}");
    assert_int_equal(picture(16, 8, lines), 8);
    assert_string_equal(lines[2], "");
    assert_string_equal(lines[3], "The quick brown");
    assert_string_equal(lines[4], "fox jumps.");
    assert_string_equal(lines[5], "Over the");
    assert_string_equal(lines[6], "");
    assert_int_equal(picture(16, 3, lines), 3);
    assert_string_equal(lines[0], "fox jumps.");
    assert_string_equal(lines[1], "Over the");
}

static void a_commit_takes_the_place_of_the_tentative_tail(void **state)
{
    (void)state;
    event("{\"type\":\"partial\",\"stream\":\"mic\",\"utt\":1,\"text\":\" Wreck a nice\"}");
    event("{\"type\":\"commit\",\"stream\":\"mic\",\"utt\":1,\"text\":\" Recognise\"}");
    event("{\"type\":\"partial\",\"stream\":\"mic\",\"utt\":1,\"text\":\" speech\"}");
    char *frame = live_view_frame(&view, 40, 4);
    assert_non_null(strstr(frame, "Recognise\033[2m speech\033[0m"));
    assert_null(strstr(frame, "Wreck"));
    free(frame);
    event("{\"type\":\"final\",\"stream\":\"mic\",\"utt\":1}");
    char *text = live_view_transcript(&view, 80);
    assert_string_equal(text, "Recognise\n");
    free(text);
}

/* What stays behind in the terminal is broken between words, and has no tentative ones. */
static void the_transcript_breaks_between_words(void **state)
{
    (void)state;
    event("{\"type\":\"commit\",\"stream\":\"mic\",\"utt\":1,\"text\":\" one two three\"}");
    event("{\"type\":\"partial\",\"stream\":\"mic\",\"utt\":1,\"rev\":1,\"text\":\" perhaps\"}");
    event("{\"type\":\"gap\",\"stream\":\"mic\",\"lost_ms\":1500,\"cause\":\"pause\"}");
    event("{\"type\":\"partial\",\"stream\":\"mic\",\"utt\":2,\"rev\":1,\"text\":\" never\"}");
    char *text = live_view_transcript(&view, 22);
    assert_string_equal(text, "one two three\n(1.5 s of sound not\ntranscribed: pause)\n");
    free(text);
    text = live_view_transcript(&view, 8);
    assert_ptr_equal(strstr(text, "one two\nthree\n("), text);
    free(text);
}

static void widths_are_those_of_the_terminal(void **state)
{
    (void)state;
    char lines[32][512];
    /* Seven characters of two cells, no blanks; then a letter with a combining mark. */
    event("{\"type\":\"commit\",\"stream\":\"mic\",\"utt\":1,\"text\":\"今天天气很好吗\"}");
    picture(7, 6, lines);
    assert_string_equal(lines[1], "今天天");
    assert_string_equal(lines[2], "气很好");
    assert_string_equal(lines[3], "吗");
    assert_int_equal(cells_text("e\xcc\x81"
                                "a"),
                     2);
    assert_int_equal(cells_text("今a"), 3);
}

static void a_word_longer_than_a_line_is_cut(void **state)
{
    (void)state;
    char lines[32][512];
    event("{\"type\":\"commit\",\"stream\":\"mic\",\"utt\":1,\"text\":\" a abcdefghij\"}");
    picture(4, 7, lines);
    assert_string_equal(lines[1], "a");
    assert_string_equal(lines[2], "abcd");
    assert_string_equal(lines[3], "efgh");
    assert_string_equal(lines[4], "ij");
}

static void control_characters_reach_no_terminal(void **state)
{
    (void)state;
    event("{\"type\":\"status\",\"stream\":\"mic\",\"state\":\"listening\",\"device\":\"Evil\\u001b[2J\"}");
    event("{\"type\":\"commit\",\"stream\":\"mic\",\"utt\":1,\"text\":\" a\\u001b]0;b\\u0007\"}");
    char *frame = live_view_frame(&view, 80, 6);
    assert_null(strstr(frame, "\033[2J"));
    assert_null(strstr(frame, "\033]"));
    assert_null(strchr(frame, 7));
    free(frame);
}

/* Noises whose tentative words were withdrawn leave nothing: what was heard before them stays on the screen. */
static void empty_utterances_take_no_place(void **state)
{
    (void)state;
    char lines[32][512], json[128];
    event("{\"type\":\"commit\",\"stream\":\"mic\",\"utt\":1,\"text\":\" Here.\"}");
    for (int utt = 2; utt < 2000; utt++) {
        snprintf(json, sizeof(json), "{\"type\":\"partial\",\"stream\":\"mic\",\"utt\":%d,\"text\":\" hm\"}",
                 utt);
        event(json);
        snprintf(json, sizeof(json), "{\"type\":\"final\",\"stream\":\"mic\",\"utt\":%d,\"text\":\"\"}", utt);
        if (utt % 100 < 98) /* the others end as the session does, without */
            event(json);
    }
    picture(40, 5, lines);
    assert_string_equal(lines[1], "Here.");
    assert_string_equal(lines[2], "hm");
}

static void streams_are_those_of_this_session_that_are_asked_for(void **state)
{
    (void)state;
    char lines[32][512];
    event("{\"type\":\"commit\",\"stream\":\"mic\",\"utt\":1,\"text\":\" One.\"}");
    event("{\"type\":\"hello\",\"model\":\"base\",\"streams\":[\"room\"]}");
    event("{\"type\":\"status\",\"stream\":\"room\",\"state\":\"listening\",\"device\":\"Table\"}");
    event("{\"type\":\"commit\",\"stream\":\"room\",\"utt\":1,\"text\":\" Two.\"}");
    picture(60, 5, lines);
    assert_string_equal(lines[1], "One.");
    assert_string_equal(lines[2], "Two.");
    assert_non_null(strstr(lines[4], "Table"));
    live_view_finish(&view);
    live_view_init(&view, "room", true);
    event("{\"type\":\"hello\",\"model\":\"base\",\"streams\":[\"mic\",\"room\"]}");
    event("{\"type\":\"commit\",\"stream\":\"room\",\"utt\":1,\"text\":\" Two.\"}");
    assert_int_equal(live_view_streams(&view), 1);
    picture(60, 5, lines);
    assert_string_equal(lines[2], "Two.");
}

static void several_streams_share_the_status_line(void **state)
{
    (void)state;
    char lines[32][512];
    event("{\"type\":\"hello\",\"model\":\"base\",\"streams\":[\"desk\",\"a-rather-long-name\",\"hall\","
          "\"door\"]}");
    event("{\"type\":\"status\",\"stream\":\"desk\",\"state\":\"listening\",\"level_db\":-30}");
    event("{\"type\":\"status\",\"stream\":\"a-rather-long-name\",\"state\":\"speech\",\"level_db\":0}");
    event("{\"type\":\"status\",\"stream\":\"hall\",\"state\":\"no_device\",\"level_db\":0}");
    event("{\"type\":\"status\",\"stream\":\"door\",\"state\":\"paused\",\"level_db\":0}");
    picture(80, 5, lines);
    assert_string_equal(lines[4],
                        " desk ██████······   a-rather-l… ██████  hall no microphone  door paused        ");
    picture(40, 5, lines);
    assert_string_equal(lines[4], " desk █████·····  a-rathe… ██████ +2");
}

/* Random events at random sizes: every line fits, and the last committed word is on the screen. */
static void every_line_fits_at_any_size(void **state)
{
    (void)state;
    static const char *const words[] = {" a",  " word", " something-longer", "漢字", " naïve", " 👍",
                                        " x́y", "."};
    struct test_rng rng;
    test_rng_init(&rng, 1);
    event("{\"type\":\"hello\",\"model\":\"base\",\"streams\":[\"mic\",\"room\"]}");
    for (int i = 0; i < 2000; i++) {
        char json[256];
        int utt = 1 + i / 20;
        static const char *const types[] = {"commit", "commit", "partial", "final", "gap", "status"};
        const char *type = types[test_rng_int(&rng, 0, 5)];
        snprintf(json, sizeof(json),
                 "{\"type\":\"%s\",\"stream\":\"%s\",\"utt\":%d,\"text\":\"%s%s\",\"lost_ms\":500,\"cause\":"
                 "\"overload\","
                 "\"state\":\"speech\",\"device\":\"Ein Gerät\",\"level_db\":%d,\"lag_ms\":900}",
                 type, test_rng_int(&rng, 0, 1) ? "mic" : "room", utt, words[test_rng_int(&rng, 0, 7)],
                 words[test_rng_int(&rng, 0, 7)], -test_rng_int(&rng, 0, 100));
        event(json);
        char lines[64][512];
        int columns = test_rng_int(&rng, 2, 120), rows = test_rng_int(&rng, 1, 60);
        assert_int_equal(picture(columns, rows, lines), rows);
        for (int k = 0; k < rows; k++) {
            if (cells_text(lines[k]) > columns)
                fail_msg("%d cells in %d columns: \"%s\"", cells_text(lines[k]), columns, lines[k]);
        }
    }
}

int main(void)
{
    if (!setlocale(LC_CTYPE, "C.UTF-8"))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(words_roll_up_from_the_bottom, start, stop),
        cmocka_unit_test_setup_teardown(a_commit_takes_the_place_of_the_tentative_tail, start, stop),
        cmocka_unit_test_setup_teardown(the_transcript_breaks_between_words, start, stop),
        cmocka_unit_test_setup_teardown(widths_are_those_of_the_terminal, start, stop),
        cmocka_unit_test_setup_teardown(a_word_longer_than_a_line_is_cut, start, stop),
        cmocka_unit_test_setup_teardown(control_characters_reach_no_terminal, start, stop),
        cmocka_unit_test_setup_teardown(empty_utterances_take_no_place, start, stop),
        cmocka_unit_test_setup_teardown(streams_are_those_of_this_session_that_are_asked_for, start, stop),
        cmocka_unit_test_setup_teardown(several_streams_share_the_status_line, start, stop),
        cmocka_unit_test_setup_teardown(every_line_fits_at_any_size, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
