/* From the operations of a recording to the phases of a step.
 *
 * While a graph is recorded its operations are noted. A step of up to ROWS_MAX rows without beams is the known sequence of
 * them; everything else has the graph alone. Three things are fused: keys and values are stored by the block that attends
 * to them, the parts of cross-attention are joined by those who read them, and with few rows its queries are made by
 * those who use them. What lies between is then not written: `out` of the query's product and of cross-attention. */
#include "gpu/cuda/step.cuh"

#include <stdlib.h>

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
    int stride_max; /* of the rows in shared memory */
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

static struct step_phase *add_linear(struct builder *b, enum phase_kind kind)
{
    const struct step_note *note = next(b, OP_LINEAR);
    if (!note)
        return NULL;
    const struct linear_rows_args *a = &note->linear;
    if (a->gamma && a->weight->n_in > STEP_STATE_MAX)
        return NULL;
    struct step_phase *p = add_phase(b, kind);
    p->linear = {a->rows, a->in, a->add, a->out, a->gamma, a->beta, a->bias, a->gelu, *a->weight};
    b->stride_max = a->weight->stride > b->stride_max ? a->weight->stride : b->stride_max;
    return p;
}

/* Query, cross-attention and the product with its output. */
static bool add_cross(struct builder *b)
{
    struct step_phase *query = add_linear(b, PHASE_LINEAR);
    const struct step_note *note = query ? next(b, OP_CROSS) : NULL;
    struct step_phase *cross = query;
    if (!note)
        return false;
    const struct cross_attention_args *a = &note->cross;
    if (a->rows.n > FUSED_QUERY_ROWS)
        cross = add_phase(b, PHASE_CROSS);
    else
        query->kind = PHASE_CROSS_QUERIES;
    cross->cross = {a->rows,        *a->kv,         a->layer,   a->slots, a->q, a->out, b->engine->partial,
                    a->align_heads, a->align_first, a->n_align, a->align};
    struct step_phase *out = add_linear(b, PHASE_JOINED);
    if (!out || a->q.data != query->linear.out.data || a->out.data != out->linear.in.data)
        return false;
    out->cross = cross->cross;
    return true;
}

static bool add_layer(struct builder *b)
{
    struct step_phase *qkv = add_linear(b, PHASE_LINEAR);
    const struct step_note *note = qkv ? next(b, OP_SELF) : NULL;
    if (!note || note->self.slots)
        return false;
    struct step_phase *self = add_phase(b, PHASE_SELF);
    self->self = *note->self.kv;
    self->cross.layer = note->self.layer;
    self->linear.in = note->self.qkv;
    self->linear.out = note->self.out;
    return add_linear(b, PHASE_LINEAR) && add_cross(b) && add_linear(b, PHASE_LINEAR) &&
           add_linear(b, PHASE_LINEAR);
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
    size_t bytes = (size_t)w->n_out * (size_t)w->stride * sizeof(__half), most = (size_t)l2_bytes / 4;
    int n = b->n_phases - 2, lines = (int)((bytes < most ? bytes : most) / LINE);
    for (int i = 0; i < n; i++) {
        int first = (int)((long)lines * i / n), last = (int)((long)lines * (i + 1) / n);
        b->phases[i].soon = (const char *)w->data + (size_t)first * LINE;
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

static bool build(struct builder *b, struct step_params *p)
{
    const struct step_note *from_slots = next(b, OP_FROM_SLOTS);
    const struct step_note *embed = from_slots ? next(b, OP_EMBED) : NULL;
    if (!embed || embed->embed.rows.n > ROWS_MAX || embed->embed.rows.n <= 0 ||
        !rows_agree(b, &embed->embed.rows))
        return false;
    for (int i = 0; i < STEP_LAYERS_MAX && is_layer(b); i++) {
        if (!add_layer(b))
            return false;
    }
    const struct step_note *select = add_linear(b, PHASE_LOGITS) ? next(b, OP_SELECT) : NULL;
    const struct step_note *advance = select ? next(b, OP_ADVANCE) : NULL;
    if (!advance || b->at != b->notes->n || !is_bare(&b->phases[b->n_phases - 1].linear))
        return false;
    add_phase(b, PHASE_FINISH);
    p->n_phases = b->n_phases;
    p->embed = embed->embed;
    p->tokens = *embed->embed.tokens;
    p->select = select->select;
    p->advance = advance->advance;
    p->slots = from_slots->from_slots.slots;
    p->parts = b->engine->parts;
    return true;
}

static bool to_device(struct cuda_engine *c, struct step_program *p, const struct step_phase *phases)
{
    size_t bytes = (size_t)p->params.n_phases * sizeof(*phases);
    p->phases = (struct step_phase *)cuda_device_alloc(c, bytes);
    p->params.arrived = (unsigned *)cuda_device_alloc(c, sizeof(unsigned));
    p->params.phases = p->phases;
    bool there = p->phases && p->params.arrived &&
                 cudaMemcpyAsync(p->phases, phases, bytes, cudaMemcpyHostToDevice, c->setup) == cudaSuccess &&
                 cudaStreamSynchronize(c->setup) == cudaSuccess;
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
    struct builder b = {c, notes, 0, phases, 0, 0};
    bool done = p && phases && build(&b, &p->params);
    if (done) {
        p->n_rows = p->params.embed.rows.n;
        p->shared = (size_t)step_rows_template(p->n_rows) * (size_t)b.stride_max * sizeof(float);
        share_out(&b, c->l2_bytes);
        done = step_fits(c, p->n_rows, p->shared) && to_device(c, p, phases);
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
    cudaFree(p->params.arrived);
    free(p);
}
