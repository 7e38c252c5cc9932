/* Opening a model, encoding windows, and what the runs (whisper_run.c) share with them. */
#include "gpu/whisper.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/whisper_state.h"

_Static_assert(WHISPER_SLOTS_MAX == PASS_ROWS_MAX, "a step is one pass");

/* A window of a larger model fills a GPU by itself, and is done sooner by libcublas than several together without it. */
#define TOGETHER_STATE_MAX 512

/* --- opening ---------------------------------------------------------------------------------------------------- */

static int check_options(const struct whisper_options *o, struct err *err)
{
    if (o->n_audio_slots < 1 || o->n_audio_slots > WHISPER_SLOTS_MAX)
        return err_set(err, -EINVAL, "audio slots: %d is not between 1 and %d", o->n_audio_slots,
                       WHISPER_SLOTS_MAX);
    if (o->n_text_slots < 1 || o->n_text_slots > WHISPER_SLOTS_MAX)
        return err_set(err, -EINVAL, "text slots: %d is not between 1 and %d", o->n_text_slots,
                       WHISPER_SLOTS_MAX);
    return 0;
}

static int take_memory(struct whisper *w, struct layer_loader *l)
{
    size_t n_slots = (size_t)w->n_text_slots;
    w->mask_words = (w->dims->n_vocab + 31) / 32;
    w->log_max = load_alloc(l, (size_t)w->n_audio_slots, sizeof(float));
    w->slots = load_alloc(l, n_slots, sizeof(struct slot_state));
    w->beams = load_alloc(l, n_slots, sizeof(struct beam_state));
    w->masks = load_alloc(l, RUN_TOKEN_MASKS * (size_t)w->mask_words, sizeof(uint32_t));
    w->n_active = load_alloc(l, 1, sizeof(int32_t));
    w->host_slots = calloc(n_slots, sizeof(*w->host_slots));
    w->host_beams = calloc(n_slots, sizeof(*w->host_beams));
    w->host_mask = calloc((size_t)w->mask_words, sizeof(*w->host_mask));
    w->pending = calloc(n_slots, sizeof(struct text_run *));
    w->joined = calloc(n_slots, sizeof(struct text_run *));
    w->staging_size = n_slots * STAGING_PER_SLOT;
    w->staging = calloc(w->staging_size, sizeof(*w->staging));
    if (l->code == 0 &&
        (!w->host_slots || !w->host_beams || !w->host_mask || !w->pending || !w->joined || !w->staging))
        l->code = err_set(l->err, -ENOMEM, "out of memory for the slots");
    return l->code;
}

static int build(struct whisper *w, struct layer_loader *l)
{
    const struct engine_vtable *v = w->engine->v;
    int r = take_memory(w, l);
    if (r == 0)
        r = v->kv_create(w->engine, w->dims->n_text_layer, w->n_audio_slots, w->dims->n_audio_ctx,
                         w->dims->n_text_head, &w->cross, l->err);
    const struct text_decoder_options options = {.n_slots = w->n_text_slots,
                                                 .cross = w->cross,
                                                 .slots = w->slots,
                                                 .beams = w->beams,
                                                 .masks = w->masks,
                                                 .n_active = w->n_active};
    /* The decoder first: loading its embedding takes the most memory, while there is least of everything else. */
    if (r == 0)
        r = text_decoder_create(l, &options, &w->decoder);
    return r < 0 ? r : audio_encoder_create(l, w->cross, &w->encoder);
}

/* The spectrogram. What is behind it comes when no more windows can join, or somebody needs it. */
static void submit_audio(struct whisper *w, int audio_slot, const struct whisper_audio *audio)
{
    assert(audio_slot >= 0 && audio_slot < w->n_audio_slots);
    const struct mel_args mel = {.pcm = audio->pcm,
                                 .n_samples = audio->n_samples,
                                 .n_before = audio->n_before,
                                 .scale = audio->scale,
                                 .log_max = audio->scale == MEL_SCALE_OWN ? NULL : w->log_max + audio_slot,
                                 .out = audio_encoder_mel(w->encoder, w->n_windows)};
    w->engine->v->mel(w->engine, &mel);
    if (audio->scale == MEL_SCALE_SCAN)
        return;
    w->windows[w->n_windows++] = audio_slot;
}

void whisper_submit_windows(struct whisper *w, int n_layers)
{
    if (w->n_windows > 0)
        audio_encoder_submit(w->encoder, w->windows, w->n_windows, n_layers);
    w->n_windows = 0;
}

