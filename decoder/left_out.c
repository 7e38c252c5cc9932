#include "decoder/left_out.h"

#include "daemon/base/sample_rate.h"
#include "decoder/commit.h"
#include "decoder/guard.h"
#include "decoder/words.h"

#define STALL_FRAMES  100               /* of speech that passes made nothing of: 2 s */
#define DOUBT_SAMPLES (2 * SAMPLE_RATE) /* between two attempts to hear more than a pass did */
#define MORE_LETTERS  5                 /* that a second hypothesis of the same audio must have */

/* Sound that the hypothesis does not account for, somewhere before or in its words. A mark has none of its own. */
static bool leaves_out(const struct live_buffer *b, const struct hypothesis *h, const float *levels,
                       int n_levels)
{
    int at = b->n_kept > 0 ? live_buffer_frame(b, b->last_end) : 0;
    for (int i = 0; i < h->n_words; i++) {
        const struct word *w = &h->words[i];
        if (commit_is_mark(w->text))
            continue;
        int end = live_buffer_frame(b, w->end);
        if (guard_left_out(levels, n_levels, at, end, words_letters(w->text)))
            return true;
        at = end;
    }
    return false;
}

int64_t left_out_find(const struct live_buffer *b, const struct hypothesis *h, const float *levels,
                      int n_levels, bool last)
{
    bool again = b->end - b->doubted_end >= DOUBT_SAMPLES || last;
    if (!again || (b->stamped && b->n_committed == 0))
        return -1;
    int word_end = live_buffer_frame(b, b->last_end), heard = live_buffer_frame(b, b->heard_end);
    if (h->n_words > 0) {
        if (!leaves_out(b, h, levels, n_levels))
            return -1;
        return b->n_kept > 0 ? b->last_end : b->start;
    }
    if (b->n_kept == 0 || guard_loud_frames(levels, n_levels, heard) < STALL_FRAMES)
        return -1;
    return b->start + GUARD_FRAME * (int64_t)guard_quietest(levels, n_levels,
                                                            word_end < heard ? word_end : heard, heard);
}

static int letters_of(const struct hypothesis *h)
{
    int n = 0;
    for (int i = 0; i < h->n_words; i++)
        n += words_letters(h->words[i].text);
    return n;
}

bool left_out_found(const struct hypothesis *first, const struct hypothesis *second)
{
    return letters_of(second) >= letters_of(first) + MORE_LETTERS;
}
