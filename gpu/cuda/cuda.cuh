/* Inside the CUDA engine: what its files share. Not included from outside gpu/cuda/ (tests excepted).
 *
 * engine.cu has the life, the errors and the order, memory.cu and graph.cu what their names say. Every operation below
 * checks its arguments and launches its kernels into the engine's stream, which a graph may be recording. None waits, but where
 * a first larger input makes room, a download has none left, or the driver has no loops (launch_chain of graph.cu). Failures go to
 * cuda_fail and stick.
 *
 * Types: activations of the encoder, weights and caches are half floats; sums, residuals and everything between
 * the decoder's operations are single ones. */
#ifndef CAPTIOND_GPU_CUDA_CUDA_CUH
#define CAPTIOND_GPU_CUDA_CUDA_CUH

#include "gpu/cuda/device.cuh"

extern "C" {
#include "gpu/engine.h"
}

#define CUDA_ROWS_MAX 64 /* rows whose cross-attention is split at once */
#define CUDA_SLOTS_MANY                                                                                      \
    16 /* from here on the rows of a step are bound by arithmetic, not by reading weights */
#define CUDA_HEADS_MAX 20
#define CROSS_PART     128   /* keys that one block attends to */
#define CUDA_VOCAB_MAX 52000 /* above every Whisper's */
#define CROSS_PARTS    ((RUN_AUDIO_FRAMES + CROSS_PART - 1) / CROSS_PART)

struct mel_tables;
struct cublas;
struct downloads;
struct select_part;
struct step_notes;
struct step_program;

struct cuda_engine {
    struct engine base;
    struct engine_options options;
    int n_multiprocessors, l2_bytes;
    size_t shared_most;  /* of a block */
    bool cooperative;    /* all blocks of a launch can be there at once */
    bool many_slots;     /* linear_rows on tensor cores */
    bool bytes;          /* weights of the decoder */
    cudaStream_t stream; /* all operations */
    cudaStream_t setup;  /* memory that is being made ready; waited for at once */
    cudaStream_t sound;  /* samples on their way to operations */
    struct err err;      /* the first error since the last wait */
    struct engine_graph *recording;
    bool chains;      /* the driver has no conditional graphs */
    int32_t *counter; /* pinned: what chains look at */
    struct downloads *downloads;
    struct mel_tables *mel;
    struct cublas *cublas; /* NULL: products are our own */
    float *product;        /* [product_floats] of libcublas */
    size_t product_floats;
    float *partial; /* [CUDA_ROWS_MAX][CUDA_HEADS_MAX][CROSS_PARTS][PARTIAL_FLOATS] of cross-attention */
    unsigned *parts_done;      /* [CUDA_ROWS_MAX][CUDA_HEADS_MAX]: how many are there; 0 between operations */
    struct select_part *parts; /* [CUDA_ROWS_MAX][parts of CUDA_VOCAB_MAX] of select */
};

#define UNIT_INPUTS 64

struct engine_weight {
    int n_out, n_in;
    int stride;     /* n_in rounded up to 8, zeros behind */
    __half *data;   /* [n_out, stride], or NULL */
    uint8_t *bytes; /* [n_out, stride], or NULL: whole numbers of a unit, and 128 more */
    float *units;   /* [n_out, weight_units]: of UNIT_INPUTS weights of an output each */
};

/* Rows of HEAD half floats: [n_slots][n_layer][n_head][keys, values][n_ctx][HEAD]. */
struct engine_kv {
    int n_layer, n_slots, n_ctx, n_head;
    __half *data;
};

struct engine_graph {
    cudaGraph_t body;
    cudaGraphExec_t once;   /* NULL before it is launched without a loop */
    cudaGraph_t loop_graph; /* around the body, NULL before the first loop */
    cudaGraphExec_t loop;
    const int32_t *n_active;   /* that the loop was made for */
    int32_t *rounds;           /* device memory: how many are left */
    struct step_notes *notes;  /* while it is recorded */
    const int32_t *step_pos;   /* while it is: of rows that are each the newest token of a slot, or NULL */
    struct step_program *step; /* NULL: not a step that one kernel does */
    struct err err;            /* of an operation that was recorded, for every launch */
};

