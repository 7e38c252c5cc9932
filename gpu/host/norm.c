#include <errno.h>

#include "gpu/host/host.h"
#include "gpu/host/kernels_wide.h"

#define ROWS_A_TICKET 32

struct layer_norm_job {
    const struct host_engine *h;
    const struct layer_norm_args *args;
    struct tickets tickets;
};

static void layer_norm_rows(void *arg, int worker, int n_workers)
{
    struct layer_norm_job *job = arg;
    const struct layer_norm_args *a = job->args;
    for (int ticket; tickets_take(&job->tickets, worker, &ticket);) {
        int first = ticket * ROWS_A_TICKET, last = first + ROWS_A_TICKET;
        for (int row = first; row < last && row < a->in.rows; row++)
            job->h->wide->layer_norm(mat_rows(a->in, row, 1).data, a->gamma, a->beta, a->in.cols,
                                     mat_rows(a->out, row, 1).data, a->out.type == DTYPE_BF16);
    }
}

int host_layer_norm(struct host_engine *h, const struct layer_norm_args *a)
{
    if (a->in.type != DTYPE_F32 || a->out.type == DTYPE_F16 || a->in.rows != a->out.rows ||
        a->in.cols != a->out.cols || a->in.cols <= 0)
        return err_set(&h->err, -EINVAL, "layer_norm: types or shapes do not fit");
    struct layer_norm_job job = {.h = h, .args = a};
    tickets_init(&job.tickets, h->pool, (a->in.rows + ROWS_A_TICKET - 1) / ROWS_A_TICKET);
    pool_run(h->pool, layer_norm_rows, &job);
    return 0;
}
