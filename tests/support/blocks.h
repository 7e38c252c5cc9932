/* ggml's quantised blocks of 32 numbers: a quantiser to make files with, and a decoder that takes a block apart bit by
 * bit in double precision, to hold the loader's against. */
#ifndef CAPTIOND_TESTS_BLOCKS_H
#define CAPTIOND_TESTS_BLOCKS_H

#include <stdint.h>

#define BLOCK_BYTES_MAX 34

struct block_type {
    const char *name;
    int number;  /* in a file */
    int n_bytes; /* of a block */
    int n_bits;  /* of a number */
    int has_least;
};

#define N_BLOCK_TYPES 5
extern const struct block_type block_types[N_BLOCK_TYPES];

void block_quantise(const struct block_type *, const float values[32], unsigned char *block);
void block_dequantise(const struct block_type *, const unsigned char *block, double values[32]);

/* The farthest that quantisation may move a number of these. */
double block_error_bound(const struct block_type *, const float values[32]);

/* Half floats, bit by bit. to_half is for finite numbers below 65504 and rounds to nearest even. */
uint16_t to_half(float);
float from_half(uint16_t);

#endif
