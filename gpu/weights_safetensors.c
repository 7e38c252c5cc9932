/* Hugging Face folders: tensors in one .safetensors file or in several that an index lists, config.json with the
 * model's shape, generation_config.json with the alignment heads, and the vocabulary. Tensors that the graph does not
 * need are ignored. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/weights_file.h"
#include "gpu/weights_json.h"

#define HEADER_BYTES_MAX ((uint64_t)16 << 20) /* large-v3's has 150 kB */

/* --- config.json -------------------------------------------------------------------------------------------------- */

static int read_dims(struct weights *w, const json_t *config, struct err *err)
{
    struct whisper_dims *d = &w->dims;
    const struct {
        const char *name;
        int *value;
    } fields[] = {
        {"d_model", &d->n_audio_state},
        {"encoder_layers", &d->n_audio_layer},
        {"encoder_attention_heads", &d->n_audio_head},
        {"decoder_layers", &d->n_text_layer},
        {"decoder_attention_heads", &d->n_text_head},
        {"num_mel_bins", &d->n_mels},
        {"max_source_positions", &d->n_audio_ctx},
        {"max_target_positions", &d->n_text_ctx},
        {"vocab_size", &d->n_vocab},
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        const json_t *field = json_object_get(config, fields[i].name);
        json_int_t value = json_integer_value(field);
        if (!json_is_integer(field) || value < 1 || value > 1000000)
            return err_set(err, -EINVAL, "%s/config.json: %s is no plausible number", w->folder,
                           fields[i].name);
        *fields[i].value = (int)value;
    }
    d->n_text_state = d->n_audio_state;
    return 0;
}

/* What the graph takes for granted; older files do not say all of it. */
static int check_kind(const struct weights *w, const json_t *config, struct err *err)
{
    static const struct {
        const char *name, *wanted;
    } texts[] = {{"model_type", "whisper"}, {"activation_function", "gelu"}};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        const json_t *field = json_object_get(config, texts[i].name);
        const char *text = json_string_value(field);
        if (field && (!text || strcmp(text, texts[i].wanted) != 0))
            return err_set(err, -EINVAL, "%s/config.json: %s is not \"%s\"", w->folder, texts[i].name,
                           texts[i].wanted);
    }
    if (json_is_true(json_object_get(config, "scale_embedding")))
        return err_set(err, -EINVAL, "%s/config.json: scale_embedding is not supported", w->folder);
    return 0;
}

static int read_config(struct weights *w, struct err *err)
{
    json_t *config = NULL;
    int r = weights_load_json(w, "config.json", &config, err);
    if (r == 0)
        r = check_kind(w, config, err);
    if (r == 0)
        r = read_dims(w, config, err);
    json_decref(config);
    return r;
}

/* --- one file ----------------------------------------------------------------------------------------------------- */

static const struct codec *codec_of(const char *type)
{
    return !strcmp(type, "F32")    ? &codec_f32
           : !strcmp(type, "F16")  ? &codec_f16
           : !strcmp(type, "BF16") ? &codec_bf16
                                   : &codec_other;
}

/* Entry `index` of an array; false where that is no whole number between 0 and `high`. */
static bool get_size(const json_t *array, size_t index, size_t high, size_t *value)
{
    const json_t *number = json_array_get(array, index);
    json_int_t i = json_integer_value(number);
    if (!json_is_integer(number) || i < 0 || (uintmax_t)i > high)
        return false;
    *value = (size_t)i;
    return true;
}

static bool read_shape(const json_t *shape, struct tensor *t)
{
    if (!json_is_array(shape) || json_array_size(shape) > TENSOR_DIMS_MAX)
        return false;
    t->n_dims = (int)json_array_size(shape);
    for (int i = 0; i < t->n_dims; i++) {
        size_t dim;
        if (!get_size(shape, (size_t)i, INT32_MAX, &dim))
            return false;
        t->dims[i] = (uint32_t)dim;
    }
    return true;
}

