/* The batcher with a scripted model that writes down what it is asked for: what is done when, for whom, and what an error
 * does. */
#include "tests/support/support.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/batcher.h"

#define N_CLIENTS 4
#define PATIENCE  20 /* seconds that anything is waited for: far above what any test needs */

/* A model whose run in slot s takes max_tokens steps, the first pass included, and gives the tokens 100 · s, 100 · s + 1 …,
 * to which the audio's first sample is added. */
struct scripted {
    struct text_model base;
    char log
        [4096]; /* "E2 " encoding of client 2, "J013 " runs in slots 0, 1 and 3 join, "S3 " step of three, "L1 ", "M0 ", "W " wait */
    float audio[N_CLIENTS];
    struct text_run *work[16];
    int left[16], n_work;
    bool joined; /* in this turn */
    int refuse;  /* slot whose runs are refused, or −1 */
    int fail_at; /* the call with this count, from 1 on, loses the engine; 0: none */
    int n_calls;
    bool lost, drops; /* drops: a step ends all runs without results */
    int flawed;       /* slot whose runs end without a text, or −1 */
    int n_masks;
    _Atomic int n_encodings; /* begun */
    sem_t *gate;             /* the next encoding waits for it, once it has told `at_gate` */
    sem_t at_gate;
};

static struct scripted *self(struct text_model *m)
{
    return (struct scripted *)m;
}

static void note(struct scripted *s, const char *what)
{
    test_append(s->log, sizeof(s->log), what);
    s->n_calls++;
    s->lost |= s->n_calls == s->fail_at;
}

static void encode(struct text_model *m, int slot, const float *pcm, int n, int n_before,
                   enum audio_scale scale)
{
    struct scripted *s = self(m);
    char text[16];
    snprintf(text, sizeof(text), "E%d ", slot);
    note(s, text);
    atomic_fetch_add(&s->n_encodings, 1);
    s->audio[slot] = s->lost ? -1e6f : pcm[0];
    if (s->gate) {
        sem_t *gate = s->gate;
        s->gate = NULL;
        sem_post(&s->at_gate);
        sem_wait(gate);
    }
}

/* As an engine does: everything that was submitted is gone, and this is when it is told. */
static int told(struct scripted *s, struct err *err)
{
    if (!s->lost)
        return 0;
    s->n_work = 0;
    return err_set(err, -EIO, "the device is lost");
}

static int wait(struct text_model *m, struct err *err)
{
    test_append(self(m)->log, sizeof(self(m)->log), "W ");
    return told(self(m), err);
}

static int join(struct text_model *m, struct text_run *const *runs, int n, struct err *err)
{
    struct scripted *s = self(m);
    char text[32] = "J";
    for (int i = 0; i < n; i++) {
        if (runs[i]->slot == s->refuse)
            return err_set(err, -EINVAL, "a run that does not fit");
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%d", runs[i]->slot);
    }
    strcat(text, " ");
    note(s, text);
    for (int i = 0; i < n; i++) {
        runs[i]->stop = RUN_IN_WORK;
        s->left[s->n_work] = runs[i]->max_tokens - 1;
        s->work[s->n_work++] = runs[i];
    }
    s->joined = true;
    return 0;
}

static void finish(const struct scripted *s, struct text_run *r)
{
    r->n_out = r->max_tokens;
    r->stop = r->slot == s->flawed ? RUN_STOP_FLAW : RUN_STOP_LIMIT;
    r->n_steps = r->n_cached;
    for (int i = 0; i < r->n_out; i++)
        r->out_tokens[i] = 100 * r->slot + i + (int)s->audio[r->audio];
}

static int step(struct text_model *m, int max_steps, struct err *err)
{
    struct scripted *s = self(m);
    char text[16];
    int ended = 0;
    for (int i = 0; i < s->n_work; i++)
        ended += s->left[i] == 0; /* in its first pass */
    for (int n = 0; n < max_steps && ended == 0; n++) {
        snprintf(text, sizeof(text), "S%d ", s->n_work);
        note(s, text);
        for (int i = 0; i < s->n_work; i++)
            ended += --s->left[i] == 0;
    }
    int r = told(s, err), n = s->drops ? 0 : s->n_work;
    s->n_work = 0;
    for (int i = 0; r == 0 && i < n; i++) {
        if (s->left[i] == 0) {
            finish(s, s->work[i]);
            continue;
        }
        s->left[s->n_work] = s->left[i];
        s->work[s->n_work++] = s->work[i];
    }
    return r < 0 ? r : s->n_work;
}

