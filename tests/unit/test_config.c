#include "tests/support/support.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/socket_path.h"
#include "daemon/config.h"

#define FLAGS_MAX 16

static char file_path[64];

/* Loads with the file's text (NULL: an empty file) and the flags, NULL ended. */
static int load(struct config *config, const char *text, const char *const *flags, struct err *err)
{
    char *argv[FLAGS_MAX + 4] = {"captiond", "--config", file_path};
    int argc = 3;
    enum config_action action;
    FILE *f = fopen(file_path, "w");
    assert_non_null(f);
    fputs(text ? text : "", f);
    fclose(f);
    for (; flags && *flags; flags++)
        argv[argc++] = (char *)*flags;
    return config_load(config, argc, argv, &action, err);
}

static void load_ok(struct config *config, const char *text, const char *const *flags)
{
    struct err err = {0};
    if (load(config, text, flags, &err) < 0)
        fail_msg("%s", err.msg);
}

static void has_defaults(void **state)
{
    struct config c;
    load_ok(&c, NULL, NULL);
    assert_int_equal(c.n_inputs, 1);
    assert_string_equal(c.inputs[0].name, "mic");
    assert_string_equal(c.inputs[0].spec, "portaudio");
    assert_int_equal(c.pace, PACE_REALTIME);
    assert_int_equal(c.control_mode, 0600);
    assert_float_equal(c.gate_threshold, 0.5, 0.0);
    assert_string_equal(c.model, "auto");
    assert_false(c.once);
    config_finish(&c);
}

/* Flags win over the file, the file over the defaults; inputs are replaced, not added. */
static void layers_values(void **state)
{
    struct config c;
    load_ok(&c,
            "# comment\n; another\n\nstep = 700\nmodel=base\ninput = a=portaudio\n"
            "  input = portaudio:USB Mic\n log-level: error\n",
            (const char *[]){"--step", "800", "--pace=fast", "--once", NULL});
    assert_int_equal(c.step_ms, 800);
    assert_string_equal(c.model, "base");
    assert_int_equal(c.pace, PACE_FAST);
    assert_true(c.once);
    assert_int_equal(c.log_level, 0);
    assert_int_equal(c.n_inputs, 2);
    assert_string_equal(c.inputs[0].name, "a");
    assert_string_equal(c.inputs[1].name, "mic");
    assert_string_equal(c.inputs[1].spec, "portaudio:USB Mic");
    config_finish(&c);

    load_ok(
        &c, "input = a=portaudio\n",
        (const char *[]){"--input", "x=file:a=b.wav", "--input", "file:c.wav", "--input=file:d.wav", NULL});
    assert_int_equal(c.n_inputs, 3);
    assert_string_equal(c.inputs[0].spec, "file:a=b.wav");
    assert_string_equal(c.inputs[1].name, "file");
    assert_string_equal(c.inputs[2].name, "file-2");
    config_finish(&c);
}

static void takes_switches(void **state)
{
    struct config c;
    load_ok(&c, "gate = no\n", (const char *[]){"--once", "--draft", "off", NULL});
    assert_true(c.once);
    assert_false(c.draft);
    assert_false(c.gate);
    config_finish(&c);
    load_ok(&c, NULL, (const char *[]){"--gate", "off", "--once=no", NULL});
    assert_false(c.gate);
    assert_false(c.once);
    config_finish(&c);
}

