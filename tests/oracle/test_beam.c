/* Beam search: what beam_select offers against the transcribed logit filters and a sort in double precision, and the way of
 * beam_advance against a transcription of OpenAI's whisper/decoding.py (BeamSearchDecoder, MaximumLikelihoodRanker) that
 * keeps whole hypotheses and moves nothing. */
#include "tests/oracle/rules_reference.h"

enum { OFFERS = RUN_BEAMS_MAX + 1, UNTOUCHED = -77 };

/* --- what a hypothesis offers --------------------------------------------------------------------------------------- */

enum { ROWS = 24, ROW_SLOTS = 6 };

struct select_world {
    struct engine *e;
    struct filters f;
    struct slot_state *slots;
    struct rows rows;
    struct mat logits;
    struct beam_candidate *candidates;
    int32_t *chosen;
    float *logprob;
};

static struct select_world make_select_world(const char *isa, int threads, struct vocab v)
{
    struct select_world w = {.e = open_engine(isa, threads, PRECISION_AUTO)};
    if (!w.e)
        return w;
    w.f = take_filters(w.e, v);
    w.slots = take(w.e, sizeof(*w.slots) * ROW_SLOTS);
    w.rows = take_rows(w.e, ROWS);
    w.logits = take_mat(w.e, ROWS, v.n, v.n + 7);
    w.candidates = take(w.e, sizeof(*w.candidates) * ROWS * OFFERS);
    w.chosen = take(w.e, sizeof(int32_t) * ROWS);
    w.logprob = take(w.e, sizeof(float) * ROWS);
    return w;
}

static void drop_select_world(struct select_world *w)
{
    void *const memory[] = {w->f.masks, w->slots, w->candidates, w->chosen, w->logprob};
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++)
        w->e->v->free(w->e, memory[i]);
    give_rows(w->e, w->rows);
    give_mat(w->e, w->logits);
    engine_close(w->e);
}

/* As a pass does it: select for the greedy rows, then beam_select for the others. */
static void select_rows(struct select_world *w, int n_rows)
{
    struct rows rows = w->rows;
    rows.n = n_rows;
    w->e->v->select(w->e, &(struct select_args){.rows = rows,
                                                .slots = w->slots,
                                                .masks = w->f.masks,
                                                .mask_words = w->f.mask_words,
                                                .logits = w->logits,
                                                .chosen = w->chosen,
                                                .logprob = w->logprob});
    w->e->v->beam_select(w->e, &(struct beam_select_args){.rows = rows,
                                                          .slots = w->slots,
                                                          .masks = w->f.masks,
                                                          .mask_words = w->f.mask_words,
                                                          .logits = w->logits,
                                                          .candidates = w->candidates});
    wait_for(w->e);
}

/* Returns 1 where the offers hang on a comparison too near to call in single precision. */
static int check_offers(const struct select_world *w, int r, const float *logits, double *x)
{
    const struct slot_state *s = &w->slots[w->rows.slot[r]];
    const struct beam_candidate *c = w->candidates + (size_t)r * OFFERS;
    int pos = w->rows.pos[r];
    bool chooses = pos >= 0 && pos >= s->n_prompt - 1;
    assert_int_equal(w->chosen[r] == UNTOUCHED, !chooses || s->n_beams > 1);
    if (!chooses || s->n_beams <= 1) {
        assert_int_equal(c[0].token, UNTOUCHED);
        return 0;
    }
    double margin = filter(&w->f, s, pos, logits, x), total = logsumexp(x, 0, w->f.v.n);
    if (margin > 0.0 && margin < 1e-5)
        return 1;
    int n = 0;
    for (int best = argmax(x, w->f.v.n); n <= s->n_beams && x[best] > -INFINITY;
         x[best] = -INFINITY, best = argmax(x, w->f.v.n), n++) {
        assert_int_equal(c[n].token, best);
        if (!(fabs(c[n].logprob - (x[best] - total)) <= LOGPROB_ERROR))
            fail_msg("row %d, offer %d: log-probability %.9g, not %.9g", r, n, c[n].logprob, x[best] - total);
    }
    if (n == 0) {
        assert_int_equal(c[n].token, w->f.v.eot);
        assert_true(c[n++].logprob == -INFINITY);
    }
    if (n < OFFERS)
        assert_int_equal(c[n].token, -1);
    return 0;
}

