/* What the harness computes, and what it must find: kernels and host code that are wrong in one way each. The wrappers of
 * gpu/cuda/device.cuh are what everything else trusts; nothing here knows how they are made, so the same checks can face
 * a real GPU. */
#include "gpu/cuda/device.cuh"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include "tests/support/support.h"
}

extern "C" void harness_seed(unsigned);
extern "C" void harness_cooperative(bool has, int multiprocessors);

/* --- device memory of a test ------------------------------------------------------------------------------------------ */

static void *device(const void *from, size_t bytes)
{
    void *p = NULL;
    assert_int_equal(cudaMalloc(&p, bytes), cudaSuccess);
    if (from)
        assert_int_equal(cudaMemcpyAsync(p, from, bytes, cudaMemcpyHostToDevice, 0), cudaSuccess);
    return p;
}

static void fetch(void *to, const void *from, size_t bytes)
{
    assert_int_equal(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, 0), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(0), cudaSuccess);
}

static unsigned short half_bits(float x)
{
    return __half_as_ushort(__float2half_rn(x));
}

/* --- the wrappers ----------------------------------------------------------------------------------------------------- */

/* d [16, 8] = a [16, 16] · b [16, 8] + c, element by element after the layout that device.cuh states. */
static __global__ void mma_kernel(const unsigned short *a, const unsigned short *b, const float *c, float *d)
{
    int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
    unsigned fa[4], fb[2];
    float fc[4];
    for (int i = 0; i < 4; i++) {
        int row = g + i % 2 * 8, column = 2 * t + i / 2 * 8;
        fa[i] = a[row * 16 + column] | (unsigned)a[row * 16 + column + 1] << 16;
        fc[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    }
    for (int i = 0; i < 2; i++)
        fb[i] = b[(2 * t + i * 8) * 8 + g] | (unsigned)b[(2 * t + i * 8 + 1) * 8 + g] << 16;
    mma_16816(fc, fa, fb);
    for (int i = 0; i < 4; i++)
        d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fc[i];
}

static void test_mma(void **state)
{
    struct test_rng rng;
    test_rng_init(&rng, 1);
    unsigned short a[256], b[128];
    float x[256], y[128], c[128], d[128];
    for (int i = 0; i < 256; i++)
        a[i] = half_bits(x[i] = (float)test_rng_int(&rng, -64, 64));
    for (int i = 0; i < 128; i++) {
        b[i] = half_bits(y[i] = (float)test_rng_int(&rng, -64, 64));
        c[i] = (float)test_rng_int(&rng, -64, 64);
    }
    void *da = device(a, sizeof(a)), *db = device(b, sizeof(b)), *dc = device(c, sizeof(c)),
         *dd = device(NULL, sizeof(d));
    LAUNCH(mma_kernel, 1, WARP, 0, 0, (const unsigned short *)da, (const unsigned short *)db,
           (const float *)dc, (float *)dd);
    fetch(d, dd, sizeof(d));
    for (int i = 0; i < 128; i++) {
        float sum = c[i]; /* whole numbers: every order of adding is exact */
        for (int k = 0; k < 16; k++)
            sum += x[i / 8 * 16 + k] * y[k * 8 + i % 8];
        assert_true(d[i] == sum);
    }
    void *all[] = {da, db, dc, dd};
    for (int i = 0; i < 4; i++)
        cudaFree(all[i]);
}

/* out [lane][4 straight, 4 transposed]; matrix m has 100 m + 8 row + column. */
static __global__ void ldmatrix_kernel(unsigned *out)
{
    SHARED(unsigned short, rows, 4 * 64);
    for (int i = (int)threadIdx.x; i < 4 * 64; i += WARP)
        rows[i] = (unsigned short)(i / 64 * 100 + i % 64);
    __syncthreads();
    unsigned r[8];
    ldmatrix_4(r, rows + threadIdx.x * 8);
    ldmatrix_4_transposed(r + 4, rows + threadIdx.x * 8);
    for (int i = 0; i < 8; i++)
        out[threadIdx.x * 8 + i] = r[i];
}

static void test_ldmatrix(void **state)
{
    unsigned out[WARP * 8], *d = (unsigned *)device(NULL, sizeof(out));
    LAUNCH(ldmatrix_kernel, 1, WARP, 0, 0, d);
    fetch(out, d, sizeof(out));
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (unsigned m = 0; m < 4; m++) {
            unsigned g = lane / 4, t = lane % 4, base = m * 100;
            unsigned straight = (base + g * 8 + 2 * t) | (base + g * 8 + 2 * t + 1) << 16;
            unsigned transposed = (base + 2 * t * 8 + g) | (base + (2 * t + 1) * 8 + g) << 16;
            assert_int_equal(out[lane * 8 + m], straight);
            assert_int_equal(out[lane * 8 + 4 + m], transposed);
        }
    }
    cudaFree(d);
}

