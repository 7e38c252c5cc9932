#include "decoder/loop.h"

#include "daemon/base/run.h"

#define TIMES      4
#define TOKENS     16
#define CUT_TOKENS 64

/* Text tokens first … end − 1 repeat what stands period tokens before them. */
struct repetition {
    int first, end;
};

struct text {
    int32_t tokens[RUN_TOKENS_MAX];
    int at[RUN_TOKENS_MAX]; /* where they come from */
    int n;
};

static void take_text(struct text *t, const int32_t *tokens, int n, int32_t eot)
{
    t->n = 0;
    for (int i = 0; i < n; i++) {
        if (tokens[i] >= eot)
            continue;
        t->at[t->n] = i;
        t->tokens[t->n++] = tokens[i];
    }
}

/* The first loop of at least `least` tokens, the one with the shortest period. */
static bool find(const struct text *t, int least, struct repetition *out)
{
    for (int p = 1; p * TIMES <= t->n; p++) {
        int same = 0;
        for (int i = p; i <= t->n; i++) {
            if (i < t->n && t->tokens[i] == t->tokens[i - p]) {
                same++;
                continue;
            }
            if (same >= p * (TIMES - 1) && same + p >= least) {
                *out = (struct repetition){i - same, i};
                return true;
            }
            same = 0;
        }
    }
    return false;
}

bool loop_present(const int32_t *tokens, int n, int32_t eot)
{
    struct text text;
    struct repetition repetition;
    take_text(&text, tokens, n, eot);
    return find(&text, TOKENS, &repetition);
}

int loop_cut(int32_t *tokens, float *logprobs, int n, int32_t eot)
{
    struct text text;
    struct repetition repetition;
    for (;;) {
        take_text(&text, tokens, n, eot);
        if (!find(&text, CUT_TOKENS, &repetition))
            return n;
        int kept = 0, first = text.at[repetition.first], last = text.at[repetition.end - 1];
        for (int i = 0; i < n; i++) {
            if (i >= first && i <= last && tokens[i] < eot)
                continue;
            tokens[kept] = tokens[i];
            logprobs[kept++] = logprobs[i];
        }
        n = kept;
    }
}

/* Tokens at the end that repeat the p before them. */
static int repeated(const int32_t *tokens, int n, int p)
{
    int same = 0;
    while (same + p < n && tokens[n - 1 - same] == tokens[n - 1 - same - p])
        same++;
    return same;
}

int loop_cut_end(const int32_t *tokens, int n)
{
    for (int p = 1; p * TIMES <= n; p++) {
        int same = repeated(tokens, n, p);
        if (same >= p * (TIMES - 1) && same + p >= TOKENS)
            return n - same;
    }
    return n;
}
