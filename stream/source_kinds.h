/* The kinds of sources, each in a file of its own, for source.c alone. Each opens what follows the colon of its spec
 * and sets the vtable and the info. The same errors as source_open. */
#ifndef CAPTIOND_STREAM_SOURCE_KINDS_H
#define CAPTIOND_STREAM_SOURCE_KINDS_H

#include "stream/source.h"

int source_file_open(const char *path, struct source **, struct err *);

/* "RATE,CHANNELS,FORMAT", as source_open's pipe. */
int source_pipe_check(const char *layout, struct err *);
int source_pipe_open(const char *layout, struct source **, struct err *);

/* name: of the device, NULL for the default one; monitor: what the default sink plays, name is not used. */
int source_portaudio_open(const char *name, bool monitor, struct source **, struct err *);

#endif
