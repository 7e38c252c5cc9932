/* The compute engine: memory, weights and asynchronous operations, in order. gpu/host implements it on the
 * processor, gpu/cuda on a GPU; the Whisper graph (audio_encoder.c, text_decoder.c) is written once, above it.
 *
 * Order. Operations only *submit* work. They run in the order of submission, at any time up to the next wait;
 * until then the caller must not read a result, must not change what an upload or a registered buffer still has to
 * be read from, and must not free memory, weights, caches or graphs that submitted work uses. Errors stick: after the
 * first one the remaining work is skipped, and wait reports it and clears it.
 *
 * Replay. No operation takes a host value that changes from token to token: tokens, positions, slots, lengths
 * and the state of sampling live in engine memory, where the operations read and advance them. A sequence
 * of operations between graph_begin and graph_end can therefore be recorded once and launched again.
 *
 * Memory. Pointers from alloc are engine memory: pointer arithmetic is allowed on the host, dereferencing is
 * not. A struct mat is a view of engine memory.
 *
 * An engine belongs to one thread (the batcher's, or a tool's main thread). */
#ifndef CAPTIOND_GPU_ENGINE_H
#define CAPTIOND_GPU_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/err.h"
#include "gpu/slot.h"

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };

static inline size_t dtype_bytes(enum dtype t)
{
    return t == DTYPE_F32 ? 4 : 2;
}

/* A row-major matrix in engine memory. Rows may overlap (stride < cols): that is how convolutions and the
 * short-time Fourier transform become matrix products without copying. */
struct mat {
    void *data;
    enum dtype type;
    int rows, cols;
    int stride; /* elements from one row to the next */
};

static inline struct mat mat_view(void *data, enum dtype type, int rows, int cols, int stride)
{
    return (struct mat){data, type, rows, cols, stride};
}

/* n rows of m from row `first`. */
static inline struct mat mat_rows(struct mat m, int first, int n)
{
    m.data = (char *)m.data + (size_t)first * (size_t)m.stride * dtype_bytes(m.type);
    m.rows = n;
    return m;
}

/* n columns of m from column `first`. */
static inline struct mat mat_cols(struct mat m, int first, int n)
{
    m.data = (char *)m.data + (size_t)first * dtype_bytes(m.type);
    m.cols = n;
    return m;
}

struct engine;
struct engine_weight; /* one linear layer's matrix, in whatever layout the engine likes */
struct engine_kv;     /* keys and values of all layers for some slots, in whatever layout the engine likes */
struct engine_graph;  /* a recorded sequence of operations */

#define ENGINE_WINDOWS_MAX 16 /* that an engine takes together, at most */

/* How a weight is used, which decides its layout and type. */
enum weight_use {
    WEIGHT_WIDE, /* hundreds of rows at a time: the encoder */
    WEIGHT_ROWS, /* one to a few dozen rows at a time, bound by reading the weight: the decoder */
};

/* The decoder's rows. One row is one token of one slot. All arrays are engine memory. */
struct rows {
    int n;          /* fixed for a recorded graph */
    int32_t *token; /* [n] the token that is fed */
    int32_t *pos;   /* [n] its position; −1: the row is idle, nothing is read or written for it */
    int32_t *slot;  /* [n] its slot; rows of one slot are adjacent and ascend in position */
};

enum mel_scale {
    MEL_SCALE_OWN,   /* normalise by this window's own maximum */
    MEL_SCALE_SCAN,  /* only raise *log_max to this window's maximum; `out` is not written */
    MEL_SCALE_GIVEN, /* normalise by *log_max; frames from n_samples / 160 on are 0, as pad_or_trim of OpenAI's
                        whisper/audio.py leaves them */
};

/* out = normalised log-mel spectrogram of a window, as in whisper/audio.py: periodic Hann of 400 samples, hop
 * 160, centred, power spectrum, Slaney filterbank, log10 clamped to 1e-10, clamped to maximum − 8, (x + 4) / 4.
 * Frames past the end of the audio see zeros; to the left of `pcm` the samples before it where n_before gives
 * them, and past those the reflection about the first one: a window one hop into a recording has n_before = 160. */
struct mel_args {
    const float *pcm; /* host memory, 16 kHz mono, readable until the wait */
    int n_samples;    /* from pcm on; may exceed the window, what lies after it is seen by its last frames */
    int n_before;     /* readable samples before pcm, 0 to 200 */
    enum mel_scale scale;
    float *log_max; /* engine memory, 1 value; NULL with MEL_SCALE_OWN */
    struct mat out; /* [n_frames, n_mels], f32 or the engine's wide type */
};

