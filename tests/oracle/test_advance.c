/* rows_from_slots and advance against the life of a run as gpu/slot.h tells it. */
#include "tests/oracle/rows.h"

enum { SLOTS = 6, ROWS = 60, EOT = 50 };

struct world {
    struct engine *e;
    struct slot_state *slots;
    struct rows rows;
    int32_t *chosen, *n_active;
    float *logprob;
};

static struct world make_world(void)
{
    struct world w = {.e = open_engine(isa_names[0], 2, PRECISION_AUTO)};
    if (!w.e)
        abort(); /* every processor has this one */
    w.slots = take(w.e, SLOTS * sizeof(*w.slots));
    w.rows = take_rows(w.e, ROWS);
    w.chosen = take(w.e, ROWS * sizeof(int32_t));
    w.logprob = take(w.e, ROWS * sizeof(float));
    w.n_active = take(w.e, sizeof(int32_t));
    return w;
}

static void drop_world(struct world *w)
{
    w->e->v->free(w->e, w->slots);
    w->e->v->free(w->e, w->chosen);
    w->e->v->free(w->e, w->logprob);
    w->e->v->free(w->e, w->n_active);
    give_rows(w->e, w->rows);
    engine_close(w->e);
}

static void draw_slot(struct test_rng *rng, struct slot_state *s)
{
    *s = (struct slot_state){.rules.eot = EOT};
    s->n_prompt = test_rng_int(rng, 1, 12);
    s->n_tokens = s->n_prompt;
    s->n_draft = test_rng_int(rng, 0, 1) ? test_rng_int(rng, 0, 7) : 0;
    s->n_ctx = s->n_prompt + s->n_draft + test_rng_int(rng, s->n_draft == 0, 9);
    s->max_tokens = test_rng_int(rng, 1, 9);
    for (int i = 0; i < s->n_prompt + s->n_draft; i++)
        s->tokens[i] = test_rng_int(rng, 0, 3) ? test_rng_int(rng, 0, 9) : EOT;
}

/* The first pass of a slot: rows for part of the prompt, its last token and the draft. The choices often follow the
 * draft. */
static int feed_slot(struct world *w, struct test_rng *rng, int slot, int n)
{
    struct slot_state *s = &w->slots[slot];
    int first = test_rng_int(rng, 0, s->n_prompt - 1);
    for (int pos = first; pos < s->n_prompt + s->n_draft; pos++, n++) {
        w->rows.slot[n] = slot;
        w->rows.pos[n] = pos;
        bool follow = pos >= s->n_prompt - 1 && pos + 1 < s->n_prompt + s->n_draft && test_rng_int(rng, 0, 4);
        w->chosen[n] = follow ? s->tokens[pos + 1] : test_rng_int(rng, 0, 5) ? test_rng_int(rng, 0, 9) : EOT;
        w->logprob[n] = -test_rng_uniform(rng);
    }
    return n;
}

/* One append and its checks, in the order that slot.h gives. */
static bool model_append(struct slot_state *s, int32_t token, float logprob)
{
    s->tokens[s->n_tokens] = token;
    s->logprobs[s->n_tokens++] = logprob;
    if (token == s->rules.eot) {
        s->done = SLOT_DONE_EOT;
    } else if (s->n_tokens - s->n_prompt == s->max_tokens) {
        s->done = SLOT_DONE_LIMIT;
    } else if (s->n_tokens == s->n_ctx) {
        s->done = SLOT_DONE_CTX;
    }
    return s->done == SLOT_ACTIVE;
}

/* What advance should make of a slot, told from the rows that hold positions n_tokens − 1 and on. */
static struct slot_state model_advance(struct slot_state s, const struct world *w, int slot, int n_rows)
{
    int32_t choice[64];
    float logprob[64];
    bool seen[64] = {0};
    for (int r = 0; r < n_rows; r++) {
        if (w->rows.slot[r] == slot && w->rows.pos[r] >= 0) {
            seen[w->rows.pos[r]] = true;
            choice[w->rows.pos[r]] = w->chosen[r];
            logprob[w->rows.pos[r]] = w->logprob[r];
        }
    }
    if (s.done != SLOT_ACTIVE || !seen[s.n_tokens - 1])
        return s;
    s.n_steps++;
    int draft_end = s.n_tokens + s.n_draft;
    bool going = true;
    while (going && s.n_tokens < draft_end && choice[s.n_tokens - 1] == s.tokens[s.n_tokens]) {
        s.n_accepted++;
        going = model_append(&s, s.tokens[s.n_tokens], logprob[s.n_tokens - 1]);
    }
    if (going)
        model_append(&s, choice[s.n_tokens - 1], logprob[s.n_tokens - 1]);
    s.n_draft = 0;
    return s;
}

