/* A rehearsal in a process of its own, for library calls that may abort() or never return.
 *
 * The child is this program executed again, not a fork that goes on: in a program with threads a forked child may only
 * make async-signal-safe calls, since a lock that another thread held is never released in it. Whoever owns the
 * risky call makes it in a constructor when trial_task() gives it a task, and ends with trial_end. */
#ifndef CAPTIOND_STREAM_TRIAL_H
#define CAPTIOND_STREAM_TRIAL_H

#include <stddef.h>

#define TRIAL_TASK_MAX 512 /* bytes of a task, NUL included */

/* In a process that trial_run started: what it was told. Makes it die with its parent and leave no core. NULL in every
 * other process. */
const char *trial_task(void);

/* Ends the child, and only it; the parent is given n bytes. */
_Noreturn void trial_end(int status, const void *said, size_t n);

/* Runs the child and waits for it; what it says is put into said[0 … size), *n_said bytes. Its exit status (0 to 255);
 * -ECANCELED if it was killed by a signal of its own making; -ETIMEDOUT if it had to be killed after timeout_ms; another
 * negative errno where no child could be started. Any thread. */
int trial_run(const char *task, int timeout_ms, void *said, size_t size, size_t *n_said);

#endif
