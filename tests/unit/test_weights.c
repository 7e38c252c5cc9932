#include "tests/support/support.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gpu/weights.h"
#include "tests/support/tiny_model.h"

struct files {
    struct tiny_model model;
    char folder[256], ct2[300], half[300], single[300], ct2_single[300], hub[300], shards[300];
};

static int setup(void **state)
{
    struct files *f = calloc(1, sizeof(*f));
    tiny_model_init(&f->model, 1, 20, 32);
    snprintf(f->folder, sizeof(f->folder), "%s", tiny_folder());
    snprintf(f->ct2, sizeof(f->ct2), "%s/ct2", f->folder);
    snprintf(f->half, sizeof(f->half), "%s/half.bin", f->folder);
    snprintf(f->single, sizeof(f->single), "%s/single.bin", f->folder);
    snprintf(f->ct2_single, sizeof(f->ct2_single), "%s/ct2-f32", f->folder);
    snprintf(f->hub, sizeof(f->hub), "%s/hub", f->folder);
    snprintf(f->shards, sizeof(f->shards), "%s/shards", f->folder);
    tiny_model_write_ct2(&f->model, f->ct2, true, NULL);
    tiny_model_write_ct2(&f->model, f->ct2_single, false, NULL);
    tiny_model_write_safetensors(&f->model, f->hub, TINY_F16, 1, NULL);
    tiny_model_write_safetensors(&f->model, f->shards, TINY_F32, 3, NULL);
    tiny_model_write_ggml(&f->model, f->half, true, NULL);
    tiny_model_write_ggml(&f->model, f->single, false, NULL);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct files *f = *state;
    tiny_folder_remove(f->folder);
    tiny_model_finish(&f->model);
    free(f);
    return 0;
}

static struct weights *open_ok(const char *path)
{
    struct weights *w = NULL;
    struct err err = {0};
    if (weights_open(path, &w, &err) < 0)
        fail_msg("%s", err.msg);
    return w;
}

static void every_format_gives_the_same_numbers(void **state)
{
    struct files *f = *state;
    const char *paths[] = {f->ct2, f->ct2_single, f->half, f->single, f->hub, f->shards};
    for (int p = 0; p < 6; p++) {
        struct weights *w = open_ok(paths[p]);
        const struct whisper_dims *d = weights_dims(w);
        assert_int_equal(d->n_vocab, 51864);
        assert_int_equal(d->n_audio_ctx, 20);
        assert_int_equal(d->n_text_ctx, 32);
        assert_int_equal(d->n_audio_layer, 2);
        assert_int_equal(d->n_text_head, 2);
        for (int i = 0; i < f->model.n_tensors; i++) {
            const struct tiny_tensor *t = &f->model.tensors[i];
            size_t n = 1;
            for (int k = 0; k < t->n_dims; k++)
                n *= (size_t)t->dims[k];
            float *values = malloc(n * sizeof(float));
            struct err err;
            assert_int_equal(weights_read(w, t->name, values, n, &err), 0);
            assert_memory_equal(values, t->values, n * sizeof(float));
            assert_int_equal(weights_read(w, t->name, values, n - 1, &err), -EINVAL);
            free(values);
        }
        weights_close(w);
    }
}

static void unknown_tensors_are_missing(void **state)
{
    struct files *f = *state;
    static const char *const names[] = {
        "",
        "encoder",
        "encoder.",
        "encoder.blocks.0.attn.key.bias",
        "decoder.blocks.0.cross_attn.key.bias",
        "encoder.blocks.2.attn.query.weight",
        "encoder.blocks.0.attn.query.gamma",
        "encoder.blocks.0.attn",
        "encoder.blocks.0.cross_attn.query.weight",
        "encoder.blocks.99999999999999999999.attn.query.weight",
        "model.encoder.conv1.weight",
    };
    const char *paths[] = {f->ct2, f->half, f->hub};
    for (int p = 0; p < 3; p++) {
        struct weights *w = open_ok(paths[p]);
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            struct err err;
            float x;
            assert_int_equal(weights_read(w, names[i], &x, 1, &err), -ENOENT);
        }
        weights_close(w);
    }
}

static void vocabularies_agree(void **state)
{
    struct files *f = *state;
    const char *paths[] = {f->ct2, f->half, f->hub};
    for (int p = 0; p < 3; p++) {
        struct weights *w = open_ok(paths[p]);
        weights_close_files(w); /* the vocabulary outlives the file */
        for (int id = 0; id < 50256; id++) {
            char expected[16];
            size_t n;
            int n_expected = tiny_model_token(id, expected);
            const char *bytes = weights_token_bytes(w, id, &n);
            assert_non_null(bytes);
            assert_int_equal(n, n_expected);
            assert_memory_equal(bytes, expected, n);
        }
        size_t n;
        assert_null(weights_token_bytes(w, -1, &n));
        assert_null(weights_token_bytes(w, 50256, &n)); /* the end of text is no text */
        assert_null(weights_token_bytes(w, 51863, &n));
        float x;
        assert_int_equal(weights_read(w, "encoder.conv1.bias", &x, 1, &(struct err){0}), -ENOENT);
        weights_close(w);
    }
}

