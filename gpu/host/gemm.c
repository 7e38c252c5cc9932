/* Products of hundreds of rows, by oneDNN: the only file that knows it.
 *
 * oneDNN as distributions build it runs on OpenMP, so its own threads are kept out: each worker of the pool calls it
 * with one OpenMP thread on a few dozen rows at a time. Primitives are made for (rows, options) at the first call,
 * which is the warm-up, and found again afterwards. Its fast matrix products take dense matrices only: inputs whose
 * rows overlap and outputs with gaps pass through scratch. */
#include <errno.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/host/host.h"
#include "gpu/host/onednn.h"

static dnnl_data_type_t data_type(enum dtype t)
{
    return t == DTYPE_BF16 ? dnnl_bf16 : dnnl_f32;
}

static dnnl_status_t md_rows(dnnl_memory_desc_t *md, enum dtype type, int rows, int cols)
{
    return md_create(md, (dnnl_dims_t){rows, cols}, data_type(type), (dnnl_dims_t){cols, 1});
}

/* --- plans -------------------------------------------------------------------------------------------------------- */

struct plan_key {
    int rows, n_in, n_out;
    enum dtype out;
    bool bias, gelu, sum; /* sum: adds what is in the output */
};

enum { SRC, BIAS, DST, SCRATCHPAD, N_MEMORIES };

/* Rows at a time: enough for oneDNN to run at its peak, few enough that a worker's last chunk is not waited for. */
#define CHUNK_ROWS 96

/* A product of so many rows, and what each worker passes to it. */
struct product {
    int rows;
    dnnl_primitive_t primitive;
    size_t scratchpad_bytes;
    dnnl_memory_t memory[HOST_THREADS_MAX][N_MEMORIES];
};

struct plan {
    struct plan *next;
    struct plan_key key;
    int chunk_rows, n_chunks;
    struct product whole, last; /* the last chunk may be shorter */
};

struct gemm {
    dnnl_engine_t engine;
    enum dtype type;                         /* of inputs and packed weights */
    dnnl_stream_t streams[HOST_THREADS_MAX]; /* one a worker */
    int n_streams;
    struct plan *plans; /* serve all weights of a shape: their layout depends on shape and type alone */
};

struct wide_weight {
    int n_out, n_in;
    dnnl_memory_desc_t packed_md;
    bool has_md;
    dnnl_memory_t packed;
};

static int failed(struct err *err, dnnl_status_t s, const char *what)
{
    if (s == dnnl_out_of_memory)
        return err_set(err, -ENOMEM, "oneDNN: out of memory to %s", what);
    if (s == dnnl_unimplemented)
        return err_set(err, -ENOTSUP, "oneDNN cannot %s: it has no kernel for this on this processor", what);
    return err_set(err, -EIO,
                   "oneDNN cannot %s (status %d); it compiles its kernels at run time, which a policy like "
                   "MemoryDenyWriteExecute= prevents",
                   what, (int)s);
}

/* A matrix product of `rows` dense rows; weights as given, or in any layout that oneDNN prefers where NULL. */
static dnnl_status_t describe(const struct gemm *g, const struct plan_key *key, int rows, md_ref weights,
                              dnnl_primitive_desc_t *pd)
{
    dnnl_memory_desc_t src = {0}, bias = {0}, dst = {0}, any = {0};
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_dims_t weight_dims = {key->n_in, key->n_out};
    dnnl_status_t s = md_rows(&src, g->type, rows, key->n_in);
    s = s ? s : md_rows(&bias, DTYPE_F32, 1, key->n_out);
    s = s ? s : md_rows(&dst, key->out, rows, key->n_out);
    s = s ? s : md_create(&any, weight_dims, data_type(g->type), NULL);
    s = s ? s : dnnl_primitive_attr_create(&attr);
    s = s ? s : dnnl_post_ops_create(&ops);
    if (!s && key->gelu)
        s = append_gelu(ops);
    if (!s && key->sum)
        s = append_sum(ops);
    s = s ? s : dnnl_primitive_attr_set_post_ops(attr, ops);
    s = s ? s : dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    s = s ? s
          : matmul_create(pd, g->engine, MD_REF(src), weights ? weights : MD_REF(any),
                          key->bias ? MD_REF(bias) : NULL, MD_REF(dst), attr);
    if (ops)
        dnnl_post_ops_destroy(ops);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    md_destroy(&src);
    md_destroy(&bias);
    md_destroy(&dst);
    md_destroy(&any);
    return s;
}

