/* Settings of a running daemon: `set` on the control socket, what a model cannot do, and SIGHUP; and
 * what `status` says of a pause. */
#include "tests/support/daemon.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sndfile.h>

static struct daemon d;
static struct lines *l; /* of the control socket */

static int set_up(void **state)
{
    daemon_init(&d);
    l = malloc(sizeof(*l));
    return l ? 0 : -1;
}

static int tear_down(void **state)
{
    daemon_finish(&d);
    free(l);
    return 0;
}

static char *ask(const char *request)
{
    send_all(l->fd, request);
    char *line = lines_next(l, DAEMON_TIMEOUT_MS);
    assert_non_null(line);
    return line;
}

static void expect(const char *line, const char *part)
{
    if (!strstr(line, part))
        fail_msg("%s is missing in %s", part, line);
}

#define SET(key, value) ask("{\"cmd\":\"set\",\"key\":\"" key "\",\"value\":\"" value "\"}\n")

/* One that knows only English refuses the rest and stays as it is; other settings change. */
static void refuses_what_the_model_cannot(void **state)
{
    daemon_start_idle(&d, NULL);
    lines_init(l, daemon_connect(d.control));
    const char *line = SET("language", "de");
    assert_true(line_is(line, "error"));
    expect(line, "knows only English, not de");
    line = SET("task", "translate");
    assert_true(line_is(line, "error"));
    expect(line, "cannot translate");
    line = SET("step", "900");
    assert_true(line_is(line, "error"));
    expect(line,
           "step: needs a restart; what can change while captiond runs: language, language-lock, task,");
    line = ask("{\"cmd\":\"set\"}\n");
    assert_true(line_is(line, "reply"));
    expect(line, "\"settings\":{\"language\":\"auto\",\"language-lock\":\"on\",\"task\":\"transcribe\",");
    expect(line, "\"log-level\":\"info\"}");
    expect(SET("log-level", "warning"), "\"log-level\":\"warning\"");
    expect(daemon_log(&d), "log-level is now warning");
    expect(SET("language", "English"), "\"language\":\"English\"");
    line = ask("{\"cmd\":\"status\"}\n");
    assert_string_equal(line_string(line, "language"), "en");
    assert_string_equal(line_string(line, "task"), "transcribe");
    close(l->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

static void write_config(const char *text)
{
    FILE *f = fopen(d.config, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* What the model is told of, and how hard it searches: within the memory that was taken at the start. */
static void changes_what_the_model_is_told(void **state)
{
    char long_text[400] = "{\"cmd\":\"set\",\"key\":\"prompt\",\"value\":\"";
    while (strlen(long_text) < 290)
        test_append(long_text, sizeof(long_text), "x ");
    test_append(long_text, sizeof(long_text), "\"}\n");
    daemon_start_idle(&d, (const char *[]){"--beam-size", "2", "--hotwords", "Subiaco", NULL});
    lines_init(l, daemon_connect(d.control));
    const char *line = SET("hotwords", "Schöffer, Sweynheim");
    expect(line, "\"hotwords\":\"Schöffer, Sweynheim\",\"prompt\":\"\"");
    expect(SET("prompt", "Of printers."), "\"prompt\":\"Of printers.\"");
    assert_null(strstr(daemon_log(&d), "Schöffer")); /* names are nobody's business */
    expect(daemon_log(&d), "hotwords has changed");
    line = ask(long_text);
    assert_true(line_is(line, "error"));
    expect(line, "hotwords and prompt together: ");
    expect(line, "but only 111 fit");
    line = SET("beam-size", "3");
    assert_true(line_is(line, "error"));
    expect(line, "beam-size: at most 2 in this run");
    expect(SET("beam-size", "1"), "\"beam-size\":\"1\"");
    expect(SET("beam-size", "2"), "\"beam-size\":\"2\"");
    expect(SET("hotwords", ""), "\"hotwords\":\"\",\"prompt\":\"Of printers.\"");
    expect(SET("guard", "off"), "\"guard\":\"off\"");
    expect(SET("language-lock", "off"), "\"language-lock\":\"off\"");
    close(l->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* What `set` answers is what decodes. One hypothesis at the start is all that there is memory for; of five with sixteen inputs it
 * is four, which a file that says five, or nothing, does not change. */
static void answers_with_the_hypotheses_in_use(void **state)
{
    const char *model = test_model("tiny.en");
    const char *args[DAEMON_ARGS_MAX] = {"--model", model, "--input", "pipe:16000,1,s16le"};
    if (!model)
        test_skip("no model tiny.en");
    daemon_start_idle(&d, (const char *[]){"--beam-size", "1", NULL});
    lines_init(l, daemon_connect(d.control));
    expect(SET("beam-size", "5"), "beam-size: at most 1 in this run");
    close(l->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    for (int n = 4; n < 34; n += 2) {
        args[n] = "--input";
        args[n + 1] = "file:tests/fixtures/harbour.flac";
    }
    unlink(d.log);
    daemon_start(&d, args);
    daemon_wait_log(&d, "ready: ");
    lines_init(l, daemon_connect(d.control));
    expect(ask("{\"cmd\":\"set\"}\n"), "\"beam-size\":\"4\"");
    expect(SET("beam-size", "5"), "beam-size: at most 4 in this run");
    expect(SET("prompt", "Of harbours."), "\"beam-size\":\"4\"");
    kill(d.pid, SIGHUP);
    daemon_wait_log(&d, "configuration reread from ");
    assert_null(strstr(daemon_log(&d), "beam-size is now"));
    assert_null(strstr(daemon_log(&d), "error"));
    close(l->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* At the start too long a text is an error as well, and the end. */
static void refuses_a_long_prompt(void **state)
{
    const char *model = test_model("tiny.en");
    if (!model)
        test_skip("no model tiny.en");
    char text[300] = "";
    while (strlen(text) < 290)
        test_append(text, sizeof(text), "x ");
    daemon_start(&d,
                 (const char *[]){"--model", model, "--input", "pipe:16000,1,s16le", "--prompt", text, NULL});
    assert_int_equal(daemon_wait(&d), 2);
    expect(daemon_log(&d), "hotwords and prompt together: ");
}

/* A multilingual one goes along, also by its file, which is what holds after SIGHUP. */
static void changes_language_and_task(void **state)
{
    const char *model = test_model("base");
    if (!model)
        test_skip("no model base");
    daemon_start(&d, (const char *[]){"--model", model, "--input", "pipe:16000,1,s16le", NULL});
    daemon_wait_log(&d, "ready: ");
    lines_init(l, daemon_connect(d.control));
    expect(SET("language", "de"), "\"language\":\"de\",\"language-lock\":\"on\",\"task\":\"transcribe\"");
    expect(SET("task", "translate"), "\"language\":\"de\",\"language-lock\":\"on\",\"task\":\"translate\"");
    const char *line = SET("language", "yue"); /* which larger models have */
    assert_true(line_is(line, "error"));
    expect(line, "does not know yue");
    line = ask("{\"cmd\":\"status\"}\n");
    assert_string_equal(line_string(line, "language"), "de");
    assert_string_equal(line_string(line, "task"), "translate");
    write_config("language = yue\nclients-max = 99\n");
    kill(d.pid, SIGHUP);
    daemon_wait_log(&d, "captiond.conf, all but the settings of decoding");
    expect(daemon_log(&d), "captiond.conf: language: ");
    expect(daemon_log(&d), "clients-max is now 99");
    write_config("language = fr\n");
    kill(d.pid, SIGHUP);
    daemon_wait_log(&d, "language is now fr");
    daemon_wait_log(&d, "task is now transcribe");
    line = ask("{\"cmd\":\"status\"}\n");
    assert_string_equal(line_string(line, "language"), "fr");
    assert_string_equal(line_string(line, "task"), "transcribe");
    close(l->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* Without --config it is looked for anew: where there was none, one may have come. */
static void rereads_the_file_that_is_there(void **state)
{
    const char *model = test_model("tiny.en");
    char home[100], path[200];
    if (!model)
        test_skip("no model tiny.en");
    snprintf(home, sizeof(home), "XDG_CONFIG_HOME=%s", d.dir);
    snprintf(path, sizeof(path), "%s/captiond", d.dir);
    d.no_config = true;
    daemon_exec(
        &d, (const char *[]){"--model", model, "--input", "pipe:16000,1,s16le", "--socket", d.captions, NULL},
        (const char *[]){home, NULL}, NULL, 0);
    daemon_wait_log(&d, "ready: ");
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(d.config, sizeof(d.config), "%s/captiond/captiond.conf", d.dir);
    write_config("clients-max = 99\n");
    kill(d.pid, SIGHUP);
    snprintf(path, sizeof(path), "configuration reread from %s", d.config);
    daemon_wait_log(&d, path);
    expect(daemon_log(&d), "clients-max is now 99");
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* Speaks the fixture's first sentence, and returns what is committed of it. */
static const char *say_first_sentence(struct lines *captions)
{
    enum { SPEECH = 16000 * 26 / 10, PAUSE = 16000 * 2 };
    static short pcm[SPEECH + PAUSE];
    static char text[400];
    SF_INFO info = {0};
    SNDFILE *f = sf_open("tests/fixtures/harbour.flac", SFM_READ, &info);
    assert_non_null(f);
    assert_int_equal(sf_readf_short(f, pcm, SPEECH), SPEECH);
    sf_close(f);
    for (size_t sent = 0; sent < sizeof(pcm);) {
        ssize_t n = write(d.in, (char *)pcm + sent, sizeof(pcm) - sent);
        assert_true(n > 0);
        sent += (size_t)n;
    }
    text[0] = '\0';
    for (char *line; (line = lines_next(captions, DAEMON_TIMEOUT_MS)) && !line_is(line, "final");) {
        if (line_is(line, "commit"))
            test_append(text, sizeof(text), line_string(line, "text"));
    }
    return text;
}

/* The same words, spelt as it is told: in America, and from then on in Britain. */
static void the_next_sentence_follows_a_setting(void **state)
{
    static struct lines captions;
    daemon_start_idle(&d, (const char *[]){"--beam-size", "1", NULL});
    lines_init(l, daemon_connect(d.control));
    lines_init(&captions, daemon_connect(d.captions));
    /* Who says nothing is served after 250 ms, and by then the sentence may be over. */
    send_all(captions.fd, "{\"cmd\":\"subscribe\",\"from_seq\":1}\n");
    expect(say_first_sentence(&captions), "harbor ");
    expect(SET("hotwords", "harbour"), "\"hotwords\":\"harbour\"");
    expect(say_first_sentence(&captions), "harbour ");
    close(captions.fd);
    close(l->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* The reply to `pause` is a promise: whoever asks next hears of the pause, though the input takes a moment for it. */
static void tells_a_pause_at_once(void **state)
{
    daemon_start_idle(&d, NULL);
    lines_init(l, daemon_connect(d.control));
    for (int i = 0; i < 5; i++) {
        assert_true(line_is(ask("{\"cmd\":\"pause\"}\n"), "reply"));
        expect(ask("{\"cmd\":\"status\"}\n"), "\"state\":\"paused\"");
        assert_true(line_is(ask("{\"cmd\":\"resume\"}\n"), "reply"));
    }
    close(l->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* A pause, and an input that nothing comes from, are told in the log, but are no trouble. */
static void warns_of_no_wish(void **state)
{
    static const char second[2 * 16000];
    daemon_start_idle(&d, NULL);
    daemon_wait_log(&d, "captiond: pipe: silent: no sound has come for some seconds");
    lines_init(l, daemon_connect(d.control));
    assert_true(line_is(ask("{\"cmd\":\"pause\"}\n"), "reply"));
    daemon_wait_log(&d, "captiond: pipe: paused");
    assert_int_equal(write(d.in, second, sizeof(second)), sizeof(second));
    for (int left = 1; left > 0; usleep(10000)) /* it is read at the speed of sound */
        assert_int_equal(ioctl(d.in, FIONREAD, &left), 0);
    assert_true(line_is(ask("{\"cmd\":\"resume\"}\n"), "reply"));
    daemon_wait_log(&d, " ms were not captioned (pause)");
    assert_null(strstr(daemon_log(&d), "warning: pipe"));
    close(l->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(refuses_what_the_model_cannot, set_up, tear_down),
        cmocka_unit_test_setup_teardown(changes_language_and_task, set_up, tear_down),
        cmocka_unit_test_setup_teardown(changes_what_the_model_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(answers_with_the_hypotheses_in_use, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_next_sentence_follows_a_setting, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_a_long_prompt, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rereads_the_file_that_is_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(tells_a_pause_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(warns_of_no_wish, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
