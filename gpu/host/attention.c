#include <errno.h>

#include "gpu/host/host.h"
#include "gpu/host/kernels_wide.h"

struct attention_job {
    const struct attention_kernels *kernels;
    const struct attention_args *args;
    char *packed;        /* of each worker: the keys, then the values of one head */
    size_t packed_bytes; /* of either */
};

/* The work is n_head · n_blocks blocks of queries, head by head. A worker's share is adjacent, so that it packs few
 * heads; a head on the border between two workers is packed by both, which costs less than waiting. */
static void attend_blocks(void *arg, int worker, int n_workers)
{
    const struct attention_job *job = arg;
    const struct mat qkv = job->args->qkv, out = job->args->out;
    const int n_state = job->args->n_head * HEAD_SIZE;
    const int n_blocks = (qkv.rows + ATTENTION_QUERIES - 1) / ATTENTION_QUERIES;
    char *keys = job->packed + 2 * (size_t)worker * job->packed_bytes, *values = keys + job->packed_bytes;
    int first, last, packed_head = -1;
    pool_share(job->args->n_head * n_blocks, 1, worker, n_workers, &first, &last);
    for (int i = first; i < last; i++) {
        int head = i / n_blocks, row = i % n_blocks * ATTENTION_QUERIES, column = head * HEAD_SIZE;
        int n = qkv.rows - row < ATTENTION_QUERIES ? qkv.rows - row : ATTENTION_QUERIES;
        if (head != packed_head)
            job->kernels->pack(mat_cols(qkv, n_state + column, HEAD_SIZE).data,
                               mat_cols(qkv, 2 * n_state + column, HEAD_SIZE).data, (size_t)qkv.stride,
                               qkv.rows, keys, values);
        packed_head = head;
        job->kernels->attend(mat_cols(mat_rows(qkv, row, n), column, HEAD_SIZE).data, (size_t)qkv.stride, n,
                             keys, values, qkv.rows, mat_cols(mat_rows(out, row, n), column, HEAD_SIZE).data,
                             (size_t)out.stride);
    }
}

int host_attention(struct host_engine *h, const struct attention_args *a)
{
    const struct attention_kernels *kernels =
        h->base.wide_type == DTYPE_BF16 ? h->wide->attention_bf16 : h->wide->attention_f32;
    int n_state = a->n_head * HEAD_SIZE;
    if (a->qkv.type != h->base.wide_type || a->out.type != a->qkv.type || a->out.rows != a->qkv.rows ||
        a->qkv.rows <= 0 || a->qkv.cols != 3 * n_state || a->out.cols != n_state)
        return err_set(&h->err, -EINVAL, "attention: types or shapes do not fit");
    size_t bytes = (size_t)attention_packed_keys(a->qkv.rows) * HEAD_SIZE * dtype_bytes(a->qkv.type);
    char *packed = host_scratch(h, 2 * bytes * (size_t)pool_size(h->pool));
    if (!packed)
        return -ENOMEM;
    pool_run(h->pool, attend_blocks, &(struct attention_job){kernels, a, packed, bytes});
    return 0;
}
