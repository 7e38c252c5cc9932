#include "decoder/detect_language.h"

#include <math.h>

int detect_language(struct text_model *model, const struct tokenizer *tokenizer, int text_slot,
                    int audio_slot, float *logits, const char **code, float *probability, struct err *err)
{
    const struct special_tokens *s = tokenizer_special(tokenizer);
    int r = model->ops->logits(model, text_slot, audio_slot, &s->sot, 1, 0, logits, err);
    if (r < 0)
        return r;
    const float *x = logits + s->first_language;
    int best = 0;
    double sum = 0.0;
    for (int i = 1; i < s->n_languages; i++)
        best = x[i] > x[best] ? i : best;
    for (int i = 0; i < s->n_languages; i++)
        sum += exp((double)x[i] - x[best]);
    *code = tokenizer_token_language(tokenizer, s->first_language + best);
    *probability = (float)(1.0 / sum);
    return 0;
}
