/* A GPU that is lost in the middle of captions: the whole of captiond's pipeline, with two inputs, on the CUDA engine that runs on
 * the processor. With --engine auto the host engine takes over, and no word is missing or said twice, wherever it happens;
 * with --engine cuda the pipeline says why it ends. A recording's transcription likewise.
 * tests/run: 300 s */
#include "tests/support/support.h"

#include <errno.h>
#include <math.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sndfile.h>

#include "daemon/base/clock.h"
#include "daemon/log.h"
#include "daemon/pipeline.h"
#include "daemon/whisper_model.h"
#include "decoder/longform.h"
#include "tests/cuda/linked_engine.h"
#include "tests/support/tiny_model.h"

/* tests/cuda/harness/ */
void harness_lose_device(int error);
void harness_lose_device_at(const char *call, int after, int error);
int harness_calls_left(void);
bool harness_has_failed(void);
void harness_machine(int driver, int error_of_count, int major, size_t memory);

enum { LAUNCH_FAILURE = 719, N_INPUTS = 2, TEXT_BYTES = 4096, PATIENCE = 1000 };

static char beam_size[2] = "1";
static char model[300], loud_model[300], inputs[N_INPUTS][300];

/* What came of a run. */
struct said {
    char text
        [N_INPUTS]
        [TEXT_BYTES]; /* of the commits, and after a tilde of each partial: a window that is wrong shows at once */
    int n_commits, n_finals, n_gaps;
    char engine[64];
    bool failed;
    struct err why;
};

static sem_t woken;

static void on_wake(void *ctx)
{
    sem_post(&woken);
}

static void take_events(struct pipeline *p, struct said *said)
{
    static struct event e;
    while (captioner_next_event(p->captioner, &e)) {
        if (e.type == EVENT_PARTIAL)
            test_append(said->text[e.stream], TEXT_BYTES, " ~");
        if (e.type == EVENT_COMMIT || e.type == EVENT_PARTIAL)
            test_append(said->text[e.stream], TEXT_BYTES, e.text);
        said->n_commits += e.type == EVENT_COMMIT;
        said->n_finals += e.type == EVENT_FINAL;
        said->n_gaps += e.type == EVENT_GAP;
    }
}

/* --- a run -------------------------------------------------------------------------------------------------------------- */

/* Three seconds that change every quarter of a second, so that each window sounds different. */
static void write_sound(const char *path, uint64_t seed)
{
    enum { QUARTERS = 12, QUARTER = 4000 };
    SF_INFO info = {.samplerate = 16000, .channels = 1, .format = SF_FORMAT_WAV | SF_FORMAT_PCM_16};
    SNDFILE *f = sf_open(path, SFM_WRITE, &info);
    float pcm[QUARTER];
    assert_non_null(f);
    for (int q = 0; q < QUARTERS; q++) {
        char name[32];
        snprintf(name, sizeof(name), "quarter %d", q);
        tiny_model_noise(name, seed, 0.1f, pcm, QUARTER);
        float colour = 0.95f * (float)((int)((seed * 7 + (uint64_t)q * 5) % 3) - 1);
        for (int i = 1; i < QUARTER; i++)
            pcm[i] += colour * pcm[i - 1];
        assert_int_equal(sf_writef_float(f, pcm, QUARTER), QUARTER);
    }
    sf_close(f);
}

/* Captions both inputs to their ends, or until the engine is lost for good. The device is lost at call number `after` of this
 * name once all is ready; NULL: never. */
