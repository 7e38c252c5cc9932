#include "tests/support/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TICK_MS 10

static void sleep_ms(int ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&ts, NULL);
}

const char *daemon_program(void)
{
    static char path[1100];
    char self[1024];
    const char *given = getenv("CAPTIOND_BIN");
    if (given)
        return given;
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    assert_true(n > 0);
    self[n] = '\0';
    snprintf(path, sizeof(path), "%s/captiond",
             dirname(dirname(dirname(self)))); /* build/tests/system/test_x */
    return path;
}

/* --- life ---------------------------------------------------------------------------------------------------- */

void daemon_init(struct daemon *d)
{
    memset(d, 0, sizeof(*d));
    d->in = d->out = -1;
    strcpy(d->dir, "/tmp/captiond-test-XXXXXX");
    assert_non_null(mkdtemp(d->dir));
    snprintf(d->captions, sizeof(d->captions), "%s/captions.sock", d->dir);
    snprintf(d->control, sizeof(d->control), "%s/control.sock", d->dir);
    snprintf(d->config, sizeof(d->config), "%s/captiond.conf", d->dir);
    snprintf(d->log, sizeof(d->log), "%s/log", d->dir);
    FILE *f = fopen(d->config, "w");
    assert_non_null(f);
    fclose(f);
    signal(SIGPIPE, SIG_IGN);
}

void daemon_finish(struct daemon *d)
{
    char command[128];
    if (d->pid > 0) {
        kill(d->pid, SIGKILL);
        waitpid(d->pid, NULL, 0);
    }
    if (d->in >= 0)
        close(d->in);
    if (d->out >= 0)
        close(d->out);
    snprintf(command, sizeof(command), "rm -rf '%s'", d->dir);
    if (system(command) != 0)
        print_message("%s could not be removed\n", d->dir);
}