/* Two groups of copies, the second one of odd lengths. */
static __global__ void copy_kernel(const unsigned char *from, unsigned char *to)
{
    SHARED(unsigned char, room, 2 * WARP * 16);
    int i = (int)threadIdx.x;
    cp_async_16(room + i * 16, from + i * 16, 16);
    cp_async_commit();
    cp_async_16(room + (WARP + i) * 16, from + (WARP + i) * 16, i % 9 * 2);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    for (int k = 0; k < 16; k++)
        to[i * 16 + k] = room[(WARP - 1 - i) * 16 + k];
    cp_async_wait<0>();
    for (int k = 0; k < 16; k++)
        to[(WARP + i) * 16 + k] = room[(WARP + i) * 16 + k];
}

static void test_async_copies(void **state)
{
    unsigned char from[2 * WARP * 16], to[2 * WARP * 16];
    for (size_t i = 0; i < sizeof(from); i++)
        from[i] = (unsigned char)(i * 7 + 1);
    void *df = device(from, sizeof(from)), *dt = device(NULL, sizeof(to));
    LAUNCH(copy_kernel, 1, WARP, 0, 0, (const unsigned char *)df, (unsigned char *)dt);
    fetch(to, dt, sizeof(to));
    for (int i = 0; i < WARP * 16; i++) {
        int second = WARP * 16 + i;
        assert_int_equal(to[i], from[(WARP - 1 - i / 16) * 16 + i % 16]);
        assert_int_equal(to[second], i % 16 < i / 16 % 9 * 2 ? from[second] : 0);
    }
    cudaFree(df);
    cudaFree(dt);
}

/* Copies of 4 and of 8 bytes, each from the neighbour's place. */
static __global__ void few_kernel(const unsigned *from, unsigned *to)
{
    SHARED(unsigned, room, 3 * WARP);
    int i = (int)threadIdx.x, next = (i + 1) % WARP;
    cp_async_few<4>(room + i, from + next);
    cp_async_few<8>(room + WARP + 2 * i, from + WARP + 2 * next);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    for (int k = 0; k < 3; k++)
        to[k * WARP + i] = room[k * WARP + i];
}

static void test_few_bytes(void **state)
{
    unsigned from[3 * WARP], to[3 * WARP];
    for (unsigned i = 0; i < 3 * WARP; i++)
        from[i] = i * 0x01020305u + 7;
    void *df = device(from, sizeof(from)), *dt = device(NULL, sizeof(to));
    LAUNCH(few_kernel, 1, WARP, 0, 0, (const unsigned *)df, (unsigned *)dt);
    fetch(to, dt, sizeof(to));
    for (int i = 0; i < WARP; i++)
        assert_int_equal(to[i], from[(i + 1) % WARP]);
    for (int i = 0; i < 2 * WARP; i++)
        assert_int_equal(to[WARP + i], from[WARP + (i + 2) % (2 * WARP)]);
    cudaFree(df);
    cudaFree(dt);
}