static dnnl_status_t memory_create(const struct gemm *g, enum dtype type, int rows, int cols,
                                   dnnl_memory_t *memory)
{
    dnnl_memory_desc_t md = {0};
    dnnl_status_t s = md_rows(&md, type, rows, cols);
    s = s ? s : dnnl_memory_create(memory, MD_REF(md), g->engine, DNNL_MEMORY_NONE);
    md_destroy(&md);
    return s;
}

static dnnl_status_t product_create(const struct gemm *g, const struct plan_key *key, int rows,
                                    md_ref weights, struct product *product)
{
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = describe(g, key, rows, weights, &pd);
    s = s ? s : dnnl_primitive_create(&product->primitive, pd);
    product->rows = rows;
    for (int i = 0; i < g->n_streams && !s; i++) {
        dnnl_memory_t *memory = product->memory[i];
        s = memory_create(g, g->type, rows, key->n_in, &memory[SRC]);
        s = s ? s : memory_create(g, DTYPE_F32, 1, key->n_out, &memory[BIAS]);
        s = s ? s : memory_create(g, key->out, rows, key->n_out, &memory[DST]);
        if (!s) {
            md_ref scratchpad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
            product->scratchpad_bytes = dnnl_memory_desc_get_size(scratchpad);
            s = dnnl_memory_create(&memory[SCRATCHPAD], scratchpad, g->engine, DNNL_MEMORY_NONE);
        }
    }
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return s;
}

static void product_destroy(struct product *product)
{
    if (product->primitive)
        dnnl_primitive_destroy(product->primitive);
    for (int i = 0; i < HOST_THREADS_MAX; i++) {
        for (int m = 0; m < N_MEMORIES; m++) {
            if (product->memory[i][m])
                dnnl_memory_destroy(product->memory[i][m]);
        }
    }
}

static void plan_destroy(struct plan *plan)
{
    product_destroy(&plan->whole);
    product_destroy(&plan->last);
    free(plan);
}

static bool key_equal(const struct plan_key *a, const struct plan_key *b)
{
    return a->rows == b->rows && a->n_in == b->n_in && a->n_out == b->n_out && a->bias == b->bias &&
           a->gelu == b->gelu && a->sum == b->sum && a->out == b->out;
}