static int draw_rows(struct test_rng *rng, struct select_world *w, int most)
{
    int n = 0;
    for (int slot = 0; slot < ROW_SLOTS; slot++) {
        int want = test_rng_int(rng, 0, most), pos = w->slots[slot].n_prompt - test_rng_int(rng, 0, 3);
        for (int i = 0; i < want && n < ROWS; i++, n++) {
            w->rows.slot[n] = slot;
            w->rows.pos[n] = pos + i >= 0 && test_rng_int(rng, 0, 8) ? pos + i : -1;
        }
    }
    return n;
}

/* The best tokens so far apart that one thread of a block has them all, or nearly: every 512th, some of them equal. */
static void draw_apart(struct test_rng *rng, const struct filters *f, float *x)
{
    int first = test_rng_int(rng, 0, 511);
    fill(rng, x, (size_t)f->v.n, 1.0f);
    for (int i = first; i < f->v.n; i += 512)
        x[i + test_rng_int(rng, 0, 9) / 9 * (i + 1 < f->v.n)] = 20.0f + (float)test_rng_int(rng, 0, 20);
}

static void check_select(struct select_world *w, struct test_rng *rng, int rounds, int *rows, int *near)
{
    size_t n_vocab = (size_t)w->f.v.n;
    float *given = malloc(ROWS * n_vocab * sizeof(float));
    double *x = malloc(n_vocab * sizeof(double));
    for (int round = 0; round < rounds; round++) {
        draw_masks(rng, &w->f);
        if (round % 4 == 3) /* leaves little: fewer than are asked for, or nothing */
            for (int i = 0; i < w->f.mask_words; i++)
                w->f.masks[i] = test_rng_int(rng, 0, 1) ? ~0u : ~(1u << test_rng_int(rng, 0, 31));
        for (int slot = 0; slot < ROW_SLOTS; slot++) {
            draw_slot(rng, &w->f, &w->slots[slot]);
            w->slots[slot].n_beams = test_rng_int(rng, 0, RUN_BEAMS_MAX);
            if (round % 4 == 3)
                w->slots[slot].rules.mask = 0;
        }
        int n = draw_rows(rng, w, w->f.v.n > 1000 ? 2 : 5);
        for (int r = 0; r < n; r++) {
            if (n_vocab > 1000 && r % 2)
                draw_apart(rng, &w->f, at(w->logits, r));
            else
                draw_logits(rng, &w->f, at(w->logits, r));
            memcpy(given + (size_t)r * n_vocab, at(w->logits, r), n_vocab * sizeof(float));
            w->chosen[r] = UNTOUCHED;
            for (int i = 0; i < OFFERS; i++)
                w->candidates[r * OFFERS + i] = (struct beam_candidate){UNTOUCHED, 0.0f};
        }
        select_rows(w, n);
        for (int r = 0; r < n; r++)
            *near += check_offers(w, r, given + (size_t)r * n_vocab, x);
        *rows += n;
    }
    free(given);
    free(x);
}

static void test_offers(void **state)
{
    int rows = 0, near = 0;
    struct test_rng rng;
    test_rng_init(&rng, 21);
    for (int isa = 0; isa < N_ISAS; isa++) {
        for (int threads = 1; threads <= 4; threads++) {
            struct select_world w = make_select_world(isa_names[isa], threads, threads == 2 ? large : small);
            if (!w.e)
                continue;
            int rounds = test_rounds(100, 24);
            check_select(&w, &rng, threads == 2 ? test_rounds(8, 8) : rounds, &rows, &near);
            drop_select_world(&w);
        }
    }
    printf("%d of %d rows too near to call\n", near, rows);
    assert_true(near * 100 <= rows);
}

