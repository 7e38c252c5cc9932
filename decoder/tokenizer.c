#include "decoder/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decoder/bpe.h"
#include "decoder/language.h"
#include "decoder/pretokenize.h"

#define N_TIMESTAMPS 1501 /* <|0.00|> to <|30.00|> */

struct tokenizer {
    struct special_tokens special;
    int n_vocab;
    char *bytes;       /* of all text tokens, one after the other */
    uint32_t *offsets; /* [eot + 1] */
    struct bpe bpe;
    int32_t suppressed[TOKENIZER_SUPPRESSED_MAX],
        suppressed_first[TOKENIZER_SUPPRESSED_MAX]; /* the model's own */
    int n_suppressed, n_suppressed_first;           /* 0: OpenAI's */
};

/* After the text tokens come, one by one: end of text, start of transcript, the languages, translate, transcribe, start
 * of language model, start of previous text, no speech, no timestamps, the timestamps. The English vocabulary has
 * the 99 language tokens too, though its models never see them. */
static int special_from_size(int n_vocab, struct special_tokens *s)
{
    if (n_vocab < 51864 || n_vocab > 51866)
        return -EINVAL;
    int n_language_tokens = n_vocab == 51866 ? 100 : 99;
    *s = (struct special_tokens){.timestamp_begin = n_vocab - N_TIMESTAMPS};
    s->no_timestamps = s->timestamp_begin - 1;
    s->no_speech = s->timestamp_begin - 2;
    s->sot_prev = s->timestamp_begin - 3;
    s->sot_lm = s->timestamp_begin - 4;
    s->transcribe = s->timestamp_begin - 5;
    s->translate = s->timestamp_begin - 6;
    s->first_language = s->translate - n_language_tokens;
    s->sot = s->first_language - 1;
    s->eot = s->sot - 1;
    s->multilingual = n_vocab > 51864;
    s->n_languages = s->multilingual ? n_language_tokens : 1;
    return 0;
}

static int copy_vocabulary(struct tokenizer *t, token_bytes_fn token_bytes, const void *ctx)
{
    int n_tokens = t->special.eot;
    size_t total = 0, n;
    for (int32_t id = 0; id < n_tokens; id++)
        total += token_bytes(ctx, id, &n) ? n : 0;
    if (total > UINT32_MAX)
        return -EINVAL;
    t->bytes = malloc(total + 1);
    t->offsets = malloc(((size_t)n_tokens + 1) * sizeof(*t->offsets));
    if (!t->bytes || !t->offsets)
        return -ENOMEM;
    uint32_t at = 0;
    for (int32_t id = 0; id < n_tokens; id++) {
        const char *bytes = token_bytes(ctx, id, &n);
        t->offsets[id] = at;
        if (bytes) {
            memcpy(t->bytes + at, bytes, n);
            at += (uint32_t)n;
        }
    }
    t->offsets[n_tokens] = at;
    return bpe_init(&t->bpe, t->bytes, t->offsets, n_tokens);
}

int tokenizer_create(int n_vocab, token_bytes_fn token_bytes, const void *ctx, struct tokenizer **out,
                     struct err *err)
{
    struct tokenizer *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(err, -ENOMEM, "no memory for the tokenizer");
    t->n_vocab = n_vocab;
    int r = special_from_size(n_vocab, &t->special);
    if (r < 0) {
        err_set(err, r, "a vocabulary of %d tokens is no Whisper's (51864, 51865 or 51866)", n_vocab);
        goto fail;
    }
    r = copy_vocabulary(t, token_bytes, ctx);
    if (r < 0) {
        err_set(err, r, r == -ENOMEM ? "no memory for the vocabulary" : "the vocabulary is too large");
        goto fail;
    }
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        if (bpe_find(&t->bpe, &c, 1) < 0) {
            r = err_set(err, -EINVAL, "the vocabulary has no token for byte 0x%02x", byte);
            goto fail;
        }
    }
    *out = t;
    return 0;
fail:
    tokenizer_destroy(t);
    return r;
}

void tokenizer_destroy(struct tokenizer *t)
{
    if (!t)
        return;
    bpe_finish(&t->bpe);
    free(t->offsets);
    free(t->bytes);
    free(t);
}

const struct special_tokens *tokenizer_special(const struct tokenizer *t)
{
    return &t->special;
}

int tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->n_vocab;
}

int32_t tokenizer_language_token(const struct tokenizer *t, const char *code)
{
    int index = language_index(code);
    return index >= 0 && index < t->special.n_languages ? t->special.first_language + index : -1;
}

const char *tokenizer_token_language(const struct tokenizer *t, int32_t token)
{
    int index = token - t->special.first_language;
    return index >= 0 && index < t->special.n_languages ? language_code(index) : NULL;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t token, size_t *n_bytes)
{
    if (token < 0 || token >= t->special.eot) {
        *n_bytes = 0;
        return "";
    }
    *n_bytes = t->offsets[token + 1] - t->offsets[token];
    return t->bytes + t->offsets[token];
}

