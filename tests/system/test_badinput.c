/* What a user may get wrong: each gives one clear message and the right exit status. */
#include "tests/support/daemon.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static struct daemon d;
static char model[1024];

static int set_up(void **state)
{
    daemon_init(&d);
    return 0;
}

static int tear_down(void **state)
{
    daemon_finish(&d);
    return 0;
}

static const char *needed_model(void)
{
    const char *found = test_model("tiny.en");
    if (!found)
        test_skip("no model tiny.en");
    snprintf(model, sizeof(model), "%s", found);
    return model;
}

/* Runs with these arguments; expects the status and one line of error that says all of this. */
static void expect(const char *const *args, int status, const char *const *says)
{
    unlink(d.log);
    daemon_start(&d, args);
    assert_int_equal(daemon_wait(&d), status);
    const char *log = daemon_log(&d), *error = strstr(log, "captiond: error: ");
    if (!error || strstr(error + 1, "captiond: error: "))
        fail_msg("not one error: %s", log);
    for (; error && *says; says++) {
        if (!strstr(error, *says))
            fail_msg("no \"%s\" in: %s", *says, log);
    }
    assert_int_equal(access(d.captions, F_OK), -1);
}

static void says_which_flag(void **state)
{
    expect((const char *[]){"--modle", "x", NULL}, 2,
           (const char *[]){"--modle", "did you mean model?", NULL});
}

static void says_which_line(void **state)
{
    FILE *f = fopen(d.config, "w");
    assert_non_null(f);
    fputs("# a comment\nstep = 10\n", f);
    fclose(f);
    expect(NULL, 2, (const char *[]){"captiond.conf:2: step", "100 to 5000", NULL});
}

static void says_how_to_get_a_model(void **state)
{
    expect((const char *[]){"--model", "enormous", NULL}, 1,
           (const char *[]){"enormous", "captiond-model", NULL});
}

static void says_which_model_is_missing(void **state)
{
    expect((const char *[]){"--model", "/nonexistent/model", NULL}, 1,
           (const char *[]){"/nonexistent/model", NULL});
}

/* A model that was cut off while it was copied. */
static void says_what_is_damaged(void **state)
{
    char command[2200], path[128];
    snprintf(path, sizeof(path), "%s/cut", d.dir);
    snprintf(command, sizeof(command),
             "cp -r '%s' '%s' && chmod -R u+w '%s' && truncate -s 1000000 '%s/model.bin'", needed_model(),
             path, path, path);
    assert_int_equal(system(command), 0);
    expect((const char *[]){"--model", path, NULL}, 1, (const char *[]){"model.bin", NULL});
}

static void says_which_file(void **state)
{
    expect((const char *[]){"--model", needed_model(), "--input", "file:/nonexistent/talk.wav", NULL}, 1,
           (const char *[]){"/nonexistent/talk.wav", NULL});
}

static void says_that_it_is_no_sound(void **state)
{
    char input[128];
    snprintf(input, sizeof(input), "file:%s", d.config);
    expect((const char *[]){"--model", needed_model(), "--input", input, NULL}, 1,
           (const char *[]){"captiond.conf", NULL});
}

static void says_what_a_source_is(void **state)
{
    expect((const char *[]){"--input", "cassette", NULL}, 2, (const char *[]){"cassette", "portaudio", NULL});
    expect((const char *[]){"--input", "pipe:44,1,s16le", NULL}, 2, (const char *[]){"--input", NULL});
}

static int run_with_input(const char *path)
{
    char command[2048];
    const char *build = getenv("CAPTIOND_BUILD") ? getenv("CAPTIOND_BUILD") : "build";
    snprintf(command, sizeof(command),
             "%s/captiond --model %s --input pipe:16000,1,s16le --socket none --once <%s 2>%s", build,
             needed_model(), path, d.log);
    int status = system(command); /* NOLINT: the test's own words */
    return WEXITSTATUS(status);
}

/* A pipe whose other end fails; here it is a folder. */
static void says_what_cannot_be_read_on(void **state)
{
    assert_int_equal(run_with_input("/"), 1);
    assert_non_null(strstr(daemon_log(&d), "error: pipe: standard input: Is a directory"));
}

/* A file that is not raw samples, or not of the format that the input says. */
static void says_what_a_pipe_does_not_take(void **state)
{
    static const char header[] =
        "RIFF....WAVEfmt \20\0\0\0\1\0\2\0\x44\xAC\0\0\x10\xB1\2\0\4\0\20\0data....\0\0\0";
    char path[100];
    assert_int_equal(run_with_input("tests/fixtures/harbour.flac"), 1);
    assert_non_null(strstr(daemon_log(&d), "error: pipe: standard input is a FLAC file"));
    snprintf(path, sizeof(path), "%s/x.wav", d.dir);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(header, sizeof(header), 1, f), 1);
    fclose(f);
    assert_int_equal(run_with_input(path), 0);
    assert_non_null(
        strstr(daemon_log(&d), "warning: pipe: standard input is a WAV file and says 44100,2,s16le"));
}

