/* What the CUDA engine does when a call of the runtime fails: every one that it makes, in turn. It says so with a code and
 * words, keeps nothing, and goes on where it can. */
#include "tests/support/support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gpu/cuda/plugin.h"

int captiond_cuda_open(const struct cuda_plugin_terms *, const struct engine_options *, struct engine **,
                       struct err *);
/* tests/cuda/harness/ */
void harness_seed(unsigned);
void harness_hide_cublas(bool hide);
void harness_fail(const char *call, int after, int error);
bool harness_has_failed(void);
void harness_lose_device(int error);

enum {
    MEMORY = 2,
    NO_IMAGE = 209,
    NO_JIT = 221,
    UNSUPPORTED_PTX = 222,
    NOT_SUPPORTED = 801,
    LAUNCH_FAILURE = 719,
    UNKNOWN = 999
};
enum { PCM_BYTES = 8192, N_SAMPLES = 1600 };
enum { N_SLOTS = 2, N_STATE = 64, N_FRAMES = 8, N_ROWS = 2 };

static int n_windows; /* of the engines to come: with more than one, samples arrive beside the other work */

static int open_one(struct engine **e, struct err *err)
{
    const struct cuda_plugin_terms terms = cuda_plugin_ours();
    const struct engine_options options = {.n_mels = 80, .n_windows = n_windows, .yields = true};
    return captiond_cuda_open(&terms, &options, e, err);
}

/* Everything that work needs. */
struct work {
    struct engine *e;
    struct engine_weight *weight;
    struct engine_kv *kv;
    struct engine_graph *graph;
    float *floats;
    int32_t *n_active;
    struct slot_state *slots;
    struct rows rows;
    float *pcm;
};

static void finish(struct work *w)
{
    struct engine *e = w->e;
    if (!e)
        return;
    e->v->wait(e, NULL);
    /* The samples are the caller's again: what still reads them ends the test. */
    if (w->pcm)
        mprotect(w->pcm, PCM_BYTES, PROT_NONE);
    e->v->host_unregister(e, w->pcm);
    e->v->graph_destroy(e, w->graph);
    e->v->weight_destroy(e, w->weight);
    e->v->kv_destroy(e, w->kv);
    void *const buffers[] = {w->floats, w->n_active, w->slots, w->rows.token, w->rows.pos, w->rows.slot};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        e->v->free(e, buffers[i]);
    e->v->destroy(e);
    if (w->pcm)
        munmap(w->pcm, PCM_BYTES);
}