/* Silence in n windows, one layer. */
static void warm_up_encoder(struct whisper *w, int n)
{
    static const float silence[400];
    for (int i = 0; i < n; i++)
        submit_audio(w, i, &(struct whisper_audio){.pcm = silence, .n_samples = 400, .scale = MEL_SCALE_OWN});
    whisper_submit_windows(w, 1);
}

/* Runs one layer of everything in every shape that will come, so that whatever an engine makes on first use (compiled
 * kernels, scratch memory) is there before the model is called ready. All layers have the same shapes. */
static int warm_up(struct whisper *w, struct err *err)
{
    int32_t tokens[PASS_ROWS_MAX + 1], chosen[2];
    float logprobs[2];
    warm_up_encoder(w, 1);
    if (w->engine->windows_max > 1)
        warm_up_encoder(w, w->engine->windows_max);
    int n = w->dims->n_text_ctx - 2 < PASS_ROWS_MAX ? w->dims->n_text_ctx - 2 : PASS_ROWS_MAX;
    for (int i = 0; i < n; i++)
        tokens[i] = 0;
    struct text_run run = {.tokens = tokens,
                           .max_tokens = 2,
                           .rules = {.eot = whisper_eot(w->dims->n_vocab),
                                     .timestamp_begin = w->dims->n_vocab - 1501,
                                     .no_timestamps = -1,
                                     .max_initial_timestamp = -1,
                                     .mask = 0,
                                     .first_mask = -1},
                           .probe_token = -1,
                           .out_capacity = 2,
                           .out_tokens = chosen,
                           .out_logprobs = logprobs};
    int r = 0;
    for (int rows = 1; r == 0 && rows < 2 * n;
         rows *= 2) { /* products of few rows have kernels of their own */
        run.n_prompt = run.sample_begin = rows < n ? rows : n;
        r = whisper_submit_runs(w, &run, 1, 1, err);
        if (r == 0)
            r = whisper_wait(w, err);
    }
    run.beam = (struct beam_search){.width = whisper_beams_max(w), .length_penalty = -1.0f};
    if (r < 0 || run.beam.width == 1)
        return r;
    r = whisper_submit_runs(w, &run, 1, 1, err);
    return r < 0 ? r : whisper_wait(w, err);
}

/* What an engine makes of a recorded step on first use as well. No slot is active any more, so nothing is computed. */
static int warm_up_steps(struct whisper *w, struct err *err)
{
    text_decoder_launch_each(w->decoder);
    return whisper_wait(w, err);
}

static int load(struct whisper *w, const char *engine_name, const struct whisper_options *options,
                struct err *err)
{
    w->dims = weights_dims(w->weights);
    w->n_audio_slots = options->n_audio_slots;
    w->n_text_slots = options->n_text_slots;
    bool together = w->dims->n_audio_state <= TOGETHER_STATE_MAX;
    const struct engine_options engine = {.n_threads = options->n_threads,
                                          .precision = options->precision,
                                          .n_mels = w->dims->n_mels,
                                          .n_slots = w->n_text_slots,
                                          .n_windows = together ? options->n_audio_slots : 1,
                                          .deferred = options->deferred,
                                          .yields = options->yields};
    int r = engine_open(engine_name, &engine, &w->engine, err);
    if (r < 0)
        return r;
    struct layer_loader loader;
    layer_loader_init(&loader, w->engine, w->weights, err);
    r = loader.code < 0 ? loader.code : build(w, &loader);
    layer_loader_finish(&loader);
    if (r == 0)
        r = warm_up(w, err);
    return r < 0 ? r : warm_up_steps(w, err);
}

/* A model on the engine of this name, which has the weights from then on; they stay the caller's where that fails. */
static int open_on(const char *engine_name, const struct whisper_options *options, struct weights *weights,
                   struct whisper **out, struct err *err)
{
    struct whisper *w = calloc(1, sizeof(*w));
    if (!w)
        return err_set(err, -ENOMEM, "out of memory for the model");
    w->weights = weights;
    int r = load(w, engine_name, options, err);
    if (r == 0) {
        *out = w;
        return 0;
    }
    w->weights = NULL;
    whisper_close(w);
    return r;
}

