/* captiond-transcribe as a user runs it: text on standard output, one clear line for what went wrong, exit statuses. */
#include "tests/support/support.h"
#include "tests/support/tiny_model.h"

#include <dirent.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sndfile.h>

#define PATIENCE_S 60 /* far above what anything here takes, with sanitizers on a loaded machine too */

static char folder[256], model[300], silence[300], junk[300];
static char out_path[300]; /* where standard output goes */
static char out[1 << 16], err[1 << 16];

static void write_wav(const char *path, int seconds)
{
    SF_INFO info = {.samplerate = 8000, .channels = 2, .format = SF_FORMAT_WAV | SF_FORMAT_PCM_16};
    SNDFILE *f = sf_open(path, SFM_WRITE, &info);
    static const short frames[2 * 8000];
    assert_non_null(f);
    for (int i = 0; i < seconds; i++)
        assert_int_equal(sf_writef_short(f, frames, 8000), 8000);
    sf_close(f);
}

static int setup(void **state)
{
    (void)state;
    struct tiny_model tiny;
    snprintf(folder, sizeof(folder), "%s", tiny_folder());
    snprintf(model, sizeof(model), "%s/model.bin", folder);
    snprintf(silence, sizeof(silence), "%s/silence.wav", folder);
    snprintf(junk, sizeof(junk), "%s/junk.wav", folder);
    snprintf(out_path, sizeof(out_path), "%s/out", folder);
    tiny_model_init(&tiny, 5, 1500, 448);
    tiny.n_words = 300;
    tiny_model_write_ggml(&tiny, model, true, NULL);
    tiny_model_finish(&tiny);
    write_wav(silence, 3);
    FILE *f = fopen(junk, "w");
    fputs("this is no sound", f);
    return fclose(f);
}

static int teardown(void **state)
{
    (void)state;
    tiny_folder_remove(folder);
    return 0;
}

static void slurp(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, size - 1, f)] = '\0';
    fclose(f);
}

/* Runs the program with these arguments, as a shell splits them. Returns the exit status; texts go to out and err. */
__attribute__((format(printf, 1, 2))) static int transcribe(const char *format, ...)
{
    const char *build = getenv("CAPTIOND_BUILD");
    char arguments[4096], command[8192], err_path[300];
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof(arguments), format, list);
    va_end(list);
    snprintf(err_path, sizeof(err_path), "%s/err", folder);
    snprintf(command, sizeof(command), "%s/captiond-transcribe %s >%s 2>%s%s", build ? build : "build",
             arguments, out_path, err_path, strchr(arguments, '<') ? "" : " </dev/null");
    int status = system(command);
    assert_true(WIFEXITED(status));
    if (strcmp(out_path, "/dev/full") != 0)
        slurp(out_path, out, sizeof(out));
    slurp(err_path, err, sizeof(err));
    return WEXITSTATUS(status);
}

static void expect(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("\"%s\" lacks \"%s\"", text, part);
}

static bool exists(const char *format, const char *name)
{
    char path[600];
    snprintf(path, sizeof(path), format, folder, name);
    return access(path, F_OK) == 0;
}

static int lines(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void test_one_bad_recording_does_not_stop_the_others(void **state)
{
    (void)state;
    assert_int_equal(transcribe("--model %s --quiet %s/missing.wav %s %s", model, folder, silence, junk), 1);
    assert_string_equal(out, "");
    assert_int_equal(lines(err), 2);
    expect(err, "missing.wav: No such file");
    expect(err, "junk.wav is not a sound file");
}

static void test_silence_gives_no_words(void **state)
{
    (void)state;
    assert_int_equal(transcribe("--model %s --engine host %s", model, silence), 0);
    assert_string_equal(out, "");
    assert_int_equal(lines(err), 1);
    expect(err, "3.0 s of audio");
    expect(err, "0 windows");
}

/* A file of noise, of which a part is then cut off. */
static void write_cut(const char *path, int format, double kept)
{
    SF_INFO info = {.samplerate = 8000, .channels = 1, .format = format | SF_FORMAT_PCM_16};
    SNDFILE *f = sf_open(path, SFM_WRITE, &info);
    uint32_t noise = 1;
    struct stat st;
    assert_non_null(f);
    for (int i = 0; i < 4 * 8000; i++) {
        short frame = (short)((noise = noise * 1664525 + 1013904223) >> 20);
        assert_int_equal(sf_writef_short(f, &frame, 1), 1);
    }
    sf_close(f);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, (off_t)((double)st.st_size * kept)), 0);
}

