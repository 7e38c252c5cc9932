/* One request to captiond's control socket, its answer on standard output. */
#ifndef CAPTIOND_TOOLS_CONTROL_CALL_H
#define CAPTIOND_TOOLS_CONTROL_CALL_H

#include <stdbool.h>

#include "daemon/base/err.h"

/* Sends `command` (status, flush, pause, resume, devices, set) and waits for the answer, at most 15 s: a search for devices
 * takes its time. `stream`: the only one that pause and resume are for; NULL: all. `setting`: KEY=VALUE for set; NULL: tell
 * what can be set. json: the answer as it came, else put into
 * words. 0; -ENOTCONN where no daemon is; -EREMOTEIO with the daemon's words where it refuses. */
int control_call(const char *path, const char *command, const char *stream, const char *setting, bool json,
                 struct err *);

#endif