static int logits(struct text_model *m, int slot, int audio, const int32_t *tokens, int n, int pos,
                  float *out, struct err *err)
{
    struct scripted *s = self(m);
    char text[16];
    snprintf(text, sizeof(text), "L%d ", slot);
    note(s, text);
    int r = told(s, err);
    if (r == 0 && slot == s->flawed)
        return err_set(err, -ERANGE, "%s", RUN_FLAW);
    if (r == 0)
        out[0] = s->audio[audio];
    return r;
}

static int set_mask(struct text_model *m, int index, const int32_t *tokens, int n, struct err *err)
{
    struct scripted *s = self(m);
    note(s, "M ");
    s->n_masks += n;
    return told(s, err);
}

static const struct text_model_ops ops = {
    .encode = encode, .logits = logits, .set_mask = set_mask, .wait = wait, .join = join, .step = step};

static void init_model(struct scripted *s)
{
    memset(s, 0, sizeof(*s));
    s->base = (struct text_model){.ops = &ops,
                                  .n_vocab = 51864,
                                  .n_text_ctx = 448,
                                  .n_align = 1,
                                  .n_audio_slots = N_CLIENTS,
                                  .n_text_slots = 2 * N_CLIENTS};
    s->refuse = s->flawed = -1;
    sem_init(&s->at_gate, 0, 0);
}

/* --- a stream ------------------------------------------------------------------------------------------------------ */

/* A thread that asks for `rounds` passes, each with a run of n_tokens in slot `index`. */
struct asker {
    struct text_model *model;
    int index, n_tokens, rounds;
    bool encodes, detects;
    pthread_t thread;
    float pcm[1];
    int32_t tokens[2], out[64];
    float logprobs[64];
    struct text_run run;
    int result;
    struct err err;
    int n_right;
    const struct scripted *counted; /* NULL: nothing is counted */
    int begun[16];                  /* encodings of anybody that had begun when this one was asked for */
};

/* Sound changes from pass to pass, so that an answer from an earlier one is noticed. */
static void *ask(void *arg)
{
    struct asker *a = arg;
    for (int i = 0; i < a->rounds && a->result >= 0; i++) {
        float found = -1.0f;
        a->pcm[0] = (float)(1000 * i);
        a->run = (struct text_run){.slot = a->index,
                                   .audio = a->index,
                                   .n_prompt = 1,
                                   .tokens = a->tokens,
                                   .max_tokens = a->n_tokens,
                                   .out_capacity = 64,
                                   .out_tokens = a->out,
                                   .out_logprobs = a->logprobs};
        if (a->encodes)
            a->model->ops->encode(a->model, a->index, a->pcm, 1, 0, AUDIO_SCALE_OWN);
        if (a->detects)
            a->result = a->model->ops->logits(a->model, a->index, a->index, a->tokens, 1, 0, &found, &a->err);
        int r = a->model->ops->run(a->model, &a->run, 1, &a->err);
        if (a->counted)
            a->begun[i] = atomic_load(&a->counted->n_encodings);
        int waited = a->model->ops->wait(a->model, &a->err);
        a->result = r < 0 ? r : waited < 0 ? waited : a->result;
        bool right = a->result == 0 && a->run.n_out == a->n_tokens && (!a->detects || found == a->pcm[0]);
        for (int k = 0; right && k < a->n_tokens; k++)
            right = a->out[k] == 100 * a->index + k + (a->encodes ? (int)a->pcm[0] : 0);
        a->n_right += right;
    }
    return NULL;
}

static void begin(struct asker *a, struct batcher *b, int index, int n_tokens, int rounds)
{
    *a = (struct asker){.model = batcher_client(b, index),
                        .index = index,
                        .n_tokens = n_tokens,
                        .rounds = rounds,
                        .encodes = true};
    assert_int_equal(pthread_create(&a->thread, NULL, ask, a), 0);
}

