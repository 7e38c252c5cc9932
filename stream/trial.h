/* A rehearsal in a process of its own, for library calls that may abort() or never return.
 *
 * The child is this program executed again, not a fork that goes on: in a program with threads a forked child may only
 * make async-signal-safe calls, since a lock that another thread held is never released in it. Whoever owns the
 * risky call makes it in a constructor when trial_is_child() says so, and ends with trial_end. */
#ifndef CAPTIOND_STREAM_TRIAL_H
#define CAPTIOND_STREAM_TRIAL_H

#include <stdbool.h>

/* True in a process that trial_run started. Makes it die with its parent and leave no core. */
bool trial_is_child(void);

/* Ends the child, and only it. */
_Noreturn void trial_end(int status);

/* Runs the child and waits for it. Its exit status (0 to 255); -ECANCELED if it was killed by a signal of its own
 * making; -ETIMEDOUT if it had to be killed after timeout_ms; another negative errno where no child could be
 * started. Any thread. */
int trial_run(int timeout_ms);

#endif
