/* The part of the CUDA runtime that gpu/cuda/ uses, behind the toolkit's own headers.
 *
 * Streams are lazy: nothing is done before somebody waits, and the streams take turns by the seed, bound by events
 * alone. A graph's nodes run in any order that their dependencies allow. Device memory starts as NaN, ends at a page that
 * nobody may touch, is never used twice, and while host code runs none of it may be touched. */
#include "tests/cuda/harness/harness.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include <sys/mman.h>

#define ARENA_BYTES  ((size_t)64 << 30) /* of addresses */
#define PAGE         ((size_t)4096)
#define ALIGNMENT    ((size_t)64) /* the real one aligns to 256 */
#define POISON       0xff
#define DEVICE_BYTES ((size_t)8 << 30)
#define LOOPS_MAX    1000000

/* --- chance ------------------------------------------------------------------------------------------------------- */

static uint64_t chance;

extern "C" void harness_seed(unsigned seed)
{
    chance = seed;
}

bool harness_is_random(void)
{
    return chance != 0;
}

unsigned harness_random(unsigned n)
{
    chance = chance * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    chance += chance == 0;
    return (unsigned)((chance >> 33) % n);
}

/* --- device memory ------------------------------------------------------------------------------------------------ */

struct allocation {
    size_t pages_bytes, bytes;
    char *memory;
};

static char *arena;
static size_t arena_used, device_used, device_bytes = DEVICE_BYTES;
static std::map<char *, struct allocation> allocations; /* by first page */
static std::map<char *, size_t> pinned;
static int n_open;
static cudaError_t last_error;

