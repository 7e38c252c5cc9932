/* The last events by their sequence number, for clients that come late or were away.
 *
 * Sequence numbers begin at 1 and have no holes. The history is bounded by count and by bytes; the oldest event goes
 * first, the newest always stays. Belongs to the loop's thread. */
#ifndef CAPTIOND_DAEMON_JOURNAL_H
#define CAPTIOND_DAEMON_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/message.h"

struct journal {
    struct message **ring; /* [capacity]; seq s is at s % capacity */
    int64_t capacity;
    int64_t oldest, next; /* seqs; equal: empty */
    size_t bytes, bytes_max;
};

/* Keeps at most n_max events (≥ 1) of bytes_max bytes together. 0 or -ENOMEM. */
int journal_init(struct journal *, int64_t n_max, size_t bytes_max);
void journal_finish(struct journal *); /* NULL and zeroed objects are accepted */

/* Takes the next sequence number; it is set in the message, of which a reference is kept. */
void journal_append(struct journal *, struct message *);

/* The event, borrowed; NULL where it is no longer, or not yet, there. */
struct message *journal_get(const struct journal *, int64_t seq);

/* Bytes of the events that are there from `seq` on. */
size_t journal_bytes_from(const struct journal *, int64_t seq);

/* New bounds; events beyond them are forgotten. On -ENOMEM the old ones stay. */
int journal_resize(struct journal *, int64_t n_max, size_t bytes_max);

#endif
