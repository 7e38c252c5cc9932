/* Streams, events and copies. Streams are lazy: nothing is done before somebody waits, and they take turns by the seed,
 * bound by events alone. */
#include "tests/cuda/harness/runtime.h"

static struct CUstream_st default_stream;
static std::vector<struct CUstream_st *> streams = {&default_stream};

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

static bool idle(void)
{
    for (struct CUstream_st *s : streams) {
        if (!s->queue.empty())
            return false;
    }
    return true;
}

void runtime_drain_until(const std::function<bool()> &done)
{
    if (done() || idle())
        return;
    harness_open_memory(true);
    while (!done() && step())
        continue;
    harness_open_memory(false);
}

void runtime_drain(void)
{
    runtime_drain_until([] { return false; });
}

struct CUstream_st *runtime_stream(cudaStream_t s)
{
    return s ? s : &default_stream;
}

void runtime_push(cudaStream_t stream, std::function<void()> run)
{
    struct CUstream_st *s = runtime_stream(stream);
    if (!s->capture) {
        s->queue.push_back({run, nullptr, 0});
        return;
    }
    runtime_add_node(s->capture, run, s->last);
    s->last = {s->capture->nodes.size() - 1};
}

void harness_submit(cudaStream_t stream, void (*run)(void *), void *arg, void (*drop)(void *))
{
    std::shared_ptr<void> keep(arg, drop);
    runtime_push(stream, [run, keep] { run(keep.get()); });
}

extern "C" cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind,
                                       cudaStream_t s)
{
    RUNTIME_CALL();
    if (!runtime_is_whole(to, bytes) || !runtime_is_whole(from, bytes))
        return runtime_error(cudaErrorInvalidValue);
    /* A graph cannot read memory that may be paged out, and a conditional one no host memory at all. */
    if (runtime_stream(s)->capture && (!(runtime_is_device(to) || runtime_is_pinned(to)) ||
                                       !(runtime_is_device(from) || runtime_is_pinned(from))))
        return runtime_error(cudaErrorStreamCaptureUnsupported);
    runtime_push(s, [=] { memmove(to, from, bytes); });
    /* To memory that may be paged out nothing is copied behind the caller's back. */
    if (runtime_is_device(from) && !runtime_is_device(to) && !runtime_is_pinned(to))
        runtime_drain_until([s] { return runtime_stream(s)->queue.empty(); });
    return cudaSuccess;
}

extern "C" cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                                         size_t width, size_t height, cudaMemcpyKind, cudaStream_t s)
{
    RUNTIME_CALL();
    if (width == 0 || height == 0)
        return cudaSuccess;
    if (to_pitch < width || from_pitch < width || !runtime_is_whole(to, (height - 1) * to_pitch + width) ||
        !runtime_is_whole(from, (height - 1) * from_pitch + width))
        return runtime_error(cudaErrorInvalidValue);
    runtime_push(s, [=] {
        for (size_t i = 0; i < height; i++)
            memcpy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    });
    return cudaSuccess;
}

extern "C" cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    RUNTIME_CALL();
    if (!runtime_is_whole(to, bytes))
        return runtime_error(cudaErrorInvalidValue);
    runtime_push(s, [=] { memset(to, value, bytes); });
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    RUNTIME_CALL();
    *s = new CUstream_st{};
    streams.push_back(*s);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    runtime_drain();
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i] == s)
            streams.erase(streams.begin() + (long)i--);
    }
    delete s;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    struct CUstream_st *s = runtime_stream(stream);
    if (s->capture)
        return runtime_error(cudaErrorStreamCaptureUnsupported);
    /* An error of a wait is one of the work, which is over all the same. */
    runtime_drain_until([s] { return s->queue.empty(); });
    RUNTIME_CALL();
    return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceSynchronize(void)
{
    RUNTIME_CALL();
    runtime_drain();
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    RUNTIME_CALL();
    *e = new CUevent_st{};
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    runtime_drain();
    delete e;
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    RUNTIME_CALL();
    long count = ++e->wanted;
    runtime_push(s, [e, count] { e->done = count > e->done ? count : e->done; });
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    RUNTIME_CALL();
    runtime_stream(s)->queue.push_back({nullptr, e, e->wanted});
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    RUNTIME_CALL();
    runtime_stream(s)->capture = new CUgraph_st{};
    runtime_stream(s)->last.clear();
    return cudaSuccess;
}

/* A capture that fails is over all the same. */
extern "C" cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    struct CUgraph_st *capture = runtime_stream(s)->capture;
    if (!capture)
        return runtime_error(cudaErrorIllegalState);
    runtime_stream(s)->capture = nullptr;
    cudaError_t wanted = runtime_fault(__func__);
    if (wanted == cudaSuccess)
        *g = capture;
    else
        delete capture;
    return wanted;
}
