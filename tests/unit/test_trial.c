/* A rehearsal's child may end, crash or hang without harm to its parent. */
#include "tests/support/support.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "stream/trial.h"

#define MS 1000000LL

__attribute__((constructor)) static void rehearse(void)
{
    const char *what = trial_task();
    if (!what)
        return;
    if (strcmp(what, "abort") == 0)
        abort();
    while (strcmp(what, "hang") == 0)
        pause();
    if (strncmp(what, "say ", 4) == 0)
        trial_end(3, what + 4, strlen(what + 4));
    trial_end(atoi(what), NULL, 0);
}

static char said[256];
static size_t n_said;

static int run(const char *what, int timeout_ms)
{
    int r = trial_run(what, timeout_ms, said, sizeof(said), &n_said);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
    return r;
}

static void tells_the_exit_status(void **state)
{
    assert_int_equal(run("0", 5000), 0);
    assert_int_equal(run("7", 5000), 7);
    assert_int_equal(n_said, 0);
}

static void tells_what_the_child_says(void **state)
{
    assert_int_equal(run("say two words, a colon: and = too", 5000), 3);
    assert_int_equal(n_said, strlen("two words, a colon: and = too"));
    assert_memory_equal(said, "two words, a colon: and = too", n_said);
}

static void refuses_a_task_that_is_too_long(void **state)
{
    char task[2 * TRIAL_TASK_MAX];
    memset(task, 'x', sizeof(task) - 1);
    task[sizeof(task) - 1] = '\0';
    assert_int_equal(run(task, 5000), -ENAMETOOLONG);
}

static void survives_an_abort(void **state)
{
    assert_int_equal(run("abort", 5000), -ECANCELED);
}

static void ends_a_hang(void **state)
{
    int64_t began = clock_now_ns();
    assert_int_equal(run("hang", 200), -ETIMEDOUT);
    int64_t took = clock_now_ns() - began;
    assert_true(took >= 200 * MS && took < 2000 * MS);
}

/* A blocked or ignored signal of the parent must not be the child's. */
static void child_has_signals_of_its_own(void **state)
{
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    int r = run("abort", 5000);
    sigprocmask(SIG_SETMASK, &before, NULL);
    assert_int_equal(r, -ECANCELED);
}

/* The variable alone, left over in some environment, makes no child. */
static void nobody_else_is_a_child(void **state)
{
    char own[32], parent[32];
    snprintf(own, sizeof(own), "%ld:0", (long)getpid());
    snprintf(parent, sizeof(parent), "%ld", (long)getppid());
    assert_null(trial_task());
    setenv("CAPTIOND_TRIAL", own, 1);
    assert_null(trial_task());
    setenv("CAPTIOND_TRIAL", parent, 1); /* without a task */
    assert_null(trial_task());
    setenv("CAPTIOND_TRIAL", "nonsense", 1);
    assert_null(trial_task());
    unsetenv("CAPTIOND_TRIAL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_the_exit_status),
        cmocka_unit_test(tells_what_the_child_says),
        cmocka_unit_test(refuses_a_task_that_is_too_long),
        cmocka_unit_test(survives_an_abort),
        cmocka_unit_test(ends_a_hang),
        cmocka_unit_test(child_has_signals_of_its_own),
        cmocka_unit_test(nobody_else_is_a_child),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