size_t tokenizer_decode(const struct tokenizer *t, const int32_t *tokens, int n, char *out, size_t capacity)
{
    size_t length = 0;
    for (int i = 0; i < n; i++) {
        size_t n_bytes;
        const char *bytes = tokenizer_bytes(t, tokens[i], &n_bytes);
        if (length < capacity)
            memcpy(out + length, bytes, n_bytes < capacity - length ? n_bytes : capacity - length);
        length += n_bytes;
    }
    if (capacity > 0)
        out[length < capacity ? length : capacity - 1] = '\0';
    return length;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n_bytes, int32_t *tokens,
                     int capacity)
{
    int count = 0;
    for (size_t at = 0; at < n_bytes;) {
        size_t length = pretokenize_next(text + at, n_bytes - at);
        int room = count < capacity ? capacity - count : 0;
        int n = bpe_encode(&t->bpe, text + at, length, room ? tokens + count : NULL, room);
        if (n < 0)
            return n;
        count += n;
        at += length;
    }
    return count;
}

/* A set of tokens in an array of limited size. */
struct token_set {
    int32_t *tokens;
    int n, capacity;
};

static void add(struct token_set *set, int32_t token)
{
    for (int i = 0; i < set->n; i++) {
        if (set->tokens[i] == token)
            return;
    }
    if (set->n < set->capacity)
        set->tokens[set->n++] = token;
}

/* Adds what `symbol` is as a single token, alone and after a space. A musical note may be several tokens; then the
 * first one is added: it stands for no other symbol that is spoken. */
static void add_symbol(const struct tokenizer *t, struct token_set *set, const char *symbol, bool is_note)
{
    char text[16] = " ";
    int32_t tokens[16];
    strncat(text, symbol, sizeof(text) - 2);
    for (const char *form = text; form <= text + 1; form++) {
        int n = tokenizer_encode(t, form, strlen(form), tokens, 16);
        if (n == 1 || (is_note && n > 0))
            add(set, tokens[0]);
    }
}

void tokenizer_set_suppressed(struct tokenizer *t, const int32_t *tokens, int n, const int32_t *first,
                              int n_first)
{
    t->n_suppressed = n < TOKENIZER_SUPPRESSED_MAX ? n : TOKENIZER_SUPPRESSED_MAX;
    memcpy(t->suppressed, tokens, (size_t)t->n_suppressed * sizeof(*tokens));
    t->n_suppressed_first = n_first < TOKENIZER_SUPPRESSED_MAX ? n_first : TOKENIZER_SUPPRESSED_MAX;
    memcpy(t->suppressed_first, first, (size_t)t->n_suppressed_first * sizeof(*first));
}

/* The symbols of non_speech_tokens in OpenAI's whisper/tokenizer.py: what marks speakers, sounds, music and mark-up. A
 * hyphen or an apostrophe is kept within words but not before one. */
static void add_symbols(const struct tokenizer *t, struct token_set *set)
{
    static const char *const symbols[] = {
        "\"",  "#",  "(",  ")",  "*",   "+",  "/",  ":",   ";",   "<",  "=",  ">",  "@",  "[",   "\\",  "]",
        "^",   "_",  "`",  "{",  "|",   "}",  "~",  "「",  "」",  "『", "』", "<<", ">>", "<<<", ">>>", "--",
        "---", "-(", "-[", "('", "(\"", "((", "))", "(((", ")))", "[[", "]]", "{{", "}}", "♪♪",  "♪♪♪",
    };
    static const char *const notes[] = {"♩", "♪", "♫", "♬", "♭", "♮", "♯"};
    int32_t first[16];
    if (tokenizer_encode(t, " -", 2, first, 16) > 0)
        add(set, first[0]);
    if (tokenizer_encode(t, " '", 2, first, 16) > 0)
        add(set, first[0]);
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++)
        add_symbol(t, set, symbols[i], false);
    for (size_t i = 0; i < sizeof(notes) / sizeof(notes[0]); i++)
        add_symbol(t, set, notes[i], true);
}

int tokenizer_suppressed(const struct tokenizer *t, int32_t *tokens, int capacity)
{
    const struct special_tokens *s = &t->special;
    struct token_set set = {.tokens = tokens, .capacity = capacity};
    for (int i = 0; i < t->n_suppressed; i++)
        add(&set, t->suppressed[i]);
    if (t->n_suppressed == 0)
        add_symbols(t, &set);
    const int32_t special[] = {s->transcribe, s->translate, s->sot, s->sot_prev, s->sot_lm, s->no_speech};
    for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++)
        add(&set, special[i]);
    return set.n;
}

int tokenizer_suppressed_first(const struct tokenizer *t, int32_t *tokens, int capacity)
{
    struct token_set set = {.tokens = tokens, .capacity = capacity};
    for (int i = 0; i < t->n_suppressed_first; i++)
        add(&set, t->suppressed_first[i]);
    if (t->n_suppressed_first > 0)
        return set.n;
    add(&set, bpe_find(&t->bpe, " ", 1));
    add(&set, t->special.eot);
    return set.n;
}
