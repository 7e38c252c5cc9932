#include "decoder/bpe.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_ON_STACK 256 /* bytes; a longer piece (text without spaces) is merged in heap memory */

/* FNV-1a */
static uint32_t hash(const char *bytes, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)bytes[i]) * 16777619u;
    return h ^ h >> 15;
}

/* The table's entry for these bytes: the token's, or the empty one where it belongs. */
static int32_t *entry(const struct bpe *b, const char *bytes, size_t n)
{
    for (uint32_t i = hash(bytes, n) & b->table_mask;; i = (i + 1) & b->table_mask) {
        int32_t id = b->table[i];
        if (id < 0 ||
            (b->offsets[id + 1] - b->offsets[id] == n && memcmp(b->bytes + b->offsets[id], bytes, n) == 0))
            return &b->table[i];
    }
}

int bpe_init(struct bpe *b, const char *bytes, const uint32_t *offsets, int n_tokens)
{
    uint32_t size = 2;
    while (size < 2 * (uint32_t)n_tokens)
        size *= 2;
    int32_t *table = malloc(size * sizeof(*table));
    if (!table)
        return -ENOMEM;
    memset(table, 0xFF, size * sizeof(*table));
    *b = (struct bpe){.bytes = bytes, .offsets = offsets, .table = table, .table_mask = size - 1};
    for (int32_t id = 0; id < n_tokens; id++) {
        size_t n = offsets[id + 1] - offsets[id];
        int32_t *e = n ? entry(b, bytes + offsets[id], n) : NULL;
        if (e && *e < 0)
            *e = id;
    }
    return 0;
}

void bpe_finish(struct bpe *b)
{
    free(b->table);
    memset(b, 0, sizeof(*b));
}

int32_t bpe_find(const struct bpe *b, const char *bytes, size_t n)
{
    return n ? *entry(b, bytes, n) : -1;
}

/* A part of the piece that is one token by now. */
struct part {
    uint32_t start;
    int32_t rank; /* of this part joined with the next one; INT32_MAX where that is no token */
};

/* parts[n] is the end of the piece. */
static void rank_pair(const struct bpe *b, const char *piece, struct part *parts, int i, int n)
{
    parts[i].rank = INT32_MAX;
    if (i + 1 < n) {
        int32_t id = bpe_find(b, piece + parts[i].start, parts[i + 2].start - parts[i].start);
        if (id >= 0)
            parts[i].rank = id;
    }
}

static int merge(const struct bpe *b, const char *piece, struct part *parts, int n)
{
    for (int i = 0; i <= n; i++)
        parts[i].start = (uint32_t)i;
    for (int i = 0; i < n; i++)
        rank_pair(b, piece, parts, i, n);
    for (;;) {
        int best = 0;
        for (int i = 1; i < n; i++) {
            if (parts[i].rank < parts[best].rank)
                best = i;
        }
        if (parts[best].rank == INT32_MAX)
            return n;
        memmove(&parts[best + 1], &parts[best + 2], (size_t)(n - best - 1) * sizeof(*parts));
        n--;
        rank_pair(b, piece, parts, best, n);
        if (best > 0)
            rank_pair(b, piece, parts, best - 1, n);
    }
}

int bpe_encode(const struct bpe *b, const char *piece, size_t n, int32_t *tokens, int capacity)
{
    assert(n > 0);
    int32_t whole = bpe_find(b, piece, n);
    if (whole >= 0) {
        if (capacity > 0)
            tokens[0] = whole;
        return 1;
    }
    struct part on_stack[PIECE_ON_STACK + 1];
    struct part *parts = on_stack;
    if (n > PIECE_ON_STACK) {
        parts = malloc((n + 1) * sizeof(*parts));
        if (!parts)
            return -ENOMEM;
    }
    int n_parts = merge(b, piece, parts, (int)n);
    for (int i = 0; i < n_parts && i < capacity; i++)
        tokens[i] = bpe_find(b, piece + parts[i].start, parts[i + 1].start - parts[i].start);
    if (parts != on_stack)
        free(parts);
    return n_parts;
}
