/* Inside gpu/weights*.c: a mapped model file, where its tensors lie in it, and its vocabulary.
 *
 * A format fills struct weights when it parses a file and answers one question afterwards: where a tensor lies
 * that is asked for by OpenAI's name. A number type is one codec. Nothing of the file is believed before it has been
 * compared with the file's size; all sums and products of sizes are checked for overflow. */
#ifndef CAPTIOND_GPU_WEIGHTS_FILE_H
#define CAPTIOND_GPU_WEIGHTS_FILE_H

#include <stdbool.h>

#include "gpu/weights.h"

#define TENSOR_DIMS_MAX 4
#define TENSORS_MAX     8192 /* large has 1,259 */
#define TOKEN_BYTES_MAX 1024 /* the longest published one has 128 */

/* How numbers are stored: blocks of `block` numbers in `block_bytes` bytes. */
struct codec {
    const char *name;
    size_t block, block_bytes;
    /* Decodes n numbers (whole blocks, not aligned); false if one of them is not finite. NULL: cannot be decoded. */
    bool (*decode)(const unsigned char *src, size_t n, float *dst);
};

extern const struct codec codec_f32, codec_f16, codec_bf16;
extern const struct codec codec_i8, codec_i16, codec_i32; /* flags and counts; not decoded to numbers */

struct tensor {
    const char *name; /* as the file spells it, borrowed from the mapping; not NUL-terminated */
    size_t name_length;
    const struct codec *codec;
    int n_dims;
    uint32_t dims[TENSOR_DIMS_MAX]; /* slowest first, so that consecutive rows are a tensor again */
    size_t offset, bytes;           /* in the file */
};

struct weights_format {
    /* Fills dims, tensors, vocabulary and what the file has of alignment heads and filters. */
    int (*parse)(struct weights *, struct err *);
    /* Finds a tensor, or the part of one, by OpenAI's name. */
    bool (*find)(const struct weights *, const char *name, struct tensor *);
    bool exact; /* the file has no tensors but those of the graph, one for each of OpenAI's */
};

extern const struct weights_format weights_ct2, weights_ggml;

struct token_text {
    uint32_t start, n_bytes; /* in vocabulary.bytes; 0 bytes: the id has no text */
};

struct vocabulary {
    struct token_text *tokens; /* [n] */
    int n;                     /* eot: special tokens have no text */
    char *bytes;
    size_t used, capacity;
};

struct weights {
    const struct weights_format *format;
    char *folder; /* NULL for a single file */
    char *path;   /* of the file with the tensors */
    const unsigned char *data;
    size_t size;
    struct whisper_dims dims;
    struct tensor *tensors; /* [n_tensors], sorted by name */
    int n_tensors;
    struct align_head align[RUN_ALIGN_HEADS];
    int n_align;
    float *mel_filters; /* [n_mels, 201] or NULL */
    struct vocabulary vocabulary;
};

/* Records "PATH: WHAT at byte OFFSET: …" and returns -EINVAL. */
int weights_damaged(const struct weights *, size_t offset, const char *what, struct err *, const char *fmt,
                    ...) __attribute__((format(printf, 5, 6)));

/* Reads a file from its beginning. Every function checks that its bytes are there. */
struct cursor {
    const struct weights *w;
    size_t at;
    struct err *err;
};

int cursor_bytes(struct cursor *, size_t n, const char *what, const unsigned char **p);
int cursor_u8(struct cursor *, const char *what, uint8_t *);
int cursor_u16(struct cursor *, const char *what, uint16_t *);
int cursor_u32(struct cursor *, const char *what, uint32_t *);
int cursor_i32(struct cursor *, const char *what, int low, int high, int *); /* and that low ≤ value ≤ high */

/* Numbers of a tensor of these dims; false if they do not fit a size_t. */
bool tensor_count(const uint32_t *dims, int n_dims, size_t *count);

/* Bytes that a tensor of these dims takes; false if they do not fit a size_t or a row is no whole number of blocks. */
bool tensor_bytes(const struct codec *, const uint32_t *dims, int n_dims, size_t *bytes);

/* Sorts the tensors by name; -EINVAL if two have the same. */
int weights_sort(struct weights *, struct err *);
const struct tensor *weights_lookup(const struct weights *, const char *file_name);

/* Settles w->align: the file's own heads, else OpenAI's table, else the later half of all heads. */
void weights_choose_align_heads(struct weights *);

/* Room for the texts of n ids, all without text at first. */
int vocabulary_init(struct vocabulary *, int n);
int vocabulary_set(struct vocabulary *, int id, const char *bytes, size_t n_bytes); /* 0, -ENOMEM */

#endif
