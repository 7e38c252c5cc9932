/* Reading a model file within its bounds, and the tables that come of it. */
#include "gpu/weights_file.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int weights_damaged(const struct weights *w, size_t offset, const char *what, struct err *err,
                    const char *fmt, ...)
{
    char cause[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cause, sizeof(cause), fmt, ap);
    va_end(ap);
    err_set(err, -EINVAL, "%s: %s at byte %zu: %s", w->path, what, offset, cause);
    return -EINVAL;
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

int cursor_bytes(struct cursor *c, size_t n, const char *what, const unsigned char **p)
{
    if (n > c->w->size - c->at)
        return weights_damaged(c->w, c->at, what, c->err, "needs %zu bytes, the file has %zu left", n,
                               c->w->size - c->at);
    *p = c->w->data + c->at;
    c->at += n;
    return 0;
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
        return weights_damaged(c->w, at, what, c->err, "%d is not between %d and %d", read, low, high);
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

static int compare_names(const char *a, size_t a_length, const char *b, size_t b_length)
{
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    return order ? order : (a_length > b_length) - (a_length < b_length);
}

static int compare_tensors(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    return compare_names(x->name, x->name_length, y->name, y->name_length);
}

int weights_sort(struct weights *w, struct err *err)
{
    if (w->n_tensors == 0)
        return weights_damaged(w, w->size, "tensors", err, "there are none");
    qsort(w->tensors, (size_t)w->n_tensors, sizeof(*w->tensors), compare_tensors);
    for (int i = 1; i < w->n_tensors; i++) {
        const struct tensor *t = &w->tensors[i];
        if (compare_tensors(t - 1, t) == 0)
            return weights_damaged(w, t->offset, "tensor", err, "%.*s is there twice", (int)t->name_length,
                                   t->name);
    }
    return 0;
}

const struct tensor *weights_lookup(const struct weights *w, const char *file_name)
{
    struct tensor key = {.name = file_name, .name_length = strlen(file_name)};
    return bsearch(&key, w->tensors, (size_t)w->n_tensors, sizeof(*w->tensors), compare_tensors);
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