static void caption(const char *engine, const char *call, int after, struct said *said)
{
    char *argv[] = {"captiond", "--config",  "/dev/null", "--engine",    (char *)engine, "--model",
                    model,      "--threads", "1",         "--pace",      "fast",         "--gate",
                    "off",      "--guard",   "off",       "--beam-size", beam_size,      "--step",
                    "1000",     "--input",   inputs[0],   "--input",     inputs[1]};
    struct config config;
    enum config_action action;
    struct pipeline p;
    struct err err = {0};
    memset(said, 0, sizeof(*said));
    harness_lose_device_at("", 0, 0);
    if (config_load(&config, sizeof(argv) / sizeof(argv[0]), argv, &action, &err) < 0 ||
        pipeline_open(&p, &config, 0, on_wake, NULL, &err) < 0)
        fail_msg("%s", err.msg);
    if (call)
        harness_lose_device_at(call, after, LAUNCH_FAILURE);
    assert_int_equal(pipeline_start(&p, &err), 0);
    int64_t deadline = clock_now_ns() + PATIENCE * NS_A_SECOND;
    do {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 1;
        sem_timedwait(&woken, &until);
        assert_true(clock_now_ns() < deadline);
        take_events(&p, said);
        said->failed = pipeline_failed(&p, &said->why);
    } while (!captioner_ended(p.captioner) && !said->failed);
    take_events(&p, said);
    snprintf(said->engine, sizeof(said->engine), "%s", pipeline_engine_name(&p));
    pipeline_stop(&p, clock_now_ns());
    pipeline_stop_inputs(&p, 1000);
    pipeline_close(&p);
    harness_lose_device(0);
    config_finish(&config);
}

static void assert_said(const struct said *got, const struct said *want)
{
    assert_false(got->failed);
    assert_int_equal(got->n_gaps, 0);
    assert_int_equal(got->n_commits, want->n_commits);
    assert_int_equal(got->n_finals, want->n_finals);
    for (int i = 0; i < N_INPUTS; i++)
        assert_string_equal(got->text[i], want->text[i]);
}

/* Loses the GPU at that call: the other engine goes on, and says what `want` says. False: there are not so many calls. */
static bool lose_at(const char *call, int after, const struct said *want)
{
    static struct said said;
    caption("auto", call, after, &said);
    printf("lost at %s %d: %s\n", call, after, said.engine);
    bool lost = harness_has_failed();
    assert_non_null(strstr(said.engine, lost ? "host" : "cuda"));
    assert_said(&said, want);
    return lost;
}

/* The same words from the host engine alone, from the GPU alone, and wherever the one takes over from the other: in windows, prompts
 * and drafts of each pass, at the sound of the first window, at the first steps, when they are waited for, and when the
 * alignment rows are. */
static void no_word_goes_with_the_gpu(void **state)
{
    enum { NEVER = 1 << 30, PLACES = 3 };
    static struct said host, gpu;
    caption("host", NULL, 0, &host);
    printf("host:%s |%s\n", host.text[0], host.text[1]);
    assert_true(host.n_commits >= 4 && strlen(host.text[0]) > 8 * 5);
    assert_string_not_equal(host.text[0], host.text[1]);
    caption("auto", "LAUNCH", NEVER, &gpu);
    int n_launches = NEVER - harness_calls_left();
    assert_non_null(strstr(gpu.engine, "cuda"));
    assert_said(&gpu, &host);
    /* Streams that wait at the same time share launches, twice as many at most, as it happens: the last places may not come. */
    int n_lost = 0;
    for (int i = 0; i < PLACES; i++)
        n_lost += lose_at("LAUNCH", i * n_launches / PLACES, &host);
    assert_true(n_lost >= PLACES / 2);
    assert_true(lose_at("cudaMemcpyAsync", 0, &host));
    assert_true(lose_at("cudaLaunchCooperativeKernel", 0, &host));
    assert_true(lose_at("cudaStreamSynchronize", 0, &host));
    assert_true(lose_at("cudaStreamSynchronize", 1, &host));
}

/* The same with searches, whose steps are graphs. */
static void nor_with_beams(void **state)
{
    static struct said host;
    strcpy(beam_size, "5");
    caption("host", NULL, 0, &host);
    assert_true(host.n_commits >= 4);
    assert_true(lose_at("cudaGraphLaunch", 1, &host));
    strcpy(beam_size, "1");
}

