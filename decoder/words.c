#include "decoder/words.h"

#include <string.h>

#include "daemon/base/utf8.h"

/* The sets of whisper/timing.py and Python's string.punctuation. A span is in a set when its text is a substring of
 * it, as in the original. */
static const char opening[] = "\"'“¿([{-";
static const char closing[] = "\"'.。,，!！?？:：”)]}、";
static const char sentence_end[] = ".。!！?？";
static const char ascii_punctuation[] = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

#define PIECE_BYTES 512

bool words_spaced(const char *language)
{
    static const char *const unspaced[] = {"zh", "ja", "th", "lo", "my", "yue"};
    for (size_t i = 0; language && i < sizeof(unspaced) / sizeof(unspaced[0]); i++) {
        if (strcmp(language, unspaced[i]) == 0)
            return false;
    }
    return true;
}

static bool within(const char *set, const char *text, int n)
{
    char piece[16];
    if (n >= (int)sizeof(piece))
        return false;
    memcpy(piece, text, (size_t)n);
    piece[n] = '\0';
    return strstr(set, piece) != NULL;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

void words_strip(const char **text, size_t *n)
{
    while (*n > 0 && is_space(**text)) {
        ++*text;
        --*n;
    }
    while (*n > 0 && is_space((*text)[*n - 1]))
        --*n;
}

bool words_is_closing(const char *text, int n_text)
{
    return n_text > 0 && within(closing, text, n_text);
}

bool words_is_sentence_end(const char *text, int n_text)
{
    return n_text > 0 && within(sentence_end, text, n_text);
}

bool words_is_opening(const char *text, int n_text)
{
    size_t n = (size_t)n_text;
    if (n == 0 || text[0] != ' ')
        return false;
    words_strip(&text, &n);
    return within(opening, text, (int)n);
}

static bool begins_word(const char *text, size_t n)
{
    if (n > 0 && text[0] == ' ')
        return true;
    words_strip(&text, &n);
    return within(ascii_punctuation, text, (int)n);
}

int words_split(const struct tokenizer *t, const int32_t *tokens, int n, bool spaced, struct word_span *spans,
                char *arena, size_t capacity, int *n_used)
{
    char piece[PIECE_BYTES];
    size_t n_piece = 0, used = 0;
    int n_spans = 0, piece_first = 0;
    *n_used = 0;
    for (int i = 0; i < n; i++) {
        size_t n_bytes;
        const char *bytes = tokenizer_bytes(t, tokens[i], &n_bytes);
        if (n_piece + n_bytes > sizeof(piece))
            break;
        memcpy(piece + n_piece, bytes, n_bytes);
        n_piece += n_bytes;
        if (utf8_complete_prefix(piece, n_piece) < n_piece)
            continue;
        if (used + 3 * n_piece + 1 > capacity)
            break;
        size_t n_text = utf8_sanitize(piece, n_piece, arena + used);
        bool begins = !spaced || n_spans == 0 || begins_word(arena + used, n_text);
        if (begins)
            spans[n_spans++] = (struct word_span){.first_token = piece_first, .text = (int)used};
        spans[n_spans - 1].n_tokens += i + 1 - piece_first;
        spans[n_spans - 1].n_text += (int)n_text;
        used += n_text;
        n_piece = 0;
        piece_first = i + 1;
        *n_used = piece_first;
    }
    return n_spans;
}

int words_join_opening(const char *arena, struct word_span *spans, int n)
{
    int kept = 0;
    for (int i = 0; i < n; i++) {
        struct word_span s = spans[i];
        while (i + 1 < n && words_is_opening(arena + spans[i].text, spans[i].n_text)) {
            i++;
            s.n_tokens += spans[i].n_tokens;
            s.n_text += spans[i].n_text;
        }
        spans[kept++] = s;
    }
    return kept;
}

int words_letters(const char *text)
{
    int n = 0;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c >= '0' && c <= '9')
            n += 4;
        else
            n += c >= 0xC0 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    }
    return n;
}
