#include "decoder/live_buffer.h"

#include <string.h>

#include "daemon/base/sample_rate.h"
#include "decoder/commit.h"
#include "decoder/guard.h"
#include "decoder/live.h"

#define HISTORY_CHARS  200 /* of earlier text in a prompt */
#define JOIN           (LIVE_JOIN_MS * (SAMPLE_RATE / 1000))
#define COMMITTED_MANY 160 /* committed tokens in a buffer that are trimmed like a long one */

static void remember(struct live_buffer *b, const char *text)
{
    if (commit_is_mark(text))
        return;
    if (b->n_said == LIVE_SAID)
        memmove(b->said[0], b->said[1], sizeof(b->said) - sizeof(b->said[0]));
    else
        b->n_said++;
    char *said = b->said[b->n_said - 1];
    strncpy(said, text, LIVE_SAID_BYTES - 1);
    said[LIVE_SAID_BYTES - 1] = '\0';
}

/* Moves the first n kept words to the history: their audio leaves the buffer. */
static void forget_words(struct live_buffer *b, int n)
{
    int n_tokens = 0;
    for (int i = 0; i < n; i++)
        n_tokens += b->kept[i].n_tokens;
    int excess = b->n_history + n_tokens - LIVE_HISTORY;
    if (excess > 0) {
        int drop = excess < b->n_history ? excess : b->n_history;
        memmove(b->history, b->history + drop, (size_t)(b->n_history - drop) * sizeof(int32_t));
        b->n_history -= drop;
    }
    for (int i = 0; i < n_tokens && b->n_history < LIVE_HISTORY; i++)
        b->history[b->n_history++] = b->committed[i];
    b->n_committed -= n_tokens;
    b->n_kept -= n;
    memmove(b->committed, b->committed + n_tokens, (size_t)b->n_committed * sizeof(int32_t));
    memmove(b->kept, b->kept + n, (size_t)b->n_kept * sizeof(b->kept[0]));
}

static bool closes_sentence(const char *text)
{
    static const char *const ends[] = {".", "?", "!", "。", "？", "！"};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        if (strstr(text, ends[i]))
            return true;
    }
    return false;
}

void live_buffer_forget(struct live_buffer *b)
{
    b->n_history = 0;
    b->n_said = 0;
}

int live_buffer_frame(const struct live_buffer *b, int64_t at)
{
    return (int)((at - b->start) / GUARD_FRAME);
}

void live_buffer_restart(struct live_buffer *b, int64_t start, bool reset)
{
    forget_words(b, b->n_kept);
    if (reset)
        live_buffer_forget(b);
    b->start = b->end = b->last_end = b->heard_end = b->doubted_end = start;
    b->cut = b->stamped = false;
}

bool live_buffer_joins(const struct live_buffer *b, int64_t start, int64_t oldest)
{
    return b->n_kept > 0 && b->n_committed <= COMMITTED_MANY && oldest <= b->start && start - b->end <= JOIN;
}

void live_buffer_add(struct live_buffer *b, const char *text, const int32_t *tokens, int n_tokens,
                     int64_t end)
{
    if (b->n_committed + n_tokens > HYPOTHESIS_TOKENS)
        forget_words(b, b->n_kept);
    remember(b, text);
    memcpy(b->committed + b->n_committed, tokens, (size_t)n_tokens * sizeof(int32_t));
    b->n_committed += n_tokens;
    b->kept[b->n_kept++] = (struct live_word){n_tokens, end, closes_sentence(text), commit_is_mark(text)};
    b->stamped = false;
}

void live_buffer_cut(struct live_buffer *b, int64_t at, int n)
{
    forget_words(b, n);
    b->start = at;
    b->last_end = b->last_end > at ? b->last_end : at;
    b->heard_end = b->heard_end > at ? b->heard_end : at;
    b->cut = b->n_kept == 0;
}

void live_buffer_refine(struct live_buffer *b, const int64_t *ends)
{
    int token = 0;
    for (int i = 0; i < b->n_kept; i++) {
        token += b->kept[i].n_tokens;
        b->kept[i].end = ends[token - 1];
    }
}

void live_buffer_trim(struct live_buffer *b, int64_t limit)
{
    if (b->end - b->start <= limit && b->n_committed <= COMMITTED_MANY)
        return;
    int sentence = 0, half = 0;
    for (int i = 0; i + 1 < b->n_kept; i++) {
        if (b->kept[i].closes && b->end - b->kept[i].end >= limit / 3)
            sentence = i + 1;
        if (b->end - b->kept[i].end >= limit / 2)
            half = i + 1;
    }
    int n = sentence > 0 && b->end - b->kept[sentence - 1].end <= limit * 3 / 4 ? sentence
            : half > 0                                                          ? half
                                                                                : b->n_kept;
    if (n == 0)
        return;
    int64_t at = b->kept[n - 1].end;
    while (n < b->n_kept && b->kept[n].mark)
        n++;
    live_buffer_cut(b, at, n);
}

int live_buffer_history(const struct live_buffer *b, const struct tokenizer *t, bool spaced)
{
    int chars = 0, first = b->n_history;
    for (int i = b->n_history - 1; i >= 0 && b->n_history - i <= LIVE_PROMPT; i--) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, b->history[i], &n);
        for (size_t k = 0; k < n; k++)
            chars += ((unsigned char)bytes[k] & 0xC0) != 0x80;
        if (chars > HISTORY_CHARS)
            break;
        if (n > 0 && (bytes[0] == ' ' || (!spaced && ((unsigned char)bytes[0] & 0xC0) != 0x80)))
            first = i;
    }
    return first;
}