/* Where the GPU was asked for there is no other engine: captions end, and it is said why. */
static void without_another_engine_it_is_said(void **state)
{
    static struct said said;
    caption("cuda", "cudaLaunchCooperativeKernel", 1, &said);
    assert_true(said.failed);
    assert_int_equal(said.why.code, -EIO);
    assert_non_null(strstr(said.why.msg, "engine cuda: "));
    assert_non_null(strstr(said.engine, "cuda"));
}

/* --- a recording ---------------------------------------------------------------------------------------------------------- */

enum { RECORDING = 4 * 16000 };

struct transcription {
    struct whisper_model model;
    struct whisper_options options;
    int n_taken_over;
    char text[TEXT_BYTES];
};

static int on_segment(void *ctx, const struct longform_segment *segment)
{
    struct transcription *t = ctx;
    char times[64];
    snprintf(times, sizeof(times), "[%d-%d]", (int)segment->start, (int)segment->end);
    test_append(t->text, TEXT_BYTES, times);
    test_append(t->text, TEXT_BYTES, segment->text);
    return 0;
}

static int open_host(void *ctx, struct err *err)
{
    struct transcription *t = ctx;
    assert_true(whisper_on_device(t->model.whisper));
    t->options.engine = "host";
    t->n_taken_over++;
    return whisper_model_reopen(&t->model, model, &t->options, err);
}

/* In windows of a second, so that there are some. Returns whether the device was lost. */
static bool transcribe(const char *engine, const char *call, int after, struct transcription *t)
{
    enum { WINDOWS = 4 };
    static float pcm[RECORDING];
    struct longform_region regions[WINDOWS];
    struct longform_options o;
    struct longform_result result;
    struct err err = {0};
    *t = (struct transcription){
        .options = {.engine = engine, .n_threads = 1, .n_audio_slots = 1, .n_text_slots = 5}};
    tiny_model_noise("recording", 5, 0.1f, pcm, RECORDING);
    for (int i = 0; i < WINDOWS; i++)
        regions[i] = (struct longform_region){i * RECORDING / WINDOWS, (i + 1) * RECORDING / WINDOWS};
    longform_defaults(&o);
    o.n_temperatures = 1;
    o.regions = regions;
    o.n_regions = WINDOWS;
    o.on_segment = on_segment;
    o.take_over = open_host;
    o.ctx = t;
    harness_lose_device_at("", 0, 0);
    if (whisper_model_open(&t->model, model, &t->options, &err) < 0)
        fail_msg("%s", err.msg);
    if (call)
        harness_lose_device_at(call, after, LAUNCH_FAILURE);
    if (longform_transcribe(&t->model.base, t->model.tokenizer, &o, pcm, RECORDING, &result, &err) < 0)
        fail_msg("%s", err.msg);
    bool lost = call && harness_has_failed();
    harness_lose_device(0);
    whisper_model_close(&t->model);
    return lost;
}

static void no_word_of_a_recording_goes_with_the_gpu(void **state)
{
    enum { NEVER = 1 << 30, PLACES = 3 };
    static struct transcription host, gpu, other;
    transcribe("host", NULL, 0, &host);
    transcribe("cuda", "LAUNCH", NEVER, &gpu);
    int n_launches = NEVER - harness_calls_left();
    assert_int_equal(gpu.n_taken_over, 0);
    printf("%s\n", host.text);
    assert_true(strlen(host.text) > 40);
    assert_string_equal(gpu.text, host.text);
    for (int i = 0; i < PLACES; i++) {
        assert_true(transcribe("cuda", "LAUNCH", i * n_launches / PLACES, &other));
        assert_int_equal(other.n_taken_over, 1);
        assert_string_equal(other.text, host.text);
    }
}

/* A model whose numbers become too large for the GPU's sums is not the GPU's to run, and gives no empty text. */
static void numbers_that_are_none_are_an_error(void **state)
{
    struct whisper_options options = {
        .engine = "cuda", .n_threads = 1, .n_audio_slots = 1, .n_text_slots = 5};
    struct whisper_model m;
    struct err err = {0};
    for (int i = 0; i < 2; i++) { /* few slots, and so many that products are on tensor cores */
        options.n_text_slots = i ? 5 : 16;
        assert_int_equal(whisper_model_open(&m, loud_model, &options, &err), -EIO);
        assert_non_null(strstr(err.msg, "engine cuda: the text decoder's numbers"));
    }
    options.engine = "auto";
    assert_int_equal(whisper_model_open(&m, loud_model, &options, &err), 0);
    assert_false(whisper_on_device(m.whisper));
    assert_int_equal(whisper_no_device(m.whisper)->code, -EIO);
    whisper_model_close(&m);
}

