#include "daemon/pipeline.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/log.h"
#include "daemon/model_path.h"
#include "daemon/notify.h"
#include "decoder/prompt.h"

/* The setting's enum is cast to the engine's: they must agree. */
_Static_assert((int)CONFIG_PRECISION_AUTO == (int)PRECISION_AUTO, "precisions differ");
_Static_assert((int)CONFIG_PRECISION_F32 == (int)PRECISION_F32, "precisions differ");
_Static_assert((int)CONFIG_PRECISION_INT8 == (int)PRECISION_INT8, "precisions differ");

static const char *const engine_choices[] = {
    [CONFIG_ENGINE_AUTO] = "auto", [CONFIG_ENGINE_CUDA] = "cuda", [CONFIG_ENGINE_HOST] = "host"};

const char *pipeline_language(const struct config *config)
{
    return strcmp(config->language, "auto") == 0 ? NULL : tokenizer_language_code(config->language);
}

const char *pipeline_model_name(const struct config *config)
{
    if (strcmp(config->model, "auto") != 0)
        return config->model;
    return config->task == TASK_TRANSLATE ? "base" : model_path_auto(pipeline_language(config));
}

static int check_language(const struct pipeline *p, const struct config *config, struct err *err)
{
    const char *language = pipeline_language(config);
    if (tokenizer_special(p->model.tokenizer)->multilingual) {
        if (language && tokenizer_language_token(p->model.tokenizer, language) < 0)
            return err_set(err, -EINVAL, "language: %s does not know %s", p->model_path, language);
    } else if (language && strcmp(language, "en") != 0) {
        return err_set(err, -EINVAL, "language: %s knows only English, not %s: try --model base",
                       p->model_path, language);
    } else if (config->task == TASK_TRANSLATE) {
        return err_set(err, -EINVAL, "task: %s knows only English and cannot translate: try --model base",
                       p->model_path);
    }
    return 0;
}

void pipeline_fit(const struct pipeline *p, struct config *config)
{
    if (config->beam_size == p->beams_wanted)
        config->beam_size = p->beams_max;
}

int pipeline_settings(const struct pipeline *p, const struct config *config, struct live_settings *out,
                      struct err *err)
{
    struct live_settings settings = {
        .language = pipeline_language(config),
        .follow_language = !config->language_lock,
        .translate = config->task == TASK_TRANSLATE,
        .unguarded = !config->guard,
        .beam_size = config->beam_size,
    };
    int r = check_language(p, config, err);
    if (r < 0)
        return r;
    if (settings.beam_size > p->beams_max)
        return err_set(err, -EINVAL,
                       "beam-size: at most %d in this run; more needs a restart with a larger beam-size, or "
                       "with fewer inputs",
                       p->beams_max);
    r = prompt_tell(p->model.tokenizer, config->hotwords, config->prompt, settings.told, LIVE_TOLD_MAX, err);
    if (r < 0) {
        err_prefix(err, "hotwords and prompt together");
        return r;
    }
    settings.n_told = r;
    *out = settings;
    return 0;
}

/* Why it is the host engine that computes. That there is no GPU is no fault. */
static void tell_no_device(const struct err *why)
{
    if (why->code == -EIO || why->code == -ENOMEM)
        log_warning("the host engine computes: %s", why->msg);
    else if (why->code)
        log_info("the host engine computes: %s", why->msg);
}

static int open_model(struct pipeline *p, struct config *config, struct err *err)
{
    int beams_most = WHISPER_SLOTS_MAX / config->n_inputs;
    p->beams_wanted = config->beam_size;
    p->beams_max = config->beam_size < beams_most ? config->beam_size : beams_most;
    if (p->beams_max < config->beam_size)
        log_warning("beam-size: %d instead of %d, which is the most for %d inputs", p->beams_max,
                    config->beam_size, config->n_inputs);
    p->options = (struct whisper_options){
        .engine = engine_choices[config->engine],
        .n_threads = config->threads,
        .precision = (enum engine_precision)config->precision,
        .yields = true, /* a service takes no core to wait with */
        .n_audio_slots = config->n_inputs,
        .n_text_slots = config->n_inputs * p->beams_max,
    };
    int r = model_path_find(pipeline_model_name(config), p->model_path, sizeof(p->model_path), err);
    if (r == 0)
        r = whisper_model_open(&p->model, p->model_path, &p->options, err);
    if (r < 0)
        return r;
    tell_no_device(whisper_no_device(p->model.whisper));
    p->options.engine = "host"; /* for when a device is lost */
    snprintf(p->engine_names[0], sizeof(p->engine_names[0]), "%s", whisper_engine_name(p->model.whisper));
    /* An engine without beam search captions all the same, one hypothesis at a time. */
    if (p->beams_max > 1 && whisper_beams_max(p->model.whisper) == 1) {
        log_warning("beam-size: the engine %s has no beam search: 1 instead of %d",
                    whisper_engine_name(p->model.whisper), p->beams_max);
        p->beams_max = 1;
    }
    pipeline_fit(p, config);
    r = pipeline_settings(p, config, &p->settings, err);
    p->refused = r < 0 && r != -ENOMEM;
    return r;
}

