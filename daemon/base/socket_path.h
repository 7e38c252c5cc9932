/* Where the sockets are unless told otherwise: the same for the daemon and its clients. Reads the environment. */
#ifndef CAPTIOND_BASE_SOCKET_PATH_H
#define CAPTIOND_BASE_SOCKET_PATH_H

#include <stddef.h>
#include <sys/un.h>

#include "daemon/base/err.h"

#define SOCKET_PATH_MAX      (sizeof(((struct sockaddr_un *)0)->sun_path)) /* bytes, NUL included */
#define SOCKET_NAME_CAPTIONS "captions.sock"
#define SOCKET_NAME_CONTROL  "control.sock"
#define SOCKET_DIR_SYSTEM    "/run/captiond"

/* Writes FOLDER/name to path, which has SOCKET_PATH_MAX bytes. FOLDER is $RUNTIME_DIRECTORY (of a unit with
 * RuntimeDirectory=; ours have socket units instead), else $XDG_RUNTIME_DIR/captiond, else /run/captiond for root. 0;
 * -ENOENT where none of them applies, with a message that names the option, --socket or --control; -ENAMETOOLONG. */
int socket_path_default(const char *name, char *path, struct err *);

/* 0, or -ENAMETOOLONG with a message: the kernel's limit is short and longer paths would be cut silently. */
int socket_path_check(const char *path, struct err *);

#endif
