/* What each format of model files has of its own: number types, files that belong together, ways to be wrong. */
#include "tests/support/support.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gpu/weights.h"
#include "tests/support/tiny_model.h"

static struct tiny_model model;
static char folder[256], path[512];

static int setup(void **state)
{
    tiny_model_init(&model, 4, 20, 32);
    model.n_words = 300;
    snprintf(folder, sizeof(folder), "%s", tiny_folder());
    return 0;
}

static int teardown(void **state)
{
    tiny_folder_remove(folder);
    tiny_model_finish(&model);
    return 0;
}

static const char *under(const char *name)
{
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void write_bytes(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(under(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static char *read_text(const char *name, size_t *n)
{
    struct stat st;
    FILE *f = fopen(under(name), "rb");
    assert_non_null(f);
    assert_int_equal(fstat(fileno(f), &st), 0);
    *n = (size_t)st.st_size;
    char *text = malloc(*n + 1);
    assert_int_equal(fread(text, 1, *n, f), *n);
    text[*n] = 0;
    fclose(f);
    return text;
}

static struct weights *open_ok(const char *name)
{
    struct weights *w = NULL;
    struct err err = {0};
    if (weights_open(under(name), &w, &err) < 0)
        fail_msg("%s", err.msg);
    return w;
}

static void expect_refused(const char *name, const char *says)
{
    struct weights *w = NULL;
    struct err err = {0};
    int r = weights_open(under(name), &w, &err);
    if (r != -EINVAL && r != -ENOENT)
        fail_msg("%s: %d instead of a refusal that says \"%s\"", name, r, says);
    assert_null(w);
    if (!strstr(err.msg, says) || strncmp(err.msg, folder, strlen(folder)) != 0 || strchr(err.msg, '\n'))
        fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
}

/* --- numbers ------------------------------------------------------------------------------------------------------ */

/* Every tensor has exactly the numbers that are expected of it. */
static void expect_numbers(const char *name, void (*expected)(const struct tiny_tensor *, float *))
{
    struct weights *w = open_ok(name);
    for (int i = 0; i < model.n_tensors; i++) {
        const struct tiny_tensor *t = &model.tensors[i];
        size_t n = tiny_tensor_count(t);
        float *values = malloc(n * sizeof(float)), *wanted = malloc(n * sizeof(float));
        struct err err = {0};
        if (weights_read(w, t->name, values, n, &err) < 0)
            fail_msg("%s", err.msg);
        expected(t, wanted);
        for (size_t k = 0; k < n; k++) {
            if (values[k] != wanted[k])
                fail_msg("%s: number %zu of %s is %g instead of %g", name, k, t->name, (double)values[k],
                         (double)wanted[k]);
        }
        free(values);
        free(wanted);
    }
    weights_close(w);
}

static void same(const struct tiny_tensor *t, float *values)
{
    memcpy(values, t->values, tiny_tensor_count(t) * sizeof(float));
}

static void rounded_to_bf16(const struct tiny_tensor *t, float *values)
{
    for (size_t i = 0; i < tiny_tensor_count(t); i++) {
        float great = t->values[i] * 65537.0f; /* Veltkamp's splitting leaves the upper 8 bits, rounded */
        values[i] = great - (great - t->values[i]);
    }
}

static bool is_quantised(const struct tiny_tensor *t)
{
    return t->n_dims > 1 && strstr(t->name, "weight");
}

static void in_8_bits(const struct tiny_tensor *t, float *values,
                      void (*others)(const struct tiny_tensor *, float *))
{
    if (!is_quantised(t)) {
        others(t, values);
        return;
    }
    size_t row = tiny_tensor_count(t) / (size_t)t->dims[0];
    for (size_t i = 0; i < tiny_tensor_count(t); i++) {
        float scale = tiny_ct2_scale(8, t->values + i / row * row, row);
        values[i] = rintf(t->values[i] * scale) / scale;
    }
}

static void in_8_bits_and_f16(const struct tiny_tensor *t, float *values)
{
    in_8_bits(t, values, same);
}

static void in_8_bits_and_bf16(const struct tiny_tensor *t, float *values)
{
    in_8_bits(t, values, rounded_to_bf16);
}

/* Query, key and value are one variable with one scale; in cross-attention, key and value. */
static void in_16_bits(const struct tiny_tensor *t, float *values)
{
    static const char *const fused[] = {"attn.query", "attn.key", "attn.value"};
    char name[64];
    float largest = 0.0f;
    same(t, values);
    if (!is_quantised(t))
        return;
    bool cross = strstr(t->name, "cross_attn"), any = false;
    for (int i = cross; i < 3; i++)
        any = any || strstr(t->name, fused[i]);
    for (int i = any ? cross : 2; i < 3; i++) {
        const struct tiny_tensor *part = t;
        const char *at = strstr(t->name, "attn.");
        if (any) {
            snprintf(name, sizeof(name), "%.*s%s.weight", (int)(at - t->name), t->name, fused[i]);
            part = tiny_model_find(&model, name);
        }
        for (size_t k = 0; k < tiny_tensor_count(part); k++)
            largest = fmaxf(largest, fabsf(part->values[k]));
    }
    for (size_t k = 0; k < tiny_tensor_count(t); k++)
        values[k] = rintf(t->values[k] * (1024.0f / largest)) / (1024.0f / largest);
}

static void every_type_of_ctranslate2_is_read(void **state)
{
    static const struct {
        enum tiny_type type;
        int bits;
        void (*expected)(const struct tiny_tensor *, float *);
    } cases[] = {
        {TINY_F32, 0, same},
        {TINY_F16, 0, same},
        {TINY_BF16, 0, rounded_to_bf16},
        {TINY_F32, 8, in_8_bits_and_f16}, /* the model's numbers are exact in both */
        {TINY_F16, 8, in_8_bits_and_f16},
        {TINY_BF16, 8, in_8_bits_and_bf16},
        {TINY_F32, 16, in_16_bits},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tiny_model_write_ct2_as(&model, under("ct2"), cases[i].type, cases[i].bits, NULL);
        expect_numbers("ct2", cases[i].expected);
    }
}

static void every_type_of_safetensors_is_read(void **state)
{
    static void (*const expected[])(const struct tiny_tensor *, float *) = {
        [TINY_F32] = same, [TINY_F16] = same, [TINY_BF16] = rounded_to_bf16};
    for (int type = TINY_F32; type <= TINY_BF16; type++) {
        tiny_model_write_safetensors(&model, under("hub"), (enum tiny_type)type, 1, NULL);
        expect_numbers("hub", expected[type]);
        char shards[16];
        snprintf(shards, sizeof(shards), "hub-%d", type);
        tiny_model_write_safetensors(&model, under(shards), (enum tiny_type)type, 4, NULL);
        expect_numbers(shards, expected[type]);
    }
}

/* --- CTranslate2 -------------------------------------------------------------------------------------------------- */

static const struct tiny_field *field_after(const struct tiny_layout *layout, size_t offset, const char *what)
{
    for (int i = 0; i < layout->n; i++) {
        if (layout->fields[i].offset >= offset && !strcmp(layout->fields[i].what, what))
            return &layout->fields[i];
    }
    fail();
    return NULL;
}

static size_t find_bytes(const char *file, const char *text)
{
    size_t n;
    char *bytes = read_text(file, &n), *at = memmem(bytes, n, text, strlen(text) + 1);
    assert_non_null(at);
    size_t offset = (size_t)(at - bytes);
    free(bytes);
    return offset;
}

static void overwrite(const char *file, size_t offset, const void *bytes, size_t n)
{
    FILE *f = fopen(under(file), "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)offset, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void quantised_variables_need_their_scales(void **state)
{
    static const float wrong[] = {0.0f, -1.0f, NAN, INFINITY};
    struct tiny_layout layout;
    tiny_model_write_ct2_as(&model, under("int8"), TINY_F32, 8, &layout);
    size_t name = find_bytes("int8/model.bin", "encoder/layer_0/ffn/linear_0/weight_scale");
    overwrite("int8/model.bin", name, "E", 1);
    expect_refused("int8", "without a scale");
    overwrite("int8/model.bin", name, "e", 1);
    size_t scales = field_after(&layout, name, "data")->offset;
    float *values = malloc((size_t)512 * 128 * sizeof(float));
    for (size_t i = 0; i < 4; i++) {
        struct err err = {0};
        tiny_model_write_ct2_as(&model, under("int8"), TINY_F32, 8, NULL);
        overwrite("int8/model.bin", scales + 100 * sizeof(float), &wrong[i], sizeof(float));
        struct weights *w = open_ok("int8");
        assert_int_equal(weights_read(w, "encoder.blocks.0.mlp.0.weight", values, (size_t)512 * 128, &err),
                         -EINVAL);
        char place[32];
        snprintf(place, sizeof(place), "at byte %zu", scales + 100 * sizeof(float));
        if (!strstr(err.msg, "scale") || !strstr(err.msg, place))
            fail_msg("\"%s\" does not name the scale at byte %zu", err.msg, scales + 400);
        weights_close(w);
    }
    free(values);
    tiny_layout_finish(&layout);
}

/* The converter writes equal variables once; a file whose aliases point nowhere is refused. */
static void aliases_stand_for_their_targets(void **state)
{
    struct tiny_layout layout;
    tiny_model_write_ct2(&model, under("alias"), true, &layout);
    const struct tiny_field *target = field_after(&layout, 0, "target"),
                            *alias = field_after(&layout, 0, "alias");
    overwrite("alias/model.bin", target->offset, "D", 1);
    expect_refused("alias", "there is no variable");
    overwrite("alias/model.bin", target->offset, "\n\033[31m", 6);
    expect_refused("alias", "there is no variable ??[31m"); /* nothing that a terminal would obey */
    overwrite("alias/model.bin", target->offset, "decode", 6);
    overwrite("alias/model.bin", target->offset, "d", 1);
    /* Another name for the projection's target takes the place of the embedding itself. */
    size_t embedding = find_bytes("alias/model.bin", "decoder/embeddings/weight");
    overwrite("alias/model.bin", embedding, "decoder/embeddings/Weight", 25);
    overwrite("alias/model.bin", target->offset, "decoder/embeddings/Weight", 25);
    assert_int_equal(alias->n_bytes, 26);
    overwrite("alias/model.bin", alias->offset, "decoder/embeddings/weight", 25);
    expect_numbers("alias", same);
    tiny_layout_finish(&layout);
}

static void the_converters_own_vocabulary_is_enough(void **state)
{
    tiny_model_write_ct2(&model, under("plain"), true, NULL);
    remove(under("plain/tokenizer.json"));
    expect_refused("plain", "vocabulary.json");
    static const char list[] = "[\"a\", \"\\u0120b\", \"<|c|>\"]";
    write_bytes("plain/vocabulary.json", list, sizeof(list) - 1);
    struct weights *w = open_ok("plain");
    size_t n;
    assert_memory_equal(weights_token_bytes(w, 1, &n), " b", 2);
    assert_int_equal(n, 2);
    assert_null(weights_token_bytes(w, 3, &n));
    weights_close(w);
    static const char numbers[] = "[\"a\", 1]";
    write_bytes("plain/vocabulary.json", numbers, sizeof(numbers) - 1);
    expect_refused("plain", "token 1 is no text");
}

/* A converter that knows no heads lists all of the later half, which are more than there is room for in the large
 * sizes: the last ones are taken. */
static void of_too_many_heads_the_last_are_taken(void **state)
{
    const struct whisper_dims deep = {80, 20, 128, 2, 1, 51864, 32, 128, 2, 60, 0};
    struct tiny_model many;
    const struct align_head *heads;
    tiny_model_init_dims(&many, 1, &deep);
    many.n_words = 300;
    tiny_model_write_safetensors(&many, under("heads"), TINY_F16, 1, NULL);
    tiny_model_finish(&many);
    char text[1024] = "{\"alignment_heads\":[[0,0]";
    for (int i = 1; i < 2 * 60; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), ",[%d,%d]", i / 2, i % 2);
    test_append(text, sizeof(text), "]}");
    write_bytes("heads/generation_config.json", text, strlen(text));
    struct weights *w = open_ok("heads");
    int n = weights_align_heads(w, &heads);
    assert_int_equal(n, RUN_ALIGN_HEADS);
    for (int i = 0; i < n; i++)
        assert_int_equal(2 * heads[i].layer + heads[i].head, 120 - RUN_ALIGN_HEADS + i);
    weights_close(w);
}

/* --- Hugging Face ------------------------------------------------------------------------------------------------- */

/* Replaces `from` in the header by `to`, which may be longer. */
static void edit_header(const char *file, const char *original, size_t n_original, const char *from,
                        const char *to)
{
    uint64_t n;
    memcpy(&n, original, sizeof(n));
    const char *at = memmem(original + 8, (size_t)n, from, strlen(from));
    assert_non_null(at);
    size_t before = (size_t)(at - original), after = before + strlen(from);
    uint64_t size = n + strlen(to) - strlen(from);
    FILE *f = fopen(under(file), "wb");
    assert_non_null(f);
    fwrite(&size, sizeof(size), 1, f);
    fwrite(original + 8, 1, before - 8, f);
    fputs(to, f);
    fwrite(original + after, 1, n_original - after, f);
    assert_int_equal(fclose(f), 0);
}

static void lies_of_a_safetensors_header_are_refused(void **state)
{
#define BIAS "\"model.encoder.conv1.bias\":{\"dtype\":\"F16\",\"shape\":[128],\"data_offsets\":[61440,61696]}"
    static const struct {
        const char *from, *to, *says;
    } cases[] = {
        {"{\"__metadata__\"", "{{", "header at byte"},
        {BIAS, BIAS "," BIAS, "header at byte"}, /* twice */
        {BIAS, "\"model.encoder.conv1.bias\":1", "dtype"},
        {BIAS, "\"model.encoder.conv1.bia\":{}", "dtype"},
        {"\"dtype\":\"F16\",\"shape\":[128,80,3]", "\"dtype\":\"F32\",\"shape\":[128,80,3]", "do not fit"},
        {"\"dtype\":\"F16\",\"shape\":[128,80,3]", "\"dtype\":\"I16\",\"shape\":[128,80,3]",
         "are not supported"},
        {"\"dtype\":\"F16\",\"shape\":[128,80,3]", "\"dtype\":16,\"shape\":[128,80,3]", "dtype"},
        {"\"shape\":[128,80,3]", "\"shape\":[128,80,4]", "do not fit"},
        {"\"shape\":[128,80,3]", "\"shape\":[128,3,80]", "the shape is 128"},
        {"\"shape\":[128,80,3]", "\"shape\":[128,80,3,1,1]", "its shape"},
        {"\"shape\":[128,80,3]", "\"shape\":[-128,80,-3]", "its shape"},
        {"\"shape\":[128,80,3]", "\"shape\":[128,80.0,3]", "its shape"},
        {"\"shape\":[128,80,3]", "\"shape\":[2147483648,80,3]", "its shape"},
        {"\"shape\":[128,80,3]", "\"shape\":[2147483647,2147483647,2147483647]", "do not fit"},
        {"\"shape\":[128,80,3]", "\"shape\":30720", "its shape"},
        {"[61440,61696]", "[61440,61698]", "do not fit"},
        {"[61440,61696]", "[61442,61698]", "does not follow"},
        {"[61440,61696]", "[0,256]", "does not follow"},
        {"[61440,61696]", "[61696,61440]", "data_offsets"},
        {"[61440,61696]", "[61440]", "data_offsets"},
        {"[61440,61696]", "[-256,0]", "data_offsets"},
        {"[61440,61696]", "[9223372036854775551,9223372036854775807]", "data_offsets"},
        {"[61440,61696]", "[61440,1e300]", "data_offsets"},
        {BIAS ",", "", "does not follow"},
        {"model.encoder.conv1.bias", "model.encoder.conv9.bias", "encoder.conv1.bias is missing"},
    };
    size_t n;
    tiny_model_write_safetensors(&model, under("lies"), TINY_F16, 1, NULL);
    char *original = read_text("lies/model.safetensors", &n);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        edit_header("lies/model.safetensors", original, n, cases[i].from, cases[i].to);
        expect_refused("lies", cases[i].says);
    }
    free(original);
}

static void truncated_safetensors_are_refused(void **state)
{
    struct tiny_layout layout;
    size_t n;
    tiny_model_write_safetensors(&model, under("cut"), TINY_F16, 1, &layout);
    char *original = read_text("cut/model.safetensors", &n);
    for (int i = 0; i < layout.n; i += 1 + i / 4) {
        size_t at = layout.fields[i].offset + layout.fields[i].n_bytes / 2;
        assert_int_equal(truncate(under("cut/model.safetensors"), (off_t)at), 0);
        expect_refused("cut", "model.safetensors");
        write_bytes("cut/model.safetensors", original, n);
    }
    write_bytes("cut/model.safetensors", original, n - 1);
    expect_refused("cut", "data_offsets");
    free(original);
    tiny_layout_finish(&layout);
}

static void a_folder_must_be_consistent(void **state)
{
    static const struct {
        const char *file, *text, *says;
    } cases[] = {
        {"config.json", "{}", "d_model"},
        {"config.json", "{\"d_model\": \"128\"}", "d_model"},
        {"config.json", "{\"model_type\": \"llama\"}", "model_type"},
        {"config.json", "{\"activation_function\": \"relu\"}", "activation_function"},
        {"config.json", "{\"scale_embedding\": true}", "scale_embedding"},
        {"config.json",
         "{\"d_model\":128,\"encoder_layers\":3,\"encoder_attention_heads\":2,\"decoder_layers\":2,"
         "\"decoder_attention_heads\":2,\"num_mel_bins\":80,\"max_source_positions\":20,"
         "\"max_target_positions\":32,\"vocab_size\":51864}",
         "encoder.blocks.2.attn_ln.weight is missing"},
        {"config.json",
         "{\"d_model\":128,\"encoder_layers\":2,\"encoder_attention_heads\":4,\"decoder_layers\":2,"
         "\"decoder_attention_heads\":2,\"num_mel_bins\":80,\"max_source_positions\":20,"
         "\"max_target_positions\":32,\"vocab_size\":51864}",
         "heads"},
        {"vocab.json", "{\"a\": -1}", "the id"},
        {"generation_config.json", "{\"alignment_heads\": [[7]]}", "pair"},
        {"model.safetensors.index.json", "{}", "weight_map"},
        {"model.safetensors.index.json", "{\"weight_map\": {\"a\": \"../model.safetensors\"}}",
         "of the folder"},
        {"model.safetensors.index.json", "{\"weight_map\": {\"a\": 1}}", "of the folder"},
        {"model.safetensors.index.json", "{\"weight_map\": {\"a\": \"other.safetensors\"}}", "No such file"},
    };
    tiny_model_write_safetensors(&model, under("odd"), TINY_F16, 1, NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char file[64], *original = NULL;
        size_t n = 0;
        snprintf(file, sizeof(file), "odd/%s", cases[i].file);
        if (access(under(file), F_OK) == 0)
            original = read_text(file, &n);
        write_bytes(file, cases[i].text, strlen(cases[i].text));
        expect_refused("odd", cases[i].says);
        if (original)
            write_bytes(file, original, n);
        else
            remove(under(file));
        free(original);
    }
}

/* Every Whisper's output projection is its embedding. A file may say so by having it twice. */
static void an_output_projection_of_its_own_is_refused(void **state)
{
    char before[96], entry[512];
    size_t n, embedding = (size_t)51864 * 128 * 2;
    tiny_model_write_safetensors(&model, under("tied"), TINY_F16, 1, NULL);
    char *original = read_text("tied/model.safetensors", &n);
    uint64_t header;
    memcpy(&header, original, sizeof(header));
    size_t data = 8 + (size_t)header, end = n - data;
    snprintf(before, sizeof(before), "{\"__metadata__\"");
    snprintf(entry, sizeof(entry),
             "{\"proj_out.weight\":{\"dtype\":\"F16\",\"shape\":[51864,128],\"data_offsets\":[%zu,%zu]},"
             "\"__metadata__\"",
             end, end + embedding);
    char *longer = malloc(n + embedding);
    memcpy(longer, original, n);
    const struct tiny_tensor *t = tiny_model_find(&model, "decoder.token_embedding.weight");
    for (size_t i = 0; i < tiny_tensor_count(t); i++) {
        uint16_t half = to_half(t->values[i]);
        memcpy(longer + n + 2 * i, &half, sizeof(half));
    }
    edit_header("tied/model.safetensors", longer, n + embedding, before, entry);
    expect_numbers("tied", same);
    longer[n + embedding - 2] ^= 1;
    edit_header("tied/model.safetensors", longer, n + embedding, before, entry);
    expect_refused("tied", "output projection");
    free(longer);
    free(original);
}

/* --- which format it is ------------------------------------------------------------------------------------------- */

static void a_file_is_known_by_its_content(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *says;
    } others[] = {
        {"GGUF\3\0\0\0", 8, "GGUF"},
        {"PK\3\4 and more", 12, "PyTorch"},
        {"\x80\2\x8a\nl\xfc\x9c\x46", 8, "PyTorch"},
        {"version https://git-lfs", 23, "no model file"},
        {"........", 8, "no model file"},
        {"", 0, "not a model file"},
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        write_bytes("other.bin", others[i].bytes, others[i].n);
        expect_refused("other.bin", others[i].says);
    }
    tiny_model_write_ct2(&model, under("ct2"), true, NULL);
    tiny_model_write_safetensors(&model, under("hub"), TINY_F16, 1, NULL);
    tiny_model_write_ggml(&model, under("named-as-you-like"), true, NULL);
    expect_numbers("ct2/model.bin", same);
    expect_numbers("hub/model.safetensors", same);
    expect_numbers("named-as-you-like", same);
    mkdir(under("torch"), 0700);
    write_bytes("torch/pytorch_model.bin", "PK\3\4", 4);
    expect_refused("torch", "pytorch_model.bin has to be converted");
}

/* Somebody shortens the file while it is being loaded. */
static void a_file_that_shrinks_is_an_error(void **state)
{
    tiny_model_write_ggml(&model, under("shrinking.bin"), true, NULL);
    struct weights *w = open_ok("shrinking.bin");
    struct err err = {0};
    float values[128];
    assert_int_equal(truncate(under("shrinking.bin"), 1000), 0);
    assert_int_equal(weights_read(w, "decoder.ln.bias", values, 128, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "shorter"));
    weights_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_of_ctranslate2_is_read),
        cmocka_unit_test(every_type_of_safetensors_is_read),
        cmocka_unit_test(quantised_variables_need_their_scales),
        cmocka_unit_test(aliases_stand_for_their_targets),
        cmocka_unit_test(the_converters_own_vocabulary_is_enough),
        cmocka_unit_test(of_too_many_heads_the_last_are_taken),
        cmocka_unit_test(lies_of_a_safetensors_header_are_refused),
        cmocka_unit_test(truncated_safetensors_are_refused),
        cmocka_unit_test(a_folder_must_be_consistent),
        cmocka_unit_test(an_output_projection_of_its_own_is_refused),
        cmocka_unit_test(a_file_is_known_by_its_content),
        cmocka_unit_test(a_file_that_shrinks_is_an_error),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
