#include "daemon/batcher.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/base/wake.h"

#define CLIENTS_MAX 64

/* Steps after which others may join: a few milliseconds on the host, where an encoding takes many times that. On a GPU it
 * is how often the host is asked; with one client nobody else comes. */
#define STEPS_A_TURN 8
#define STEPS_ALONE  32 /* a stop does not wait for longer */

#define IDLE_MS     250
#define LOAD_MAX_NS (60 * NS_A_SECOND) /* loading takes seconds; what takes longer hangs */

/* What a client asks for beside an encoding. */
enum asked { ASKED_NOTHING, ASKED_RUNS, ASKED_LOGITS, ASKED_MASK };

enum stage {
    STAGE_NONE,   /* there is no request */
    STAGE_ENCODE, /* waits for its encoding */
    STAGE_ASK,    /* waits for what it asks for */
    STAGE_WORK,   /* its runs are in work */
};

struct encoding {
    const float *pcm;
    int n_samples, n_before;
    enum audio_scale scale;
};

struct client {
    struct text_model base;
    struct batcher *batcher;
    int index;
    /* The request: the client's until it is posted, the batcher's until it is answered. */
    struct encoding encoding; /* the newest, kept for a new engine */
    bool encodes;
    enum asked asked;
    struct text_run *runs;
    int n_runs;
    int slot, pos, n_tokens;
    const int32_t *tokens;
    float *logits;
    int mask;
    uint64_t ticket; /* of the stage it is in: the order in which stages began to wait */
    int result;
    struct err err;
    _Atomic bool posted;
    _Atomic bool waits; /* for an answer */
    sem_t answered;
    /* The client's own. */
    int failed; /* the first error since its last wait, with failed_err */
    struct err failed_err;
    /* The batcher's own. */
    enum stage stage;
    bool encoded;    /* there was an encoding at all */
    bool submitted;  /* its encoding has not been waited for */
    bool audio_lost; /* what it encoded went with an engine */
};

struct mask {
    int32_t *tokens; /* NULL: none was set */
    int n;
};

struct batcher {
    struct batcher_options options;
    struct text_model *model;
    struct client *clients; /* [n_clients] */
    struct mask masks[RUN_TOKEN_MASKS];
    uint64_t caches_lost; /* a bit for each text slot whose cache went with an engine */
    pthread_t thread;
    bool started;
    sem_t wake;
    _Atomic uint64_t tickets, progress;
    _Atomic int64_t deadline_ns, loading_since_ns; /* the latter 0: nothing is loaded */
    _Atomic bool end;
};

/* --- a client's side ----------------------------------------------------------------------------------------- */

static struct client *client_of(struct text_model *m)
{
    return (struct client *)m;
}

/* Posts what has been asked and waits for the answer. */
static void settle(struct client *c)
{
    if (!c->encodes && c->asked == ASKED_NOTHING)
        return;
    c->ticket = atomic_fetch_add(&c->batcher->tickets, 1);
    atomic_store_explicit(&c->posted, true, memory_order_release);
    atomic_store(&c->waits, true);
    sem_post(&c->batcher->wake);
    while (sem_wait(&c->answered) < 0)
        continue; /* a signal */
    atomic_store(&c->waits, false);
    c->encodes = false;
    c->asked = ASKED_NOTHING;
    if (c->result < 0 && !c->failed) {
        c->failed = c->result;
        c->failed_err = c->err;
    }
}

static int client_wait(struct text_model *m, struct err *err)
{
    struct client *c = client_of(m);
    settle(c);
    int r = c->failed;
    if (r < 0 && err)
        *err = c->failed_err;
    c->failed = 0;
    return r;
}

static void client_encode(struct text_model *m, int audio_slot, const float *pcm, int n_samples, int n_before,
                          enum audio_scale scale)
{
    struct client *c = client_of(m);
    assert(audio_slot == c->index);
    settle(c);
    c->encoding = (struct encoding){pcm, n_samples, n_before, scale};
    c->encodes = true;
}

