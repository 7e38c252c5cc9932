/* Reads members of a zip file (a Python wheel is one): stored or deflated, no encryption, no ZIP64, as APPNOTE.TXT 6.3
 * describes them. Every offset and length is checked against the file, and the data against its CRC-32. One thread. */
#ifndef CAPTIOND_TOOLS_UNZIP_H
#define CAPTIOND_TOOLS_UNZIP_H

#include <stddef.h>

#include "daemon/base/err.h"

struct unzip;

/* Maps the file and finds its directory. 0; the errno of opening it; -EINVAL for what is no zip file or a damaged one. */
int unzip_open(const char *path, struct unzip **, struct err *);
void unzip_close(struct unzip *); /* NULL is accepted */

/* Gives the member's data to `sink`, piece by piece, which returns 0 or a negative errno to stop. 0; -ENOENT; -EINVAL for
 * damaged data; -ENOTSUP for another method; what the sink returned. The CRC is known only at the end: on failure what the
 * sink has got is worth nothing. */
int unzip_member(struct unzip *, const char *name, int (*sink)(void *ctx, const void *data, size_t n),
                 void *ctx, struct err *);

#endif