static int take_memory(struct work *w, struct err *err)
{
    static const float values[N_STATE * 80];
    struct engine *e = w->e;
    w->pcm = mmap(NULL, PCM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(w->pcm != MAP_FAILED);
    w->floats = e->v->alloc(e, 4096 * sizeof(float), NULL);
    w->n_active = e->v->alloc(e, sizeof(int32_t), NULL);
    w->slots = e->v->alloc(e, N_SLOTS * sizeof(struct slot_state), NULL);
    w->rows = (struct rows){N_ROWS, e->v->alloc(e, N_ROWS * 4, NULL), e->v->alloc(e, N_ROWS * 4, NULL),
                            e->v->alloc(e, N_ROWS * 4, NULL)};
    if (!w->floats || !w->n_active || !w->slots || !w->rows.token || !w->rows.pos || !w->rows.slot)
        return err_set(err, -ENOMEM, "no memory");
    int r = e->v->weight_create(e, WEIGHT_WIDE, N_STATE, 80, values, &w->weight, err);
    if (r == 0)
        r = e->v->kv_create(e, 1, N_SLOTS, 16, 1, &w->kv, err);
    return r < 0 ? r : e->v->host_register(e, w->pcm, N_SAMPLES * sizeof(float), err);
}

/* A step that lowers a counter: rows, and advance, for which slot 0 is over after two tokens. */
static void record(struct work *w)
{
    struct engine *e = w->e;
    int32_t *chosen = (int32_t *)w->floats;
    e->v->graph_begin(e);
    e->v->rows_from_slots(e, &(struct rows_from_slots_args){.rows = w->rows, .slots = w->slots});
    e->v->advance(e, &(struct advance_args){.rows = w->rows,
                                            .slots = w->slots,
                                            .chosen = chosen,
                                            .logprob = w->floats + N_ROWS,
                                            .n_active = w->n_active});
    w->graph = e->v->graph_end(e);
}

static void submit(struct work *w)
{
    static const int32_t slot_of_row[N_ROWS] = {0, 1};
    static struct slot_state states[N_SLOTS];
    static int32_t one = 1;
    struct engine *e = w->e;
    struct mat in = mat_view(w->floats, DTYPE_F16, N_FRAMES, 80, 80);
    for (int i = 0; i < N_SLOTS; i++)
        states[i] = (struct slot_state){.rules.eot = -1,
                                        .n_ctx = 16,
                                        .n_prompt = 1,
                                        .n_tokens = 1,
                                        .max_tokens = i ? 16 : 2,
                                        .done = i ? SLOT_DONE_EOT : SLOT_ACTIVE};
    e->v->upload(e, w->slots, states, sizeof(states));
    e->v->upload(e, w->n_active, &one, sizeof(one));
    e->v->upload(e, w->rows.slot, slot_of_row, sizeof(slot_of_row));
    for (int i = 0; i < 2; i++)
        e->v->mel(
            e, &(struct mel_args){.pcm = w->pcm, .n_samples = N_SAMPLES, .scale = MEL_SCALE_OWN, .out = in});
    e->v->linear(
        e, &(struct linear_args){.in = in,
                                 .weight = w->weight,
                                 .out = mat_view(w->floats + 1024, DTYPE_F32, N_FRAMES, N_STATE, N_STATE)});
    e->v->kv_copy(e, w->kv, 0, 1, 4);
    e->v->graph_launch(e, w->graph, w->n_active, 8);
    e->v->graph_launch(e, w->graph, NULL, 1); /* of slots that are done: nothing changes */
}

/* Opens an engine, takes memory, records, computes. 0, or the first error. */
static int all_work(struct err *err)
{
    struct work w = {0};
    struct slot_state state = {0};
    err->code = 0;
    int r = open_one(&w.e, err);
    if (r == 0)
        r = take_memory(&w, err);
    if (r == 0) {
        record(&w);
        if (!w.graph) {
            r = w.e->v->wait(w.e, err);
            assert_true(r < 0);
        }
    }
    if (r == 0) {
        submit(&w);
        w.e->v->download(w.e, &state, w.slots, sizeof(state));
        r = w.e->v->wait(w.e, err);
    }
    if (r == 0) {
        assert_int_equal(state.done, SLOT_DONE_LIMIT);
        assert_int_equal(state.n_tokens, 3);
    }
    finish(&w);
    return r;
}

/* Fails the 1st, 2nd … call of this name until there are no more. `code`: what comes of it, 0 where the engine knows another
 * way, 1: any error, 2: either. Returns how many calls there were. */
static int fail_each(const char *call, int error, int code)
{
    struct err err;
    for (int after = 0; after < 1000; after++) {
        harness_fail(call, after, error);
        int r = all_work(&err);
        if (!harness_has_failed()) {
            harness_fail("", 0, 0);
            assert_int_equal(r, 0);
            return after;
        }
        if ((code == 1 && r >= 0) || (code <= 0 && r != code))
            fail_msg("%s, call %d: %d is returned, %d expected: %s", call, after + 1, r, code, err.msg);
        if (r < 0 && (err.code != r || strlen(err.msg) < 8))
            fail_msg("%s, call %d: %d without words (%d: %s)", call, after + 1, r, err.code, err.msg);
        assert_int_equal(all_work(&err), 0); /* and the next engine is not touched by it */
    }
    fail_msg("%s: no end of calls", call);
    return 0;
}

struct row {
    const char *call;
    int error, code, calls_least;
};

static void fail_all(const struct row *rows, size_t n)
{
    struct err err;
    harness_seed(0);
    harness_hide_cublas(false);
    assert_int_equal(all_work(&err), 0);
    for (size_t i = 0; i < n; i++) {
        int calls = fail_each(rows[i].call, rows[i].error, rows[i].code);
        printf("%-34s %3d calls\n", rows[i].call, calls);
        assert_true(calls >= rows[i].calls_least);
    }
}

static void test_every_call(void **state)
{
    static const struct row cases[] = {
        {"calloc", MEMORY, 2, 5}, /* without libcublas or room for its products it goes on */
        {"cudaMalloc", MEMORY, 2, 12},
        {"cudaHostAlloc", MEMORY, -ENOMEM, 1},
        {"cudaHostRegister", UNKNOWN, -EIO, 1},
        {"cudaMemsetAsync", UNKNOWN, 2, 6},
        {"cudaMemcpyAsync", UNKNOWN, 1, 9},
        {"cudaMemcpy2DAsync", UNKNOWN, -EIO, 1},
        {"cudaStreamCreateWithFlags", UNKNOWN, -EIO, 2},
        {"cudaStreamSynchronize", LAUNCH_FAILURE, 2, 10},
        {"cudaStreamBeginCapture", UNKNOWN, -EIO, 1},
        {"cudaStreamEndCapture", UNKNOWN, -EIO, 1},
        {"cudaGraphInstantiate", UNKNOWN, 2, 2}, /* without a loop it goes on */
        {"cudaGraphInstantiate", MEMORY, -ENOMEM, 2},
        {"cudaGraphLaunch", LAUNCH_FAILURE, -EIO, 1},
        {"LAUNCH", UNKNOWN, 2, 7},
        {"cudaSetDevice", UNKNOWN, -EIO, 1},
        {"cudaSetDeviceFlags", UNKNOWN, -EIO, 1},
        {"cudaGetDeviceProperties", UNKNOWN, -EIO, 1},
        {"cudaHostUnregister", UNKNOWN, 0, 1}, /* there is nobody to tell */
        {"cudaGraphCreate", NOT_SUPPORTED, 0, 1},
        {"cudaGraphConditionalHandleCreate", NOT_SUPPORTED, 0, 1},
        {"cudaGraphAddNode", NOT_SUPPORTED, 0, 1},
        {"cudaGraphAddChildGraphNode", NOT_SUPPORTED, 0, 1},
        {"cudaGraphAddKernelNode", NOT_SUPPORTED, 0, 2},
        {"cublasCreate", UNKNOWN, 0, 1},
        {"cublasSetStream", UNKNOWN, 0, 1},
        {"cublasGemmEx", UNKNOWN, 0, 1},
    };
    static const struct row beside[] = {
        {"cudaEventCreateWithFlags", UNKNOWN, -EIO, 4},
        {"cudaEventRecord", UNKNOWN, -EIO, 4}, /* the copy before it does not outlive the wait */
        {"cudaStreamWaitEvent", UNKNOWN, -EIO, 4},
        {"cudaMemcpyAsync", UNKNOWN, 1, 10},
        {"cudaStreamSynchronize", LAUNCH_FAILURE, 2, 10},
        {"LAUNCH", UNKNOWN, 2, 7},
    };
    fail_all(cases, sizeof(cases) / sizeof(cases[0]));
    n_windows = 2;
    fail_all(beside, sizeof(beside) / sizeof(beside[0]));
    n_windows = 0;
}

/* A device that is lost in the middle: nothing more works, everything says so, and closing is safe. */
static void test_lost_device(void **state)
{
    struct work w = {0};
    struct err err = {0};
    assert_int_equal(open_one(&w.e, &err), 0);
    assert_int_equal(take_memory(&w, &err), 0);
    record(&w);
    submit(&w);
    harness_lose_device(LAUNCH_FAILURE);
    assert_int_equal(w.e->v->wait(w.e, &err), -EIO);
    assert_non_null(strstr(err.msg, "the GPU failed"));
    submit(&w);
    assert_int_equal(w.e->v->wait(w.e, &err), -EIO);
    assert_null(w.e->v->alloc(w.e, 16, &err));
    assert_int_equal(err.code, -EIO); /* which is not for want of memory */
    struct engine_weight *weight = NULL;
    static const float values[64];
    assert_int_equal(w.e->v->weight_create(w.e, WEIGHT_ROWS, 8, 8, values, &weight, &err), -EIO);
    assert_null(weight);
    finish(&w);
    struct engine *e = NULL;
    assert_int_equal(open_one(&e, &err), -EIO);
    harness_lose_device(0);
    assert_int_equal(all_work(&err), 0);
}

/* Built for other GPUs, or with a toolkit whose code the driver cannot adapt to this one: the first launch says it. */
static void test_no_code(void **state)
{
    static const int errors[] = {NO_IMAGE, UNSUPPORTED_PTX, NO_JIT};
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        struct engine *e = NULL;
        struct err err = {0};
        harness_fail("LAUNCH", 0, errors[i]);
        assert_int_equal(open_one(&e, &err), -ENODEV);
        assert_non_null(strstr(err.msg, "was not built for"));
        assert_non_null(strstr(err.msg, "CUDA_ARCHS=80"));
    }
}