/* Something else than an encoding: it goes with one that was asked before it, but not with another such. */
static struct client *ask(struct text_model *m, enum asked asked)
{
    struct client *c = client_of(m);
    if (c->asked != ASKED_NOTHING)
        settle(c);
    c->asked = asked;
    return c;
}

static int client_run(struct text_model *m, struct text_run *runs, int n, struct err *err)
{
    struct client *c = ask(m, ASKED_RUNS);
    c->runs = runs;
    c->n_runs = n;
    return 0;
}

static int client_logits(struct text_model *m, int slot, int audio_slot, const int32_t *tokens, int n,
                         int pos, float *logits, struct err *err)
{
    struct client *c = ask(m, ASKED_LOGITS);
    assert(audio_slot == c->index);
    c->slot = slot;
    c->tokens = tokens;
    c->n_tokens = n;
    c->pos = pos;
    c->logits = logits;
    return client_wait(m, err);
}

static int client_set_mask(struct text_model *m, int index, const int32_t *tokens, int n, struct err *err)
{
    struct client *c = ask(m, ASKED_MASK);
    c->mask = index;
    c->tokens = tokens;
    c->n_tokens = n;
    return client_wait(m, err);
}

static const struct text_model_ops client_ops = {.encode = client_encode,
                                                 .run = client_run,
                                                 .logits = client_logits,
                                                 .set_mask = client_set_mask,
                                                 .wait = client_wait};

/* --- requests ------------------------------------------------------------------------------------------------- */

static void answer(struct client *c, int result, const struct err *err)
{
    c->stage = STAGE_NONE;
    c->result = result;
    if (result < 0)
        c->err = *err;
    sem_post(&c->answered);
}

static void enter(struct client *c, enum stage stage)
{
    c->stage = stage;
    c->ticket = atomic_fetch_add(&c->batcher->tickets, 1);
}

static void take_posted(struct batcher *b)
{
    for (int i = 0; i < b->options.n_clients; i++) {
        struct client *c = &b->clients[i];
        if (!atomic_exchange_explicit(&c->posted, false, memory_order_acquire))
            continue;
        bool anew = c->audio_lost && c->asked != ASKED_MASK;
        c->stage = c->encodes || anew ? STAGE_ENCODE : STAGE_ASK;
    }
}

static struct client *find_oldest(const struct batcher *b)
{
    struct client *oldest = NULL;
    for (int i = 0; i < b->options.n_clients; i++) {
        struct client *c = &b->clients[i];
        if (c->stage != STAGE_NONE && (!oldest || c->ticket < oldest->ticket))
            oldest = c;
    }
    return oldest;
}

/* Nothing is asked of the engine after this. */
static void refuse_all(struct batcher *b)
{
    struct err err;
    b->model->ops->wait(b->model, NULL); /* it may still read what is to be encoded */
    err_set(&err, -ECANCELED, "captiond is stopping");
    for (int i = 0; i < b->options.n_clients; i++) {
        if (b->clients[i].stage != STAGE_NONE)
            answer(&b->clients[i], -ECANCELED, &err);
    }
}

/* --- another engine ------------------------------------------------------------------------------------------- */

static int set_masks(struct batcher *b, struct err *err)
{
    int r = 0;
    for (int i = 0; i < RUN_TOKEN_MASKS && r >= 0; i++) {
        if (b->masks[i].tokens)
            r = b->model->ops->set_mask(b->model, i, b->masks[i].tokens, b->masks[i].n, err);
    }
    return r;
}

/* What a client has encoded is gone: if a request needs it, it is encoded again, and keeps its age. */
static void begin_anew(struct client *c)
{
    c->submitted = false;
    c->audio_lost = c->encoded;
    if (c->stage == STAGE_NONE || (c->stage == STAGE_ASK && c->asked == ASKED_MASK))
        return;
    c->stage = c->encodes || c->audio_lost ? STAGE_ENCODE : STAGE_ASK;
}