/* More than 32 bits, and of both signs. */
static __global__ void shared_sum_kernel(long long *sum)
{
    add_shared_sum(sum, ((long long)blockIdx.x - 3) * ((1ll << 40) + (long long)threadIdx.x));
}

static void test_shared_sum(void **state)
{
    enum { BLOCKS = 10 };
    long long sum = -5, want = sum, *d = (long long *)device(&sum, sizeof(sum));
    for (int block = 0; block < BLOCKS; block++) {
        for (int thread = 0; thread < WARP; thread++)
            want += (block - 3) * ((1ll << 40) + thread);
    }
    LAUNCH(shared_sum_kernel, BLOCKS, WARP, 0, 0, d);
    fetch(&sum, d, sizeof(sum));
    assert_true(sum == want);
    cudaFree(d);
}

static __global__ void powers_kernel(const float *x, float *y)
{
    y[threadIdx.x] = exp2_near(x[threadIdx.x]);
}

static void test_powers(void **state)
{
    enum { N = 256 };
    float x[N], y[N];
    for (int i = 0; i < N; i++)
        x[i] = (float)(i - 192) * 0.7109375f + (float)i * 1e-3f; /* down to −136 */
    x[0] = -INFINITY;
    x[1] = 0.0f;
    x[2] = -1e30f;
    void *from = device(x, sizeof(x)), *to = device(NULL, sizeof(y));
    LAUNCH(powers_kernel, 1, N, 0, 0, (const float *)from, (float *)to);
    fetch(y, to, sizeof(y));
    for (int i = 0; i < N; i++) {
        double want = x[i] < -126.0f ? 0.0 : exp2(x[i]);
        assert_true(fabs(y[i] - want) <= 0x1p-22 * want);
    }
    assert_true(y[1] == 1.0f);
    cudaFree(from);
    cudaFree(to);
}

static __global__ void sums_kernel(float *out)
{
    float x = (float)(threadIdx.x + 1);
    out[threadIdx.x] = threadIdx.x < WARP ? warp_sum(x) : warp_max(-x);
}

static void test_warp_operations(void **state)
{
    float out[2 * WARP], *d = (float *)device(NULL, sizeof(out));
    LAUNCH(sums_kernel, 1, 2 * WARP, 0, 0, d);
    fetch(out, d, sizeof(out));
    for (int i = 0; i < 2 * WARP; i++)
        assert_true(out[i] == (i < WARP ? 528.0f : -33.0f));
    cudaFree(d);
}

/* --- cooperative launches ---------------------------------------------------------------------------------------------- */

enum { RING = 4, RING_THREADS = 2 * WARP, RING_ROUNDS = 3 };

struct ring {
    int *value; /* [2][RING]: written in turn */
    unsigned *arrived;
    bool meets;
};

static __device__ void grid_barrier(unsigned *arrived, unsigned *met)
{
    grid_arrive(arrived);
    grid_wait(arrived, met);
}

/* In every round each block takes its neighbour's value and adds its own index. */
static __global__ void ring_kernel(struct ring ring)
{
    int me = (int)blockIdx.x;
    unsigned met = 0;
    if (threadIdx.x == 0)
        ring.value[me] = 0;
    for (int round = 0; round < RING_ROUNDS; round++) {
        if (ring.meets)
            grid_barrier(ring.arrived, &met);
        if (threadIdx.x == RING_THREADS - 1)
            ring.value[(round + 1) % 2 * RING + me] = ring.value[round % 2 * RING + (me + 1) % RING] + me;
    }
}

static bool ring_is_right(unsigned seed, bool meets)
{
    int value[2 * RING];
    unsigned zero = 0;
    struct ring ring = {(int *)device(NULL, sizeof(value)), (unsigned *)device(&zero, sizeof(zero)), meets};
    bool right = true;
    harness_seed(seed);
    assert_int_equal(launch_cooperative(ring_kernel, RING, RING_THREADS, 0, 0, ring), cudaSuccess);
    fetch(value, ring.value, sizeof(value));
    harness_seed(0);
    for (int me = 0; me < RING; me++) {
        int want = 0;
        for (int round = 0; round < RING_ROUNDS; round++)
            want += (me + round) % RING;
        right &= value[RING_ROUNDS % 2 * RING + me] == want;
    }
    cudaFree(ring.value);
    cudaFree(ring.arrived);
    return right;
}

