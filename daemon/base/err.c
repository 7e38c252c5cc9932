#include "daemon/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *err, int code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
        va_end(ap);
        err->code = code;
    }
    return code;
}

void err_prefix(struct err *err, const char *fmt, ...)
{
    if (!err)
        return;
    char joined[ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(joined, sizeof(joined), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(joined))
        snprintf(joined + n, sizeof(joined) - (size_t)n, ": %.*s", (int)(sizeof(joined) - (size_t)n),
                 err->msg);
    memcpy(err->msg, joined, sizeof(joined));
}
