/* The tokenizer on a small vocabulary of its own: 256 bytes and a few merges. tests/golden/test_tokenizer_golden.c
 * compares real vocabularies with OpenAI's tokenizer. */
#include "tests/support/support.h"

#include <errno.h>
#include <string.h>

#include "decoder/pretokenize.h"
#include "decoder/tokenizer.h"

/* Ids 256 on, by rank. */
static const char *const merges[] = {"ab", "bc", "cd", "abcd", " a", " ab", "aa", "aaa", "ö"};
enum { AB = 256, BC, CD, ABCD, SPACE_A, SPACE_AB, AA, AAA, O_UMLAUT };

static char byte_tokens[256];

static const char *vocabulary(const void *ctx, int32_t id, size_t *n_bytes)
{
    (void)ctx;
    int32_t merge = id - 256;
    if (merge < 0) {
        byte_tokens[id] = (char)id;
        *n_bytes = 1;
        return &byte_tokens[id];
    }
    if (merge >= (int32_t)(sizeof(merges) / sizeof(merges[0])))
        return NULL;
    *n_bytes = strlen(merges[merge]);
    return merges[merge];
}

static struct tokenizer *open_tokenizer(int n_vocab)
{
    struct tokenizer *t = NULL;
    struct err err;
    assert_int_equal(tokenizer_create(n_vocab, vocabulary, NULL, &t, &err), 0);
    return t;
}

static void check_encode(const struct tokenizer *t, const char *text, const int32_t *expected, int n)
{
    int32_t tokens[64];
    assert_int_equal(tokenizer_encode(t, text, strlen(text), tokens, 64), n);
    assert_memory_equal(tokens, expected, (size_t)n * sizeof(*tokens));
}

#define CHECK_ENCODE(t, text, ...)                                                                           \
    check_encode(t, text, (const int32_t[]){__VA_ARGS__},                                                    \
                 (int)(sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))

static void test_merges_follow_rank_then_position(void **state)
{
    (void)state;
    struct tokenizer *t = open_tokenizer(51864);
    CHECK_ENCODE(t, "ab", AB);
    CHECK_ENCODE(t, "abc", AB, 'c'); /* ab before bc, though both fit */
    CHECK_ENCODE(t, "bcd", BC, 'd');
    CHECK_ENCODE(t, "xabcd", 'x', ABCD);          /* ab and cd, then both together */
    CHECK_ENCODE(t, "aaaaa", AA, AAA);            /* aa a a a; aa aa a; aa aaa */
    CHECK_ENCODE(t, "xab ab", 'x', AB, SPACE_AB); /* never across pieces */
    CHECK_ENCODE(t, "\xC3\xB6\xC3", O_UMLAUT, 0xC3);
    tokenizer_destroy(t);
}

static void test_encode_counts_beyond_the_capacity(void **state)
{
    (void)state;
    struct tokenizer *t = open_tokenizer(51864);
    int32_t tokens[4] = {-7, -7, -7, -7};
    assert_int_equal(tokenizer_encode(t, "x y z", 5, tokens, 2), 5);
    assert_int_equal(tokens[0], 'x');
    assert_int_equal(tokens[1], ' ');
    assert_int_equal(tokens[2], -7);
    assert_int_equal(tokenizer_encode(t, "x y z", 5, NULL, 0), 5);
    assert_int_equal(tokenizer_encode(t, "", 0, tokens, 4), 0);
    tokenizer_destroy(t);
}

static void check_pieces(const char *text, const char *const *pieces)
{
    size_t n = strlen(text), at = 0;
    for (; *pieces; pieces++) {
        assert_true(at < n);
        size_t length = pretokenize_next(text + at, n - at);
        assert_int_equal(length, strlen(*pieces));
        assert_memory_equal(text + at, *pieces, length);
        at += length;
    }
    assert_int_equal(at, n);
}

#define CHECK_PIECES(text, ...) check_pieces(text, (const char *const[]){__VA_ARGS__, NULL})

static void test_pieces_of_the_regular_expression(void **state)
{
    (void)state;
    CHECK_PIECES("Hello world", "Hello", " world");
    CHECK_PIECES("it's we'LL they'll", "it", "'s", " we", "'", "LL", " they", "'ll");
    CHECK_PIECES(" 's", " '", "s");
    CHECK_PIECES("abc123 45!?", "abc", "123", " 45", "!?");
    CHECK_PIECES("a  b", "a", " ", " b");
    CHECK_PIECES("a\n\nb \n", "a", "\n", "\n", "b", " \n");
    CHECK_PIECES("   ", "   ");
    CHECK_PIECES(" ", " ");
    CHECK_PIECES("öäü½Ⅳ٣", "öäü", "½Ⅳ٣");
    CHECK_PIECES("\u3000\u00A0x", "\u3000", "\u00A0", "x"); /* only U+0020 joins a word */
    CHECK_PIECES("e\u0301", "e", "\u0301");                 /* a combining mark is no letter */
    CHECK_PIECES("a\xFFz", "a", "\xFF", "z");
}

