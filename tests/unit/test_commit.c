/* Which words are final: agreement by place, in case and punctuation aside, and what holds a word back. */
#include "tests/support/support.h"

#include <string.h>

#include "decoder/commit.h"
#include "decoder/guard.h"
#include "decoder/loop.h"

#define MS(x)     ((int64_t)(x)*16)
#define WORDS_MAX 32

static const struct commit_rules rules = {.holds = {{0.8f, MS(200)}, {0.5f, MS(1000)}, {0.0f, MS(2000)}},
                                          .certain = MS(5000)};

/* A hypothesis: words of 200 ms, one behind the other from `start_ms` on, each sure of itself. */
struct words {
    struct word w[WORDS_MAX];
    char text[512];
    int n;
};

static struct words *make(struct words *out, const char *text, int start_ms)
{
    char *at = out->text;
    out->n = 0;
    for (const char *s = text; *s;) {
        size_t n = strcspn(s + 1, " |") + 1; /* '|' cuts a mark off its word */
        memcpy(at, s, n);
        at[n] = '\0';
        out->w[out->n] = (struct word){.text = at,
                                       .start = MS(start_ms + 200 * out->n),
                                       .end = MS(start_ms + 200 * out->n + 200),
                                       .probability = 0.9f,
                                       .n_tokens = 1};
        out->n++;
        at += n + 1;
        s += n;
        s += *s == '|';
    }
    return out;
}

static int count(const char *before, const char *now, int audio_end_ms)
{
    struct words a, b;
    make(&a, before, 0);
    make(&b, now, 0);
    return commit_count(&rules, a.w, a.n, b.w, b.n, MS(audio_end_ms));
}

static void same_words(void **state)
{
    assert_true(commit_same(" And", " and,"));
    assert_true(commit_same(" «Été»", "été"));
    assert_true(commit_same(" Привет", " привет!"));
    assert_true(commit_same(" Ωmega", " ωmega"));
    assert_true(commit_same("東京。", "東京"));
    assert_false(commit_same(" can", " can't"));
    assert_false(commit_same("東京", "東"));
    assert_false(commit_same(" a", " b"));
    assert_false(commit_same("\xC1\x81", "a")); /* no overlong forms */
    assert_true(commit_is_mark(" ..."));
    assert_true(commit_is_mark("。"));
    assert_false(commit_is_mark(" 5"));
    assert_false(commit_is_mark(" é"));
    assert_false(commit_is_mark(" あ"));
}

static void agreement_is_a_common_prefix(void **state)
{
    assert_int_equal(count(" one two three", " one two four", 3000), 2);
    assert_int_equal(count("", " one", 3000), 0);
    assert_int_equal(count(" one two", "", 3000), 0);
    assert_int_equal(count(" two three", " one two three", 3000), 0);
    assert_int_equal(count(" no no no", " no no no no", 3000), 3);
}

static void marks_stand_in_no_ones_way(void **state)
{
    assert_int_equal(count(" one|, two", " one two", 3000), 2);
    assert_int_equal(count(" one two", " one|. Two", 3000), 3);
    /* The mark behind the last agreed word is not taken yet … */
    assert_int_equal(count(" one two", " one two|.", 3000), 2);
    /* … nor one that nothing follows. */
    assert_int_equal(count("|.", "|.", 3000), 0);
}

static void the_newest_audio_is_held_back(void **state)
{
    /* " three" ends at 600 ms. */
    assert_int_equal(count(" one two three", " one two three", 799), 2);
    assert_int_equal(count(" one two three", " one two three", 800), 3);
}

static void unsure_words_wait(void **state)
{
    struct words a, b;
    make(&a, " one two three", 0);
    make(&b, " one two three", 0);
    b.w[1].probability = 0.7f;
    assert_int_equal(commit_count(&rules, a.w, a.n, b.w, b.n, MS(1399)), 1);
    assert_int_equal(commit_count(&rules, a.w, a.n, b.w, b.n, MS(1400)), 3);
    b.w[1].probability = 0.3f;
    assert_int_equal(commit_count(&rules, a.w, a.n, b.w, b.n, MS(2399)), 1);
    assert_int_equal(commit_count(&rules, a.w, a.n, b.w, b.n, MS(2400)), 3);
}

