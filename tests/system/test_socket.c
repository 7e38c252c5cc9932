/* Where the sockets are, whose they are, and how they are handed over. */
#include "tests/support/daemon.h"

#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct daemon d;

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

static int bound_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void makes_and_removes_its_sockets(void **state)
{
    struct stat st;
    daemon_start_idle(&d, (const char *[]){"--socket-mode", "0666", NULL});
    assert_int_equal(stat(d.captions, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0666);
    assert_int_equal(stat(d.control, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    assert_int_equal(stat(d.captions, &st), -1);
    assert_int_equal(stat(d.control, &st), -1);
}

/* A crash leaves its socket behind: the next daemon takes the path over. */
static void replaces_a_leftover(void **state)
{
    daemon_start_idle(&d, NULL);
    kill(d.pid, SIGKILL);
    assert_int_equal(daemon_wait(&d), 128 + SIGKILL);
    assert_int_equal(access(d.captions, F_OK), 0);
    daemon_start_idle(&d, NULL);
    struct lines *l = test_malloc(sizeof(*l));
    lines_init(l, daemon_connect(d.captions));
    lines_await(l, "hello");
    close(l->fd);
    test_free(l);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* A living one is left alone, and goes on. */
static void refuses_a_living_socket(void **state)
{
    int fd = bound_socket(d.captions);
    assert_int_equal(listen(fd, 4), 0);
    daemon_start(&d, NULL);
    assert_int_equal(daemon_wait(&d), 1);
    assert_non_null(strstr(daemon_log(&d), "in use by a living process"));
    int client = daemon_connect(d.captions);
    close(client);
    close(fd);
}

/* A second one in the same folder has captions of its own, and is told what is missing. */
static void says_which_socket_is_another_ones(void **state)
{
    char captions[128];
    int fd = bound_socket(d.control);
    assert_int_equal(listen(fd, 4), 0);
    snprintf(captions, sizeof(captions), "%s/second.sock", d.dir);
    daemon_exec(&d, (const char *[]){"--socket", captions, NULL}, NULL, NULL, 0);
    assert_int_equal(daemon_wait(&d), 1);
    assert_non_null(strstr(daemon_log(&d), "control.sock is in use by a living process"));
    assert_non_null(strstr(daemon_log(&d), "; give this one another --control, or none\n"));
    assert_int_equal(access(captions, F_OK), -1);
    close(fd);
}

static void refuses_a_file_in_the_way(void **state)
{
    FILE *f = fopen(d.captions, "w");
    fputs("precious", f);
    fclose(f);
    daemon_start(&d, NULL);
    assert_int_equal(daemon_wait(&d), 1);
    assert_non_null(strstr(daemon_log(&d), "is not a socket"));
    assert_int_equal(access(d.captions, F_OK), 0);
}

static void refuses_a_long_path(void **state)
{
    char path[200];
    snprintf(path, sizeof(path), "%s/%0150d", d.dir, 0);
    daemon_exec(&d, (const char *[]){"--socket", path, NULL}, NULL, NULL, 0);
    assert_int_equal(daemon_wait(&d), 2);
    assert_non_null(strstr(daemon_log(&d), "at most 107"));
}

static void refuses_a_folder_that_cannot_be(void **state)
{
    daemon_exec(&d, (const char *[]){"--socket", "/proc/nowhere/captions.sock", NULL}, NULL, NULL, 0);
    assert_int_equal(daemon_wait(&d), 1);
    assert_non_null(
        strstr(daemon_log(&d), "no folder for the socket /proc/nowhere/captions.sock: No such file"));
}

/* Without arguments the sockets are where XDG_RUNTIME_DIR says, in a folder of their own that only we can enter. */
static void uses_the_runtime_folder(void **state)
{
    char env[128], path[128];
    struct stat st;
    const char *model = test_model("tiny.en");
    if (!model)
        test_skip("no model tiny.en");
    snprintf(env, sizeof(env), "XDG_RUNTIME_DIR=%s", d.dir);
    daemon_exec(&d, (const char *[]){"--model", model, "--input", "pipe:16000,1,s16le", NULL},
                (const char *[]){env, NULL}, NULL, 0);
    snprintf(path, sizeof(path), "%s/captiond/control.sock", d.dir);
    close(daemon_connect(path));
    snprintf(path, sizeof(path), "%s/captiond", d.dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

/* Sockets from a service manager, by name; a client that connected before the daemon ran is served, and the paths stay. */
static void takes_sockets_that_are_passed(void **state)
{
    const char *model = test_model("tiny.en");
    char control[128];
    struct lines *l = test_malloc(sizeof(*l));
    if (!model)
        test_skip("no model tiny.en");
    snprintf(control, sizeof(control), "%s/ctl", d.dir);
    int fds[2] = {bound_socket(control), bound_socket(d.captions)};
    for (int i = 0; i < 2; i++)
        assert_int_equal(listen(fds[i], 8), 0);
    int early = daemon_connect(d.captions), asks = daemon_connect(control);
    send_all(asks, "{\"cmd\":\"status\"}\n");
    daemon_exec(
        &d, (const char *[]){"--model", model, "--input", "pipe:16000,1,s16le", "--control", "none", NULL},
        (const char *[]){"LISTEN_FDS=2", "LISTEN_FDNAMES=control:captions", NULL}, fds, 2);
    lines_init(l, early);
    lines_await(l, "hello");
    lines_init(l, asks);
    char *reply = lines_await(l, "reply");
    assert_int_equal(line_int(reply, "pid"), d.pid);
    daemon_wait_log(&d, "control = none is not used");
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    assert_int_equal(access(d.captions, F_OK), 0);
    assert_int_equal(access(control, F_OK), 0);
    close(early);
    close(asks);
    close(fds[0]);
    close(fds[1]);
    test_free(l);
}

/* Of the captions alone: the other one is where it is asked for. */
static void makes_the_socket_that_is_not_passed(void **state)
{
    const char *model = test_model("tiny.en");
    struct lines *l = test_malloc(sizeof(*l));
    if (!model)
        test_skip("no model tiny.en");
    int fd = bound_socket(d.captions);
    assert_int_equal(listen(fd, 8), 0);
    daemon_exec(
        &d, (const char *[]){"--model", model, "--input", "pipe:16000,1,s16le", "--control", d.control, NULL},
        (const char *[]){"LISTEN_FDS=1", "LISTEN_FDNAMES=captions", NULL}, &fd, 1);
    daemon_wait_log(&d, "ready: ");
    assert_int_equal(access(d.control, F_OK), 0);
    lines_init(l, daemon_connect(d.control));
    send_all(l->fd, "{\"cmd\":\"status\"}\n");
    assert_int_equal(line_int(lines_await(l, "reply"), "pid"), d.pid);
    close(l->fd);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    assert_int_equal(access(d.control, F_OK), -1);
    assert_int_equal(access(d.captions, F_OK), 0);
    close(fd);
    test_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(makes_and_removes_its_sockets, set_up, tear_down),
        cmocka_unit_test_setup_teardown(replaces_a_leftover, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_a_living_socket, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_which_socket_is_another_ones, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_a_file_in_the_way, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_a_long_path, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_a_folder_that_cannot_be, set_up, tear_down),
        cmocka_unit_test_setup_teardown(uses_the_runtime_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(takes_sockets_that_are_passed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(makes_the_socket_that_is_not_passed, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
