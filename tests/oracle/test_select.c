/* select against a transcription, in plain double precision, of the logit filters of OpenAI's whisper/decoding.py:
 * SuppressBlank, SuppressTokens, ApplyTimestampRules, then GreedyDecoder.update (argmax and log-softmax). */
#include "tests/oracle/rules_reference.h"

enum { SLOTS = 4, ROWS = 40 };

struct world {
    struct engine *e;
    struct filters f;
    struct slot_state *slots;
    struct rows rows;
    struct mat logits;
    int32_t *chosen;
    float *logprob;
};

static struct world make_world(const char *isa, int threads, struct vocab v)
{
    struct world w = {.e = open_engine(isa, threads, PRECISION_AUTO)};
    if (!w.e)
        return w;
    w.f = take_filters(w.e, v);
    w.slots = take(w.e, sizeof(*w.slots) * SLOTS);
    w.rows = take_rows(w.e, ROWS);
    w.logits = take_mat(w.e, ROWS, v.n, v.n + 7);
    w.chosen = take(w.e, sizeof(int32_t) * ROWS);
    w.logprob = take(w.e, sizeof(float) * ROWS);
    return w;
}

static void drop_world(struct world *w)
{
    w->e->v->free(w->e, w->f.masks);
    w->e->v->free(w->e, w->slots);
    w->e->v->free(w->e, w->chosen);
    w->e->v->free(w->e, w->logprob);
    give_rows(w->e, w->rows);
    give_mat(w->e, w->logits);
    engine_close(w->e);
}

static void run(struct world *w, int n_rows)
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
    wait_for(w->e);
}

/* --- cases ---------------------------------------------------------------------------------------------------------- */

static int draw_rows(struct test_rng *rng, struct world *w, int most)
{
    int n = 0;
    for (int slot = 0; slot < SLOTS; slot++) {
        int want = test_rng_int(rng, 0, most), pos = w->slots[slot].n_prompt - test_rng_int(rng, 0, 3);
        for (int i = 0; i < want && n < ROWS; i++, n++) {
            w->rows.slot[n] = slot;
            w->rows.pos[n] = pos + i >= 0 && test_rng_int(rng, 0, 8) ? pos + i : -1;
        }
    }
    return n;
}

/* Returns 1 where the choice hangs on a comparison too near to call in single precision. */
static int check_row(const struct world *w, int r, const float *logits, double *x)
{
    const struct slot_state *s = &w->slots[w->rows.slot[r]];
    int pos = w->rows.pos[r];
    if (pos < 0 || pos < s->n_prompt - 1) {
        assert_int_equal(w->chosen[r], -77);
        return 0;
    }
    double margin = filter(&w->f, s, pos, logits, x);
    if (margin > 0.0 &&
        margin < 1e-5) /* one timestamp against an equal text token is an exact tie, and no doubt */
        return 1;
    int best = argmax(x, w->f.v.n);
    if (x[best] == -INFINITY) { /* the original has no answer; ours ends the text */
        assert_int_equal(w->chosen[r], w->f.v.eot);
        assert_true(w->logprob[r] == -INFINITY);
        return 0;
    }
    assert_int_equal(w->chosen[r], best);
    double logprob = x[best] - logsumexp(x, 0, w->f.v.n);
    /* Sums of up to 230 roundings, mostly cancelling; the exponential's 2e-7; the difference of numbers near 16. */
    if (!(fabs(w->logprob[r] - logprob) <= LOGPROB_ERROR))
        fail_msg("row %d: log-probability %.9g, not %.9g", r, w->logprob[r], logprob);
    return 0;
}

