/* Byte-pair merging by rank. A rank is a token's id; the token's bytes are looked up in a hash table.
 *
 * The table borrows the bytes, which must outlive it. Immutable after init: any thread. */
#ifndef CAPTIOND_DECODER_BPE_H
#define CAPTIOND_DECODER_BPE_H

#include <stddef.h>
#include <stdint.h>

struct bpe {
    const char *bytes;       /* of all tokens, one after the other */
    const uint32_t *offsets; /* [n_tokens + 1]: token i is bytes[offsets[i] … offsets[i + 1]) */
    int32_t *table;          /* open addressing, −1: empty */
    uint32_t table_mask;
};

/* Enters n_tokens tokens; empty ones are left out, and of equal ones the first counts. 0 or -ENOMEM. */
int bpe_init(struct bpe *, const char *bytes, const uint32_t *offsets, int n_tokens);
void bpe_finish(struct bpe *); /* zeroed objects are accepted */

/* The token with exactly these bytes, or −1. */
int32_t bpe_find(const struct bpe *, const char *bytes, size_t n);

/* Merges the bytes of one piece, always the pair of lowest rank first and of equal ones the leftmost, until no pair
 * is a token. Returns the number of tokens, of which at most `capacity` are written, or -ENOMEM (only for a piece
 * of more than 256 bytes). Every byte must be a token. The time grows with the square of n. */
int bpe_encode(const struct bpe *, const char *piece, size_t n, int32_t *tokens, int capacity);

#endif
