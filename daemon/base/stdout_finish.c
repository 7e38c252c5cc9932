#include "daemon/base/stdout_finish.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int stdout_finish(struct err *err)
{
    errno = 0;
    if ((fflush(stdout) == 0 && !ferror(stdout)) || errno == EPIPE)
        return 0;
    int error = errno ? errno : EIO; /* what failed while something was printed has left no reason */
    return err_set(err, -error, "cannot write to standard output: %s", strerror(error));
}
