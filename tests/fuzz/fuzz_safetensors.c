/* The header of a safetensors file: u32 bytes of data that follow it, then its text. With the highest bit of the number the
 * text is the file as it is, the size of the header in front. The folder's other files are sound. */
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static const char config[] =
    "{\"d_model\":64,\"encoder_layers\":1,\"encoder_attention_heads\":1,\"decoder_layers\":1,"
    "\"decoder_attention_heads\":1,\"num_mel_bins\":80,\"max_source_positions\":4,\"max_target_positions\":4,"
    "\"vocab_size\":51864}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char vocabulary[] = "{\"a\":0,\"\\u0120b\":1}";
    uint32_t follow;
    if (size < sizeof(follow))
        return 0;
    fuzz_write("config.json", config, strlen(config), 0);
    fuzz_write("vocab.json", vocabulary, strlen(vocabulary), 0);
    memcpy(&follow, data, sizeof(follow));
    data += sizeof(follow);
    size -= sizeof(follow);
    if (follow >> 31) {
        fuzz_write("model.safetensors", data, size, size + (follow & 0x7fffffff));
    } else {
        uint64_t n = size;
        uint8_t *file = malloc(sizeof(n) + size);
        memcpy(file, &n, sizeof(n));
        memcpy(file + sizeof(n), data, size);
        fuzz_write("model.safetensors", file, sizeof(n) + size, sizeof(n) + size + follow);
        free(file);
    }
    fuzz_open("");
    return 0;
}