static void test_grid_barrier(void **state)
{
    for (unsigned seed = 0; seed < 5; seed++)
        assert_true(ring_is_right(seed, true));
}

/* --- streams and graphs ----------------------------------------------------------------------------------------------- */

static __global__ void count_kernel(cudaGraphConditionalHandle handle, int *left, int *done)
{
    *left -= 1;
    *done += 1;
    cudaGraphSetConditional(handle, *left > 0);
}

/* A graph whose WHILE node counts down in device memory. */
static void test_while_node(void **state)
{
    int five = 5, zero = 0, done = 0;
    int *left = (int *)device(&five, sizeof(int)), *counter = (int *)device(&zero, sizeof(int));
    cudaGraph_t g;
    cudaGraphExec_t exec;
    cudaGraphNode_t node;
    cudaStream_t s;
    cudaGraphConditionalHandle handle;
    assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaGraphCreate(&g, 0), cudaSuccess);
    assert_int_equal(cudaGraphConditionalHandleCreate(&handle, g, 1, cudaGraphCondAssignDefault),
                     cudaSuccess);
    cudaGraphNodeParams p = {};
    p.type = cudaGraphNodeTypeConditional;
    p.conditional.handle = handle;
    p.conditional.type = cudaGraphCondTypeWhile;
    p.conditional.size = 1;
#if CUDART_VERSION >= 13000
    assert_int_equal(cudaGraphAddNode(&node, g, NULL, NULL, 0, &p), cudaSuccess);
#else
    assert_int_equal(cudaGraphAddNode(&node, g, NULL, 0, &p), cudaSuccess);
#endif
    cudaGraph_t body = p.conditional.phGraph_out[0];
    assert_int_equal(add_kernel_node(&node, body, NULL, count_kernel, handle, left, counter), cudaSuccess);
    assert_int_equal(cudaGraphInstantiate(&exec, g, 0), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(0), cudaSuccess);
    assert_int_equal(cudaGraphLaunch(exec, s), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(s), cudaSuccess);
    fetch(&done, counter, sizeof(done));
    assert_int_equal(done, 5);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(g);
    cudaStreamDestroy(s);
    cudaFree(left);
    cudaFree(counter);
}

#ifndef __CUDACC__ /* on a real GPU nothing is provoked */

static __global__ void double_kernel(int *x)
{
    *x *= 2;
}

static __global__ void add_kernel(int *x)
{
    *x += 3;
}

/* (5 + 3) · 2 in two streams; without the event, sometimes 5 · 2 + 3. */
static int two_streams(unsigned seed, bool with_event)
{
    int value = 5, *x = (int *)device(&value, sizeof(int));
    cudaStream_t a, b;
    cudaEvent_t e;
    cudaStreamSynchronize(0);
    harness_seed(seed);
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    LAUNCH(add_kernel, 1, 1, 0, a, x);
    cudaEventRecord(e, a);
    if (with_event)
        cudaStreamWaitEvent(b, e, 0);
    LAUNCH(double_kernel, 1, 1, 0, b, x);
    cudaDeviceSynchronize();
    harness_seed(0);
    fetch(&value, x, sizeof(value));
    cudaEventDestroy(e);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    cudaFree(x);
    return value;
}

static void test_missing_grid_barrier(void **state)
{
    for (unsigned seed = 0; seed < 5; seed++)
        assert_false(ring_is_right(seed, false));
}

static void test_streams_and_events(void **state)
{
    int wrong = 0;
    for (unsigned seed = 1; seed <= 10; seed++) {
        assert_int_equal(two_streams(seed, true), 16);
        wrong += two_streams(seed, false) != 16;
    }
    assert_true(wrong > 0);
}

