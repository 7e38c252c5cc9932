/* select against a transcription, in plain double precision, of the logit filters of OpenAI's whisper/decoding.py:
 * SuppressBlank, SuppressTokens, ApplyTimestampRules, then GreedyDecoder.update (argmax and log-softmax). */
#include "tests/oracle/rows.h"

/* Logits below 32 in magnitude: the maximum, the logarithm of the sum and their difference round by 2^-20 each, the
 * exponentials by 2 ulp, and partial sums of about a thousand of them by some 30 roundings of 2^-24. Together under 6e-6,
 * and the references' f32 logits add as much again. */
#define LOGPROB_ERROR 1e-5

enum { SLOTS = 4, ROWS = 40 };

struct vocab {
    int n, eot, no_timestamps, timestamp_begin;
};

static const struct vocab small = {.n = 203, .eot = 100, .no_timestamps = 112, .timestamp_begin = 113};
static const struct vocab large = {
    .n = 51865, .eot = 50257, .no_timestamps = 50363, .timestamp_begin = 50364};

struct world {
    struct engine *e;
    struct vocab v;
    int mask_words;
    uint32_t *masks;
    struct slot_state *slots;
    struct rows rows;
    struct mat logits;
    int32_t *chosen;
    float *logprob;
};

static struct world make_world(const char *isa, int threads, struct vocab v)
{
    struct world w = {.e = open_engine(isa, threads, PRECISION_AUTO), .v = v};
    if (!w.e)
        return w;
    w.mask_words = (v.n + 31) / 32;
    w.masks = take(w.e, sizeof(uint32_t) * RUN_TOKEN_MASKS * (size_t)w.mask_words);
    w.slots = take(w.e, sizeof(*w.slots) * SLOTS);
    w.rows = take_rows(w.e, ROWS);
    w.logits = take_mat(w.e, ROWS, v.n, v.n + 7);
    w.chosen = take(w.e, sizeof(int32_t) * ROWS);
    w.logprob = take(w.e, sizeof(float) * ROWS);
    return w;
}

static void drop_world(struct world *w)
{
    w->e->v->free(w->e, w->masks);
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
                                                .masks = w->masks,
                                                .mask_words = w->mask_words,
                                                .logits = w->logits,
                                                .chosen = w->chosen,
                                                .logprob = w->logprob});
    wait_for(w->e);
}

/* --- the transcription ---------------------------------------------------------------------------------------------- */

static double logsumexp(const double *x, int first, int last)
{
    double greatest = -INFINITY, sum = 0.0;
    for (int i = first; i < last; i++)
        greatest = fmax(greatest, x[i]);
    for (int i = first; i < last && greatest > -INFINITY; i++)
        sum += exp(x[i] - greatest);
    return greatest > -INFINITY ? greatest + log(sum) : -INFINITY;
}

static void set(double *x, int first, int last)
{
    for (int i = first; i < last; i++)
        x[i] = -INFINITY;
}

static void set_masked(const struct world *w, int mask, double *x)
{
    for (int i = 0; mask >= 0 && i < w->v.n; i++) {
        if (w->masks[mask * w->mask_words + i / 32] >> (i % 32) & 1)
            x[i] = -INFINITY;
    }
}

/* ApplyTimestampRules.apply for one sequence. Returns how near the last comparison was to a tie. */
static double timestamp_rules(const struct world *w, const struct slot_state *s, const int32_t *tokens, int n,
                              double *x)
{
    int begin = w->v.timestamp_begin;
    const int32_t *seq = tokens + s->sample_begin;
    int len = n - s->sample_begin;
    x[w->v.no_timestamps] = -INFINITY;
    bool last_was_timestamp = len >= 1 && seq[len - 1] >= begin;
    bool penultimate_was_timestamp = len < 2 || seq[len - 2] >= begin;
    if (last_was_timestamp) {
        if (penultimate_was_timestamp)
            set(x, begin, w->v.n);
        else
            set(x, 0, w->v.eot);
    }
    int last_stamp = -1;
    for (int i = 0; i < len; i++)
        last_stamp = seq[i] >= begin ? seq[i] : last_stamp;
    if (last_stamp >= 0) {
        int timestamp_last = last_was_timestamp && !penultimate_was_timestamp ? last_stamp : last_stamp + 1;
        set(x, begin, timestamp_last);
    }
    if (len == 0) {
        set(x, 0, begin);
        if (s->rules.max_initial_timestamp >= 0)
            set(x, begin + s->rules.max_initial_timestamp + 1, w->v.n);
    }
    double stamps = logsumexp(x, begin, w->v.n), text = -INFINITY;
    for (int i = 0; i < begin; i++)
        text = fmax(text, x[i]);
    if (stamps > text)
        set(x, 0, begin);
    return fabs(stamps - text);
}

