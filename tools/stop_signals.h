/* The signals by which a user or a terminal ends a program that cleans up behind itself. */
#ifndef CAPTIOND_TOOLS_STOP_SIGNALS_H
#define CAPTIOND_TOOLS_STOP_SIGNALS_H

/* SIGINT, SIGTERM and SIGHUP go to `handler`, one after the other; `flags` as in sigaction(), without SA_RESTART if waits
 * are to end. What nohup or a shell's & has made the program ignore stays ignored. */
void stop_signals_catch(void (*handler)(int signal), int flags);

#endif