/* The ring alone: one just fits into the 8 MiB that a user may lock by default. For the host engine a lock only keeps sound off
 * the disk, and its speed is the same without; a GPU fetches sound more slowly from memory that is not pinned. */
static void register_audio(struct pipeline *p, const struct intake *in)
{
    struct err why;
    size_t bytes = ring_storage_bytes(in->ring.capacity);
    int r = whisper_register_audio(p->model.whisper, in->storage, bytes, &why);
    if (r < 0 && whisper_on_device(p->model.whisper))
        log_warning("input %s: %s", in->options.name, why.msg);
    else if (r < 0)
        log_info("input %s: %s", in->options.name, why.msg);
}

static int open_inputs(struct pipeline *p, const struct config *config, unsigned paused, struct err *err)
{
    bool wait =
        config->wait_for_device == WAIT_YES || (config->wait_for_device == WAIT_AUTO && notify_supervised());
    for (int i = 0; i < config->n_inputs; i++) {
        const struct intake_options options = {
            .name = config->inputs[i].name,
            .spec = config->inputs[i].spec,
            .paced = config->pace == PACE_REALTIME,
            .max_lag_ms = config->max_lag_ms,
            .wait_for_device = wait,
            .paused = paused >> i & 1,
            .gate = {.enabled = config->gate,
                     .threshold = (float)config->gate_threshold,
                     .min_speech_ms = config->gate_min_speech_ms,
                     .min_silence_ms = config->gate_silence_ms,
                     .pre_roll_ms = config->gate_pre_roll_ms,
                     .pad_ms = config->gate_pad_ms},
            .wake = &p->wake[i],
        };
        int r = intake_create(&options, &p->inputs[i], err);
        if (r < 0) {
            err_prefix(err, "input %s", options.name);
            return r;
        }
        p->n_inputs++;
        register_audio(p, p->inputs[i]);
    }
    return 0;
}

/* Batcher's thread: the device is lost, or has no numbers. */
static int take_over(void *ctx, const struct err *cause, struct text_model **model, struct err *err)
{
    struct pipeline *p = ctx;
    int r = cause->code;
    *err = *cause;
    if (p->falls_back) {
        log_warning("%s: the host engine takes over; a restart looks for the GPU again", cause->msg);
        r = whisper_model_reopen(&p->model, p->model_path, &p->options, err);
        if (r < 0)
            err_prefix(err, "%s, and no other engine", cause->msg);
    }
    if (r < 0) {
        p->lost = *err;
        atomic_store(&p->failed, true);
        p->wake_loop(p->wake_ctx);
        return r;
    }
    for (int i = 0; i < p->n_inputs; i++)
        register_audio(p, p->inputs[i]);
    snprintf(p->engine_names[1], sizeof(p->engine_names[1]), "%s", whisper_engine_name(p->model.whisper));
    atomic_store(&p->engine, 1);
    p->wake_loop(p->wake_ctx);
    *model = &p->model.base;
    return 0;
}

/* The host engine cannot be lost: an error of it is a gap in the captions. */
static int open_batcher(struct pipeline *p, const struct config *config, struct err *err)
{
    p->falls_back = config->engine == CONFIG_ENGINE_AUTO;
    const struct batcher_options options = {.n_clients = p->n_inputs,
                                            .take_over =
                                                whisper_on_device(p->model.whisper) ? take_over : NULL,
                                            .ctx = p};
    return batcher_create(&options, &p->model.base, &p->batcher, err);
}

static int open_captioner(struct pipeline *p, const struct config *config, void (*wake)(void *ctx), void *ctx,
                          struct err *err)
{
    const struct captioner_options options = {
        .realtime = config->pace == PACE_REALTIME,
        .step_ms = config->step_ms,
        .max_buffer_ms = config->max_buffer_ms,
        .max_lag_ms = config->max_lag_ms,
        .max_utterance_ms = config->max_utterance_ms,
        .draft = config->draft,
        .n_text_slots = p->beams_max,
        .settings = p->settings,
        .wake = wake,
        .wake_ctx = ctx,
    };
    struct text_model *models[STREAMS_MAX];
    for (int i = 0; i < p->n_inputs; i++)
        models[i] = batcher_client(p->batcher, i);
    return captioner_create(&options, models, p->model.tokenizer, p->inputs, p->n_inputs, &p->captioner, err);
}