/* Shapes and types that do not fit, for every operation; what is submitted behind is skipped until the wait. */
static void test_misfits(void **state)
{
    struct work w = {0};
    struct err err = {0};
    float one = 1.0f, after = 0.0f;
    assert_int_equal(open_one(&w.e, &err), 0);
    assert_int_equal(take_memory(&w, &err), 0);
    const struct engine_vtable *v = w.e->v;
    const struct mat none = {0}, half = mat_view(w.floats, DTYPE_F16, 4, N_STATE, N_STATE);
    const struct mat single = mat_view(w.floats, DTYPE_F32, 4, N_STATE, N_STATE);
    const struct mat odd = mat_view((char *)w.floats + 2, DTYPE_F16, 4, 3 * N_STATE, 3 * N_STATE + 1);
    for (int i = 0; i < 12; i++) {
        v->upload(w.e, w.floats, &one, sizeof(one));
        if (i == 0)
            v->mel(w.e, &(struct mel_args){.pcm = w.pcm, .n_samples = -1, .out = single});
        if (i == 1)
            v->linear(w.e, &(struct linear_args){.in = half, .weight = w.weight, .out = single});
        if (i == 2)
            v->layer_norm(w.e, &(struct layer_norm_args){.in = half, .out = half});
        if (i == 3)
            v->attention(w.e,
                         &(struct attention_args){.qkv = half, .n_head = 1, .n_windows = 1, .out = half});
        if (i == 4)
            v->attention(w.e, &(struct attention_args){.qkv = odd, .n_head = 1, .n_windows = 1, .out = half});
        if (i == 5)
            v->kv_store(w.e, &(struct kv_store_args){w.kv, 0, 0, half});
        if (i == 6)
            v->embed(w.e, &(struct embed_args){w.rows, w.weight, w.floats, none});
        if (i == 7)
            v->linear_rows(w.e, &(struct linear_rows_args){
                                    .rows = w.rows, .in = half, .weight = w.weight, .out = single});
        if (i == 8)
            v->self_attention(
                w.e, &(struct self_attention_args){.rows = w.rows, .kv = w.kv, .qkv = half, .out = single});
        if (i == 9)
            v->cross_attention(w.e, &(struct cross_attention_args){
                                        .rows = w.rows, .kv = w.kv, .layer = 1, .q = single, .out = single});
        if (i == 10)
            v->select(w.e, &(struct select_args){.rows = w.rows, .logits = half});
        if (i == 11)
            v->beam_select(w.e, &(struct beam_select_args){.rows = w.rows, .logits = half});
        v->rows_from_slots(w.e, &(struct rows_from_slots_args){w.rows, w.slots});
        v->layer_norm(w.e, &(struct layer_norm_args){single, w.floats + 512, w.floats + 512, single});
        int r = v->wait(w.e, &err);
        if (r != -EINVAL || !strstr(err.msg, "do not fit") == !strstr(err.msg, "not aligned"))
            fail_msg("case %d: %d, %s", i, r, err.msg);
        v->download(w.e, &after, w.floats, sizeof(after));
        assert_int_equal(v->wait(w.e, &err), 0);
        assert_true(after == one); /* the norm did not happen */
    }
    finish(&w);
}

