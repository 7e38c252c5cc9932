/* Without a GPU: what make gpu-check and the daemon say, and the whole of gpu-check on a GPU that is none (build/fake-gpu: the
 * same programs, with the library for GPUs compiled for tests/cuda/harness), so that its faults show here first; and on programs
 * that are scripts, what it must not let pass.
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
static char host_text[512]; /* the host engine's, of the pack's recording */

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
             "%s/captiond --config /dev/null --engine cuda --model %s/packs/toy/model --socket none "
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
             "%s/packs/toy/model --socket none --once --input pipe:16000,1,s16le 2>&1",
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

static void make_folder(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

/* With a text that half floats have as well, and cut to 32 positions, because the GPU that is none is slow. */
static void make_model(void)
{
    enum { POSITIONS = 32 };
    struct tiny_model model;
    char path[512];
    tiny_model_init_sure(&model);
    model.dims.n_text_ctx = POSITIONS;
    for (int i = 0; i < model.n_tensors; i++)
        if (!strcmp(model.tensors[i].name, "decoder.positional_embedding"))
            model.tensors[i].dims[0] = POSITIONS;
    snprintf(path, sizeof(path), "%s/packs/toy/model", folder);
    tiny_model_write_ct2(&model, path, true, NULL);
    tiny_model_finish(&model);
}

static void make_pack(void)
{
    char command[1024], reference[1024];
    make_folder("packs");
    make_folder("packs/toy");
    make_folder("packs/toy/model");
    make_model();
    snprintf(command, sizeof(command), "cp tests/fixtures/harbour.flac %s/packs/toy/", folder);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command),
             "%s/captiond-transcribe -q --engine host --precision f32 --temperature-increment 0 --model "
             "%s/packs/toy/model tests/fixtures/harbour.flac",
             build_folder(), folder);
    assert_int_equal(run(command, host_text, sizeof(host_text)), 0);
    host_text[strcspn(host_text, "\n")] = '\0';
    assert_true(strlen(host_text) > 40); /* a dozen words: what is compared is not nothing */
    snprintf(reference, sizeof(reference),
             "{\"model\": \"model\", \"recordings\": [{\"file\": \"harbour.flac\", \"text\": \"%s\"}]}",
             host_text);
    write_text("packs/toy/reference.json", reference, 0600);
}

/* In the place of what is not here: a GPU's tools, one of the programs that it is compared with, and the other one is not
 * installed, whatever there is. */
static void make_stand_ins(void)
{
    char faster[1024];
    make_folder("bin");
    write_text("bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: none'\n", 0700);
    write_text(
        "bin/compute-sanitizer",
        "#!/bin/sh\nfor last; do :; done\n\"$last\" || exit\necho '========= ERROR SUMMARY: 0 errors'\n",
        0700);
    make_folder("python");
    write_text("python/torch.py", "raise ImportError('no torch')\n", 0600);
    write_text("python/soundfile.py",
               "class Sound:\n    ndim = 1\n\ndef read(path, frames, dtype):\n    return Sound(), 16000\n",
               0600);
    snprintf(faster, sizeof(faster),
             "__version__ = '0'\n\nclass Segment:\n    text = '%s'\n\nclass WhisperModel:\n"
             "    def __init__(self, folder, **options): pass\n"
             "    def transcribe(self, pcm, **options): return [Segment()], None\n",
             host_text);
    write_text("python/faster_whisper.py", faster, 0600);
}

static bool listed(json_t *array, const char *part)
{
    size_t i;
    json_t *value;
    json_array_foreach(array, i, value)
    {
        const char *what = json_string_value(json_is_object(value) ? json_object_get(value, "what") : value);
        if (what && strstr(what, part))
            return true;
    }
    return false;
}

static bool has_failure(const char *part)
{
    json_t *r = report();
    bool has = listed(json_object_get(r, "failures"), part);
    json_decref(r);
    return has;
}

