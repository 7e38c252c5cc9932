/* A GPU that is lost under the real captiond: build/fake-gpu has the program with the library for GPUs compiled for
 * tests/cuda/harness, which loses its device when a file appears. */
#include "tests/support/daemon.h"
#include "tests/support/tiny_model.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sndfile.h>

enum { SECOND = 16000 };

static struct daemon d;
static struct lines *l;
static char model[128], lose[128];

/* A second of noise into its standard input. */
static void speak(uint64_t seed)
{
    static float noise[SECOND];
    static int16_t pcm[SECOND];
    tiny_model_noise("speech", seed, 3000.0f, noise, SECOND);
    for (int i = 0; i < SECOND; i++)
        pcm[i] = (int16_t)noise[i];
    assert_int_equal(write(d.in, pcm, sizeof(pcm)), sizeof(pcm));
}

static void fake_program(const char *name, char *path, size_t room)
{
    const char *build = getenv("CAPTIOND_BUILD");
    snprintf(path, room, "%s/fake-gpu/%s", build ? build : "build", name);
    if (access(path, X_OK) < 0)
        test_skip("the CUDA Toolkit's headers are missing");
}

static void lose_gpu(void)
{
    FILE *f = fopen(lose, "w");
    assert_non_null(f);
    fclose(f);
}

/* Starts on the GPU, and loses it when the first pass is done and more is to come. */
static void start_and_lose(const char *engine)
{
    char program[512];
    fake_program("captiond", program, sizeof(program));
    setenv("CAPTIOND_BIN", program, 1);
    daemon_start(&d, (const char *[]){"--engine", engine, "--model", model, "--input", "pipe:16000,1,s16le",
                                      "--gate", "off", "--guard", "off", "--beam-size", "1", NULL});
    daemon_wait_log(&d, "ready: ");
    assert_non_null(strstr(daemon_log(&d), " on cuda f16 "));
    lines_init(l, daemon_connect(d.captions));
    speak(1);
    lines_await(l, "partial");
    lose_gpu();
    speak(2);
}

static int count(const char *text, const char *part)
{
    int n = 0;
    for (; (text = strstr(text, part)); text++)
        n++;
    return n;
}

/* Where it was asked for there is no other engine: one line says why, clients are told, and the status is 1. */
static void asked_for_it_ends_the_daemon(void **state)
{
    start_and_lose("cuda");
    assert_string_equal(line_string(lines_await(l, "bye"), "reason"), "error");
    assert_null(lines_next(l, DAEMON_TIMEOUT_MS));
    assert_int_equal(daemon_wait(&d), 1);
    if (count(daemon_log(&d), "error: ") != 1 || !strstr(daemon_log(&d), "error: engine cuda: "))
        fail_msg("%s", daemon_log(&d));
    assert_int_equal(access(d.captions, F_OK), -1);
}

/* Else the host engine goes on: one line says so, and captions come to their end. */
static void by_itself_the_host_takes_over(void **state)
{
    char *line;
    bool gap = false;
    start_and_lose("auto");
    daemon_wait_log(&d, "the host engine takes over");
    close(d.in);
    d.in = -1;
    while ((line = lines_next(l, DAEMON_TIMEOUT_MS)) && !line_is(line, "final"))
        gap |= line_is(line, "gap") && strcmp(line_string(line, "cause"), "engine") == 0;
    assert_non_null(line);
    assert_false(gap);
    assert_true(strlen(line_string(line, "text")) > 0);
    assert_int_equal(daemon_stop(&d, SIGTERM), 0);
    if (count(daemon_log(&d), "the host engine takes over") != 1 || strstr(daemon_log(&d), "error: engine"))
        fail_msg("%s", daemon_log(&d));
}

static void read_text(const char *path, char *text, size_t room)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, room - 1, f)] = '\0';
    fclose(f);
}

/* Eight seconds of noise as a WAV file in memory. */
static size_t make_recording(char *wav, size_t room)
{
    static float noise[8 * SECOND];
    char path[160];
    SF_INFO info = {.samplerate = SECOND, .channels = 1, .format = SF_FORMAT_WAV | SF_FORMAT_PCM_16};
    snprintf(path, sizeof(path), "%s/recording.wav", d.dir);
    SNDFILE *sound = sf_open(path, SFM_WRITE, &info);
    assert_non_null(sound);
    tiny_model_noise("recording", 7, 0.1f, noise, 8 * SECOND);
    sf_writef_float(sound, noise, 8 * SECOND);
    sf_close(sound);
    FILE *f = fopen(path, "r");
    size_t n = fread(wav, 1, room, f);
    fclose(f);
    assert_in_range(n, 16 * SECOND, room - 1);
    return n;
}

/* Starts on the GPU with a recording on standard input, and loses it when the first half has been taken, far more than a pipe
 * holds: the model is there then. `said`: its errors. Returns the exit status. */
static int transcribe(const char *engine, char *text, char *said, size_t room)
{
    static char wav[17 * SECOND];
    char program[512], command[1200], out[160], err[160];
    size_t n = make_recording(wav, sizeof(wav)), half = n / 2;
    fake_program("captiond-transcribe", program, sizeof(program));
    snprintf(out, sizeof(out), "%s/text", d.dir);
    snprintf(err, sizeof(err), "%s/said", d.dir);
    snprintf(command, sizeof(command),
             "%s --engine %s --model %s --gate off --temperature-increment 0 - >%s 2>%s", program, engine,
             model, out, err);
    FILE *p = popen(command, "w");
    assert_non_null(p);
    fcntl(fileno(p), F_SETPIPE_SZ, 4096);
    assert_int_equal(fwrite(wav, 1, half, p), half);
    fflush(p);
    lose_gpu();
    assert_int_equal(fwrite(wav + half, 1, n - half, p), n - half);
    int status = pclose(p);
    assert_true(WIFEXITED(status));
    read_text(out, text, room);
    read_text(err, said, room);
    return WEXITSTATUS(status);
}

static void a_recording_is_transcribed_all_the_same(void **state)
{
    static char text[20000], said[20000];
    assert_int_equal(transcribe("auto", text, said, sizeof(text)), 0);
    if (count(said, "the host engine takes over") != 1)
        fail_msg("%s", said);
    assert_true(count(text, " w") > 3);
    unlink(lose);
    assert_int_equal(transcribe("cuda", text, said, sizeof(text)), 1);
    if (count(said, "takes over") != 0 || !strstr(said, "captiond-transcribe: -: engine cuda: "))
        fail_msg("%s", said);
}

static int set_up(void **state)
{
    struct tiny_model m;
    daemon_init(&d);
    l = malloc(sizeof(*l));
    snprintf(model, sizeof(model), "%s/toy.bin", d.dir);
    snprintf(lose, sizeof(lose), "%s/lose", d.dir);
    setenv("HARNESS_LOSE", lose, 1);
    tiny_model_init_sure(&m);
    tiny_model_write_ggml(&m, model, true, NULL);
    tiny_model_finish(&m);
    return l ? 0 : -1;
}

static int tear_down(void **state)
{
    daemon_finish(&d);
    free(l);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(asked_for_it_ends_the_daemon, set_up, tear_down),
        cmocka_unit_test_setup_teardown(by_itself_the_host_takes_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_recording_is_transcribed_all_the_same, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
