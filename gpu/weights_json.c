/* Alignment heads and vocabulary from the JSON files of a model's folder. */
#include "gpu/weights_json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define JSON_BYTES_MAX (64 << 20)

int weights_load_json(const struct weights *w, const char *file, json_t **root, struct err *err)
{
    char *path;
    if (asprintf(&path, "%s/%s", w->folder, file) < 0)
        return err_set(err, -ENOMEM, "%s: out of memory", w->folder);
    struct stat st;
    json_error_t error;
    int r = 0;
    if (stat(path, &st) < 0)
        r = err_set(err, -errno, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode) || st.st_size > JSON_BYTES_MAX)
        r = err_set(err, -EINVAL, "%s: not a file of at most %d bytes", path, JSON_BYTES_MAX);
    else if (!(*root = json_load_file(path, 0, &error)))
        r = err_set(err, -EINVAL, "%s: byte %d: %s", path, error.position, error.text);
    free(path);
    return r;
}

/* --- alignment heads ---------------------------------------------------------------------------------------------- */

struct head_reader {
    struct weights *w;
    const char *file;
    struct err *err;
};

/* 1; 0 for a head that the model does not have; -EINVAL */
static int read_head(const struct head_reader *h, const json_t *pair, size_t index, struct align_head *head)
{
    const json_t *layer = json_array_get(pair, 0), *number = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(layer) || !json_is_integer(number))
        return err_set(h->err, -EINVAL, "%s/%s: alignment_heads[%zu] is not a pair of numbers", h->w->folder,
                       h->file, index);
    json_int_t l = json_integer_value(layer), n = json_integer_value(number);
    if (l < 0 || l >= h->w->dims.n_text_layer || n < 0 || n >= h->w->dims.n_text_head)
        return 0;
    *head = (struct align_head){(int)l, (int)n};
    return 1;
}

/* A list with heads that the model does not have is another model's, which published distilled models come with: it counts
 * as missing. */
static int take_heads(const struct head_reader *h, const json_t *heads)
{
    struct weights *w = h->w;
    if (!heads || json_is_null(heads))
        return 0;
    if (!json_is_array(heads))
        return err_set(h->err, -EINVAL, "%s/%s: alignment_heads is not an array", w->folder, h->file);
    size_t n = json_array_size(heads), first = n > RUN_ALIGN_HEADS ? n - RUN_ALIGN_HEADS : 0;
    for (size_t i = 0; i < n; i++) {
        struct align_head head = {0, 0};
        int r = read_head(h, json_array_get(heads, i), i, &head);
        if (r <= 0) {
            w->n_align = 0;
            return r;
        }
        for (int k = 0; k < w->n_align; k++) {
            if (w->align[k].layer == head.layer && w->align[k].head == head.head)
                return err_set(h->err, -EINVAL, "%s/%s: alignment_heads[%zu] is there twice", w->folder,
                               h->file, i);
        }
        if (i >= first)
            w->align[w->n_align++] = head;
    }
    return 0;
}

int weights_read_heads(struct weights *w, const char *file, struct err *err)
{
    const struct head_reader h = {w, file, err};
    json_t *root = NULL;
    int r = weights_load_json(w, file, &root, err);
    if (r == -ENOENT)
        return 0; /* the tables know the heads of every published size */
    if (r == 0)
        r = take_heads(&h, json_object_get(root, "alignment_heads"));
    json_decref(root);
    return r;
}

/* --- vocabulary --------------------------------------------------------------------------------------------------- */

/* GPT-2's byte-level alphabet: printable bytes stand for themselves, the other ones follow from U+0100 on. Returns
 * the byte for a code point, or −1. */
