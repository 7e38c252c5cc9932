#include "tests/support/tiny_writer.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/support.h"

void writer_open(struct writer *w, const char *path, struct tiny_layout *layout)
{
    if (layout)
        *layout = (struct tiny_layout){0};
    w->layout = layout;
    w->f = fopen(path, "wb");
    assert_non_null(w->f);
}

void writer_close(struct writer *w)
{
    assert_int_equal(fclose(w->f), 0);
}

void put(struct writer *w, const char *what, const void *p, size_t n)
{
    struct tiny_layout *l = w->layout;
    if (l) {
        if (l->n == l->capacity) {
            l->capacity = 2 * l->capacity + 64;
            l->fields = realloc(l->fields, (size_t)l->capacity * sizeof(*l->fields));
        }
        l->fields[l->n++] = (struct tiny_field){what, (size_t)ftell(w->f), n};
    }
    if (n)
        assert_int_equal(fwrite(p, 1, n, w->f), n);
}

void put_int(struct writer *w, const char *what, int32_t value)
{
    put(w, what, &value, sizeof(value));
}

uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void put_values(struct writer *w, const float *values, size_t n, enum tiny_type type)
{
    if (type == TINY_F32) {
        assert_int_equal(fwrite(values, sizeof(float), n, w->f), n);
        return;
    }
    uint16_t halves[1024];
    for (size_t i = 0, part; i < n; i += part) {
        part = n - i < 1024 ? n - i : 1024;
        for (size_t k = 0; k < part; k++)
            halves[k] = type == TINY_F16 ? to_half(values[i + k]) : to_bf16(values[i + k]);
        assert_int_equal(fwrite(halves, sizeof(halves[0]), part, w->f), part);
    }
}

/* GPT-2's bytes_to_unicode, step by step as in its source. */
static void byte_alphabet(int code_point[256])
{
    int next = 256;
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
        code_point[b] = itself ? b : next++;
    }
}

void put_vocabulary(const struct tiny_model *m, FILE *f)
{
    int alphabet[256];
    byte_alphabet(alphabet);
    for (int i = 0; i < m->n_words; i++) {
        char bytes[16];
        int n = tiny_model_token(i, bytes);
        fprintf(f, "%s\"", i ? "," : "{");
        for (int k = 0; k < n; k++)
            fprintf(f, "\\u%04x", alphabet[(unsigned char)bytes[k]]);
        fprintf(f, "\":%d", i);
    }
    fprintf(f, "}");
}

void tiny_write_text(const char *folder, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

void put_heads(const struct tiny_model *m, const char *folder, const char *name)
{
    char text[128];
    int last = m->dims.n_text_layer - 1;
    snprintf(text, sizeof(text), "{\"alignment_heads\": [[%d, 1], [%d, 0]], \"suppress_tokens\": []}", last,
             last);
    tiny_write_text(folder, name, text);
}

void tiny_layout_finish(struct tiny_layout *l)
{
    free(l->fields);
}