/* What comes before a damaged place is written; the status and a line say that it is not all. */
static void test_a_damaged_recording_keeps_its_beginning(void **state)
{
    (void)state;
    char damaged[300], cut[300], wanted[400];
    snprintf(damaged, sizeof(damaged), "%s/damaged.flac", folder);
    snprintf(cut, sizeof(cut), "%s/cut.wav", folder);
    write_cut(damaged, SF_FORMAT_FLAC, 0.5);
    assert_int_equal(transcribe("--model %s -q -f vtt -o %s/damaged %s", model, folder, damaged), 1);
    assert_int_equal(lines(err), 1);
    expect(err, "damaged.flac: damaged at ");
    expect(err, "; what is behind it is left out");
    assert_true(exists("%s/damaged/%s", "damaged.vtt"));
    assert_int_equal(transcribe("--model %s -q - <%s", model, damaged), 1);
    expect(err, "captiond-transcribe: standard input: damaged at ");
    /* Nothing is there but the header. */
    assert_int_equal(truncate(damaged, 100), 0);
    assert_int_equal(transcribe("--model %s -q -f vtt %s", model, damaged), 1);
    assert_string_equal(out, "");
    expect(err, "damaged.flac: damaged at 0.0 s");
    snprintf(wanted, sizeof(wanted), "captiond-transcribe: %s: damaged", damaged); /* named once */
    expect(err, wanted);
    assert_null(strstr(err, "left out"));
    /* No error, but said. */
    write_cut(cut, SF_FORMAT_WAV, 0.25);
    assert_int_equal(transcribe("--model %s -q %s", model, cut), 0);
    assert_int_equal(lines(err), 1);
    expect(err, "cut.wav has 1.0 s of sound, but 4.0 s by its header");
    unlink(damaged);
    unlink(cut);
}

/* One line for a file whose header is written over at `at`. */
static void expect_refused(const char *path, long at, const char *bytes, size_t n, const char *says)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    assert_int_equal(transcribe("--model %s -q %s", model, path), 1);
    assert_int_equal(lines(err), 1);
    expect(err, path);
    expect(err, says);
}

#define WAV_RATE 24 /* where a WAV's header has the rate */

static void test_errors_name_the_file(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof(path), "%s/fast.wav", folder);
    write_wav(path, 1);
    expect_refused(path, WAV_RATE, "\x80\x84\x1e\0", 4, "sample rate 2000000 Hz is outside 1000 to 768000");
    assert_int_equal(transcribe("--model %s -q - <%s", model, path), 1);
    expect(err, "captiond-transcribe: standard input: sample rate");
    unlink(path);
    /* A terminal would obey what is in a name. */
    assert_int_equal(transcribe("--model %s -q \"$(printf 'a\\033[2Jb.wav')\"", model), 1);
    assert_string_equal(err, "captiond-transcribe: a?[2Jb.wav: No such file or directory\n");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(transcribe("--model %s -q %s ''", model, path), 1);
    expect(err, "fast.wav is not a regular file; for a pipe use - as the name\n");
    expect(err, "captiond-transcribe: an empty file name\n");
    unlink(path);
}

