/* Capture from a real sound server that is this test's own: what is heard is what was played, and what happens when the
 * server dies, hangs or comes back. */
#include "tests/support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <sndfile.h>

#include "daemon/base/clock.h"
#include "stream/resample.h"
#include "stream/ring.h"
#include "stream/source.h"

#define SCRIPT      "tests/system/virtual-microphone.sh"
#define RATE        48000
#define SIGNAL_S    1
#define SIGNAL_N    (SIGNAL_S * RATE)
#define HEARD_MAX   (12 * RATE)
#define MS          1000000LL
#define CHANNEL_MAX 2

static char dir[64];
static bool available;
static float signal_[SIGNAL_N]; /* as played, on both channels */
static float heard[HEARD_MAX];  /* the first channel of what was captured; lost frames are zero */

/* libpulse is not built for the thread sanitizer, which therefore sees none of its synchronisation. The callback does not
 * run on libpulse's threads, so nothing of ours is hidden. */
#ifdef __SANITIZE_THREAD__
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:libpulse\n";
}
#endif

/* --- the server --------------------------------------------------------------------------------------------- */

static int run(const char *command)
{
    fflush(stdout);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int runf(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int runf(const char *format, ...)
{
    char command[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof(command), format, ap);
    va_end(ap);
    return run(command);
}

static pid_t server_pid(void)
{
    char path[128];
    int pid = 0;
    snprintf(path, sizeof(path), "%s/pid", dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &pid), 1);
    fclose(f);
    return pid;
}

static int start_server(void)
{
    return runf("sh " SCRIPT " start %s > %s/env", dir, dir);
}

static void take_environment(void)
{
    char path[128], line[512];
    snprintf(path, sizeof(path), "%s/env", dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        char *value = strchr(line, '=');
        assert_non_null(value);
        *value++ = '\0';
        value[strcspn(value, "\n")] = '\0';
        setenv(line, value, 1);
    }
    fclose(f);
}

static int set_up(void **state)
{
    snprintf(dir, sizeof(dir), "/tmp/captiond-vmic-XXXXXX");
    assert_non_null(mkdtemp(dir));
    int r = start_server();
    available = r == 0;
    assert_true(r == 0 || r == 77);
    if (available)
        take_environment();
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    remove(path);
    return 0;
}

static int tear_down(void **state)
{
    if (available)
        runf("sh " SCRIPT " stop %s", dir);
    usleep(200000);
    nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}

#define need_server()                                                                                        \
    do {                                                                                                     \
        if (!available)                                                                                      \
            test_skip("neither pulseaudio nor PipeWire's Pulse server is installed");                        \
    } while (0)

/* --- helpers ------------------------------------------------------------------------------------------------ */

/* Open ones, so that a test that fails leaves none to the next. */
static struct source *sources[4];

static struct source *must_open(const char *spec)
{
    struct source *source = NULL;
    struct err err = {0};
    int r = source_open(spec, &source, &err);
    if (r < 0)
        print_error("%s: %s\n", spec, err.msg);
    assert_int_equal(r, 0);
    for (int i = 0; i < 4; i++) {
        if (!sources[i]) {
            sources[i] = source;
            break;
        }
    }
    return source;
}

static int must_close(struct source *source, int timeout_ms)
{
    for (int i = 0; i < 4; i++) {
        if (sources[i] == source)
            sources[i] = NULL;
    }
    return source_close_timeout(source, timeout_ms);
}

static int close_all(void **state)
{
    for (int i = 0; i < 4; i++) {
        if (sources[i])
            must_close(sources[i], 2000);
    }
    return 0;
}

/* Sixteen-bit noise below 6 kHz, so that one alignment fits and 16 kHz can hold it. */
static void make_signal(void)
{
    struct test_rng rng;
    test_rng_init(&rng, 1);
    float low[8] = {0};
    for (int i = 0; i < SIGNAL_N; i++) {
        float x = test_rng_normal(&rng) * 0.5f;
        for (int k = 0; k < 8; k++) {
            low[k] += 0.4f * (x - low[k]);
            x = low[k];
        }
        x = x > 0.9f ? 0.9f : x < -0.9f ? -0.9f : x;
        signal_[i] = rintf(x * 32768.0f) / 32768.0f;
    }
}

static pid_t play(const char *sink)
{
    char path[128], device[64];
    snprintf(path, sizeof(path), "%s/signal.wav", dir);
    snprintf(device, sizeof(device), "--device=%s", sink);
    if (signal_[SIGNAL_N / 2] == 0.0f)
        make_signal();
    SF_INFO info = {.samplerate = RATE, .channels = 2, .format = SF_FORMAT_WAV | SF_FORMAT_PCM_16};
    SNDFILE *f = sf_open(path, SFM_WRITE, &info);
    assert_non_null(f);
    for (int i = 0; i < SIGNAL_N; i++) {
        short both[2] = {(short)lrintf(signal_[i] * 32768.0f), (short)lrintf(signal_[i] * 32768.0f)};
        sf_writef_short(f, both, 1);
    }
    sf_close(f);
    extern char **environ;
    char *argv[] = {"paplay", device, path, NULL};
    pid_t pid;
    assert_int_equal(posix_spawnp(&pid, "paplay", NULL, NULL, argv, environ), 0);
    return pid;
}

/* Captures for ms milliseconds into heard. Returns the frames, lost ones included. */
static int capture(struct source *source, int ms, int64_t *n_lost)
{
    static float frames[4096 * CHANNEL_MAX];
    int64_t until = clock_now_ns() + ms * MS;
    int n_heard = 0;
    memset(heard, 0, sizeof(heard));
    while (clock_now_ns() < until) {
        struct err err = {0};
        int n = source->v->read(source, frames, 4096, 100, &err);
        assert_true(n >= 0);
        int64_t lost = source->dropped;
        source->dropped = 0;
        assert_true(n_heard + lost + n <= HEARD_MAX);
        n_heard += (int)lost;
        if (n_lost)
            *n_lost += lost;
        for (int i = 0; i < n; i++)
            heard[n_heard + i] = frames[i * source->info.channels];
        n_heard += n;
    }
    return n_heard;
}

/* Correlation coefficient of n samples. */
static double correlation(const float *a, const float *b, int n)
{
    double ab = 0.0, aa = 1e-30, bb = 1e-30;
    for (int i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return ab / sqrt(aa * bb);
}

/* Where in heard the signal's sample `at` is, found by a piece of 2,000 samples. −1: nowhere. */
static int find_signal(int n_heard, int at)
{
    const int piece = 2000;
    int best = -1;
    double best_r = 0.5;
    for (int i = 0; i + piece <= n_heard; i++) {
        if (fabsf(heard[i] - signal_[at]) > 0.02f || fabsf(heard[i + 1] - signal_[at + 1]) > 0.02f)
            continue;
        double r = correlation(heard + i, signal_ + at, piece);
        if (r > best_r) {
            best_r = r;
            best = i;
        }
    }
    return best;
}

/* Reads until an error comes; fails after ms milliseconds. *took_ms is the time it needed. */
static int read_until_error(struct source *source, int ms, int *took_ms, struct err *err)
{
    static float frames[4096 * CHANNEL_MAX];
    int64_t began = clock_now_ns();
    int n = 0;
    while (n >= 0 && clock_now_ns() < began + ms * MS)
        n = source->v->read(source, frames, 4096, 100, err);
    *took_ms = (int)((clock_now_ns() - began) / MS);
    return n;
}

/* --- tests -------------------------------------------------------------------------------------------------- */

/* Pulse passes 48 kHz, 16 bits through: 0.9999 allows for nothing but a start of the stream that was missed. */
static void hears_what_is_played(void **state)
{
    need_server();
    struct source *source = must_open("portaudio");
    assert_true(source->info.live);
    assert_int_equal(source->info.rate, RATE);
    pid_t player = play("vmic");
    int n = capture(source, 2000, NULL);
    waitpid(player, NULL, 0);
    int start = find_signal(n, 0);
    assert_true(start >= 0 && start + SIGNAL_N <= n);
    double r = correlation(heard + start, signal_, SIGNAL_N);
    int exact = 0;
    for (int i = 0; i < SIGNAL_N; i++)
        exact += heard[start + i] == signal_[i];
    printf("correlation %.6f, %d of %d samples are the same\n", r, exact, SIGNAL_N);
    assert_true(r > 0.9999);
    assert_int_equal(must_close(source, 2000), 0);
}

/* The clock: the time at which the newest frame was heard lies in the past, but not further than the device's own
 * buffer, and runs at the device's rate. */
static void tells_when_it_was_heard(void **state)
{
    need_server();
    struct source *source = must_open("portaudio");
    static float frames[4096 * CHANNEL_MAX];
    int64_t n_read = 0, first_ns = 0, first_n = 0, last_ns = 0, youngest = INT64_MAX;
    int64_t until = clock_now_ns() + 2500 * MS;
    while (clock_now_ns() < until) {
        struct err err;
        int n = source->v->read(source, frames, 4096, 100, &err);
        assert_true(n >= 0);
        if (n == 0)
            continue;
        n_read += n;
        int64_t age = clock_now_ns() - source->heard_ns;
        assert_true(age >= 0);
        youngest = age < youngest ? age : youngest;
        last_ns = source->heard_ns;
        if (!first_ns && n_read > RATE / 2) {
            first_ns = last_ns;
            first_n = n_read;
        }
    }
    assert_true(youngest < 300 * MS);
    double rate = (double)(n_read - first_n) / ((double)(last_ns - first_ns) * 1e-9);
    printf("%.0f frames a second by the clock of what was heard\n", rate);
    assert_true(rate > RATE * 0.95 && rate < RATE * 1.05); /* two blocks of 50 ms in 2 s */
    assert_int_equal(must_close(source, 2000), 0);
}

/* Between the two nothing may be printed to stderr: what PortAudio prints there stands in people's terminals. */
static int begin_quiet(void)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/stderr", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600), saved = dup(STDERR_FILENO);
    assert_true(fd >= 0 && saved >= 0);
    dup2(fd, STDERR_FILENO);
    close(fd);
    return saved;
}

static void end_quiet(int saved)
{
    assert_int_equal(lseek(STDERR_FILENO, 0, SEEK_END), 0);
    dup2(saved, STDERR_FILENO);
    close(saved);
}

static void monitor_hears_the_default_sink(void **state)
{
    need_server();
    assert_int_equal(
        run("pactl load-module module-null-sink sink_name=other rate=48000 norewinds=1 > /dev/null"), 0);
    assert_int_equal(run("pactl set-default-source other.monitor"), 0);
    int saved = begin_quiet();
    struct source *microphone = must_open("portaudio");
    struct source *monitor = must_open("monitor");
    end_quiet(saved);
    pid_t player = play("vmic"); /* the default sink, but no longer the default source */
    int n = capture(monitor, 1800, NULL);
    assert_true(find_signal(n, RATE / 2) >= 0);
    assert_int_equal(must_close(monitor, 2000), 0);
    n = capture(microphone, 200, NULL);
    for (int i = 0; i < n; i++)
        assert_true(heard[i] == 0.0f);
    waitpid(player, NULL, 0);
    assert_int_equal(must_close(microphone, 2000), 0);
    assert_int_equal(run("pactl set-default-source vmic.monitor"), 0);
}

static void finds_devices_by_name(void **state)
{
    need_server();
    struct source_device devices[16];
    struct err err = {0};
    int n = source_list_devices(devices, 16, &err);
    assert_true(n >= 3);
    int n_default = 0, n_monitor = 0;
    for (int i = 0; i < n; i++) {
        n_default += devices[i].is_default;
        n_monitor += devices[i].is_monitor;
        assert_true(devices[i].channels > 0 && devices[i].default_rate > 0);
        assert_false(devices[i].is_default && devices[i].is_monitor);
    }
    assert_int_equal(n_default, 1);
    assert_int_equal(n_monitor, 1);
    assert_int_equal(source_list_devices(devices, 1, &err), 1);

    struct source *source = must_open("portaudio:PULS"); /* a part, in another case */
    assert_string_equal(source->info.name, "pulse");
    assert_int_equal(must_close(source, 2000), 0);

    assert_int_equal(source_open("portaudio:Sony", &source, &err), -ENODEV);
    assert_non_null(strstr(err.msg, "Sony"));
    assert_non_null(strstr(err.msg, "pulse"));
    assert_int_equal(source_open("portaudio:u", &source, &err), -ENOTUNIQ);
    assert_non_null(strstr(err.msg, "pulse"));
    assert_non_null(strstr(err.msg, "default"));
}

/* Four seconds without a read overrun the FIFO, two seconds rounded up to a power of two samples (2.73 s). The count of
 * what was lost must put what follows where it belongs, which the clock of the wall tells to a few blocks. */
static void counts_what_a_slow_reader_loses(void **state)
{
    need_server();
    struct source *source = must_open("portaudio");
    int64_t began = clock_now_ns(), lost = 0;
    usleep(4000000);
    int n = capture(source, 300, &lost);
    double elapsed = (double)(clock_now_ns() - began) * 1e-9;
    printf("%.2f s passed, %.2f s heard, %.2f s of it lost\n", elapsed, (double)n / RATE,
           (double)lost / RATE);
    assert_true(lost > RATE);
    assert_true(fabs((double)n / RATE - elapsed) < 0.4);
    int64_t age =
        clock_now_ns() - source->heard_ns; /* with the lost frames left out it would be over a second */
    assert_true(age >= 0 && age < 700 * MS);
    pid_t player = play("vmic"); /* and it goes on as before */
    n = capture(source, 1800, NULL);
    waitpid(player, NULL, 0);
    assert_true(find_signal(n, RATE / 2) >= 0);
    assert_int_equal(must_close(source, 2000), 0);
}

static void two_inputs_share_portaudio(void **state)
{
    need_server();
    struct source *a = must_open("portaudio:pulse"), *b = must_open("portaudio:default");
    assert_true(capture(a, 300, NULL) > 0);
    assert_int_equal(must_close(a, 2000), 0);
    assert_true(capture(b, 300, NULL) > 0);
    a = must_open("portaudio:pulse");
    assert_true(capture(a, 300, NULL) > 0);
    assert_int_equal(must_close(b, 2000), 0);
    assert_int_equal(must_close(a, 2000), 0);
}

/* source: the server's, or its default one. */
static void add_device(const char *name, const char *source)
{
    assert_int_equal(
        runf("echo 'pcm.%s { type pulse %s%s hint { show on description \"%s\" } }' >> %s/alsa.conf", name,
             source ? "device " : "", source ? source : "", name, dir),
        0);
}

/* PortAudio sees no new device while one is open; people are told what helps, and it does. */
static void tells_why_a_new_device_cannot_be_opened(void **state)
{
    need_server();
    struct source *a = must_open("portaudio:pulse"), *b = NULL;
    struct source_device devices[16];
    struct err err = {0};
    int n_before = source_list_devices(devices, 16, &err);
    assert_int_equal(source_open("portaudio:extra", &b, &err), -ENODEV);
    assert_non_null(strstr(err.msg, "no input device is called"));
    add_device("extra", NULL);
    assert_int_equal(source_open("portaudio:extra", &b, &err), -ENODEV);
    printf("%s\n", err.msg);
    assert_non_null(strstr(err.msg, "extra is there"));
    assert_int_equal(source_list_devices(devices, 16, &err), n_before + 1);
    assert_int_equal(must_close(a, 2000), 0);
    b = must_open("portaudio:extra");
    a = must_open("portaudio:pulse");
    assert_true(capture(b, 300, NULL) > 0);
    assert_int_equal(must_close(a, 2000), 0);
    assert_int_equal(must_close(b, 2000), 0);
}

static void *wake_soon(void *arg)
{
    struct source *source = arg;
    usleep(50000);
    source->v->wake(source);
    return NULL;
}

static void wake_ends_a_read(void **state)
{
    need_server();
    struct source *source = must_open("portaudio");
    static float frames[4096 * CHANNEL_MAX];
    struct err err;
    pthread_t thread;
    /* with the server stopped no sound can end the read first */
    capture(source, 300, NULL);
    kill(server_pid(), SIGSTOP);
    usleep(200000);
    while (source->v->read(source, frames, 4096, 0, &err) > 0)
        continue;
    pthread_create(&thread, NULL, wake_soon, source);
    int64_t began = clock_now_ns();
    assert_int_equal(source->v->read(source, frames, 4096, 1000, &err), SOURCE_TIMEOUT);
    int64_t took = clock_now_ns() - began;
    kill(server_pid(), SIGCONT);
    pthread_join(thread, NULL);
    assert_true(took > 40 * MS && took < 500 * MS);
    assert_int_equal(must_close(source, 2000), 0);
}

static void a_dead_server_is_noticed_and_waited_for(void **state)
{
    need_server();
    struct err err = {0};
    int took_ms;
    struct source *source = must_open("portaudio"), *again = NULL;
    assert_true(capture(source, 300, NULL) > 0);
    int saved = begin_quiet();
    kill(server_pid(), SIGKILL);
    assert_int_equal(read_until_error(source, 4000, &took_ms, &err), -ENODEV);
    assert_int_equal(must_close(source, 2000), 0);
    assert_int_equal(source_open("portaudio", &again, &err), -ENODEV);
    end_quiet(saved);
    printf("noticed after %d ms: %s\n", took_ms, err.msg);
    assert_true(took_ms < 2000);
    printf("while it is away: %s\n", err.msg);
    assert_int_equal(source_open("monitor", &again, &err), -ENODEV);
    assert_int_equal(start_server(), 0);
    source = must_open("portaudio");
    pid_t player = play("vmic");
    int n = capture(source, 1800, NULL);
    waitpid(player, NULL, 0);
    assert_true(find_signal(n, RATE / 2) >= 0);
    assert_int_equal(must_close(source, 2000), 0);
}

static void a_stopped_server_is_noticed_and_given_up(void **state)
{
    need_server();
    struct err err = {0};
    int took_ms;
    struct source *source = must_open("portaudio"), *again = NULL;
    assert_true(capture(source, 300, NULL) > 0);
    pid_t pid = server_pid();
    kill(pid, SIGSTOP);
    int r = read_until_error(source, 4000, &took_ms, &err);
    int64_t began = clock_now_ns();
    int closed = must_close(source, 300);
    int close_ms = (int)((clock_now_ns() - began) / MS);
    int reopened = source_open("portaudio", &again, &err);
    kill(pid, SIGCONT);
    printf("noticed after %d ms, closing gave up after %d ms, reopening says: %s\n", took_ms, close_ms,
           err.msg);
    assert_int_equal(r, -ESTALE);
    assert_true(took_ms < 2000);
    assert_int_equal(closed, -ETIMEDOUT);
    assert_true(close_ms >= 300 && close_ms < 600);
    assert_int_equal(reopened, -EBUSY);
    /* the close that was given up comes through, and all is as before */
    usleep(300000);
    source = must_open("portaudio");
    assert_true(capture(source, 500, NULL) > 0);
    assert_int_equal(must_close(source, 2000), 0);

    kill(pid, SIGSTOP);
    began = clock_now_ns();
    reopened = source_open("portaudio", &again, &err);
    int open_ms = (int)((clock_now_ns() - began) / MS);
    kill(pid, SIGCONT);
    printf("opening with a stopped server gives up after %d ms: %s\n", open_ms, err.msg);
    assert_int_equal(reopened, -EAGAIN);
    assert_true(open_ms < 4000);
}

/* It opens, and nothing comes. After the first time it is not there until it gives sound, for each attempt of ours costs
 * memory; the child's do not. */
static void a_dumb_device_is_waited_for(void **state)
{
    need_server();
    if (run("pactl info | grep -q PipeWire") == 0)
        test_skip("only of PulseAudio's pipe source it is known that it waits for a writer");
    struct err err = {0};
    int took_ms;
    struct source *source = NULL;
    assert_int_equal(
        runf("pactl load-module module-pipe-source source_name=dumb file=%s/dumb > /dev/null", dir), 0);
    add_device("dumb", "dumb");
    source = must_open("portaudio:dumb");
    assert_int_equal(read_until_error(source, 4000, &took_ms, &err), -ESTALE);
    assert_int_equal(must_close(source, 2000), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(source_open("portaudio:dumb", &source, &err), -ESTALE);
    printf("opening it again says: %s\n", err.msg);
    assert_non_null(strstr(err.msg, "delivers no sound"));
    assert_int_equal(runf("cat /dev/zero > %s/dumb 2> /dev/null &", dir), 0);
    float frames[CHANNEL_MAX];
    source = must_open("portaudio:dumb");
    assert_int_equal(source->v->read(source, frames, 1, 2000, &err), 1);
    assert_int_equal(must_close(source, 2000), 0);
    assert_int_equal(run("pactl unload-module module-pipe-source"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(hears_what_is_played, close_all),
        cmocka_unit_test_teardown(tells_when_it_was_heard, close_all),
        cmocka_unit_test_teardown(monitor_hears_the_default_sink, close_all),
        cmocka_unit_test_teardown(finds_devices_by_name, close_all),
        cmocka_unit_test_teardown(counts_what_a_slow_reader_loses, close_all),
        cmocka_unit_test_teardown(two_inputs_share_portaudio, close_all),
        cmocka_unit_test_teardown(tells_why_a_new_device_cannot_be_opened, close_all),
        cmocka_unit_test_teardown(a_dumb_device_is_waited_for, close_all),
        cmocka_unit_test_teardown(wake_ends_a_read, close_all),
        cmocka_unit_test_teardown(a_dead_server_is_noticed_and_waited_for, close_all),
        cmocka_unit_test_teardown(a_stopped_server_is_noticed_and_given_up, close_all),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
