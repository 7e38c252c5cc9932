/* Inside the harness's runtime: memory.cpp, stream.cpp, graph.cpp and device.cpp. */
#ifndef CAPTIOND_TESTS_CUDA_RUNTIME_H
#define CAPTIOND_TESTS_CUDA_RUNTIME_H

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "tests/cuda/harness/harness.h"

struct node {
    std::function<void()> run;
    std::vector<size_t> after;
};

struct CUgraph_st {
    std::vector<struct node> nodes;
    std::vector<std::unique_ptr<struct CUgraphNode_st>> handles;
    std::vector<std::unique_ptr<struct CUgraph_st>> bodies; /* of conditional nodes */
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

/* Remembers an error for cudaGetLastError, and returns it. */
cudaError_t runtime_error(cudaError_t);
/* What a test wants of this call (harness_fail, harness_lose_device): cudaSuccess, or the error it is to fail with. */
cudaError_t runtime_fault(const char *call);
bool runtime_fails(const char *call); /* the same for what is not of the runtime */
#define RUNTIME_CALL()                                                                                       \
    do {                                                                                                     \
        if (cudaError_t wanted = runtime_fault(__func__))                                                    \
            return wanted;                                                                                   \
    } while (0)

bool runtime_is_device(const void *);
bool runtime_is_pinned(const void *);
/* Whether p … p + bytes is inside one allocation, or is not of the device. */
bool runtime_is_whole(const void *p, size_t bytes);
void runtime_set_device_bytes(size_t);

/* Does what has been submitted, in any order that streams and events allow. */
void runtime_drain(void);
void runtime_drain_until(const std::function<bool()> &done);
struct CUstream_st *runtime_stream(cudaStream_t);
void runtime_push(cudaStream_t, std::function<void()> run);
void runtime_add_node(struct CUgraph_st *, std::function<void()> run, const std::vector<size_t> &after);

#endif
