/* ggml files: the input is a file in runs. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_write_runs("model.ggml", data, size);
    fuzz_open("model.ggml");
    return 0;
}
