/* Inside the host engine: what its files share. Not included from outside gpu/host/ (tests excepted).
 *
 * engine.c keeps the list of submitted work and calls, when its turn comes, one of the host_* functions below.
 * These run on the engine's thread, spread their work over the pool themselves, and return 0 or a negative errno
 * with the engine's error filled in. */
#ifndef CAPTIOND_GPU_HOST_H
#define CAPTIOND_GPU_HOST_H

#include <stdatomic.h>

#include "daemon/base/cache_line.h"
#include "gpu/engine.h"
#include "gpu/host/memory.h"

/* A few threads that run one function together. The caller takes part as worker 0. Workers spin for a short time
 * between calls, since a decoding step is dozens of calls, and sleep after that. */
struct pool;
int pool_create(int n_workers, struct pool **); /* 0, -ENOMEM, -EAGAIN */
void pool_destroy(struct pool *);
int pool_size(const struct pool *);
void pool_run(struct pool *, void (*fn)(void *arg, int worker, int n_workers), void *arg);

/* The half-open part [*first, *last) of n items that falls to one worker; parts start at multiples of `grain`. */
void pool_share(int n, int grain, int worker, int n_workers, int *first, int *last);

#define HOST_THREADS_MAX 64

/* The items 0 … n − 1 of a job. A worker first takes those of its share, which are the same from operation to
 * operation, so that its rows stay in its processor's cache; when they are used up it takes over what others have
 * left, since processors differ and may have other work. */
struct tickets {
    int n_workers;
    struct {
        _Alignas(CACHE_LINE) _Atomic int next;
        int last;
    } share[HOST_THREADS_MAX];
};

void tickets_init(struct tickets *, const struct pool *, int n);
bool tickets_take(struct tickets *, int worker, int *item); /* false: none is left */

/* The most that the processor can do. CAPTIOND_ISA=generic|avx2|avx512|avx512bf16 in the environment lowers it, for
 * tests; any other value counts for nothing. */
enum isa { ISA_GENERIC, ISA_AVX2, ISA_AVX512, ISA_AVX512BF16 };
enum isa isa_detect(void);
const char *isa_name(enum isa);

/* Processors this process may keep busy: its affinity mask, less where a control group that it is in has a smaller
 * share. ≥ 1. */
int processor_count(void);

struct wide_kernels; /* kernels_wide.c: encoder; its table is in kernels_wide.h */
struct rows_kernels; /* kernels_rows.c: decoder; its table is in kernels_rows.h */
const struct wide_kernels *wide_kernels_for(enum isa);
const struct rows_kernels *rows_kernels_for(enum isa);

struct gemm; /* gemm.c: what oneDNN needs */
/* For inputs and weights of one type. 0, -ENOMEM, -ENOTSUP where oneDNN has no kernel for it, -EIO. */
int gemm_create(int n_workers, enum dtype, struct gemm **, struct err *);
void gemm_destroy(struct gemm *);

struct mel_basis; /* mel.c; laid out in kernels_wide.h */
int mel_basis_create(int n_mels, struct mel_basis **);
void mel_basis_destroy(struct mel_basis *);

struct host_engine {
    struct engine base;
    struct engine_options options;
    enum isa isa;
    const struct wide_kernels *wide;
    const struct rows_kernels *rows;
    struct pool *pool;
    struct gemm *gemm;
    struct mel_basis *mel;
    struct err err;                /* the first error since the last wait */
    struct submission *submission; /* engine.c */
    void *scratch;                 /* grown outside the hot path only: see host_scratch */
    size_t scratch_bytes;
    struct host_memory memory; /* of weights and caches */
};

/* Scratch memory for one operation, valid until it returns; NULL (and the engine's error set) when out of memory.
 * Sizes reach their maximum in whisper_open's warm-up, so that nothing is taken later. */
void *host_scratch(struct host_engine *, size_t bytes);

/* gemm.c, norm.c, attention.c, mel.c: the encoder */
int host_linear(struct host_engine *, const struct linear_args *);
int host_layer_norm(struct host_engine *, const struct layer_norm_args *);
int host_attention(struct host_engine *, const struct attention_args *);
int host_mel(struct host_engine *, const struct mel_args *);
int host_wide_weight_create(struct host_engine *, int n_out, int n_in, const float *values, void **packed,
                            struct err *);
void host_wide_weight_destroy(void *packed);

/* rows.c, rows_attention.c, sample.c, beam.c, kv.c: the decoder */
int host_rows_from_slots(struct host_engine *, const struct rows_from_slots_args *);
int host_embed(struct host_engine *, const struct embed_args *);
int host_linear_rows(struct host_engine *, const struct linear_rows_args *);
int host_self_attention(struct host_engine *, const struct self_attention_args *);
int host_cross_attention(struct host_engine *, const struct cross_attention_args *);
int host_select(struct host_engine *, const struct select_args *);
int host_advance(struct host_engine *, const struct advance_args *);
int host_beam_select(struct host_engine *, const struct beam_select_args *);
int host_beam_advance(struct host_engine *, const struct beam_advance_args *);
int host_kv_create(struct host_engine *, int n_layer, int n_slots, int n_ctx, int n_head,
                   struct engine_kv **);
void host_kv_destroy(struct engine_kv *);
int host_kv_store(struct host_engine *, const struct kv_store_args *);
int host_kv_copy(struct host_engine *, struct engine_kv *, int src_slot, int dst_slot, int n_ctx);
int host_rows_weight_create(struct host_engine *, int n_out, int n_in, const float *values, void **packed,
                            struct err *);
void host_rows_weight_destroy(void *packed);

/* engine.c: a weight is one of the two packed forms. */
struct engine_weight {
    enum weight_use use;
    int n_out, n_in;
    void *packed;
};

#endif