static cudaError_t error(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

static void protect(int how)
{
    for (const auto &a : allocations)
        mprotect(a.first, a.second.pages_bytes, how);
}

extern "C" void harness_open_memory(bool open)
{
    if (open ? n_open++ == 0 : --n_open == 0)
        protect(open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

extern "C" cudaError_t cudaMalloc(void **out, size_t bytes)
{
    if (!arena)
        arena =
            (char *)mmap(nullptr, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    if (bytes == 0) {
        *out = nullptr;
        return cudaSuccess;
    }
    if (device_used + pages > device_bytes || arena_used + pages + PAGE > ARENA_BYTES)
        return error(cudaErrorMemoryAllocation);
    char *first = arena + arena_used;
    arena_used += pages + PAGE;
    device_used += pages;
    mprotect(first, pages, PROT_READ | PROT_WRITE);
    memset(first, POISON, pages);
    char *memory = first + pages - (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    allocations[first] = {pages, bytes, memory};
    if (!n_open)
        mprotect(first, pages, PROT_NONE);
    *out = memory;
    return cudaSuccess;
}

static std::map<char *, struct allocation>::iterator find(const void *p)
{
    auto a = allocations.upper_bound((char *)(uintptr_t)p);
    if (a == allocations.begin())
        return allocations.end();
    --a;
    return (char *)p < a->first + a->second.pages_bytes ? a : allocations.end();
}

static bool is_device(const void *p)
{
    return arena && (char *)p >= arena && (char *)p < arena + ARENA_BYTES;
}

/* The bytes between an allocation and its pages' borders are nobody's. */
static void check_margins(const char *first, const struct allocation *a)
{
    for (const char *p = first; p < first + a->pages_bytes; p++) {
        if ((p < a->memory || p >= a->memory + a->bytes) && (unsigned char)*p != POISON)
            harness_die("written before or behind an allocation in device memory");
    }
}

static void drain(void);

extern "C" cudaError_t cudaFree(void *p)
{
    drain();
    if (!p)
        return cudaSuccess;
    auto a = find(p);
    if (a == allocations.end() || a->second.memory != p)
        return error(cudaErrorInvalidValue);
    mprotect(a->first, a->second.pages_bytes, PROT_READ);
    check_margins(a->first, &a->second);
    mprotect(a->first, a->second.pages_bytes, PROT_NONE);
    madvise(a->first, a->second.pages_bytes, MADV_DONTNEED);
    device_used -= a->second.pages_bytes;
    allocations.erase(a);
    return cudaSuccess;
}

static bool is_whole(const void *p, size_t bytes)
{
    auto a = find(p);
    if (!is_device(p))
        return true;
    return a != allocations.end() && (char *)p >= a->second.memory &&
           (char *)p + bytes <= a->second.memory + a->second.bytes;
}

extern "C" cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *available = device_bytes - device_used;
    *total = device_bytes;
    return cudaSuccess;
}

extern "C" cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    *p = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
    pinned[(char *)*p] = bytes;
    return *p ? cudaSuccess : error(cudaErrorMemoryAllocation);
}

extern "C" cudaError_t cudaFreeHost(void *p)
{
    drain();
    pinned.erase((char *)p);
    free(p);
    return cudaSuccess;
}

extern "C" cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned)
{
    pinned[(char *)p] = bytes;
    return cudaSuccess;
}

extern "C" cudaError_t cudaHostUnregister(void *p)
{
    drain();
    return pinned.erase((char *)p) ? cudaSuccess : error(cudaErrorHostMemoryNotRegistered);
}

static bool is_pinned(const void *p)
{
    auto a = pinned.upper_bound((char *)(uintptr_t)p);
    if (a == pinned.begin())
        return false;
    --a;
    return (char *)p < a->first + a->second;
}

/* --- graphs, streams, events --------------------------------------------------------------------------------------- */

struct node {
    std::function<void()> run;
    std::vector<size_t> after;
};

struct CUgraph_st {
    std::vector<struct node> nodes;
    std::vector<std::unique_ptr<struct CUgraphNode_st>> handles;
    std::vector<std::unique_ptr<struct CUgraph_st>> bodies; /* of conditional nodes */
    bool refuses_host_copies;
};

struct CUgraphNode_st {
    size_t index;
};

struct CUgraphExec_st {
    std::vector<struct node> nodes;
};

struct CUevent_st {
    long wanted, done;
};

struct operation {
    std::function<void()> run;
    struct CUevent_st *event; /* waited for, with its count */
    long count;
};

struct CUstream_st {
    std::deque<struct operation> queue;
    struct CUgraph_st *capture;
    std::vector<size_t> last; /* nodes that the next one depends on */
};

static struct CUstream_st default_stream;
static std::vector<struct CUstream_st *> streams = {&default_stream};
static std::vector<unsigned> conditions;

static bool can_run(const struct CUstream_st *s)
{
    return !s->queue.empty() &&
           !(s->queue.front().event && s->queue.front().event->done < s->queue.front().count);
}

static bool step(void)
{
    std::vector<struct CUstream_st *> ready;
    bool waiting = false;
    for (struct CUstream_st *s : streams) {
        waiting |= !s->queue.empty();
        if (can_run(s))
            ready.push_back(s);
    }
    if (ready.empty() && waiting)
        harness_die("streams wait for events that nobody records");
    if (ready.empty())
        return false;
    struct CUstream_st *s = ready[harness_is_random() ? harness_random((unsigned)ready.size()) : 0];
    struct operation o = s->queue.front();
    s->queue.pop_front();
    if (o.run)
        o.run();
    return true;
}

static void drain_until(const std::function<bool()> &done)
{
    harness_open_memory(true);
    while (!done() && step())
        continue;
    harness_open_memory(false);
}

static void drain(void)
{
    drain_until([] { return false; });
}

static struct CUstream_st *stream_of(cudaStream_t s)
{
    return s ? s : &default_stream;
}

static void add_node(struct CUgraph_st *g, std::function<void()> run, const std::vector<size_t> &after)
{
    g->nodes.push_back({run, after});
    g->handles.push_back(std::make_unique<struct CUgraphNode_st>(CUgraphNode_st{g->nodes.size() - 1}));
}

static void push(cudaStream_t stream, std::function<void()> run)
{
    struct CUstream_st *s = stream_of(stream);
    if (!s->capture) {
        s->queue.push_back({run, nullptr, 0});
        return;
    }
    add_node(s->capture, run, s->last);
    s->last = {s->capture->nodes.size() - 1};
}

void harness_submit(cudaStream_t stream, void (*run)(void *), void *arg, void (*drop)(void *))
{
    std::shared_ptr<void> keep(arg, drop);
    push(stream, [run, keep] { run(keep.get()); });
}

/* In any order that the dependencies allow. */
static void run_nodes(const std::vector<struct node> &nodes)
{
    std::vector<bool> done(nodes.size());
    for (size_t n = 0; n < nodes.size(); n++) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < nodes.size(); i++) {
            bool free = !done[i];
            for (size_t before : nodes[i].after)
                free = free && done[before];
            if (free)
                ready.push_back(i);
            if (free && !harness_is_random())
                break;
        }
        if (ready.empty())
            harness_die("the nodes of a graph wait for one another");
        size_t i = ready[harness_is_random() ? harness_random((unsigned)ready.size()) : 0];
        nodes[i].run();
        done[i] = true;
    }
}