/* The plan for `key`, made if need be; NULL with the engine's error set. */
static struct plan *plan_for(struct host_engine *h, const struct plan_key *key, md_ref weights)
{
    for (struct plan *p = h->gemm->plans; p; p = p->next) {
        if (key_equal(&p->key, key))
            return p;
    }
    struct plan *plan = calloc(1, sizeof(*plan));
    if (!plan) {
        err_set(&h->err, -ENOMEM, "out of memory for a matrix product");
        return NULL;
    }
    plan->key = *key;
    int n_workers = h->gemm->n_streams, n_chunks = (key->rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    n_chunks = (n_chunks + n_workers - 1) / n_workers * n_workers; /* as many for each */
    plan->chunk_rows = (key->rows + n_chunks - 1) / n_chunks;
    plan->n_chunks = (key->rows + plan->chunk_rows - 1) / plan->chunk_rows;
    omp_set_num_threads(1);
    int last = key->rows - (plan->n_chunks - 1) * plan->chunk_rows;
    dnnl_status_t s = product_create(h->gemm, key, plan->chunk_rows, weights, &plan->whole);
    s = s ? s : product_create(h->gemm, key, last, weights, &plan->last);
    if (s != dnnl_success) {
        plan_destroy(plan);
        failed(&h->err, s, "prepare a matrix product");
        return NULL;
    }
    plan->next = h->gemm->plans;
    h->gemm->plans = plan;
    return plan;
}

/* Whether there is a kernel for this type: DNNL_MAX_CPU_ISA or the way oneDNN was built may exclude what the
 * processor has. */
static dnnl_status_t try_type(const struct gemm *g)
{
    const struct plan_key key = {.n_in = 64, .n_out = 64, .out = g->type, .bias = true};
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = describe(g, &key, CHUNK_ROWS, NULL, &pd);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return s;
}

int gemm_create(int n_workers, enum dtype type, struct gemm **out, struct err *err)
{
    struct gemm *g = calloc(1, sizeof(*g));
    if (!g)
        return err_set(err, -ENOMEM, "out of memory for the engine");
    g->type = type;
    dnnl_status_t s = dnnl_engine_create(&g->engine, dnnl_cpu, 0);
    while (s == dnnl_success && g->n_streams < n_workers) {
        s = dnnl_stream_create(&g->streams[g->n_streams], g->engine, dnnl_stream_default_flags);
        g->n_streams += s == dnnl_success;
    }
    s = s ? s : try_type(g);
    if (s != dnnl_success) {
        gemm_destroy(g);
        return failed(err, s, type == DTYPE_BF16 ? "multiply bf16 matrices" : "multiply f32 matrices");
    }
    *out = g;
    return 0;
}

void gemm_destroy(struct gemm *g)
{
    if (!g)
        return;
    for (struct plan *p = g->plans, *next; p; p = next) {
        next = p->next;
        plan_destroy(p);
    }
    for (int i = 0; i < g->n_streams; i++)
        dnnl_stream_destroy(g->streams[i]);
    if (g->engine)
        dnnl_engine_destroy(g->engine);
    free(g);
}

/* --- weights ------------------------------------------------------------------------------------------------------ */

static dnnl_status_t pack(const struct gemm *g, struct wide_weight *w, const float *values)
{
    dnnl_primitive_desc_t pd = NULL, reorder_pd = NULL;
    dnnl_primitive_t reorder = NULL;
    dnnl_memory_desc_t plain = {0};
    dnnl_memory_t from = NULL;
    dnnl_dims_t dims = {w->n_in, w->n_out}, transposed = {1, w->n_in};
    struct plan_key typical = {.n_in = w->n_in, .n_out = w->n_out, .out = g->type, .bias = true};
    dnnl_status_t s = describe(g, &typical, 512, NULL, &pd);
    s = s ? s : md_clone(&w->packed_md, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0));
    w->has_md = !s;
    s = s ? s : dnnl_memory_create(&w->packed, MD_REF(w->packed_md), g->engine, DNNL_MEMORY_ALLOCATE);
    s = s ? s : md_create(&plain, dims, dnnl_f32, transposed);
    s = s ? s : dnnl_memory_create(&from, MD_REF(plain), g->engine, (void *)values);
    s = s ? s
          : dnnl_reorder_primitive_desc_create(&reorder_pd, MD_REF(plain), g->engine, MD_REF(w->packed_md),
                                               g->engine, NULL);
    s = s ? s : dnnl_primitive_create(&reorder, reorder_pd);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, w->packed}};
    s = s ? s : dnnl_primitive_execute(reorder, g->streams[0], 2, args);
    s = s ? s : dnnl_stream_wait(g->streams[0]);
    if (reorder)
        dnnl_primitive_destroy(reorder);
    if (reorder_pd)
        dnnl_primitive_desc_destroy(reorder_pd);
    if (from)
        dnnl_memory_destroy(from);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    md_destroy(&plain);
    return s;
}