/* tools/gpu-check with programs from a kit, and every step of it. */
static void test_fake_gpu(void **state)
{
    char command[2048], said[1 << 16];
    snprintf(command, sizeof(command), "%s/fake-gpu/gpu-probe", build_folder());
    if (access(command, X_OK) < 0)
        test_skip("the CUDA Toolkit's headers are missing");
    snprintf(
        command, sizeof(command),
        "XZ_OPT=-1 tools/bench/gpu_check/kit %s/fake-gpu %s/packs 2>&1 && rm -r %s/fake-gpu/kit-files && "
        "PATH=%s/bin:$PATH PYTHONPATH=%s/python PACKS=%s/packs tools/gpu-check %s/out --toy --seconds 200 "
        "2>&1",
        build_folder(), folder, build_folder(), folder, folder, folder, folder);
    int status = run(command, said, sizeof(said));
    if (status != 0)
        fail_msg("status %d: %s", status, said);
    assert_non_null(strstr(said, "# CUDA engine on the host"));
    assert_non_null(strstr(said, "Programs of a kit, made from "));
    json_t *r = report();
    assert_int_equal(json_array_size(json_object_get(r, "failures")), 0);
    assert_int_equal(json_array_size(json_object_get(r, "tests")), 2);
    assert_int_equal(json_array_size(json_object_get(r, "transcripts")), 1);
    assert_int_equal(json_array_size(json_object_get(r, "captions")), 2);
    for (size_t i = 0; i < 2; i++) {
        json_t *test = json_array_get(json_object_get(r, "sanitizer"), i);
        assert_string_equal(json_string_value(json_object_get(test, "verdict")), "clean");
    }
    json_t *times = json_object_get(r, "times");
    assert_int_equal(json_array_size(times), 2);
    for (size_t i = 0; i < 2; i++) {
        json_t *row = json_array_get(times, i);
        assert_true(number(row, "batch") == (double)(i + 1));
        assert_true(number(row, "encode_ms") > 0.0 && number(row, "step_us") > 0.0);
        assert_true(number(row, "differ") == 0.0);
        assert_string_equal(json_string_value(json_object_get(row, "steps")), "kernel");
        double ms = number(row, "windows_ms"), factor = number(row, "times_real_time");
        assert_true(factor > 29e3 * (double)(i + 1) / ms && factor < 31e3 * (double)(i + 1) / ms);
    }
    json_t *streams = json_array_get(json_object_get(r, "streams"), 0);
    json_t *measured = json_array_get(json_object_get(streams, "measured"), 0);
    assert_true(number(measured, "lag_ms_p99") >= number(measured, "lag_ms_p50"));
    json_t *peers = json_object_get(r, "peers");
    assert_int_equal(json_array_size(peers), 1);
    assert_true(number(json_array_get(peers, 0), "words") >= 12.0);
    assert_true(listed(json_object_get(r, "left_out"), "openai-whisper, which is not installed"));
    json_decref(r);
}

/* --- programs that are scripts ------------------------------------------------------------------------------------ */

static void script(const char *name, const char *lines)
{
    char path[256], all[2048];
    snprintf(path, sizeof(path), "scripts/%s", name);
    snprintf(all, sizeof(all), "#!/bin/sh\n%s\n", lines);
    write_text(path, all, 0700);
}

enum { LITTLE = 3, ENOUGH = 30 }; /* seconds for what sleeps, and for what does not */
#define PASSES "echo '[  PASSED  ] 1 test(s).' >&2"

/* A GPU that is there, and one test, which passes. */
static int scripts(void **state)
{
    char command[512];
    snprintf(command, sizeof(command), "rm -rf %s/scripts && mkdir -p %s/scripts/tests/gpu", folder, folder);
    assert_int_equal(system(command), 0);
    script("gpu-probe", "echo {}");
    script("tests/gpu/test_select", PASSES);
    return 0;
}

/* gpu-check on them: its status, with these steps alone and the first lines of Python. */
static int check_scripts(const char *steps, const char *packs, int seconds, const char *python)
{
    char command[2048], said[8192];
    snprintf(command, sizeof(command),
             "PATH=%s/scripts:$PATH python3 -c 'import sys; sys.path.insert(0, \"tools/bench/gpu_check\"); "
             "import gpu_check as g; g.LEAST_SECONDS = 0; %s\n"
             "for step in \"tests transcripts captions times streams peers sanitizer\".split():\n"
             "    if step not in \"%s\": setattr(g.Check, step, lambda c: None)\n"
             "sys.argv[1:] = [\"%s/scripts\", \"--packs\", \"%s/%s\", \"--out\", \"%s/out\", \"--seconds\", "
             "\"%d\"]\n"
             "sys.exit(g.main())' 2>&1",
             folder, python, steps, folder, folder, packs, folder, seconds);
    return run(command, said, sizeof(said));
}