/* Nor one that does not fit into its memory, whatever it is that does not. */
static void too_little_memory_is_no_end(void **state)
{
    enum { DRIVER = 13000, ENOUGH = 144 };
    static const int megabytes[] = {9, 40, ENOUGH};
    const struct whisper_options options = {
        .engine = "auto", .n_threads = 1, .n_audio_slots = 2, .n_text_slots = 5};
    for (size_t i = 0; i < sizeof(megabytes) / sizeof(megabytes[0]); i++) {
        struct whisper_model m;
        struct err err = {0};
        harness_machine(DRIVER, 0, 8, ((size_t)megabytes[i] << 20) + 1);
        if (whisper_model_open(&m, model, &options, &err) < 0)
            fail_msg("%s", err.msg);
        const struct err *why = whisper_no_device(m.whisper);
        printf("%d MB: %s\n", megabytes[i], why->msg);
        assert_int_equal(whisper_on_device(m.whisper), megabytes[i] == ENOUGH);
        if (!whisper_on_device(m.whisper)) {
            assert_int_equal(why->code, -ENOMEM);
            assert_non_null(strstr(why->msg, "engine cuda: no memory for "));
        }
        whisper_model_close(&m);
    }
    harness_machine(DRIVER, 0, 8, 0);
}

static void make_loud(const struct tiny_model *m, const char *tensor)
{
    const struct tiny_tensor *t = tiny_model_find(m, tensor);
    float greatest = 0.0f;
    for (size_t i = 0; i < tiny_tensor_count(t); i++)
        greatest = fmaxf(greatest, fabsf(t->values[i]));
    for (size_t i = 0; i < tiny_tensor_count(t); i++)
        t->values[i] *= 32768.0f / exp2f(ceilf(log2f(greatest)));
}

static int set_up(void **state)
{
    const char *folder = tiny_folder();
    struct tiny_model m;
    *state = (void *)folder;
    /* Single floats on every processor: the tokens are to be the same on both engines. */
    setenv("CAPTIOND_ISA", "generic", 1);
    snprintf(model, sizeof(model), "%s/toy.bin", folder);
    tiny_model_init_sure(&m);
    tiny_model_write_ggml(&m, model, true, NULL);
    /* What the MLP of the last layer takes to be in between, and what it adds, is far above what halves and a sum in fixed point
     * hold, although halves hold its weights. */
    snprintf(loud_model, sizeof(loud_model), "%s/loud.bin", folder);
    make_loud(&m, "decoder.blocks.1.mlp.0.weight");
    make_loud(&m, "decoder.blocks.1.mlp.2.weight");
    tiny_model_write_ggml(&m, loud_model, true, NULL);
    tiny_model_finish(&m);
    for (int i = 0; i < N_INPUTS; i++) {
        char path[290];
        snprintf(path, sizeof(path), "%s/%d.wav", folder, i);
        write_sound(path, (uint64_t)i + 1);
        snprintf(inputs[i], sizeof(inputs[i]), "%c=file:%s", 'a' + i, path);
    }
    return sem_init(&woken, 0, 0);
}

static int tear_down(void **state)
{
    tiny_folder_remove(*state);
    return sem_destroy(&woken);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_word_goes_with_the_gpu),
        cmocka_unit_test(nor_with_beams),
        cmocka_unit_test(without_another_engine_it_is_said),
        cmocka_unit_test(no_word_of_a_recording_goes_with_the_gpu),
        cmocka_unit_test(numbers_that_are_none_are_an_error),
        cmocka_unit_test(too_little_memory_is_no_end),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
