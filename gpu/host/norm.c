#include <errno.h>

#include "gpu/host/host.h"
#include "gpu/host/kernels_wide.h"

struct layer_norm_job {
    const struct host_engine *h;
    const struct layer_norm_args *args;
};

static void layer_norm_rows(void *arg, int worker, int n_workers)
{
    const struct layer_norm_job *job = arg;
    const struct layer_norm_args *a = job->args;
    int first, last;
    pool_share(a->in.rows, 1, worker, n_workers, &first, &last);
    for (int row = first; row < last; row++)
        job->h->wide->layer_norm(mat_rows(a->in, row, 1).data, a->gamma, a->beta, a->in.cols,
                                 mat_rows(a->out, row, 1).data, a->out.type == DTYPE_BF16);
}

int host_layer_norm(struct host_engine *h, const struct layer_norm_args *a)
{
    if (a->in.type != DTYPE_F32 || a->out.type == DTYPE_F16 || a->in.rows != a->out.rows ||
        a->in.cols != a->out.cols || a->in.cols <= 0)
        return err_set(&h->err, -EINVAL, "layer_norm: types or shapes do not fit");
    pool_run(h->pool, layer_norm_rows, &(struct layer_norm_job){h, a});
    return 0;
}
