/* The JSON files of a folder: the first byte says which one the rest is. The folder is a sound one otherwise: the tensors of
 * the corpus' safetensors/f16, in a file of zeros. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static const char *const names[] = {"tokenizer.json",         "vocab.json",
                                    "vocabulary.json",        "config.json",
                                    "generation_config.json", "model.safetensors.index.json"};
enum { N_NAMES = sizeof(names) / sizeof(names[0]), CONFIG = 3 };

static void write_tensors(void)
{
    static uint8_t header[65536];
    FILE *seed = fopen("tests/fuzz/corpus/safetensors/f16", "rb");
    if (!seed)
        abort();
    uint32_t follow;
    if (fread(&follow, sizeof(follow), 1, seed) != 1)
        abort();
    size_t n = fread(header + 8, 1, sizeof(header) - 8, seed);
    uint64_t size = n;
    memcpy(header, &size, sizeof(size));
    fclose(seed);
    fuzz_write("model.safetensors", header, 8 + n, 8 + n + follow);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char config[] =
        "{\"d_model\":64,\"encoder_layers\":1,\"encoder_attention_heads\":1,\"decoder_layers\":1,"
        "\"decoder_attention_heads\":1,\"num_mel_bins\":80,\"max_source_positions\":4,"
        "\"max_target_positions\":4,\"vocab_size\":51864}";
    static const char vocabulary[] = "{\"a\":0,\"\\u0120b\":1}";
    static int ready;
    if (size == 0)
        return 0;
    if (!ready)
        write_tensors();
    ready = 1;
    size_t which = data[0] % N_NAMES;
    for (size_t i = 0; i < N_NAMES; i++)
        fuzz_remove(names[i]);
    fuzz_write("config.json", config, strlen(config), 0);
    if (which != 0 && which != 2)
        fuzz_write("vocab.json", vocabulary, strlen(vocabulary), 0);
    fuzz_write(names[which], data + 1, size - 1, 0);
    fuzz_open("");
    return 0;
}