/* A shell's words end the command; returns its status. */
static int run_shell(const char *args, const char *redirection)
{
    char command[4096];
    const char *build = getenv("CAPTIOND_BUILD") ? getenv("CAPTIOND_BUILD") : "build";
    unlink(d.log);
    snprintf(command, sizeof(command), "%s/captiond --config %s %s 2>%s %s", build, d.config, args, d.log,
             redirection);
    return WEXITSTATUS(system(command)); /* NOLINT: the test's own words */
}

/* What a service manager or a shell may leave closed. */
static void says_what_is_closed(void **state)
{
    char args[1200];
    snprintf(args, sizeof(args), "--model %s --input pipe:16000,1,s16le --once", needed_model());
    assert_int_equal(run_shell(args, "<&-"), 1);
    assert_string_equal(daemon_log(&d), "captiond: error: input pipe: standard input is closed\n");
    assert_int_equal(run_shell(args, "</dev/null >&-"), 0);
    assert_int_equal(run_shell(args, "</dev/null 2>&-"), 0);
    snprintf(args, sizeof(args), "--model %s --input pipe:16000,1,s16le --once --stdout text",
             needed_model());
    assert_int_equal(run_shell(args, "</dev/null >&-"), 1);
    assert_string_equal(daemon_log(&d), "captiond: error: stdout: standard output is closed\n");
}

/* What is asked for and cannot be written. */
static void says_that_nothing_is_written(void **state)
{
    static const char *const asked[] = {"--help", "--version", "--print-config"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(run_shell(asked[i], ">/dev/full"), 1);
        assert_string_equal(daemon_log(&d),
                            "captiond: error: cannot write to standard output: No space left on device\n");
        assert_int_equal(run_shell(asked[i], ">&-"), 1);
        assert_string_equal(daemon_log(&d), "captiond: error: standard output is closed\n");
    }
}

/* A limit of a file's size is told like a full disk, and does not kill. */
static void says_what_is_too_large(void **state)
{
    char args[2300], out[128];
    struct rlimit limit;
    const char *speech = test_speech("en_arctic_aew_a0001.flac");
    if (!speech)
        test_skip("no recording en_arctic_aew_a0001.flac");
    snprintf(args, sizeof(args), "--model %s --input file:%s --pace fast --once --stdout jsonl",
             needed_model(), speech);
    snprintf(out, sizeof(out), ">%s/out", d.dir);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    struct rlimit small = {.rlim_cur = 600, .rlim_max = limit.rlim_max}; /* enough for the log */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int status = run_shell(args, out);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(status, 1);
    assert_non_null(strstr(daemon_log(&d), "error: standard output: File too large"));
}

static void says_what_a_model_speaks(void **state)
{
    expect((const char *[]){"--model", needed_model(), "--language", "de", "--input", "pipe:16000,1,s16le",
                            NULL},
           2, (const char *[]){"only English", NULL});
}

static void says_which_device(void **state)
{
    expect((const char *[]){"--model", needed_model(), "--input", "portaudio:No such microphone", NULL}, 1,
           (const char *[]){"No such microphone", NULL});
}

/* Told to, it waits for the device, ready, and says so; clients see it, and pausing and stopping work. */
static void waits_for_a_device(void **state)
{
    struct lines *l = malloc(sizeof(*l));
    daemon_start(&d, (const char *[]){"--model", needed_model(), "--input", "portaudio:No such microphone",
                                      "--wait-for-device", "yes", NULL});
    daemon_wait_log(&d, "ready: ");
    lines_init(l, daemon_connect(d.captions));
    char *line = lines_await(l, "status");
    assert_string_equal(line_string(line, "state"), "no_device");
    int control = daemon_connect(d.control);
    send_all(control, "{\"cmd\":\"pause\"}\n");
    do
        line = lines_await(l, "status");
    while (strcmp(line_string(line, "state"), "paused") != 0);
    send_all(control, "{\"cmd\":\"resume\"}\n");
    do
        line = lines_await(l, "status");
    while (strcmp(line_string(line, "state"), "no_device") != 0);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    close(control);
    close(l->fd);
    free(l);
}

static void helps(void **state)
{
    static char text[32 * 1024];
    daemon_start(&d, (const char *[]){"--help", NULL});
    size_t used = 0;
    ssize_t n;
    while ((n = read(d.out, text + used, sizeof(text) - 1 - used)) > 0)
        used += (size_t)n;
    assert_int_equal(daemon_wait(&d), 0);
    assert_non_null(strstr(text, "usage: captiond"));
    assert_non_null(strstr(text, "--wait-for-device auto|yes|no"));
    assert_string_equal(daemon_log(&d), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(says_which_flag, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_which_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_how_to_get_a_model, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_which_model_is_missing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_what_is_damaged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_which_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_that_it_is_no_sound, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_what_a_source_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_what_cannot_be_read_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_what_a_pipe_does_not_take, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_what_is_closed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_that_nothing_is_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_what_is_too_large, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_what_a_model_speaks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_which_device, set_up, tear_down),
        cmocka_unit_test_setup_teardown(waits_for_a_device, set_up, tear_down),
        cmocka_unit_test_setup_teardown(helps, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
