#include "tests/support/tiny_model.h"

#include <assert.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/blocks.h"
#include "tests/support/support.h"

/* --- the weights -------------------------------------------------------------------------------------------------- */

/* The names' hash by FNV-1a: each tensor has numbers of its own, whatever the order in which they are made. */
static uint64_t stream_of(const char *name, uint64_t seed)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    return hash + seed * 0x9e3779b97f4a7c15u;
}

/* Nearly normal, with deviation 1: the sum of the four 16-bit parts of number `index` of a splitmix64 stream. Whole
 * numbers until the last step, so that tools/golden/shapes.py makes the same, bit for bit. */
static float normal(uint64_t stream, uint64_t index)
{
    uint64_t z = stream + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    int sum = (int)(z & 0xffff) + (int)(z >> 16 & 0xffff) + (int)(z >> 32 & 0xffff) + (int)(z >> 48);
    return (float)(sum - 131070) * 0x1.bb67aep-16f; /* √3 / 2¹⁶ */
}

void tiny_model_noise(const char *name, uint64_t seed, float deviation, float *values, size_t n)
{
    uint64_t stream = stream_of(name, seed);
    for (size_t i = 0; i < n; i++)
        values[i] = deviation * normal(stream, i);
}

static void add(struct tiny_model *m, const char *name, int n_dims, const int *dims, float mean,
                float deviation)
{
    struct tiny_tensor *t = &m->tensors[m->n_tensors++];
    uint64_t stream = stream_of(name, m->seed);
    size_t n = 1;
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->n_dims = n_dims;
    for (int i = 0; i < n_dims; i++)
        n *= (size_t)(t->dims[i] = dims[i]);
    t->values = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        t->values[i] = from_half(to_half(mean + deviation * normal(stream, i)));
}

static void add_linear(struct tiny_model *m, const char *prefix, const char *name, int n_out, int n_in,
                       bool bias)
{
    char full[64];
    snprintf(full, sizeof(full), "%s.%s.weight", prefix, name);
    add(m, full, 2, (int[]){n_out, n_in}, 0.0f, 1.5f / sqrtf((float)n_in));
    snprintf(full, sizeof(full), "%s.%s.bias", prefix, name);
    if (bias)
        add(m, full, 1, (int[]){n_out}, 0.0f, 0.1f);
}

static void add_norm(struct tiny_model *m, const char *prefix, const char *name)
{
    char full[64];
    snprintf(full, sizeof(full), "%s.%s.weight", prefix, name);
    add(m, full, 1, &m->dims.n_text_state, 1.0f, 0.2f);
    snprintf(full, sizeof(full), "%s.%s.bias", prefix, name);
    add(m, full, 1, &m->dims.n_text_state, 0.0f, 0.1f);
}

static void add_attention(struct tiny_model *m, const char *prefix, const char *name)
{
    char full[64];
    int n = m->dims.n_text_state;
    snprintf(full, sizeof(full), "%s.%s", prefix, name);
    add_linear(m, full, "query", n, n, true);
    add_linear(m, full, "key", n, n, false);
    add_linear(m, full, "value", n, n, true);
    add_linear(m, full, "out", n, n, true);
}

static void add_layers(struct tiny_model *m, const char *side, int n_layers, bool cross)
{
    int n = m->dims.n_text_state;
    for (int i = 0; i < n_layers; i++) {
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "%s.blocks.%d", side, i);
        add_norm(m, prefix, "attn_ln");
        add_attention(m, prefix, "attn");
        if (cross) {
            add_norm(m, prefix, "cross_attn_ln");
            add_attention(m, prefix, "cross_attn");
        }
        add_norm(m, prefix, "mlp_ln");
        add_linear(m, prefix, "mlp.0", 4 * n, n, true);
        add_linear(m, prefix, "mlp.2", n, 4 * n, true);
    }
}

