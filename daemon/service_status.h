/* What `status` on the control socket, and the service manager, are told. */
#ifndef CAPTIOND_DAEMON_SERVICE_STATUS_H
#define CAPTIOND_DAEMON_SERVICE_STATUS_H

#include "daemon/hub.h"
#include "daemon/jsonl.h"

/* Members of the reply: version, session, model, streams, clients, history, counters, latencies in milliseconds,
 * memory. paused: the set of streams that have been told to pause, whether or not they have yet. */
void service_status_write(const struct hub *, const struct stats *, unsigned paused, int n_clients,
                          struct jsonl *);

/* "tiny.en on host f32; mic: listening (HDA Intel)" */
void service_status_line(const struct hub *, char *out, size_t size);

#endif
