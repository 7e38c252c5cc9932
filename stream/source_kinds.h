/* The kinds of sources, each in a file of its own, for source.c alone. Each opens what follows the colon of its spec
 * and sets the vtable and the info. The same errors as source_open. */
#ifndef CAPTIOND_STREAM_SOURCE_KINDS_H
#define CAPTIOND_STREAM_SOURCE_KINDS_H

#include <stdint.h>

#include "stream/source.h"

/* A number of one to four bytes, as samples and the headers of WAV have them. */
static inline uint32_t little_endian(const unsigned char *p, int bytes)
{
    uint32_t x = 0;
    for (int i = 0; i < bytes; i++)
        x |= (uint32_t)p[i] << 8 * i;
    return x;
}

int source_file_open(const char *path, struct source **, struct err *);

/* "RATE,CHANNELS,FORMAT", as source_open's pipe. */
int source_pipe_check(const char *layout, struct err *);
int source_pipe_open(const char *layout, struct source **, struct err *);

/* name: of the device, NULL for the default one; monitor: what the default sink plays, name is not used. */
int source_portaudio_open(const char *name, bool monitor, struct source **, struct err *);

#endif
