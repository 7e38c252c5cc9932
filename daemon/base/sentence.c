#include "daemon/base/sentence.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#define SHORT_WORD 5 /* bytes, full stop included: "Mrs.", "U.S.", "Prof" is longer */

static bool ends_with(const char *word, size_t n, const char *suffix)
{
    size_t m = strlen(suffix);
    return n >= m && memcmp(word + n - m, suffix, m) == 0;
}

/* The word's length without quotes and brackets at its end. */
static size_t strip_closing(const char *word, size_t n)
{
    static const char *const closing[] = {"\"", "'", ")", "]", "\u201D", "\u2019", "\u00BB", "\u300D"};
    bool again = true;
    while (again) {
        again = false;
        for (size_t i = 0; i < sizeof(closing) / sizeof(closing[0]); i++) {
            if (n > strlen(closing[i]) && ends_with(word, n, closing[i])) {
                n -= strlen(closing[i]);
                again = true;
            }
        }
    }
    return n;
}

static bool closes_sentence(const char *word, size_t n)
{
    static const char *const marks[] = {"?", "!", "\u2026", "\u3002", "\uFF1F", "\uFF01"};
    n = strip_closing(word, n);
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        if (ends_with(word, n, marks[i]))
            return true;
    }
    if (!ends_with(word, n, "."))
        return false;
    if (ends_with(word, n, "..."))
        return true;
    bool capitalised = n <= SHORT_WORD && isupper((unsigned char)word[0]);
    return !capitalised && !memchr(word, '.', n - 1);
}

size_t sentence_length(const char *text, size_t n)
{
    size_t i = 0;
    while (i < n) {
        while (i < n && text[i] == ' ')
            i++;
        size_t begin = i;
        while (i < n && text[i] != ' ')
            i++;
        if (i > begin && closes_sentence(text + begin, i - begin))
            return i;
    }
    return 0;
}