extern "C" cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind,
                                       cudaStream_t s)
{
    if (!is_whole(to, bytes) || !is_whole(from, bytes))
        return error(cudaErrorInvalidValue);
    /* A graph cannot read memory that may be paged out, and a conditional one no host memory at all. */
    if (stream_of(s)->capture && (!(is_device(to) || is_pinned(to)) || !(is_device(from) || is_pinned(from))))
        return error(cudaErrorStreamCaptureUnsupported);
    push(s, [=] { memmove(to, from, bytes); });
    return cudaSuccess;
}

extern "C" cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                                         size_t width, size_t height, cudaMemcpyKind, cudaStream_t s)
{
    if (width == 0 || height == 0)
        return cudaSuccess;
    if (to_pitch < width || from_pitch < width || !is_whole(to, (height - 1) * to_pitch + width) ||
        !is_whole(from, (height - 1) * from_pitch + width))
        return error(cudaErrorInvalidValue);
    push(s, [=] {
        for (size_t i = 0; i < height; i++)
            memcpy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    });
    return cudaSuccess;
}

extern "C" cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    if (!is_whole(to, bytes))
        return error(cudaErrorInvalidValue);
    push(s, [=] { memset(to, value, bytes); });
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new CUstream_st{};
    streams.push_back(*s);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    drain();
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i] == s)
            streams.erase(streams.begin() + (long)i--);
    }
    delete s;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    struct CUstream_st *s = stream_of(stream);
    if (s->capture)
        return error(cudaErrorStreamCaptureUnsupported);
    drain_until([s] { return s->queue.empty(); });
    return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceSynchronize(void)
{
    drain();
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new CUevent_st{};
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    drain();
    delete e;
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    long count = ++e->wanted;
    push(s, [e, count] { e->done = count > e->done ? count : e->done; });
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    stream_of(s)->queue.push_back({nullptr, e, e->wanted});
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    drain_until([e] { return e->done >= e->wanted; });
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    stream_of(s)->capture = new CUgraph_st{};
    stream_of(s)->last.clear();
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t s, cudaGraph_t g,
                                                     const cudaGraphNode_t *after, const cudaGraphEdgeData *,
                                                     size_t n, cudaStreamCaptureMode)
{
    stream_of(s)->capture = g;
    stream_of(s)->last.clear();
    for (size_t i = 0; i < n; i++)
        stream_of(s)->last.push_back(after[i]->index);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    if (!stream_of(s)->capture)
        return error(cudaErrorIllegalState);
    *g = stream_of(s)->capture;
    stream_of(s)->capture = nullptr;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphCreate(cudaGraph_t *g, unsigned)
{
    *g = new CUgraph_st{};
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *n)
{
    for (size_t i = 0; nodes && i < *n && i < g->handles.size(); i++)
        nodes[i] = g->handles[i].get();
    *n = g->handles.size();
    return cudaSuccess;
}

static std::vector<size_t> indices(const cudaGraphNode_t *nodes, size_t n)
{
    std::vector<size_t> after;
    for (size_t i = 0; i < n; i++)
        after.push_back(nodes[i]->index);
    return after;
}

extern "C" cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t *node, cudaGraph_t g,
                                                  const cudaGraphNode_t *after, size_t n, cudaGraph_t child)
{
    std::vector<struct node> copy = child->nodes;
    add_node(
        g, [copy] { run_nodes(copy); }, indices(after, n));
    *node = g->handles.back().get();
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle *handle, cudaGraph_t,
                                                        unsigned value, unsigned)
{
    conditions.push_back(value);
    *handle = conditions.size(); /* 0 is none */
    return cudaSuccess;
}

