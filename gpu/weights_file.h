/* Inside gpu/weights*.c: the open files of a model, where its tensors lie in them, and its vocabulary.
 *
 * A format fills struct weights when it parses a file and answers one question afterwards: where a tensor lies
 * that is asked for by OpenAI's name. A number type is one codec. Nothing of a file is believed before it has been
 * compared with the file's size; all sums and products of sizes are checked for overflow. Files are read, not mapped: one
 * that is cut short by somebody else while it is being loaded is an error then, where a mapping would be SIGBUS. */
#ifndef CAPTIOND_GPU_WEIGHTS_FILE_H
#define CAPTIOND_GPU_WEIGHTS_FILE_H

#include <stdbool.h>

#include "gpu/weights.h"

#define MODEL_FILES_MAX 64 /* shards; large-v2 in f32 has 2 */
#define TENSOR_DIMS_MAX 4
#define TENSOR_NAME_MAX 96   /* with the NUL; no tensor of the graph has a longer name in any format */
#define TENSORS_MAX     8192 /* large has 1,259 */
#define TOKEN_BYTES_MAX 1024 /* the longest published one has 128 */

struct model_file {
    char *path;
    int fd;
    size_t size;
};

/* How numbers are stored: blocks of `block` numbers in `block_bytes` bytes. */
struct codec {
    const char *name;
    size_t block, block_bytes;
    /* Decodes n numbers (whole blocks, not aligned); false if one of them is not finite. NULL: cannot be decoded. */
    bool (*decode)(const unsigned char *src, size_t n, float *dst);
    bool scaled; /* what decode gives are integers, which a scale makes numbers */
};

extern const struct codec codec_f32, codec_f16, codec_bf16;
extern const struct codec codec_i8, codec_i16;    /* flags, counts, and CTranslate2's quantised tensors */
extern const struct codec codec_i32, codec_other; /* not decoded to numbers */
extern const struct codec codec_q4_0, codec_q4_1, codec_q5_0, codec_q5_1, codec_q8_0; /* ggml's blocks */

struct tensor {
    char name[TENSOR_NAME_MAX]; /* as the file spells it */
    const struct model_file *file;
    const struct codec *codec;
    int n_dims;
    uint32_t dims[TENSOR_DIMS_MAX]; /* slowest first, so that consecutive rows are a tensor again */
    size_t offset, bytes;           /* in the file */
    size_t scales;                  /* offset of f32 divisors in the same file; 0: none */
    size_t n_scales;                /* dims[0], one a row, or 1 */
};

struct weights_format {
    /* Fills dims, tensors, vocabulary and what the model has of alignment heads and filters. files[0] is open,
     * but for a list of files. */
    int (*parse)(struct weights *, struct err *);
    /* Finds a tensor, or the part of one, by OpenAI's name. */
    bool (*find)(const struct weights *, const char *name, struct tensor *);
    bool exact; /* the file has no tensors but those of the graph, one for each of OpenAI's */
};

extern const struct weights_format weights_ct2, weights_ggml, weights_safetensors;

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
    char *folder; /* NULL for a ggml file */
    char *path;   /* of the file with the tensors, or with the list of such files */
    struct model_file files[MODEL_FILES_MAX];
    int n_files;
    struct whisper_dims dims;
    struct tensor *tensors; /* [n_tensors], sorted by name */
    int n_tensors;
    struct align_head align[RUN_ALIGN_HEADS];
    int n_align;
    float *mel_filters; /* [n_mels, 201] or NULL */
    struct vocabulary vocabulary;
};

/* Opens one more file of the model and checks that it is a regular one. 0; a negative errno. */
int weights_add_file(struct weights *, const char *path, struct err *);

/* Reads n bytes. -EINVAL where the file ends before; another negative errno. */
int model_file_read(const struct model_file *, size_t offset, void *dst, size_t n, struct err *);

/* Records "PATH: WHAT at byte OFFSET: …" and returns -EINVAL. */
int weights_damaged(const struct model_file *, size_t offset, const char *what, struct err *, const char *fmt,
                    ...) __attribute__((format(printf, 5, 6)));

/* Reads a file from its beginning. Every function checks that its bytes are there. */
#define CURSOR_BYTES 16384
struct cursor {
    const struct model_file *file;
    struct err *err;
    size_t at;
    size_t start, n; /* the part of the file that the buffer holds */
    unsigned char buffer[CURSOR_BYTES];
};

void cursor_init(struct cursor *, const struct model_file *, struct err *);
/* n ≤ CURSOR_BYTES; *p is valid until the next call. */
int cursor_bytes(struct cursor *, size_t n, const char *what, const unsigned char **p);
int cursor_skip(struct cursor *, size_t n, const char *what);
int cursor_u8(struct cursor *, const char *what, uint8_t *);
int cursor_u16(struct cursor *, const char *what, uint16_t *);
int cursor_u32(struct cursor *, const char *what, uint32_t *);
int cursor_i32(struct cursor *, const char *what, int low, int high, int *); /* and that low ≤ value ≤ high */

/* Numbers of a tensor of these dims; false if they do not fit a size_t. */
bool tensor_count(const uint32_t *dims, int n_dims, size_t *count);

/* Bytes that a tensor of these dims takes; false if they do not fit a size_t or a row is no whole number of blocks. */
bool tensor_bytes(const struct codec *, const uint32_t *dims, int n_dims, size_t *bytes);

/* Room for TENSORS_MAX tensors; the next of them, or NULL when all are taken. 0, -ENOMEM. */
int weights_take_tensors(struct weights *, struct err *);

/* Sorts the tensors by name; -EINVAL if two have the same. */
int weights_sort(struct weights *, struct err *);
const struct tensor *weights_lookup(const struct weights *, const char *file_name);

/* An output projection of its own, which no Whisper has, is refused: it is the token embedding. 0 where the model has
 * none, or one with the same numbers. */
int weights_check_tied(const struct weights *, const char *projection, const char *embedding, struct err *);

/* OpenAI's name of a tensor, taken apart: SIDE.[blocks.LAYER.]STEM[.weight|.bias] */
struct tensor_name {
    const char *side; /* "encoder", "decoder" */
    int layer;        /* −1: of none */
    char stem[24];    /* "attn.query", "conv1", "positional_embedding" */
    bool bias;
};
bool tensor_name_parse(const char *openai, struct tensor_name *); /* false: no name of OpenAI's */

/* Settles w->align: the file's own heads, else OpenAI's table, else the later half of all heads. */
void weights_choose_align_heads(struct weights *);

/* Room for the texts of n ids, all without text at first. */
int vocabulary_init(struct vocabulary *, int n);
int vocabulary_set(struct vocabulary *, int id, const char *bytes, size_t n_bytes); /* 0, -ENOMEM */

#endif
