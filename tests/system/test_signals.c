/* Signals: the last words, the clients that are told, the two seconds, the second signal, and reload; and standard
 * output, whose reader may go away or sleep. */
#include "tests/support/daemon.h"

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/clock.h"

static struct daemon d;
static struct lines *l;

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

static void start_on(const char *recording, const char *const *more)
{
    static char model[1024], input[1100];
    const char *found = test_model("tiny.en"), *speech = test_speech(recording);
    if (!found || !speech)
        test_skip("no model tiny.en or no recording %s", recording);
    snprintf(model, sizeof(model), "%s", found);
    snprintf(input, sizeof(input), "mic=file:%s", speech);
    const char *args[DAEMON_ARGS_MAX] = {"--model", model, "--threads", "2", "--input", input};
    for (int n = 6; more && *more; n++)
        args[n] = *more++;
    daemon_start(&d, args);
}

static void write_config(const char *text)
{
    FILE *f = fopen(d.config, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* In the middle of a sentence: its words are committed, or what is missing is a gap; final and bye; within two seconds. */
static void finishes_the_last_words(int signum)
{
    char *line;
    bool final = false, rest = false;
    start_on("en_two_cities.flac", NULL);
    lines_init(l, daemon_connect(d.captions));
    lines_await(l, "commit");
    int64_t began = clock_now_ns();
    kill(d.pid, signum);
    while ((line = lines_next(l, DAEMON_TIMEOUT_MS)) && !line_is(line, "bye")) {
        rest |= line_is(line, "commit") || line_is(line, "gap");
        final |= line_is(line, "final");
    }
    assert_non_null(line);
    assert_string_equal(line_string(line, "reason"), "shutdown");
    assert_true(final);
    assert_true(rest);
    assert_null(lines_next(l, DAEMON_TIMEOUT_MS));
    assert_int_equal(daemon_wait(&d), 0);
    double seconds = (double)(clock_now_ns() - began) * 1e-9;
    print_message("ended %.2f s after the signal\n", seconds);
    assert_true(seconds <
                2.2 * DAEMON_SLOWNESS); /* two seconds, and the scheduler's share on a loaded machine */
    assert_int_equal(access(d.captions, F_OK), -1);
    close(l->fd);
}

static void ends_on_sigterm(void **state)
{
    finishes_the_last_words(SIGTERM);
}

static void ends_on_sigint(void **state)
{
    finishes_the_last_words(SIGINT);
}

/* Before it is ready there is nothing to finish. */
static void ends_while_loading(void **state)
{
    const char *model = test_model("tiny.en");
    if (!model)
        test_skip("no model tiny.en");
    daemon_start(&d, (const char *[]){"--model", model, "--input", "pipe:16000,1,s16le", NULL});
    for (int i = 0; i < DAEMON_TIMEOUT_MS / 10 && access(d.control, F_OK) != 0; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    nanosleep(&(struct timespec){.tv_nsec = 20000000},
              NULL); /* the handlers are set right after the sockets */
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    assert_int_equal(access(d.captions, F_OK), -1);
}

/* A stopped process gets both signals at once, so the second meets the first one's work. */
static void ends_at_once_on_a_second_signal(void **state)
{
    start_on("en_two_cities.flac", NULL);
    lines_init(l, daemon_connect(d.captions));
    lines_await(l, "partial");
    kill(d.pid, SIGSTOP);
    kill(d.pid, SIGINT);
    kill(d.pid, SIGTERM);
    kill(d.pid, SIGCONT);
    assert_int_equal(daemon_wait(&d), 1);
    assert_int_equal(access(d.captions, F_OK), -1);
    close(l->fd);
}

/* timeout(1) signals the process, and then the group that it is in. */
static void takes_an_echo_for_one_signal(void **state)
{
    start_on("en_two_cities.flac", NULL);
    lines_init(l, daemon_connect(d.captions));
    lines_await(l, "partial");
    kill(d.pid, SIGTERM);
    usleep(10000);
    kill(d.pid, SIGTERM);
    assert_string_equal(line_string(lines_await(l, "bye"), "reason"), "shutdown");
    assert_int_equal(daemon_wait(&d), 0);
    close(l->fd);
}

/* A recording is over, and its end waits for a reader who sleeps: the first signal to come is a first one. */
static void ends_on_a_signal_while_it_ends(void **state)
{
    start_on("en_two_cities.flac", (const char *[]){"--stdout", "jsonl", "--pace", "fast", "--once", NULL});
    assert_true(fcntl(d.out, F_SETPIPE_SZ, 4096) >= 0);
    lines_init(l, daemon_connect(d.captions));
    assert_string_equal(line_string(lines_await(l, "bye"), "reason"), "end");
    int64_t began = clock_now_ns();
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    assert_true((double)(clock_now_ns() - began) * 1e-9 < 2.2 * DAEMON_SLOWNESS);
    assert_null(strstr(daemon_log(&d), "second signal"));
    close(l->fd);
}

/* A window that is closed takes the captions with it: nobody would see that the microphone is still open. The shell's
 * signal and the kernel's are one wish, and the last words come. */
static void ends_with_its_terminal(void **state)
{
    int master;
    char input[1100];
    const char *model = test_model("tiny.en"), *speech = test_speech("en_two_cities.flac");
    if (!model || !speech)
        test_skip("no model tiny.en or no recording en_two_cities.flac");
    snprintf(input, sizeof(input), "file:%s", speech);
    d.pid = forkpty(&master, NULL, NULL, NULL);
    assert_true(d.pid >= 0);
    if (d.pid == 0) {
        execl(daemon_program(), daemon_program(), "--config", d.config, "--socket", d.captions, "--model",
              model, "--input", input, "--allow-core-dumps=on", NULL);
        _exit(127);
    }
    lines_init(l, daemon_connect(d.captions));
    lines_await(l, "status");
    kill(d.pid, SIGHUP); /* the terminal is there: a wish to reread */
    struct lines *terminal = malloc(sizeof(*terminal));
    lines_init(terminal, master);
    while (!strstr(lines_next(terminal, DAEMON_TIMEOUT_MS), "configuration reread"))
        continue;
    free(terminal);
    lines_await(l, "partial");
    close(master);
    usleep(20000); /* until the first is taken in: of two that wait the kernel makes one */
    kill(d.pid, SIGHUP);
    lines_await(l, "final");
    assert_string_equal(line_string(lines_await(l, "bye"), "reason"), "shutdown");
    assert_int_equal(daemon_wait(&d), 0);
    close(l->fd);
}

static void rereads_the_configuration(void **state)
{
    write_config("history-events = 100\n");
    daemon_start_idle(&d, NULL);
    write_config("history-events = 200\nstep = 900\n");
    kill(d.pid, SIGHUP);
    daemon_wait_log(&d, "configuration reread");
    assert_non_null(strstr(daemon_log(&d), "history-events is now 200"));
    assert_non_null(strstr(daemon_log(&d), "step has changed: it takes effect after a restart"));
    write_config("history-events = many\n");
    kill(d.pid, SIGHUP);
    daemon_wait_log(&d, "the configuration stays as it was");
    assert_non_null(strstr(daemon_log(&d), ":1: history-events: must be 16 to"));
    lines_init(l, daemon_connect(d.captions));
    lines_await(l, "hello");
    close(l->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* `captiond --stdout text | head -1`: the first line comes as soon as it is said, and a closed pipe is no error. */
static void ends_quietly_without_a_reader(void **state)
{
    char *line;
    start_on("en_harvard_8k.flac",
             (const char *[]){"--socket", "none", "--stdout", "text", "--pace", "fast", "--once", NULL});
    lines_init(l, d.out);
    line = lines_next(l, DAEMON_TIMEOUT_MS);
    assert_non_null(line);
    assert_non_null(strcasestr(line, "please most any girl"));
    close(d.out);
    d.out = -1;
    assert_int_equal(daemon_wait(&d), 0);
    assert_null(strstr(daemon_log(&d), "standard output"));
}

/* A reader of standard output that sleeps stops neither the loop nor the end, and what it has not taken is told. */
static void does_not_wait_for_standard_output(void **state)
{
    start_on("en_two_cities.flac", (const char *[]){"--stdout", "jsonl", "--pace", "fast", NULL});
    assert_true(fcntl(d.out, F_SETPIPE_SZ, 4096) >= 0); /* less than 12 commits and what goes with them */
    lines_init(l, daemon_connect(d.captions));
    for (int i = 0; i < 12; i++)
        lines_await(l, "commit");
    int64_t began = clock_now_ns();
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    assert_true((double)(clock_now_ns() - began) * 1e-9 < 2.2 * DAEMON_SLOWNESS);
    close(l->fd);
    assert_non_null(strstr(daemon_log(&d), "standard output was not read to the end: events "));
}

/* Whoever reads the log sleeps, and its pipe is full: neither captions nor a stop wait for that, and what is missing is told. */
static void does_not_wait_for_its_log(void **state)
{
    static const char filler[4096];
    char text[4096] = "";
    const char *model = test_model("tiny.en");
    if (!model)
        test_skip("no model tiny.en");
    assert_int_equal(mkfifo(d.log, 0600), 0);
    int log = open(d.log, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    assert_true(log >= 0 && fcntl(log, F_SETPIPE_SZ, 4096) == 4096);
    assert_int_equal(write(log, filler, sizeof(filler)), sizeof(filler));
    daemon_start(&d, (const char *[]){"--model", model, "--input", "pipe:16000,1,s16le", NULL});
    lines_init(l, daemon_connect(d.captions));
    lines_await(l, "status");
    int control = daemon_connect(d.control);
    send_all(control, "{\"cmd\":\"pause\"}\n");
    while (strcmp(line_string(lines_await(l, "status"), "state"), "paused") != 0)
        continue;
    assert_int_equal(read(log, text, sizeof(text)), sizeof(filler));
    kill(d.pid, SIGHUP);
    for (int i = 0; i < DAEMON_TIMEOUT_MS / 10 && !strstr(text, "\n"); i++) {
        if (read(log, text, sizeof(text) - 1) < 0)
            usleep(10000);
    }
    assert_non_null(strstr(text, "lines of the log are lost: standard error was not read\ncaptiond: "));
    while (read(log, text, sizeof(text)) > 0)
        continue;
    assert_int_equal(write(log, filler, sizeof(filler)), sizeof(filler));
    int64_t began = clock_now_ns();
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    assert_true((double)(clock_now_ns() - began) * 1e-9 < 2.2 * DAEMON_SLOWNESS);
    close(control);
    close(log);
    close(l->fd);
}

/* A terminal that nobody reads any more says that it is ready when it has room for less than a line. */
static void does_not_wait_for_its_terminal(void **state)
{
    int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    const char *model = test_model("tiny.en");
    if (!model)
        test_skip("no model tiny.en");
    assert_true(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    assert_int_equal(ptsname_r(terminal, d.log, sizeof(d.log)), 0);
    daemon_start(&d, (const char *[]){"--model", model, "--input", "pipe:16000,1,s16le", NULL});
    lines_init(l, daemon_connect(d.control));
    for (int i = 0; i < 2000; i++) { /* each has a line */
        send_all(l->fd, i % 2 ? "{\"cmd\":\"set\",\"key\":\"guard\",\"value\":\"true\"}\n"
                              : "{\"cmd\":\"set\",\"key\":\"guard\",\"value\":\"false\"}\n");
        assert_true(line_is(lines_next(l, DAEMON_TIMEOUT_MS), "reply"));
    }
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    close(l->fd);
    close(terminal);
}

/* text and jsonl say the same. */
static void prints_what_it_tells(void **state)
{
    char text[4096] = "", told[4096] = "";
    char *line;
    start_on("en_arctic_aew_a0001.flac",
             (const char *[]){"--stdout", "text", "--pace", "fast", "--once", NULL});
    lines_init(l, d.out);
    while ((line = lines_next(l, DAEMON_TIMEOUT_MS))) {
        test_append(text, sizeof(text), " ");
        test_append(text, sizeof(text), line);
    }
    assert_int_equal(daemon_wait(&d), 0);
    start_on("en_arctic_aew_a0001.flac",
             (const char *[]){"--stdout", "jsonl", "--pace", "fast", "--once", NULL});
    lines_init(l, d.out);
    assert_true(line_is(lines_next(l, DAEMON_TIMEOUT_MS), "hello"));
    bool bye = false;
    while ((line = lines_next(l, DAEMON_TIMEOUT_MS))) {
        assert_false(bye);
        bye = line_is(line, "bye");
        if (bye)
            assert_string_equal(line_string(line, "reason"), "end");
        if (line_is(line, "commit"))
            test_append(told, sizeof(told), line_string(line, "text"));
    }
    assert_true(bye);
    assert_int_equal(daemon_wait(&d), 0);
    assert_string_equal(text, told);
}

/* No word of what was said gets into the log, at any level. */
static void keeps_speech_out_of_the_log(void **state)
{
    start_on("en_arctic_aew_a0001.flac",
             (const char *[]){"--log-level", "info", "--stdout", "text", "--pace", "fast", "--once", NULL});
    assert_int_equal(daemon_wait(&d), 0);
    static const char *const words[] = {"author", "danger", "trail", "philip"};
    for (int i = 0; i < 4; i++)
        assert_null(strcasestr(daemon_log(&d), words[i]));
    assert_non_null(strstr(daemon_log(&d), "ready: "));
}

/* Other processes of the same user cannot look into its memory: /proc/PID/mem belongs to root. */
static void hides_its_memory(void **state)
{
    char path[64];
    struct stat st;
    const char *model = test_model("tiny.en");
    if (DAEMON_SLOWNESS > 1)
        test_skip("a sanitizer build runs with core dumps allowed");
    if (!model)
        test_skip("no model tiny.en");
    if (geteuid() == 0)
        assert_int_equal(setegid(65534), 0); /* so that root's files show */
    daemon_start_idle(&d, NULL);
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)d.pid);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_gid, 0);
    snprintf(path, sizeof(path), "/proc/%d/limits", (int)d.pid);
    FILE *f = fopen(path, "r");
    char text[128];
    bool none = false;
    while (f && fgets(text, sizeof(text), f))
        none |= strstr(text, "Max core file size        0                    0") != NULL;
    if (f)
        fclose(f);
    if (geteuid() == 0)
        assert_int_equal(setegid(0), 0);
    assert_true(none);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ends_on_sigterm, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ends_on_sigint, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ends_while_loading, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ends_at_once_on_a_second_signal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(takes_an_echo_for_one_signal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ends_on_a_signal_while_it_ends, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ends_with_its_terminal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rereads_the_configuration, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ends_quietly_without_a_reader, set_up, tear_down),
        cmocka_unit_test_setup_teardown(does_not_wait_for_standard_output, set_up, tear_down),
        cmocka_unit_test_setup_teardown(does_not_wait_for_its_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(does_not_wait_for_its_terminal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(prints_what_it_tells, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keeps_speech_out_of_the_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hides_its_memory, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
