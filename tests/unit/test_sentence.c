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
        {" the (U.S.) Senate", " the (U.S.) Senate"},
        {" about 3.5 percent. So", " about 3.5 percent.| So"},
        {" She said \"no.\" Then (he left.) And", " She said \"no.\"| Then (he left.)| And"},
        {" Wait... what", " Wait...| what"},
        {" そうです。 はい", " そうです。| はい"},
        {" wirklich\u2026 ja", " wirklich\u2026| ja"},
        {" Yes. No. One. Two. I do. So do I. He", " Yes.| No.| One.| Two.| I do.| So do I.| He"},
        {" It is No. 5 of", " It is No. 5 of"},
        {" It is No.", " It is No."},
        {" He said no.", " He said no.|"},
        {" Apple Inc. announced it on Jan. 5. Then etc. Yes",
         " Apple Inc. announced it on Jan. 5.| Then etc.| Yes"},
        {" (Mr. J. Smith) and \u201CDr. No.\u201D Then", " (Mr. J. Smith) and \u201CDr. No.\u201D| Then"},
        {" J. K. Rowling. Été. Ja.", " J. K. Rowling.| Été.| Ja.|"},
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