static inline __host__ __device__ int weight_units(const struct engine_weight *w)
{
    return (w->stride + UNIT_INPUTS - 1) / UNIT_INPUTS;
}

static inline __host__ __device__ size_t weight_row_bytes(const struct engine_weight *w)
{
    return (size_t)w->stride * (w->bytes ? sizeof(uint8_t) : sizeof(__half));
}

static inline __host__ __device__ const char *weight_row(const struct engine_weight *w, int out)
{
    const char *first = w->bytes ? (const char *)w->bytes : (const char *)w->data;
    return first + (size_t)out * weight_row_bytes(w);
}

/* The keys of a head; its values are n_ctx · HEAD behind. */
static inline __host__ __device__ __half *kv_keys(struct engine_kv kv, int layer, int slot, int head)
{
    size_t block = ((size_t)slot * (size_t)kv.n_layer + (size_t)layer) * (size_t)kv.n_head + (size_t)head;
    return kv.data + block * 2 * (size_t)kv.n_ctx * HEAD;
}

static inline struct cuda_engine *cuda_of(struct engine *e)
{
    return (struct cuda_engine *)e;
}

/* A block's part of one row's cross-attention to one head. */
#define PARTIAL_FLOATS (HEAD + 2) /* Σ 2^(s − greatest) v, greatest, Σ 2^(s − greatest) */

