/* Without a GPU: what make gpu-check and the daemon say, and the whole of gpu-check on a GPU that is none (build/fake-gpu: the
 * same programs, with the library for GPUs compiled for tests/cuda/harness), so that its faults show here first.
 * tests/run: shared, 240 s */
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *folder;

static void write_text(const char *name, const char *text, mode_t mode)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, mode), 0);
}

static int run(const char *command, char *said, size_t size)
{
    FILE *f = popen(command, "r");
    assert_non_null(f);
    said[fread(said, 1, size - 1, f)] = '\0';
    int status = pclose(f);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void skip_with_a_gpu(void)
{
    if (access("/dev/nvidia0", F_OK) == 0 || access("/dev/dxg", F_OK) == 0)
        test_skip("there is a GPU here");
}

static const char *build_folder(void)
{
    const char *build = getenv("CAPTIOND_BUILD");
    return build ? build : "build";
}

static void test_no_gpu(void **state)
{
    char said[4096];
    skip_with_a_gpu();
    assert_int_equal(run("tools/gpu-check 2>&1", said, sizeof(said)), 77);
    assert_non_null(strstr(said, "there is no NVIDIA GPU here"));
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
}

/* The daemon where it is told to take a GPU: one line, and it does not start. */
static void test_daemon(void **state)
{
    char command[1024], said[4096];
    skip_with_a_gpu();
    snprintf(command, sizeof(command),
             "%s/captiond --config /dev/null --engine cuda --model %s/packs/toy/model.bin --socket none "
             "--input file:tests/fixtures/harbour.flac 2>&1",
             build_folder(), folder);
    assert_int_equal(run(command, said, sizeof(said)), 1);
    if (!strstr(said, "engine cuda: there is no "))
        fail_msg("%s", said);
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
}

/* And where it may take one or not: one line that says why it does not, and captions. */
static void test_daemon_auto(void **state)
{
    static const char why[] = "the host engine computes: engine cuda: there is no ";
    char command[1024], said[4096];
    skip_with_a_gpu();
    snprintf(command, sizeof(command),
             "head -c 32000 /dev/zero | %s/captiond --config /dev/null --engine auto --model "
             "%s/packs/toy/model.bin --socket none --once --input pipe:16000,1,s16le 2>&1",
             build_folder(), folder);
    assert_int_equal(run(command, said, sizeof(said)), 0);
    const char *first = strstr(said, why);
    if (!first || strstr(first + 1, why) || !strstr(first, " on host "))
        fail_msg("%s", said);
}

static json_t *report(void)
{
    char path[512];
    json_error_t error;
    snprintf(path, sizeof(path), "%s/out/gpu-check.json", folder);
    json_t *r = json_load_file(path, 0, &error);
    if (!r)
        fail_msg("%s: %s", path, error.text);
    return r;
}

static double number(json_t *row, const char *key)
{
    json_t *value = json_object_get(row, key);
    if (!json_is_number(value))
        fail_msg("%s is no number", key);
    return json_number_value(value);
}

static void make_pack(void)
{
    struct tiny_model model;
    char path[512];
    snprintf(path, sizeof(path), "%s/packs", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/packs/toy", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/packs/toy/model.bin", folder);
    tiny_model_init(&model, 5, 70, 24);
    model.n_words = 300;
    tiny_model_write_ggml(&model, path, true, NULL);
    tiny_model_finish(&model);
    snprintf(path, sizeof(path), "cp tests/fixtures/harbour.flac %s/packs/toy/", folder);
    assert_int_equal(system(path), 0);
    write_text(
        "packs/toy/reference.json",
        "{\"model\": \"model.bin\", \"recordings\": [{\"file\": \"harbour.flac\", \"text\": \"w1 w2\"}]}",
        0600);
    write_text("compute-sanitizer", "#!/bin/sh\nfor last; do :; done\nexec \"$last\"\n", 0700);
}

static void test_fake_gpu(void **state)
{
    char command[2048], said[1 << 16];
    snprintf(command, sizeof(command), "%s/fake-gpu/gpu-probe", build_folder());
    if (access(command, X_OK) < 0)
        test_skip("the CUDA Toolkit's headers are missing");
    snprintf(command, sizeof(command),
             "PATH=%s:$PATH python3 tools/bench/gpu_check/gpu_check.py %s/fake-gpu --packs %s/packs --out "
             "%s/out --toy --seconds 200 2>&1",
             folder, build_folder(), folder, folder);
    int status = run(command, said, sizeof(said));
    if (status != 0)
        fail_msg("status %d: %s", status, said);
    assert_non_null(strstr(said, "# CUDA engine on the host"));
    json_t *r = report();
    assert_int_equal(json_array_size(json_object_get(r, "failures")), 0);
    assert_int_equal(json_array_size(json_object_get(r, "tests")), 2);
    assert_int_equal(json_array_size(json_object_get(r, "transcripts")), 1);
    assert_int_equal(json_array_size(json_object_get(r, "captions")), 2);
    assert_int_equal(json_array_size(json_object_get(r, "sanitizer")), 2);
    json_t *times = json_object_get(r, "times");
    assert_int_equal(json_array_size(times), 2);
    for (size_t i = 0; i < 2; i++) {
        json_t *row = json_array_get(times, i);
        assert_true(number(row, "batch") == (double)(i + 1));
        assert_true(number(row, "encode_ms") > 0.0 && number(row, "step_us") > 0.0);
        assert_string_equal(json_string_value(json_object_get(row, "steps")), "kernel");
        double ms = number(row, "windows_ms"), factor = number(row, "times_real_time");
        assert_true(factor > 29e3 * (double)(i + 1) / ms && factor < 31e3 * (double)(i + 1) / ms);
    }
    json_t *streams = json_array_get(json_object_get(r, "streams"), 0);
    json_t *measured = json_array_get(json_object_get(streams, "measured"), 0);
    assert_true(number(measured, "lag_ms_p99") >= number(measured, "lag_ms_p50"));
    json_decref(r);
}

/* gpu-check on programs that are scripts, with other limits: its status. */
static int check_scripts(const char *probe, const char *packs, const char *limits)
{
    char command[2048], said[8192];
    snprintf(command, sizeof(command), "mkdir -p %s/scripts/tests/gpu", folder);
    assert_int_equal(system(command), 0);
    write_text("scripts/gpu-probe", probe, 0700);
    write_text("scripts/gpu-times",
               "#!/bin/sh\necho 'engine cuda: no memory for keys and values of 9 MB' >&2\nexit 1\n", 0700);
    write_text("scripts/tests/gpu/test_slow", "#!/bin/sh\nexec sleep 60\n", 0700);
    snprintf(command, sizeof(command),
             "python3 -c 'import sys; sys.path.insert(0, \"tools/bench/gpu_check\"); import gpu_check; "
             "sys.argv[1:] = [\"%s/scripts\", \"--packs\", \"%s/%s\", \"--out\", \"%s/out\", \"--seconds\", "
             "\"2\"]; %s; sys.exit(gpu_check.main())' 2>&1",
             folder, folder, packs, folder, limits);
    return run(command, said, sizeof(said));
}

/* What was given less time than it may take has not failed. */
static void test_no_time(void **state)
{
    assert_int_equal(check_scripts("#!/bin/sh\necho {}\n", "none", "gpu_check.LEAST_SECONDS = 0"), 0);
    json_t *r = report(), *left_out = json_object_get(r, "left_out");
    assert_int_equal(json_array_size(json_object_get(r, "failures")), 0);
    assert_string_equal(json_string_value(json_array_get(left_out, 0)), "test_slow");
    json_decref(r);
}

/* A GPU that hangs ends in a report, too. */
static void test_hung_gpu(void **state)
{
    assert_int_equal(check_scripts("#!/bin/sh\nexec sleep 60\n", "none", "gpu_check.PROBE_SECONDS = 1"), 1);
    json_t *r = report(), *failure = json_array_get(json_object_get(r, "failures"), 0);
    const char *what = json_string_value(json_object_get(failure, "what"));
    assert_true(what && strstr(what, "probe: TimeoutExpired"));
    json_decref(r);
}

/* Nor has what is too large for a GPU: the times of many windows. */
static void test_small_gpu(void **state)
{
    assert_int_equal(check_scripts("#!/bin/sh\necho {}\n", "packs",
                                   "gpu_check.Check.tests = gpu_check.Check.transcripts = "
                                   "gpu_check.Check.captions = lambda c: None; gpu_check.LEAST_SECONDS = 0"),
                     0);
    json_t *r = report(), *left_out = json_object_get(r, "left_out");
    assert_string_equal(json_string_value(json_array_get(left_out, 0)),
                        "toy, batch:1: this GPU has too little memory");
    json_decref(r);
}

static int setup(void **state)
{
    folder = tiny_folder();
    make_pack();
    return 0;
}

static int teardown(void **state)
{
    tiny_folder_remove(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_gpu),    cmocka_unit_test(test_daemon),  cmocka_unit_test(test_daemon_auto),
        cmocka_unit_test(test_fake_gpu),  cmocka_unit_test(test_no_time), cmocka_unit_test(test_hung_gpu),
        cmocka_unit_test(test_small_gpu),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
