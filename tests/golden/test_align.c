/* Alignment and words against openai-whisper: tests/golden/align.txt, written by tools/golden/align.py.
 *
 * First frames must be equal, not close: both sides compute the same path in f32, and the standardised weights differ by
 * rounding only, which moves no path at these seeds. */
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/align.h"
#include "decoder/words.h"

#define LINE_BYTES 16384
#define ROWS_MAX   128
#define FRAMES_MAX 1500
#define TOKENS_MAX 256
#define VOCAB      51865
#define FIRST_ID   1000

static char vocabulary[TOKENS_MAX][16]; /* of the line under test */
static size_t lengths[TOKENS_MAX];
static int n_tokens;

static struct test_rng draw; /* splitmix64 from the line's seed, not from the run's */

static float fraction(void)
{
    return (float)(test_rng_next(&draw) >> 40) * 0x1p-24f;
}

/* Reads the numbers behind the colon. */
static int numbers(const char *line, int *out, int max)
{
    int n = 0;
    char *at = strchr(line, ':');
    assert_non_null(at);
    for (at++; n < max; n++) {
        char *end;
        long value = strtol(at, &end, 10);
        if (end == at)
            break;
        out[n] = (int)value;
        at = end;
    }
    return n;
}

static void expect_first(const char *line, const int *first, int n)
{
    int want[ROWS_MAX];
    assert_int_equal(numbers(line, want, ROWS_MAX), n);
    for (int i = 0; i < n; i++) {
        if (first[i] != want[i])
            fail_msg("row %d begins at %d, not %d: %.60s", i, first[i], want[i], line);
    }
}

static void check_path(struct aligner *a, const char *line)
{
    unsigned long seed;
    int n, m, coarse, first[ROWS_MAX];
    assert_int_equal(sscanf(line, "path %lu %d %d %d", &seed, &n, &m, &coarse), 4);
    draw.state = seed;
    float *cost = malloc((size_t)n * (size_t)m * sizeof(float));
    for (int i = 0; i < n * m; i++)
        cost[i] = coarse ? (float)(test_rng_next(&draw) >> 62) * 0.25f : fraction() - 0.5f;
    align_path(a, cost, n, m, first);
    expect_first(line, first, n);
    free(cost);
}

static void check_rows(struct aligner *a, const char *line)
{
    unsigned long seed;
    int n, heads, frames, first[ROWS_MAX];
    assert_int_equal(sscanf(line, "rows %lu %d %d %d", &seed, &n, &heads, &frames), 4);
    draw.state = seed;
    /* Rows are longer than the frames that count; what lies behind must not matter. */
    int stride = frames + 7;
    float *weights = malloc((size_t)n * (size_t)heads * (size_t)stride * sizeof(float));
    for (int i = 0; i < n; i++) {
        for (int h = 0; h < heads; h++) {
            float *row = weights + ((size_t)i * (size_t)heads + (size_t)h) * (size_t)stride;
            for (int f = 0; f < stride; f++)
                row[f] =
                    f < frames ? fraction() + (abs(f * n - i * frames) < 2 * frames ? 2.0f : 0.0f) : 1e9f;
        }
    }
    align_rows(a, weights, n, heads, stride, frames, first);
    expect_first(line, first, n);
    free(weights);
}

static const char *token_bytes(const void *ctx, int32_t id, size_t *n_bytes)
{
    static char byte;
    if (id < 256) {
        byte = (char)id;
        *n_bytes = 1;
        return &byte;
    }
    if (id < FIRST_ID || id >= FIRST_ID + n_tokens)
        return NULL;
    *n_bytes = lengths[id - FIRST_ID];
    return vocabulary[id - FIRST_ID];
}

static void read_tokens(char *line)
{
    n_tokens = 0;
    char *save = NULL;
    for (char *hex = strtok_r(line, " ", &save); hex && hex[0] != ':'; hex = strtok_r(NULL, " ", &save)) {
        assert_in_range(n_tokens, 0, TOKENS_MAX - 1);
        size_t n = strlen(hex) / 2;
        assert_in_range(n, 1, sizeof(vocabulary[0]));
        for (size_t i = 0; i < n; i++) {
            unsigned byte;
            assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
            vocabulary[n_tokens][i] = (char)byte;
        }
        lengths[n_tokens++] = n;
    }
}

static void check_words(const char *line)
{
    char copy[LINE_BYTES], arena[LINE_BYTES];
    int want[TOKENS_MAX], spaced, used, n_want = numbers(line, want, TOKENS_MAX);
    assert_int_equal(sscanf(line, "words %d", &spaced), 1);
    strcpy(copy, line);
    read_tokens(copy + strlen("words 0 "));
    struct tokenizer *t = NULL;
    struct err err;
    assert_int_equal(tokenizer_create(VOCAB, token_bytes, NULL, &t, &err), 0);
    int32_t tokens[TOKENS_MAX];
    for (int i = 0; i < n_tokens; i++)
        tokens[i] = FIRST_ID + i;
    struct word_span spans[TOKENS_MAX];
    int n = words_split(t, tokens, n_tokens, spaced, spans, arena, sizeof(arena), &used);
    n = words_join_opening(arena, spans, n);
    assert_int_equal(used, n_tokens);
    int at = 0, text = 0;
    for (int i = 0; i < n; i++) {
        if (i >= n_want || spans[i].n_tokens != want[i])
            fail_msg("word %d \"%.*s\" has %d tokens: %s", i, spans[i].n_text, arena + spans[i].text,
                     spans[i].n_tokens, line);
        assert_int_equal(spans[i].first_token, at);
        assert_int_equal(spans[i].text, text);
        at += spans[i].n_tokens;
        text += spans[i].n_text;
    }
    assert_int_equal(n, n_want);
    tokenizer_destroy(t);
}

static void openai_whisper_agrees(void **state)
{
    FILE *f = fopen("tests/golden/align.txt", "r");
    if (!f)
        fail_msg("tests/golden/align.txt is missing; run from the root of the repository");
    struct aligner *a = NULL;
    struct err err;
    assert_int_equal(aligner_create(ROWS_MAX, FRAMES_MAX, &a, &err), 0);
    char line[LINE_BYTES];
    int n[3] = {0};
    while (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "path ", 5) == 0) {
            check_path(a, line);
            n[0]++;
        } else if (strncmp(line, "rows ", 5) == 0) {
            check_rows(a, line);
            n[1]++;
        } else {
            check_words(line);
            n[2]++;
        }
    }
    assert_true(n[0] >= 10 && n[1] >= 7 && n[2] >= 50);
    aligner_destroy(a);
    fclose(f);
}

/* A model whose numbers have overflowed: whatever the costs are, the path stays within them and does not go back. */
static void costs_may_be_no_numbers(void **state)
{
    enum { N = 5, M = 20 };
    const float costs[] = {NAN, INFINITY, -INFINITY};
    struct aligner *a = NULL;
    struct err err;
    assert_int_equal(aligner_create(ROWS_MAX, FRAMES_MAX, &a, &err), 0);
    for (int kind = 0; kind < 6; kind++) {
        float cost[N * M];
        int first[N];
        for (int i = 0; i < N * M; i++)
            cost[i] = kind < 3 || i % 3 == 0 ? costs[kind % 3] : 0.5f;
        align_path(a, cost, N, M, first);
        for (int i = 0; i < N; i++) {
            assert_in_range(first[i], 0, M - 1);
            assert_true(i == 0 || first[i] >= first[i - 1]);
        }
    }
    aligner_destroy(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(openai_whisper_agrees),
                                       cmocka_unit_test(costs_may_be_no_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