int host_wide_weight_create(struct host_engine *h, int n_out, int n_in, const float *values, void **packed,
                            struct err *err)
{
    struct wide_weight *w = calloc(1, sizeof(*w));
    if (!w)
        return err_set(err, -ENOMEM, "out of memory for a weight");
    w->n_out = n_out;
    w->n_in = n_in;
    omp_set_num_threads(1);
    dnnl_status_t s = pack(h->gemm, w, values);
    if (s != dnnl_success) {
        host_wide_weight_destroy(w);
        return failed(err, s, "pack a weight");
    }
    *packed = w;
    return 0;
}

void host_wide_weight_destroy(void *packed)
{
    struct wide_weight *w = packed;
    if (!w)
        return;
    if (w->packed)
        dnnl_memory_destroy(w->packed);
    if (w->has_md)
        md_destroy(&w->packed_md);
    free(w);
}

/* --- the operation ------------------------------------------------------------------------------------------------ */

struct linear_job {
    const struct gemm *gemm;
    const struct linear_args *args;
    const struct wide_weight *weight;
    const struct plan *plan;
    struct tickets chunks;
    char *scratch;
    size_t scratch_bytes; /* of each worker */
    _Atomic int status;   /* one of those that were not success */
};

static size_t align_up(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static bool is_dense(struct mat m)
{
    return m.stride == m.cols;
}

static size_t dense_bytes(struct mat m, int rows)
{
    return align_up((size_t)rows * (size_t)m.cols * dtype_bytes(m.type));
}

static void copy_rows(struct mat to, struct mat from)
{
    for (int r = 0; r < from.rows; r++)
        memcpy(mat_rows(to, r, 1).data, mat_rows(from, r, 1).data,
               (size_t)from.cols * dtype_bytes(from.type));
}

/* A dense matrix of m's shape in scratch, or m itself where it is dense. */
static struct mat dense(struct mat m, char **scratch)
{
    if (is_dense(m))
        return m;
    struct mat d = {*scratch, m.type, m.rows, m.cols, m.cols};
    *scratch += dense_bytes(m, m.rows);
    return d;
}

static dnnl_status_t execute(const struct linear_job *job, const struct product *product, int worker,
                             void *src, void *dst, void *scratchpad)
{
    const dnnl_memory_t *m = product->memory[worker];
    dnnl_stream_t stream = job->gemm->streams[worker];
    dnnl_status_t s = dnnl_memory_set_data_handle(m[SRC], src);
    s = s ? s : dnnl_memory_set_data_handle(m[DST], dst);
    s = s ? s : dnnl_memory_set_data_handle(m[SCRATCHPAD], scratchpad);
    s = s ? s : dnnl_memory_set_data_handle(m[BIAS], (void *)job->args->bias);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, m[SRC]},
                                    {DNNL_ARG_WEIGHTS, job->weight->packed},
                                    {DNNL_ARG_DST, m[DST]},
                                    {DNNL_ARG_SCRATCHPAD, m[SCRATCHPAD]},
                                    {DNNL_ARG_BIAS, m[BIAS]}};
    s = s ? s : dnnl_primitive_execute(product->primitive, stream, job->args->bias ? 5 : 4, args);
    return s ? s : dnnl_stream_wait(stream);
}

static dnnl_status_t linear_chunk(const struct linear_job *job, int chunk, int worker)
{
    const struct linear_args *a = job->args;
    const struct plan *plan = job->plan;
    const struct product *product = chunk == plan->n_chunks - 1 ? &plan->last : &plan->whole;
    int first = chunk * plan->chunk_rows;
    char *scratchpad = job->scratch + (size_t)worker * job->scratch_bytes;
    char *scratch = scratchpad + align_up(product->scratchpad_bytes);
    struct mat in = mat_rows(a->in, first, product->rows), src = dense(in, &scratch);
    struct mat out = mat_rows(a->out, first, product->rows), dst = dense(out, &scratch);
    if (src.data != in.data)
        copy_rows(src, in);
    if (a->add.data) {
        struct mat add = mat_rows(a->add, first, product->rows);
        if (add.data != dst.data)
            copy_rows(dst, add);
    }
    dnnl_status_t s = execute(job, product, worker, src.data, dst.data, scratchpad);
    if (s == dnnl_success && dst.data != out.data)
        copy_rows(out, dst);
    return s;
}

