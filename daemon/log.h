/* The daemon's log: one line a call on stderr, with journald's priority in front where journald reads it.
 *
 * Recognised speech never goes here, nor what clients send. Any thread: a line is one write. Never
 * waits for who reads it: what finds no room is left out, and how much that was is said with the next line. */
#ifndef CAPTIOND_DAEMON_LOG_H
#define CAPTIOND_DAEMON_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO };

/* Finds out whether stderr is the journal ($JOURNAL_STREAM names its device and inode). */
void log_init(enum log_level);
void log_set_level(enum log_level);

void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
