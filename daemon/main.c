/* captiond: live captions from a microphone to a Unix socket. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "daemon/config.h"
#include "daemon/log.h"
#include "daemon/service.h"
#include "stream/source.h"

enum { EXIT_OK = 0, EXIT_RUNTIME = 1, EXIT_USAGE = 2 };

#define DEVICES_MAX 64

/* Sound and words are in our memory: neither a core dump nor another process of the user shall see them. */
static void protect_memory(void)
{
    const struct rlimit none = {0, 0};
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
        log_warning("core dumps cannot be turned off: %s", strerror(errno));
}

static int list_devices(void)
{
    struct source_device devices[DEVICES_MAX];
    struct err err;
    int n = source_list_devices(devices, DEVICES_MAX, &err);
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
    if (service_create(config, argc, argv, &service, &err) < 0) {
        log_error("%s", err.msg);
        return EXIT_RUNTIME;
    }
    int r = service_run(service);
    service_destroy(service);
    return r < 0 ? EXIT_RUNTIME : EXIT_OK;
}

int main(int argc, char **argv)
{
    struct config config;
    struct err err;
    enum config_action action;
    int status = EXIT_OK;
    log_init(LOG_LEVEL_INFO);
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
        config_print(&config, stdout);
        break;
    case ACTION_LIST_DEVICES:
        status = list_devices();
        break;
    case ACTION_RUN:
        status = serve(&config, argc, argv);
        break;
    }
    config_finish(&config);
    return status;
}