static bool take_over(struct batcher *b, const struct err *cause)
{
    struct err err;
    if (!b->options.take_over ||
        atomic_load(&b->deadline_ns) != INT64_MAX) /* no model is loaded for an end */
        return false;
    atomic_store(&b->loading_since_ns, clock_now_ns());
    int r = b->options.take_over(b->options.ctx, cause, &b->model, &err);
    atomic_store(&b->loading_since_ns, 0);
    if (r >= 0)
        r = set_masks(b, &err);
    b->caches_lost = UINT64_MAX;
    for (int i = 0; r >= 0 && i < b->options.n_clients; i++)
        begin_anew(&b->clients[i]);
    b->options.take_over = NULL; /* there is no third engine */
    return r >= 0;
}

/* A wait has told an error: what had been submitted is not there. `asking`: whose logits or mask it was, or NULL. */
static void fail(struct batcher *b, int code, const struct err *err, const struct client *asking)
{
    if (take_over(b, err))
        return;
    for (int i = 0; i < b->options.n_clients; i++) {
        struct client *c = &b->clients[i];
        if (c->stage != STAGE_NONE && (c->submitted || c->stage == STAGE_WORK || c == asking))
            answer(c, code, err);
        c->submitted = false;
    }
}

/* The engine has no numbers for these, which another one may have. */
static void fail_without_text(struct batcher *b, struct client *const *clients, int n, int code,
                              const struct err *err)
{
    if (n == 0 || take_over(b, err))
        return;
    for (int i = 0; i < n; i++)
        answer(clients[i], code, err);
}

static void wait_is_over(struct batcher *b)
{
    for (int i = 0; i < b->options.n_clients; i++)
        b->clients[i].submitted = false;
}

/* --- turns ---------------------------------------------------------------------------------------------------- */

static void encode(struct batcher *b, struct client *c)
{
    const struct encoding *e = &c->encoding;
    struct err err;
    b->model->ops->encode(b->model, c->index, e->pcm, e->n_samples, e->n_before, e->scale);
    c->encoded = c->submitted = true;
    c->audio_lost = false;
    if (c->asked != ASKED_NOTHING) {
        enter(c, STAGE_ASK);
        return;
    }
    int r = b->model->ops->wait(b->model, &err);
    if (r < 0) {
        fail(b, r, &err, c);
        return;
    }
    wait_is_over(b);
    answer(c, 0, NULL);
}

static bool is_lost(const struct batcher *b, int slot)
{
    return slot >= 0 && slot < 64 && b->caches_lost >> slot & 1;
}

static void cache_is_there(struct batcher *b, int slot)
{
    if (slot >= 0 && slot < 64)
        b->caches_lost &= ~(UINT64_C(1) << slot);
}

/* The tokens that a lost cache held are in the run: they are fed again. */
static int join(struct batcher *b, struct text_run **runs, int n, struct err *err)
{
    for (int i = 0; i < n; i++) {
        if (is_lost(b, runs[i]->slot))
            runs[i]->n_cached = 0;
    }
    int r = b->model->ops->join(b->model, runs, n, err);
    for (int i = 0; r >= 0 && i < n; i++)
        cache_is_there(b, runs[i]->slot);
    return r;
}

/* The runs of client `c`, behind the n that are in `runs`. */
static int add_runs(const struct client *c, struct text_run **runs, int n)
{
    for (int i = 0; i < c->n_runs && n < CLIENTS_MAX; i++)
        runs[n++] = &c->runs[i];
    return n;
}

static bool waits_to_run(const struct client *c)
{
    return c->stage == STAGE_ASK && c->asked == ASKED_RUNS;
}

