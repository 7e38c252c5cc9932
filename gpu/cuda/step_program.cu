/* From the operations of a recording to the phases of a step.
 *
 * While a graph is recorded its operations are noted. A step of up to ROWS_MAX rows without beams is the known sequence of
 * them; everything else has the graph alone. Fused are: self-attention and cross-attention's joining with the product that
 * follows; and with few rows cross-attention with its queries, and both products of the MLP. What lies between is then not
 * written, and the residual moves from one x to the other (step.cu). */
#include "gpu/cuda/step.cuh"

#include <stdlib.h>
#include <string.h>

enum op { OP_FROM_SLOTS, OP_EMBED, OP_LINEAR, OP_SELF, OP_CROSS, OP_SELECT, OP_ADVANCE };

struct step_note {
    enum op op;
    union {
        struct rows_from_slots_args from_slots;
        struct embed_args embed;
        struct linear_rows_args linear;
        struct self_attention_args self;
        struct cross_attention_args cross;
        struct select_args select;
        struct advance_args advance;
    };
};

#define NOTES_MAX (STEP_PHASES_MAX + 5)

struct step_notes {
    int n;
    bool unfit; /* something else is recorded */
    struct step_note notes[NOTES_MAX];
};

struct step_notes *step_notes_create(void)
{
    return (struct step_notes *)calloc(1, sizeof(struct step_notes));
}

void step_notes_destroy(struct step_notes *s)
{
    free(s);
}

void step_note_other(struct step_notes *s)
{
    s->unfit = true;
}

#define NOTE(type, operation, member)                                                                        \
    void step_note(struct step_notes *s, const struct type *args)                                            \
    {                                                                                                        \
        s->unfit |= s->n == NOTES_MAX;                                                                       \
        if (s->unfit)                                                                                        \
            return;                                                                                          \
        s->notes[s->n].op = operation;                                                                       \
        s->notes[s->n++].member = *args;                                                                     \
    }

NOTE(rows_from_slots_args, OP_FROM_SLOTS, from_slots)
NOTE(embed_args, OP_EMBED, embed)
NOTE(linear_rows_args, OP_LINEAR, linear)
NOTE(self_attention_args, OP_SELF, self)
NOTE(cross_attention_args, OP_CROSS, cross)
NOTE(select_args, OP_SELECT, select)
NOTE(advance_args, OP_ADVANCE, advance)

/* --- phases ------------------------------------------------------------------------------------------------------------ */

struct builder {
    struct cuda_engine *engine;
    const struct step_notes *notes;
    int at;
    struct step_phase *phases;
    int n_phases;
    int stride_max;       /* of the rows in shared memory */
    int n;                /* rows */
    int n_head, n_window; /* of the first layer, hence of every one */
    struct mat x[2];      /* the recording's, and ours */
    int in;               /* which one has the residual */
    bool is_pending;      /* less what is in the newest sums, and this bias */
    const float *bias;
    long long *sums[2];
    int newest;
};

static const struct step_note *next(struct builder *b, enum op op)
{
    if (b->at == b->notes->n || b->notes->notes[b->at].op != op)
        return NULL;
    return &b->notes->notes[b->at++];
}

static struct step_phase *add_phase(struct builder *b, enum phase_kind kind)
{
    struct step_phase *p = &b->phases[b->n_phases++];
    p->kind = kind;
    return p;
}

/* A linear layer whose input is not the residual. */
static struct step_phase *add_linear(struct builder *b, enum phase_kind kind)
{
    const struct step_note *note = next(b, OP_LINEAR);
    if (!note)
        return NULL;
    const struct linear_rows_args *a = &note->linear;
    struct step_phase *p = add_phase(b, kind);
    p->linear = {a->rows, a->in, a->add, a->out, a->gamma, a->beta, a->bias, a->gelu, *a->weight};
    return p;
}

static void take_shared(struct builder *b, const struct step_phase *p)
{
    b->stride_max = p->linear.weight.stride > b->stride_max ? p->linear.weight.stride : b->stride_max;
}

/* One of a residual that is normalised. keeps: it is needed again. */
static struct step_phase *add_normed(struct builder *b, enum phase_kind kind, bool keeps)
{
    struct step_phase *p = add_linear(b, kind);
    if (!p || !p->linear.gamma || p->linear.add.data || p->linear.in.data != b->x[0].data ||
        p->linear.weight.n_in > STEP_STATE_MAX)
        return NULL;
    p->linear.in = b->x[b->in];
    if (b->is_pending) {
        b->in ^= keeps;
        p->pending = {b->sums[b->newest], b->bias, keeps ? b->x[b->in] : mat{}};
        b->is_pending = false;
    }
    take_shared(b, p);
    return p;
}

