#include "stream/trial.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/clock.h"

/* Holds "PARENT:TASK"; the parent's process id, so that a value left in an environment by mistake does nothing. */
#define VARIABLE "CAPTIOND_TRIAL"
#define NAME     "captiond-trial" /* of the process */

const char *trial_task(void)
{
    char *end;
    const char *value = getenv(VARIABLE);
    if (!value || strtol(value, &end, 10) != getppid() || *end != ':') {
        if (value && strcmp(program_invocation_short_name, NAME) == 0)
            _Exit(1); /* the parent has died meanwhile: nobody wants to know, and no daemon is to begin */
        return NULL;
    }
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return end + 1;
}

void trial_end(int status, const void *said, size_t n)
{
    if (n > 0 && write(STDOUT_FILENO, said, n) < (ssize_t)n)
        status = EPIPE;
    _Exit(status); /* no handlers: main has not begun */
}

/* The environment with VARIABLE in front; the strings stay the environment's. */
static char **child_environment(char *variable)
{
    extern char **environ;
    size_t n = 0;
    while (environ[n])
        n++;
    char **env = calloc(n + 2, sizeof(*env));
    if (!env)
        return NULL;
    env[0] = variable;
    memcpy(env + 1, environ, n * sizeof(*env));
    return env;
}

/* out: the child's standard output. */
static int spawn(const char *task, int out, pid_t *pid)
{
    char variable[64 + TRIAL_TASK_MAX], name[] = NAME;
    char *argv[] = {name, NULL};
    if (snprintf(variable, sizeof(variable), VARIABLE "=%ld:%s", (long)getpid(), task) >=
        (int)sizeof(variable))
        return -ENAMETOOLONG;
    char **env = child_environment(variable);
    if (!env)
        return -ENOMEM;

    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setsigmask(&attr, &none);
    int r = posix_spawn(pid, "/proc/self/exe", &actions, &attr, argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    free(env);
    return -r;
}

/* What has been said since. Nothing is waited for: a server that the child has started may hold the other end. */
static size_t drain(int fd, char *said, size_t size)
{
    size_t n = 0;
    ssize_t got;
    while (n < size && (got = read(fd, said + n, size - n)) > 0)
        n += (size_t)got;
    return n;
}

/* Waits for the child's end and returns what trial_run does. */
static int await(pid_t pid, int timeout_ms, int from, char *said, size_t size, size_t *n_said)
{
    int status;
    int64_t deadline = clock_now_ns() + timeout_ms * NS_A_MS;
    bool killed = false;
    *n_said = 0;
    for (;;) {
        pid_t done = waitpid(pid, &status, killed ? 0 : WNOHANG);
        *n_said += drain(from, said + *n_said, size - *n_said);
        if (done == pid)
            break;
        if (done < 0 && errno != EINTR)
            return -errno;
        if (!killed && clock_now_ns() >= deadline) {
            kill(pid, SIGKILL);
            killed = true;
        }
        const struct timespec pause = {.tv_nsec = 2 * NS_A_MS};
        nanosleep(&pause, NULL);
    }
    if (killed)
        return -ETIMEDOUT;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -ECANCELED;
}

int trial_run(const char *task, int timeout_ms, void *said, size_t size, size_t *n_said)
{
    int ends[2];
    pid_t pid;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    int r = spawn(task, ends[1], &pid);
    close(ends[1]);
    if (r == 0)
        r = await(pid, timeout_ms, ends[0], said, size, n_said);
    close(ends[0]);
    return r;
}