/* The probe of a prompt whose search begins behind it sees the logits as they are. */
static void test_probe(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 22);
    struct select_world w = make_select_world(isa_names[0], 1, small);
    double x[203];
    for (int pos = 2; pos < 6; pos++) { /* the last one also offers */
        draw_slot(&rng, &w.f, &w.slots[0]);
        w.slots[0].n_beams = 3;
        w.slots[0].n_prompt = 6;
        w.slots[0].probe_index = pos;
        w.slots[0].probe_token = 60 + pos;
        w.slots[0].rules.mask = 0;
        memset(w.f.masks, 0xff, (size_t)w.f.mask_words * sizeof(uint32_t));
        for (int r = 0; r < 6; r++) {
            w.rows.slot[r] = 0;
            w.rows.pos[r] = r;
            fill(&rng, at(w.logits, r), (size_t)w.f.v.n, 3.0f);
        }
        for (int i = 0; i < w.f.v.n; i++)
            x[i] = at(w.logits, pos)[i];
        select_rows(&w, 6);
        double p = exp(x[60 + pos] - logsumexp(x, 0, w.f.v.n));
        assert_true(fabs(w.slots[0].probe_prob - p) <= LOGPROB_ERROR * p);
    }
    drop_select_world(&w);
}

/* --- which go on ---------------------------------------------------------------------------------------------------- */

enum { SLOTS = 26, SEARCHES = SLOTS, EOT = 50, LENGTH = 40, FED = SLOTS * 12 };

struct hypothesis {
    int32_t tokens[LENGTH]; /* the produced ones */
    float logprobs[LENGTH];
    int where[LENGTH]; /* slot that each is fed in */
    int n;
    double sum; /* of multiples of 1/1024: exact, as it is in single precision */
};

/* A search as the original keeps it; width 1: a greedy slot, which is only in the way. */
struct search {
    int slot, width, n_wanted;
    double alpha;
    bool poor; /* its hypotheses offer little */
    int n_prompt, max_tokens, n_ctx;
    struct hypothesis alive[RUN_BEAMS_MAX], finished[4 * RUN_BEAMS_MAX];
    int n_alive, n_finished, n_steps;
    int32_t done;
    struct hypothesis best;
    bool in_doubt; /* two results are too near to one another for single precision */
};

struct offer {
    struct beam_candidate candidate;
    double sum;
    int beam, place;
};

static int by_rank(const void *a, const void *b)
{
    const struct offer *x = a, *y = b;
    return x->sum != y->sum ? (x->sum < y->sum) - (x->sum > y->sum) : x->place - y->place;
}

static struct hypothesis longer(const struct hypothesis *h, struct beam_candidate c, double sum, int slot)
{
    struct hypothesis out = *h;
    out.tokens[out.n] = c.token;
    out.logprobs[out.n] = c.logprob;
    out.where[out.n++] = slot;
    out.sum = sum;
    return out;
}

static double score_of(const struct search *s, const struct hypothesis *h)
{
    int length = h->n - (h->tokens[h->n - 1] == EOT);
    double n = length > 0 ? length : 1;
    return h->sum / (s->alpha < 0.0 ? n : pow((5.0 + n) / 6.0, s->alpha));
}

/* MaximumLikelihoodRanker.rank: the first of the greatest. In single precision a quotient is off by 2^-24 of itself and the
 * power by some more; scores that are equal come out of equal numbers. */
static void rank_finished(struct search *s)
{
    int best = 0;
    for (int i = 1; i < s->n_finished; i++) {
        if (score_of(s, &s->finished[i]) > score_of(s, &s->finished[best]))
            best = i;
    }
    s->best = s->finished[best];
    double top = score_of(s, &s->best);
    for (int i = 0; i < s->n_finished; i++) {
        double other = score_of(s, &s->finished[i]);
        bool same = s->finished[i].n == s->best.n && s->finished[i].sum == s->best.sum;
        bool exact = s->alpha <= 0.0 && top == other; /* equal quotients are rounded alike */
        s->in_doubt |= !same && !exact && top - other < 1e-6 * fabs(top);
    }
}