static void old_words_need_no_agreement(void **state)
{
    assert_int_equal(count(" x y z", " one two three", 5399), 1);
    assert_int_equal(count(" x y z", " one two three", 5600), 3);
}

static void cut_words_are_not_said_again(void **state)
{
    struct words said, now;
    make(&said, " a b c d e", 0);
    assert_int_equal(commit_repeated(said.w, 5, make(&now, " e f g", 1000)->w, 3, MS(1100)), 1);
    assert_int_equal(commit_repeated(said.w, 5, make(&now, " d e f", 1000)->w, 3, MS(1300)), 2);
    /* A genuine repeat begins later than a leftover could. */
    assert_int_equal(commit_repeated(said.w, 5, make(&now, " e f g", 1000)->w, 3, MS(1000)), 0);
    assert_int_equal(commit_repeated(said.w, 5, make(&now, " d e f", 1000)->w, 3, MS(1200)), 0);
    assert_int_equal(commit_repeated(said.w, 5, make(&now, " f g", 1000)->w, 2, MS(1100)), 0);
    assert_int_equal(commit_repeated(said.w, 0, make(&now, " e", 1000)->w, 1, MS(1100)), 0);
}

static void loops_are_found(void **state)
{
    int32_t tokens[120];
    for (int p = 1; p <= 10; p++) {
        int n = 7;
        for (int i = 0; i < n; i++)
            tokens[i] = 1000 + i;
        while (n < 7 + 8 * p + 16)
            tokens[n] = n - 7 < p ? n : tokens[n - p], n++;
        assert_int_equal(loop_cut_end(tokens, n), 7 + p);
        assert_int_equal(loop_cut_end(tokens, 7 + p), 7 + p);
    }
    /* Five times "no," is speech. */
    for (int i = 0; i < 10; i++)
        tokens[i] = i % 2;
    assert_int_equal(loop_cut_end(tokens, 10), 10);
    assert_int_equal(loop_cut_end(tokens, 0), 0);
}

static void token_limits(void **state)
{
    assert_int_equal(guard_max_tokens(16000), 50);
    assert_int_equal(guard_max_tokens(160000), 225);
    assert_true(guard_no_speech(0.7f, -1.2f));
    assert_false(guard_no_speech(0.7f, -0.8f));
    assert_false(guard_no_speech(0.5f, -1.2f));
}

static void levels_and_audibility(void **state)
{
    float pcm[10 * 320 + 10], levels[16];
    for (int i = 0; i < 10 * 320 + 10; i++)
        pcm[i] = i < 5 * 320 ? 0.5f : i < 8 * 320 ? 0.001f : 0.0f;
    assert_int_equal(guard_levels(pcm, 10 * 320 + 10, levels), 11);
    assert_float_equal(levels[0], -6.0206f, 1e-3f);
    assert_float_equal(levels[9], -120.0f, 1e-3f);
    assert_false(guard_inaudible(levels, 11, 3, 6)); /* partly loud */
    assert_true(guard_inaudible(levels, 11, 5, 7));  /* 54 dB below */
    assert_true(guard_inaudible(levels, 11, 8, 10));
    assert_int_equal(guard_loud_frames(levels, 11, 0), 5);
    assert_int_equal(guard_loud_frames(levels, 11, 3), 2);
    assert_int_equal(guard_loud_frames(levels, 11, 8), 0);
    assert_int_equal(guard_quietest(levels, 11, 0, 7), 7); /* its reach ends at frame 9 */
    assert_int_equal(guard_quietest(levels, 11, 0, 99), 10);
    assert_int_equal(guard_quietest(levels, 11, 1, 3), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_words),
        cmocka_unit_test(agreement_is_a_common_prefix),
        cmocka_unit_test(marks_stand_in_no_ones_way),
        cmocka_unit_test(the_newest_audio_is_held_back),
        cmocka_unit_test(unsure_words_wait),
        cmocka_unit_test(old_words_need_no_agreement),
        cmocka_unit_test(cut_words_are_not_said_again),
        cmocka_unit_test(loops_are_found),
        cmocka_unit_test(token_limits),
        cmocka_unit_test(levels_and_audibility),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
