/* The installed units under a real systemd, by systemd.sh. tests/run: 180 s */
#include "tests/support/support.h"

#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CANNOT_RUN 77

static void run_under_systemd(void **state)
{
    char build[1024], command[4096];
    ssize_t n = readlink("/proc/self/exe", build, sizeof(build) - 1);
    assert_true(n > 0);
    build[n] = '\0';
    const char *model = test_model("tiny.en");
    if (!model)
        test_skip("no model tiny.en");
    snprintf(command, sizeof(command),
             "tests/system/systemd.sh '%s' '%s' \"$PWD/tests/fixtures/speech.flac\"",
             dirname(dirname(dirname(build))), model);
    fflush(NULL);
    int status = system(command);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT_RUN)
        test_skip("the units need root and systemd-nspawn, see above");
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(run_under_systemd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
