/* Graphs: a recorded one's nodes run in any order that their dependencies allow, and a WHILE node's body while its handle says
 * so. */
#include "tests/cuda/harness/runtime.h"

#define LOOPS_MAX 1000000

static std::vector<unsigned> conditions;

void runtime_add_node(struct CUgraph_st *g, std::function<void()> run, const std::vector<size_t> &after)
{
    g->nodes.push_back({run, after});
    g->handles.push_back(std::make_unique<struct CUgraphNode_st>(CUgraphNode_st{g->nodes.size() - 1}));
}

/* In any order that the dependencies allow; without a seed the latest that can, so that a dependency that is missing shows. */
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
        }
        if (ready.empty())
            harness_die("the nodes of a graph wait for one another");
        size_t i = harness_is_random() ? ready[harness_random((unsigned)ready.size())] : ready.back();
        nodes[i].run();
        done[i] = true;
    }
}

extern "C" cudaError_t cudaGraphCreate(cudaGraph_t *g, unsigned)
{
    RUNTIME_CALL();
    *g = new CUgraph_st{};
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}

static std::vector<size_t> indices(const cudaGraphNode_t *nodes, size_t n)
{
    std::vector<size_t> after;
    for (size_t i = 0; i < n; i++)
        after.push_back(nodes[i]->index);
    return after;
}

cudaError_t harness_add_node(cudaGraphNode_t *node, cudaGraph_t g, const cudaGraphNode_t *behind,
                             void (*run)(void *), void *arg, void (*drop)(void *))
{
    std::shared_ptr<void> keep(arg, drop);
    cudaError_t wanted = runtime_fault("cudaGraphAddKernelNode");
    if (wanted != cudaSuccess)
        return wanted;
    runtime_add_node(
        g, [run, keep] { run(keep.get()); }, indices(behind, behind ? 1 : 0));
    *node = g->handles.back().get();
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t *node, cudaGraph_t g,
                                                  const cudaGraphNode_t *after, size_t n, cudaGraph_t child)
{
    RUNTIME_CALL();
    std::vector<struct node> copy = child->nodes;
    runtime_add_node(
        g, [copy] { run_nodes(copy); }, indices(after, n));
    *node = g->handles.back().get();
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle *handle, cudaGraph_t,
                                                        unsigned value, unsigned)
{
    RUNTIME_CALL();
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
    RUNTIME_CALL();
    static cudaGraph_t out[1]; /* as for the real one, the caller does not give the array */
    if (p->type != cudaGraphNodeTypeConditional || p->conditional.type != cudaGraphCondTypeWhile)
        return runtime_error(cudaErrorNotSupported);
    g->bodies.push_back(std::make_unique<struct CUgraph_st>());
    struct CUgraph_st *body = g->bodies.back().get();
    cudaGraphConditionalHandle handle = p->conditional.handle;
    out[0] = body;
    p->conditional.phGraph_out = out;
    runtime_add_node(
        g, [handle, body] { run_while(handle, body); }, indices(after, n));
    *node = g->handles.back().get();
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long)
{
    RUNTIME_CALL();
    *exec = new CUgraphExec_st{g->nodes};
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    runtime_drain();
    delete exec;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    RUNTIME_CALL();
    if (runtime_stream(s)->capture)
        return runtime_error(cudaErrorStreamCaptureUnsupported);
    runtime_push(s, [exec] { run_nodes(exec->nodes); });
    return cudaSuccess;
}
