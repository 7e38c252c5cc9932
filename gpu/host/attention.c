#include <errno.h>

#include "gpu/host/host.h"
#include "gpu/host/kernels_wide.h"

struct attention_job {
    const struct attention_kernels *kernels;
    const struct attention_args *args;
    char *packed;        /* of each head: the keys, then the values */
    size_t packed_bytes; /* of either */
    int n_blocks;        /* of queries */
    struct tickets heads, blocks;
};

static void pack_heads(void *arg, int worker, int n_workers)
{
    struct attention_job *job = arg;
    const struct mat qkv = job->args->qkv;
    const int n_state = job->args->n_head * HEAD_SIZE;
    for (int head; tickets_take(&job->heads, worker, &head);) {
        char *keys = job->packed + 2 * (size_t)head * job->packed_bytes;
        job->kernels->pack(mat_cols(qkv, n_state + head * HEAD_SIZE, HEAD_SIZE).data,
                           mat_cols(qkv, 2 * n_state + head * HEAD_SIZE, HEAD_SIZE).data, (size_t)qkv.stride,
                           qkv.rows, keys, keys + job->packed_bytes);
    }
}

/* Head by head, so that the workers share the packed keys and values in their common cache. */
static void attend_blocks(void *arg, int worker, int n_workers)
{
    struct attention_job *job = arg;
    const struct mat qkv = job->args->qkv, out = job->args->out;
    for (int i; tickets_take(&job->blocks, worker, &i);) {
        int head = i / job->n_blocks, row = i % job->n_blocks * ATTENTION_QUERIES, column = head * HEAD_SIZE;
        int n = qkv.rows - row < ATTENTION_QUERIES ? qkv.rows - row : ATTENTION_QUERIES;
        const char *keys = job->packed + 2 * (size_t)head * job->packed_bytes;
        job->kernels->attend(mat_cols(mat_rows(qkv, row, n), column, HEAD_SIZE).data, (size_t)qkv.stride, n,
                             keys, keys + job->packed_bytes, qkv.rows,
                             mat_cols(mat_rows(out, row, n), column, HEAD_SIZE).data, (size_t)out.stride);
    }
}

/* One window. */
static int attend(struct host_engine *h, const struct attention_args *a)
{
    const struct attention_kernels *kernels =
        h->base.wide_type == DTYPE_BF16 ? h->wide->attention_bf16 : h->wide->attention_f32;
    int n_blocks = (a->qkv.rows + ATTENTION_QUERIES - 1) / ATTENTION_QUERIES;
    struct attention_job job = {
        .kernels = kernels,
        .args = a,
        .packed_bytes = (size_t)attention_packed_keys(a->qkv.rows) * HEAD_SIZE * dtype_bytes(a->qkv.type),
        .n_blocks = n_blocks,
    };
    job.packed = host_scratch(h, 2 * job.packed_bytes * (size_t)a->n_head);
    if (!job.packed)
        return -ENOMEM;
    tickets_init(&job.heads, h->pool, a->n_head);
    tickets_init(&job.blocks, h->pool, a->n_head * n_blocks);
    pool_run(h->pool, pack_heads, &job);
    pool_run(h->pool, attend_blocks, &job);
    return 0;
}

int host_attention(struct host_engine *h, const struct attention_args *a)
{
    int n_state = a->n_head * HEAD_SIZE, r = 0;
    if (a->qkv.type != h->base.wide_type || a->out.type != a->qkv.type || a->out.rows != a->qkv.rows ||
        a->qkv.rows <= 0 || a->qkv.cols != 3 * n_state || a->out.cols != n_state || a->n_windows < 1 ||
        a->qkv.rows % a->n_windows)
        return err_set(&h->err, -EINVAL, "attention: types or shapes do not fit");
    int n = a->qkv.rows / a->n_windows;
    for (int i = 0; i < a->n_windows && r == 0; i++)
        r = attend(h, &(struct attention_args){.qkv = mat_rows(a->qkv, i * n, n),
                                               .n_head = a->n_head,
                                               .n_windows = 1,
                                               .out = mat_rows(a->out, i * n, n)});
    return r;
}
