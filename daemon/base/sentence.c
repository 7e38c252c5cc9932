#include "daemon/base/sentence.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

/* Before a full stop that never ends a sentence: a name follows. */
static const char *const titles[] = {"Mr",  "Mrs",  "Ms",  "Dr",  "Prof", "St",  "Mt",   "Messrs",
                                     "Mme", "Mlle", "Gen", "Col", "Maj",  "Cpt", "Capt", "Lt",
                                     "Sgt", "Rev",  "Hon", "Gov", "Sen",  "Rep", "Pres", "vs",
                                     "Hr",  "Hrn",  "Fr",  "Sr",  "Sra"};

/* Before one that may: what follows decides. */
static const char *const ambiguous[] = {"No",  "Nos", "Nr",   "Jan", "Feb", "Mar", "Apr", "Jun", "Jul",
                                        "Aug", "Sep", "Sept", "Oct", "Nov", "Dec", "Fig", "Vol", "Inc",
                                        "Ltd", "Co",  "Corp", "Jr",  "etc", "bzw", "usw"};

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

/* The length of quotes and brackets at the word's beginning. */
static size_t opening(const char *word, size_t n)
{
    static const char *const marks[] = {"\"",     "'",      "(",      "[",     "\u201C",
                                        "\u2018", "\u201E", "\u00AB", "\u300C"};
    size_t at = 0;
    bool again = true;
    while (again) {
        again = false;
        for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
            size_t m = strlen(marks[i]);
            if (n - at > m && memcmp(word + at, marks[i], m) == 0) {
                at += m;
                again = true;
            }
        }
    }
    return at;
}

static bool is_one_of(const char *word, size_t n, const char *const *list, size_t n_list)
{
    for (size_t i = 0; i < n_list; i++) {
        if (strlen(list[i]) == n && memcmp(list[i], word, n) == 0)
            return true;
    }
    return false;
}

/* word[0..n) is followed by a full stop and, if closed, by quotes; next[0..n_next) comes after them. */
static bool ends_at_stop(const char *word, size_t n, bool closed, const char *next, size_t n_next)
{
    size_t skip = opening(word, n);
    word += skip;
    n -= skip;
    if (is_one_of(word, n, titles, sizeof(titles) / sizeof(titles[0])))
        return false;
    if (n == 1 && isupper((unsigned char)word[0]) && word[0] != 'I') /* an initial */
        return false;
    if (memchr(word, '.', n)) /* "U.S.", "i.e." */
        return false;
    if (closed || !is_one_of(word, n, ambiguous, sizeof(ambiguous) / sizeof(ambiguous[0])))
        return true;
    while (n_next > 0 && *next == ' ') {
        next++;
        n_next--;
    }
    return n_next > 0 && !isdigit((unsigned char)*next) && !islower((unsigned char)*next);
}

static bool sentence_ends(const char *word, size_t n, const char *next, size_t n_next)
{
    static const char *const marks[] = {"?", "!", "\u2026", "\u3002", "\uFF1F", "\uFF01"};
    size_t bare = strip_closing(word, n);
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        if (ends_with(word, bare, marks[i]))
            return true;
    }
    if (!ends_with(word, bare, "."))
        return false;
    if (ends_with(word, bare, "..."))
        return true;
    return ends_at_stop(word, bare - 1, bare < n, next, n_next);
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
        if (i > begin && sentence_ends(text + begin, i - begin, text + i, n - i))
            return i;
    }
    return 0;
}