/* Counts rows, and those that were too near to call. */
static void check_rules(struct world *w, struct test_rng *rng, int rounds, int *rows, int *near)
{
    float *given = malloc((size_t)ROWS * (size_t)w->f.v.n * sizeof(float));
    double *x = malloc((size_t)w->f.v.n * sizeof(double));
    for (int round = 0; round < rounds; round++) {
        draw_masks(rng, &w->f);
        for (int slot = 0; slot < SLOTS; slot++)
            draw_slot(rng, &w->f, &w->slots[slot]);
        int n = draw_rows(rng, w, w->f.v.n > 1000 ? 1 + round % 2 : 10);
        for (int r = 0; r < n; r++) {
            draw_logits(rng, &w->f, at(w->logits, r));
            memcpy(given + (size_t)r * (size_t)w->f.v.n, at(w->logits, r), (size_t)w->f.v.n * sizeof(float));
            w->chosen[r] = -77;
        }
        run(w, n);
        for (int r = 0; r < n; r++)
            *near += check_row(w, r, given + (size_t)r * (size_t)w->f.v.n, x);
        *rows += n;
    }
    free(given);
    free(x);
}

static void test_rules(void **state)
{
    int rows = 0, near = 0;
    struct test_rng rng;
    test_rng_init(&rng, 9);
    for (int isa = 0; isa < N_ISAS; isa++) {
        for (int threads = 1; threads <= 4; threads++) {
            struct world w = make_world(isa_names[isa], threads, threads == 2 ? large : small);
            if (!w.e)
                continue;
            int rounds = test_rounds(150, 24);
            check_rules(&w, &rng, threads == 2 ? test_rounds(8, 8) : rounds, &rows, &near);
            drop_world(&w);
        }
    }
    printf("%d of %d rows too near to call\n", near, rows);
    assert_true(near * 100 <= rows);
}

static void test_probe(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 10);
    for (int isa = 0; isa < N_ISAS; isa++) {
        struct world w = make_world(isa_names[isa], 2, large);
        if (!w.e)
            continue;
        double *x = malloc((size_t)w.f.v.n * sizeof(double));
        for (int token = 0; token < 3; token++) {
            draw_slot(&rng, &w.f, &w.slots[0]);
            w.slots[0].n_prompt = 10;
            w.slots[0].probe_index = 2 + token;
            w.slots[0].probe_token = token ? w.f.v.eot + token : 0;
            w.slots[0].rules.mask = 0; /* the probe sees the logits as they are */
            memset(w.f.masks, 0xff, (size_t)w.f.mask_words * sizeof(uint32_t));
            for (int r = 0; r < 5; r++) {
                w.rows.slot[r] = 0;
                w.rows.pos[r] = 1 + r;
                fill(&rng, at(w.logits, r), (size_t)w.f.v.n, 3.0f);
            }
            at(w.logits, 1 + token)[w.slots[0].probe_token] = 12.0f;
            for (int i = 0; i < w.f.v.n; i++)
                x[i] = at(w.logits, 1 + token)[i];
            double p = exp(x[w.slots[0].probe_token] - logsumexp(x, 0, w.f.v.n));
            run(&w, 5);
            assert_true(fabs(w.slots[0].probe_prob - p) <= LOGPROB_ERROR);
        }
        free(x);
        drop_world(&w);
    }
}

/* --- temperature ---------------------------------------------------------------------------------------------------- */

static struct slot_state sampling_slot(const struct world *w, float temperature, uint64_t seed)
{
    return (struct slot_state){.rules = {.eot = w->f.v.eot,
                                         .timestamp_begin = w->f.v.timestamp_begin,
                                         .no_timestamps = -1,
                                         .max_initial_timestamp = -1,
                                         .mask = 0,
                                         .first_mask = -1,
                                         .temperature = temperature,
                                         .seed = seed},
                               .n_ctx = 448,
                               .n_prompt = 1,
                               .sample_begin = 1,
                               .probe_index = -1};
}

