/* Inside intake.c and intake_feed.c: what the intake's thread puts where the captioner takes it. */
#ifndef CAPTIOND_DAEMON_INTAKE_FEED_H
#define CAPTIOND_DAEMON_INTAKE_FEED_H

#include "daemon/intake.h"

/* The index of the next sample. */
int64_t intake_position(const struct intake *);
/* The stream's clock there. */
int64_t intake_clock(const struct intake *);
/* Pacing: waits until n samples from here on may be taken. Returns when the last of them is due. */
int64_t intake_await_due(const struct intake *, int n);
/* The state of the device, its name if that is news, and a message for people. */
void intake_tell(struct intake *, enum stream_state, const char *device, const char *message);
/* Into the ring, past the gate, the level and the clock. A live input loses what finds no room; others wait. */
void intake_put_samples(struct intake *, const float *pcm, int n);
void intake_put_mark(struct intake *, const struct mark *);
/* Says that n samples are missing before the next one. */
void intake_put_skip(struct intake *, int64_t n, enum gap_cause);
/* The same of what is counted in `lost`. */
void intake_put_lost(struct intake *, enum gap_cause);
/* Ends an open utterance where the sound stops, and says why it does. */
void intake_finish_gate(struct intake *, enum final_reason);
/* The same, and what comes is judged afresh. */
void intake_break_gate(struct intake *, enum final_reason);
/* There is nothing that could be heard. */
void intake_clear_level(struct intake *);

#endif