/* {"dtype": "F16", "shape": [3, 4], "data_offsets": [begin, end]}; the offsets count from `data`. */
static int read_entry(const struct model_file *file, size_t data, const char *name, const json_t *entry,
                      struct tensor *t, struct err *err)
{
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    size_t begin, end, bytes;
    snprintf(t->name, sizeof(t->name), "%s", name); /* a name that is cut is none that will be asked for */
    t->file = file;
    if (!type)
        return weights_damaged(file, 8, t->name, err, "it has no dtype");
    if (!read_shape(json_object_get(entry, "shape"), t))
        return weights_damaged(file, 8, t->name, err, "its shape is not one of at most %d sizes",
                               TENSOR_DIMS_MAX);
    if (json_array_size(offsets) != 2 || !get_size(offsets, 0, file->size - data, &begin) ||
        !get_size(offsets, 1, file->size - data, &end) || end < begin)
        return weights_damaged(file, 8, t->name, err, "its data_offsets do not lie in the %zu bytes of data",
                               file->size - data);
    t->codec = codec_of(type);
    t->offset = data + begin;
    t->bytes = end - begin;
    if (t->codec != &codec_other &&
        (!tensor_bytes(t->codec, t->dims, t->n_dims, &bytes) || bytes != t->bytes))
        return weights_damaged(file, t->offset, t->name, err, "%zu bytes do not fit shape and type",
                               t->bytes);
    return 0;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    return x->offset != y->offset ? (x->offset > y->offset) - (x->offset < y->offset)
                                  : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The format wants every byte to belong to exactly one tensor. */
static int check_cover(struct tensor *tensors, int n, size_t data, const struct model_file *file,
                       struct err *err)
{
    qsort(tensors, (size_t)n, sizeof(*tensors), compare_offsets);
    for (int i = 0; i < n; i++) {
        if (tensors[i].offset != data)
            return weights_damaged(file, tensors[i].offset, tensors[i].name, err,
                                   "it does not follow the tensor before it, which ends at byte %zu", data);
        data += tensors[i].bytes;
    }
    return data == file->size
               ? 0
               : weights_damaged(file, data, "end", err, "%zu more bytes follow", file->size - data);
}

static int read_entries(struct weights *w, const struct model_file *file, size_t data, json_t *header,
                        struct err *err)
{
    const char *name;
    json_t *entry;
    int first = w->n_tensors;
    json_object_foreach(header, name, entry)
    {
        if (!strcmp(name, "__metadata__"))
            continue;
        if (w->n_tensors == TENSORS_MAX)
            return weights_damaged(file, 8, "header", err, "there are more than %d tensors", TENSORS_MAX);
        int r = read_entry(file, data, name, entry, &w->tensors[w->n_tensors], err);
        if (r < 0)
            return r;
        w->n_tensors++;
    }
    return check_cover(w->tensors + first, w->n_tensors - first, data, file, err);
}

static int read_file(struct weights *w, const struct model_file *file, struct err *err)
{
    uint64_t n = 0;
    int r = model_file_read(file, 0, &n, sizeof(n), err);
    if (r < 0)
        return r;
    if (n > HEADER_BYTES_MAX || n > file->size - sizeof(n))
        return weights_damaged(file, 0, "size of the header", err, "%llu bytes are not in the file",
                               (unsigned long long)n);
    char *text = malloc((size_t)n + 1);
    if (!text)
        return err_set(err, -ENOMEM, "%s: out of memory", file->path);
    r = model_file_read(file, sizeof(n), text, (size_t)n, err);
    json_error_t error;
    json_t *header = r == 0 ? json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &error) : NULL;
    free(text);
    if (r == 0 && !json_is_object(header))
        r = weights_damaged(file, sizeof(n) + (header ? 0 : (size_t)error.position), "header", err, "%s",
                            header ? "not a JSON object" : error.text);
    if (r == 0)
        r = read_entries(w, file, sizeof(n) + (size_t)n, header, err);
    json_decref(header);
    return r;
}

/* --- the folder --------------------------------------------------------------------------------------------------- */

static bool is_open(const struct weights *w, const char *path)
{
    for (int i = 0; i < w->n_files; i++) {
        if (!strcmp(w->files[i].path, path))
            return true;
    }
    return false;
}

