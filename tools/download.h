/* Downloads one file over HTTP into a part file that a later attempt goes on with. Proxies come from the environment.
 * One thread. */
#ifndef CAPTIOND_TOOLS_DOWNLOAD_H
#define CAPTIOND_TOOLS_DOWNLOAD_H

#include <signal.h>

#include "daemon/base/err.h"

/* Gets `url` into the file `part`, behind what is in it already; a server that cannot do that is asked for the whole. An
 * interrupted transfer is taken up again a few times. A line on the terminal shows how far it is, after `label`;
 * elsewhere nothing is printed.
 *
 * 0: complete, though nobody has looked at what it is. -ECANCELED, and other errors at which the part file stays for a
 * later attempt; -ENOSPC; -ENOENT where the server has no such file; -EPROTO for another refusal. */
int download_file(const char *url, const char *part, const char *label,
                  const volatile sig_atomic_t *cancelled, struct err *);

#endif
