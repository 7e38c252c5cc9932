/* Keys and values on the host. Inside gpu/host/ only.
 *
 * One block for each slot, layer and head: the keys as panels of 16 positions ([n_ctx / 16][64][16], so that scores
 * are a panel product), then the values as rows ([n_ctx][64]). Half floats where the processor converts them, unless
 * the engine was asked for f32. */
#ifndef CAPTIOND_GPU_HOST_KV_H
#define CAPTIOND_GPU_HOST_KV_H

#include <stddef.h>

#include "gpu/host/kernels_rows.h"

#define HEAD 64

struct engine_kv {
    enum panel_type type;
    int n_layer, n_slots, n_ctx, n_head;
    size_t block_bytes; /* of one head */
    char *data;
};

static inline size_t kv_value_bytes(const struct engine_kv *kv)
{
    return kv->type == PANEL_F16 ? 2 : 4;
}

static inline void *kv_keys(const struct engine_kv *kv, int layer, int slot, int head)
{
    size_t block = ((size_t)slot * (size_t)kv->n_layer + (size_t)layer) * (size_t)kv->n_head + (size_t)head;
    return kv->data + block * kv->block_bytes;
}

static inline void *kv_values(const struct engine_kv *kv, int layer, int slot, int head)
{
    size_t keys = (size_t)panel_count(kv->n_ctx) * PANEL * HEAD * kv_value_bytes(kv);
    return (char *)kv_keys(kv, layer, slot, head) + keys;
}

struct host_engine;
/* Writes one position of one head from f32. */
void kv_put(const struct host_engine *, const struct engine_kv *, int layer, int slot, int head, int pos,
            const float *key, const float *value);

#endif