/* All runs that wait begin together; if one of them is refused, each client's by themselves. */
static void begin_runs(struct batcher *b)
{
    struct text_run *runs[CLIENTS_MAX];
    struct err err;
    int n = 0, n_waiting = 0;
    for (int i = 0; i < b->options.n_clients; i++) {
        if (!waits_to_run(&b->clients[i]))
            continue;
        n = add_runs(&b->clients[i], runs, n);
        n_waiting++;
    }
    if (n_waiting == 0)
        return;
    int all = join(b, runs, n, &err);
    for (int i = 0; i < b->options.n_clients; i++) {
        struct client *c = &b->clients[i];
        if (!waits_to_run(c))
            continue;
        int r = all < 0 && n_waiting > 1 ? join(b, runs, add_runs(c, runs, 0), &err) : all;
        if (r < 0)
            answer(c, r, &err);
        else
            c->stage = STAGE_WORK;
    }
}

static bool has_ended(const struct client *c)
{
    for (int i = 0; i < c->n_runs; i++) {
        if (c->runs[i].stop == RUN_IN_WORK)
            return false;
    }
    return true;
}

/* One of its runs has no text, for the logits were no numbers. */
static bool is_flawed(const struct client *c)
{
    for (int i = 0; i < c->n_runs; i++) {
        if (c->runs[i].stop == RUN_STOP_FLAW)
            return true;
    }
    return false;
}

/* Answers who has a result, and who gets none, since no run goes on; n_left: how many do. */
static void end_runs(struct batcher *b, int n_left)
{
    struct client *flawed[CLIENTS_MAX];
    struct err err;
    int n_flawed = 0;
    for (int i = 0; i < b->options.n_clients; i++) {
        struct client *c = &b->clients[i];
        if (c->stage != STAGE_WORK || (!has_ended(c) && n_left > 0))
            continue;
        if (!has_ended(c))
            answer(c, err_set(&err, -EIO, "the run was dropped because of another one's error"), &err);
        else if (!is_flawed(c))
            answer(c, 0, NULL);
        else
            flawed[n_flawed++] = c;
    }
    fail_without_text(b, flawed, n_flawed, err_set(&err, -EIO, "%s", RUN_FLAW), &err);
}

static void step_runs(struct batcher *b)
{
    struct err err;
    begin_runs(b);
    int r = b->model->ops->step(b->model, b->options.n_clients > 1 ? STEPS_A_TURN : STEPS_ALONE, &err);
    if (r < 0) {
        fail(b, r, &err, NULL);
        return;
    }
    wait_is_over(b);
    end_runs(b, r);
}

/* -EINVAL is the caller's fault, and nobody else's. */
static void end_ask(struct batcher *b, struct client *c, int r, const struct err *err)
{
    if (r < 0 && r != -EINVAL) {
        fail(b, r, err, c);
        return;
    }
    if (r >= 0)
        wait_is_over(b);
    answer(c, r, err);
}

static void find_logits(struct batcher *b, struct client *c)
{
    struct err err;
    int r;
    if (c->pos > 0 && is_lost(b, c->slot)) {
        r = err_set(&err, -EINVAL, "logits in slot %d: its cache went with an engine", c->slot);
    } else {
        r = b->model->ops->logits(b->model, c->slot, c->index, c->tokens, c->n_tokens, c->pos, c->logits,
                                  &err);
        if (r >= 0)
            cache_is_there(b, c->slot);
    }
    if (r == -ERANGE)
        fail_without_text(b, &c, 1, r, &err);
    else
        end_ask(b, c, r, &err);
}

static void set_mask(struct batcher *b, struct client *c)
{
    struct err err;
    int32_t *kept = malloc(((size_t)c->n_tokens + 1) * sizeof(*kept));
    if (!kept) {
        answer(c, err_set(&err, -ENOMEM, "out of memory for a mask"), &err);
        return;
    }
    int r = b->model->ops->set_mask(b->model, c->mask, c->tokens, c->n_tokens, &err);
    if (r >= 0) {
        memcpy(kept, c->tokens, (size_t)c->n_tokens * sizeof(*kept));
        free(b->masks[c->mask].tokens);
        b->masks[c->mask] = (struct mask){kept, c->n_tokens};
    } else {
        free(kept);
    }
    end_ask(b, c, r, &err);
}

