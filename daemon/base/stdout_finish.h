/* The end of what a program writes to standard output: libc writes its last part only at exit, where nobody looks. */
#ifndef CAPTIOND_BASE_STDOUT_FINISH_H
#define CAPTIOND_BASE_STDOUT_FINISH_H

#include "daemon/base/err.h"

/* Writes out what standard output still holds, for a program that does not look after its output otherwise. 0, or a
 * negative errno where not all that was printed could be written; a reader that has gone away has what it wants. */
int stdout_finish(struct err *);

#endif