/* out = act(in · Wᵀ + bias) + add. The rows may be those of several windows, as many of each, one behind the other. */
struct linear_args {
    struct mat in;                      /* [rows, n_in] in the engine's wide type */
    const struct engine_weight *weight; /* [n_out, n_in], WEIGHT_WIDE */
    const float *bias;                  /* engine memory [n_out], or NULL */
    bool gelu;                          /* erf GELU: x/2 · (1 + erf(x/√2)) */
    struct mat add;      /* f32 [rows of a window, n_out], may be `out` itself; data NULL: nothing */
    struct mat out;      /* [rows, n_out], f32 or, where nothing is added, the wide type */
    int n_windows;       /* 0: one */
    int in_gap, out_gap; /* elements left out between two windows */
    /* Where the rows are keys and values side by side: stored as by kv_store, for each window in a slot, and `out` is room for
     * what comes between. NULL: they are not. */
    struct engine_kv *kv;
    int layer, slots[ENGINE_WINDOWS_MAX];
};

/* out = (in − mean) / √(variance + 1e-5) · gamma + beta, per row */
struct layer_norm_args {
    struct mat in;             /* f32 */
    const float *gamma, *beta; /* engine memory [cols] */
    struct mat out;            /* f32 or the wide type */
};

/* out = softmax(Q · Kᵀ / 8) · V for every head of 64, without storing the scores. The rows are those of n_windows windows, as
 * many of each, one behind the other; a row sees those of its own window, and has the bits that it has when that is alone. */
struct attention_args {
    struct mat qkv; /* [rows, 3 · n_state] in the wide type: Q, K, V side by side */
    int n_head, n_windows;
    struct mat out; /* [rows, n_state] in the wide type */
};

/* Stores the keys and values of one layer of one audio slot. */
struct kv_store_args {
    struct engine_kv *kv;
    int layer, slot;
    struct mat k_v; /* [n_ctx, 2 · n_state], f32 or the wide type: K, V side by side */
};

/* x = token_embedding[token] + position_embedding[pos] */
struct embed_args {
    struct rows rows;
    const struct engine_weight *tokens; /* [n_vocab, n_state], WEIGHT_ROWS, the one the logits use */
    const float *positions;             /* engine memory [n_text_ctx, n_state] */
    struct mat out;                     /* f32 [rows.n, n_state] */
};

/* out = act(norm(in) · Wᵀ + bias) + add. Idle rows may be skipped or computed; their output is unspecified. */
struct linear_rows_args {
    struct rows rows;
    struct mat in;                      /* f32 [rows.n, n_in] */
    const float *gamma, *beta;          /* engine memory [n_in]: layer norm before the product; NULL: none */
    const struct engine_weight *weight; /* [n_out, n_in], WEIGHT_ROWS */
    const float *bias;                  /* engine memory [n_out], or NULL */
    bool gelu;
    struct mat add; /* f32, may be `out`; data NULL: nothing */
    struct mat out; /* f32 [rows.n, n_out] */
};

/* Appends each row's K and V to its slot at its position, then attends to positions 0 … pos of that slot. A row of a beam
 * search behind the prompt (pos ≥ n_prompt) finds position t < pos in the slot kv_slot[t] instead. Its result is the
 * same to the bit as if the keys and values were in its own slot. */
struct self_attention_args {
    struct rows rows;
    struct engine_kv *kv;
    int layer;
    const struct slot_state *slots; /* engine memory [n_slots]; NULL: there are no beams */
    struct mat qkv;                 /* f32 [rows.n, 3 · n_state] */
    struct mat out;                 /* f32 [rows.n, n_state] */
};

/* Attends to the whole of the audio slot that the row's slot reads, and records the alignment heads' rows. */
struct cross_attention_args {
    struct rows rows;
    struct engine_kv *kv;
    int layer;
    struct slot_state *slots; /* engine memory [n_slots]: .audio and .n_frames */
    struct mat q;             /* f32 [rows.n, n_state] */
    struct mat out;           /* f32 [rows.n, n_state] */
    uint32_t align_heads;     /* bit h: head h of this layer is an alignment head */
    int align_first;          /* index of this layer's first alignment head among all of the model's */
    int n_align;              /* alignment heads of the model */
    float *align; /* engine memory [n_slots, RUN_TOKENS_MAX, n_align, RUN_AUDIO_FRAMES]; row (slot, pos)
                                 gets the post-softmax weights, frames from n_frames on are unspecified */
};

