/* Recording operations as a graph, and running it again and again.
 *
 * Between graph_begin and graph_end the stream is captured. A loop over a graph is a graph of its own with a conditional
 * WHILE node around it, made when it is first launched, so that the GPU goes from token to token without the host; where
 * the driver has no such node, the host looks at the counter before each round. A loop over a step of few rows is one
 * kernel instead (step.cu), outside of any graph: inside a conditional node MPS forbids cooperative launches. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>
#include <stdlib.h>

void cuda_graph_destroy(struct engine *e, struct engine_graph *g)
{
    if (!g)
        return;
    if (g->loop)
        cudaGraphExecDestroy(g->loop);
    if (g->loop_graph)
        cudaGraphDestroy(g->loop_graph);
    if (g->once)
        cudaGraphExecDestroy(g->once);
    if (g->body)
        cudaGraphDestroy(g->body);
    cudaFree(g->rounds);
    step_program_destroy(g->step);
    step_notes_destroy(g->notes);
    free(g);
}

void cuda_graph_begin(struct engine *e)
{
    struct cuda_engine *c = cuda_of(e);
    struct engine_graph *g = (struct engine_graph *)calloc(1, sizeof(*g));
    if (g)
        g->notes = step_notes_create();
    cudaError_t r =
        g && g->notes ? cudaMalloc((void **)&g->rounds, sizeof(*g->rounds)) : cudaErrorMemoryAllocation;
    if (cuda_check(c, r, "the decoder's graphs") < 0) {
        cuda_graph_destroy(e, g);
        return;
    }
    c->recording = g;
    cuda_check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "recording");
}

struct engine_graph *cuda_graph_end(struct engine *e)
{
    struct cuda_engine *c = cuda_of(e);
    struct engine_graph *g = c->recording;
    if (!g)
        return NULL;
    cuda_check(c, cudaStreamEndCapture(c->stream, &g->body), "recording");
    c->recording = NULL;
    if (!g->err.code)
        g->step = step_program_create(c, g->notes);
    step_notes_destroy(g->notes);
    g->notes = NULL;
    if (g->err.code == -ENOMEM) {
        c->err = g->err;
        cuda_graph_destroy(e, g);
        return NULL;
    }
    return g;
}

static __global__ void set_kernel(int32_t *p, int32_t value)
{
    *p = value;
}

cudaError_t cuda_set(struct cuda_engine *c, int32_t *p, int32_t value)
{
    LAUNCH(set_kernel, 1, 1, 0, c->stream, p, value);
    return cudaGetLastError();
}

/* Whether there is another round, asked before each. */
static __global__ void continue_kernel(cudaGraphConditionalHandle handle, const int32_t *n_active,
                                       int32_t *rounds)
{
    bool again = *n_active > 0 && *rounds > 0;
    *rounds -= again;
    cudaGraphSetConditional(handle, again);
}

static cudaError_t add_while(cudaGraphNode_t *node, cudaGraph_t to, const cudaGraphNode_t *behind,
                             cudaGraphNodeParams *params)
{
#if CUDART_VERSION >= 13000
    return cudaGraphAddNode(node, to, behind, NULL, 1, params);
#else
    return cudaGraphAddNode(node, to, behind, 1, params);
#endif
}

/* question → WHILE { body → question } */
static cudaError_t make_loop(struct engine_graph *g, const int32_t *n_active)
{
    cudaGraphConditionalHandle handle;
    cudaGraphNode_t first, loop, body, next;
    g->n_active = n_active;
    cudaError_t e = cudaGraphCreate(&g->loop_graph, 0);
    e = e ? e : cudaGraphConditionalHandleCreate(&handle, g->loop_graph, 0, 0);
    e = e ? e : add_kernel_node(&first, g->loop_graph, NULL, continue_kernel, handle, n_active, g->rounds);
    if (e != cudaSuccess)
        return e;
    cudaGraphNodeParams params = {};
    params.type = cudaGraphNodeTypeConditional;
    params.conditional.handle = handle;
    params.conditional.type = cudaGraphCondTypeWhile;
    params.conditional.size = 1;
    e = add_while(&loop, g->loop_graph, &first, &params);
    if (e != cudaSuccess)
        return e;
    cudaGraph_t inside = params.conditional.phGraph_out[0];
    e = cudaGraphAddChildGraphNode(&body, inside, NULL, 0, g->body);
    e = e ? e : add_kernel_node(&next, inside, &body, continue_kernel, handle, n_active, g->rounds);
    return e ? e : cudaGraphInstantiate(&g->loop, g->loop_graph, 0);
}

/* The loop over this counter, or false where the driver cannot have one. */
static bool has_loop(struct cuda_engine *c, struct engine_graph *g, const int32_t *n_active)
{
    if (c->chains)
        return false;
    if (g->loop && g->n_active == n_active)
        return true;
    if (g->loop)
        cudaGraphExecDestroy(g->loop);
    if (g->loop_graph)
        cudaGraphDestroy(g->loop_graph);
    g->loop = NULL;
    g->loop_graph = NULL;
    cudaError_t e = make_loop(g, n_active);
    c->chains = e != cudaSuccess && e != cudaErrorMemoryAllocation;
    if (c->chains)
        cudaGetLastError(); /* has been dealt with */
    else
        cuda_check(c, e, "a loop");
    return e == cudaSuccess;
}

/* One launch after the other, which few graphs come to: what it launches is made when it is first asked for, and even where the
 * counter wants no round, as before the first input. */
static void launch_chain(struct cuda_engine *c, struct engine_graph *g, const int32_t *n_active,
                         int max_times)
{
    cudaGraphExec_t once = g->once;
    c->base.repeat = "launches";
    if (!once && cuda_check(c, cudaGraphInstantiate(&once, g->body, 0), "a graph") < 0)
        return;
    g->once = once;
    for (int i = 0; i < max_times && !cuda_failed(c); i++) {
        if (n_active) {
            cuda_copy(c, c->counter, n_active, sizeof(*n_active), "a loop");
            cuda_check(c, cudaStreamSynchronize(c->stream), "a loop");
            if (*c->counter <= 0)
                return;
        }
        cuda_check(c, cudaGraphLaunch(g->once, c->stream), "a graph");
    }
}

void cuda_graph_launch(struct engine *e, struct engine_graph *g, const int32_t *n_active, int max_times)
{
    struct cuda_engine *c = cuda_of(e);
    if (cuda_failed(c))
        return;
    if (c->recording) {
        cuda_fail(c, -ENOTSUP, "engine cuda: a graph cannot be launched while another one is recorded");
    } else if (g->err.code) {
        c->err = g->err;
    } else if (n_active && max_times > 0 && g->step && c->cooperative &&
               cuda_step_launch(c, g->step, n_active, max_times)) {
        c->base.repeat = "kernel"; /* submitted, or failed */
    } else if (!n_active || !has_loop(c, g, n_active)) {
        launch_chain(c, g, n_active, max_times);
    } else if (max_times > 0) {
        c->base.repeat = "graph";
        cuda_check(c, cuda_set(c, g->rounds, max_times), "a loop");
        cuda_check(c, cudaGraphLaunch(g->loop, c->stream), "a loop");
    }
}