/* A loop over another counter is made anew. */
static void test_another_counter(void **state)
{
    struct work w = {0};
    struct err err = {0};
    struct slot_state slot;
    assert_int_equal(open_one(&w.e, &err), 0);
    assert_int_equal(take_memory(&w, &err), 0);
    record(&w);
    submit(&w);
    assert_int_equal(w.e->v->wait(w.e, &err), 0);
    int32_t three = 3, *other = w.e->v->alloc(w.e, sizeof(int32_t),
                                              NULL); /* nobody lowers it: the limit ends the loop */
    w.e->v->upload(w.e, other, &three, sizeof(three));
    w.e->v->graph_launch(w.e, w.graph, other, 5);
    w.e->v->download(w.e, &slot, w.slots, sizeof(slot));
    assert_int_equal(w.e->v->wait(w.e, &err), 0);
    assert_int_equal(slot.n_tokens, 3);
    w.e->v->free(w.e, other);
    finish(&w);
}

/* What is recorded fails where it is launched, each time; and a recording launches no graph. */
static void test_recorded_errors(void **state)
{
    struct work w = {0};
    struct err err = {0};
    assert_int_equal(open_one(&w.e, &err), 0);
    assert_int_equal(take_memory(&w, &err), 0);
    record(&w);
    struct engine *e = w.e;
    e->v->graph_begin(e);
    e->v->graph_launch(e, w.graph, w.n_active, 1);
    e->v->kv_copy(e, w.kv, 0, 1, 4); /* skipped */
    struct engine_graph *g = e->v->graph_end(e);
    assert_non_null(g);
    assert_int_equal(e->v->wait(e, &err), 0);
    for (int i = 0; i < 2; i++) {
        e->v->graph_launch(e, g, NULL, 1);
        assert_int_equal(e->v->wait(e, &err), -ENOTSUP);
    }
    e->v->graph_destroy(e, g);
    e->v->graph_destroy(e, NULL);
    finish(&w);
}

