#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/generation_config.h"
#include "decoder/tokenizer.h"
#include "gpu/weights.h"

#define FILE_MAX ((size_t)32 << 20)

static char folder[64];

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_folder(void)
{
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

const char *fuzz_folder(void)
{
    if (!folder[0]) {
        snprintf(folder, sizeof(folder), "/dev/shm/captiond-fuzz-XXXXXX");
        if (!mkdtemp(folder)) {
            snprintf(folder, sizeof(folder), "/tmp/captiond-fuzz-XXXXXX");
            assert(mkdtemp(folder));
        }
        atexit(remove_folder);
    }
    return folder;
}

static int create(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", fuzz_folder(), name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert(fd >= 0);
    return fd;
}

void fuzz_remove(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", fuzz_folder(), name);
    remove(path);
}

void fuzz_write(const char *name, const void *data, size_t n, size_t size)
{
    int fd = create(name);
    assert(n == 0 || pwrite(fd, data, n, 0) == (ssize_t)n);
    if (size > n)
        assert(ftruncate(fd, (off_t)(size < FILE_MAX ? size : FILE_MAX)) == 0);
    close(fd);
}

void fuzz_write_runs(const char *name, const uint8_t *data, size_t n)
{
    int fd = create(name);
    size_t at = 0;
    while (n >= 2 && at < FILE_MAX) {
        size_t length = (size_t)data[0] | (size_t)data[1] << 8;
        length = length < n - 2 ? length : n - 2;
        assert(pwrite(fd, data + 2, length, (off_t)at) == (ssize_t)length);
        at += length;
        data += 2 + length;
        n -= 2 + length;
        uint32_t zeros = 0;
        size_t part = n < sizeof(zeros) ? n : sizeof(zeros);
        memcpy(&zeros, data, part);
        data += part;
        n -= part;
        at = zeros < FILE_MAX - at ? at + zeros : at;
        assert(ftruncate(fd, (off_t)at) == 0);
    }
    close(fd);
}

static void read_tensor(const struct weights *w, const char *name, size_t n)
{
    struct err err = {0};
    float *values = malloc(n * sizeof(float));
    assert(values);
    int r = weights_read(w, name, values, n, &err);
    assert(r <= 0 && (r == 0 || err.code == r));
    free(values);
}

static void read_tensors(const struct weights *w)
{
    const struct whisper_dims *d = weights_dims(w);
    size_t state = (size_t)d->n_text_state;
    read_tensor(w, "encoder.conv1.weight", state * (size_t)d->n_mels * 3);
    read_tensor(w, "encoder.positional_embedding", (size_t)d->n_audio_ctx * state);
    read_tensor(w, "encoder.blocks.0.attn.key.weight", state * state);
    read_tensor(w, "encoder.blocks.0.mlp.0.weight", 4 * state * state);
    read_tensor(w, "decoder.token_embedding.weight", (size_t)d->n_vocab * state);
    read_tensor(w, "decoder.blocks.0.cross_attn.value.bias", state);
    read_tensor(w, "decoder.blocks.0.cross_attn.value.weight", state * state);
    read_tensor(w, "decoder.ln.weight", state);
}

static const char *token_bytes(const void *ctx, int32_t id, size_t *n_bytes)
{
    return weights_token_bytes(ctx, id, n_bytes);
}

static void use_tokenizer(const struct weights *w, const char *path)
{
    static const char text[] = " It's a b c 42! \xc3\xa9\xe2\x82\xac\xff   \n w300";
    struct tokenizer *t = NULL;
    struct err err = {0};
    int32_t tokens[256];
    char decoded[512];
    int r = tokenizer_create(weights_dims(w)->n_vocab, token_bytes, w, &t, &err);
    assert(r <= 0 && (r < 0) == !t);
    if (r < 0)
        return;
    int n = tokenizer_encode(t, text, sizeof(text) - 1, tokens, 256);
    assert(n <= 256);
    tokenizer_decode(t, tokens, n > 0 ? n : 0, decoded, sizeof(decoded));
    r = generation_config_apply(path, t, &err);
    assert(r == 0 || (r < 0 && err.code == r && err.msg[0]));
    tokenizer_suppressed(t, tokens, 256);
    tokenizer_destroy(t);
}

void fuzz_open(const char *name)
{
    char path[128];
    struct weights *w = NULL;
    struct err err = {0};
    snprintf(path, sizeof(path), "%s%s%s", fuzz_folder(), name[0] ? "/" : "", name);
    int r = weights_open(path, &w, &err);
    if (r < 0) {
        assert(!w && err.code == r && err.msg[0] && !strchr(err.msg, '\n'));
        return;
    }
    const struct align_head *heads;
    int n = weights_align_heads(w, &heads);
    assert(n > 0 && n <= RUN_ALIGN_HEADS);
    for (int i = 0; i < n; i++)
        assert(heads[i].layer < weights_dims(w)->n_text_layer &&
               heads[i].head < weights_dims(w)->n_text_head);
    read_tensors(w);
    weights_close_files(w);
    use_tokenizer(w, path);
    weights_close(w);
}