void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned value)
{
    if (handle == 0 || handle > conditions.size())
        harness_die("there is no such conditional handle");
    conditions[handle - 1] = value;
}

static void run_while(cudaGraphConditionalHandle handle, const struct CUgraph_st *body)
{
    for (int i = 0; conditions[handle - 1]; i++) {
        if (i == LOOPS_MAX)
            harness_die("a WHILE node does not end");
        run_nodes(body->nodes);
    }
}

#if CUDART_VERSION >= 13000
extern "C" cudaError_t cudaGraphAddNode(cudaGraphNode_t *node, cudaGraph_t g, const cudaGraphNode_t *after,
                                        const cudaGraphEdgeData *, size_t n, cudaGraphNodeParams *p)
#else
extern "C" cudaError_t cudaGraphAddNode(cudaGraphNode_t *node, cudaGraph_t g, const cudaGraphNode_t *after,
                                        size_t n, cudaGraphNodeParams *p)
#endif
{
    static cudaGraph_t out[1]; /* as for the real one, the caller does not give the array */
    if (p->type != cudaGraphNodeTypeConditional || p->conditional.type != cudaGraphCondTypeWhile)
        return error(cudaErrorNotSupported);
    g->bodies.push_back(std::make_unique<struct CUgraph_st>());
    struct CUgraph_st *body = g->bodies.back().get();
    cudaGraphConditionalHandle handle = p->conditional.handle;
    out[0] = body;
    p->conditional.phGraph_out = out;
    add_node(
        g, [handle, body] { run_while(handle, body); }, indices(after, n));
    *node = g->handles.back().get();
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long)
{
    *exec = new CUgraphExec_st{g->nodes};
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    drain();
    delete exec;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    if (stream_of(s)->capture)
        return error(cudaErrorStreamCaptureUnsupported);
    push(s, [exec] { run_nodes(exec->nodes); });
    return cudaSuccess;
}

/* --- the device ---------------------------------------------------------------------------------------------------- */

#define SHARED_DEFAULT ((size_t)48 << 10)
#define SHARED_MOST    ((size_t)99 << 10) /* of the smallest device that is built for */

static std::map<const void *, size_t> shared_limits;

size_t harness_shared_limit(const void *kernel)
{
    auto l = shared_limits.find(kernel);
    return l == shared_limits.end() ? SHARED_DEFAULT : l->second;
}

extern "C" cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute what, int value)
{
    if (what != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || (size_t)value > SHARED_MOST)
        return error(cudaErrorInvalidValue);
    shared_limits[kernel] = (size_t)value;
    return cudaSuccess;
}

bool harness_launch_allowed(dim3 blocks, dim3 threads, size_t shared, const void *kernel)
{
    size_t n = (size_t)threads.x * threads.y * threads.z;
    bool fits = n >= 1 && n <= 1024 && threads.z <= 64 && blocks.x >= 1 && blocks.y >= 1 && blocks.z >= 1 &&
                blocks.x <= 0x7fffffff && blocks.y <= 65535 && blocks.z <= 65535 &&
                shared <= harness_shared_limit(kernel);
    error(fits ? cudaSuccess : cudaErrorInvalidConfiguration);
    return fits;
}

extern "C" cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

extern "C" const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaErrorMemoryAllocation ? "out of memory" : "an error of the harness";
}

/* What a test wants the machine to be. */
static int driver_version = CUDART_VERSION, compute_major = 8;
static cudaError_t count_error = cudaSuccess;

extern "C" void harness_machine(int driver, int error_of_count, int major, size_t memory)
{
    driver_version = driver;
    count_error = (cudaError_t)error_of_count;
    compute_major = major;
    device_bytes = memory ? memory : DEVICE_BYTES;
}

extern "C" cudaError_t cudaGetDeviceCount(int *n)
{
    *n = count_error == cudaSuccess;
    return error(count_error);
}

extern "C" cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : error(cudaErrorInvalidDevice);
}

extern "C" cudaError_t cudaDriverGetVersion(int *version)
{
    *version = driver_version;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    *p = cudaDeviceProp{};
    snprintf(p->name, sizeof(p->name), "the host");
    p->major = compute_major;
    p->multiProcessorCount = 4;
    p->sharedMemPerBlockOptin = SHARED_MOST;
    return cudaSuccess;
}