void tiny_model_init_dims(struct tiny_model *m, uint64_t seed, const struct whisper_dims *dims)
{
    *m = (struct tiny_model){.dims = *dims, .seed = seed, .n_words = 50257};
    int n_tensors =
        16 + 16 * dims->n_audio_layer + 28 * dims->n_text_layer; /* and a few more than there are */
    m->tensors = calloc((size_t)n_tensors, sizeof(*m->tensors));
    int n = m->dims.n_text_state;
    add(m, "encoder.conv1.weight", 3, (int[]){n, dims->n_mels, 3}, 0.0f, 0.1f);
    add(m, "encoder.conv1.bias", 1, &n, 0.0f, 0.1f);
    add(m, "encoder.conv2.weight", 3, (int[]){n, n, 3}, 0.0f, 0.1f);
    add(m, "encoder.conv2.bias", 1, &n, 0.0f, 0.1f);
    add(m, "encoder.positional_embedding", 2, (int[]){dims->n_audio_ctx, n}, 0.0f, 0.5f);
    add_layers(m, "encoder", dims->n_audio_layer, false);
    add_norm(m, "encoder", "ln_post");
    /* Small against what the layers add, or every token would be followed by itself. */
    add(m, "decoder.token_embedding.weight", 2, (int[]){dims->n_vocab, n}, 0.0f, 0.05f);
    add(m, "decoder.positional_embedding", 2, (int[]){dims->n_text_ctx, n}, 0.0f, 0.3f);
    add_layers(m, "decoder", dims->n_text_layer, true);
    add_norm(m, "decoder", "ln");
}

void tiny_model_init(struct tiny_model *m, uint64_t seed, int n_audio_ctx, int n_text_ctx)
{
    tiny_model_init_dims(m, seed,
                         &(struct whisper_dims){80, n_audio_ctx, 128, 2, 2, 51864, n_text_ctx, 128, 2, 2, 0});
}

void tiny_model_init_v3(struct tiny_model *m, uint64_t seed, int n_audio_ctx, int n_text_ctx)
{
    tiny_model_init_dims(
        m, seed, &(struct whisper_dims){128, n_audio_ctx, 128, 2, 2, 51866, n_text_ctx, 128, 2, 2, 0});
}

static bool is_named(const struct tiny_tensor *t, const char *begin, const char *end)
{
    size_t n = strlen(t->name), n_end = strlen(end);
    return strncmp(t->name, begin, strlen(begin)) == 0 && n >= n_end && !strcmp(t->name + n - n_end, end);
}

static void scale(struct tiny_model *m, const char *begin, const char *end, float by)
{
    for (int i = 0; i < m->n_tensors; i++) {
        for (size_t k = 0; is_named(&m->tensors[i], begin, end) && k < tiny_tensor_count(&m->tensors[i]); k++)
            m->tensors[i].values[k] *= by;
    }
}

/* Powers of two leave half floats what they are. */
void tiny_model_init_sure(struct tiny_model *m)
{
    enum { SEED = 56, FIRST_WORD = 256, N_WORDS = 40, EOT = 50256 };
    tiny_model_init(m, SEED, 70, 448);
    m->n_words = FIRST_WORD + N_WORDS;
    float *embedding = tiny_model_find(m, "decoder.token_embedding.weight")->values;
    int n = m->dims.n_text_state;
    for (int id = 0; id < m->dims.n_vocab; id++) {
        bool word = id >= FIRST_WORD && id < FIRST_WORD + N_WORDS;
        for (int i = 0; i < n; i++)
            embedding[id * n + i] *= id == EOT ? 2.0f : word ? 1.0f : 0.0f;
    }
    scale(m, "decoder.", ".bias", 0.0f);
    scale(m, "decoder.", "mlp.2.weight", 0.25f);
    scale(m, "decoder.", "cross_attn.query.weight", 4.0f);
    scale(m, "decoder.", "positional_embedding", 8.0f);
    scale(m, "decoder.", "decoder.ln.weight", 16.0f);
}

void tiny_model_finish(struct tiny_model *m)
{
    for (int i = 0; i < m->n_tensors; i++)
        free(m->tensors[i].values);
    free(m->tensors);
}

const struct tiny_tensor *tiny_model_find(const struct tiny_model *m, const char *name)
{
    for (int i = 0; i < m->n_tensors; i++) {
        if (!strcmp(m->tensors[i].name, name))
            return &m->tensors[i];
    }
    return NULL;
}

const float *tiny_model_tensor(const struct tiny_model *m, const char *name)
{
    const struct tiny_tensor *t = tiny_model_find(m, name);
    return t ? t->values : NULL;
}

int tiny_model_token(int id, char bytes[16])
{
    if (id < 256) {
        bytes[0] = (char)id;
        return 1;
    }
    return snprintf(bytes, 16, " w%d", id);
}

size_t tiny_tensor_count(const struct tiny_tensor *t)
{
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= (size_t)t->dims[i];
    return n;
}

/* --- files -------------------------------------------------------------------------------------------------------- */

const char *tiny_folder(void)
{
    static char path[256];
    const char *base = getenv("TMPDIR");
    snprintf(path, sizeof(path), "%s/captiond-test-XXXXXX", base && base[0] ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    return path;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void tiny_folder_remove(const char *folder)
{
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}
