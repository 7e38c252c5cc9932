#include "daemon/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/log.h"

#define BACKLOG 4096

void listener_init(struct listener *l)
{
    *l = (struct listener){.fd = -1};
}

/* --- whose path is it ---------------------------------------------------------------------------------------- */

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path) + 1);
    return address;
}

/* 0: nobody lives there, the leftover may be removed. */
static int check_leftover(const char *path, struct err *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return err_set(err, -EADDRINUSE, "%s exists and is not a socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, -errno, "no socket: %s", strerror(errno));
    struct sockaddr_un address = address_of(path);
    int refused = connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? errno : 0;
    struct ucred peer = {0};
    socklen_t size = sizeof(peer);
    if (!refused)
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    close(fd);
    if (refused == ECONNREFUSED || refused == ENOENT)
        return 0;
    if (refused && refused != EAGAIN)
        return err_set(err, -refused, "%s: %s", path, strerror(refused));
    return peer.pid ? err_set(err, -EADDRINUSE, "%s is in use by a living process (%d)", path, (int)peer.pid)
                    : err_set(err, -EADDRINUSE, "%s is in use by a living process", path);
}

/* --- making a socket ----------------------------------------------------------------------------------------- */

static void folder_of(const char *path, char *folder, size_t size)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (!slash)
        folder[0] = '.', folder[1] = '\0';
    else if (n == 0)
        folder[0] = '/', folder[1] = '\0';
    else
        snprintf(folder, size, "%.*s", (int)n, path);
}

/* Opens the folder and waits for its lock; other daemons hold it for milliseconds. */
static int lock_folder(const char *path, struct err *err)
{
    char folder[SOCKET_PATH_MAX + 1];
    folder_of(path, folder, sizeof(folder));
    mode_t mode = strncmp(folder, "/run/", 5) == 0 && geteuid() == 0 ? 0755 : 0700;
    if (mkdir(folder, mode) < 0 && errno != EEXIST)
        return err_set(err, -errno, "no folder for the socket %s: %s", path, strerror(errno));
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, -errno, "%s: %s", folder, strerror(errno));
    while (flock(fd, LOCK_EX) < 0) {
        if (errno == EINTR)
            continue;
        int code = -errno;
        close(fd);
        return err_set(err, code, "%s: cannot be locked: %s", folder, strerror(-code));
    }
    return fd;
}

static int bind_fd(int fd, const char *path, int mode, struct err *err)
{
    struct sockaddr_un address = address_of(path);
    mode_t old = umask(0777 & ~(mode_t)mode);
    int r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
    umask(old);
    if (r < 0)
        return err_set(err, r, "%s: %s", path, strerror(-r));
    if (listen(fd, BACKLOG) < 0) {
        r = -errno;
        unlink(path);
        return err_set(err, r, "%s: %s", path, strerror(-r));
    }
    return 0;
}

static int bind_locked(struct listener *l, const char *path, int mode, struct err *err)
{
    int r = check_leftover(path, err);
    if (r < 0)
        return r;
    if (unlink(path) < 0 && errno != ENOENT)
        return err_set(err, -errno, "%s: cannot be replaced: %s", path, strerror(errno));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, -errno, "no socket: %s", strerror(errno));
    r = bind_fd(fd, path, mode, err);
    struct stat st;
    if (r < 0 || lstat(path, &st) < 0) {
        close(fd);
        return r < 0 ? r : err_set(err, -errno, "%s: %s", path, strerror(errno));
    }
    l->fd = fd;
    l->device = st.st_dev;
    l->inode = st.st_ino;
    memcpy(l->path, path, strlen(path) + 1);
    return 0;
}

int listener_bind(struct listener *l, const char *path, int mode, struct err *err)
{
    int r = socket_path_check(path, err);
    if (r < 0)
        return r;
    int lock = lock_folder(path, err);
    if (lock < 0)
        return lock;
    r = bind_locked(l, path, mode, err);
    close(lock);
    return r;
}

int listener_adopt(struct listener *l, int fd, struct err *err)
{
    int domain = 0, type = 0, listening = 0;
    socklen_t size = sizeof(int);
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 || domain != AF_UNIX ||
        type != SOCK_STREAM || !listening)
        return err_set(err, -EINVAL, "descriptor %d from the service manager is no listening Unix stream",
                       fd);
    l->fd = fd;
    return 0;
}

/* --- life ---------------------------------------------------------------------------------------------------- */

static void on_connection(uv_stream_t *server, int status)
{
    struct listener *l = server->data;
    if (status < 0)
        log_warning("a connection could not be taken: %s", uv_strerror(status));
    else
        l->accept(l->ctx, server);
}

int listener_start(struct listener *l, uv_loop_t *loop, listener_accept_fn accept, void *ctx, struct err *err)
{
    if (l->fd < 0)
        return 0;
    l->accept = accept;
    l->ctx = ctx;
    uv_pipe_init(loop, &l->pipe, 0);
    l->pipe.data = l;
    l->open = true;
    int r = uv_pipe_open(&l->pipe, l->fd);
    if (r < 0)
        return err_set(err, r, "the listening socket cannot be used: %s", uv_strerror(r));
    l->fd = -1;
    r = uv_listen((uv_stream_t *)&l->pipe, BACKLOG, on_connection);
    return r < 0 ? err_set(err, r, "the socket cannot listen: %s", uv_strerror(r)) : 0;
}

void listener_close(struct listener *l)
{
    struct stat st;
    if (l->path[0] && lstat(l->path, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode)
        unlink(l->path);
    l->path[0] = '\0';
    if (l->open)
        uv_close((uv_handle_t *)&l->pipe, NULL);
    l->open = false;
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}