/* Fills x with the filtered logits. */
static double filter(const struct world *w, const struct slot_state *s, int pos, const float *logits,
                     double *x)
{
    for (int i = 0; i < w->v.n; i++)
        x[i] = logits[i];
    if (pos + 1 == s->sample_begin)
        set_masked(w, s->rules.first_mask, x);
    set_masked(w, s->rules.mask, x);
    return s->rules.timestamps ? timestamp_rules(w, s, s->tokens, pos + 1, x) : INFINITY;
}

static int argmax(const double *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* --- cases ---------------------------------------------------------------------------------------------------------- */

/* Histories as Whisper writes them, and ones it should not write. */
static void draw_history(struct test_rng *rng, const struct world *w, struct slot_state *s, int n)
{
    int stamp = w->v.timestamp_begin, kind = test_rng_int(rng, 0, 3);
    for (int i = 0; i < n; i++) {
        bool is_stamp = i >= s->sample_begin && test_rng_int(rng, 0, kind) == 0;
        if (is_stamp && test_rng_int(rng, 0, 2))
            stamp += test_rng_int(rng, 0, 4);
        stamp = stamp < w->v.n ? stamp : w->v.n - 1;
        s->tokens[i] = is_stamp ? stamp : test_rng_int(rng, 0, w->v.eot - 1);
    }
}

static void draw_slot(struct test_rng *rng, const struct world *w, struct slot_state *s)
{
    *s = (struct slot_state){.rules = {.eot = w->v.eot,
                                       .timestamp_begin = w->v.timestamp_begin,
                                       .no_timestamps = w->v.no_timestamps,
                                       .timestamps = test_rng_int(rng, 0, 3) > 0,
                                       .max_initial_timestamp = test_rng_int(rng, 0, 1) ? 50 : -1,
                                       .mask = test_rng_int(rng, -1, 3),
                                       .first_mask = test_rng_int(rng, -1, RUN_TOKEN_MASKS - 1)},
                             .n_ctx = 448,
                             .probe_token = -1,
                             .probe_index = -1};
    s->n_prompt = test_rng_int(rng, 1, 30);
    s->sample_begin = test_rng_int(rng, 0, 2) ? s->n_prompt : test_rng_int(rng, 1, s->n_prompt);
    draw_history(rng, w, s, 60);
}

static void draw_logits(struct test_rng *rng, const struct world *w, float *x)
{
    int n = w->v.n, begin = w->v.timestamp_begin;
    switch (test_rng_int(rng, 0, 7)) {
    case 0: /* all negative */
        for (int i = 0; i < n; i++)
            x[i] = -100.0f - 10.0f * test_rng_uniform(rng);
        break;
    case 1: /* nothing but one */
        for (int i = 0; i < n; i++)
            x[i] = -INFINITY;
        x[test_rng_int(rng, 0, n - 1)] = -3.0f;
        break;
    case 2: /* ties */
        for (int i = 0; i < n; i++)
            x[i] = (float)test_rng_int(rng, -3, 3);
        break;
    case 3: /* all the same */
        for (int i = 0; i < n; i++)
            x[i] = -7.25f;
        break;
    case 4: /* timestamps are likely, each of them not very */
        fill(rng, x, (size_t)n, 1.0f);
        for (int i = begin; i < n; i++)
            x[i] += 2.0f;
        break;
    case 5: /* the end of text and the ids around the borders */
        fill(rng, x, (size_t)n, 1.0f);
        for (int i = 0; i < 5; i++)
            x[(int[]){w->v.eot, 0, n - 1, begin, begin - 1}[i]] = 20.0f + test_rng_uniform(rng);
        break;
    default:
        fill(rng, x, (size_t)n, 5.0f);
    }
}

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
    double margin = filter(w, s, pos, logits, x);
    if (margin > 0.0 &&
        margin < 1e-5) /* one timestamp against an equal text token is an exact tie, and no doubt */
        return 1;
    int best = argmax(x, w->v.n);
    if (x[best] == -INFINITY) { /* the original has no answer; ours ends the text */
        assert_int_equal(w->chosen[r], w->v.eot);
        assert_true(w->logprob[r] == -INFINITY);
        return 0;
    }
    assert_int_equal(w->chosen[r], best);
    double logprob = x[best] - logsumexp(x, 0, w->v.n);
    /* Sums of up to 230 roundings, mostly cancelling; the exponential's 2e-7; the difference of numbers near 16. */
    if (!(fabs(w->logprob[r] - logprob) <= LOGPROB_ERROR))
        fail_msg("row %d: log-probability %.9g, not %.9g", r, w->logprob[r], logprob);
    return 0;
}

