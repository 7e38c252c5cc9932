#include "decoder/live_language.h"

#include <stddef.h>

#include "daemon/base/sample_rate.h"

#define SURE   0.5f
#define ENOUGH (2 * SAMPLE_RATE) /* of audio to be sure by */
#define LONGEST                                                                                              \
    (4 * SAMPLE_RATE) /* after which the language of the utterances before holds, if no other is sure */

void live_language_start(struct live_language *g, const char *code)
{
    *g = (struct live_language){.now = code, .locked = code != NULL};
}

void live_language_again(struct live_language *g)
{
    if (g->locked)
        g->usual = g->now;
    g->locked = false;
}

void live_language_heard(struct live_language *g, const char *code, float probability, int n_samples)
{
    bool sure = probability >= SURE;
    g->now = !sure && g->usual ? g->usual : code;
    g->doubtful = !sure && !g->usual;
    g->locked = !g->doubtful && n_samples >= (sure ? ENOUGH : LONGEST);
}