/* "weight_map": {"tensor": "file", …}. Files are opened in the order in which they are first named. */
static int open_listed(struct weights *w, json_t *map, struct err *err)
{
    const char *tensor;
    json_t *value;
    if (json_object_size(map) == 0)
        return err_set(err, -EINVAL, "%s: weight_map is missing", w->path);
    json_object_foreach(map, tensor, value)
    {
        const char *file = json_string_value(value);
        char *path;
        if (!file || strchr(file, '/') || file[0] == '.')
            return err_set(err, -EINVAL, "%s: %.64s is not in a file of the folder", w->path, tensor);
        if (asprintf(&path, "%s/%s", w->folder, file) < 0)
            return err_set(err, -ENOMEM, "%s: out of memory", w->path);
        int r = is_open(w, path) ? 0 : weights_add_file(w, path, err);
        free(path);
        if (r < 0)
            return r;
    }
    return 0;
}

static int open_files(struct weights *w, struct err *err)
{
    json_t *index = NULL;
    int r = weights_load_json(w, "model.safetensors.index.json", &index, err);
    if (r == -ENOENT)
        return 0; /* the one that is open is all */
    weights_close_files(w);
    if (r == 0)
        r = open_listed(w, json_object_get(index, "weight_map"), err);
    json_decref(index);
    return r;
}

static int parse(struct weights *w, struct err *err)
{
    int r = read_config(w, err);
    if (r == 0)
        r = open_files(w, err);
    if (r == 0)
        r = weights_take_tensors(w, err);
    for (int i = 0; i < w->n_files && r == 0; i++)
        r = read_file(w, &w->files[i], err);
    if (r == 0)
        r = weights_sort(w, err);
    if (r == 0)
        r = weights_check_tied(w, "proj_out.weight", "model.decoder.embed_tokens.weight", err);
    if (r == 0)
        r = weights_read_heads(w, "generation_config.json", err);
    return r < 0 ? r : weights_read_vocabulary(w, err);
}

/* --- names -------------------------------------------------------------------------------------------------------- */

static const struct renaming {
    const char *openai, *hugging_face;
} once[] = {{"conv1", "conv1"},
            {"conv2", "conv2"},
            {"ln_post", "layer_norm"},
            {"ln", "layer_norm"},
            {"token_embedding", "embed_tokens"},
            {"positional_embedding", "embed_positions"}},
  in_layer[] = {
      {"attn_ln", "self_attn_layer_norm"},
      {"attn.query", "self_attn.q_proj"},
      {"attn.key", "self_attn.k_proj"},
      {"attn.value", "self_attn.v_proj"},
      {"attn.out", "self_attn.out_proj"},
      {"cross_attn_ln", "encoder_attn_layer_norm"},
      {"cross_attn.query", "encoder_attn.q_proj"},
      {"cross_attn.key", "encoder_attn.k_proj"},
      {"cross_attn.value", "encoder_attn.v_proj"},
      {"cross_attn.out", "encoder_attn.out_proj"},
      {"mlp_ln", "final_layer_norm"},
      {"mlp.0", "fc1"},
      {"mlp.2", "fc2"},
};

static bool find(const struct weights *w, const char *openai, struct tensor *t)
{
    struct tensor_name name;
    char file_name[TENSOR_NAME_MAX], layer[32] = "";
    if (!tensor_name_parse(openai, &name))
        return false;
    const struct renaming *r = name.layer < 0 ? once : in_layer;
    size_t n = name.layer < 0 ? sizeof(once) / sizeof(once[0]) : sizeof(in_layer) / sizeof(in_layer[0]);
    for (; n > 0 && strcmp(r->openai, name.stem) != 0; n--)
        r++;
    if (n == 0)
        return false;
    if (name.layer >= 0)
        snprintf(layer, sizeof(layer), "layers.%d.", name.layer);
    snprintf(file_name, sizeof(file_name), "model.%s.%s%s.%s", name.side, layer, r->hugging_face,
             name.bias ? "bias" : "weight");
    const struct tensor *found = weights_lookup(w, file_name);
    if (!found) /* saved without the class that knows the output projection */
        found = weights_lookup(w, file_name + strlen("model."));
    if (found)
        *t = *found;
    return found;
}

const struct weights_format weights_safetensors = {.parse = parse, .find = find, .exact = false};