static void alignment_heads_come_from_the_file_or_the_later_half(void **state)
{
    struct files *f = *state;
    const struct align_head *heads;
    const char *paths[] = {f->ct2, f->hub};
    struct weights *w;
    for (int p = 0; p < 2; p++) {
        w = open_ok(paths[p]);
        assert_int_equal(weights_align_heads(w, &heads), 2);
        assert_int_equal(weights_dims(w)->n_align, 2);
        assert_int_equal(heads[0].layer, 1);
        assert_int_equal(heads[0].head, 0);
        assert_int_equal(heads[1].head, 1);
        weights_close(w);
    }
    w = open_ok(f->half); /* no heads, and no published size: layer 1 of 2 */
    assert_int_equal(weights_align_heads(w, &heads), 2);
    assert_int_equal(heads[0].layer, 1);
    assert_int_equal(heads[1].head, 1);
    assert_non_null(weights_mel_filters(w));
    assert_true(weights_mel_filters(w)[0] == 1.0f);
    weights_close(w);
}

static void what_is_no_model_is_refused(void **state)
{
    struct files *f = *state;
    struct weights *w = NULL;
    struct err err = {0};
    char path[320];
    snprintf(path, sizeof(path), "%s/nothing", f->folder);
    assert_int_equal(weights_open(path, &w, &err), -ENOENT);
    assert_non_null(strstr(err.msg, path));
    assert_int_equal(weights_open(f->folder, &w, &err), -ENOENT); /* a folder without model.bin */
    assert_non_null(strstr(err.msg, "model.bin"));
    snprintf(path, sizeof(path), "%s/fifo", f->folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(weights_open(path, &w, &err), -EINVAL); /* and is not waited for */
    remove(path);
    snprintf(path, sizeof(path), "%s/config.json", f->ct2);
    assert_int_equal(weights_open(path, &w, &err), -EINVAL);
    assert_null(w);
}

static void write_text(const char *folder, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* Leaves the folder damaged: the last test that opens it. */
static void bad_json_is_refused_with_its_place(void **state)
{
    struct files *f = *state;
    static const struct {
        const char *file, *text, *says;
    } cases[] = {
        {"config.json", "{", "byte 1"},
        {"config.json", "[]", NULL},
        {"config.json", "{\"alignment_heads\": null}", NULL},
        {"config.json", "{\"alignment_heads\": 3}", "alignment_heads"},
        {"config.json", "{\"alignment_heads\": [3]}", "alignment_heads[0]"},
        {"config.json", "{\"alignment_heads\": [[1, 0], [1]]}", "alignment_heads[1]"},
        {"config.json", "{\"alignment_heads\": [[1, 1], [2, 0]]}",
         NULL}, /* another model's: the later half */
        {"config.json", "{\"alignment_heads\": [[1, 1], [-1, 0]]}", NULL},
        {"config.json", "{\"alignment_heads\": [[1, 1], [1, 4294967296]]}", NULL},
        {"config.json", "{\"alignment_heads\": [[1, 0], [1, 0]]}", "twice"},
        {"config.json", "{\"alignment_heads\": [[1, 0], [1, 0.5]]}", "pair"},
        {"config.json", "{}", NULL},
        {"tokenizer.json", "", "byte"},
        {"tokenizer.json", "{}", "model.vocab"},
        {"tokenizer.json", "{\"model\": {\"vocab\": []}}", "model.vocab"},
        {"tokenizer.json", "{\"model\": {\"vocab\": {\"a\": \"b\"}}}", "the id"},
        {"tokenizer.json", "{\"model\": {\"vocab\": {\"a\": -1}}}", "the id"},
        {"tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 51864}}}", "the id"},
        {"tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 1, \"b\": 1}}}", "twice"},
        {"tokenizer.json", "{\"model\": {\"vocab\": {\"a b\": 1}}}", "byte-level"},
        {"tokenizer.json", "{\"model\": {\"vocab\": {\"\\u20ac\": 1}}}", "byte-level"},
        {"tokenizer.json", "{\"model\": {\"vocab\": {\"\\u0144\": 1}}}", "byte-level"},
        {"tokenizer.json", "{\"model\": {\"vocab\": {\"\\ud800\": 1}}}", "byte"},
        {"tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 1, \"<|endoftext|>\": 50256}}}", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct weights *w = NULL;
        struct err err = {0};
        write_text(f->ct2, cases[i].file, cases[i].text);
        int r = weights_open(f->ct2, &w, &err);
        if (cases[i].says) {
            assert_int_equal(r, -EINVAL);
            if (!strstr(err.msg, cases[i].says) || !strstr(err.msg, cases[i].file) || strchr(err.msg, '\n'))
                fail_msg("\"%s\" does not say \"%s\"", err.msg, cases[i].says);
        } else if (r < 0) {
            fail_msg("%s", err.msg);
        } else {
            const struct align_head *heads;
            assert_int_equal(weights_align_heads(w, &heads), 2);
            assert_int_equal(heads[0].head, 0);
        }
        weights_close(w);
    }
}

/* Facts about the published models, from OpenAI's repository. */
static void published_models_are_what_they_are(void **state)
{
    static const struct {
        const char *name;
        int n_vocab, n_layer, n_state, n_align;
    } models[] = {{"tiny.en", 51864, 4, 384, 8}, {"base", 51865, 6, 512, 8}};
    bool any = false;
    for (int i = 0; i < 2; i++) {
        const char *path = test_model(models[i].name);
        if (!path)
            continue;
        any = true;
        struct weights *w = open_ok(path);
        const struct whisper_dims *d = weights_dims(w);
        assert_int_equal(d->n_vocab, models[i].n_vocab);
        assert_int_equal(d->n_audio_layer, models[i].n_layer);
        assert_int_equal(d->n_text_layer, models[i].n_layer);
        assert_int_equal(d->n_text_state, models[i].n_state);
        assert_int_equal(d->n_align, models[i].n_align);
        assert_int_equal(d->n_audio_ctx, 1500);
        size_t n;
        const char *the = weights_token_bytes(w, 262, &n);
        if (i == 0) {
            assert_int_equal(n, 4);
            assert_memory_equal(the, " the", 4);
        }
        /* OpenAI's sinusoids: position 0 is half zeros, half ones. */
        float *positions = malloc(1500u * (size_t)d->n_audio_state * sizeof(float));
        assert_int_equal(weights_read(w, "encoder.positional_embedding", positions,
                                      1500u * (size_t)d->n_audio_state, &(struct err){0}),
                         0);
        assert_true(positions[0] == 0.0f);
        assert_true(positions[d->n_audio_state - 1] == 1.0f);
        assert_true(fabsf(positions[d->n_audio_state] - sinf(1.0f)) <
                    1e-3f); /* half floats near 1 are 5e-4 apart */
        free(positions);
        weights_close(w);
    }
    if (!any)
        test_skip("neither tiny.en nor base is installed");
}

/* Without config.json the heads come from OpenAI's table; the published folders say the same. */
static void the_table_of_heads_agrees_with_the_published_folders(void **state)
{
    static const char *const models[] = {"tiny.en", "base"}, *const files[] = {"model.bin", "tokenizer.json"};
    int n = 0;
    for (int i = 0; i < 2; i++) {
        char published[1024], bare[512], target[1100], path[600];
        if (!test_model(models[i]))
            continue;
        snprintf(published, sizeof(published), "%s", test_model(models[i]));
        snprintf(bare, sizeof(bare), "%s", tiny_folder());
        for (int k = 0; k < 2; k++) {
            snprintf(target, sizeof(target), "%s/%s", published, files[k]);
            snprintf(path, sizeof(path), "%s/%s", bare, files[k]);
            assert_int_equal(symlink(target, path), 0);
        }
        const struct align_head *expected, *heads;
        struct weights *whole = open_ok(published), *without = open_ok(bare);
        int n_expected = weights_align_heads(whole, &expected);
        assert_int_equal(weights_align_heads(without, &heads), n_expected);
        assert_memory_equal(heads, expected, (size_t)n_expected * sizeof(*heads));
        weights_close(whole);
        weights_close(without);
        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof(path), "%s/%s", bare, files[k]);
            remove(path);
        }
        remove(bare);
        n++;
    }
    if (n == 0)
        test_skip("neither tiny.en nor base is installed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_gives_the_same_numbers),
        cmocka_unit_test(unknown_tensors_are_missing),
        cmocka_unit_test(vocabularies_agree),
        cmocka_unit_test(alignment_heads_come_from_the_file_or_the_later_half),
        cmocka_unit_test(what_is_no_model_is_refused),
        cmocka_unit_test(bad_json_is_refused_with_its_place),
        cmocka_unit_test(published_models_are_what_they_are),
        cmocka_unit_test(the_table_of_heads_agrees_with_the_published_folders),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
