/* CTranslate2's model.bin: the input is the file in runs. The folder's other files are sound. */
#include <string.h>

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char vocabulary[] = "[\"a\", \"\\u0120b\"]";
    fuzz_write("vocabulary.json", vocabulary, strlen(vocabulary), 0);
    fuzz_write_runs("model.bin", data, size);
    fuzz_open("");
    return 0;
}
