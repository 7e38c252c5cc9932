/* The tokenizer with real vocabularies against openai-whisper's: tokenizer.tsv, made by tools/golden/tokenizer.py. */
#include "tests/support/support.h"

#include <stdlib.h>
#include <string.h>

#include "decoder/tokenizer.h"
#include "gpu/weights.h"

#define GOLDEN "tests/golden/tokenizer.tsv"

static const char *token_bytes(const void *ctx, int32_t id, size_t *n_bytes)
{
    return weights_token_bytes(ctx, id, n_bytes);
}

static struct tokenizer *open_tokenizer(const char *model)
{
    struct weights *weights;
    struct tokenizer *t;
    struct err err = {0};
    const char *path = test_model(model);
    if (!path)
        test_skip("the model %s is not installed", model);
    if (weights_open(path, &weights, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(tokenizer_create(weights_dims(weights)->n_vocab, token_bytes, weights, &t, &err), 0);
    weights_close(weights);
    return t;
}

static int by_value(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

static size_t from_hex(const char *hex, char *out)
{
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        out[i] = (char)strtol(pair, NULL, 16);
    }
    return n;
}

static int parse_ids(char *text, int32_t *ids)
{
    int n = 0;
    for (char *end; *text && *text != '\n'; text = end)
        ids[n++] = (int32_t)strtol(text, &end, 10);
    return n;
}

static void check_special(const struct tokenizer *t, const int32_t *want, int n)
{
    const struct special_tokens *s = tokenizer_special(t);
    const int32_t got[] = {s->eot,    s->sot,      s->first_language, s->translate,     s->transcribe,
                           s->sot_lm, s->sot_prev, s->no_speech,      s->no_timestamps, s->timestamp_begin};
    assert_int_equal(n, (int)(sizeof(got) / sizeof(got[0])));
    assert_memory_equal(got, want, sizeof(got));
}

static void check_suppressed(const struct tokenizer *t, const int32_t *want, int n)
{
    int32_t got[256];
    assert_int_equal(tokenizer_suppressed(t, got, 256), n);
    qsort(got, (size_t)n, sizeof(got[0]), by_value);
    assert_memory_equal(got, want, (size_t)n * sizeof(got[0]));
}

static void check_text(const struct tokenizer *t, const char *text, size_t length, const int32_t *want, int n)
{
    int32_t got[1024];
    char back[2048];
    int n_got = tokenizer_encode(t, text, length, got, 1024);
    if (n_got != n || memcmp(got, want, (size_t)n * sizeof(got[0])) != 0)
        fail_msg("\"%.*s\" is encoded differently", (int)length, text);
    assert_int_equal(tokenizer_decode(t, got, n, back, sizeof(back)), length);
    assert_memory_equal(back, text, length);
}

static void check_vocabulary(const char *name, const char *model)
{
    static char line[16384], text[4096];
    static int32_t ids[2048];
    struct tokenizer *t = open_tokenizer(model);
    FILE *f = fopen(GOLDEN, "r");
    int n_texts = 0, n_lists = 0;
    if (!f)
        fail_msg("%s is missing; tests run in the root of the source tree", GOLDEN);
    while (fgets(line, sizeof(line), f)) {
        char *rest = line, *vocabulary = strsep(&rest, "\t"), *kind = strsep(&rest, "\t"),
             *hex = strsep(&rest, "\t");
        if (strcmp(vocabulary, name) != 0)
            continue;
        int n = parse_ids(rest, ids);
        if (strcmp(kind, "special") == 0) {
            check_special(t, ids, n);
            n_lists++;
        } else if (strcmp(kind, "suppress") == 0) {
            check_suppressed(t, ids, n);
            n_lists++;
        } else {
            check_text(t, text, from_hex(hex, text), ids, n);
            n_texts++;
        }
    }
    fclose(f);
    tokenizer_destroy(t);
    assert_int_equal(n_lists, 2);
    assert_true(n_texts > 150);
}

static void test_english_vocabulary(void **state)
{
    (void)state;
    check_vocabulary("en", "tiny.en");
}

static void test_multilingual_vocabulary(void **state)
{
    (void)state;
    check_vocabulary("multi", "base");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_english_vocabulary),
        cmocka_unit_test(test_multilingual_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
