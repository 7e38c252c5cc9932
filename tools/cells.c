#include "tools/cells.h"

#include <locale.h>
#include <stdlib.h>
#include <wchar.h>

void cells_init(void)
{
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8");
}

/* The code point at *s, of UTF-8 that may be damaged (names of files are); *s goes on to the next one. */
static wchar_t next_char(const char **s)
{
    const unsigned char *c = (const unsigned char *)*s;
    int n = *c < 0x80 ? 1 : *c < 0xe0 ? 2 : *c < 0xf0 ? 3 : 4;
    wchar_t value = n == 1 ? *c : *c & (0xff >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((c[i] & 0xc0) != 0x80) {
            n = i;
            break;
        }
        value = (value << 6) | (c[i] & 0x3f);
    }
    *s += n;
    return value;
}

static int cells_of(wchar_t c)
{
    int w = wcwidth(c);
    return w < 0 ? 0 : w;
}

int cells_text(const char *s)
{
    int cells = 0;
    while (*s)
        cells += cells_of(next_char(&s));
    return cells;
}

const char *cells_line_end(const char *s, int columns)
{
    const char *can_end = NULL, *begin = s;
    int cells = 0, before = 0;
    while (*s) {
        const char *at = s;
        wchar_t c = next_char(&s);
        int w = cells_of(c);
        if (c == ' ' || (at > begin && w == 2) || (before == 2 && w > 0))
            can_end = at;
        if (cells + w > columns)
            return c == ' ' ? at : can_end ? can_end : at > begin ? at : s;
        cells += w;
        before = w ? w : before;
    }
    return s;
}

int cells_put(FILE *f, const char *s, int max)
{
    if (cells_text(s) <= max) {
        fputs(s, f);
        return cells_text(s);
    }
    int cells = 0;
    while (max > 0 && *s) {
        const char *at = s;
        int w = cells_of(next_char(&s));
        if (cells + w > max - 1)
            break;
        fwrite(at, 1, (size_t)(s - at), f);
        cells += w;
    }
    if (max > 0)
        fputs("…", f);
    return max > 0 ? cells + 1 : 0;
}
