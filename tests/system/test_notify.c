/* The service manager's side of the conversation, played by the test: $NOTIFY_SOCKET and a watchdog. */
#include "tests/support/daemon.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/base/clock.h"

static struct daemon d;
static int manager;
static char env_socket[128], env_alsa[128];

/* Another of the devices that there are, in place of the machine's own. */
static void plug_in(const char *device)
{
    FILE *f = fopen(strchr(env_alsa, '=') + 1, "a");
    assert_non_null(f);
    fprintf(f, "pcm.%s { type null hint { show on description \"%s\" } }\n", device, device);
    fprintf(f, "defaults.namehint.basic on\ndefaults.namehint.extended on\n");
    fclose(f);
}

static int set_up(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    daemon_init(&d);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/notify", d.dir);
    snprintf(env_socket, sizeof(env_socket), "NOTIFY_SOCKET=%s", address.sun_path);
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(env_alsa, sizeof(env_alsa), "ALSA_CONFIG_PATH=%s/alsa.conf", d.dir);
    plug_in("!default");
    return bind(manager, (struct sockaddr *)&address, sizeof(address));
}

static int tear_down(void **state)
{
    close(manager);
    daemon_finish(&d);
    return 0;
}

/* The next message that has `text`; fails when `not_before` comes first. */
static const char *await(const char *text, const char *not_before)
{
    static char message[4096];
    struct pollfd p = {.fd = manager, .events = POLLIN};
    for (int64_t until = clock_now_ns() + DAEMON_TIMEOUT_MS * NS_A_MS;;) {
        if (clock_now_ns() > until || poll(&p, 1, DAEMON_TIMEOUT_MS) <= 0)
            fail_msg("no %s: %s", text, daemon_log(&d));
        ssize_t n = recv(manager, message, sizeof(message) - 1, 0);
        assert_true(n > 0);
        message[n] = '\0';
        if (strstr(message, text))
            return message;
        if (not_before && strstr(message, not_before))
            fail_msg("%s before %s", not_before, text);
    }
}

static void start(const char *input)
{
    static char model[1024];
    const char *found = test_model("tiny.en");
    if (!found)
        test_skip("no model tiny.en");
    snprintf(model, sizeof(model), "%s", found);
    daemon_exec(
        &d,
        (const char *[]){"--socket", d.captions, "--model", model, "--threads", "2", "--input", input, NULL},
        (const char *[]){env_socket, "WATCHDOG_USEC=1000000", env_alsa, NULL}, NULL, 0);
}

/* READY comes once the model is loaded and the sockets listen; then STATUS, the watchdog's food, RELOADING and READY around a
 * reload, STOPPING at the end. */
static void tells_its_life(void **state)
{
    start("pipe:16000,1,s16le");
    await("STATUS=loading the model", "READY=1");
    await("READY=1", "WATCHDOG=1");
    close(daemon_connect(d.captions));
    const char *status = await("STATUS=", NULL);
    assert_non_null(strstr(status, "pipe: listening"));
    for (int i = 0; i < 3; i++)
        await("WATCHDOG=1", NULL);
    kill(d.pid, SIGHUP);
    assert_non_null(strstr(await("RELOADING=1", "READY=1"), "MONOTONIC_USEC="));
    await("READY=1", NULL);
    kill(d.pid, SIGTERM);
    await("STOPPING=1", NULL);
    assert_int_equal(daemon_wait(&d), 0);
}

/* The reason for a missing device may change while it is missing: what is told is the present one, once. */
static void tells_a_new_reason(void **state)
{
    start("portaudio:No such microphone");
    assert_null(strstr(await("no_device", NULL), "other"));
    plug_in("other");
    assert_non_null(strstr(await("other", NULL), "no_device"));
    for (int i = 0; i < 12; i++) /* three seconds, in which it is tried again */
        await("WATCHDOG=1", "STATUS=");
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    const char *log = strstr(daemon_log(&d), "no_device: ");
    log = strstr(log + 1, "no_device: ");
    assert_non_null(strstr(log, "other"));
    assert_null(strstr(log + 1, "no_device: "));
}

/* Under a service manager a missing device is a status, and waiting for it is progress; so is a pause. */
static void waits_for_its_device(void **state)
{
    start("portaudio:No such microphone");
    await("READY=1", NULL);
    assert_non_null(strstr(await("STATUS=", NULL), "no_device"));
    for (int i = 0; i < 6; i++)
        await("WATCHDOG=1", NULL);
    int control = daemon_connect(d.control);
    send_all(control, "{\"cmd\":\"pause\"}\n");
    assert_non_null(strstr(await("FDSTORE=1", NULL), "FDNAME=paused-mic"));
    assert_non_null(strstr(await("STATUS=", NULL), "paused"));
    for (int i = 0; i < 6; i++)
        await("WATCHDOG=1", NULL);
    send_all(control, "{\"cmd\":\"pause\"}\n{\"cmd\":\"resume\"}\n"); /* it is paused already */
    assert_non_null(strstr(await("FDSTOREREMOVE=1", "FDSTORE=1"), "FDNAME=paused-mic"));
    close(control);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tells_its_life, set_up, tear_down),
        cmocka_unit_test_setup_teardown(tells_a_new_reason, set_up, tear_down),
        cmocka_unit_test_setup_teardown(waits_for_its_device, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