static void test_cut_prompts_are_told(void **state)
{
    (void)state;
    char text[1500];
    memset(text, 'n', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(transcribe("--model %s --quiet --prompt %s %s", model, text, silence), 0);
    assert_int_equal(lines(err), 1);
    expect(err, "of the prompt the first");
    assert_int_equal(transcribe("--model %s --quiet --prompt nn %s", model, silence), 0);
    assert_string_equal(err, "");
}

static void test_a_bad_model_is_said_once(void **state)
{
    (void)state;
    assert_int_equal(transcribe("--model no-such-model %s %s", silence, silence), 1);
    expect(err, "there is no model \"no-such-model\": `captiond-model list` names all");
    assert_int_equal(lines(err), 1);
    assert_int_equal(transcribe("--model %s %s %s", junk, silence, silence), 1);
    assert_int_equal(lines(err), 1);
    assert_int_equal(transcribe("--model %s --language German %s %s", model, silence, silence), 1);
    expect(err, "does not know the language de");
    assert_int_equal(lines(err), 1);
    assert_int_equal(transcribe("--model %s --task translate %s", model, silence), 1);
    expect(err, "English only");
}

static void write_text(const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* "auto" minds the language and the task that are given, whatever the locale: it names the file that it cannot read. */
static void test_auto_minds_the_language(void **state)
{
    (void)state;
    char *usual = getenv("CAPTIOND_MODELS") ? strdup(getenv("CAPTIOND_MODELS")) : NULL;
    write_text("ggml-tiny.en.bin", "no model");
    write_text("ggml-base.bin", "no model");
    setenv("CAPTIOND_MODELS", folder, 1);
    setenv("LC_ALL", "C", 1);
    static const struct {
        const char *options, *file;
    } cases[] = {{"", "ggml-tiny.en.bin"},
                 {"--language auto", "ggml-tiny.en.bin"},
                 {"--language German --language auto", "ggml-tiny.en.bin"},
                 {"--language en", "ggml-tiny.en.bin"},
                 {"--language German", "ggml-base.bin"},
                 {"--task translate", "ggml-base.bin"}};
    bool right = true;
    for (int i = 0; i < 6; i++) {
        right &= transcribe("--quiet %s %s", cases[i].options, silence) == 1;
        right &= strstr(err, cases[i].file) != NULL;
    }
    unsetenv("LC_ALL");
    unsetenv("CAPTIOND_MODELS");
    if (usual)
        setenv("CAPTIOND_MODELS", usual, 1);
    free(usual);
    assert_true(right);
}

/* Why a GPU is not used is told once, where a library for GPUs is installed and nobody asked for quiet or for the host. */
static void test_no_gpu_is_told_once(void **state)
{
    (void)state;
    static const char why[] = "captiond-transcribe: the host engine computes: engine cuda: ";
    const char *build = getenv("CAPTIOND_BUILD") ? getenv("CAPTIOND_BUILD") : "build";
    char plugin[300], alone[300], command[1024];
    snprintf(plugin, sizeof(plugin), "%s/libcaptiond-cuda.so", build);
    if (access("/dev/nvidia0", F_OK) == 0 || access("/dev/dxg", F_OK) == 0)
        test_skip("there is a GPU here");
    if (access(plugin, F_OK) == 0) {
        assert_int_equal(transcribe("--model %s %s %s", model, silence, silence), 0);
        assert_ptr_equal(strstr(err, why), err);
        assert_null(strstr(err + 1, why));
        expect(err, "there is no NVIDIA driver");
        assert_int_equal(transcribe("--model %s --quiet %s", model, silence), 0);
        assert_string_equal(err, "");
        assert_int_equal(transcribe("--model %s --engine host %s", model, silence), 0);
        assert_null(strstr(err, "engine"));
        assert_int_equal(transcribe("--model %s --engine cuda %s", model, silence), 1);
        expect(err, "captiond-transcribe: engine cuda: there is no NVIDIA driver");
        assert_int_equal(lines(err), 1);
    }
    snprintf(alone, sizeof(alone), "%s/alone", folder);
    snprintf(command, sizeof(command), "cp %s/captiond-transcribe %s && %s --model %s %s >%s 2>%s/err", build,
             alone, alone, model, silence, out_path, folder);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command), "%s/err", folder);
    slurp(command, err, sizeof(err));
    assert_null(strstr(err, "engine"));
}