static void test_any_bytes_come_back(void **state)
{
    (void)state;
    struct tokenizer *t = open_tokenizer(51865);
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (int round = 0; round < 3000; round++) {
        char text[400], back[401];
        int32_t tokens[400];
        int n = test_rng_int(&rng, 0, round % 10 ? 60 : 400);
        bool narrow = test_rng_int(&rng, 0, 1);
        for (int i = 0; i < n; i++)
            text[i] = narrow ? " abcd's\n"[test_rng_int(&rng, 0, 7)] : (char)test_rng_int(&rng, 1, 255);
        int count = tokenizer_encode(t, text, (size_t)n, tokens, 400);
        assert_in_range(count, n > 0, n);
        assert_int_equal(tokenizer_decode(t, tokens, count, back, sizeof(back)), n);
        assert_memory_equal(text, back, (size_t)n);
        assert_int_equal(back[n], '\0');
    }
    tokenizer_destroy(t);
}

static void test_decode_skips_special_tokens_and_cuts(void **state)
{
    (void)state;
    struct tokenizer *t = open_tokenizer(51865);
    const struct special_tokens *s = tokenizer_special(t);
    const int32_t tokens[] = {s->sot, s->first_language, 'x', s->timestamp_begin + 7, ABCD, s->eot, -1};
    char out[8];
    assert_int_equal(tokenizer_decode(t, tokens, 7, out, sizeof(out)), 5);
    assert_string_equal(out, "xabcd");
    assert_int_equal(tokenizer_decode(t, tokens, 7, out, 4), 5);
    assert_string_equal(out, "xab");
    assert_int_equal(tokenizer_decode(t, tokens, 7, NULL, 0), 5);
    tokenizer_destroy(t);
}

/* The ids that the vocabularies of tiny.en, base and large-v3 give. */
static void test_special_tokens_of_each_size(void **state)
{
    (void)state;
    static const struct {
        int n_vocab, eot, en, sot_prev, no_speech, no_timestamps, timestamp_begin, n_languages;
        bool multilingual;
    } sizes[] = {
        {51864, 50256, 50258, 50360, 50361, 50362, 50363, 1, false},
        {51865, 50257, 50259, 50361, 50362, 50363, 50364, 99, true},
        {51866, 50257, 50259, 50362, 50363, 50364, 50365, 100, true},
    };
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct tokenizer *t = open_tokenizer(sizes[i].n_vocab);
        const struct special_tokens *s = tokenizer_special(t);
        assert_int_equal(s->eot, sizes[i].eot);
        assert_int_equal(s->sot, sizes[i].eot + 1);
        assert_int_equal(s->first_language, sizes[i].en);
        assert_int_equal(s->sot_prev, sizes[i].sot_prev);
        assert_int_equal(s->no_speech, sizes[i].no_speech);
        assert_int_equal(s->no_timestamps, sizes[i].no_timestamps);
        assert_int_equal(s->timestamp_begin, sizes[i].timestamp_begin);
        assert_int_equal(s->n_languages, sizes[i].n_languages);
        assert_int_equal(s->multilingual, sizes[i].multilingual);
        assert_int_equal(s->translate + 1, s->transcribe);
        assert_int_equal(s->transcribe + 1, s->sot_lm);
        tokenizer_destroy(t);
    }
}

static void test_languages(void **state)
{
    (void)state;
    struct tokenizer *english = open_tokenizer(51864), *base = open_tokenizer(51865),
                     *large = open_tokenizer(51866);
    assert_int_equal(tokenizer_language_token(base, "de"), 50261);
    assert_string_equal(tokenizer_token_language(base, 50261), "de");
    assert_int_equal(tokenizer_language_token(base, "yue"), -1);
    assert_int_equal(tokenizer_language_token(large, "yue"), 50358);
    assert_int_equal(tokenizer_language_token(base, "su"), 50357);
    assert_int_equal(tokenizer_language_token(base, "xx"), -1);
    assert_int_equal(tokenizer_language_token(english, "en"), 50258);
    assert_int_equal(tokenizer_language_token(english, "de"), -1);
    assert_null(tokenizer_token_language(base, 50258));
    assert_null(tokenizer_token_language(base, 50358)); /* translate */
    assert_string_equal(tokenizer_language_code("German"), "de");
    assert_string_equal(tokenizer_language_code("haitian creole"), "ht");
    assert_string_equal(tokenizer_language_code("castilian"), "es");
    assert_string_equal(tokenizer_language_code("YUE"), "yue");
    assert_null(tokenizer_language_code("klingon"));
    tokenizer_destroy(english);
    tokenizer_destroy(base);
    tokenizer_destroy(large);
}

static const char *without_byte_7(const void *ctx, int32_t id, size_t *n_bytes)
{
    return id == 7 ? NULL : vocabulary(ctx, id, n_bytes);
}

static void test_bad_vocabularies_are_refused(void **state)
{
    (void)state;
    struct tokenizer *t = NULL;
    struct err err = {0};
    assert_int_equal(tokenizer_create(51863, vocabulary, NULL, &t, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "51863"));
    assert_int_equal(tokenizer_create(51864, without_byte_7, NULL, &t, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "0x07"));
    assert_null(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_follow_rank_then_position),
        cmocka_unit_test(test_encode_counts_beyond_the_capacity),
        cmocka_unit_test(test_pieces_of_the_regular_expression),
        cmocka_unit_test(test_any_bytes_come_back),
        cmocka_unit_test(test_decode_skips_special_tokens_and_cuts),
        cmocka_unit_test(test_special_tokens_of_each_size),
        cmocka_unit_test(test_languages),
        cmocka_unit_test(test_bad_vocabularies_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