/* A phase's product of a layer without anything else goes to the residual: its reader adds it. */
static bool add_to_residual(struct builder *b, struct step_phase *p, const struct linear_rows_params *l)
{
    if (l->gamma || l->gelu || l->add.data != b->x[0].data || l->out.data != b->x[0].data || b->is_pending)
        return false;
    b->newest ^= 1;
    b->is_pending = true;
    b->bias = l->bias;
    p->adds = p[-1].clears = b->sums[b->newest];
    return true;
}

/* Attention, whose output is `out`, or its joining, with the product that follows. */
static struct step_phase *add_heads(struct builder *b, enum phase_kind kind, struct mat out, int n_head)
{
    struct step_phase *p = add_linear(b, kind);
    b->n_head = b->n_head ? b->n_head : n_head;
    bool fits = p && p->linear.in.data == out.data && p->linear.weight.n_in == n_head * HEAD &&
                p->linear.weight.n_out == b->x[0].cols && n_head == b->n_head &&
                add_to_residual(b, p, &p->linear);
    return fits ? p : NULL;
}

/* Query, cross-attention and the product with its output. */
static bool add_cross(struct builder *b)
{
    struct step_phase *query = add_normed(b, PHASE_LINEAR, true);
    const struct step_note *note = query ? next(b, OP_CROSS) : NULL;
    struct step_phase *cross = query;
    if (!note)
        return false;
    const struct cross_attention_args *a = &note->cross;
    if (b->n > FUSED_ROWS)
        cross = add_phase(b, PHASE_CROSS);
    else
        query->kind = PHASE_CROSS_QUERIES;
    cross->cross = {a->rows,        *a->kv,         a->layer,   a->slots, a->q, a->out, b->engine->partial,
                    a->align_heads, a->align_first, a->n_align, a->align};
    struct step_phase *out = add_heads(b, PHASE_JOINED, a->out, a->kv->n_head);
    b->n_window = b->n_window ? b->n_window : a->kv->n_ctx;
    if (!out || a->q.data != query->linear.out.data || a->kv->n_ctx != b->n_window)
        return false;
    out->cross = cross->cross;
    return true;
}

static bool add_self(struct builder *b)
{
    struct step_phase *qkv = add_normed(b, PHASE_LINEAR, true);
    const struct step_note *note = qkv ? next(b, OP_SELF) : NULL;
    if (!note || note->self.slots || note->self.qkv.data != qkv->linear.out.data)
        return false;
    struct step_phase *self = add_heads(b, PHASE_SELF, note->self.out, note->self.kv->n_head);
    if (!self)
        return false;
    self->self = *note->self.kv;
    self->cross.layer = note->self.layer;
    self->linear.in = note->self.qkv;
    return true;
}

/* In one phase with few rows: with many, so many chunks would be added to so many sums that it takes longer than to meet. */
static bool add_mlp(struct builder *b)
{
    struct step_phase *up = add_normed(b, b->n > FUSED_ROWS ? PHASE_LINEAR : PHASE_MLP, true);
    struct step_phase *down = up ? add_linear(b, PHASE_LINEAR) : NULL;
    if (!down || down->linear.in.data != up->linear.out.data)
        return false;
    if (b->n > FUSED_ROWS) {
        take_shared(b, down);
        bool fits = !down->linear.gamma && !b->is_pending && down->linear.add.data == b->x[0].data &&
                    down->linear.out.data == b->x[0].data;
        down->linear.add = down->linear.out = b->x[b->in];
        return fits;
    }
    const struct linear_rows_params l = down->linear;
    memset(down, 0, sizeof(*down));
    b->n_phases--;
    up->down = l.weight;
    return l.weight.n_in % MLP_CHUNK == 0 && add_to_residual(b, up, &l);
}

static bool add_layer(struct builder *b)
{
    return add_self(b) && add_cross(b) && add_mlp(b);
}

/* Whether another layer follows, and not the output layer. */
static bool is_layer(const struct builder *b)
{
    return b->at + 1 < b->notes->n && b->notes->notes[b->at + 1].op == OP_SELF;
}

/* The output layer is most of what a step reads: each phase before it brings a part of it into the second-level cache, of
 * which a quarter is taken for that. */
static void share_out(struct builder *b, int l2_bytes)
{
    const struct engine_weight *w = &b->phases[b->n_phases - 2].linear.weight;
    size_t bytes = (size_t)w->n_out * weight_row_bytes(w), most = (size_t)l2_bytes / 4;
    int n = b->n_phases - 2, lines = (int)((bytes < most ? bytes : most) / LINE);
    for (int i = 0; i < n; i++) {
        int first = (int)((long)lines * i / n), last = (int)((long)lines * (i + 1) / n);
        b->phases[i].soon = weight_row(w, 0) + (size_t)first * LINE;
        b->phases[i].soon_lines = last - first;
    }
}

/* The same rows throughout, so that they may be known once a step. */
static bool same_rows(const struct rows *a, const struct rows *b)
{
    return a->n == b->n && a->pos == b->pos && a->slot == b->slot && a->token == b->token;
}