static void test_bad_command_lines(void **state)
{
    (void)state;
    static const struct {
        const char *arguments, *says;
    } cases[] = {
        {"", "no recording is given"},
        {"--threads many x.wav", "a whole number from 0 to 64"},
        {"--threads 65 x.wav", "a whole number from 0 to 64"},
        {"--language klingon x.wav", "klingon"},
        {"--gate maybe x.wav", "on or off"},
        {"--task sing x.wav", "transcribe or translate"},
        {"--engine steam x.wav", "auto, cuda or host"},
        {"--precision f16 x.wav", "auto, f32 or int8"},
        {"--surprise x.wav", "unknown option --surprise; see captiond-transcribe --help"},
        {"--sur_prise=2 x.wav", "unknown option --sur-prise; see"},
        {"-Z x.wav", "unknown option -Z; see"},
        {"--temp 1 x.wav", "more than one option begins with --temp; see"},
        {"--quiet=yes x.wav", "--quiet takes no value; see"},
        {"x.wav -f", "--format needs a value; see"},
        {"--beam-size 0 x.wav", "a whole number from 1 to 8"},
        {"--seed -1 x.wav", "a whole number from 0 to 2147483647"},
        {"--seed 0.5 x.wav", "a whole number from 0 to 2147483647"},
        {"--seed 2147483648 x.wav", "a whole number from 0 to 2147483647"},
        {"--temperature 1.5 x.wav", "a number from 0 to 1"},
        {"--temperature-increment 0.06 x.wav", "too many temperatures"},
        {"--temperature-increment 1e-8 x.wav", "too many temperatures"},
        {"--temperature 1e-7 x.wav", "at least 0.001"},
        {"--beam-size 5 --patience 0.1 x.wav", "above 0.5"},
        {"--hallucination-silence-threshold 2 x.wav", "needs --word-timestamps"},
        {"--format sub x.wav", "text, json, jsonl, srt, vtt, tsv or all"},
        {"--format text --format srt x.wav", "several formats need --output-dir"},
        {"--format srt x.wav y.wav", "need --output-dir"},
        {"--max-line-count 2 x.wav", "--max-line-width"},
        {"--output-dir o a/x.wav b/x.flac", "a/x.wav and b/x.flac would be written to the same file"},
        {"- -", "only once"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(transcribe("%s", cases[i].arguments), 2);
        expect(err, cases[i].says);
        assert_int_equal(lines(err), 1);
    }
    assert_int_equal(transcribe("--help"), 0);
    expect(out, "--language");
    expect(out, "of text .txt");
    assert_string_equal(err, "");
}

static void test_help_that_cannot_be_written_is_an_error(void **state)
{
    (void)state;
    char usual[300];
    memcpy(usual, out_path, sizeof(usual));
    strcpy(out_path, "/dev/full");
    int status = transcribe("--help");
    memcpy(out_path, usual, sizeof(usual));
    assert_int_equal(status, 1);
    assert_string_equal(err,
                        "captiond-transcribe: cannot write to standard output: No space left on device\n");
}

static void test_a_full_disk_is_told(void **state)
{
    (void)state;
    if (!test_model("tiny.en") || !test_speech("en_lamp.flac"))
        test_skip("the model tiny.en or the speech collection is not installed");
    char arguments[2300];
    snprintf(arguments, sizeof(arguments), "--model %s", test_model("tiny.en"));
    char usual[300];
    memcpy(usual, out_path, sizeof(usual));
    strcpy(out_path, "/dev/full");
    int status = transcribe("%s %s", arguments, test_speech("en_lamp.flac"));
    memcpy(out_path, usual, sizeof(usual));
    assert_int_equal(status, 1);
    expect(err, "No space left");
}

static void test_speech_becomes_text(void **state)
{
    (void)state;
    if (!test_model("tiny.en") || !test_speech("en_jfk_stereo.flac"))
        test_skip("the model tiny.en or the speech collection is not installed");
    char arguments[2300];
    snprintf(arguments, sizeof(arguments), "--model %s", test_model("tiny.en"));
    assert_int_equal(transcribe("%s %s", arguments, test_speech("en_jfk_stereo.flac")), 0);
    for (char *c = out; *c; c++)
        *c = *c == '\n' ? ' ' : *c;
    expect(out, "my fellow Americans");
    expect(out, "ask what you can do for your country");
    assert_true(out[0] != ' ');
    expect(err, "11.0 s of audio");
}

/* To the last digit of the probabilities, so that no part of the engine is left in another precision. */
static void test_beams_compute_in_f32(void **state)
{
    (void)state;
    if (!test_model("tiny.en") || !test_speech("en_jfk_stereo.flac"))
        test_skip("the model tiny.en or the speech collection is not installed");
    static char usual[sizeof(out)];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(transcribe("--model %s --beam-size 2 --format json --precision %s %s",
                                    test_model("tiny.en"), i == 0 ? "auto" : "f32",
                                    test_speech("en_jfk_stereo.flac")),
                         0);
        expect(out, "avg_logprob");
        if (i == 0)
            memcpy(usual, out, sizeof(usual));
    }
    assert_string_equal(out, usual);
}