/* Tensor cores need more shared memory than every launch may have: what the runtime refuses sticks. */
static void test_many_slots(void **state)
{
    static const char *const calls[] = {"cudaFuncSetAttribute",
                                        "cudaOccupancyMaxActiveBlocksPerMultiprocessor", "LAUNCH"};
    static const float values[N_STATE * N_STATE];
    const struct cuda_plugin_terms terms = cuda_plugin_ours();
    const struct engine_options options = {.n_mels = 80, .n_slots = 64};
    struct engine *e;
    struct engine_weight *weight;
    struct err err = {0};
    assert_int_equal(captiond_cuda_open(&terms, &options, &e, &err), 0);
    assert_int_equal(e->v->weight_create(e, WEIGHT_ROWS, N_STATE, N_STATE, values, &weight, &err), 0);
    int32_t *pos = e->v->alloc(e, N_ROWS * sizeof(int32_t), NULL);
    float *floats = e->v->alloc(e, 2 * N_ROWS * N_STATE * sizeof(float), NULL);
    const struct linear_rows_args args = {
        .rows = {.n = N_ROWS, .pos = pos},
        .in = mat_view(floats, DTYPE_F32, N_ROWS, N_STATE, N_STATE),
        .weight = weight,
        .out = mat_view(floats + N_ROWS * N_STATE, DTYPE_F32, N_ROWS, N_STATE, N_STATE)};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        harness_fail(calls[i], 0, UNKNOWN);
        e->v->linear_rows(e, &args);
        assert_true(harness_has_failed());
        assert_int_equal(e->v->wait(e, &err), -EIO);
        e->v->linear_rows(e, &args);
        assert_int_equal(e->v->wait(e, &err), 0);
    }
    e->v->free(e, pos);
    e->v->free(e, floats);
    e->v->weight_destroy(e, weight);
    e->v->destroy(e);
}

/* Results are handed out by wait, however many or large they are: submitting them does not wait for the GPU. */
static void test_downloads(void **state)
{
    enum { N = 3 << 20, MANY = 1000 };
    struct engine *e = NULL;
    struct err err = {0};
    int32_t *in = calloc(N, sizeof(*in)), *out = calloc(N, sizeof(*out)), few[MANY] = {0};
    assert_int_equal(open_one(&e, &err), 0);
    int32_t *device = e->v->alloc(e, N * sizeof(*in), NULL);
    for (int i = 0; i < N; i++)
        in[i] = i + 1;
    e->v->upload(e, device, in, N * sizeof(*in));
    e->v->download(e, few, device + 5, sizeof(few[0]));
    assert_int_equal(few[0], 0);
    assert_int_equal(e->v->wait(e, &err), 0);
    assert_int_equal(few[0], 6);
    for (int i = 0; i < MANY; i++)
        e->v->download(e, &few[i], device + 2 * i, sizeof(few[i]));
    e->v->download(e, out, device, N * sizeof(*out));
    assert_int_equal(e->v->wait(e, &err), 0);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(few[i], 2 * i + 1);
    assert_memory_equal(out, in, N * sizeof(*in));
    e->v->free(e, device);
    e->v->destroy(e);
    free(in);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call),      cmocka_unit_test(test_lost_device),
        cmocka_unit_test(test_no_code),         cmocka_unit_test(test_misfits),
        cmocka_unit_test(test_another_counter), cmocka_unit_test(test_recorded_errors),
        cmocka_unit_test(test_many_slots),      cmocka_unit_test(test_downloads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
