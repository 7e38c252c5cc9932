#include "stream/source.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "stream/source_kinds.h"

/* What follows "kind:" in spec; NULL if it is another kind or nothing follows. */
static const char *after(const char *spec, const char *kind)
{
    size_t n = strlen(kind);
    return strncmp(spec, kind, n) == 0 && spec[n] == ':' && spec[n + 1] ? spec + n + 1 : NULL;
}

int source_check_spec(const char *spec, struct err *err)
{
    if (strcmp(spec, "portaudio") == 0 || strcmp(spec, "monitor") == 0 || after(spec, "portaudio") ||
        after(spec, "file"))
        return 0;
    const char *layout = after(spec, "pipe");
    if (layout)
        return source_pipe_check(layout, err);
    return err_set(err, -EINVAL,
                   "unknown input \"%s\": it must be portaudio, portaudio:NAME, monitor, file:PATH or "
                   "pipe:RATE,CHANNELS,FORMAT",
                   spec);
}

bool source_is_device(const char *spec)
{
    return !after(spec, "file") && !after(spec, "pipe");
}

int source_open(const char *spec, struct source **out, struct err *err)
{
    int r = source_check_spec(spec, err);
    if (r < 0)
        return r;
    if (after(spec, "file"))
        return source_file_open(after(spec, "file"), out, err);
    if (after(spec, "pipe"))
        return source_pipe_open(after(spec, "pipe"), out, err);
    return source_portaudio_open(after(spec, "portaudio"), strcmp(spec, "monitor") == 0, out, err);
}

/* --- closing with a deadline -------------------------------------------------------------------------------- */

/* Shared by the thread that closes and the one that waits; the last to let go frees it. */
struct closing {
    struct source *source;
    sem_t done;
    atomic_int users;
};

static void let_go(struct closing *closing)
{
    if (atomic_fetch_sub(&closing->users, 1) == 1) {
        sem_destroy(&closing->done);
        free(closing);
    }
}

static void *close_thread(void *arg)
{
    struct closing *closing = arg;
    closing->source->v->close(closing->source);
    sem_post(&closing->done);
    let_go(closing);
    return NULL;
}

/* NULL where no thread can be started. */
static struct closing *close_elsewhere(struct source *source)
{
    pthread_t thread;
    struct closing *closing = calloc(1, sizeof(*closing));
    if (!closing)
        return NULL;
    closing->source = source;
    atomic_init(&closing->users, 2);
    sem_init(&closing->done, 0, 0);
    if (pthread_create(&thread, NULL, close_thread, closing)) {
        sem_destroy(&closing->done);
        free(closing);
        return NULL;
    }
    pthread_detach(thread);
    return closing;
}

int source_close_timeout(struct source *source, int timeout_ms)
{
    struct closing *closing = close_elsewhere(source);
    if (!closing) {
        source->v->close(source);
        return 0;
    }
    const struct timespec until = clock_timespec(clock_now_ns() + timeout_ms * NS_A_MS);
    int r;
    while ((r = sem_clockwait(&closing->done, CLOCK_MONOTONIC, &until)) != 0 && errno == EINTR)
        continue;
    let_go(closing);
    return r == 0 ? 0 : -ETIMEDOUT;
}