/* All of it is sampled. */
static void test_seeds(void **state)
{
    (void)state;
    if (!test_model("tiny.en") || !test_speech("en_jfk_stereo.flac"))
        test_skip("the model tiny.en or the speech collection is not installed");
    static char texts[3][sizeof(out)];
    static const char *const seeds[] = {"", "--seed 0", "--seed 1"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(transcribe("--model %s --temperature 1 --best-of 1 --format json %s %s",
                                    test_model("tiny.en"), seeds[i], test_speech("en_jfk_stereo.flac")),
                         0);
        memcpy(texts[i], out, sizeof(out));
    }
    assert_string_equal(texts[0], texts[1]);
    assert_string_not_equal(texts[1], texts[2]);
}

/* --- files --- */

static int entries(const char *name)
{
    char path[600];
    int n = 0;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2; /* . and .. */
}

static void test_a_failed_recording_leaves_no_file(void **state)
{
    (void)state;
    /* whisper's way to write options is understood */
    assert_int_equal(transcribe("--model %s -q --output_format all --output_dir %s/new/folder %s %s", model,
                                folder, silence, junk),
                     1);
    assert_string_equal(out, "");
    expect(err, "junk.wav is not a sound file");
    assert_int_equal(entries("new/folder"), 6); /* nothing hidden either */
    assert_true(exists("%s/new/folder/%s", "silence.json"));
    assert_true(exists("%s/new/folder/%s", "silence.vtt"));
    assert_int_equal(transcribe("--model %s -q -o %s/junk.wav/under %s", model, folder, silence), 1);
    expect(err, "Not a directory");
}

/* The same as a full disk. */
static void test_a_limit_to_files_leaves_none(void **state)
{
    (void)state;
    char command[2000];
    snprintf(command, sizeof(command),
             "(ulimit -f 0; %s/captiond-transcribe --model %s -f json -o %s/limited %s 2>&1; echo status $?) "
             "| cat >%s/err",
             getenv("CAPTIOND_BUILD") ? getenv("CAPTIOND_BUILD") : "build", model, folder, silence, folder);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command), "%s/err", folder);
    slurp(command, err, sizeof(err));
    expect(err, "limited/silence.json: File too large\nstatus 1\n");
    assert_int_equal(entries("limited"), 0);
}

static void test_standard_input_is_a_recording(void **state)
{
    (void)state;
    char command[1024];
    snprintf(command, sizeof(command), "- <%s", silence);
    assert_int_equal(transcribe("--model %s -f vtt %s", model, command), 0);
    assert_string_equal(out, "WEBVTT\n\n");
    expect(err, "3.0 s of audio");
    /* From a pipe, which cannot be searched. */
    snprintf(command, sizeof(command), "cat %s | %s/captiond-transcribe --model %s -o %s/piped -f json -",
             silence, getenv("CAPTIOND_BUILD") ? getenv("CAPTIOND_BUILD") : "build", model, folder);
    assert_int_equal(system(command), 0);
    assert_true(exists("%s/piped/%s", "stdin.json"));
    assert_int_equal(transcribe("--model %s -", model), 1); /* /dev/null */
    expect(err, "standard input is empty");
    assert_null(strstr(err, "/proc"));
}

/* --- a terminal --- */

/* Starts the program with standard error on a terminal of its own, whose other end it returns; its words follow. */
static int start_on_terminal(pid_t *pid, const char *const *args)
{
    char program[300];
    int terminal;
    const char *build = getenv("CAPTIOND_BUILD");
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    snprintf(program, sizeof(program), "%s/captiond-transcribe", build ? build : "build");
    *pid = forkpty(&terminal, NULL, NULL, &size);
    assert_true(*pid >= 0);
    if (*pid == 0) {
        if (!freopen(out_path, "w", stdout))
            _exit(126);
        execv(program, (char *const *)args);
        _exit(127);
    }
    return terminal;
}

/* Reads what the terminal is shown into err, until it has `part` (NULL: to the end). */
static void read_terminal(int terminal, const char *part)
{
    size_t used = strlen(err);
    for (;;) {
        if (part && strstr(err, part))
            return;
        struct pollfd in = {.fd = terminal, .events = POLLIN};
        if (poll(&in, 1, 1000 * PATIENCE_S) <= 0)
            fail_msg("the terminal does not show \"%s\" but: %s", part ? part : "an end", err);
        ssize_t n = used + 1 < sizeof(err) ? read(terminal, err + used, sizeof(err) - 1 - used) : 0;
        if (n <= 0) /* EIO: nobody is at the other end any more */
            break;
        used += (size_t)n;
        err[used] = '\0';
    }
    if (part)
        fail_msg("the terminal does not show \"%s\" but: %s", part, err);
}