/* --- what must be found ------------------------------------------------------------------------------------------------ */

/* out[i] = the value that thread 127 − i has put into shared memory. */
static __global__ void missing_barrier(float *out)
{
    SHARED(float, room, 128);
    room[threadIdx.x] = (float)threadIdx.x;
    out[threadIdx.x] = room[127 - threadIdx.x];
}

static __global__ void missing_wait(const float *in, float *out)
{
    SHARED(float, room, WARP * 4);
    cp_async_16(room + threadIdx.x * 4, in + threadIdx.x * 4, 16);
    cp_async_commit();
    out[threadIdx.x] = room[threadIdx.x * 4];
    cp_async_wait<0>();
}

static __global__ void unwritten(float *out)
{
    SHARED(float, room, WARP);
    if (threadIdx.x != 7)
        room[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = room[threadIdx.x];
}

static bool has_nan(const float *device_values, int n)
{
    float x[128];
    bool any = false;
    fetch(x, device_values, (size_t)n * sizeof(float));
    for (int i = 0; i < n; i++)
        any |= x[i] != x[i];
    return any;
}

static void test_unwritten_memory_is_nan(void **state)
{
    float zeros[WARP * 4] = {};
    float *in = (float *)device(zeros, sizeof(zeros)), *out = (float *)device(NULL, 128 * sizeof(float));
    assert_true(has_nan(out, 128));
    LAUNCH(missing_barrier, 1, 128, 0, 0, out);
    assert_true(has_nan(out, 128));
    LAUNCH(missing_wait, 1, WARP, 0, 0, in, out);
    assert_true(has_nan(out, WARP));
    LAUNCH(unwritten, 1, WARP, 0, 0, out);
    assert_true(has_nan(out, WARP));
    cudaFree(in);
    cudaFree(out);
}

static __global__ void beyond_shared(float *out)
{
    SHARED(float, room, WARP);
    room[threadIdx.x + 1] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = room[threadIdx.x];
}

static __global__ void beyond_device(float *out)
{
    out[threadIdx.x + 2 * WARP] = 1.0f; /* the allocation has one warp's, and ends at a page */
}

static __global__ void divergent(float *out)
{
    if (threadIdx.x < WARP)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1.0f;
}

static __global__ void ended_lane(float *out)
{
    if (threadIdx.x == 3)
        return;
    out[threadIdx.x] = warp_sum(1.0f);
}

static __global__ void unfinished_copy(const float *in)
{
    SHARED(float, room, WARP * 4);
    cp_async_16(room + threadIdx.x * 4, in + threadIdx.x * 4, 16);
    cp_async_commit();
}

static __global__ void too_much_shared(float *out)
{
    SHARED(float, room, 13000);
    room[threadIdx.x] = 1.0f;
    out[threadIdx.x] = room[threadIdx.x];
}

static __global__ void a_little_shared(float *out)
{
    SHARED(float, room, WARP);
    room[threadIdx.x] = 1.0f;
    out[threadIdx.x] = room[threadIdx.x];
}

/* A block that never comes, and a count that is never reached. */
static __global__ void absent_block(unsigned *arrived)
{
    unsigned met = 0;
    if (blockIdx.x > 0)
        grid_barrier(arrived, &met);
}

static __global__ void one_too_many(unsigned *arrived)
{
    unsigned met = blockIdx.x == 0;
    grid_barrier(arrived, &met);
}

static __global__ void waits_for_others(unsigned *arrived)
{
    unsigned met = 0;
    grid_barrier(arrived, &met);
}

enum fault {
    ABSENT_BLOCK,
    ONE_TOO_MANY,
    NOT_COOPERATIVE,
    BEYOND_SHARED,
    BEYOND_DEVICE,
    DIVERGENT,
    ENDED_LANE,
    UNFINISHED_COPY,
    TOO_MUCH_SHARED,
    TOO_MUCH_GIVEN,
    HOST_READS_DEVICE,
    NO_FAULT,
};

static void commit_fault(enum fault fault)
{
    float *out = (float *)device(NULL, 2 * WARP * sizeof(float)),
          *in = (float *)device(NULL, WARP * 4 * sizeof(float));
    float *small = (float *)device(NULL, WARP * sizeof(float));
    unsigned zero = 0, *arrived = (unsigned *)device(&zero, sizeof(zero));
    if (fault == ABSENT_BLOCK)
        launch_cooperative(absent_block, 3, WARP, 0, 0, arrived);
    if (fault == ONE_TOO_MANY)
        launch_cooperative(one_too_many, 3, WARP, 0, 0, arrived);
    if (fault == NOT_COOPERATIVE)
        LAUNCH(waits_for_others, 2, WARP, 0, 0, arrived);
    if (fault == BEYOND_SHARED)
        LAUNCH(beyond_shared, 1, WARP, 0, 0, out);
    if (fault == BEYOND_DEVICE)
        LAUNCH(beyond_device, 1, WARP, 0, 0, small);
    if (fault == DIVERGENT)
        LAUNCH(divergent, 1, 2 * WARP, 0, 0, out);
    if (fault == ENDED_LANE)
        LAUNCH(ended_lane, 1, WARP, 0, 0, out);
    if (fault == UNFINISHED_COPY)
        LAUNCH(unfinished_copy, 1, WARP, 0, 0, (const float *)in);
    if (fault == TOO_MUCH_SHARED)
        LAUNCH(too_much_shared, 1, WARP, 0, 0, out);
    if (fault == TOO_MUCH_GIVEN) {
        cudaFuncSetAttribute((const void *)a_little_shared, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             99 << 10);
        LAUNCH(a_little_shared, 1, WARP, 0, 0, out);
    }
    if (fault == NO_FAULT)
        LAUNCH(sums_kernel, 1, WARP, 0, 0, out);
    cudaStreamSynchronize(0);
    if (fault == HOST_READS_DEVICE)
        in[0] = *(volatile float *)out;
}

/* Whether a process that does it is ended by a signal, or by a sanitizer. */
static bool is_found(int fault)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL); /* cmocka's would carry on */
        signal(SIGABRT, SIG_DFL);
        commit_fault((enum fault)fault);
        _exit(0);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_faults_are_found(void **state)
{
    for (int fault = 0; fault < NO_FAULT; fault++) {
        if (!is_found(fault))
            fail_msg("fault %d was not found", fault);
    }
    assert_false(is_found(NO_FAULT));
}

