#include "tests/support/support.h"

#include <string.h>

#include "daemon/base/utf8.h"

/* The first and the last of each length, and what lies beside them: overlong forms, surrogates, beyond the last code point. */
static void code_points_are_read(void **state)
{
    static const struct {
        const char *text;
        int bytes;
        uint32_t code;
    } cases[] = {
        {"a", 1, 'a'},
        {"\x7Fx", 1, 0x7F},
        {"\xC2\x80x", 2, 0x80},
        {"\xDF\xBF", 2, 0x7FF},
        {"\xE0\xA0\x80", 3, 0x800},
        {"\xED\x9F\xBF", 3, 0xD7FF},
        {"\xEF\xBF\xBF", 3, 0xFFFF},
        {"\xF0\x90\x80\x80", 4, 0x10000},
        {"\xF4\x8F\xBF\xBF", 4, 0x10FFFF},
        {"\x80", 0, 0},
        {"\xC1\x81", 0, 0},
        {"\xE0\x9F\xBF", 0, 0},
        {"\xED\xA0\x80", 0, 0},
        {"\xF0\x8F\xBF\xBF", 0, 0},
        {"\xF4\x90\x80\x80", 0, 0},
        {"\xC2", 0, 0},
        {"\xC2x", 0, 0},
        {"\xE2\x82", 0, 0},
        {"\xF0\x9F\x98", 0, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t code = 0;
        int bytes = utf8_next(cases[i].text, strlen(cases[i].text), &code);
        if (bytes != cases[i].bytes || code != cases[i].code)
            fail_msg("case %zu: %d bytes, U+%04X", i, bytes, (unsigned)code);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(code_points_are_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