static int byte_of(uint32_t c)
{
    bool printable = (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
    if (printable)
        return (int)c;
    if (c < 0x100 || c > 0x143)
        return -1;
    uint32_t n = c - 0x100; /* 0–32, 127–160, 173 in this order */
    return n <= 32 ? (int)n : n <= 66 ? (int)(n - 33 + 127) : 173;
}

/* Code points below U+0800 are all that the alphabet has. jansson has checked that the text is UTF-8. Returns the number
 * of bytes, or −1. */
static int decode_token(const char *text, size_t length, char *bytes)
{
    int n = 0;
    for (size_t i = 0; i < length; n++) {
        uint32_t c = (unsigned char)text[i++];
        if (c >= 0x80) {
            if (c >= 0xe0 || i == length)
                return -1;
            c = (c & 0x1f) << 6 | ((unsigned char)text[i++] & 0x3f);
        }
        int byte = byte_of(c);
        if (byte < 0)
            return -1;
        bytes[n] = (char)byte;
    }
    return n;
}

struct vocabulary_reader {
    struct weights *w;
    const char *file;
    struct err *err;
};

static int add_token(const struct vocabulary_reader *q, const char *text, json_int_t id)
{
    struct weights *w = q->w;
    struct vocabulary *v = &w->vocabulary;
    char bytes[TOKEN_BYTES_MAX];
    size_t length = strlen(text);
    if (id < 0 || id >= w->dims.n_vocab)
        return err_set(q->err, -EINVAL, "%s/%s: the id of token \"%.64s\" is not below %d", w->folder,
                       q->file, text, w->dims.n_vocab);
    if (id >= v->n)
        return 0;
    int n = length <= sizeof(bytes) ? decode_token(text, length, bytes) : -1;
    if (n < 0)
        return err_set(q->err, -EINVAL, "%s/%s: token %d is no text of byte-level BPE", w->folder, q->file,
                       (int)id);
    if (v->tokens[id].n_bytes)
        return err_set(q->err, -EINVAL, "%s/%s: token %d is there twice", w->folder, q->file, (int)id);
    return vocabulary_set(v, (int)id, bytes, (size_t)n) < 0
               ? err_set(q->err, -ENOMEM, "%s: out of memory", w->folder)
               : 0;
}

/* {"token": id, …} */
static int add_object(const struct vocabulary_reader *q, json_t *tokens)
{
    const char *text;
    json_t *id;
    json_object_foreach(tokens, text, id)
    {
        int r = add_token(q, text, json_is_integer(id) ? json_integer_value(id) : -1);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ["token of id 0", …] */
static int add_array(const struct vocabulary_reader *q, const json_t *tokens)
{
    for (size_t id = 0; id < json_array_size(tokens); id++) {
        const char *text = json_string_value(json_array_get(tokens, id));
        if (!text)
            return err_set(q->err, -EINVAL, "%s/%s: token %zu is no text", q->w->folder, q->file, id);
        int r = add_token(q, text, (json_int_t)id);
        if (r < 0)
            return r;
    }
    return 0;
}

static int take_vocabulary(const struct vocabulary_reader *q, json_t *root)
{
    struct weights *w = q->w;
    int eot = whisper_eot(w->dims.n_vocab);
    if (eot < 0)
        return 0; /* refused with the other dims */
    bool tokenizer = !strcmp(q->file, "tokenizer.json");
    json_t *tokens = tokenizer ? json_object_get(json_object_get(root, "model"), "vocab") : root;
    if (json_object_size(tokens) == 0 && (tokenizer || json_array_size(tokens) == 0))
        return err_set(q->err, -EINVAL, "%s/%s: %s", w->folder, q->file,
                       tokenizer ? "model.vocab is missing" : "there are no tokens");
    if (vocabulary_init(&w->vocabulary, eot) < 0)
        return err_set(q->err, -ENOMEM, "%s: out of memory", w->folder);
    return json_is_object(tokens) ? add_object(q, tokens) : add_array(q, tokens);
}

int weights_read_vocabulary(struct weights *w, struct err *err)
{
    static const char *const files[] = {"tokenizer.json", "vocab.json", "vocabulary.json"};
    int r = -ENOENT;
    json_t *root = NULL;
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]) && r == -ENOENT; i++) {
        r = weights_load_json(w, files[i], &root, err);
        if (r == 0)
            r = take_vocabulary(&(struct vocabulary_reader){w, files[i], err}, root);
    }
    if (r == -ENOENT)
        r = err_set(err, -ENOENT, "%s: there is no tokenizer.json, vocab.json or vocabulary.json", w->folder);
    json_decref(root);
    return r;
}