/* Applies each row's slot's rules to its logits and chooses: chosen[r] and logprob[r]. The row's history is
 * slot.tokens[0 … pos]; rows with pos < n_prompt − 1 only answer the probe. Also fills slot.probe_prob. Rows of beam
 * searches (n_beams > 1) are left alone, here and by advance. */
struct select_args {
    struct rows rows;
    struct slot_state *slots;
    const uint32_t *masks; /* engine memory [RUN_TOKEN_MASKS, mask_words] bits; set: suppressed */
    int mask_words;        /* ⌈n_vocab / 32⌉ */
    struct mat logits;     /* f32 [rows.n, n_vocab]; may be overwritten */
    int32_t *chosen;       /* engine memory [rows.n] */
    float *logprob;        /* engine memory [rows.n] */
};

/* For each of n slots: accepts the longest part of the draft that equals what was chosen, appends the first
 * choice that differs (or follows), and decides whether the slot is done (slot.h). Lowers *n_active by the slots
 * that have ended. */
struct advance_args {
    struct rows rows;
    struct slot_state *slots;
    const int32_t *chosen;
    const float *logprob;
    int32_t *n_active; /* engine memory, 1 value */
};

/* What select is to other rows, for the rows of beam searches: the rules, the probe, and the n_beams + 1 most probable
 * tokens in candidates[r], the most probable first, ties to the lower id, those that the rules forbid left out. Rules that
 * leave nothing leave eot with the log-probability −∞. */
struct beam_select_args {
    struct rows rows;
    struct slot_state *slots;
    const uint32_t *masks;
    int mask_words;
    struct mat logits;                 /* f32 [rows.n, n_vocab]; may be overwritten */
    struct beam_candidate *candidates; /* engine memory [rows.n, RUN_BEAMS_MAX + 1] */
};

/* One step of each beam search that has rows here (adjacent ones, at position n_tokens − 1 of their slots): ranks the
 * candidates by sum_logprob + logprob, ties to the lower beam and then to the better candidate, counts the finished ones
 * and keeps the best, makes the others the new hypotheses, and ends the search as daemon/base/run.h says. Lowers *n_active
 * by the searches that have ended. */
struct beam_advance_args {
    struct rows rows;
    struct slot_state *slots;
    struct beam_state *beams; /* engine memory [n_slots] */
    const struct beam_candidate *candidates;
    int32_t *n_active;
};

/* Fills rows r = 0 … n−1 from the slots given in rows.slot: token and position of the slot's newest token, or
 * position −1 if the slot is done. */
struct rows_from_slots_args {
    struct rows rows;
    const struct slot_state *slots;
};

/* The operations that take only a struct NAME_args. */
#define ENGINE_OPERATIONS(X)                                                                                 \
    X(mel)                                                                                                   \
    X(linear)                                                                                                \
    X(layer_norm)                                                                                            \
    X(attention)                                                                                             \
    X(kv_store)                                                                                              \
    X(rows_from_slots)                                                                                       \
    X(embed)                                                                                                 \
    X(linear_rows)                                                                                           \
    X(self_attention)                                                                                        \
    X(cross_attention)                                                                                       \
    X(select)                                                                                                \
    X(advance)                                                                                               \
    X(beam_select)                                                                                           \
    X(beam_advance)

struct engine_vtable {
    const char *name;

    void (*destroy)(struct engine *);

    /* --- memory: immediate, not ordered with the operations --- */
    /* Zeroed, aligned to 64 bytes; NULL with -ENOMEM or -EIO in err, which may be NULL. */
    void *(*alloc)(struct engine *, size_t bytes, struct err *err);
    void (*free)(struct engine *, void *);
    /* Makes host memory fit for fast reads by mel (pinned with CUDA, locked on the host). A failure is not fatal. */
    int (*host_register)(struct engine *, void *p, size_t bytes, struct err *);
    void (*host_unregister)(struct engine *, void *p);
    /* Takes [n_out, n_in] f32 values from host memory, which may be freed on return. 0, -ENOMEM, -EIO. */
    int (*weight_create)(struct engine *, enum weight_use, int n_out, int n_in, const float *values,
                         struct engine_weight **, struct err *);
    void (*weight_destroy)(struct engine *, struct engine_weight *);
    /* Keys and values for n_layer layers and n_slots slots of up to n_ctx positions, head size 64. 0, -ENOMEM. */
    int (*kv_create)(struct engine *, int n_layer, int n_slots, int n_ctx, int n_head, struct engine_kv **,
                     struct err *);
    void (*kv_destroy)(struct engine *, struct engine_kv *);

