/* Memory of weights and caches, in large pages where the system has them. Inside gpu/host/ only, on the engine's
 * thread. */
#ifndef CAPTIOND_GPU_HOST_MEMORY_H
#define CAPTIOND_GPU_HOST_MEMORY_H

#include <stddef.h>

struct host_memory {
    struct chunk *chunk; /* where the next block goes, or NULL */
};

/* `bytes` zeroed bytes, aligned to 64; NULL when there are none. For what is taken once and lives as long as a model:
 * memory that is given back serves again only when all its neighbours are given back too. */
void *host_memory_alloc(struct host_memory *, size_t bytes);
void host_memory_free(void *); /* NULL is accepted; also after host_memory_finish */
void host_memory_finish(struct host_memory *);

#endif
