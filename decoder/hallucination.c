#include "decoder/hallucination.h"

#include <string.h>

#include "daemon/base/sample_rate.h"
#include "decoder/words.h"

/* Of whisper/transcribe.py (word_anomaly_score, is_segment_anomaly). */
#define PROBABILITY_LEAST 0.15f
#define LENGTH_LEAST_S    0.133f
#define LENGTH_MOST_S     2.0f
#define SHORT_WEIGHT      15.0f
#define SCORED_WORDS      8
#define SCORE_MOST        3.0f
#define EDGE              (2 * SAMPLE_RATE) /* a silence reaches to the edge of the window when only this is in between */

#define VOICE_MARGIN          (SAMPLE_RATE / 2)
#define VOICE_PART            10 /* one in ten */
#define IMPROBABLE_VOICE_PART 4  /* one in four */

static float anomaly(const struct word *w)
{
    float length = (float)(w->end - w->start) / SAMPLE_RATE, score = 0.0f;
    if (w->probability < PROBABILITY_LEAST)
        score += 1.0f;
    if (length < LENGTH_LEAST_S)
        score += (LENGTH_LEAST_S - length) * SHORT_WEIGHT;
    if (length > LENGTH_MOST_S)
        score += length - LENGTH_MOST_S;
    return score;
}

static bool is_punctuation(const char *text)
{
    int n = (int)strlen(text);
    char spaced[32];
    if (words_is_closing(text, n))
        return true;
    if (n == 0 || n + 2 > (int)sizeof(spaced))
        return false;
    spaced[0] = ' ';
    memcpy(spaced + 1, text, (size_t)n + 1);
    return words_is_opening(spaced, n + 1);
}

static bool is_anomaly(const struct spoken_segment *s, const struct word *words)
{
    int n = 0;
    float score = 0.0f;
    for (int i = 0; i < s->n_words && n < SCORED_WORDS; i++) {
        const struct word *w = &words[s->first_word + i];
        if (is_punctuation(w->text))
            continue;
        score += anomaly(w);
        n++;
    }
    return s->n_words > 0 && (score >= SCORE_MOST || score + 0.01f >= (float)n);
}

/* The first segment from index i on that has words, or n. */
static int next_with_words(const struct spoken_segment *segments, int i, int n)
{
    while (i < n && segments[i].n_words == 0)
        i++;
    return i;
}

int hallucination_find(const struct silence_search *q, const struct spoken_segment *segments, int n,
                       const struct word *words, int64_t *seek)
{
    int i = next_with_words(segments, 0, n);
    if (i < n && is_anomaly(&segments[i], words) && segments[i].start - q->window > q->threshold) {
        *seek = segments[i].start;
        return 0;
    }
    int64_t last_end = q->last_speech;
    for (; i < n; i = next_with_words(segments, i + 1, n)) {
        const struct spoken_segment *s = &segments[i];
        if (is_anomaly(s, words)) {
            int next = next_with_words(segments, i + 1, n);
            int64_t next_start = next < n ? words[segments[next].first_word].start : q->audio_end;
            bool before =
                s->start - last_end > q->threshold || s->start < q->threshold || s->start - q->window < EDGE;
            bool after = next_start - s->end > q->threshold ||
                         (next < n && is_anomaly(&segments[next], words)) || q->window_end - s->end < EDGE;
            if (before && after) {
                *seek = s->start > q->window + SAMPLE_RATE ? s->start : q->window + SAMPLE_RATE;
                if (q->recording_end - s->end < q->threshold)
                    *seek = q->recording_end;
                return i;
            }
        }
        last_end = s->end;
    }
    return n;
}

bool hallucination_unheard(const struct longform_region *spans, int n, int64_t start, int64_t end, bool timed,
                           const struct quality *q, const struct quality_limits *limits)
{
    bool improbable = q->avg_logprob < limits->avg_logprob;
    if (q->no_speech_prob <= limits->no_speech_prob && !improbable)
        return false;
    if (improbable && timed &&
        IMPROBABLE_VOICE_PART * longform_region_within(spans, n, start, end, 0) < end - start)
        return true;
    return VOICE_PART * longform_region_within(spans, n, start, end, VOICE_MARGIN) < end - start;
}
