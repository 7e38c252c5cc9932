#include "daemon/whisper_model.h"

#include <errno.h>
#include <string.h>

#include "daemon/generation_config.h"
#include "daemon/model_path.h"
#include "gpu/weights.h"

/* The decoder's enum is cast to the engine's: they must agree. */
_Static_assert((int)AUDIO_SCALE_OWN == (int)MEL_SCALE_OWN, "scales differ");
_Static_assert((int)AUDIO_SCALE_SCAN == (int)MEL_SCALE_SCAN, "scales differ");
_Static_assert((int)AUDIO_SCALE_GIVEN == (int)MEL_SCALE_GIVEN, "scales differ");

static struct whisper *whisper_of(struct text_model *m)
{
    return ((struct whisper_model *)m)->whisper;
}

static void encode(struct text_model *m, int audio_slot, const float *pcm, int n_samples, int n_before,
                   enum audio_scale scale)
{
    struct whisper_audio audio = {
        .pcm = pcm, .n_samples = n_samples, .n_before = n_before, .scale = (enum mel_scale)scale};
    whisper_encode(whisper_of(m), audio_slot, &audio);
}

static void reset_scale(struct text_model *m, int audio_slot)
{
    whisper_reset_scale(whisper_of(m), audio_slot);
}

static int run(struct text_model *m, struct text_run *runs, int n, struct err *err)
{
    return whisper_run(whisper_of(m), runs, n, err);
}

static int logits(struct text_model *m, int slot, int audio_slot, const int32_t *tokens, int n, int pos,
                  float *out, struct err *err)
{
    return whisper_logits(whisper_of(m), slot, audio_slot, tokens, n, pos, out, err);
}

static void copy_slot(struct text_model *m, int src, int dst, int n)
{
    whisper_copy_slot(whisper_of(m), src, dst, n);
}

static int set_mask(struct text_model *m, int index, const int32_t *tokens, int n, struct err *err)
{
    return whisper_set_mask(whisper_of(m), index, tokens, n, err);
}

static int wait(struct text_model *m, struct err *err)
{
    return whisper_wait(whisper_of(m), err);
}

static int join(struct text_model *m, struct text_run *const *runs, int n, struct err *err)
{
    return whisper_join(whisper_of(m), runs, n, err);
}

static int step(struct text_model *m, int max_steps, struct err *err)
{
    return whisper_step(whisper_of(m), max_steps, err);
}

static const struct text_model_ops ops = {
    .encode = encode,
    .reset_scale = reset_scale,
    .run = run,
    .logits = logits,
    .copy_slot = copy_slot,
    .set_mask = set_mask,
    .wait = wait,
    .join = join,
    .step = step,
};

static const char *token_bytes(const void *ctx, int32_t id, size_t *n_bytes)
{
    return whisper_token_bytes(ctx, id, n_bytes);
}

/* No permission or no memory is no damage. */
static bool is_about_content(int r)
{
    return r == -EINVAL || r == -ENOENT;
}

int whisper_model_open(struct whisper_model *m, const char *path, const struct whisper_options *options,
                       struct err *err)
{
    struct whisper *whisper = NULL;
    struct tokenizer *tokenizer = NULL;
    int r = whisper_open(path, options, &whisper, err);
    if (r < 0) {
        /* Was it the model's files, and not the machine? They are looked at once more. */
        if (is_about_content(weights_check(path, NULL)))
            model_path_advise(path, err);
        return r;
    }
    const struct whisper_dims *dims = whisper_dims(whisper);
    r = tokenizer_create(dims->n_vocab, token_bytes, whisper, &tokenizer, err);
    if (r < 0)
        err_prefix(err, "%s", path);
    else if (whisper_folder(whisper))
        r = generation_config_apply(whisper_folder(whisper), tokenizer, err);
    if (r < 0) {
        if (is_about_content(r))
            model_path_advise(path, err);
        tokenizer_destroy(tokenizer);
        whisper_close(whisper);
        return r;
    }
    *m = (struct whisper_model){
        .base = {.ops = &ops,
                 .n_vocab = dims->n_vocab,
                 .n_text_ctx = dims->n_text_ctx,
                 .n_align = dims->n_align,
                 .n_audio_slots = options->n_audio_slots,
                 .n_text_slots = options->n_text_slots},
        .whisper = whisper,
        .tokenizer = tokenizer,
    };
    return 0;
}

int whisper_model_reopen(struct whisper_model *m, const char *path, const struct whisper_options *options,
                         struct err *err)
{
    struct whisper *whisper = NULL;
    int r = whisper_open(path, options, &whisper, err);
    if (r < 0)
        return r;
    const struct whisper_dims *dims = whisper_dims(whisper);
    if (dims->n_vocab != m->base.n_vocab || dims->n_text_ctx != m->base.n_text_ctx ||
        dims->n_align != m->base.n_align) {
        whisper_close(whisper);
        return err_set(err, -EINVAL, "%s: it is another model by now", path);
    }
    whisper_close(m->whisper);
    m->whisper = whisper;
    return 0;
}

void whisper_model_close(struct whisper_model *m)
{
    if (!m)
        return;
    tokenizer_destroy(m->tokenizer);
    whisper_close(m->whisper);
    memset(m, 0, sizeof(*m));
}