/* "auto" is the GPU, or the host: where there is none, or one that has too little memory or fails. */
int whisper_open(const char *path, const struct whisper_options *options, struct whisper **out,
                 struct err *err)
{
    struct weights *weights = NULL;
    struct err no_device = {0};
    bool either = strcmp(options->engine, "auto") == 0;
    int r = check_options(options, err);
    if (r == 0)
        r = weights_open(path, &weights, err);
    if (r < 0)
        return r;
    r = open_on(either ? "cuda" : options->engine, options, weights, out, either ? &no_device : err);
    if (r < 0 && either)
        r = open_on("host", options, weights, out, err);
    if (r < 0) {
        weights_close(weights);
        return r;
    }
    weights_close_files(weights);
    if (no_device.code != -ENOENT)
        (*out)->no_device = no_device;
    return 0;
}

void whisper_close(struct whisper *w)
{
    if (!w)
        return;
    struct engine *e = w->engine;
    if (e) {
        e->v->wait(e, NULL);
        for (int i = 0; i < w->n_registered; i++)
            e->v->host_unregister(e, w->registered[i]);
        text_decoder_destroy(w->decoder);
        audio_encoder_destroy(w->encoder);
        e->v->kv_destroy(e, w->cross);
        e->v->free(e, w->log_max);
        e->v->free(e, w->slots);
        e->v->free(e, w->beams);
        e->v->free(e, w->masks);
        e->v->free(e, w->n_active);
        engine_close(e);
    }
    free(w->host_slots);
    free(w->host_beams);
    free(w->host_mask);
    free(w->pending);
    free(w->joined);
    free(w->staging);
    weights_close(w->weights);
    free(w);
}

/* --- what the model is ------------------------------------------------------------------------------------------ */

const struct whisper_dims *whisper_dims(const struct whisper *w)
{
    return w->dims;
}

const char *whisper_engine_name(const struct whisper *w)
{
    return w->engine->name;
}

const char *whisper_repeats(const struct whisper *w)
{
    return w->engine->repeat;
}

int whisper_beams_max(const struct whisper *w)
{
    if (!text_decoder_searches(w->decoder))
        return 1;
    return w->n_text_slots < RUN_BEAMS_MAX ? w->n_text_slots : RUN_BEAMS_MAX;
}

bool whisper_on_device(const struct whisper *w)
{
    return strcmp(w->engine->v->name, "host") != 0;
}

const struct err *whisper_no_device(const struct whisper *w)
{
    return &w->no_device;
}

struct engine *whisper_engine(struct whisper *w)
{
    return w->engine;
}

const char *whisper_folder(const struct whisper *w)
{
    return weights_folder(w->weights);
}

const char *whisper_token_bytes(const struct whisper *w, int32_t id, size_t *n_bytes)
{
    return weights_token_bytes(w->weights, id, n_bytes);
}

int whisper_register_audio(struct whisper *w, void *p, size_t bytes, struct err *err)
{
    if (w->n_registered == REGISTERED_MAX)
        return err_set(err, -ENOSPC, "more than %d audio buffers", REGISTERED_MAX);
    int r = w->engine->v->host_register(w->engine, p, bytes, err);
    if (r == 0)
        w->registered[w->n_registered++] = p;
    return r;
}

int whisper_set_mask(struct whisper *w, int index, const int32_t *tokens, int n, struct err *err)
{
    if (index < 0 || index >= RUN_TOKEN_MASKS)
        return err_set(err, -EINVAL, "mask %d is not between 0 and %d", index, RUN_TOKEN_MASKS - 1);
    for (int i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= w->dims->n_vocab)
            return err_set(err, -EINVAL, "mask %d: token %d is not in the vocabulary of %d", index, tokens[i],
                           w->dims->n_vocab);
    }
    size_t bytes = (size_t)w->mask_words * sizeof(*w->host_mask);
    memset(w->host_mask, 0, bytes);
    for (int i = 0; i < n; i++)
        w->host_mask[tokens[i] / 32] |= 1u << (tokens[i] % 32);
    w->engine->v->upload(w->engine, w->masks + (size_t)index * (size_t)w->mask_words, w->host_mask, bytes);
    return whisper_wait(w, err);
}

/* --- audio ------------------------------------------------------------------------------------------------------ */

void whisper_reset_scale(struct whisper *w, int audio_slot)
{
    static const float least = -INFINITY;
    assert(audio_slot >= 0 && audio_slot < w->n_audio_slots);
    w->engine->v->upload(w->engine, w->log_max + audio_slot, &least, sizeof(least));
}

void whisper_encode(struct whisper *w, int audio_slot, const struct whisper_audio *audio)
{
    submit_audio(w, audio_slot, audio);
    if (w->n_windows == w->engine->windows_max)
        whisper_submit_windows(w, WHISPER_LAYERS_MAX);
}