static void become_daemon(struct daemon *d, char *const *argv, const char *const *env, const int *fds,
                          int n_fds, int in, int out)
{
    int log = open(d->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(in, 0);
    dup2(out, 1);
    dup2(log, 2);
    for (int i = 0; i < n_fds; i++)
        dup2(fds[i], 3 + i);
    for (; env && *env; env++)
        putenv((char *)*env);
    if (n_fds) {
        static char pid[32];
        snprintf(pid, sizeof(pid), "LISTEN_PID=%d", (int)getpid());
        putenv(pid);
    }
    for (int fd = 3 + n_fds; fd < 256; fd++)
        close(fd);
    putenv("LSAN_OPTIONS=suppressions=tests/support/lsan.supp:print_suppressions=0");
    signal(SIGPIPE, SIG_DFL);
    execv(argv[0], argv);
    _exit(127);
}

void daemon_exec(struct daemon *d, const char *const *args, const char *const *env, const int *fds, int n_fds)
{
    char *argv[DAEMON_ARGS_MAX + 8] = {(char *)daemon_program()};
    int argc = 1, in[2], out[2];
    if (!d->no_config) {
        argv[argc++] = "--config";
        argv[argc++] = d->config;
    }
    if (DAEMON_SLOWNESS > 1)
        argv[argc++] =
            "--allow-core-dumps=on"; /* a process that cannot be traced cannot be searched for leaks */
    for (; args && *args; args++)
        argv[argc++] = (char *)*args;
    assert_true(argc <= DAEMON_ARGS_MAX);
    if (d->in >= 0)
        close(d->in);
    if (d->out >= 0)
        close(d->out);
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    fflush(NULL);
    d->pid = fork();
    assert_true(d->pid >= 0);
    if (d->pid == 0)
        become_daemon(d, argv, env, fds, n_fds, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    d->in = in[1];
    d->out = out[0];
}

void daemon_start(struct daemon *d, const char *const *args)
{
    const char *all[DAEMON_ARGS_MAX] = {"--socket", d->captions};
    int n = 2;
    for (; args && *args; args++) {
        assert_true(n < DAEMON_ARGS_MAX - 1);
        all[n++] = *args;
    }
    daemon_exec(d, all, NULL, NULL, 0);
}

void daemon_start_idle(struct daemon *d, const char *const *args)
{
    const char *model = test_model("tiny.en");
    const char *all[DAEMON_ARGS_MAX] = {"--model", model, "--threads", "2", "--input", "pipe:16000,1,s16le"};
    int n = 6;
    if (!model)
        test_skip("no model tiny.en");
    for (; args && *args; args++) {
        assert_true(n < DAEMON_ARGS_MAX - 3);
        all[n++] = *args;
    }
    daemon_start(d, all);
    daemon_wait_log(d, "ready: ");
}

int daemon_wait(struct daemon *d)
{
    int status = 0;
    for (int waited = 0; waited < DAEMON_TIMEOUT_MS; waited += TICK_MS) {
        if (waitpid(d->pid, &status, WNOHANG) == d->pid) {
            d->pid = 0;
            return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        }
        sleep_ms(TICK_MS);
    }
    fail_msg("captiond does not end: %s", daemon_log(d));
    return -1;
}

int daemon_stop(struct daemon *d, int signum)
{
    assert_true(d->pid > 0);
    kill(d->pid, signum);
    return daemon_wait(d);
}

const char *daemon_log(struct daemon *d)
{
    static char text[64 * 1024];
    FILE *f = fopen(d->log, "r");
    size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
    text[n] = '\0';
    if (f)
        fclose(f);
    return text;
}

void daemon_wait_log(struct daemon *d, const char *text)
{
    for (int waited = 0; waited < DAEMON_TIMEOUT_MS; waited += TICK_MS) {
        if (strstr(daemon_log(d), text))
            return;
        int status;
        if (waitpid(d->pid, &status, WNOHANG) == d->pid) {
            d->pid = 0;
            fail_msg("captiond ended with %x before \"%s\": %s", status, text, daemon_log(d));
        }
        sleep_ms(TICK_MS);
    }
    fail_msg("no \"%s\" in the log: %s", text, daemon_log(d));
}

/* --- talking ------------------------------------------------------------------------------------------------- */

int daemon_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_true(strlen(path) < sizeof(address.sun_path));
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    for (int waited = 0; waited < DAEMON_TIMEOUT_MS; waited += TICK_MS) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(fd >= 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
            return fd;
        close(fd);
        sleep_ms(TICK_MS);
    }
    fail_msg("nobody listens at %s", path);
    return -1;
}

void lines_init(struct lines *l, int fd)
{
    l->fd = fd;
    l->n = l->used = 0;
}

char *lines_next(struct lines *l, int timeout_ms)
{
    memmove(l->buf, l->buf + l->used, l->n - l->used);
    l->n -= l->used;
    l->used = 0;
    for (;;) {
        char *newline = memchr(l->buf, '\n', l->n);
        if (newline) {
            *newline = '\0';
            l->used = (size_t)(newline - l->buf) + 1;
            return l->buf;
        }
        assert_true(l->n < sizeof(l->buf));
        struct pollfd p = {.fd = l->fd, .events = POLLIN};
        int r = poll(&p, 1, timeout_ms);
        if (r == 0 && timeout_ms == 0)
            return NULL;
        if (r <= 0)
            fail_msg("no line within %d ms", timeout_ms);
        ssize_t n = read(l->fd, l->buf + l->n, sizeof(l->buf) - l->n);
        if (n < 0 && errno == ECONNRESET)
            n = 0;
        assert_true(n >= 0);
        if (n == 0)
            return NULL;
        l->n += (size_t)n;
    }
}

char *lines_await(struct lines *l, const char *type)
{
    char *line;
    while ((line = lines_next(l, DAEMON_TIMEOUT_MS))) {
        if (line_is(line, type))
            return line;
    }
    fail_msg("the connection ended before a %s", type);
    return NULL;
}

long long line_int(const char *line, const char *key)
{
    json_t *o = json_loads(line, 0, NULL);
    const json_t *value = json_object_get(o, key);
    long long number = json_is_integer(value) ? json_integer_value(value) : -1;
    json_decref(o);
    return number;
}

const char *line_string(const char *line, const char *key)
{
    static char text[64 * 1024];
    json_t *o = json_loads(line, 0, NULL);
    const char *value = json_string_value(json_object_get(o, key));
    snprintf(text, sizeof(text), "%s", value ? value : "");
    json_decref(o);
    return text;
}

bool line_is(const char *line, const char *type)
{
    return strcmp(line_string(line, "type"), type) == 0;
}

void send_all(int fd, const char *text)
{
    size_t n = strlen(text);
    while (n > 0) {
        ssize_t sent = send(fd, text, n, MSG_NOSIGNAL);
        assert_true(sent > 0);
        text += sent;
        n -= (size_t)sent;
    }
}
