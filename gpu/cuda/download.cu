/* Results on their way to the host. They go to pinned memory, for a copy to memory that may be paged out waits for all work
 * before it; from there they go where they are wanted once the GPU has been waited for. */
#include "gpu/cuda/cuda.cuh"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROOM_BYTES ((size_t)4 << 20) /* alignment of 30 (large) to 116 (tiny) tokens */
#define PARTS_MAX  256

struct downloads {
    char *room; /* [ROOM_BYTES], pinned */
    size_t used;
    int n_parts; /* one behind the other in the room */
    struct {
        void *to;
        size_t bytes;
    } parts[PARTS_MAX];
};

int cuda_downloads_create(struct cuda_engine *c, struct err *err)
{
    c->downloads = (struct downloads *)calloc(1, sizeof(*c->downloads));
    if (!c->downloads ||
        cudaHostAlloc((void **)&c->downloads->room, ROOM_BYTES, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError();
        return err_set(err, -ENOMEM, "engine cuda: no pinned memory for results");
    }
    return 0;
}

void cuda_downloads_destroy(struct downloads *d)
{
    if (!d)
        return;
    cudaFreeHost(d->room);
    free(d);
}

int cuda_synchronize(struct cuda_engine *c)
{
    struct downloads *d = c->downloads;
    const char *from = d->room;
    int r = cuda_check(c, cudaStreamSynchronize(c->stream), "the GPU failed");
    for (int i = 0; i < d->n_parts; i++) {
        if (!cuda_failed(c))
            memcpy(d->parts[i].to, from, d->parts[i].bytes);
        from += d->parts[i].bytes;
    }
    d->used = 0;
    d->n_parts = 0;
    return r;
}

void cuda_download(struct cuda_engine *c, void *to, const void *from, size_t bytes)
{
    struct downloads *d = c->downloads;
    if (c->recording) { /* which has no memory of the host in it: it is the GPU's own */
        cuda_copy(c, to, from, bytes, "a recorded download");
        return;
    }
    for (size_t done = 0, n; done < bytes && !cuda_failed(c); done += n) {
        if (d->used == ROOM_BYTES || d->n_parts == PARTS_MAX)
            cuda_synchronize(c);
        n = bytes - done < ROOM_BYTES - d->used ? bytes - done : ROOM_BYTES - d->used;
        d->parts[d->n_parts].to = (char *)to + done;
        d->parts[d->n_parts++].bytes = n;
        cuda_copy(c, d->room + d->used, (const char *)from + done, n, "download");
        d->used += n;
    }
}