static void finish_askers(struct asker *a, int n)
{
    for (int i = 0; i < n; i++)
        pthread_join(a[i].thread, NULL);
}

static struct batcher *open_batcher(struct scripted *s, int n_clients)
{
    const struct batcher_options options = {.n_clients = n_clients};
    struct batcher *b = NULL;
    struct err err = {0};
    if (batcher_create(&options, &s->base, &b, &err) < 0)
        fail_msg("%s", err.msg);
    return b;
}

static void pause_ms(int ms)
{
    struct timespec t = {.tv_nsec = ms * NS_A_MS};
    nanosleep(&t, NULL);
}

/* While the model is held at the gate, each of clients 1 … n − 1 asks, one after the other: the pauses make the order of their
 * threads that of their tickets. */
static void ask_behind_gate(struct scripted *s, struct batcher *b, struct asker *a, const int *n_tokens,
                            int n, int rounds, sem_t *gate)
{
    sem_init(gate, 0, 0);
    s->gate = gate;
    begin(&a[0], b, 0, n_tokens[0], rounds);
    sem_wait(&s->at_gate);
    for (int i = 1; i < n; i++) {
        begin(&a[i], b, i, n_tokens[i], rounds);
        pause_ms(30);
    }
    sem_post(gate);
    finish_askers(a, n);
    sem_destroy(gate);
}

/* --- what is done when --------------------------------------------------------------------------------------------- */

static void several_that_wait_share_their_steps(void **state)
{
    struct scripted s;
    struct asker a[3];
    sem_t gate;
    init_model(&s);
    struct batcher *b = open_batcher(&s, 3);
    ask_behind_gate(&s, b, a, (const int[]){3, 1, 5}, 3, 1, &gate);
    for (int i = 0; i < 3; i++)
        assert_int_equal(a[i].n_right, 1);
    /* All are encoded, in order and without a wait between them, so that an engine can do them together; the second leaves after
     * the first pass, the first one after two steps. */
    assert_string_equal(s.log, "E0 E1 E2 J012 S2 S2 S1 S1 ");
    batcher_destroy(b);
}

/* Whoever has nothing to encode joins a run in work, and leaves before it ends. */
static void runs_join_one_in_work(void **state)
{
    struct scripted s;
    struct asker first, second;
    sem_t gate;
    init_model(&s);
    struct batcher *b = open_batcher(&s, 2);
    sem_init(&gate, 0, 0);
    s.gate = &gate;
    begin(&first, b, 0, 40, 1);
    sem_wait(&s.at_gate);
    second = (struct asker){.model = batcher_client(b, 1), .index = 1, .n_tokens = 3, .rounds = 1};
    assert_int_equal(pthread_create(&second.thread, NULL, ask, &second), 0);
    pause_ms(30);
    sem_post(&gate);
    finish_askers(&first, 1);
    finish_askers(&second, 1);
    assert_int_equal(first.n_right + second.n_right, 2);
    assert_non_null(strstr(s.log, "J01 S2 S2 S1 S1 "));
    sem_destroy(&gate);
    batcher_destroy(b);
}

/* Everybody asks again as soon as an answer is there. From when a stream asks until it is encoded, each other stream is encoded
 * once at most. A thread may be held up between saying that it asks and asking, as happens now and then on a busy machine. */
static void nobody_has_two_turns_while_another_waits(void **state)
{
    enum { ROUNDS = 16 };
    static const int n_tokens[N_CLIENTS] = {2, 30, 1, 9};
    struct scripted s;
    struct asker a[N_CLIENTS];
    init_model(&s);
    struct batcher *b = open_batcher(&s, N_CLIENTS);
    for (int i = 0; i < N_CLIENTS; i++) {
        a[i] = (struct asker){.model = batcher_client(b, i),
                              .index = i,
                              .n_tokens = n_tokens[i],
                              .rounds = ROUNDS,
                              .encodes = true,
                              .counted = &s};
        assert_int_equal(pthread_create(&a[i].thread, NULL, ask, &a[i]), 0);
    }
    finish_askers(a, N_CLIENTS);
    int order[N_CLIENTS * ROUNDS], n = 0, round[N_CLIENTS] = {0}, n_overtaken = 0;
    for (const char *p = strchr(s.log, 'E'); p; p = strchr(p + 1, 'E'))
        order[n++] = p[1] - '0';
    assert_int_equal(n, N_CLIENTS * ROUNDS);
    for (int i = 0; i < n; i++) {
        int between[N_CLIENTS] = {0}, asked = a[order[i]].begun[round[order[i]]++];
        bool overtaken = false;
        for (int k = asked; k < i; k++)
            overtaken |= ++between[order[k]] > 1;
        n_overtaken += overtaken;
    }
    printf("%d of %d were overtaken\n", n_overtaken, n);
    assert_true(n_overtaken <= n / 10);
    for (int i = 0; i < N_CLIENTS; i++)
        assert_int_equal(a[i].n_right, ROUNDS);
    batcher_destroy(b);
}