/* What was given less time than it may take has not failed; but nothing is known if no test has passed. */
static void test_no_time(void **state)
{
    script("tests/gpu/test_slow", "exec sleep 60");
    assert_int_equal(check_scripts("tests", "none", LITTLE, ""), 0);
    json_t *r = report();
    assert_true(listed(json_object_get(r, "left_out"), "test_slow"));
    json_decref(r);
    script("tests/gpu/test_select", "exec sleep 60");
    assert_int_equal(check_scripts("tests", "none", LITTLE, ""), 1);
    assert_true(has_failure("none has passed"));
}

/* Nor if a program leaves without having tested anything, or there is none. */
static void test_no_test(void **state)
{
    script("tests/gpu/test_empty", "");
    assert_int_equal(check_scripts("tests", "none", ENOUGH, ""), 1);
    assert_true(has_failure("test_empty: ran no test"));
    scripts(state);
    script("tests/gpu/test_select", "echo '[  SKIPPED ] 1 test(s), listed below:' >&2");
    assert_int_equal(check_scripts("tests", "none", ENOUGH, ""), 1);
    assert_true(has_failure("none has passed"));
    char command[512];
    snprintf(command, sizeof(command), "rm %s/scripts/tests/gpu/*", folder);
    assert_int_equal(system(command), 0);
    assert_int_equal(check_scripts("tests", "none", ENOUGH, ""), 1);
    assert_true(has_failure("there are none"));
}

/* A GPU that hangs ends in a report, too, and a program that does not start is not the lack of a GPU. */
static void test_probe(void **state)
{
    script("gpu-probe", "exec sleep 60");
    assert_int_equal(check_scripts("tests", "none", ENOUGH, "g.PROBE_SECONDS = 1"), 1);
    assert_true(has_failure("probe: TimeoutExpired"));
    script("gpu-probe", "echo 'gpu-probe: error while loading shared libraries' >&2; exit 127");
    assert_int_equal(check_scripts("tests", "none", ENOUGH, ""), 1);
    assert_true(has_failure("probe: RuntimeError: status 127"));
    script("gpu-probe", "echo 'gpu-probe: no CUDA-capable device is detected' >&2; exit 1");
    assert_int_equal(check_scripts("tests", "none", ENOUGH, ""), 77);
}

/* What is too large for a GPU has not failed: the times of many windows. But a GPU with memory enough has it. */
static void test_small_gpu(void **state)
{
    script("gpu-times", "echo 'engine cuda: no memory for keys and values of 9 MB' >&2; exit 1");
    assert_int_equal(check_scripts("tests times", "packs", ENOUGH, ""), 0);
    json_t *r = report(), *left_out = json_object_get(r, "left_out");
    assert_true(listed(left_out, "toy, batch:1: this GPU has too little memory"));
    assert_true(listed(left_out, "toy, batches above 1"));
    json_decref(r);
    script("gpu-probe", "echo '{\"memory_free_bytes\": 9000000000}'");
    assert_int_equal(check_scripts("tests times", "packs", ENOUGH, ""), 1);
    assert_true(has_failure("toy, batch:1: status 1"));
}

/* Another text than the host engine's: none, another one of as many words, and two words of the dozen. One word and the way in
 * which it is written are nothing. */
