#include "decoder/commit.h"

#include <string.h>

#include "daemon/base/utf8.h"

#define REPEAT_MAX 5

/* Letters, digits and whatever lies outside the blocks of punctuation. */
static bool counts(uint32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (c < 0xC0)
        return c == 0xAA || c == 0xB2 || c == 0xB3 || c == 0xB5 || c == 0xB9 || c == 0xBA;
    bool punctuation = c == 0xD7 || c == 0xF7 || (c >= 0x2000 && c <= 0x206F) ||
                       (c >= 0x3000 && c <= 0x3003) || (c >= 0x3008 && c <= 0x301F) || c == 0x30FB ||
                       (c >= 0xFF01 && c <= 0xFF0F) || (c >= 0xFF1A && c <= 0xFF20) ||
                       (c >= 0xFF3B && c <= 0xFF40) || (c >= 0xFF5B && c <= 0xFF65) || c == 0xFFFD;
    return !punctuation;
}

/* Lower case for the scripts whose languages write sentences with capitals. */
static uint32_t lower(uint32_t c)
{
    if ((c >= 'A' && c <= 'Z') || (c >= 0xC0 && c <= 0xDE) || (c >= 0x391 && c <= 0x3A9) ||
        (c >= 0x410 && c <= 0x42F))
        return c + 0x20;
    if (c >= 0x400 && c <= 0x40F)
        return c + 0x50;
    if (c >= 0x100 && c <= 0x137)
        return c | 1;
    return c;
}

static uint32_t next_counted(const char **s)
{
    while (**s) {
        uint32_t c = (unsigned char)**s; /* malformed bytes come one by one */
        int n = utf8_next(*s, strnlen(*s, 4), &c);
        *s += n ? n : 1;
        if (counts(c))
            return lower(c);
    }
    return 0;
}

bool commit_same(const char *a, const char *b)
{
    for (;;) {
        uint32_t x = next_counted(&a), y = next_counted(&b);
        if (x != y)
            return false;
        if (!x)
            return true;
    }
}

bool commit_is_mark(const char *text)
{
    return next_counted(&text) == 0;
}

static int skip_marks(const struct word *words, int n, int i)
{
    while (i < n && commit_is_mark(words[i].text))
        i++;
    return i;
}

/* Words of `now` before the first that `before` does not have at the same place. */
static int agreed(const struct word *before, int n_before, const struct word *now, int n_now)
{
    int i = 0, j = 0, last = 0;
    for (;;) {
        i = skip_marks(now, n_now, i);
        j = skip_marks(before, n_before, j);
        if (i >= n_now || j >= n_before || !commit_same(now[i].text, before[j].text))
            return last;
        last = ++i;
        j++;
    }
}

static int64_t hold_of(const struct commit_rules *r, const struct word *w, bool mark)
{
    int i = 0;
    while (!mark && i + 1 < COMMIT_HOLDS && w->probability < r->holds[i].probability)
        i++;
    return r->holds[i].samples;
}

int commit_count(const struct commit_rules *r, const struct word *before, int n_before,
                 const struct word *now, int n_now, int64_t audio_end)
{
    int n_agreed = agreed(before, n_before, now, n_now);
    int n = 0;
    for (int i = 0; i < n_now; i++) {
        int64_t age = audio_end - now[i].end;
        bool mark = commit_is_mark(now[i].text);
        if (age < hold_of(r, &now[i], mark) || (i >= n_agreed && age < r->certain))
            break;
        if (!mark)
            n = i + 1;
    }
    return n;
}

int commit_repeated(const struct word *said, int n_said, const struct word *now, int n_now, int64_t limit)
{
    for (int n = REPEAT_MAX; n > 0; n--) {
        if (n > n_said || n > n_now || now[n - 1].start >= limit)
            continue;
        int same = 0;
        while (same < n && commit_same(said[n_said - n + same].text, now[same].text))
            same++;
        if (same == n)
            return n;
    }
    return 0;
}
