/* Which two sockets the daemon has: those that the service manager passes, else those of the configuration.
 *
 * Without --socket they are in the standard place (daemon/base/socket_path.h), and with --once there are none. The control
 * socket is beside the captions socket unless it is given; beside one that was passed there is none unless it is. */
#ifndef CAPTIOND_DAEMON_SOCKETS_H
#define CAPTIOND_DAEMON_SOCKETS_H

#include "daemon/config.h"
#include "daemon/listener.h"

/* Both listeners are initialised; what is to be is bound. 0, or the error of listener_bind or listener_adopt; then one of
 * them may be bound already and has to be closed. */
int sockets_bind(const struct config *, struct listener *captions, struct listener *control, struct err *);

#endif