static void check_slots(const struct world *w, const struct slot_state *expected, int n_active)
{
    for (int slot = 0; slot < SLOTS; slot++) {
        const struct slot_state *a = &w->slots[slot], *b = &expected[slot];
        assert_int_equal(a->n_tokens, b->n_tokens);
        assert_int_equal(a->n_accepted, b->n_accepted);
        assert_int_equal(a->n_draft, b->n_draft);
        assert_int_equal(a->n_steps, b->n_steps);
        assert_int_equal(a->done, b->done);
        assert_memory_equal(a->tokens, b->tokens, sizeof(int32_t) * (size_t)b->n_tokens);
        assert_memory_equal(a->logprobs, b->logprobs, sizeof(float) * (size_t)b->n_tokens);
        n_active -= b->done != SLOT_ACTIVE;
    }
    assert_int_equal(*w->n_active, n_active);
}

static void submit_advance(struct world *w, int n)
{
    struct rows rows = w->rows;
    rows.n = n;
    w->e->v->advance(w->e, &(struct advance_args){rows, w->slots, w->chosen, w->logprob, w->n_active});
    wait_for(w->e);
}

/* Later passes: a row for each slot, from rows_from_slots. */
static void check_steps(struct world *w, struct test_rng *rng, struct slot_state *expected)
{
    for (int step = 0; step < 12; step++) {
        for (int r = 0; r < SLOTS; r++) {
            w->rows.slot[r] = SLOTS - 1 - r;
            w->chosen[r] = test_rng_int(rng, 0, 12) ? test_rng_int(rng, 0, 9) : EOT;
            w->logprob[r] = -test_rng_uniform(rng);
        }
        struct rows rows = w->rows;
        rows.n = SLOTS;
        w->e->v->rows_from_slots(w->e, &(struct rows_from_slots_args){rows, w->slots});
        wait_for(w->e);
        for (int r = 0; r < SLOTS; r++) {
            const struct slot_state *s = &w->slots[w->rows.slot[r]];
            assert_int_equal(w->rows.pos[r], s->done == SLOT_ACTIVE ? s->n_tokens - 1 : -1);
            if (s->done == SLOT_ACTIVE)
                assert_int_equal(w->rows.token[r], s->tokens[s->n_tokens - 1]);
        }
        for (int slot = 0; slot < SLOTS; slot++)
            expected[slot] = model_advance(expected[slot], w, slot, SLOTS);
        submit_advance(w, SLOTS);
        check_slots(w, expected, SLOTS);
    }
}

static void test_runs(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 13);
    struct world w = make_world();
    struct slot_state *expected = calloc(SLOTS, sizeof(*expected));
    int stops[4] = {0}, accepted = 0, rounds = test_rounds(300, 60);
    for (int round = 0; round < rounds; round++) {
        int n = 0;
        *w.n_active = SLOTS;
        for (int slot = 0; slot < SLOTS; slot++) {
            draw_slot(&rng, &w.slots[slot]);
            if (test_rng_int(&rng, 0, 6) == 0) /* this one is not in the first pass */
                w.slots[slot].n_draft = 0;
            else if (n + 20 <= ROWS)
                n = feed_slot(&w, &rng, slot, n);
            if (test_rng_int(&rng, 0, 3) == 0 && n < ROWS) { /* an idle row, of no slot in particular */
                w.rows.pos[n] = -1;
                w.rows.slot[n++] = slot;
            }
        }
        memcpy(expected, w.slots, sizeof(*expected) * SLOTS);
        for (int slot = 0; slot < SLOTS; slot++)
            expected[slot] = model_advance(expected[slot], &w, slot, n);
        submit_advance(&w, n);
        check_slots(&w, expected, SLOTS);
        for (int slot = 0; slot < SLOTS; slot++) /* a draft that no pass has seen is not carried along */
            w.slots[slot].n_draft = expected[slot].n_draft = 0;
        check_steps(&w, &rng, expected);
        for (int slot = 0; slot < SLOTS; slot++) {
            stops[expected[slot].done]++;
            accepted += expected[slot].n_accepted;
        }
    }
    /* The cases have seen every way to stop, and drafts. */
    assert_true(stops[SLOT_DONE_EOT] > rounds / 15 && stops[SLOT_DONE_LIMIT] > rounds / 15 &&
                stops[SLOT_DONE_CTX] > rounds / 15 && accepted > rounds * 2 / 3);
    free(expected);
    drop_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
