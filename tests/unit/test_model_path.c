/* Where models are looked for, and what is said when one is not there. */
#include "tests/support/support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/model_path.h"
#include "tools/model_sources.h"

static char root[] = "/tmp/captiond-model-path-XXXXXX";

/* Makes root/path as an empty file, with its folders. */
static void make_file(const char *path)
{
    char full[512];
    snprintf(full, sizeof(full), "%s/%s", root, path);
    for (char *p = full + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(full, 0700);
        *p = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fclose(f);
}

static int set_up(void **state)
{
    (void)state;
    static char own[64], cache[64];
    assert_non_null(mkdtemp(root));
    snprintf(own, sizeof(own), "%s/own", root);
    snprintf(cache, sizeof(cache), "%s/cache", root);
    setenv("CAPTIOND_MODELS", own, 1);
    setenv("XDG_CACHE_HOME", cache, 1);
    make_file("own/tiny.en/model.bin");
    make_file("own/ggml-small.bin");
    make_file("own/hub/model.safetensors");
    make_file("own/large/model.safetensors.index.json");
    make_file("own/unfinished/config.json");
    make_file("own/.base.part");
    make_file("cache/captiond/models/ggml-tiny.en.bin");
    make_file("cache/captiond/models/medium/model.bin");
    make_file("cache/captiond/models/ggml-medium.bin");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", root);
    return system(command); /* NOLINT: a folder that mkdtemp named */
}

static void expect_found(const char *name, const char *under_root)
{
    char path[MODEL_PATH_MAX], expected[MODEL_PATH_MAX];
    struct err err = {0};
    snprintf(expected, sizeof(expected), "%s/%s", root, under_root);
    if (model_path_find(name, path, sizeof(path), &err) != 0)
        fail_msg("%s: %s", name, err.msg);
    assert_string_equal(path, expected);
}

static void names_are_found_in_the_order_of_the_folders(void **state)
{
    (void)state;
    expect_found("tiny.en", "own/tiny.en");
    expect_found("small", "own/ggml-small.bin");
    expect_found("hub", "own/hub");
    expect_found("large", "own/large");
    expect_found("medium", "cache/captiond/models/medium");
}

static void paths_are_taken_as_they_are(void **state)
{
    (void)state;
    char given[256], path[MODEL_PATH_MAX];
    snprintf(given, sizeof(given), "%s/own/unfinished", root);
    assert_int_equal(model_path_find(given, path, sizeof(path), NULL), 0);
    assert_string_equal(path, given);
    struct err err = {0};
    assert_int_equal(model_path_find("/nowhere/at/all", path, sizeof(path), &err), -ENOENT);
    assert_non_null(strstr(err.msg, "/nowhere/at/all"));
}

static void a_missing_model_names_the_command_and_what_is_there(void **state)
{
    (void)state;
    char path[MODEL_PATH_MAX] = "untouched";
    struct err err = {0};
    assert_int_equal(model_path_find("base", path, sizeof(path), &err), -ENOENT);
    assert_non_null(strstr(err.msg, "captiond-model get base`"));
    assert_non_null(strstr(err.msg, "small"));
    assert_non_null(strstr(err.msg, "medium"));
    /* Who runs the command may look elsewhere than who said so. */
    char folders[256];
    snprintf(folders, sizeof(folders),
             "(--folder is one of %s/own, %s/cache/captiond/models, /var/lib/captiond/models; ", root, root);
    assert_non_null(strstr(err.msg, folders));
    assert_int_equal(err.msg[strlen(err.msg) - 1], ')');
    assert_string_equal(path, "untouched");
}

/* Nobody is sent to get what cannot be got. */
static void a_misspelt_model_is_no_model(void **state)
{
    (void)state;
    char path[MODEL_PATH_MAX];
    struct err err = {0};
    static const char *const names[] = {"bse", "unfinished"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(model_path_find(names[i], path, sizeof(path), &err), -ENOENT);
        assert_ptr_equal(strstr(err.msg, "there is no model \""), err.msg);
        assert_non_null(strstr(err.msg, names[i]));
        assert_null(strstr(err.msg, "get"));
        assert_non_null(strstr(err.msg, "captiond-model list"));
        assert_non_null(strstr(err.msg, "small, "));
    }
    int n = 0;
    for (const struct model_source *s = model_sources; s->name; s++, n++)
        assert_true(model_path_is_known(s->name));
    assert_int_equal(n, 12); /* as many as model_path.c knows */
    assert_false(model_path_is_known("auto"));
}

static void expect_advice(const char *under_root, const char *advice)
{
    char path[256], expected[512] = "cut short";
    struct err err = {.code = -EINVAL, .msg = "cut short"};
    snprintf(path, sizeof(path), "%s/%s", root, under_root);
    if (advice)
        snprintf(expected, sizeof(expected), "cut short (damaged? Remove %s and %s)", path, advice);
    model_path_advise(path, &err);
    assert_string_equal(err.msg, expected);
    assert_int_equal(err.code, -EINVAL);
}

static void a_damaged_model_is_to_be_had_anew(void **state)
{
    (void)state;
    expect_advice("own/tiny.en", "run `captiond-model get tiny.en`");
    expect_advice("own/ggml-small.bin", "run `captiond-model get small`");
    expect_advice("own/hub", "import it again");
    expect_advice("own/unfinished", NULL); /* no model of a name */
    expect_advice("elsewhere/tiny.en", NULL);
    model_path_advise("/tiny.en", NULL);
}

static void what_is_no_name_is_refused(void **state)
{
    (void)state;
    char path[MODEL_PATH_MAX];
    struct err err = {0};
    assert_int_equal(model_path_find("", path, sizeof(path), &err), -EINVAL);
    assert_int_equal(model_path_find(".base.part", path, sizeof(path), &err), -EINVAL);
    assert_int_equal(model_path_find("tiny en", path, sizeof(path), &err), -EINVAL);
    char small[4];
    assert_int_equal(model_path_find("tiny.en", small, sizeof(small), &err), -ENAMETOOLONG);
}

static void automatic_choice_follows_the_language_of_messages(void **state)
{
    (void)state;
    static const struct {
        const char *lc_all, *lc_messages, *lang, *model;
    } cases[] = {
        {NULL, NULL, NULL, "tiny.en"},
        {NULL, NULL, "C", "tiny.en"},
        {NULL, NULL, "C.UTF-8", "tiny.en"},
        {NULL, NULL, "POSIX", "tiny.en"},
        {NULL, NULL, "en_GB.UTF-8", "tiny.en"},
        {NULL, NULL, "en", "tiny.en"},
        {NULL, NULL, "de_DE.UTF-8", "base"},
        {NULL, NULL, "eng_XX", "base"},
        {"", "", "ja_JP", "base"},
        {"", "pt_BR", "en_US.UTF-8", "base"},
        {"en_US.UTF-8", "pt_BR", "de_DE", "tiny.en"},
        {"zh_CN.UTF-8", "en_US", "en_US", "base"},
    };
    static const char *const names[] = {"LC_ALL", "LC_MESSAGES", "LANG"};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *values[] = {cases[i].lc_all, cases[i].lc_messages, cases[i].lang};
        for (int v = 0; v < 3; v++) {
            if (values[v])
                setenv(names[v], values[v], 1);
            else
                unsetenv(names[v]);
        }
        assert_string_equal(model_path_auto(NULL), cases[i].model);
        assert_string_equal(model_path_auto("en"), "tiny.en");
        assert_string_equal(model_path_auto("de"), "base");
    }
    setenv("LC_ALL", "en_US.UTF-8", 1);
    expect_found("auto", "own/tiny.en");
}

static int collect(void *ctx, const char *name, const char *path)
{
    char *text = ctx;
    (void)path;
    strcat(strcat(text, name), " "); /* NOLINT: a test's few short names */
    return 0;
}

static void a_folder_lists_each_model_once(void **state)
{
    (void)state;
    char folder[128], names[256] = "";
    snprintf(folder, sizeof(folder), "%s/cache/captiond/models", root);
    assert_int_equal(model_path_each(folder, collect, names), 0);
    assert_string_equal(names, "tiny.en medium ");
    assert_int_equal(model_path_each("/nowhere/at/all", collect, names), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_found_in_the_order_of_the_folders),
        cmocka_unit_test(paths_are_taken_as_they_are),
        cmocka_unit_test(a_missing_model_names_the_command_and_what_is_there),
        cmocka_unit_test(a_misspelt_model_is_no_model),
        cmocka_unit_test(a_damaged_model_is_to_be_had_anew),
        cmocka_unit_test(what_is_no_name_is_refused),
        cmocka_unit_test(automatic_choice_follows_the_language_of_messages),
        cmocka_unit_test(a_folder_lists_each_model_once),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