/* Every mistake names its place and the key, and says what would be right. */
static void explains_mistakes(void **state)
{
    static const struct {
        const char *text, *flag, *value;
        const char *says[4];
    } cases[] = {
        {"\n\nmodle = x\n", NULL, NULL, {":3: modle", "did you mean model?"}},
        {"step = soon\n", NULL, NULL, {":1: step", "100 to 5000", "\"soon\""}},
        {"step = 500 # ms\n",
         NULL,
         NULL,
         {":1: step", "\"500 # ms\" (a comment behind a value begins with ;)"}},
        {"step = 99\n", NULL, NULL, {":1: step", "100 to 5000 ms"}},
        {"step = 500.5\n", NULL, NULL, {":1: step", "100 to 5000"}},
        {"step = 99999999999999999999\n", NULL, NULL, {":1: step", "100 to 5000"}},
        {"gate-threshold = nan\n", NULL, NULL, {":1: gate-threshold", "0.2 to 0.95"}},
        {"pace = slow\n", NULL, NULL, {":1: pace", "realtime or fast"}},
        {"stdout = all\n", NULL, NULL, {"none, text or jsonl"}},
        {"once = maybe\n", NULL, NULL, {"on or off"}},
        {"socket-mode = 0999\n", NULL, NULL, {"socket-mode", "0660"}},
        {"language = klingon\n", NULL, NULL, {"language", "klingon"}},
        {"step = 500\nstep = 600\n", NULL, NULL, {":2: step", "second time"}},
        {"[audio]\nstep = 500\n", NULL, NULL, {":1:", "no sections", "[audio]"}},
        {"step = 500\n  [x]\n", NULL, NULL, {":2:", "no sections", "[x]"}},
        {"\xEF\xBB\xBF[x]\n", NULL, NULL, {":1:", "no sections"}},
        {"step\n", NULL, NULL, {":1:", "KEY = VALUE"}},
        {"model = \n", NULL, NULL, {":1: model", "needs a value"}},
        {"input = cassette\n", NULL, NULL, {":1: input", "cassette"}},
        {"input = a=portaudio\ninput = a=monitor\n", NULL, NULL, {":2: input", "called a"}},
        {"socket = /a\ncontrol = /a\n", NULL, NULL, {"must differ"}},
        {NULL, "--stepp", "500", {"--stepp", "did you mean step?"}},
        {NULL, "--step", "x", {"--step", "100 to 5000"}},
        {NULL, "--step", NULL, {"--step", "needs a value"}},
        {NULL, "--socket=", NULL, {"--socket", "needs a value"}},
        {NULL, "--zzzzzzzz", NULL, {"--zzzzzzzz", "unknown setting"}},
        {NULL, "file.wav", NULL, {"file.wav", "--help"}},
        {NULL, "--config", NULL, {"--config", "needs a file"}},
        {NULL, "--config", "/nonexistent/captiond.conf", {"/nonexistent/captiond.conf", "No such file"}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct config c;
        struct err err = {0};
        const char *flags[] = {cases[i].flag, cases[i].value, NULL};
        int r = load(&c, cases[i].text, flags, &err);
        if (r >= 0)
            fail_msg("case %zu was accepted", i);
        for (int k = 0; k < 4 && cases[i].says[k]; k++)
            if (!strstr(err.msg, cases[i].says[k]))
                fail_msg("case %zu: \"%s\" is missing in: %s", i, cases[i].says[k], err.msg);
    }
}

static void checks_socket_paths(void **state)
{
    struct config c;
    struct err err = {0};
    char path[109];
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[108] = '\0'; /* 108 bytes: one too many, NUL included */
    assert_int_equal(load(&c, NULL, (const char *[]){"--socket", path, NULL}, &err), -ENAMETOOLONG);
    assert_non_null(strstr(err.msg, "at most 107"));
    path[107] = '\0';
    load_ok(&c, NULL, (const char *[]){"--socket", path, NULL});
    config_finish(&c);
}

/* Whoever has no runtime folder is told by which option a socket gets its place. Root has one always. */
static void a_socket_without_a_place_names_its_option(void **state)
{
    struct err captions = {0}, control = {0};
    char path[SOCKET_PATH_MAX], *old = getenv("XDG_RUNTIME_DIR"), *kept = old ? strdup(old) : NULL;
    bool root = geteuid() == 0;
    if (root && seteuid(65534) < 0)
        test_skip("root cannot be another user");
    unsetenv("XDG_RUNTIME_DIR");
    unsetenv("RUNTIME_DIRECTORY");
    int r = socket_path_default(SOCKET_NAME_CAPTIONS, path, &captions);
    int r_control = socket_path_default(SOCKET_NAME_CONTROL, path, &control);
    if (kept)
        setenv("XDG_RUNTIME_DIR", kept, 1);
    free(kept);
    if (root)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(r, -ENOENT);
    assert_int_equal(r_control, -ENOENT);
    assert_non_null(strstr(captions.msg, "captions.sock has no default place: give it by --socket PATH"));
    assert_non_null(strstr(control.msg, "control.sock has no default place: give it by --control PATH"));
}

/* Without --config the user's file is read where there is one. */
static void finds_the_users_file(void **state)
{
    char dir[] = "/tmp/captiond-test-XXXXXX", path[128];
    struct config c;
    struct err err;
    enum config_action action;
    char *argv[] = {"captiond", NULL};
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/captiond", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/captiond/captiond.conf", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("step = 1234\n", f);
    fclose(f);
    setenv("XDG_CONFIG_HOME", dir, 1);
    assert_int_equal(config_load(&c, 1, argv, &action, &err), 0);
    assert_int_equal(c.step_ms, 1234);
    assert_string_equal(c.file, path);
    config_finish(&c);
    unlink(path);
    snprintf(path, sizeof(path), "%s/captiond", dir);
    rmdir(path);
    rmdir(dir);
}

/* Lines that inih would cut are refused instead. */
static void refuses_long_lines(void **state)
{
    struct config c;
    struct err err = {0};
    char text[6000] = "model = ";
    memset(text + 8, 'x', 300);
    test_append(text, sizeof(text), "\nstep = 500\n");
    assert_int_equal(load(&c, text, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.msg, ":1: the line is too long"));
    memset(text + 8, 'x', 5000);
    text[5008] = '\0';
    assert_int_equal(load(&c, text, NULL, &err), -EINVAL);
}

/* What --print-config writes is a configuration file: it loads, and means the same; and so do its comments. */
static void example_is_a_configuration(void **state)
{
    struct config c, again;
    struct err err;
    char *text = NULL;
    size_t size = 0;
    char prompt[CONFIG_TEXT_MAX + 1] = "";
    while (strlen(prompt) < CONFIG_TEXT_MAX - 30)
        test_append(prompt, sizeof(prompt), "; Wörter \\; und ;Sätze, ");
    prompt[strlen(prompt) - 1] = '\0'; /* blanks around a value are not kept */
    load_ok(&c, "step = 700\n",
            (const char *[]){"--input", "a=portaudio:X ;Y \\\\;", "--hotwords", ";", "--input", "monitor",
                             "--prompt", prompt, NULL});
    FILE *f = open_memstream(&text, &size);
    assert_int_equal(config_print(&c, f, &err), 0);
    fclose(f);
    load_ok(&again, text, NULL);
    int n;
    const struct config_key *keys = config_keys(&n);
    for (int i = 0; i < n; i++) {
        if (config_differs(&c, &again, &keys[i]))
            fail_msg("%s differs", keys[i].name);
        char commented[128];
        snprintf(commented, sizeof(commented), "\n#%s =%s%s\n", keys[i].name, keys[i].fallback[0] ? " " : "",
                 keys[i].fallback);
        if (c.set_by[i] == SET_BY_DEFAULT && !strstr(text, commented))
            fail_msg("%s is missing in the example", keys[i].name);
    }
    config_finish(&c);
    config_finish(&again);
    free(text);
}

/* What a file cannot hold is told, and not written so that it means something else. */
static void tells_what_is_no_line(void **state)
{
    char words[400] = "", line[400];
    memset(words, 'x', 300);
    const struct {
        const char *option, *value;
        int r;
    } cases[] = {
        {"--prompt", words, -E2BIG},
        {"--prompt", words + 120, 0},
        {"--prompt", " a", -EINVAL},
        {"--input", "file:/tmp/trail ", -EINVAL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct config c;
        struct err err = {0};
        snprintf(line, sizeof(line), "%s", cases[i].value);
        load_ok(&c, NULL, (const char *[]){cases[i].option, line, NULL});
        FILE *f = fopen("/dev/null", "w");
        assert_int_equal(config_print(&c, f, &err), cases[i].r);
        assert_true(cases[i].r == 0 || strstr(err.msg, cases[i].option + 2));
        fclose(f);
        config_finish(&c);
    }
}

/* Lines of a file are short, so those of a text add up; a flag replaces them, and takes them away where it is empty. */
static void takes_texts(void **state)
{
    static const char lines[] =
        "hotwords = Schöffer, Subiaco,\nprompt = x\nhotwords = Sweynheim\nhotwords =\n";
    struct config c;
    const struct config_key *key;
    struct err err = {0};
    char text[CONFIG_TEXT_MAX + 2];
    load_ok(&c, NULL, NULL);
    assert_string_equal(c.hotwords, "");
    config_finish(&c);
    load_ok(&c, lines, (const char *[]){"--prompt", "", NULL});
    assert_string_equal(c.hotwords, "Schöffer, Subiaco, Sweynheim");
    assert_string_equal(c.prompt, "");
    assert_int_equal(config_set_live(&c, "hotwords", "", &key, &err), 0);
    assert_string_equal(c.hotwords, "");
    memset(text, 'x', sizeof(text));
    text[CONFIG_TEXT_MAX] = '\0';
    assert_int_equal(config_set_live(&c, "prompt", text, &key, &err), 0);
    assert_string_equal(c.prompt, text);
    text[CONFIG_TEXT_MAX] = 'x';
    text[CONFIG_TEXT_MAX + 1] = '\0';
    assert_int_equal(config_set_live(&c, "prompt", text, &key, &err), -EINVAL);
    assert_string_equal(err.msg, "prompt: 1025 bytes of text, at most 1024 are allowed");
    assert_int_equal(config_set_live(&c, "prompt", "two\nlines", &key, &err), -EINVAL);
    assert_int_equal(config_set_live(&c, "prompt", "\xC3", &key, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "UTF-8"));
    assert_int_equal(strlen(c.prompt), CONFIG_TEXT_MAX);
    config_finish(&c);
}

/* What adds up to too much is told with the line at which it does. */
static void refuses_too_many_lines_of_text(void **state)
{
    struct config c;
    struct err err = {0};
    char text[4096] = "";
    for (int i = 0; i < 10; i++) {
        char line[160] = "prompt = ";
        memset(line + 9, 'x', 110);
        line[119] = '\n';
        line[120] = '\0';
        test_append(text, sizeof(text), line);
    }
    assert_int_equal(load(&c, text, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.msg, ":10: prompt: 1109 bytes of text"));
}

static void tells_differences(void **state)
{
    struct config a, b;
    load_ok(&a, "step = 700\ninput = monitor\nmodel = base\n", NULL);
    load_ok(&b, "step = 800\ninput = monitor\ninput = portaudio\nmodel = base\n", NULL);
    int n, differ = 0;
    const struct config_key *keys = config_keys(&n);
    for (int i = 0; i < n; i++) {
        if (!config_differs(&a, &b, &keys[i]))
            continue;
        differ++;
        assert_true(strcmp(keys[i].name, "step") == 0 || strcmp(keys[i].name, "input") == 0);
        if (strcmp(keys[i].name, "step") == 0)
            config_swap(&a, &b, &keys[i]);
    }
    assert_int_equal(differ, 2);
    assert_int_equal(a.step_ms, 800);
    assert_int_equal(b.step_ms, 700);
    config_finish(&a);
    config_finish(&b);
}

/* One value into a running daemon: by the rules of the file, and only where it can take effect. */
static void sets_what_may_change(void **state)
{
    static const struct {
        const char *name, *value, *says[3];
    } refused[] = {
        {"step", "900", {"step: needs a restart", "language, language-lock, task, hotwords", "log-level"}},
        {"input", "monitor", {"input: needs a restart"}},
        {"langauge", "de", {"langauge: unknown setting; did you mean language?"}},
        {"language", "klingon", {"language: no language that Whisper knows"}},
        {"clients-max", "0", {"clients-max: must be 1 to 65536"}},
        {"task", "", {"task: needs a value"}},
    };
    struct config c;
    const struct config_key *key = NULL;
    struct err err = {0};
    load_ok(&c, "step = 700\nlanguage = en\n", NULL);
    assert_int_equal(config_set_live(&c, "language", "German", &key, &err), 0);
    assert_string_equal(key->name, "language");
    assert_string_equal(c.language, "German");
    assert_int_equal(config_set_live(&c, "task", "translate", &key, &err), 0);
    assert_int_equal(c.task, TASK_TRANSLATE);
    assert_int_equal(config_set_live(&c, "clients-max", "7", &key, &err), 0);
    assert_int_equal(c.clients_max, 7);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        assert_int_equal(config_set_live(&c, refused[i].name, refused[i].value, &key, &err), -EINVAL);
        for (int k = 0; k < 3 && refused[i].says[k]; k++)
            if (!strstr(err.msg, refused[i].says[k]))
                fail_msg("\"%s\" is missing in: %s", refused[i].says[k], err.msg);
    }
    assert_string_equal(key->name, "clients-max");
    assert_string_equal(c.language, "German");
    assert_int_equal(c.step_ms, 700);
    assert_int_equal(c.clients_max, 7);
    assert_int_equal(c.n_inputs, 1);
    assert_string_equal(c.inputs[0].spec, "portaudio");
    config_finish(&c);
}

static void help_names_every_setting(void **state)
{
    char *text = NULL;
    size_t size = 0;
    int n;
    FILE *f = open_memstream(&text, &size);
    config_print_help(f);
    fclose(f);
    const struct config_key *keys = config_keys(&n);
    for (int i = 0; i < n; i++) {
        char flag[64];
        snprintf(flag, sizeof(flag), "\n  --%s", keys[i].name);
        assert_non_null(strstr(text, flag));
    }
    free(text);
}

static int make_file(void **state)
{
    snprintf(file_path, sizeof(file_path), "/tmp/captiond-test-XXXXXX");
    int fd = mkstemp(file_path);
    close(fd);
    return fd < 0;
}

static int remove_file(void **state)
{
    return unlink(file_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_defaults),
        cmocka_unit_test(layers_values),
        cmocka_unit_test(takes_switches),
        cmocka_unit_test(explains_mistakes),
        cmocka_unit_test(checks_socket_paths),
        cmocka_unit_test(a_socket_without_a_place_names_its_option),
        cmocka_unit_test(finds_the_users_file),
        cmocka_unit_test(refuses_long_lines),
        cmocka_unit_test(example_is_a_configuration),
        cmocka_unit_test(tells_differences),
        cmocka_unit_test(help_names_every_setting),
        cmocka_unit_test(sets_what_may_change),
        cmocka_unit_test(tells_what_is_no_line),
        cmocka_unit_test(takes_texts),
        cmocka_unit_test(refuses_too_many_lines_of_text),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
