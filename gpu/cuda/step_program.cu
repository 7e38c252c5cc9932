/* From the operations of a recording to the layers of a step.
 *
 * While a graph is recorded its operations are noted. A step of up to ROWS_MAX rows without beams is the known sequence of
 * them; everything else has the graph alone. What lies between the operations, but for the logits, is then not written. */
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

#define NOTES_MAX (8 * STEP_LAYERS_MAX + 5)

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

/* --- layers ------------------------------------------------------------------------------------------------------------ */

struct builder {
    const struct step_notes *notes;
    int at;
    struct mat x; /* the residual */
};

static const struct step_note *next(struct builder *b, enum op op)
{
    if (b->at == b->notes->n || b->notes->notes[b->at].op != op)
        return NULL;
    return &b->notes->notes[b->at++];
}

/* What is copied 16 bytes at a time. */
static bool is_aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* A product of the residual, normalised. */
static const struct linear_rows_args *next_normed(struct builder *b)
{
    const struct step_note *note = next(b, OP_LINEAR);
    const struct linear_rows_args *l = note ? &note->linear : NULL;
    bool fits = l && l->gamma && !l->add.data && l->in.data == b->x.data && is_aligned(l->gamma) &&
                is_aligned(l->beta);
    return fits ? l : NULL;
}

/* One of something else, which is added to the residual. */
static const struct linear_rows_args *next_added(struct builder *b, struct mat in)
{
    const struct step_note *note = next(b, OP_LINEAR);
    const struct linear_rows_args *l = note ? &note->linear : NULL;
    bool fits = l && !l->gamma && !l->gelu && l->in.data == in.data && l->add.data == b->x.data &&
                l->out.data == b->x.data;
    return fits ? l : NULL;
}

static bool add_product(struct step_layer *to, enum product product, const struct linear_rows_args *l, int n_in,
                        int n_out)
{
    if (!l || l->weight->n_in != n_in || l->weight->n_out != n_out || l->gelu != (product == UP))
        return false;
    to->weight[product] = *l->weight;
    to->bias[product] = l->bias;
    if (product % 2 == 0) {
        to->gamma[product / 2] = l->gamma;
        to->beta[product / 2] = l->beta;
    }
    return true;
}

/* The first layer says what all are like. */
static bool same_caches(struct step_params *p, int layer, const struct self_attention_args *self,
                        const struct cross_attention_args *cross)
{
    if (layer == 0) {
        p->self = *self->kv;
        p->cross = *cross->kv;
        p->n_head = self->kv->n_head;
        p->n_align = cross->n_align;
        p->align = cross->align;
    }
    return self->kv->data == p->self.data && cross->kv->data == p->cross.data && self->layer == layer &&
           cross->layer == layer && cross->kv->n_head == p->n_head && cross->align == p->align && !self->slots;
}

static bool add_layer(struct builder *b, struct step_params *p, int index, struct step_layer *l)
{
    const struct linear_rows_args *qkv = next_normed(b);
    const struct step_note *self = qkv ? next(b, OP_SELF) : NULL;
    const struct linear_rows_args *out = self ? next_added(b, self->self.out) : NULL;
    const struct linear_rows_args *query = out ? next_normed(b) : NULL;
    const struct step_note *cross = query ? next(b, OP_CROSS) : NULL;
    const struct linear_rows_args *cross_out = cross ? next_added(b, cross->cross.out) : NULL;
    const struct linear_rows_args *up = cross_out ? next_normed(b) : NULL;
    const struct linear_rows_args *down = up ? next_added(b, up->out) : NULL;
    if (!down || self->self.qkv.data != qkv->out.data || cross->cross.q.data != query->out.data ||
        !same_caches(p, index, &self->self, &cross->cross))
        return false;
    int n = p->n_state, hidden = up->weight->n_out;
    if (index == 0)
        p->n_hidden = hidden;
    l->align_heads = cross->cross.align_heads;
    l->align_first = cross->cross.align_first;
    return n == p->n_head * HEAD && hidden == p->n_hidden && hidden >= n && hidden % UNIT_INPUTS == 0 &&
           add_product(l, QKV, qkv, n, 3 * n) && add_product(l, OUT, out, n, n) &&
           add_product(l, QUERY, query, n, n) && add_product(l, CROSS_OUT, cross_out, n, n) &&
           add_product(l, UP, up, n, hidden) && add_product(l, DOWN, down, hidden, n);
}