int pipeline_open(struct pipeline *p, struct config *config, unsigned paused, void (*wake)(void *ctx),
                  void *ctx, struct err *err)
{
    memset(p, 0, sizeof(*p));
    for (int i = 0; i < STREAMS_MAX; i++)
        sem_init(&p->wake[i], 0, 0);
    p->wake_loop = wake;
    p->wake_ctx = ctx;
    int r = open_model(p, config, err);
    if (r == 0)
        r = open_inputs(p, config, paused, err);
    if (r == 0)
        r = open_batcher(p, config, err);
    if (r == 0)
        r = open_captioner(p, config, wake, ctx, err);
    if (r < 0) {
        bool refused = p->refused;
        pipeline_close(p);
        p->refused = refused;
    }
    return r;
}

int pipeline_start(struct pipeline *p, struct err *err)
{
    int r = captioner_start(p->captioner, err);
    for (int i = 0; r == 0 && i < p->n_inputs; i++)
        r = intake_start(p->inputs[i], err);
    return r;
}

const char *pipeline_engine_name(const struct pipeline *p)
{
    return p->engine_names[atomic_load(&p->engine)];
}

bool pipeline_failed(const struct pipeline *p, struct err *err)
{
    if (!atomic_load(&p->failed))
        return false;
    *err = p->lost;
    return true;
}

/* A stream that waits for its turn at the engine makes as much progress as the engine does, however long the others take. */
uint64_t pipeline_progress(struct pipeline *p)
{
    uint64_t captioner = captioner_progress(p->captioner, batcher_waiting(p->batcher)),
             batcher = batcher_progress(p->batcher);
    if (batcher != p->batcher_seen && captioner != p->captioner_seen) {
        p->captioner_seen = captioner;
        p->batcher_seen = batcher;
        p->progress++;
    }
    return p->progress;
}

void pipeline_stop(struct pipeline *p, int64_t deadline_ns)
{
    batcher_stop(p->batcher, deadline_ns);
    captioner_stop(p->captioner, deadline_ns);
}

void pipeline_pause(struct pipeline *p, unsigned streams, bool pause)
{
    for (int i = 0; i < p->n_inputs; i++) {
        if (streams >> i & 1)
            intake_pause(p->inputs[i], pause);
    }
}

bool pipeline_stuck(const struct pipeline *p, int input)
{
    return atomic_load(&p->inputs[input]->stuck);
}

bool pipeline_input_failed(const struct pipeline *p, int input)
{
    return atomic_load(&p->inputs[input]->failed);
}

bool pipeline_is_live(const struct pipeline *p)
{
    for (int i = 0; i < p->n_inputs; i++) {
        if (p->inputs[i]->live)
            return true;
    }
    return false;
}

void pipeline_heard_ms(const struct pipeline *p, int64_t *ms)
{
    for (int i = 0; i < p->n_inputs; i++)
        ms[i] = sample_to_ms(ring_head(&p->inputs[i]->ring));
}

void pipeline_undecoded_ms(const struct pipeline *p, int64_t *ms)
{
    for (int i = 0; i < p->n_inputs; i++) {
        int64_t sample = captioner_undecoded(p->captioner, i);
        ms[i] = sample < 0 ? -1 : sample_to_ms(sample);
    }
}

/* What a device that is well needs to be closed, where another one has used up the time. */
enum { CLOSING_MS = 50 };

void pipeline_stop_inputs(struct pipeline *p, int timeout_ms)
{
    int64_t until = clock_now_ns() + timeout_ms * NS_A_MS;
    for (int i = 0; i < p->n_inputs; i++) /* all of them, before one is waited for */
        intake_ask_stop(p->inputs[i]);
    for (int i = 0; i < p->n_inputs; i++) {
        int64_t left_ms = (until - clock_now_ns()) / NS_A_MS;
        if (intake_stop(p->inputs[i], left_ms > CLOSING_MS ? (int)left_ms : CLOSING_MS) < 0)
            p->inputs_stuck = true;
    }
}

void pipeline_close(struct pipeline *p)
{
    captioner_destroy(p->captioner);
    batcher_destroy(p->batcher);
    whisper_model_close(&p->model);
    for (int i = 0; i < p->n_inputs; i++)
        intake_destroy(p->inputs[i]);
    memset(p, 0, sizeof(*p));
}
