/* Reading a model file within its bounds, and the tables that come of it. */
#include "gpu/weights_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int weights_damaged(const struct model_file *file, size_t offset, const char *what, struct err *err,
                    const char *fmt, ...)
{
    char cause[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cause, sizeof(cause), fmt, ap);
    va_end(ap);
    err_set(err, -EINVAL, "%s: %s at byte %zu: %s", file->path, what, offset, cause);
    return -EINVAL;
}

/* --- files ------------------------------------------------------------------------------------------------------ */

int weights_add_file(struct weights *w, const char *path, struct err *err)
{
    if (w->n_files == MODEL_FILES_MAX)
        return err_set(err, -EINVAL, "%s: the model has more than %d files", path, MODEL_FILES_MAX);
    struct model_file *file = &w->files[w->n_files];
    /* O_NONBLOCK: a FIFO in place of the file is refused below instead of waited for. */
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    struct stat st;
    int r = 0;
    if (fstat(file->fd, &st) < 0)
        r = err_set(err, -errno, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode) || st.st_size < 8)
        r = err_set(err, -EINVAL, "%s: not a model file", path);
    else if (!(file->path = strdup(path)))
        r = err_set(err, -ENOMEM, "%s: out of memory", path);
    if (r < 0) {
        close(file->fd);
        return r;
    }
    file->size = (size_t)st.st_size;
    w->n_files++;
    return 0;
}

int model_file_read(const struct model_file *file, size_t offset, void *dst, size_t n, struct err *err)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(file->fd, (char *)dst + done, n - done, (off_t)(offset + done));
        if (got == 0)
            return weights_damaged(file, offset + done, "end", err, "the file has become shorter");
        if (got < 0 && errno != EINTR)
            return err_set(err, -errno, "%s: byte %zu: %s", file->path, offset + done, strerror(errno));
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

/* --- reading a file's structure ----------------------------------------------------------------------------------- */

void cursor_init(struct cursor *c, const struct model_file *file, struct err *err)
{
    c->file = file;
    c->err = err;
    c->at = c->start = c->n = 0;
}

static int check_left(const struct cursor *c, size_t n, const char *what)
{
    size_t left = c->file->size - c->at;
    return n <= left ? 0
                     : weights_damaged(c->file, c->at, what, c->err, "needs %zu bytes, the file has %zu left",
                                       n, left);
}

int cursor_bytes(struct cursor *c, size_t n, const char *what, const unsigned char **p)
{
    assert(n <= CURSOR_BYTES);
    int r = check_left(c, n, what);
    if (r == 0 && (c->at < c->start || c->at + n > c->start + c->n)) {
        size_t left = c->file->size - c->at;
        c->start = c->at;
        c->n = left < CURSOR_BYTES ? left : CURSOR_BYTES;
        r = model_file_read(c->file, c->start, c->buffer, c->n, c->err);
    }
    if (r != 0)
        return r;
    *p = c->buffer + (c->at - c->start);
    c->at += n;
    return 0;
}

int cursor_skip(struct cursor *c, size_t n, const char *what)
{
    int r = check_left(c, n, what);
    c->at += r == 0 ? n : 0;
    return r;
}

static int cursor_copy(struct cursor *c, void *value, size_t n, const char *what)
{
    const unsigned char *p = NULL;
    int r = cursor_bytes(c, n, what, &p);
    if (r == 0 && p)
        memcpy(value, p, n);
    return r;
}

int cursor_u8(struct cursor *c, const char *what, uint8_t *value)
{
    return cursor_copy(c, value, sizeof(*value), what);
}

int cursor_u16(struct cursor *c, const char *what, uint16_t *value)
{
    return cursor_copy(c, value, sizeof(*value), what);
}

int cursor_u32(struct cursor *c, const char *what, uint32_t *value)
{
    return cursor_copy(c, value, sizeof(*value), what);
}

int cursor_i32(struct cursor *c, const char *what, int low, int high, int *value)
{
    int32_t read = 0;
    size_t at = c->at;
    int r = cursor_copy(c, &read, sizeof(read), what);
    if (r != 0)
        return r;
    if (read < low || read > high)
        return weights_damaged(c->file, at, what, c->err, "%d is not between %d and %d", read, low, high);
    *value = read;
    return 0;
}

/* --- tensors ---------------------------------------------------------------------------------------------------- */

bool tensor_count(const uint32_t *dims, int n_dims, size_t *count)
{
    size_t n = 1;
    for (int i = 0; i < n_dims; i++) {
        if (__builtin_mul_overflow(n, (size_t)dims[i], &n))
            return false;
    }
    *count = n;
    return true;
}