/* Whether another layer follows, and not the output layer. */
static bool is_layer(const struct builder *b)
{
    return b->at + 1 < b->notes->n && b->notes->notes[b->at + 1].op == OP_SELF;
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

static bool build(const struct step_notes *notes, struct step_program *program, struct step_layer *layers)
{
    struct builder b = {notes, 0, {}};
    struct step_params *p = &program->params;
    const struct step_note *from_slots = next(&b, OP_FROM_SLOTS);
    const struct step_note *embed = from_slots ? next(&b, OP_EMBED) : NULL;
    if (!embed || embed->embed.rows.n > ROWS_MAX || embed->embed.rows.n <= 0 ||
        embed->embed.out.cols > STEP_STATE_MAX || !rows_agree(&b, &embed->embed.rows))
        return false;
    b.x = embed->embed.out;
    p->n_state = b.x.cols;
    for (; p->n_layers < STEP_LAYERS_MAX && is_layer(&b); p->n_layers++) {
        if (!add_layer(&b, p, p->n_layers, &layers[p->n_layers]))
            return false;
    }
    const struct linear_rows_args *output = p->n_layers ? next_normed(&b) : NULL;
    const struct step_note *select = output ? next(&b, OP_SELECT) : NULL;
    const struct step_note *advance = select ? next(&b, OP_ADVANCE) : NULL;
    if (!advance || b.at != notes->n || output->gelu || output->bias || output->out.data != select->select.logits.data)
        return false;
    program->n_rows = embed->embed.rows.n;
    p->embed = embed->embed;
    p->tokens = *embed->embed.tokens;
    p->gamma = output->gamma;
    p->beta = output->beta;
    p->output = *output->weight;
    p->select = select->select;
    p->advance = advance->advance;
    p->slots = from_slots->from_slots.slots;
    return true;
}

static bool to_device(struct cuda_engine *c, struct step_program *p, const struct step_layer *layers)
{
    size_t bytes = (size_t)p->params.n_layers * sizeof(*layers);
    p->layers = (struct step_layer *)cuda_device_alloc(c, bytes);
    p->params.normed =
        (float *)cuda_device_alloc(c, (size_t)(ROWS_MAX * p->params.n_state) * sizeof(float));
    p->params.signals = (unsigned *)cuda_device_alloc(c, STEP_SIGNALS * sizeof(unsigned));
    p->params.layers = p->layers;
    p->params.partial = c->partial;
    p->params.parts = c->parts;
    bool there = p->layers && p->params.normed && p->params.signals &&
                 cudaMemcpyAsync(p->layers, layers, bytes, cudaMemcpyHostToDevice, c->setup) == cudaSuccess &&
                 cudaStreamSynchronize(c->setup) == cudaSuccess;
    if (!there)
        cudaGetLastError(); /* the graph does as well */
    return there;
}

struct step_program *step_program_create(struct cuda_engine *c, const struct step_notes *notes)
{
    if (!c->clusters || notes->unfit)
        return NULL;
    struct step_layer *layers = (struct step_layer *)calloc(STEP_LAYERS_MAX, sizeof(*layers));
    struct step_program *p = (struct step_program *)calloc(1, sizeof(*p));
    bool done = p && layers && build(notes, p, layers) && step_fits(c, p) && to_device(c, p, layers);
    free(layers);
    if (done)
        return p;
    step_program_destroy(p);
    return NULL;
}

void step_program_destroy(struct step_program *p)
{
    if (!p)
        return;
    cudaFree(p->layers);
    cudaFree(p->params.normed);
    cudaFree(p->params.signals);
    free(p);
}
