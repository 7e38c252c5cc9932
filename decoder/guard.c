#include "decoder/guard.h"

#include <math.h>

#include "daemon/base/sample_rate.h"

#define TOKENS_A_SECOND  22.5
#define TOKENS_MIN       50
#define AUDIBLE_BELOW_DB 40.0f /* quietest speech below the loudest of the same window */
#define QUIET_REACH      2     /* frames on either side */
#define LOUD_BELOW_DB    25.0f
#define AUDIBLE_LEAST_DB (-70.0f)
#define WORD_SAMPLES     SAMPLE_RATE
#define LETTER_SAMPLES   1920 /* 0.12 s: 8 letters a second */

int guard_max_tokens(int64_t n_samples)
{
    int n = (int)((double)n_samples / SAMPLE_RATE * TOKENS_A_SECOND);
    return n < TOKENS_MIN ? TOKENS_MIN : n;
}

bool guard_no_speech(float no_speech_prob, float avg_logprob)
{
    return no_speech_prob > 0.6f && avg_logprob < -1.0f;
}

int guard_levels(const float *pcm, int n_samples, float *levels)
{
    int n = 0;
    for (int at = 0; at < n_samples; at += GUARD_FRAME) {
        int width = n_samples - at < GUARD_FRAME ? n_samples - at : GUARD_FRAME;
        double power = 0.0;
        for (int i = 0; i < width; i++)
            power += (double)pcm[at + i] * pcm[at + i];
        levels[n++] = 10.0f * log10f((float)(power / width) + 1e-12f);
    }
    return n;
}

static float loudest_of(const float *levels, int first, int last)
{
    float loudest = -120.0f;
    for (int i = first; i <= last; i++)
        loudest = levels[i] > loudest ? levels[i] : loudest;
    return loudest;
}

bool guard_inaudible(const float *levels, int n_levels, int first, int last)
{
    float here = loudest_of(levels, first, last < n_levels ? last : n_levels - 1);
    return here < AUDIBLE_LEAST_DB || here < loudest_of(levels, 0, n_levels - 1) - AUDIBLE_BELOW_DB;
}

static float loud_least(const float *levels, int n_levels)
{
    return fmaxf(loudest_of(levels, 0, n_levels - 1) - LOUD_BELOW_DB, AUDIBLE_LEAST_DB);
}

static int count_loud(const float *levels, int n_levels, int first, int end)
{
    float least = loud_least(levels, n_levels);
    int n = 0;
    for (int i = first > 0 ? first : 0; i < end && i < n_levels; i++)
        n += levels[i] >= least;
    return n;
}

int guard_first_loud(const float *levels, int n_levels, int first, int end)
{
    float least = loud_least(levels, n_levels);
    for (int i = first > 0 ? first : 0; i < end && i < n_levels; i++) {
        if (levels[i] >= least)
            return i;
    }
    return first;
}

int guard_loud_frames(const float *levels, int n_levels, int first)
{
    return count_loud(levels, n_levels, first, n_levels);
}

int64_t guard_slowest(int n_letters)
{
    return WORD_SAMPLES + (int64_t)LETTER_SAMPLES * n_letters;
}

bool guard_left_out(const float *levels, int n_levels, int first, int end, int n_letters)
{
    return count_loud(levels, n_levels, first, end) > guard_slowest(n_letters) / GUARD_FRAME;
}

int guard_quietest(const float *levels, int n_levels, int first, int last)
{
    int best = first;
    float least = INFINITY;
    for (int i = first; i <= last && i < n_levels; i++) {
        float loudest = loudest_of(levels, i < QUIET_REACH ? 0 : i - QUIET_REACH,
                                   i + QUIET_REACH < n_levels ? i + QUIET_REACH : n_levels - 1);
        if (loudest <= least) {
            least = loudest;
            best = i;
        }
    }
    return best;
}