bool tensor_bytes(const struct codec *codec, const uint32_t *dims, int n_dims, size_t *bytes)
{
    size_t n, row = n_dims > 0 ? dims[n_dims - 1] : 1;
    return row % codec->block == 0 && tensor_count(dims, n_dims, &n) &&
           !__builtin_mul_overflow(n / codec->block, codec->block_bytes, bytes);
}

int weights_take_tensors(struct weights *w, struct err *err)
{
    w->tensors = calloc(TENSORS_MAX, sizeof(*w->tensors));
    return w->tensors ? 0 : err_set(err, -ENOMEM, "%s: out of memory", w->path);
}

static int compare_tensors(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

int weights_sort(struct weights *w, struct err *err)
{
    if (w->n_tensors == 0)
        return err_set(err, -EINVAL, "%s: there are no tensors", w->path);
    qsort(w->tensors, (size_t)w->n_tensors, sizeof(*w->tensors), compare_tensors);
    for (int i = 1; i < w->n_tensors; i++) {
        const struct tensor *t = &w->tensors[i];
        if (compare_tensors(t - 1, t) == 0)
            return weights_damaged(t->file, t->offset, "tensor", err, "%s is there twice", t->name);
    }
    return 0;
}

static int compare_name(const void *name, const void *tensor)
{
    return strcmp(name, ((const struct tensor *)tensor)->name);
}

const struct tensor *weights_lookup(const struct weights *w, const char *file_name)
{
    return bsearch(file_name, w->tensors, (size_t)w->n_tensors, sizeof(*w->tensors), compare_name);
}

#define PART 8192 /* bytes compared at a time */

int weights_check_tied(const struct weights *w, const char *projection, const char *embedding,
                       struct err *err)
{
    const struct tensor *p = weights_lookup(w, projection), *e = weights_lookup(w, embedding);
    if (!p || !e || (p->file == e->file && p->offset == e->offset))
        return 0;
    unsigned char a[PART], b[PART];
    bool same = p->codec == e->codec && p->bytes == e->bytes && !p->n_scales && !e->n_scales;
    for (size_t at = 0; same && at < p->bytes; at += PART) {
        size_t n = p->bytes - at < PART ? p->bytes - at : PART;
        int r = model_file_read(p->file, p->offset + at, a, n, err);
        if (r == 0)
            r = model_file_read(e->file, e->offset + at, b, n, err);
        if (r < 0)
            return r;
        same = memcmp(a, b, n) == 0;
    }
    return same ? 0
                : weights_damaged(
                      p->file, p->offset, projection, err,
                      "it differs from %s: models with an output projection of their own are not supported",
                      embedding);
}

bool tensor_name_parse(const char *openai, struct tensor_name *name)
{
    int length = 0;
    if (!strncmp(openai, "encoder.", 8))
        name->side = "encoder";
    else if (!strncmp(openai, "decoder.", 8))
        name->side = "decoder";
    else
        return false;
    const char *stem = openai + 8;
    if (sscanf(stem, "blocks.%d.%n", &name->layer, &length) != 1 || length == 0)
        name->layer = -1;
    stem += length;
    const char *kind = strrchr(stem, '.');
    size_t n = kind ? (size_t)(kind - stem) : strlen(stem);
    if (n == 0 || n >= sizeof(name->stem) ||
        (kind && strcmp(kind, ".weight") != 0 && strcmp(kind, ".bias") != 0))
        return false;
    memcpy(name->stem, stem, n);
    name->stem[n] = 0;
    name->bias = kind && !strcmp(kind, ".bias");
    return kind || !strcmp(name->stem, "positional_embedding");
}

/* --- vocabulary ------------------------------------------------------------------------------------------------- */

int vocabulary_init(struct vocabulary *v, int n)
{
    v->tokens = calloc((size_t)n, sizeof(*v->tokens));
    v->n = n;
    return v->tokens ? 0 : -ENOMEM;
}

int vocabulary_set(struct vocabulary *v, int id, const char *bytes, size_t n_bytes)
{
    if (n_bytes == 0)
        return 0;
    if (n_bytes > v->capacity - v->used) {
        size_t capacity = 2 * v->capacity + n_bytes + 4096;
        char *grown = realloc(v->bytes, capacity);
        if (!grown)
            return -ENOMEM;
        v->bytes = grown;
        v->capacity = capacity;
    }
    memcpy(v->bytes + v->used, bytes, n_bytes);
    v->tokens[id] = (struct token_text){(uint32_t)v->used, (uint32_t)n_bytes};
    v->used += n_bytes;
    return 0;
}
