#include "daemon/service_status.h"

#include <stdio.h>
#include <unistd.h>

#include "daemon/base/clock.h"

static int64_t resident_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void write_streams(const struct hub *hub, unsigned paused, struct jsonl *j)
{
    jsonl_array(j, "streams");
    for (int i = 0; i < hub->n_streams; i++) {
        const struct hub_stream *s = &hub->streams[i];
        const struct event *e = &s->status;
        jsonl_object(j, NULL);
        jsonl_string(j, "stream", s->name);
        bool yet_to_pause = paused >> i & 1 && e->state != STREAM_ENDED;
        jsonl_string(j, "state", protocol_state_name(yet_to_pause ? STREAM_PAUSED : e->state));
        jsonl_string(j, "device", e->device);
        jsonl_string(j, "message", e->message);
        jsonl_int(j, "at_ms", e->start_ms);
        jsonl_int(j, "queue_ms", e->queue_ms);
        jsonl_real(j, "rtf", (double)e->rtf, 3);
        jsonl_real(j, "level_db", (double)e->level_db, 1);
        jsonl_int(j, "overruns", e->overruns);
        jsonl_object_end(j);
    }
    jsonl_array_end(j);
}

static void write_histogram(struct jsonl *j, const char *key, const struct histogram *h)
{
    jsonl_object(j, key);
    jsonl_int(j, "n", (int64_t)h->n);
    jsonl_real(j, "p50", histogram_percentile(h, 0.50), 1);
    jsonl_real(j, "p90", histogram_percentile(h, 0.90), 1);
    jsonl_real(j, "p99", histogram_percentile(h, 0.99), 1);
    jsonl_real(j, "max", h->max, 1);
    jsonl_object_end(j);
}

void service_status_write(const struct hub *hub, const struct stats *stats, unsigned paused, int n_clients,
                          struct jsonl *j)
{
    jsonl_string(j, "version", CAPTIOND_VERSION);
    jsonl_int(j, "pid", getpid());
    jsonl_string(j, "session", hub->session);
    jsonl_int(j, "uptime_ms", (clock_now_ns() - stats->started_ns) / 1000000);
    jsonl_string(j, "model", hub->model);
    jsonl_string(j, "engine", hub->engine);
    write_streams(hub, paused, j);
    jsonl_int(j, "seq", hub->journal.next - 1);
    jsonl_int(j, "oldest_seq", hub->journal.oldest);
    jsonl_int(j, "history_bytes", (int64_t)hub->journal.bytes);
    jsonl_int(j, "clients", n_clients);
    jsonl_object(j, "counters");
    jsonl_int(j, "events", (int64_t)stats->events);
    jsonl_int(j, "partials", (int64_t)stats->partials);
    jsonl_int(j, "commits", (int64_t)stats->commits);
    jsonl_int(j, "words", (int64_t)stats->words);
    jsonl_int(j, "finals", (int64_t)stats->finals);
    jsonl_int(j, "gaps", (int64_t)stats->gaps);
    jsonl_int(j, "lost_ms", stats->lost_ms);
    jsonl_int(j, "clients_total", (int64_t)stats->clients_total);
    jsonl_int(j, "clients_turned_away", (int64_t)stats->clients_turned_away);
    jsonl_int(j, "clients_slow", (int64_t)stats->clients_slow);
    jsonl_int(j, "clients_bad", (int64_t)stats->clients_bad);
    jsonl_int(j, "missed", (int64_t)stats->missed);
    jsonl_object_end(j);
    write_histogram(j, "commit_lag_ms", &stats->commit_lag);
    write_histogram(j, "fanout_ms", &stats->fanout);
    jsonl_int(j, "rss_kib", resident_kib());
}

void service_status_line(const struct hub *hub, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "%s on %s", hub->model, hub->engine);
    for (int i = 0; i < hub->n_streams && n < size; i++) {
        const struct event *e = &hub->streams[i].status;
        const char *why = e->message[0] ? e->message : e->device;
        enum stream_state state = e->state == STREAM_SPEECH ? STREAM_LISTENING : e->state;
        n += (size_t)snprintf(out + n, size - n, "; %s: %s%s%s%s", hub->streams[i].name,
                              protocol_state_name(state), why[0] ? " (" : "", why, why[0] ? ")" : "");
    }
}
