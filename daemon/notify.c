#include "daemon/notify.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "daemon/base/clock.h"

bool notify_supervised(void)
{
    const char *socket = getenv("NOTIFY_SOCKET");
    return socket && socket[0];
}

void notify_ready(void)
{
    sd_notify(0, "READY=1");
}

void notify_status(const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    text[strcspn(text, "\n")] = '\0'; /* a line of its own would be another message */
    sd_notifyf(0, "STATUS=%s", text);
}

/* With the time, as systemd 253 and later want it for Type=notify-reload. */
void notify_reloading(void)
{
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)(clock_now_ns() / 1000));
}

void notify_stopping(void)
{
    sd_notify(0, "STOPPING=1");
}

void notify_watchdog(void)
{
    sd_notify(0, "WATCHDOG=1");
}

uint64_t notify_watchdog_ms(void)
{
    uint64_t usec;
    return sd_watchdog_enabled(0, &usec) > 0 ? usec / 1000 : 0;
}

int notify_socket(const char *name)
{
    char **names = NULL;
    int found = -1, n = sd_listen_fds_with_names(0, &names);
    for (int i = 0; i < n; i++) {
        if (found < 0 && strcmp(names[i], name) == 0)
            found = SD_LISTEN_FDS_START + i;
        free(names[i]);
    }
    free(names);
    return found;
}

/* A descriptor is all that can be kept: its name says what for, and it has nothing in it. */
#define PAUSE_NAME "paused-%s"

void notify_keep_pause(const char *stream, bool paused)
{
    char message[128];
    int fd = paused ? eventfd(0, EFD_CLOEXEC) : -1;
    snprintf(message, sizeof(message), "%s=1\nFDNAME=" PAUSE_NAME, paused ? "FDSTORE" : "FDSTOREREMOVE",
             stream);
    sd_pid_notify_with_fds(0, 0, message, &fd, fd >= 0);
    if (fd >= 0)
        close(fd);
}

bool notify_kept_pause(const char *stream)
{
    char name[64];
    snprintf(name, sizeof(name), PAUSE_NAME, stream);
    return notify_socket(name) >= 0;
}