/* What the runtime refuses, and says so when asked. */
static void test_refused_launches(void **state)
{
    float *out = (float *)device(NULL, sizeof(float));
    LAUNCH(sums_kernel, 1, 1025, 0, 0, out);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(sums_kernel, dim3(1, 65536), WARP, 0, 0, out);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(sums_kernel, 1, WARP, (48 << 10) + 1, 0, out);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    harness_cooperative(true, 2);
    assert_int_equal(launch_cooperative(sums_kernel, 3, WARP, 0, 0, out), cudaErrorCooperativeLaunchTooLarge);
    harness_cooperative(false, 2);
    assert_int_equal(launch_cooperative(sums_kernel, 1, WARP, 0, 0, out), cudaErrorNotSupported);
    harness_cooperative(true, 4);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    cudaFree(out);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mma),
        cmocka_unit_test(test_ldmatrix),
        cmocka_unit_test(test_async_copies),
        cmocka_unit_test(test_few_bytes),
        cmocka_unit_test(test_shared_sum),
        cmocka_unit_test(test_powers),
        cmocka_unit_test(test_warp_operations),
        cmocka_unit_test(test_grid_barrier),
        cmocka_unit_test(test_while_node),
#ifndef __CUDACC__
        cmocka_unit_test(test_missing_grid_barrier),
        cmocka_unit_test(test_streams_and_events),
        cmocka_unit_test(test_unwritten_memory_is_nan),
        cmocka_unit_test(test_faults_are_found),
        cmocka_unit_test(test_refused_launches),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