/* One client alone is never interrupted: the engine is asked once for all steps. */
static void one_client_runs_through(void **state)
{
    struct scripted s;
    struct asker a;
    init_model(&s);
    struct batcher *b = open_batcher(&s, 1);
    begin(&a, b, 0, 50, 3);
    finish_askers(&a, 1);
    assert_int_equal(a.n_right, 3);
    uint64_t before = batcher_progress(b);
    pause_ms(600);
    assert_true(batcher_progress(b) > before); /* idling */
    batcher_destroy(b);
}

/* --- errors ---------------------------------------------------------------------------------------------------------- */

/* Client 1 of three gets this error, and the others what they asked for. */
static void one_alone_fails(struct scripted *s, int result, const char *message)
{
    struct asker a[3];
    sem_t gate;
    struct batcher *b = open_batcher(s, 3);
    ask_behind_gate(s, b, a, (const int[]){3, 3, 3}, 3, 1, &gate);
    assert_int_equal(a[0].n_right, 1);
    assert_int_equal(a[1].result, result);
    assert_string_equal(a[1].err.msg, message);
    assert_int_equal(a[2].n_right, 1);
    batcher_destroy(b);
}

static void a_refused_run_hurts_nobody_else(void **state)
{
    struct scripted s;
    init_model(&s);
    s.refuse = 1;
    one_alone_fails(&s, -EINVAL, "a run that does not fit");
}

static void a_run_without_a_text_hurts_nobody_else(void **state)
{
    struct scripted s;
    init_model(&s);
    s.flawed = 1;
    one_alone_fails(&s, -EIO, RUN_FLAW);
}

/* Without another engine everybody who had something in work hears of the error, and what is asked later is tried again. */
static void an_error_of_the_engine_is_told_to_all_in_work(void **state)
{
    struct scripted s;
    struct asker a[3];
    sem_t gate;
    init_model(&s);
    s.fail_at = 5; /* a step of all three */
    struct batcher *b = open_batcher(&s, 3);
    ask_behind_gate(&s, b, a, (const int[]){4, 5, 6}, 3, 1, &gate);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(a[i].result, -EIO);
        assert_string_equal(a[i].err.msg, "the device is lost");
    }
    s.lost = false;
    begin(&a[0], b, 0, 4, 1);
    finish_askers(a, 1);
    assert_int_equal(a[0].n_right, 1);
    batcher_destroy(b);
}

/* An engine that has no runs any more without an error has dropped them: nobody waits for them for good. */
static void dropped_runs_are_an_error(void **state)
{
    struct scripted s;
    struct asker a;
    init_model(&s);
    s.drops = true;
    struct batcher *b = open_batcher(&s, 1);
    begin(&a, b, 0, 4, 1);
    finish_askers(&a, 1);
    assert_int_equal(a.result, -EIO);
    batcher_destroy(b);
}

