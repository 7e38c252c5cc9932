#include "tests/support/support.h"

#include <string.h>

#include "daemon/base/sentence.h"

/* Each case is cut into its sentences, marked by |. */
static void finds_ends(void **state)
{
    static const struct {
        const char *text, *cut;
    } cases[] = {
        {"", ""},
        {" Hello", " Hello"},
        {" Hello there. How are you? Fine!", " Hello there.| How are you?| Fine!|"},
        {" Mr. Quilter met Mrs. Smith. They left", " Mr. Quilter met Mrs. Smith.| They left"},
        {" in the U.S. Senate, i.e. here. Yes", " in the U.S. Senate, i.e. here.| Yes"},
        {" about 3.5 percent. So", " about 3.5 percent.| So"},
        {" She said \"no.\" Then (he left.) And", " She said \"no.\"| Then (he left.)| And"},
        {" Wait... what", " Wait...| what"},
        {" そうです。 はい", " そうです。| はい"},
        {" wirklich\u2026 ja", " wirklich\u2026| ja"},
        {" .", " .|"},
        {" \"", " \""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char cut[256] = "";
        const char *text = cases[i].text;
        for (size_t n; (n = sentence_length(text, strlen(text))) > 0; text += n) {
            char piece[256];
            snprintf(piece, sizeof(piece), "%.*s|", (int)n, text);
            test_append(cut, sizeof(cut), piece);
        }
        test_append(cut, sizeof(cut), text);
        assert_string_equal(cut, cases[i].cut);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
