#include "daemon/base/utf8.h"

#include <string.h>

/* Length of the valid sequence at s (1 to 4); 0 if there is none; -k if the k bytes up to the end are the
 * beginning of a valid sequence. */
static int sequence_length(const unsigned char *s, size_t n)
{
    if (s[0] < 0x80)
        return 1;
    int len = s[0] >= 0xC2 && s[0] <= 0xDF   ? 2
              : (s[0] & 0xF0) == 0xE0        ? 3
              : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4
                                             : 0;
    if (!len)
        return 0;
    for (int i = 1; i < len; i++) {
        if ((size_t)i == n)
            return -i;
        unsigned char lo = 0x80, hi = 0xBF;
        if (i == 1) {
            if (s[0] == 0xE0)
                lo = 0xA0;
            else if (s[0] == 0xED)
                hi = 0x9F;
            else if (s[0] == 0xF0)
                lo = 0x90;
            else if (s[0] == 0xF4)
                hi = 0x8F;
        }
        if (s[i] < lo || s[i] > hi)
            return 0;
    }
    return len;
}

size_t utf8_valid_prefix(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        int len = sequence_length((const unsigned char *)s + i, n - i);
        if (len <= 0)
            break;
        i += (size_t)len;
    }
    return i;
}

size_t utf8_complete_prefix(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        if (sequence_length((const unsigned char *)s + n - back, back) == -(int)back)
            return n - back;
    }
    return n;
}

int utf8_next(const char *s, size_t n, uint32_t *code)
{
    const unsigned char *u = (const unsigned char *)s;
    int len = sequence_length(u, n);
    if (len <= 0)
        return 0;
    *code = len == 1 ? u[0] : u[0] & (0xFFu >> (len + 1));
    for (int i = 1; i < len; i++)
        *code = *code << 6 | (u[i] & 0x3F);
    return len;
}

size_t utf8_sanitize(const char *s, size_t n, char *out)
{
    size_t o = 0;
    for (size_t i = 0; i < n;) {
        int len = sequence_length((const unsigned char *)s + i, n - i);
        if (len > 0) {
            memcpy(out + o, s + i, (size_t)len);
            o += (size_t)len;
            i += (size_t)len;
        } else {
            memcpy(out + o, "\xEF\xBF\xBD", 3);
            o += 3;
            i++;
        }
    }
    out[o] = '\0';
    return o;
}

void utf8_make_printable(char *s)
{
    for (size_t n = strlen(s); n > 0;) {
        const unsigned char *c = (const unsigned char *)s;
        int len = sequence_length(c, n);
        size_t taken = len > 0 ? (size_t)len : 1;
        if (len <= 0 || c[0] < 0x20 || c[0] == 0x7F || (c[0] == 0xC2 && c[1] < 0xA0))
            memset(s, '?', taken);
        s += taken;
        n -= taken;
    }
}