static void test_text(void **state)
{
    static const struct {
        const char *sed;
        int status;
    } cases[] = {{"", 0},        {"s/w/W/g; s/ /, /g", 0},           {"s/[0-9]* /7 /", 0}, {"s/.*//", 1},
                 {"s/w/x/g", 1}, {"s/[0-9]* /7 /; s/[0-9]*$/7/", 1}, {"s/.*/& &/", 1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char lines[1024];
        snprintf(lines, sizeof(lines), "echo '%s' | sed '%s'", host_text, cases[i].sed);
        script("captiond-transcribe", lines);
        assert_int_equal(check_scripts("tests transcripts", "packs", ENOUGH, ""), cases[i].status);
        assert_int_equal(has_failure("words of the transcripts are not the host engine's"), cases[i].status);

        snprintf(lines, sizeof(lines),
                 "text=$(echo '%s' | sed '%s')\nfor s in s0 s1; do\n"
                 "echo '{\"type\": \"final\", \"stream\": \"'$s'\", \"text\": \"'\"$text\"'\"}'\ndone",
                 host_text, cases[i].sed);
        script("captiond", lines);
        assert_int_equal(check_scripts("tests captions", "packs", ENOUGH, ""), i == 5 ? 0 : cases[i].status);

        snprintf(
            lines, sizeof(lines),
            "text=$(echo '%s' | sed '%s')\necho '{\"batch\": 1, \"slots\": 64, \"tokens\": 90, \"step_us\": "
            "1, "
            "\"encode_ms\": 1, \"windows_ms\": 1, \"times_real_time\": 1, \"steps\": \"\", \"pinned\": true, "
            "\"text\": \"'\"$text\"'\"}'",
            host_text, cases[i].sed);
        script("gpu-times", lines);
        assert_int_equal(check_scripts("tests times", "packs", ENOUGH, ""), i == 6 ? 0 : cases[i].status);
    }
}

static void test_gap(void **state)
{
    char lines[1024];
    snprintf(
        lines, sizeof(lines),
        "for s in s0 s1; do\necho '{\"type\": \"final\", \"stream\": \"'$s'\", \"text\": \"%s\"}'\ndone\n"
        "echo '{\"type\": \"gap\", \"lost_ms\": 9, \"cause\": \"engine\"}'",
        host_text);
    script("captiond", lines);
    assert_int_equal(check_scripts("tests captions", "packs", ENOUGH, ""), 1);
    assert_true(has_failure("9 ms are lost (engine)"));
}

/* compute-sanitizer over a test is clean where it says so, and the test has passed under it. */
static void test_sanitizer(void **state)
{
    static const struct {
        const char *lines, *verdict;
        int status;
    } cases[] = {
        {PASSES "; echo '= ERROR SUMMARY: 0 errors'", "clean", 0},
        {PASSES "; echo '= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)'", "clean", 0},
        {PASSES "; echo '= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)'", "2 warnings", 0},
        {PASSES, "nothing: no summary, or no test was run", 0},
        {"echo '= ERROR SUMMARY: 0 errors'", "nothing: no summary, or no test was run", 0},
        {PASSES "; echo 'Write access at cutlass_gemm+0x10'; exit 1", "in libcublas' kernels alone", 0},
        {PASSES "; echo 'Write access at void select_kernel<8>+0x10'; exit 1", "FINDINGS", 1},
        {"echo 'Write access at cutlass_gemm+0x10'; exit 1", "FINDINGS", 1},
        {PASSES "; echo '= ERROR SUMMARY: 3 errors'", "FINDINGS", 1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        script("compute-sanitizer", cases[i].lines);
        assert_int_equal(check_scripts("sanitizer", "none", ENOUGH, ""), cases[i].status);
        json_t *r = report(), *row = json_array_get(json_object_get(r, "sanitizer"), 0);
        assert_string_equal(json_string_value(json_object_get(row, "verdict")), cases[i].verdict);
        json_decref(r);
    }
}

/* The most streams are known when the next ones are too many, not when the time has ended before. */
static void test_most_streams(void **state)
{
    static const char row[] = "{\\\"streams\\\": $n, \\\"lag_ms_p50\\\": 1, \\\"lag_ms_p99\\\": $lag}";
    for (int known = 0; known < 2; known++) {
        char lines[512];
        snprintf(lines, sizeof(lines), "n=${4#*:} lag=1\n[ $n -le 40 ] || %s\necho \"%s\"",
                 known ? "lag=2000" : "exec sleep 60", row);
        script("gpu-times", lines);
        assert_int_equal(check_scripts("streams", "packs", known ? ENOUGH : LITTLE, ""), 0);
        json_t *r = report(), *streams = json_array_get(json_object_get(r, "streams"), 0);
        assert_true(number(streams, "most") == (known ? 40.0 : 32.0));
        assert_int_equal(json_is_true(json_object_get(streams, "at_least")), !known);
        json_decref(r);
    }
}

static int setup(void **state)
{
    folder = tiny_folder();
    make_pack();
    make_stand_ins();
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
        cmocka_unit_test(test_no_gpu),
        cmocka_unit_test(test_daemon),
        cmocka_unit_test(test_daemon_auto),
        cmocka_unit_test(test_fake_gpu),
        cmocka_unit_test_setup(test_no_time, scripts),
        cmocka_unit_test_setup(test_no_test, scripts),
        cmocka_unit_test_setup(test_probe, scripts),
        cmocka_unit_test_setup(test_small_gpu, scripts),
        cmocka_unit_test_setup(test_text, scripts),
        cmocka_unit_test_setup(test_gap, scripts),
        cmocka_unit_test_setup(test_sanitizer, scripts),
        cmocka_unit_test_setup(test_most_streams, scripts),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
