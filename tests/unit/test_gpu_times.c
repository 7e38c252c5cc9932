/* gpu-times looks at what it has measured: where a window has something else than when it is alone there is no figure. */
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#include "gpu/text_decoder.h"
#include "gpu/whisper.h"

/* The program itself, whose runs go through these two. */
static int run_seen(struct whisper *, struct text_run *, int n, struct err *);
static int wait_altered(struct whisper *, struct err *);
int gpu_times_main(int, char **);
#define main         gpu_times_main
#define whisper_run  run_seen
#define whisper_wait wait_altered
#include "tools/bench/gpu_times.c" /* NOLINT(bugprone-suspicious-include) */
#undef main
#undef whisper_run
#undef whisper_wait

/* The first run is of a window alone, the next ones measure. What is altered from here on has been right before. */
enum { ALTERED = 4 };

static char model[512];
static float noise[WINDOW];
static int32_t elsewhere[RUN_TOKENS_MAX];
static int n_runs;
static struct text_run *seen; /* the last window's, once */
static bool unwritten;
static void (*alter)(struct text_run *);

static int run_seen(struct whisper *w, struct text_run *runs, int n, struct err *err)
{
    n_runs++;
    seen = n_runs >= ALTERED ? &runs[n - 1] : NULL;
    if (seen && unwritten)
        seen->out_tokens = elsewhere;
    return whisper_run(w, runs, n, err);
}

static int wait_altered(struct whisper *w, struct err *err)
{
    int r = whisper_wait(w, err);
    if (r == 0 && seen && alter)
        alter(seen);
    seen = NULL;
    return r;
}

static void another_token(struct text_run *run)
{
    run->out_tokens[run->n_out - 1]++;
}

static void another_bit(struct text_run *run)
{
    run->out_logprobs[run->n_out - 1] = nextafterf(run->out_logprobs[run->n_out - 1], 1.0f);
}

static void one_less(struct text_run *run)
{
    run->n_out--;
}

static int measured(const char *engine, const char *what, struct err *err)
{
    n_runs = 0;
    *err = (struct err){0};
    return measure(engine, model, noise, what, err);
}

static void test_all_alike(void **state)
{
    struct err err;
    alter = NULL, unwritten = false;
    assert_int_equal(measured("host", "batch:2", &err), 0);
    assert_int_equal(measured("host", "streams:2", &err), 0);
    assert_true(n_runs > ALTERED);
}

static void test_one_is_not(void **state)
{
    static void (*const each[])(struct text_run *) = {another_token, another_bit, one_less, NULL};
    for (int i = 0; i < 4; i++) {
        struct err err;
        alter = each[i], unwritten = !alter;
        assert_int_equal(measured("host", "batch:2", &err), -EIO);
        if (!strstr(err.msg, "window 2 of 2 "))
            fail_msg("%s", err.msg);
        assert_int_equal(measured("host", "streams:1", &err), -EIO);
        if (!strstr(err.msg, "window 1 of 1 "))
            fail_msg("%s", err.msg);
    }
}

static void test_refuses(void **state)
{
    struct err err;
    alter = NULL, unwritten = false;
    assert_int_equal(measured("host", "batch:2x", &err), -EINVAL);
    assert_int_equal(measured("host", "batch", &err), -EINVAL);
    assert_int_equal(measured("host:f16", "batch:1", &err), -EINVAL);
}

static int setup(void **state)
{
    struct tiny_model m;
    snprintf(model, sizeof(model), "%s", tiny_folder());
    tiny_model_init(&m, 5, 70, 24);
    tiny_model_write_ct2(&m, model, true, NULL);
    tiny_model_finish(&m);
    tiny_model_noise("window", 3, 0.1f, noise, WINDOW);
    return 0;
}

static int teardown(void **state)
{
    tiny_folder_remove(model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_alike),
        cmocka_unit_test(test_one_is_not),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
