/* Suppression lists of generation_config.json: they replace OpenAI's, and what is no list of tokens is one clear error. */
#include "tests/support/support.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/generation_config.h"

enum { N_VOCAB = 51865, EOT = 50257, SOT = 50258 };

static char folder[] = "/tmp/captiond-generation-XXXXXX", file[128];
static struct tokenizer *tokenizer;

static const char *byte_of(const void *ctx, int32_t id, size_t *n_bytes)
{
    static char byte;
    (void)ctx;
    if (id > 255)
        return NULL;
    byte = (char)id;
    *n_bytes = 1;
    return &byte;
}

static int setup(void **state)
{
    struct err err;
    (void)state;
    snprintf(file, sizeof(file), "%s/generation_config.json", folder);
    return tokenizer_create(N_VOCAB, byte_of, NULL, &tokenizer, &err);
}

static int teardown(void **state)
{
    (void)state;
    unlink(file);
    tokenizer_destroy(tokenizer);
    return 0;
}

static int apply(const char *json, struct err *err)
{
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs(json, f);
    fclose(f);
    return generation_config_apply(folder, tokenizer, err);
}

static bool suppressed(int32_t token)
{
    int32_t tokens[256];
    int n = tokenizer_suppressed(tokenizer, tokens, 256);
    for (int i = 0; i < n; i++) {
        if (tokens[i] == token)
            return true;
    }
    return false;
}

static void lists_replace_openais(void **state)
{
    (void)state;
    struct err err = {0};
    int32_t first[256];
    assert_true(suppressed('('));
    assert_false(suppressed('q'));
    assert_int_equal(apply("{\"suppress_tokens\": [113], \"begin_suppress_tokens\": [65, 66]}", &err), 0);
    assert_false(suppressed('('));
    assert_true(suppressed('q'));
    assert_true(suppressed(SOT)); /* what a transcript begins with never comes within it */
    assert_int_equal(tokenizer_suppressed_first(tokenizer, first, 256), 2);
    assert_int_equal(first[1], 'B');
}

static void without_lists_openais_stay(void **state)
{
    (void)state;
    struct err err = {0};
    int32_t first[256];
    assert_int_equal(generation_config_apply(folder, tokenizer, &err), 0);
    assert_int_equal(generation_config_apply("/nowhere", tokenizer, &err), 0);
    assert_int_equal(apply("{\"suppress_tokens\": [], \"begin_suppress_tokens\": null}", &err), 0);
    assert_true(suppressed('('));
    assert_int_equal(tokenizer_suppressed_first(tokenizer, first, 256), 2);
    assert_int_equal(first[1], EOT);
}

static void bad_files_are_said(void **state)
{
    (void)state;
    static const char *const bad[] = {"{",
                                      "[]",
                                      "{\"suppress_tokens\": 7}",
                                      "{\"suppress_tokens\": [1, -1]}",
                                      "{\"suppress_tokens\": [51865]}",
                                      "{\"begin_suppress_tokens\": [\"a\"]}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct err err = {0};
        assert_int_equal(apply(bad[i], &err), -EINVAL);
        assert_non_null(strstr(err.msg, "generation_config.json"));
        assert_true(suppressed('('));
    }
    char *many = malloc(4096);
    assert_non_null(many);
    strcpy(many, "{\"suppress_tokens\": [1");
    for (int i = 0; i < TOKENIZER_SUPPRESSED_MAX; i++)
        strcat(many, ",1");
    strcat(many, "]}");
    struct err err = {0};
    assert_int_equal(apply(many, &err), -EINVAL);
    free(many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lists_replace_openais, setup, teardown),
        cmocka_unit_test_setup_teardown(without_lists_openais_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_files_are_said, setup, teardown),
    };
    if (!mkdtemp(folder))
        return EXIT_FAILURE;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