/* Draws from softmax(logits / T): Pearson's chi-squared over the outcomes, and never a suppressed token. */
static void check_distribution(struct world *w, struct test_rng *rng, float temperature)
{
    const int draws = test_rounds(20000, 800);
    double *x = calloc((size_t)w->f.v.n, sizeof(double));
    int *count = calloc((size_t)w->f.v.n, sizeof(int));
    float *given = malloc((size_t)w->f.v.n * sizeof(float));
    fill(rng, given, (size_t)w->f.v.n, 1.5f);
    memset(w->f.masks, 0, (size_t)w->f.mask_words * sizeof(uint32_t));
    w->f.masks[0] = 0x10101; /* tokens 0, 8 and 16 */
    given[8] = 30.0f;
    for (int i = 0; i < draws; i += ROWS) {
        uint64_t seed = test_rng_next(rng);
        for (int r = 0; r < ROWS; r++) {
            w->rows.slot[r] = 0;
            w->rows.pos[r] = r;
            memcpy(at(w->logits, r), given, (size_t)w->f.v.n * sizeof(float));
        }
        w->slots[0] = sampling_slot(w, temperature, seed);
        run(w, ROWS);
        for (int r = 0; r < ROWS; r++)
            count[w->chosen[r]]++;
    }
    for (int i = 0; i < w->f.v.n; i++)
        x[i] = i == 0 || i == 8 || i == 16 ? -INFINITY : given[i] / temperature;
    double total = logsumexp(x, 0, w->f.v.n), chi = 0.0, rest = 1.0, rest_count = draws;
    int degrees = 0;
    for (int i = 0; i < w->f.v.n; i++) {
        double expected = draws * exp(x[i] - total);
        if (expected == 0.0)
            assert_int_equal(count[i], 0);
        if (expected < 10.0)
            continue; /* the rare ones are one outcome together */
        chi += (count[i] - expected) * (count[i] - expected) / expected;
        rest -= expected / draws;
        rest_count -= count[i];
        degrees++;
    }
    if (rest * draws >= 10.0)
        chi += (rest_count - rest * draws) * (rest_count - rest * draws) / (rest * draws);
    /* Six standard deviations of the distribution above its mean. */
    if (!(chi <= degrees + 6.0 * sqrt(2.0 * degrees)))
        fail_msg("temperature %.2f: chi-squared is %.1f with %d degrees of freedom", temperature, chi,
                 degrees);
    free(x);
    free(count);
    free(given);
}

static void test_temperature(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 11);
    for (int isa = 0; isa < N_ISAS; isa++) {
        struct world w = make_world(isa_names[isa], 2, small);
        if (!w.e)
            continue;
        check_distribution(&w, &rng, 1.0f);
        check_distribution(&w, &rng, 0.4f);
        drop_world(&w);
    }
}

/* The seed and the position alone decide: not the row, the batch or the number of threads. The log-probability is at
 * temperature 1. */
static void test_repeatable(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 12);
    float *given = malloc(sizeof(float) * (size_t)large.n);
    double *x = malloc(sizeof(double) * (size_t)large.n);
    fill(&rng, given, (size_t)large.n, 1.0f);
    int32_t chosen[8] = {0};
    int distinct = 0;
    for (int threads = 1; threads <= 4; threads++) {
        struct world w = make_world("avx512bf16", threads, large);
        if (!w.e)
            w = make_world(isa_names[0], threads, large);
        if (!w.e)
            continue;
        for (int r = 0; r < (test_engines_emulated ? 2 : 8); r++) {
            for (int copy = 0; copy < 2; copy++) { /* the second time in another row, beside others */
                int row = copy ? 9 - r : 0, n = copy ? 10 : 1;
                for (int i = 0; i < n; i++) {
                    w.rows.slot[i] = i < row ? 1 : i == row ? 0 : 2;
                    w.rows.pos[i] = 20 + r + (i - row);
                    memcpy(at(w.logits, i), given, sizeof(float) * (size_t)large.n);
                }
                for (int slot = 0; slot < 3; slot++)
                    w.slots[slot] = sampling_slot(&w, 0.8f, 1234u + (uint64_t)slot);
                memset(w.f.masks, 0, sizeof(uint32_t) * (size_t)w.f.mask_words);
                run(&w, n);
                if (threads == 1 && !copy)
                    chosen[r] = w.chosen[row];
                assert_int_equal(w.chosen[row], chosen[r]);
                for (int i = 0; i < large.n; i++)
                    x[i] = given[i];
                assert_true(fabs(w.logprob[row] - (given[chosen[r]] - logsumexp(x, 0, large.n))) <=
                            LOGPROB_ERROR);
            }
            distinct += r > 0 && chosen[r] != chosen[r - 1];
        }
        drop_world(&w);
    }
    assert_true(distinct > 0);
    free(given);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_temperature),
        cmocka_unit_test(test_repeatable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
