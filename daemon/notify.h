/* What a service manager is told, and what it hands over. Everything does nothing where there is none. */
#ifndef CAPTIOND_DAEMON_NOTIFY_H
#define CAPTIOND_DAEMON_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

bool notify_supervised(void); /* somebody listens: $NOTIFY_SOCKET is set */

void notify_ready(void);
void notify_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void notify_reloading(void); /* notify_ready follows when it is done */
void notify_stopping(void);
void notify_watchdog(void);

/* Milliseconds within which notify_watchdog must be called again and again; 0: no watchdog. */
uint64_t notify_watchdog_ms(void);

/* The socket passed under this FileDescriptorName, −1 if there is none. To be called before other threads run. */
int notify_socket(const char *name);

/* What a restart of the service shall still know (FDSTORE=1: until the service is stopped): whether this stream is paused. */
void notify_keep_pause(const char *stream, bool paused);
bool notify_kept_pause(const char *stream);

#endif
