#include "stream/trial.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/clock.h"

/* Holds the parent's process id, so that a value left in an environment by mistake does nothing. */
#define VARIABLE "CAPTIOND_TRIAL"

bool trial_is_child(void)
{
    const char *parent = getenv(VARIABLE);
    if (!parent || strtol(parent, NULL, 10) != getppid())
        return false;
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return true;
}

void trial_end(int status)
{
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

static int spawn(pid_t *pid)
{
    char variable[64], name[] = "captiond-trial";
    char *argv[] = {name, NULL};
    snprintf(variable, sizeof(variable), VARIABLE "=%ld", (long)getpid());
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
    for (int fd = 0; fd < 3; fd++)
        posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", fd ? O_WRONLY : O_RDONLY, 0);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setsigmask(&attr, &none);
    int r = posix_spawn(pid, "/proc/self/exe", &actions, &attr, argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    free(env);
    return -r;
}

int trial_run(int timeout_ms)
{
    pid_t pid;
    int status, r = spawn(&pid);
    if (r < 0)
        return r;
    int64_t deadline = clock_now_ns() + timeout_ms * NS_A_MS;
    bool killed = false;
    for (;;) {
        pid_t done = waitpid(pid, &status, killed ? 0 : WNOHANG);
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
