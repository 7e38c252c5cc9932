/* Hugging Face folders as transformers' save_pretrained writes them. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/support/support.h"
#include "tests/support/tiny_writer.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

static const struct {
    const char *openai, *hugging_face;
} parts[] = {
    {"cross_attn_ln", "encoder_attn_layer_norm"},
    {"cross_attn.query", "encoder_attn.q_proj"},
    {"cross_attn.key", "encoder_attn.k_proj"},
    {"cross_attn.value", "encoder_attn.v_proj"},
    {"cross_attn.out", "encoder_attn.out_proj"},
    {"attn_ln", "self_attn_layer_norm"},
    {"attn.query", "self_attn.q_proj"},
    {"attn.key", "self_attn.k_proj"},
    {"attn.value", "self_attn.v_proj"},
    {"attn.out", "self_attn.out_proj"},
    {"mlp_ln", "final_layer_norm"},
    {"mlp.0", "fc1"},
    {"mlp.2", "fc2"},
    {"ln_post", "layer_norm"},
    {"ln", "layer_norm"},
    {"token_embedding", "embed_tokens"},
    {"positional_embedding", "embed_positions.weight"},
    {"blocks", "layers"},
};

/* encoder.blocks.0.attn.query.weight → model.encoder.layers.0.self_attn.q_proj.weight: each run of components that the
 * table knows is replaced. */
static void rename_tensor(const char *openai, char name[128])
{
    strcpy(name, "model");
    while (*openai) {
        int known = 0;
        size_t n = 0;
        for (; known < COUNT(parts); known++) {
            n = strlen(parts[known].openai);
            if (!strncmp(openai, parts[known].openai, n) && (openai[n] == '.' || !openai[n]))
                break;
        }
        if (known == COUNT(parts))
            n = strcspn(openai, ".");
        strcat(name, ".");
        if (known < COUNT(parts))
            strcat(name, parts[known].hugging_face);
        else
            strncat(name, openai, n);
        openai += n + (openai[n] == '.');
    }
}

static void write_shard(const struct tiny_model *m, const char *path, enum tiny_type type, int shard,
                        int n_shards, struct tiny_layout *layout)
{
    static const char *const types[] = {[TINY_F32] = "F32", [TINY_F16] = "F16", [TINY_BF16] = "BF16"};
    struct writer w;
    char *header = NULL;
    size_t header_bytes = 0, at = 0;
    FILE *text = open_memstream(&header, &header_bytes);
    fprintf(text, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = shard; i < m->n_tensors; i += n_shards) {
        const struct tiny_tensor *t = &m->tensors[i];
        char name[128];
        rename_tensor(t->name, name);
        fprintf(text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", name, types[type]);
        for (int k = 0; k < t->n_dims; k++)
            fprintf(text, "%s%d", k ? "," : "", t->dims[k]);
        size_t bytes = tiny_tensor_count(t) * (type == TINY_F32 ? 4 : 2);
        fprintf(text, "],\"data_offsets\":[%zu,%zu]}", at, at + bytes);
        at += bytes;
    }
    fprintf(text, "}");
    fclose(text);
    writer_open(&w, path, layout);
    uint64_t n = header_bytes;
    put(&w, "header size", &n, sizeof(n));
    put(&w, "header", header, header_bytes);
    free(header);
    for (int i = shard; i < m->n_tensors; i += n_shards) {
        put(&w, "data", NULL, 0);
        put_values(&w, m->tensors[i].values, tiny_tensor_count(&m->tensors[i]), type);
    }
    writer_close(&w);
}

static void write_index(const struct tiny_model *m, const char *folder, int n_shards)
{
    struct writer w;
    char path[512];
    snprintf(path, sizeof(path), "%s/model.safetensors.index.json", folder);
    writer_open(&w, path, NULL);
    fprintf(w.f, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (int i = 0; i < m->n_tensors; i++) {
        char name[128];
        rename_tensor(m->tensors[i].name, name);
        fprintf(w.f, "%s\"%s\":\"model-%05d-of-%05d.safetensors\"", i ? "," : "", name, i % n_shards + 1,
                n_shards);
    }
    fprintf(w.f, "}}");
    writer_close(&w);
}

static void write_config(const struct tiny_model *m, const char *folder)
{
    const struct whisper_dims *d = &m->dims;
    char text[1024];
    snprintf(text, sizeof(text),
             "{\"model_type\":\"whisper\",\"activation_function\":\"gelu\",\"scale_embedding\":false,"
             "\"d_model\":%d,\"encoder_layers\":%d,\"encoder_attention_heads\":%d,\"decoder_layers\":%d,"
             "\"decoder_attention_heads\":%d,\"num_mel_bins\":%d,\"max_source_positions\":%d,"
             "\"max_target_positions\":%d,\"vocab_size\":%d}",
             d->n_text_state, d->n_audio_layer, d->n_audio_head, d->n_text_layer, d->n_text_head, d->n_mels,
             d->n_audio_ctx, d->n_text_ctx, d->n_vocab);
    tiny_write_text(folder, "config.json", text);
    put_heads(m, folder, "generation_config.json");
}

void tiny_model_write_safetensors(const struct tiny_model *m, const char *folder, enum tiny_type type,
                                  int n_shards, struct tiny_layout *layout)
{
    char path[512];
    mkdir(folder, 0700);
    snprintf(path, sizeof(path), "%s/model.safetensors", folder);
    for (int i = 0; i < n_shards; i++) {
        if (n_shards > 1)
            snprintf(path, sizeof(path), "%s/model-%05d-of-%05d.safetensors", folder, i + 1, n_shards);
        write_shard(m, path, type, i, n_shards, i == 0 ? layout : NULL);
    }
    if (n_shards > 1)
        write_index(m, folder, n_shards);
    write_config(m, folder);
    snprintf(path, sizeof(path), "%s/vocab.json", folder);
    struct writer w;
    writer_open(&w, path, NULL);
    put_vocabulary(m, w.f);
    writer_close(&w);
}
