/* The running daemon: model, inputs, captioner, hub and sockets on one libuv loop.
 *
 *   service_create  binds the sockets, so that a conflict shows before anything expensive
 *   service_run     loads model and inputs on a worker thread while signals are heard; then READY, and captions until the
 *                   inputs have ended (--once) or a signal comes
 *   service_destroy takes everything down
 *
 * A stop has two seconds: the captioner finishes the open words, clients get them and `bye`; what is not decoded by then
 * is said as a gap. A second signal ends the process at once. Belongs to the main thread, which is the loop's. */
#ifndef CAPTIOND_DAEMON_SERVICE_H
#define CAPTIOND_DAEMON_SERVICE_H

#include "daemon/base/err.h"
#include "daemon/config.h"

struct service;

/* Of the process. After EXIT_USAGE the units do not start it again: that would not get it right. */
enum exit_status { EXIT_OK = 0, EXIT_RUNTIME = 1, EXIT_USAGE = 2 };

/* The configuration and the command line (for SIGHUP) are borrowed; live settings are changed in it. */
int service_create(struct config *, int argc, char *const *argv, struct service **, struct err *);

/* Returns when everything has ended. What went wrong has been logged. */
enum exit_status service_run(struct service *);

void service_destroy(struct service *); /* NULL is accepted */

#endif
