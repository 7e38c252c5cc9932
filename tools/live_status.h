/* The status line of the live view: what state the inputs are in, how loud they are, how late the captions. */
#ifndef CAPTIOND_TOOLS_LIVE_STATUS_H
#define CAPTIOND_TOOLS_LIVE_STATUS_H

#include <stdio.h>

#include "tools/live_view.h"

/* Writes it, at most `columns` cells wide, without a newline. */
void live_status_put(FILE *, const struct live_view *, int columns);

#endif