static void serve(struct batcher *b, struct client *oldest)
{
    if (oldest->stage == STAGE_ENCODE)
        encode(b, oldest);
    else if (oldest->asked == ASKED_RUNS)
        step_runs(b);
    else if (oldest->asked == ASKED_LOGITS)
        find_logits(b, oldest);
    else
        set_mask(b, oldest);
}

static void *run(void *arg)
{
    struct batcher *b = arg;
    while (!atomic_load(&b->end)) {
        take_posted(b);
        struct client *oldest = find_oldest(b);
        if (!oldest)
            wake_wait(&b->wake, IDLE_MS);
        else if (clock_now_ns() >= atomic_load(&b->deadline_ns))
            refuse_all(b);
        else
            serve(b, oldest);
        atomic_fetch_add(&b->progress, 1);
    }
    return NULL;
}

/* --- life ----------------------------------------------------------------------------------------------------- */

static int create_clients(struct batcher *b, int n)
{
    b->clients = calloc((size_t)n, sizeof(*b->clients));
    for (int i = 0; b->clients && i < n; i++) {
        struct client *c = &b->clients[i];
        c->base = *b->model;
        c->base.ops = &client_ops;
        c->batcher = b;
        c->index = i;
        sem_init(&c->answered, 0, 0);
    }
    return b->clients ? 0 : -ENOMEM;
}

int batcher_create(const struct batcher_options *options, struct text_model *model, struct batcher **out,
                   struct err *err)
{
    assert(options->n_clients >= 1 && options->n_clients <= model->n_audio_slots);
    assert(options->n_clients <= CLIENTS_MAX);
    struct batcher *b = calloc(1, sizeof(*b));
    if (!b)
        return err_set(err, -ENOMEM, "out of memory for the batcher");
    b->options = *options;
    b->model = model;
    sem_init(&b->wake, 0, 0);
    atomic_store(&b->deadline_ns, INT64_MAX);
    int r = create_clients(b, options->n_clients);
    if (r == 0)
        r = -pthread_create(&b->thread, NULL, run, b);
    b->started = r == 0;
    if (r < 0) {
        batcher_destroy(b);
        return err_set(err, r, "cannot start the batcher's thread: %s", strerror(-r));
    }
    *out = b;
    return 0;
}

struct text_model *batcher_client(struct batcher *b, int i)
{
    return &b->clients[i].base;
}

unsigned batcher_waiting(const struct batcher *b)
{
    unsigned waiting = 0;
    for (int i = 0; i < b->options.n_clients && i < 32; i++)
        waiting |= (unsigned)atomic_load(&b->clients[i].waits) << i;
    return waiting;
}

uint64_t batcher_progress(const struct batcher *b)
{
    int64_t since = atomic_load(&b->loading_since_ns), loading = since ? clock_now_ns() - since : 0;
    return atomic_load(&b->progress) + (loading < LOAD_MAX_NS ? (uint64_t)loading : 0);
}

void batcher_stop(struct batcher *b, int64_t deadline_ns)
{
    atomic_store(&b->deadline_ns, deadline_ns);
    sem_post(&b->wake);
}

void batcher_destroy(struct batcher *b)
{
    if (!b)
        return;
    if (b->started) {
        atomic_store(&b->end, true);
        sem_post(&b->wake);
        pthread_join(b->thread, NULL);
    }
    for (int i = 0; b->clients && i < b->options.n_clients; i++)
        sem_destroy(&b->clients[i].answered);
    for (int i = 0; i < RUN_TOKEN_MASKS; i++)
        free(b->masks[i].tokens);
    sem_destroy(&b->wake);
    free(b->clients);
    free(b);
}