/* BeamSearchDecoder.update with offers[i] of hypothesis i, then finalize where it is over. */
static void model_step(struct search *s, struct beam_candidate offers[][OFFERS])
{
    struct offer all[RUN_BEAMS_MAX * OFFERS];
    struct hypothesis next[RUN_BEAMS_MAX];
    int n = 0, n_next = 0;
    for (int beam = 0; beam < s->n_alive; beam++) {
        for (int i = 0; i <= s->width && offers[beam][i].token >= 0; i++, n++)
            all[n] = (struct offer){offers[beam][i], s->alive[beam].sum + offers[beam][i].logprob, beam, n};
    }
    qsort(all, (size_t)n, sizeof(all[0]), by_rank);
    for (int i = 0; i < n && n_next < s->width; i++) {
        struct hypothesis h = longer(&s->alive[all[i].beam], all[i].candidate, all[i].sum, s->slot + n_next);
        if (all[i].candidate.token != EOT)
            next[n_next++] = h;
        else if (s->n_finished < s->n_wanted)
            s->finished[s->n_finished++] = h;
    }
    memcpy(s->alive, next, sizeof(next));
    s->n_alive = n_next;
    s->n_steps++;
    int length = n_next ? next[0].n : 0;
    if (s->n_finished >= s->n_wanted || n_next == 0 || length == s->max_tokens)
        s->done = SLOT_DONE_LIMIT;
    else if (s->n_prompt + length == s->n_ctx)
        s->done = SLOT_DONE_CTX;
    else
        return;
    for (int i = 0; i < n_next && s->n_finished < s->width; i++)
        s->finished[s->n_finished++] = next[i];
    rank_finished(s);
    if (s->best.tokens[s->best.n - 1] == EOT)
        s->done = SLOT_DONE_EOT;
}

struct advance_world {
    struct engine *e;
    struct slot_state *slots;
    struct beam_state *beams;
    struct rows rows;
    struct beam_candidate *candidates;
    int32_t *chosen, *n_active;
    float *logprob;
};

static struct advance_world make_advance_world(void)
{
    struct advance_world w = {.e = open_engine(isa_names[0], 2, PRECISION_AUTO)};
    assert_non_null(w.e);
    w.slots = take(w.e, SLOTS * sizeof(*w.slots));
    w.beams = take(w.e, SLOTS * sizeof(*w.beams));
    w.rows = take_rows(w.e, FED);
    w.candidates = take(w.e, sizeof(*w.candidates) * FED * OFFERS);
    w.chosen = take(w.e, FED * sizeof(int32_t));
    w.logprob = take(w.e, FED * sizeof(float));
    w.n_active = take(w.e, sizeof(int32_t));
    return w;
}

static void drop_advance_world(struct advance_world *w)
{
    void *const memory[] = {w->slots, w->beams, w->candidates, w->chosen, w->logprob, w->n_active};
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++)
        w->e->v->free(w->e, memory[i]);
    give_rows(w->e, w->rows);
    engine_close(w->e);
}

/* Fills the slots with searches and, between them, greedy slots. */
static int draw_searches(struct test_rng *rng, struct advance_world *w, struct search *searches)
{
    int n = 0;
    for (int slot = 0; slot < SLOTS; slot += searches[n++].width) {
        int width = test_rng_int(rng, 0, 2) ? test_rng_int(rng, 2, RUN_BEAMS_MAX) : 1;
        struct search *s = &searches[n];
        *s = (struct search){.slot = slot, .width = width <= SLOTS - slot ? width : 1, .n_alive = 1};
        s->n_wanted = test_rng_int(rng, 0, 1) ? s->width : test_rng_int(rng, 1, 3 * s->width);
        s->alpha = test_rng_int(rng, 0, 1) ? -1.0 : 0.25 * test_rng_int(rng, 0, 4);
        s->poor = test_rng_int(rng, 0, 2) == 0;
        s->n_prompt = test_rng_int(rng, 1, 10);
        s->max_tokens = test_rng_int(rng, 0, 4) ? test_rng_int(rng, 1, 20) : LENGTH;
        s->n_ctx = s->n_prompt + test_rng_int(rng, 1, 25);
        struct slot_state state = {.rules.eot = EOT,
                                   .n_ctx = s->n_ctx,
                                   .n_prompt = s->n_prompt,
                                   .n_tokens = s->n_prompt,
                                   .max_tokens = s->max_tokens,
                                   .n_beams = s->width,
                                   .first_slot = slot};
        for (int i = 0; i < s->n_prompt; i++) {
            state.tokens[i] = test_rng_int(rng, 0, 3) ? test_rng_int(rng, 0, 40) : EOT;
            state.kv_slot[i] = (uint8_t)slot;
        }
        for (int i = 0; i < s->width; i++)
            w->slots[slot + i] = state;
        w->beams[slot] = (struct beam_state){.n_wanted = s->n_wanted, .length_penalty = (float)s->alpha};
    }
    return n;
}