/* Whoever waits when the deadline comes is refused, and whoever asks later; nobody waits for good. */
static void a_deadline_ends_all_waiting(void **state)
{
    struct scripted s;
    struct asker a[3];
    sem_t gate;
    init_model(&s);
    struct batcher *b = open_batcher(&s, 3);
    sem_init(&gate, 0, 0);
    s.gate = &gate;
    for (int i = 0; i < 3; i++) {
        begin(&a[i], b, i, 60, 1000000);
        if (i == 0)
            sem_wait(&s.at_gate);
    }
    pause_ms(20);
    batcher_stop(b, clock_now_ns());
    sem_post(&gate);
    finish_askers(a, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(a[i].result, -ECANCELED);
    sem_destroy(&gate);
    batcher_destroy(b);
}

/* --- another engine takes over ------------------------------------------------------------------------------------- */

struct spare {
    struct scripted model;
    int n_asked;
    bool none, flawed; /* flawed: the first engine is, and not lost */
};

static int take_over(void *ctx, const struct err *cause, struct text_model **model, struct err *err)
{
    struct spare *spare = ctx;
    spare->n_asked++;
    assert_string_equal(cause->msg, spare->flawed ? RUN_FLAW : "the device is lost");
    if (spare->none)
        return err_set(err, -ENOMEM, "no other engine");
    *model = &spare->model.base;
    return 0;
}

/* Three streams and the engine lost at call `fail_at`. Returns how many calls the first engine has seen. */
static int lose_engine_at(int fail_at)
{
    static struct scripted s;
    static struct spare spare;
    struct asker a[3];
    struct err err;
    struct batcher *b;
    const struct batcher_options options = {.n_clients = 3, .take_over = take_over, .ctx = &spare};
    init_model(&s);
    init_model(&spare.model);
    spare.n_asked = 0;
    s.fail_at = fail_at;
    assert_int_equal(batcher_create(&options, &s.base, &b, &err), 0);
    struct text_model *m = batcher_client(b, 0);
    assert_int_equal(m->ops->set_mask(m, 3, (const int32_t[]){7, 8}, 2, &err), 0);
    for (int i = 0; i < 3; i++) {
        a[i] = (struct asker){.model = batcher_client(b, i),
                              .index = i,
                              .n_tokens = 3 + 9 * i,
                              .rounds = 5,
                              .encodes = true,
                              .detects = i != 1};
        assert_int_equal(pthread_create(&a[i].thread, NULL, ask, &a[i]), 0);
    }
    finish_askers(a, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(a[i].n_right, 5);
    assert_int_equal(spare.n_asked, s.lost);
    assert_int_equal(spare.model.n_masks, s.lost ? 2 : 0);
    batcher_destroy(b);
    return s.n_calls;
}

/* Wherever the engine is lost, every answer is right. */
static void nothing_is_lost_with_an_engine(void **state)
{
    int n = lose_engine_at(0);
    for (int i = 1; i <= n; i++)
        lose_engine_at(i);
}

/* What a slot's cache held is fed again, once. */
static void a_lost_cache_is_fed_again(void **state)
{
    struct scripted s;
    struct spare spare = {0};
    struct err err;
    struct batcher *b;
    const struct batcher_options options = {.n_clients = 1, .take_over = take_over, .ctx = &spare};
    init_model(&s);
    init_model(&spare.model);
    assert_int_equal(batcher_create(&options, &s.base, &b, &err), 0);
    struct text_model *m = batcher_client(b, 0);
    const float pcm = 0.0f;
    const int32_t tokens[4] = {0};
    int32_t out[4];
    float logprobs[4], logit;
    m->ops->encode(m, 0, &pcm, 1, 0, AUDIO_SCALE_OWN);
    assert_int_equal(m->ops->wait(m, &err), 0);
    for (int i = 0; i < 4; i++) {
        struct text_run run = {.n_cached = 2,
                               .n_prompt = 4,
                               .tokens = tokens,
                               .max_tokens = 4,
                               .out_tokens = out,
                               .out_logprobs = logprobs};
        s.fail_at = i == 1 ? s.n_calls + 2 : 0;
        assert_int_equal(m->ops->run(m, &run, 1, &err), 0);
        assert_int_equal(m->ops->wait(m, &err), 0);
        assert_int_equal(run.n_steps, i == 1 ? 0 : 2); /* the model tells how many were cached */
    }
    /* Another slot's cache is gone for good: there, only a beginning is possible. */
    assert_int_equal(m->ops->logits(m, 1, 0, tokens, 1, 3, &logit, &err), -EINVAL);
    assert_int_equal(m->ops->logits(m, 1, 0, tokens, 3, 0, &logit, &err), 0);
    assert_int_equal(m->ops->logits(m, 1, 0, tokens, 1, 3, &logit, &err), 0);
    batcher_destroy(b);
}

/* There is no other engine after all: the error is told, and nobody is asked for one again. */
static void without_a_spare_the_error_stays(void **state)
{
    struct scripted s;
    struct spare spare = {.none = true};
    struct asker a;
    struct err err;
    struct batcher *b;
    const struct batcher_options options = {.n_clients = 1, .take_over = take_over, .ctx = &spare};
    init_model(&s);
    s.fail_at = 2;
    assert_int_equal(batcher_create(&options, &s.base, &b, &err), 0);
    for (int i = 0; i < 2; i++) {
        begin(&a, b, 0, 4, 1);
        finish_askers(&a, 1);
        assert_int_equal(a.result, -EIO);
        assert_string_equal(a.err.msg, "the device is lost");
    }
    assert_int_equal(spare.n_asked, 1);
    batcher_destroy(b);
}

/* A run that has no text on one engine is done on the other one; where it has none there either, that is an error, and the end of it. */
static void a_run_without_a_text_goes_to_the_other_engine(void **state)
{
    for (int i = 0; i < 4; i++) {
        bool both = i % 2, detects = i / 2; /* which asks for logits first */
        struct scripted s;
        struct spare spare = {.flawed = true};
        struct asker a[2];
        struct err err;
        struct batcher *b;
        const struct batcher_options options = {.n_clients = 2, .take_over = take_over, .ctx = &spare};
        init_model(&s);
        init_model(&spare.model);
        s.flawed = 1;
        spare.model.flawed = both ? 1 : -1;
        assert_int_equal(batcher_create(&options, &s.base, &b, &err), 0);
        begin(&a[0], b, 0, 9, 3);
        a[1] = (struct asker){.model = batcher_client(b, 1),
                              .index = 1,
                              .n_tokens = 4,
                              .rounds = 3,
                              .encodes = true,
                              .detects = detects};
        assert_int_equal(pthread_create(&a[1].thread, NULL, ask, &a[1]), 0);
        finish_askers(a, 2);
        assert_int_equal(a[0].n_right, 3);
        assert_int_equal(a[1].n_right, both ? 0 : 3);
        assert_int_equal(a[1].result, both ? -EIO : 0);
        assert_int_equal(spare.n_asked, 1);
        batcher_destroy(b);
    }
}

/* An engine that is lost while captiond ends: loading another one would take longer than there is. */
static void nothing_is_loaded_for_an_end(void **state)
{
    struct scripted s;
    struct spare spare = {0};
    struct asker a;
    struct err err;
    struct batcher *b;
    sem_t gate;
    const struct batcher_options options = {.n_clients = 1, .take_over = take_over, .ctx = &spare};
    init_model(&s);
    s.fail_at = 2;
    s.gate = &gate;
    sem_init(&gate, 0, 0);
    assert_int_equal(batcher_create(&options, &s.base, &b, &err), 0);
    begin(&a, b, 0, 4, 1);
    sem_wait(&s.at_gate);
    batcher_stop(b, clock_now_ns() + PATIENCE * NS_A_SECOND);
    sem_post(&gate);
    finish_askers(&a, 1);
    assert_int_equal(a.result, -EIO);
    assert_int_equal(spare.n_asked, 0);
    sem_destroy(&gate);
    batcher_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_that_wait_share_their_steps),
        cmocka_unit_test(runs_join_one_in_work),
        cmocka_unit_test(nobody_has_two_turns_while_another_waits),
        cmocka_unit_test(one_client_runs_through),
        cmocka_unit_test(a_refused_run_hurts_nobody_else),
        cmocka_unit_test(an_error_of_the_engine_is_told_to_all_in_work),
        cmocka_unit_test(a_deadline_ends_all_waiting),
        cmocka_unit_test(nothing_is_lost_with_an_engine),
        cmocka_unit_test(a_lost_cache_is_fed_again),
        cmocka_unit_test(without_a_spare_the_error_stays),
        cmocka_unit_test(dropped_runs_are_an_error),
        cmocka_unit_test(nothing_is_loaded_for_an_end),
        cmocka_unit_test(a_run_without_a_text_hurts_nobody_else),
        cmocka_unit_test(a_run_without_a_text_goes_to_the_other_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
