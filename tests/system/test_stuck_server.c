/* A sound server that stops in the middle and never answers again: the daemon tells its clients, and ends with a failure, so
 * that whoever manages it starts another. */
#include "tests/support/daemon.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/base/clock.h"

#define SCRIPT "tests/system/virtual-microphone.sh"
#define MS     1000000LL

static struct daemon d;
static struct lines *l;
static bool available;

static int script(const char *action)
{
    char command[256];
    snprintf(command, sizeof(command), "sh " SCRIPT " %s %s/vmic > %s/vmic.env", action, d.dir, d.dir);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static pid_t server_pid(void)
{
    char path[128];
    int pid = 0;
    snprintf(path, sizeof(path), "%s/vmic/pid", d.dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &pid), 1);
    fclose(f);
    return pid;
}

static void take_environment(void)
{
    char path[128], line[512];
    snprintf(path, sizeof(path), "%s/vmic.env", d.dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        char *value = strchr(line, '=');
        assert_non_null(value);
        *value = '\0';
        setenv(line, value + 1, 1);
    }
    fclose(f);
}

static int set_up(void **state)
{
    daemon_init(&d);
    l = malloc(sizeof(*l));
    int r = script("start");
    available = r == 0;
    return l && (r == 0 || r == 77) ? 0 : -1;
}

static int tear_down(void **state)
{
    if (available) {
        kill(server_pid(), SIGCONT);
        script("stop");
        usleep(200000);
    }
    daemon_finish(&d);
    free(l);
    return 0;
}

static int count_lines(const char *text, const char *with)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, with)); at++)
        n++;
    return n;
}

/* By itself, when no sound comes any more; or because of a pause, which closes the device. */
static void check_end(bool pause)
{
    const char *model = test_model("tiny.en");
    if (!available)
        test_skip("neither pulseaudio nor PipeWire's Pulse server is installed");
    if (!model)
        test_skip("no model tiny.en");
    take_environment();
    daemon_start(&d, (const char *[]){"--model", model, "--threads", "2", "--input", "portaudio", NULL});
    daemon_wait_log(&d, "ready: ");
    lines_init(l, daemon_connect(d.captions));
    lines_await(l, "hello");
    kill(server_pid(), SIGSTOP);
    if (pause) {
        int control = daemon_connect(d.control);
        send_all(control, "{\"cmd\":\"pause\"}\n");
        close(control);
    }
    char *bye = lines_await(l, "bye");
    int64_t told_ns = clock_now_ns();
    assert_string_equal(line_string(bye, "reason"), "error");
    assert_string_equal(line_string(bye, "message"),
                        "mic: the sound server does not answer and holds the device");
    assert_int_equal(daemon_wait(&d), 1);
    assert_true(clock_now_ns() - told_ns < 2000 * MS * DAEMON_SLOWNESS); /* what a stop is given */
    assert_int_equal(count_lines(daemon_log(&d), "captiond ends, as only another one"), 1);
    assert_int_not_equal(access(d.captions, F_OK), 0);
    close(l->fd);
}

static void ends_when_the_server_stops(void **state)
{
    check_end(false);
}

static void ends_when_a_pause_hangs(void **state)
{
    check_end(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ends_when_the_server_stops, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ends_when_a_pause_hangs, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