static bool rows_agree(const struct builder *b, const struct rows *rows)
{
    for (int i = 0; i < b->notes->n; i++) {
        const struct step_note *n = &b->notes->notes[i];
        const struct rows *other = n->op == OP_FROM_SLOTS ? &n->from_slots.rows
                                   : n->op == OP_EMBED    ? &n->embed.rows
                                   : n->op == OP_LINEAR   ? &n->linear.rows
                                   : n->op == OP_SELF     ? &n->self.rows
                                   : n->op == OP_CROSS    ? &n->cross.rows
                                   : n->op == OP_SELECT   ? &n->select.rows
                                                          : &n->advance.rows;
        if (!same_rows(other, rows))
            return false;
    }
    return true;
}

/* A product and nothing else, as select takes it. */
static bool is_bare(const struct linear_rows_params *l)
{
    return !l->gelu && !l->bias && !l->add.data;
}

/* Sums for two products, and another x. */
static bool add_memory(struct builder *b, int n_state, struct step_program *p)
{
    size_t n = (size_t)b->n * (size_t)n_state;
    p->residual = cuda_device_alloc(b->engine, n * (2 * sizeof(long long) + sizeof(float)), "a step", NULL);
    b->sums[0] = (long long *)p->residual;
    b->sums[1] = b->sums[0] + n;
    b->x[1] = mat_view(b->sums[1] + n, DTYPE_F32, b->n, n_state, n_state);
    p->params.n_sums = (int)n;
    return p->residual;
}

static bool build(struct builder *b, struct step_program *program)
{
    struct step_params *p = &program->params;
    const struct step_note *from_slots = next(b, OP_FROM_SLOTS);
    const struct step_note *embed = from_slots ? next(b, OP_EMBED) : NULL;
    if (!embed || embed->embed.rows.n > ROWS_MAX || embed->embed.rows.n <= 0 ||
        !rows_agree(b, &embed->embed.rows))
        return false;
    b->n = embed->embed.rows.n;
    b->x[0] = embed->embed.out;
    if (!add_memory(b, embed->embed.out.cols, program))
        return false;
    for (int i = 0; i < STEP_LAYERS_MAX && is_layer(b); i++) {
        if (!add_layer(b))
            return false;
    }
    if (b->n_phases == 0) /* what is known of the rows is known from the second phase on */
        return false;
    const struct step_note *select = add_normed(b, PHASE_LOGITS, false) ? next(b, OP_SELECT) : NULL;
    const struct step_note *advance = select ? next(b, OP_ADVANCE) : NULL;
    if (!advance || b->at != b->notes->n || !is_bare(&b->phases[b->n_phases - 1].linear))
        return false;
    add_phase(b, PHASE_FINISH);
    p->n_phases = b->n_phases;
    p->n_head = b->n_head;
    p->n_state = b->x[0].cols;
    p->n_window = b->n_window;
    p->embed = embed->embed;
    p->tokens = *embed->embed.tokens;
    p->select = select->select;
    p->advance = advance->advance;
    p->slots = from_slots->from_slots.slots;
    p->parts = b->engine->parts;
    return true;
}

static bool send(struct cuda_engine *c, struct step_program *p, const struct step_phase *phases)
{
    size_t bytes = (size_t)p->params.n_phases * sizeof(*phases);
    p->phases = (struct step_phase *)cuda_device_alloc(c, bytes, "a step", NULL);
    p->params.arrived = (unsigned *)cuda_device_alloc(c, sizeof(unsigned), "a step", NULL);
    p->params.phases = p->phases;
    bool there = p->phases && p->params.arrived && cuda_to_device(c, p->phases, phases, bytes) == cudaSuccess;
    if (!there)
        cudaGetLastError(); /* the graph does as well */
    return there;
}

struct step_program *step_program_create(struct cuda_engine *c, const struct step_notes *notes)
{
    if (!c->cooperative || notes->unfit)
        return NULL;
    struct step_phase *phases = (struct step_phase *)calloc(STEP_PHASES_MAX, sizeof(*phases));
    struct step_program *p = (struct step_program *)calloc(1, sizeof(*p));
    struct builder b = {};
    b.engine = c;
    b.notes = notes;
    b.phases = phases;
    bool done = p && phases && build(&b, p);
    if (done) {
        p->n_rows = b.n;
        share_out(&b, c->l2_bytes);
        done = step_fits(c, p, b.stride_max) && send(c, p, phases);
    }
    free(phases);
    if (done)
        return p;
    step_program_destroy(p);
    return NULL;
}

void step_program_destroy(struct step_program *p)
{
    if (!p)
        return;
    cudaFree(p->phases);
    cudaFree(p->residual);
    cudaFree(p->params.arrived);
    free(p);
}