/* Counts rows, and those that were too near to call. */
static void check_rules(struct world *w, struct test_rng *rng, int rounds, int *rows, int *near)
{
    float *given = malloc((size_t)ROWS * (size_t)w->v.n * sizeof(float));
    double *x = malloc((size_t)w->v.n * sizeof(double));
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < RUN_TOKEN_MASKS * w->mask_words; i++)
            w->masks[i] =
                test_rng_int(rng, 0, 3) ? (uint32_t)test_rng_next(rng) & (uint32_t)test_rng_next(rng) : 0;
        for (int slot = 0; slot < SLOTS; slot++)
            draw_slot(rng, w, &w->slots[slot]);
        int n = draw_rows(rng, w, w->v.n > 1000 ? 2 : 10);
        for (int r = 0; r < n; r++) {
            draw_logits(rng, w, at(w->logits, r));
            memcpy(given + (size_t)r * (size_t)w->v.n, at(w->logits, r), (size_t)w->v.n * sizeof(float));
            w->chosen[r] = -77;
        }
        run(w, n);
        for (int r = 0; r < n; r++)
            *near += check_row(w, r, given + (size_t)r * (size_t)w->v.n, x);
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
            int rounds = test_engines_emulated ? 24 : 150;
            check_rules(&w, &rng, threads == 2 ? 8 : rounds, &rows, &near);
            drop_world(&w);
        }
    }
    printf("%d of %d rows too near to call\n", near, rows);
    assert_true(near <= rows / 1000);
}

static void test_probe(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 10);
    for (int isa = 0; isa < N_ISAS; isa++) {
        struct world w = make_world(isa_names[isa], 2, large);
        if (!w.e)
            continue;
        double *x = malloc((size_t)w.v.n * sizeof(double));
        for (int token = 0; token < 3; token++) {
            draw_slot(&rng, &w, &w.slots[0]);
            w.slots[0].n_prompt = 10;
            w.slots[0].probe_index = 2 + token;
            w.slots[0].probe_token = token ? w.v.eot + token : 0;
            w.slots[0].rules.mask = 0; /* the probe sees the logits as they are */
            memset(w.masks, 0xff, (size_t)w.mask_words * sizeof(uint32_t));
            for (int r = 0; r < 5; r++) {
                w.rows.slot[r] = 0;
                w.rows.pos[r] = 1 + r;
                fill(&rng, at(w.logits, r), (size_t)w.v.n, 3.0f);
            }
            at(w.logits, 1 + token)[w.slots[0].probe_token] = 12.0f;
            for (int i = 0; i < w.v.n; i++)
                x[i] = at(w.logits, 1 + token)[i];
            double p = exp(x[w.slots[0].probe_token] - logsumexp(x, 0, w.v.n));
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
    return (struct slot_state){.rules = {.eot = w->v.eot,
                                         .timestamp_begin = w->v.timestamp_begin,
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
    const int draws = test_engines_emulated ? 2000 : 20000;
    double *x = calloc((size_t)w->v.n, sizeof(double));
    int *count = calloc((size_t)w->v.n, sizeof(int));
    float *given = malloc((size_t)w->v.n * sizeof(float));
    fill(rng, given, (size_t)w->v.n, 1.5f);
    memset(w->masks, 0, (size_t)w->mask_words * sizeof(uint32_t));
    w->masks[0] = 0x10101; /* tokens 0, 8 and 16 */
    given[8] = 30.0f;
    for (int i = 0; i < draws; i += ROWS) {
        uint64_t seed = test_rng_next(rng);
        for (int r = 0; r < ROWS; r++) {
            w->rows.slot[r] = 0;
            w->rows.pos[r] = r;
            memcpy(at(w->logits, r), given, (size_t)w->v.n * sizeof(float));
        }
        w->slots[0] = sampling_slot(w, temperature, seed);
        run(w, ROWS);
        for (int r = 0; r < ROWS; r++)
            count[w->chosen[r]]++;
    }
    for (int i = 0; i < w->v.n; i++)
        x[i] = i == 0 || i == 8 || i == 16 ? -INFINITY : given[i] / temperature;
    double total = logsumexp(x, 0, w->v.n), chi = 0.0, rest = 1.0, rest_count = draws;
    int degrees = 0;
    for (int i = 0; i < w->v.n; i++) {
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
        for (int r = 0; r < (test_engines_emulated ? 3 : 8); r++) {
            for (int copy = 0; copy < 2; copy++) { /* the second time in another row, beside others */
                int row = copy ? 9 - r : 0, n = copy ? 10 : 1;
                for (int i = 0; i < n; i++) {
                    w.rows.slot[i] = i < row ? 1 : i == row ? 0 : 2;
                    w.rows.pos[i] = 20 + r + (i - row);
                    memcpy(at(w.logits, i), given, sizeof(float) * (size_t)large.n);
                }
                for (int slot = 0; slot < 3; slot++)
                    w.slots[slot] = sampling_slot(&w, 0.8f, 1234u + (uint64_t)slot);
                memset(w.masks, 0, sizeof(uint32_t) * (size_t)w.mask_words);
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
