#include "daemon/sockets.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/notify.h"

static bool is(const char *setting, const char *word)
{
    return strcmp(setting, word) == 0;
}

/* A path that is known to fit. */
static void copy_path(char to[SOCKET_PATH_MAX], const char *path)
{
    memcpy(to, path, strlen(path) + 1);
}

static int put_beside(const char *captions, char control[SOCKET_PATH_MAX], struct err *err)
{
    char path[SOCKET_PATH_MAX + sizeof(SOCKET_NAME_CONTROL)];
    const char *slash = strrchr(captions, '/');
    snprintf(path, sizeof(path), "%.*s" SOCKET_NAME_CONTROL, slash ? (int)(slash - captions) + 1 : 0,
             captions);
    int r = socket_path_check(path, err);
    if (r == 0)
        copy_path(control, path);
    return r;
}

/* What "auto" and "none" stand for; "" for none. */
static int choose_captions(const struct config *c, char path[SOCKET_PATH_MAX], struct err *err)
{
    if (is(c->socket, "auto"))
        return c->once ? 0 : socket_path_default(SOCKET_NAME_CAPTIONS, path, err);
    if (!is(c->socket, "none"))
        copy_path(path, c->socket);
    return 0;
}

static int choose_control(const struct config *c, const char *captions, char path[SOCKET_PATH_MAX],
                          struct err *err)
{
    if (is(c->control, "auto"))
        return captions[0] ? put_beside(captions, path, err) : 0;
    if (!is(c->control, "none"))
        copy_path(path, c->control);
    return 0;
}

/* setting: the name of the one that says where the socket is, and its value. */
static void note_unused(const char *setting, const char *value)
{
    if (!is(value, "auto"))
        log_warning("%s = %s is not used: systemd has made that socket, and its unit says where it is",
                    setting, value);
}

static int bind_one(struct listener *l, int fd, const char *path, int mode, struct err *err)
{
    if (fd >= 0)
        return listener_adopt(l, fd, err);
    return path[0] ? listener_bind(l, path, mode, err) : 0;
}

int sockets_bind(const struct config *c, struct listener *captions, struct listener *control, struct err *err)
{
    char captions_path[SOCKET_PATH_MAX] = "", control_path[SOCKET_PATH_MAX] = "";
    int captions_fd = notify_socket("captions"), control_fd = notify_socket("control");
    listener_init(captions);
    listener_init(control);
    if (captions_fd >= 0)
        note_unused("socket", c->socket);
    if (control_fd >= 0)
        note_unused("control", c->control);
    /* A service need not have a place of its own for sockets that are there already. */
    int r = captions_fd < 0 ? choose_captions(c, captions_path, err) : 0;
    if (r == 0 && control_fd < 0)
        r = choose_control(c, captions_path, control_path, err);
    if (r == 0)
        r = bind_one(captions, captions_fd, captions_path, c->socket_mode, err);
    if (r == 0)
        r = bind_one(control, control_fd, control_path, c->control_mode, err);
    if (r == -EADDRINUSE && captions->fd >= 0) { /* beside --socket PATH, of which the user may not think */
        struct err cause = *err;
        err_set(err, r, "%s; give this one another --control, or none", cause.msg);
    }
    return r;
}