/* A bar with the time that is left while it works. Ctrl-C ends it: the recording in work leaves nothing, those before are
 * done, and the shell is told by which signal. */
static void test_a_terminal_has_a_bar_and_ctrl_c(void **state)
{
    (void)state;
    char noise[300], texts[300], wanted[64];
    pid_t pid;
    int status;
    snprintf(noise, sizeof(noise), "%s/noise.wav", folder);
    snprintf(texts, sizeof(texts), "%s/interrupted", folder);
    write_wav(noise, 900);
    const char *const args[] = {
        "captiond-transcribe", "--model", model, "--gate", "off", "-o", texts, silence, noise, NULL};
    err[0] = '\0';
    int terminal = start_on_terminal(&pid, args);
    snprintf(wanted, sizeof(wanted), "2/2 noise.wav  [");
    read_terminal(terminal, wanted);
    expect(err, "1/2 silence.wav  [>");
    expect(err, "silence.wav: 3.0 s of audio");
    err[0] = '\0';
    read_terminal(terminal, " left");
    assert_int_equal(write(terminal, "\003", 1), 1);
    read_terminal(terminal, NULL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(terminal);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 128 + SIGINT);
    expect(err, "noise.wav: interrupted");
    assert_null(strstr(err, "total: "));
    assert_int_equal(entries("interrupted"), 1);
    assert_true(exists("%s/interrupted/%s", "silence.txt"));
    unlink(noise);
}