static void linear_worker(void *arg, int worker, int n_workers)
{
    struct linear_job *job = arg;
    omp_set_num_threads(1); /* a setting of the calling thread */
    for (int chunk; tickets_take(&job->chunks, worker, &chunk);) {
        dnnl_status_t s = linear_chunk(job, chunk, worker);
        if (s != dnnl_success)
            job->status = (int)s;
    }
}

static int linear_window(struct host_engine *h, const struct linear_args *a)
{
    struct wide_weight *w = a->weight->packed;
    if (a->weight->use != WEIGHT_WIDE || a->in.type != h->gemm->type || a->out.type == DTYPE_F16 ||
        a->in.cols != w->n_in || a->out.cols != w->n_out || a->in.rows != a->out.rows || a->in.rows <= 0 ||
        (a->add.data && (a->add.type != DTYPE_F32 || a->out.type != DTYPE_F32 || a->add.rows != a->out.rows ||
                         a->add.cols != a->out.cols)))
        return err_set(&h->err, -EINVAL, "linear: types or shapes do not fit");
    struct plan_key key = {a->in.rows,      w->n_in, w->n_out,           a->out.type,
                           a->bias != NULL, a->gelu, a->add.data != NULL};
    const struct plan *plan = plan_for(h, &key, MD_REF(w->packed_md));
    if (!plan)
        return h->err.code;
    struct linear_job job = {.gemm = h->gemm, .args = a, .weight = w, .plan = plan};
    tickets_init(&job.chunks, h->pool, plan->n_chunks);
    size_t whole = align_up(plan->whole.scratchpad_bytes), last = align_up(plan->last.scratchpad_bytes);
    job.scratch_bytes = (whole > last ? whole : last) +
                        (is_dense(a->in) ? 0 : dense_bytes(a->in, plan->chunk_rows)) +
                        (is_dense(a->out) ? 0 : dense_bytes(a->out, plan->chunk_rows));
    job.scratch = host_scratch(h, job.scratch_bytes * (size_t)pool_size(h->pool) + 64);
    if (!job.scratch)
        return -ENOMEM;
    pool_run(h->pool, linear_worker, &job);
    return job.status ? failed(&h->err, (dnnl_status_t)job.status, "multiply matrices") : 0;
}

/* The rows of window w of n, with a gap between two of them. */
static struct mat window_rows(struct mat m, int w, int n, int gap)
{
    m.rows /= n;
    m.data =
        (char *)m.data + (size_t)w * ((size_t)m.rows * (size_t)m.stride + (size_t)gap) * dtype_bytes(m.type);
    return m;
}

int host_linear(struct host_engine *h, const struct linear_args *a)
{
    int n = a->n_windows > 1 ? a->n_windows : 1, r = 0;
    if (a->in.rows % n || a->out.rows % n || n > ENGINE_WINDOWS_MAX)
        return err_set(&h->err, -EINVAL, "linear: types or shapes do not fit");
    for (int i = 0; i < n && r == 0; i++) {
        struct linear_args one = *a;
        one.in = window_rows(a->in, i, n, a->in_gap);
        one.out = window_rows(a->out, i, n, a->out_gap);
        r = linear_window(h, &one);
        if (r == 0 && a->kv)
            r = host_kv_store(h, &(struct kv_store_args){
                                     .kv = a->kv, .layer = a->layer, .slot = a->slots[i], .k_v = one.out});
    }
    return r;
}
