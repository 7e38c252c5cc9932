/* captiond: live captions from a microphone to a Unix socket. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/base/stdout_finish.h"
#include "daemon/config.h"
#include "daemon/log.h"
#include "daemon/service.h"
#include "stream/source.h"

static bool was_closed[3]; /* standard input, output and error, when the program began */

/* A socket or a library's descriptor that took one of these numbers would be read as sound or written to as a log, and libuv
 * aborts over it. */
static int fill_standard_files(void)
{
    for (int fd = 0; fd < 3; fd++) {
        was_closed[fd] = fcntl(fd, F_GETFD) < 0;
        if (was_closed[fd] && open("/dev/null", O_RDWR) != fd)
            return -errno;
    }
    return 0;
}

static int check_standard_files(const struct config *config, struct err *err)
{
    if (was_closed[STDOUT_FILENO] && config->stdout_format != STDOUT_NONE)
        return err_set(err, -EBADF, "stdout: standard output is closed");
    for (int i = 0; i < config->n_inputs; i++) {
        if (was_closed[STDIN_FILENO] && strncmp(config->inputs[i].spec, "pipe:", 5) == 0)
            return err_set(err, -EBADF, "input %s: standard input is closed", config->inputs[i].name);
    }
    return 0;
}

/* Sound and words are in our memory: neither a core dump nor another process of the user shall see them. */
static void protect_memory(void)
{
    const struct rlimit none = {0, 0};
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
        log_warning("core dumps cannot be turned off: %s", strerror(errno));
}

static int finish_output(void)
{
    struct err err = {0};
    int r =
        was_closed[STDOUT_FILENO] ? err_set(&err, -EBADF, "standard output is closed") : stdout_finish(&err);
    if (r < 0)
        log_error("%s", err.msg);
    return r < 0 ? EXIT_RUNTIME : EXIT_OK;
}

static int list_devices(void)
{
    struct source_device devices[SOURCE_DEVICES_MAX];
    struct err err;
    int n = source_list_devices(devices, SOURCE_DEVICES_MAX, &err);
    if (n < 0) {
        log_error("%s", err.msg);
        return EXIT_RUNTIME;
    }
    for (int i = 0; i < n; i++)
        printf("%s%s  (%s, %d channel%s, %d Hz%s)\n", devices[i].is_default ? "* " : "  ", devices[i].name,
               devices[i].host_api, devices[i].channels, devices[i].channels == 1 ? "" : "s",
               devices[i].default_rate, devices[i].is_monitor ? ", what the computer plays" : "");
    if (n == 0)
        fputs("there is no input device\n", stderr);
    return EXIT_OK;
}

static int serve(struct config *config, int argc, char **argv)
{
    struct service *service = NULL;
    struct err err;
    signal(SIGPIPE, SIG_IGN);
    if (!config->allow_core_dumps)
        protect_memory();
    if (check_standard_files(config, &err) < 0 || service_create(config, argc, argv, &service, &err) < 0) {
        log_error("%s", err.msg);
        return EXIT_RUNTIME;
    }
    int status = service_run(service);
    service_destroy(service);
    return status;
}

int main(int argc, char **argv)
{
    struct config config;
    struct err err;
    enum config_action action;
    int status = EXIT_OK;
    int r = fill_standard_files();
    signal(SIGXFSZ, SIG_IGN); /* a limit of a file's size is an error of the write */
    log_init(LOG_LEVEL_INFO);
    if (r < 0) {
        log_error("/dev/null: %s", strerror(-r));
        return EXIT_RUNTIME;
    }
    if (config_load(&config, argc, argv, &action, &err) < 0) {
        log_error("%s", err.msg);
        return EXIT_USAGE;
    }
    log_set_level((enum log_level)config.log_level);
    switch (action) {
    case ACTION_HELP:
        config_print_help(stdout);
        break;
    case ACTION_VERSION:
        puts("captiond " CAPTIOND_VERSION);
        break;
    case ACTION_PRINT_CONFIG:
        if (config_print(&config, stdout, &err) < 0) {
            log_error("%s", err.msg);
            status = EXIT_RUNTIME;
        }
        break;
    case ACTION_LIST_DEVICES:
        status = list_devices();
        break;
    case ACTION_RUN:
        status = serve(&config, argc, argv);
        break;
    }
    config_finish(&config);
    return status == EXIT_OK && action != ACTION_RUN ? finish_output() : status;
}
