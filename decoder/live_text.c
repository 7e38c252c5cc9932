#include "decoder/live_text.h"

#include <stdbool.h>
#include <string.h>

#include "decoder/commit.h"

static bool closes_earlier(const struct live_buffer *b, const struct word *w)
{
    return b->opening && commit_is_mark(w->text) && w->text[0] != ' ';
}

void live_text_clear(struct live_text *t)
{
    t->n_words = 0;
    t->used = 0;
}

void live_text_commit(struct live_text *t, struct live_buffer *b, const struct word *w)
{
    if (closes_earlier(b, w))
        return;
    b->opening = false;
    size_t n = strlen(w->text) + 1;
    bool joins = t->n_words > 0 && commit_is_mark(w->text) && w->text[0] != ' ';
    if (t->used + n > sizeof(t->text) || t->n_words == LIVE_TEXT_WORDS)
        return;
    char *text = t->text + t->used - joins;
    memcpy(text, w->text, n);
    t->used += n - joins;
    if (joins) {
        t->words[t->n_words - 1].n_tokens += w->n_tokens;
        return;
    }
    struct word *o = &t->words[t->n_words++];
    *o = *w;
    o->text = text;
    o->start = w->start > b->last_end ? w->start : b->last_end;
    o->end = w->end > o->start ? w->end : o->start;
    b->last_end = o->end;
}

void live_text_show(struct live_text *t, const struct live_buffer *b, const struct hypothesis *h, int first)
{
    size_t used = 0;
    while (first < h->n_words && closes_earlier(b, &h->words[first]))
        first++;
    bool any = first < h->n_words;
    for (int i = first; i < h->n_words; i++) {
        size_t n = strlen(h->words[i].text);
        memcpy(t->partial + used, h->words[i].text, n);
        used += n;
    }
    t->partial[used] = '\0';
    int64_t start = any ? h->words[first].start : b->last_end;
    t->partial_start = start > b->last_end ? start : b->last_end;
    t->partial_end = any ? h->words[h->n_words - 1].end : t->partial_start;
    if (t->partial_end < t->partial_start)
        t->partial_end = t->partial_start;
}
