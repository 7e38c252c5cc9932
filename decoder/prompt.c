#include "decoder/prompt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/words.h"

#define PROMPT_BYTES (1 << 16)

/* The tokens of " " and the text without the white space around it, in memory that the caller frees: their number, -E2BIG or
 * -ENOMEM. */
static int encode(const struct tokenizer *t, const char *text, int32_t **tokens, struct err *err)
{
    size_t n = strlen(text);
    words_strip(&text, &n);
    if (n == 0)
        return 0;
    if (n > PROMPT_BYTES) {
        err_set(err, -E2BIG, "a prompt of %zu bytes: at most %d are read", n, PROMPT_BYTES);
        return -E2BIG;
    }
    int r = -ENOMEM;
    char *spaced = NULL;
    *tokens = calloc(n + 1, sizeof(**tokens)); /* a token has a byte at least */
    if (*tokens && asprintf(&spaced, " %.*s", (int)n, text) >= 0) {
        r = tokenizer_encode(t, spaced, n + 1, *tokens, (int)n + 1);
        free(spaced);
    }
    return r < 0 ? err_set(err, -ENOMEM, "no memory for the prompt") : r;
}

static void set_fixed(struct prompt *p, const int32_t *tokens, int n, int most)
{
    int room = most - p->n_fixed, taken = n < room ? n : room;
    memcpy(p->fixed + p->n_fixed, tokens, (size_t)taken * sizeof(*tokens));
    p->n_fixed += taken;
    p->n_cut += n - taken;
}

int prompt_init(struct prompt *p, const struct tokenizer *t, int n_text_ctx, const char *hotwords,
                const char *initial, bool carry, struct err *err)
{
    int32_t *words = NULL, *text = NULL;
    int n_words = hotwords ? encode(t, hotwords, &words, err) : 0;
    int n_text = initial && n_words >= 0 ? encode(t, initial, &text, err) : 0;
    int r = n_words < 0 ? n_words : n_text < 0 ? n_text : 0;
    if (r == 0) {
        *p = (struct prompt){.most = n_text_ctx / 2 - 1};
        /* Half of the room is left to the history. */
        if (words)
            set_fixed(p, words, n_words, p->most / 2);
        if (text && carry)
            set_fixed(p, text, n_text, p->most);
        else if (text)
            prompt_remember(p, text, n_text);
        p->n_cut += text && !carry ? n_text - p->n_history : 0;
    }
    free(words);
    free(text);
    return r;
}

int prompt_tell(const struct tokenizer *t, const char *hotwords, const char *prompt, int32_t *out, int room,
                struct err *err)
{
    const char *const texts[] = {hotwords, prompt};
    int n = 0;
    for (int i = 0; i < 2; i++) {
        int32_t *tokens = NULL;
        int r = texts[i] ? encode(t, texts[i], &tokens, err) : 0;
        if (r > 0 && n + r <= room)
            memcpy(out + n, tokens, (size_t)r * sizeof(*out));
        free(tokens);
        if (r < 0)
            return r;
        n += r;
    }
    if (n > room)
        return err_set(err, -E2BIG,
                       "%d tokens of the model, but only %d fit (in English some %d words): shorten them", n,
                       room, room * 3 / 4);
    return n;
}

void prompt_remember(struct prompt *p, const int32_t *tokens, int n)
{
    int most = p->most - p->n_fixed;
    if (n > most) {
        tokens += n - most;
        n = most;
    }
    int kept = p->n_history + n > most ? most - n : p->n_history;
    memmove(p->history, p->history + p->n_history - kept, (size_t)kept * sizeof(*tokens));
    memcpy(p->history + kept, tokens, (size_t)n * sizeof(*tokens));
    p->n_history = kept + n;
}

void prompt_forget(struct prompt *p)
{
    p->n_history = 0;
}

int prompt_build(const struct prompt *p, int32_t sot_prev, int32_t *out)
{
    if (p->n_fixed + p->n_history == 0)
        return 0;
    out[0] = sot_prev;
    memcpy(out + 1, p->fixed, (size_t)p->n_fixed * sizeof(*out));
    memcpy(out + 1 + p->n_fixed, p->history, (size_t)p->n_history * sizeof(*out));
    return 1 + p->n_fixed + p->n_history;
}
