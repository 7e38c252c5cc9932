#include "decoder/unicode_class.h"

#include <stdbool.h>

struct unicode_range {
    uint32_t first, last;
    enum unicode_class kind;
};

#include "decoder/unicode_table.h"

static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

enum unicode_class unicode_classify(uint32_t c)
{
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')
        return UNICODE_LETTER;
    if (is_space(c))
        return UNICODE_SPACE;
    int low = 0, high = (int)(sizeof(ranges) / sizeof(ranges[0]));
    while (low < high) {
        int middle = (low + high) / 2;
        if (ranges[middle].last < c)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < (int)(sizeof(ranges) / sizeof(ranges[0])) && ranges[low].first <= c)
        return ranges[low].kind;
    return UNICODE_OTHER;
}