/* Records the first failure, of the graph while one is being recorded. Returns code. */
int cuda_fail(struct cuda_engine *, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* After a launch or a call of the runtime: 0, or its error with the operation's name. */
int cuda_check(struct cuda_engine *, cudaError_t, const char *what);

/* Whether nothing is submitted any more until wait has reported an error; a recording goes on by itself. */
bool cuda_failed(const struct cuda_engine *);
/* In order with the operations, in any direction. */
void cuda_copy(struct cuda_engine *, void *to, const void *from, size_t bytes, const char *what);
/* download.cu: to memory of the host, which is written by cuda_synchronize, or before when there is much. */
int cuda_downloads_create(struct cuda_engine *, struct err *);
void cuda_downloads_destroy(struct downloads *); /* NULL is accepted */
void cuda_download(struct cuda_engine *, void *to, const void *from, size_t bytes);
/* Waits for all that was submitted, and hands out what was downloaded unless something has failed. */
int cuda_synchronize(struct cuda_engine *);
/* *p = value, in order with the operations. */
cudaError_t cuda_set(struct cuda_engine *, int32_t *p, int32_t value);

/* memory.cu and graph.cu: what gpu/engine.h says of the same names. */
void *cuda_alloc(struct engine *, size_t bytes, struct err *);
void cuda_free(struct engine *, void *);
int cuda_host_register(struct engine *, void *p, size_t bytes, struct err *);
void cuda_host_unregister(struct engine *, void *p);
int cuda_weight_create(struct engine *, enum weight_use, int n_out, int n_in, const float *values,
                       struct engine_weight **, struct err *);
void cuda_weight_destroy(struct engine *, struct engine_weight *);
int cuda_kv_create(struct engine *, int n_layer, int n_slots, int n_ctx, int n_head, struct engine_kv **,
                   struct err *);
void cuda_kv_destroy(struct engine *, struct engine_kv *);
void cuda_graph_begin(struct engine *);
struct engine_graph *cuda_graph_end(struct engine *);
void cuda_graph_destroy(struct engine *, struct engine_graph *);
void cuda_graph_launch(struct engine *, struct engine_graph *, const int32_t *n_active, int max_times);
/* Zeroed; NULL: there is none, or no GPU any more, as cuda_memory_error says it in err, which may be NULL. `what`: for whom. */
void *cuda_device_alloc(struct cuda_engine *, size_t bytes, const char *what, struct err *err);
/* -ENOMEM, with what is left in the message, or -EIO. */
int cuda_memory_error(struct err *, cudaError_t, const char *what, size_t bytes);
/* From the host, waited for. */
cudaError_t cuda_to_device(struct cuda_engine *, void *to, const void *from, size_t bytes);

int cuda_mel_create(int n_mels, struct cuda_engine *, struct err *);
void cuda_mel_destroy(struct mel_tables *);
/* Room for n single floats, grown outside of graphs only; NULL: there is none. For one operation. */
float *cuda_product(struct cuda_engine *, size_t n);
struct cublas *cublas_open(cudaStream_t); /* NULL: there is none */
void cublas_close(struct cublas *);
/* out [rows, n_out] f32 = in · Wᵀ. Whether it was done: not where rows overlap or are not dense enough. */
bool cublas_product(struct cublas *, struct mat in, const struct engine_weight *, struct mat out);

/* step_program.cu: what a recording consists of. Operations that no step has are noted as others. */
struct step_notes *step_notes_create(void); /* NULL: there is no memory */
void step_notes_destroy(struct step_notes *);
void step_note_other(struct step_notes *);
void step_note(struct step_notes *, const struct rows_from_slots_args *);
void step_note(struct step_notes *, const struct embed_args *);
void step_note(struct step_notes *, const struct linear_rows_args *);
void step_note(struct step_notes *, const struct self_attention_args *);
void step_note(struct step_notes *, const struct cross_attention_args *);
void step_note(struct step_notes *, const struct select_args *);
void step_note(struct step_notes *, const struct advance_args *);
template <class Args> static inline void step_note(struct step_notes *s, const Args *args)
{
    step_note_other(s);
}
/* NULL: this is not a step that one kernel does, or the GPU does not have what it takes. */
struct step_program *step_program_create(struct cuda_engine *, const struct step_notes *);
void step_program_destroy(struct step_program *); /* NULL is accepted */
/* step.cu: steps while *n_active > 0, at most max_steps. Whether they were submitted, or failed: with false somebody else has to. */
bool cuda_step_launch(struct cuda_engine *, const struct step_program *, const int32_t *n_active,
                      int max_steps);

/* mel.cu, gemm.cu, norm.cu, attention.cu: the encoder */
int cuda_mel(struct cuda_engine *, const struct mel_args *);
int cuda_linear(struct cuda_engine *, const struct linear_args *);
int cuda_layer_norm(struct cuda_engine *, const struct layer_norm_args *);
int cuda_attention(struct cuda_engine *, const struct attention_args *);

/* rows.cu, rows_attention.cu, sample.cu, beam.cu, kv.cu: the decoder */
int cuda_rows_from_slots(struct cuda_engine *, const struct rows_from_slots_args *);
int cuda_embed(struct cuda_engine *, const struct embed_args *);
int cuda_linear_rows(struct cuda_engine *, const struct linear_rows_args *);
int cuda_self_attention(struct cuda_engine *, const struct self_attention_args *);
int cuda_cross_attention(struct cuda_engine *, const struct cross_attention_args *);
int cuda_select(struct cuda_engine *, const struct select_args *);
int cuda_advance(struct cuda_engine *, const struct advance_args *);
int cuda_beam_select(struct cuda_engine *, const struct beam_select_args *);
int cuda_beam_advance(struct cuda_engine *, const struct beam_advance_args *);
int cuda_kv_store(struct cuda_engine *, const struct kv_store_args *);
int cuda_kv_copy(struct cuda_engine *, struct engine_kv *, int src_slot, int dst_slot, int n_ctx);

static inline bool is_half(struct mat m)
{
    return m.type == DTYPE_F16;
}

static inline bool is_single_or_half(struct mat m)
{
    return m.type == DTYPE_F32 || m.type == DTYPE_F16;
}

#endif
