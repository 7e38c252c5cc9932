/* Counters of the daemon, and latencies as histograms whose buckets grow by an eighth, so that a percentile is at most
 * 12.5 % too high. Belongs to the loop's thread. */
#ifndef CAPTIOND_DAEMON_STATS_H
#define CAPTIOND_DAEMON_STATS_H

#include <stdint.h>

#define HISTOGRAM_BUCKETS 256 /* 1/1000 ms to beyond a day */

struct histogram {
    uint64_t bucket[HISTOGRAM_BUCKETS];
    uint64_t n;
    double max;
};

/* value ≥ 0, in milliseconds; negative ones count as 0. */
void histogram_add(struct histogram *, double value);

/* The value that the fraction p (0 to 1) does not exceed; 0 where nothing was added. */
double histogram_percentile(const struct histogram *, double p);

struct stats {
    int64_t started_ns;
    uint64_t events, partials, commits, words, finals, gaps;
    int64_t lost_ms;              /* audio that became gaps */
    uint64_t clients_total;       /* ever connected to the captions socket */
    uint64_t clients_turned_away; /* over the limit */
    uint64_t clients_slow;        /* disconnected because they took nothing */
    uint64_t clients_bad;         /* disconnected because of what they sent */
    uint64_t missed;              /* events that a client was told it missed */
    struct histogram commit_lag;  /* end of a commit's last word to its line, live input only */
    struct histogram fanout;      /* one event to all clients that can take it */
};

#endif