    /* --- order --- */
    void (*upload)(struct engine *, void *dst, const void *host_src, size_t bytes);
    void (*download)(struct engine *, void *host_dst, const void *src, size_t bytes);
    void (*kv_copy)(struct engine *, struct engine_kv *, int src_slot, int dst_slot, int n_ctx);
    int (*wait)(struct engine *, struct err *); /* 0, or the first error since the last wait */

    /* --- replay: a recording has no memory of the host in it, and on a device no launch of another graph (-ENOTSUP) --- */
    void (*graph_begin)(struct engine *);               /* what follows is recorded, not run */
    struct engine_graph *(*graph_end)(struct engine *); /* NULL when out of memory */
    void (*graph_destroy)(struct engine *, struct engine_graph *);
    /* Runs the graph again and again while *n_active (engine memory) is greater than 0 before it, at most
     * max_times. With n_active NULL: exactly max_times. */
    void (*graph_launch)(struct engine *, struct engine_graph *, const int32_t *n_active, int max_times);

    /* --- audio encoder --- */
    void (*mel)(struct engine *, const struct mel_args *);
    void (*linear)(struct engine *, const struct linear_args *);
    void (*layer_norm)(struct engine *, const struct layer_norm_args *);
    void (*attention)(struct engine *, const struct attention_args *);
    void (*kv_store)(struct engine *, const struct kv_store_args *);

    /* --- text decoder --- */
    void (*rows_from_slots)(struct engine *, const struct rows_from_slots_args *);
    void (*embed)(struct engine *, const struct embed_args *);
    void (*linear_rows)(struct engine *, const struct linear_rows_args *);
    void (*self_attention)(struct engine *, const struct self_attention_args *);
    void (*cross_attention)(struct engine *, const struct cross_attention_args *);
    void (*select)(struct engine *, const struct select_args *);
    void (*advance)(struct engine *, const struct advance_args *);
    /* Both NULL where the engine cannot search: whisper_run answers such runs with -ENOTSUP. */
    void (*beam_select)(struct engine *, const struct beam_select_args *);
    void (*beam_advance)(struct engine *, const struct beam_advance_args *);
};

/* The part every engine begins with. */
struct engine {
    const struct engine_vtable *v;
    enum dtype wide_type; /* of the encoder's activations between operations: f32, bf16 or f16 */
    /* Windows that the encoder should take together, at most; 1 where one after the other is as fast. What linear gives for a
     * row then depends on no other row. */
    int windows_max;
    char name[48];      /* for people: "host bf16 (avx512bf16)" */
    const char *repeat; /* for people: how the last graph was repeated; NULL: there is one way */
};

enum engine_precision {
    PRECISION_AUTO, /* the fastest whose error the tests bound: bf16 encoder where the processor has it */
    PRECISION_F32,
    PRECISION_INT8,   /* auto, but for the weights of WEIGHT_ROWS: 8 bits where the engine has such */
    PRECISION_FINEST, /* f32 where the engine has it */
};

struct engine_options {
    int n_threads; /* 0: one for each processor this process may run on */
    enum engine_precision precision;
    int n_mels; /* 80 or 128 */
    int n_slots; /* sequences that are decoded at once, at most; an engine may compute in another way for many */
    int n_windows; /* that may wait to be encoded at once; 0: one */
    bool deferred; /* test mode of the host engine: no work is done before wait */
    bool
        yields; /* a wait for a device leaves the processor to others, and ends some tens of microseconds later */
};

/* Opens the engine called "host" or "cuda". 0 or a negative errno, -ENOENT where its library is not installed. */
int engine_open(const char *name, const struct engine_options *, struct engine **, struct err *);

/* NULL is accepted. Weights, caches, graphs and memory of the engine must be gone. */
void engine_close(struct engine *);

/* The host engine; what engine_open("host") calls. */
int host_engine_open(const struct engine_options *, struct engine **, struct err *);

#endif
