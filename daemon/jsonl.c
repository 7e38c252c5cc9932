#include "daemon/jsonl.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/base/utf8.h"

void jsonl_init(struct jsonl *j, char *buf, size_t size)
{
    *j = (struct jsonl){.buf = buf, .size = size};
    buf[0] = '\0';
}

static void put(struct jsonl *j, const char *s, size_t n)
{
    if (j->overflow || n >= j->size - j->n) {
        j->overflow = true;
        return;
    }
    memcpy(j->buf + j->n, s, n);
    j->n += n;
    j->buf[j->n] = '\0';
}

static void put_char(struct jsonl *j, char c)
{
    put(j, &c, 1);
}

/* s[0..n) is valid UTF-8. */
static void put_escaped(struct jsonl *j, const char *s, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    size_t plain = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7F)
            continue;
        put(j, s + plain, i - plain);
        plain = i + 1;
        if (c == '"' || c == '\\') {
            put_char(j, '\\');
            put_char(j, (char)c);
        } else if (c == '\n') {
            put(j, "\\n", 2);
        } else {
            char u[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            put(j, u, sizeof(u));
        }
    }
    put(j, s + plain, n - plain);
}

static void put_string(struct jsonl *j, const char *s, size_t n)
{
    put_char(j, '"');
    while (n) {
        size_t valid = utf8_valid_prefix(s, n);
        put_escaped(j, s, valid);
        s += valid;
        n -= valid;
        if (n) {
            put(j, "\xEF\xBF\xBD", 3);
            s++;
            n--;
        }
    }
    put_char(j, '"');
}

static void begin(struct jsonl *j, const char *key)
{
    if (j->comma)
        put_char(j, ',');
    j->comma = true;
    if (key) {
        put_string(j, key, strlen(key));
        put_char(j, ':');
    }
}

static void open_bracket(struct jsonl *j, const char *key, char bracket)
{
    begin(j, key);
    put_char(j, bracket);
    j->comma = false;
}

static void close_bracket(struct jsonl *j, char bracket)
{
    put_char(j, bracket);
    j->comma = true;
}

void jsonl_object(struct jsonl *j, const char *key)
{
    open_bracket(j, key, '{');
}

void jsonl_object_end(struct jsonl *j)
{
    close_bracket(j, '}');
}

void jsonl_array(struct jsonl *j, const char *key)
{
    open_bracket(j, key, '[');
}

void jsonl_array_end(struct jsonl *j)
{
    close_bracket(j, ']');
}

void jsonl_bytes(struct jsonl *j, const char *key, const char *s, size_t n)
{
    begin(j, key);
    put_string(j, s, n);
}

void jsonl_string(struct jsonl *j, const char *key, const char *s)
{
    jsonl_bytes(j, key, s, strlen(s));
}

void jsonl_int(struct jsonl *j, const char *key, int64_t value)
{
    char text[24];
    begin(j, key);
    put(j, text, (size_t)snprintf(text, sizeof(text), "%" PRId64, value));
}

void jsonl_real(struct jsonl *j, const char *key, double value, int decimals)
{
    char text[64];
    begin(j, key);
    if (!isfinite(value) || fabs(value) > 1e15)
        put(j, "null", 4);
    else
        put(j, text, (size_t)snprintf(text, sizeof(text), "%.*f", decimals, value));
}

void jsonl_bool(struct jsonl *j, const char *key, bool value)
{
    begin(j, key);
    put(j, value ? "true" : "false", value ? 4 : 5);
}

size_t jsonl_finish_line(struct jsonl *j)
{
    put_char(j, '\n');
    return j->overflow ? 0 : j->n;
}
