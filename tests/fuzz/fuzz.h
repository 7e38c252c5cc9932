/* What the fuzz targets share: files made of an input, and a model opened as the daemon would open it. */
#ifndef CAPTIOND_TESTS_FUZZ_H
#define CAPTIOND_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* What libFuzzer calls for each input. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A folder of this process' own in memory, removed with its files at exit. Static storage. */
const char *fuzz_folder(void);

/* Writes FOLDER/name: `head`, then what `data` says, then zeros that take no room up to `size` bytes. */
void fuzz_write(const char *name, const void *data, size_t n, size_t size);

/* Writes FOLDER/name from runs: u16 n, n bytes, u32 zeros, and so on. The numbers of a model's tensors are such
 * zeros, so that an input is as short as the structure of a file. At most 32 MiB. */
void fuzz_write_runs(const char *name, const uint8_t *data, size_t n);

void fuzz_remove(const char *name);

/* Opens FOLDER/name ("" for the folder) and reads what a caller would: tensors, heads, vocabulary, and some text
 * through a tokenizer. An error must be of one line and leave nothing behind. */
void fuzz_open(const char *name);

#endif
