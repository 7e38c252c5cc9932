#include "gpu/host/kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/host/host.h"
#include "gpu/host/kernels_wide.h"

int host_kv_create(struct host_engine *h, int n_layer, int n_slots, int n_ctx, int n_head,
                   struct engine_kv **out)
{
    struct engine_kv *kv = calloc(1, sizeof(*kv));
    if (!kv)
        return -ENOMEM;
    *kv = (struct engine_kv){.n_layer = n_layer, .n_slots = n_slots, .n_ctx = n_ctx, .n_head = n_head};
    kv->type = h->isa == ISA_GENERIC || h->options.precision == PRECISION_F32 ? PANEL_F32 : PANEL_F16;
    size_t positions = (size_t)panel_count(n_ctx) * PANEL;
    kv->block_bytes = 2 * positions * HEAD * kv_value_bytes(kv);
    kv->data =
        host_memory_alloc(&h->memory, kv->block_bytes * (size_t)n_layer * (size_t)n_slots * (size_t)n_head);
    if (!kv->data) {
        free(kv);
        return -ENOMEM;
    }
    *out = kv;
    return 0;
}

void host_kv_destroy(struct engine_kv *kv)
{
    if (kv)
        host_memory_free(kv->data);
    free(kv);
}

void kv_put(const struct host_engine *h, const struct engine_kv *kv, int layer, int slot, int head, int pos,
            const float *key, const float *value)
{
    char *keys = kv_keys(kv, layer, slot, head), *values = kv_values(kv, layer, slot, head);
    size_t first = (size_t)(pos / PANEL) * HEAD * PANEL + (size_t)(pos % PANEL);
    if (kv->type == PANEL_F32) {
        float *k = (float *)(void *)keys + first;
        for (int d = 0; d < HEAD; d++)
            k[d * PANEL] = key[d];
        memcpy((float *)(void *)values + (size_t)pos * HEAD, value, HEAD * sizeof(float));
        return;
    }
    uint16_t half[HEAD], *k = (uint16_t *)(void *)keys + first;
    h->rows->to_f16(key, HEAD, half);
    for (int d = 0; d < HEAD; d++)
        k[d * PANEL] = half[d];
    h->rows->to_f16(value, HEAD, (uint16_t *)(void *)values + (size_t)pos * HEAD);
}

/* --- storing an encoded window ------------------------------------------------------------------------------------ */

struct store_job {
    struct host_engine *h;
    const struct kv_store_args *args;
};

static void read_head(const struct host_engine *h, struct mat m, int row, int column, float *out)
{
    size_t at = (size_t)row * (size_t)m.stride + (size_t)column;
    if (m.type == DTYPE_BF16)
        h->wide->from_bf16((const uint16_t *)m.data + at, HEAD, out);
    else
        memcpy(out, (const float *)m.data + at, HEAD * sizeof(float));
}

static void store_worker(void *arg, int worker, int n_workers)
{
    struct store_job *job = arg;
    const struct kv_store_args *a = job->args;
    int first, last, n_state = a->kv->n_head * HEAD;
    pool_share(a->k_v.rows, PANEL, worker, n_workers, &first, &last);
    for (int pos = first; pos < last; pos++) {
        for (int head = 0; head < a->kv->n_head; head++) {
            float key[HEAD], value[HEAD];
            read_head(job->h, a->k_v, pos, head * HEAD, key);
            read_head(job->h, a->k_v, pos, n_state + head * HEAD, value);
            kv_put(job->h, a->kv, a->layer, a->slot, head, pos, key, value);
        }
    }
}

int host_kv_store(struct host_engine *h, const struct kv_store_args *a)
{
    if (a->k_v.rows > a->kv->n_ctx || a->slot < 0 || a->slot >= a->kv->n_slots || a->layer >= a->kv->n_layer)
        return err_set(&h->err, -EINVAL, "kv_store outside of the cache");
    struct store_job job = {h, a};
    pool_run(h->pool, store_worker, &job);
    return 0;
}

/* --- copying a slot ------------------------------------------------------------------------------------------------- */

struct copy_job {
    struct engine_kv *kv;
    int src_slot, dst_slot, n_ctx;
};

static void copy_worker(void *arg, int worker, int n_workers)
{
    const struct copy_job *job = arg;
    const struct engine_kv *kv = job->kv;
    size_t bytes = kv_value_bytes(kv), position = HEAD * bytes, panel = PANEL * position;
    int first, last;
    pool_share(kv->n_layer * kv->n_head, 1, worker, n_workers, &first, &last);
    for (int block = first; block < last; block++) {
        int layer = block / kv->n_head, head = block % kv->n_head;
        size_t whole = (size_t)(job->n_ctx / PANEL) * panel, rest = (size_t)(job->n_ctx % PANEL) * bytes;
        char *to = kv_keys(kv, layer, job->dst_slot, head);
        const char *from = kv_keys(kv, layer, job->src_slot, head);
        memcpy(to, from, whole);
        for (size_t d = 0; d < HEAD && rest; d++) /* the last panel's other positions stay what they are */
            memcpy(to + whole + d * PANEL * bytes, from + whole + d * PANEL * bytes, rest);
        memcpy(kv_values(kv, layer, job->dst_slot, head), kv_values(kv, layer, job->src_slot, head),
               (size_t)job->n_ctx * position);
    }
}

int host_kv_copy(struct host_engine *h, struct engine_kv *kv, int src_slot, int dst_slot, int n_ctx)
{
    if (src_slot < 0 || dst_slot < 0 || src_slot >= kv->n_slots || dst_slot >= kv->n_slots || n_ctx < 0 ||
        n_ctx > kv->n_ctx)
        return err_set(&h->err, -EINVAL, "kv_copy outside of the cache");
    if (src_slot == dst_slot)
        return 0;
    struct copy_job job = {kv, src_slot, dst_slot, n_ctx};
    pool_run(h->pool, copy_worker, &job);
    return 0;
}
