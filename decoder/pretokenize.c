#include "decoder/pretokenize.h"

#include <string.h>

#include "daemon/base/utf8.h"
#include "decoder/unicode_class.h"

/* The class of the character at s[0], and its bytes. n > 0. */
static enum unicode_class class_at(const char *s, size_t n, size_t *bytes)
{
    uint32_t code;
    int length = utf8_next(s, n, &code);
    *bytes = length ? (size_t)length : 1;
    return length ? unicode_classify(code) : UNICODE_OTHER;
}

static size_t contraction(const char *s, size_t n)
{
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        size_t length = strlen(endings[i]);
        if (length <= n && memcmp(s, endings[i], length) == 0)
            return length;
    }
    return 0;
}

/* White space before a word leaves its last character to the word; at the end of the text it is taken whole. */
static size_t space_run(const char *s, size_t n)
{
    size_t end = 0, last = 0, bytes;
    while (end < n && class_at(s + end, n - end, &bytes) == UNICODE_SPACE) {
        last = end;
        end += bytes;
    }
    return end < n && last > 0 ? last : end;
}

size_t pretokenize_next(const char *text, size_t n)
{
    size_t length = contraction(text, n);
    if (length)
        return length;
    size_t bytes;
    size_t at = text[0] == ' ' && n > 1 ? 1 : 0;
    enum unicode_class kind = class_at(text + at, n - at, &bytes);
    if (kind == UNICODE_SPACE)
        return space_run(text, n);
    do
        at += bytes;
    while (at < n && class_at(text + at, n - at, &bytes) == kind);
    return at;
}
