#include "daemon/base/socket_path.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int socket_path_check(const char *path, struct err *err)
{
    size_t n = strlen(path);
    if (n < SOCKET_PATH_MAX)
        return 0;
    return err_set(err, -ENAMETOOLONG, "socket path is %zu bytes long, at most %zu are allowed: %s", n,
                   SOCKET_PATH_MAX - 1, path);
}

int socket_path_default(const char *name, char *path, struct err *err)
{
    char full[4096];
    const char *service = getenv("RUNTIME_DIRECTORY");
    const char *user = getenv("XDG_RUNTIME_DIR");
    if (service && service[0] == '/')
        snprintf(full, sizeof(full), "%.*s/%s", (int)strcspn(service, ":"), service, name);
    else if (user && user[0] == '/')
        snprintf(full, sizeof(full), "%s/captiond/%s", user, name);
    else if (geteuid() == 0)
        snprintf(full, sizeof(full), SOCKET_DIR_SYSTEM "/%s", name);
    else
        return err_set(err, -ENOENT,
                       "XDG_RUNTIME_DIR is not set, so %s has no default place: give it by --%s PATH", name,
                       strcmp(name, SOCKET_NAME_CONTROL) ? "socket" : "control");
    int r = socket_path_check(full, err);
    if (r == 0)
        memcpy(path, full, strlen(full) + 1);
    return r;
}