/* A second signal ends it before it has seen the first, and leaves nothing either. */
static void test_two_signals(void **state)
{
    (void)state;
    char noise[300], texts[300];
    pid_t pid;
    int status;
    snprintf(noise, sizeof(noise), "%s/noise.wav", folder);
    snprintf(texts, sizeof(texts), "%s/twice", folder);
    write_wav(noise, 900);
    const char *const args[] = {
        "captiond-transcribe", "--model", model, "--gate", "off", "-o", texts, noise, NULL};
    err[0] = '\0';
    int terminal = start_on_terminal(&pid, args);
    read_terminal(terminal, " left");
    assert_int_equal(entries("twice"), 1);
    kill(pid, SIGSTOP);
    kill(pid, SIGINT);
    kill(pid, SIGTERM);
    kill(pid, SIGCONT);
    read_terminal(terminal, NULL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(terminal);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(entries("twice"), 0);
    unlink(noise);
}

/* What nohup has made it ignore does not end it. The name is as long as one can be. */
static void test_nohup(void **state)
{
    (void)state;
    char name[256], noise[600], texts[300];
    pid_t pid;
    int status;
    memset(name, 'x', sizeof(name));
    snprintf(name + 251, sizeof(name) - 251, ".wav");
    snprintf(noise, sizeof(noise), "%s/%s", folder, name);
    snprintf(texts, sizeof(texts), "%s/nohup", folder);
    write_wav(noise, 300);
    const char *const args[] = {
        "captiond-transcribe", "--model", model, "--gate", "off", "-o", texts, noise, NULL};
    err[0] = '\0';
    signal(SIGHUP, SIG_IGN);
    int terminal = start_on_terminal(&pid, args);
    signal(SIGHUP, SIG_DFL);
    read_terminal(terminal, " left");
    kill(pid, SIGHUP);
    read_terminal(terminal, NULL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(terminal);
    assert_int_equal(status, 0);
    assert_int_equal(entries("nohup"), 1);
    unlink(noise);
}

/* A name that is too long with its new extension is told before the work, and does not stop the others. */
static void test_a_name_too_long(void **state)
{
    (void)state;
    char name[256], recording[600];
    memset(name, 'x', sizeof(name));
    name[255] = '\0';
    snprintf(recording, sizeof(recording), "%s/%s", folder, name);
    write_wav(recording, 3);
    assert_int_equal(transcribe("--model %s --gate off -o %s/long %s %s", model, folder, recording, silence),
                     1);
    expect(err, "xxx: with .txt its name would have more than the 255 bytes that names in ");
    assert_null(strstr(err, "xxx: 3.0 s of audio"));
    expect(err, "silence.wav: 3.0 s of audio");
    assert_int_equal(entries("long"), 1);
    unlink(recording);
}

/* The same from a script, to standard output: what was written before stays. */
static void test_an_interrupted_transcript_keeps_its_beginning(void **state)
{
    (void)state;
    const char *path = test_model("tiny.en");
    char tiny[2000], speech[2000];
    pid_t pid;
    int status;
    if (!path || !test_speech("en_lj_161s.flac"))
        test_skip("the model tiny.en or the speech collection is not installed");
    snprintf(tiny, sizeof(tiny), "%s", path);
    snprintf(speech, sizeof(speech), "%s", test_speech("en_lj_161s.flac"));
    const char *const args[] = {"captiond-transcribe", "--model", tiny, "--threads", "1", speech, NULL};
    err[0] = '\0';
    int terminal = start_on_terminal(&pid, args);
    read_terminal(terminal, " left"); /* the first of six windows is done */
    kill(pid, SIGTERM);
    read_terminal(terminal, NULL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(terminal);
    assert_int_equal(WEXITSTATUS(status), 128 + SIGTERM);
    expect(err, "interrupted");
    slurp(out_path, out, sizeof(out));
    assert_int_equal(strncmp(out, "Printing, in the only sense", 27), 0);
}

/* The subtitles of the fixture, read by parsers that are not ours. */
static void test_subtitles_are_read_by_others(void **state)
{
    (void)state;
    if (!test_model("tiny.en"))
        test_skip("the model tiny.en is not installed");
    char model_path[2000], command[2500], text[4096];
    snprintf(model_path, sizeof(model_path), "%s", test_model("tiny.en"));
    assert_int_equal(
        transcribe("--model %s -q -f srt,vtt,json --word-timestamps --max-line-width 24 --max-line-count 2 "
                   "-o %s/subtitles tests/fixtures/harbour.flac",
                   model_path, folder),
        0);
    for (int i = 0; i < 2; i++) {
        snprintf(command, sizeof(command),
                 "PATH=/usr/bin:$PATH python3 tests/support/read_subtitles.py %s/subtitles/harbour.%s "
                 ">%s/read 2>&1",
                 folder, i == 0 ? "srt" : "vtt", folder);
        int status = system(command);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77)
            test_skip("python3-srt and python3-webvtt are not installed");
        char path[600];
        snprintf(path, sizeof(path), "%s/read", folder);
        slurp(path, text, sizeof(text));
        if (WEXITSTATUS(status) != 0)
            fail_msg("%s", text);
        /* More than 150 characters are heard: at least four cues of two lines with 24 characters. */
        assert_in_range(lines(text), 4, 20);
        expect(text, "leave every 20 minutes,");
        for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
            const char *end = strchr(line, '\n'), *cut = strstr(line, " / ");
            assert_true(end - line <= 2 * 24 + 3 + 2 * 7);
            assert_true(!cut || cut > end || end - cut <= 24 + 3);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_bad_recording_does_not_stop_the_others),
        cmocka_unit_test(test_silence_gives_no_words),
        cmocka_unit_test(test_a_damaged_recording_keeps_its_beginning),
        cmocka_unit_test(test_errors_name_the_file),
        cmocka_unit_test(test_cut_prompts_are_told),
        cmocka_unit_test(test_a_bad_model_is_said_once),
        cmocka_unit_test(test_auto_minds_the_language),
        cmocka_unit_test(test_no_gpu_is_told_once),
        cmocka_unit_test(test_bad_command_lines),
        cmocka_unit_test(test_help_that_cannot_be_written_is_an_error),
        cmocka_unit_test(test_a_full_disk_is_told),
        cmocka_unit_test(test_beams_compute_in_f32),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_speech_becomes_text),
        cmocka_unit_test(test_a_failed_recording_leaves_no_file),
        cmocka_unit_test(test_a_limit_to_files_leaves_none),
        cmocka_unit_test(test_standard_input_is_a_recording),
        cmocka_unit_test(test_a_terminal_has_a_bar_and_ctrl_c),
        cmocka_unit_test(test_an_interrupted_transcript_keeps_its_beginning),
        cmocka_unit_test(test_two_signals),
        cmocka_unit_test(test_nohup),
        cmocka_unit_test(test_a_name_too_long),
        cmocka_unit_test(test_subtitles_are_read_by_others),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
