#include "daemon/captioner.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/wake.h"
#include "daemon/captioner_state.h"

#define EVENTS_MAX 256 /* of a stream that the loop has not taken */
#define IDLE_MS    250

/* --- a stream's thread ---------------------------------------------------------------------------------------- */

static void wake_loop(const struct captioner *c)
{
    c->options.wake(c->options.wake_ctx);
}

static void *run(void *arg)
{
    struct stream *s = arg;
    struct captioner *c = s->captioner;
    bool told = false; /* that it has ended */
    while (!atomic_load(&c->stop)) {
        if (atomic_exchange(&s->flush, false))
            stream_flush(s);
        bool acted = stream_advance(s);
        caption_status(s);
        atomic_fetch_add(&s->progress, 1);
        if (s->ended && !told) {
            told = true;
            atomic_fetch_add(&c->n_ended, 1);
            wake_loop(c);
        }
        if (!acted)
            wake_wait(s->in->options.wake, IDLE_MS);
    }
    stream_finish(s);
    atomic_fetch_add(&c->n_finished, 1);
    wake_loop(c);
    return NULL;
}

/* --- the loop's side ------------------------------------------------------------------------------------------ */

/* From the streams in turn. */
bool captioner_next_event(struct captioner *c, struct event *event)
{
    for (int i = 0; i < c->n_streams; i++) {
        int k = (c->next_stream + i) % c->n_streams;
        if (spsc_pop(&c->streams[k].events, event, 1) == 1) {
            c->next_stream = (k + 1) % c->n_streams;
            return true;
        }
    }
    return false;
}

static void wake_stream(struct stream *s)
{
    sem_post(s->in->options.wake);
}

void captioner_flush(struct captioner *c)
{
    for (int i = 0; i < c->n_streams; i++) {
        atomic_store(&c->streams[i].flush, true);
        wake_stream(&c->streams[i]);
    }
}

void captioner_set(struct captioner *c, const struct live_settings *settings)
{
    pthread_mutex_lock(&c->settings_lock);
    c->settings = *settings;
    atomic_fetch_add(&c->settings_told, 1);
    pthread_mutex_unlock(&c->settings_lock);
}

bool captioner_ended(const struct captioner *c)
{
    return atomic_load(&c->n_ended) == c->n_streams;
}

/* One thread that hangs must show, however busy the others are. */
uint64_t captioner_progress(struct captioner *c, unsigned waiting)
{
    bool all = true;
    for (int i = 0; i < c->n_streams; i++)
        all =
            all && (waiting >> i & 1 || atomic_load(&c->streams[i].progress) != c->streams[i].progress_seen);
    for (int i = 0; all && i < c->n_streams; i++)
        c->streams[i].progress_seen = atomic_load(&c->streams[i].progress);
    c->progress += all;
    return c->progress;
}

void captioner_stop(struct captioner *c, int64_t deadline_ns)
{
    atomic_store(&c->deadline_ns, deadline_ns);
    atomic_store(&c->stop, true);
    for (int i = 0; i < c->n_streams; i++)
        wake_stream(&c->streams[i]);
}

int64_t captioner_undecoded(const struct captioner *c, int stream)
{
    return atomic_load(&c->streams[stream].undecoded);
}

bool captioner_finished(const struct captioner *c)
{
    int n_started = 0;
    for (int i = 0; i < c->n_streams; i++)
        n_started += c->streams[i].started;
    return atomic_load(&c->n_finished) == n_started;
}

/* --- life ----------------------------------------------------------------------------------------------------- */

static int create_stream(struct captioner *c, struct stream *s, struct text_model *model,
                         const struct tokenizer *tokenizer, struct err *err)
{
    struct live_options live = {
        .audio_slot = s->index,
        .text_slot = s->index * c->options.n_text_slots,
        .settings = c->options.settings,
        .draft = c->options.draft,
        .max_buffer_ms = c->options.max_buffer_ms,
    };
    s->captioner = c;
    s->state_told = STREAM_STARTING;
    s->undecoded = -1;
    if (spsc_init(&s->events, sizeof(struct event), EVENTS_MAX) < 0)
        return err_set(err, -ENOMEM, "out of memory for the captioner's events");
    return live_create(model, tokenizer, &live, &s->live, err);
}

int captioner_create(const struct captioner_options *options, struct text_model *const *models,
                     const struct tokenizer *tokenizer, struct intake *const *inputs, int n_inputs,
                     struct captioner **out, struct err *err)
{
    struct captioner *c = calloc(1, sizeof(*c));
    size_t bytes = (size_t)n_inputs * sizeof(struct stream); /* a multiple of its alignment */
    struct stream *streams = aligned_alloc(CACHE_LINE, bytes);
    if (!c || !streams) {
        free(c);
        free(streams);
        return err_set(err, -ENOMEM, "out of memory for the captioner");
    }
    memset(streams, 0, bytes);
    c->options = *options;
    c->streams = streams;
    pthread_mutex_init(&c->settings_lock, NULL);
    for (; c->n_streams < n_inputs; c->n_streams++) {
        struct stream *s = &streams[c->n_streams];
        s->in = inputs[c->n_streams];
        s->index = c->n_streams;
        int r = create_stream(c, s, models[c->n_streams], tokenizer, err);
        if (r < 0) {
            spsc_finish(&s->events);
            captioner_destroy(c);
            return r;
        }
    }
    *out = c;
    return 0;
}

int captioner_start(struct captioner *c, struct err *err)
{
    for (int i = 0; i < c->n_streams; i++) {
        int r = pthread_create(&c->streams[i].thread, NULL, run, &c->streams[i]);
        if (r)
            return err_set(err, -r, "cannot start a captioner's thread: %s", strerror(r));
        c->streams[i].started = true;
    }
    return 0;
}

void captioner_destroy(struct captioner *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->n_streams; i++) {
        struct stream *s = &c->streams[i];
        if (s->started)
            pthread_join(s->thread, NULL);
        live_destroy(s->live);
        spsc_finish(&s->events);
    }
    pthread_mutex_destroy(&c->settings_lock);
    free(c->streams);
    free(c);
}