/* A row that nothing may be read from but by mistake: its candidates and its choice would win. */
static void spoil_row(struct advance_world *w, int r)
{
    for (int i = 0; i < OFFERS; i++)
        w->candidates[r * OFFERS + i] = (struct beam_candidate){41, 9.0f};
    w->chosen[r] = 41;
    w->logprob[r] = 9.0f;
}

/* What the hypothesis of row r offers. Log-probabilities are multiples of 1/1024, at times so coarse that many are equal. */
static void draw_offers(struct test_rng *rng, struct advance_world *w, int r, const struct search *s,
                        int beam, struct beam_candidate offers[][OFFERS])
{
    struct beam_candidate *c = w->candidates + (size_t)r * OFFERS;
    int n = s->poor ? test_rng_int(rng, 1, 2) : s->width + 1;
    int step = test_rng_int(rng, 0, 1) ? 1 : 1024, sum = 0;
    int ends = test_rng_int(rng, 0, 2) ? -1 : test_rng_int(rng, 0, n - 1);
    for (int i = 0; i < n; i++) {
        sum += test_rng_int(rng, 0, 2) * step;
        c[i] =
            (struct beam_candidate){i == ends ? EOT : 4 * i + test_rng_int(rng, 0, 3), (float)-sum / 1024.0f};
    }
    if (test_rng_int(rng, 0, 20) == 0) {
        n = 1;
        c[0] = (struct beam_candidate){EOT, -INFINITY};
    }
    if (n < OFFERS)
        c[n].token = -1;
    memcpy(offers[beam], c, sizeof(offers[beam]));
}

static struct search *search_of(struct search *searches, int slot)
{
    while (slot >= searches->slot + searches->width)
        searches++;
    return searches;
}

/* The first pass feeds the prompt to the first slot alone. */
static int feed_prompts(struct test_rng *rng, struct advance_world *w, const struct search *searches, int n)
{
    int n_rows = 0;
    for (int i = 0; i < n; i++) {
        for (int pos = test_rng_int(rng, 0, searches[i].n_prompt - 1); pos < searches[i].n_prompt; pos++) {
            w->rows.slot[n_rows] = searches[i].slot;
            w->rows.pos[n_rows++] = pos;
        }
    }
    return n_rows;
}

static int feed_steps(struct advance_world *w)
{
    for (int r = 0; r < SLOTS; r++)
        w->rows.slot[r] = r;
    struct rows rows = w->rows;
    rows.n = SLOTS;
    w->e->v->rows_from_slots(w->e, &(struct rows_from_slots_args){rows, w->slots});
    wait_for(w->e);
    return SLOTS;
}

static void advance_rows(struct advance_world *w, int n)
{
    struct rows rows = w->rows;
    rows.n = n;
    w->e->v->advance(w->e, &(struct advance_args){rows, w->slots, w->chosen, w->logprob, w->n_active});
    w->e->v->beam_advance(w->e,
                          &(struct beam_advance_args){rows, w->slots, w->beams, w->candidates, w->n_active});
    wait_for(w->e);
}

static void check_hypothesis(const struct search *s, const struct slot_state *got,
                             const struct hypothesis *want)
{
    assert_int_equal(got->n_tokens, s->n_prompt + want->n);
    assert_memory_equal(got->tokens + s->n_prompt, want->tokens, (size_t)want->n * sizeof(int32_t));
    assert_memory_equal(got->logprobs + s->n_prompt, want->logprobs, (size_t)want->n * sizeof(float));
    for (int i = 0; i < want->n - (s->done != SLOT_ACTIVE); i++) /* the last one will not be fed */
        assert_int_equal(got->kv_slot[s->n_prompt + i], want->where[i]);
    for (int i = 0; i < s->n_prompt; i++)
        assert_int_equal(got->kv_slot[i], s->slot);
}

static void check_search(const struct advance_world *w, const struct search *s)
{
    const struct slot_state *slots = &w->slots[s->slot];
    assert_int_equal(slots->n_steps, s->n_steps);
    if (s->done == SLOT_ACTIVE) {
        for (int i = 0; i < s->n_alive; i++) {
            assert_int_equal(slots[i].done, SLOT_ACTIVE);
            assert_true((double)slots[i].sum_logprob == s->alive[i].sum);
            check_hypothesis(s, &slots[i], &s->alive[i]);
        }
        for (int i = s->n_alive; i < s->width; i++)
            assert_int_equal(slots[i].done, SLOT_DONE_EMPTY);
        return;
    }
    for (int i = 0; i < s->width; i++)
        assert_int_not_equal(slots[i].done, SLOT_ACTIVE);
    if (s->in_doubt)
        return;
    assert_int_equal(slots->done, s->done);
    check_hypothesis(s, slots, &s->best);
}

struct tally {
    int ends[5], in_doubt, empty, searches;
};

/* One pass over n_rows rows, on the engine and by the model. */
static void step_all(struct test_rng *rng, struct advance_world *w, struct search *searches, int n,
                     int n_rows)
{
    static struct beam_candidate offers[SEARCHES][RUN_BEAMS_MAX][OFFERS];
    bool greedy_done[SEARCHES] = {false};
    int active = *w->n_active;
    for (int r = 0; r < n_rows; r++) {
        struct search *s = search_of(searches, w->rows.slot[r]);
        const struct slot_state *slot = &w->slots[w->rows.slot[r]];
        spoil_row(w, r);
        if (w->rows.pos[r] < 0 || w->rows.pos[r] != slot->n_tokens - 1)
            continue;
        assert_int_equal(slot->done, SLOT_ACTIVE);
        if (s->width > 1)
            draw_offers(rng, w, r, s, w->rows.slot[r] - s->slot, offers[s - searches]);
        else
            w->chosen[r] = test_rng_int(rng, 0, 9) ? 7 : EOT;
    }
    for (int i = 0; i < n; i++)
        greedy_done[i] = w->slots[searches[i].slot].done != SLOT_ACTIVE;
    advance_rows(w, n_rows);
    for (int i = 0; i < n; i++) {
        struct search *s = &searches[i];
        bool was_done = s->width > 1 ? s->done != SLOT_ACTIVE : greedy_done[i];
        if (s->width > 1 && !was_done)
            model_step(s, offers[i]);
        if (s->width > 1)
            check_search(w, s);
        active -= !was_done && w->slots[s->slot].done != SLOT_ACTIVE;
    }
    assert_int_equal(*w->n_active, active);
}

static void test_searches(void **state)
{
    static struct search searches[SEARCHES];
    struct test_rng rng;
    struct tally tally = {0};
    struct advance_world w = make_advance_world();
    int rounds = test_rounds(400, 40);
    test_rng_init(&rng, 23);
    for (int round = 0; round < rounds; round++) {
        int n = draw_searches(&rng, &w, searches);
        *w.n_active = n;
        step_all(&rng, &w, searches, n, feed_prompts(&rng, &w, searches, n));
        while (*w.n_active > 0) {
            step_all(&rng, &w, searches, n, feed_steps(&w));
            for (int i = 0; i < n; i++)
                tally.empty += searches[i].done == SLOT_ACTIVE && searches[i].n_alive < searches[i].width;
        }
        for (int i = 0; i < n; i++) {
            if (searches[i].width == 1)
                continue;
            tally.searches++;
            tally.ends[searches[i].done]++;
            tally.in_doubt += searches[i].in_doubt;
        }
    }
    printf("%d searches: %d end of text, %d limit, %d context; %d in doubt, %d steps with empty beams\n",
           tally.searches, tally.ends[SLOT_DONE_EOT], tally.ends[SLOT_DONE_LIMIT], tally.ends[SLOT_DONE_CTX],
           tally.in_doubt, tally.empty);
    /* The cases have seen every way to end, and nearly all were clear. */
    assert_true(tally.ends[SLOT_DONE_EOT] > tally.searches / 10 &&
                tally.ends[SLOT_DONE_LIMIT] > tally.searches / 50 &&
                tally.ends[SLOT_DONE_CTX] > tally.searches / 50 && tally.empty > rounds / 10);
    assert_true(tally.in_doubt <= tally.searches / 50 + 3);
    drop_advance_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offers),
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_searches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
