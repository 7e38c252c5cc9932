/* Attention of the decoder's rows: to their own past, and to the encoded window. */
#include <errno.h>
#include <string.h>

#include "gpu/host/host.h"
#include "gpu/host/kernels_rows.h"
#include "gpu/host/kv.h"

static float *row_of(struct mat m, int r)
{
    return (float *)m.data + (size_t)r * (size_t)m.stride;
}

static void scale_query(const float *q, float *out)
{
    for (int d = 0; d < HEAD; d++)
        out[d] = q[d] * 0.125f; /* 1 / √64 */
}

/* Up to ROWS_AT_ONCE queries of one head. */
struct queries {
    int n;
    const float *q[ROWS_AT_ONCE]; /* of HEAD, scaled */
    int n_keys[ROWS_AT_ONCE];     /* each sees the first positions */
    float *scores[ROWS_AT_ONCE];  /* room for the longest, rounded up to whole panels */
    float *out[ROWS_AT_ONCE];     /* of HEAD */
    float scale[ROWS_AT_ONCE];    /* result: scores · scale are the weights */
};

/* scores · scale = softmax(q · Kᵀ), with zeros up to the longest row's end; out = softmax(q · Kᵀ) · V. */
static void attend(const struct rows_kernels *k, const struct engine_kv *kv, const void *keys,
                   const void *values, struct queries *a)
{
    int most = 0;
    for (int r = 0; r < a->n; r++)
        most = a->n_keys[r] > most ? a->n_keys[r] : most;
    struct panel_product product = {.type = kv->type,
                                    .panels = keys,
                                    .n_out = panel_count(most) * PANEL,
                                    .n_in = HEAD,
                                    .n_rows = a->n,
                                    .x = a->q,
                                    .out = a->scores};
    k->product(&product, 0, panel_count(most));
    for (int r = 0; r < a->n; r++) {
        a->scale[r] = 1.0f / k->exponentials(a->scores[r], a->n_keys[r]);
        memset(a->scores[r] + a->n_keys[r], 0, (size_t)(most - a->n_keys[r]) * sizeof(float));
    }
    k->weighted_sum(kv->type, values, most, (const float *const *)a->scores, a->n, a->out);
    for (int r = 0; r < a->n; r++) {
        for (int d = 0; d < HEAD; d++)
            a->out[r][d] *= a->scale[r];
    }
}

/* --- self-attention ----------------------------------------------------------------------------------------------- */

struct self_job {
    struct host_engine *h;
    const struct self_attention_args *args;
};

/* Rows first … last − 1 are of one slot, or idle. */
static void attend_self(const struct self_job *job, int head, int first, int last)
{
    const struct self_attention_args *a = job->args;
    float q[ROWS_AT_ONCE][HEAD], scores[ROWS_AT_ONCE][RUN_TOKENS_MAX + PANEL];
    struct queries queries = {0};
    int slot = a->rows.slot[first];
    for (int r = first; r < last; r++) {
        if (a->rows.pos[r] < 0)
            continue;
        int n = queries.n++;
        scale_query(row_of(a->qkv, r) + head * HEAD, q[n]);
        queries.q[n] = q[n];
        queries.scores[n] = scores[n];
        queries.out[n] = row_of(a->out, r) + head * HEAD;
        queries.n_keys[n] = a->rows.pos[r] + 1;
    }
    if (queries.n > 0)
        attend(job->h->rows, a->kv, kv_keys(a->kv, a->layer, slot, head),
               kv_values(a->kv, a->layer, slot, head), &queries);
}

/* Whether a row finds its past through its slot's table. */
static bool reads_table(const struct self_attention_args *a, int r)
{
    const struct slot_state *s = a->slots ? &a->slots[a->rows.slot[r]] : NULL;
    return s && s->n_beams > 1 && a->rows.pos[r] >= s->n_prompt;
}

/* Rows of one beam search: which slots have their keys. */
struct beam_queries {
    struct queries queries;
    const uint8_t *slot[ROWS_AT_ONCE]; /* [n_keys] */
    int most;                          /* keys of the longest row */
    int first_slot;
};

/* The slots that any row finds something of the panel in, as bits from first_slot on. */
static uint32_t panel_slots(const struct beam_queries *b, int panel)
{
    uint32_t slots = 0;
    for (int r = 0; r < b->queries.n; r++) {
        for (int t = panel * PANEL; t < (panel + 1) * PANEL && t < b->queries.n_keys[r]; t++)
            slots |= 1u << (b->slot[r][t] - b->first_slot);
    }
    return slots;
}

/* The scores of a panel whose positions lie in several slots: computed for each of them, and every row takes its own. */
static void score_mixed_panel(const struct self_job *job, const struct beam_queries *b, int head, int panel,
                              uint32_t slots)
{
    const struct self_attention_args *a = job->args;
    const struct engine_kv *kv = a->kv;
    float part[ROWS_AT_ONCE][PANEL] = {{0}}, *out[ROWS_AT_ONCE];
    for (int r = 0; r < b->queries.n; r++)
        out[r] = part[r];
    for (; slots; slots &= slots - 1) {
        int slot = b->first_slot + __builtin_ctz(slots);
        const char *keys = kv_keys(kv, a->layer, slot, head);
        struct panel_product product = {.type = kv->type,
                                        .panels = keys + (size_t)panel * PANEL * HEAD * kv_value_bytes(kv),
                                        .n_out = PANEL,
                                        .n_in = HEAD,
                                        .n_rows = b->queries.n,
                                        .x = b->queries.q,
                                        .out = out};
        job->h->rows->product(&product, 0, 1);
        for (int r = 0; r < b->queries.n; r++) {
            int first = panel * PANEL, n = b->queries.n_keys[r] - first;
            for (int i = 0; i < PANEL && i < n; i++) {
                if (b->slot[r][first + i] == slot)
                    b->queries.scores[r][first + i] = part[r][i];
            }
        }
    }
}

/* The scores of all panels: those that lie in one slot, as the prompt does, together. */
static void score_beams(const struct self_job *job, const struct beam_queries *b, int head)
{
    const struct self_attention_args *a = job->args;
    int n_panels = panel_count(b->most);
    for (int p = 0, end; p < n_panels; p = end) {
        uint32_t slots = panel_slots(b, p);
        end = p + 1;
        if (slots & (slots - 1)) {
            score_mixed_panel(job, b, head, p, slots);
            continue;
        }
        while (end < n_panels && panel_slots(b, end) == slots)
            end++;
        int slot = b->first_slot + __builtin_ctz(slots);
        struct panel_product product = {.type = a->kv->type,
                                        .panels = kv_keys(a->kv, a->layer, slot, head),
                                        .n_out = n_panels * PANEL,
                                        .n_in = HEAD,
                                        .n_rows = b->queries.n,
                                        .x = b->queries.q,
                                        .out = b->queries.scores};
        job->h->rows->product(&product, p, end);
    }
}

/* Rows first … last − 1 are of one beam search, or idle. */
static void attend_beams(const struct self_job *job, int head, int first, int last)
{
    const struct self_attention_args *a = job->args;
    const struct engine_kv *kv = a->kv;
    const struct rows_kernels *k = job->h->rows;
    float q[ROWS_AT_ONCE][HEAD], scores[ROWS_AT_ONCE][RUN_TOKENS_MAX + PANEL];
    const void *values[RUN_TOKENS_MAX];
    struct beam_queries b = {.first_slot = a->slots[a->rows.slot[first]].first_slot};
    struct queries *queries = &b.queries;
    for (int r = first; r < last; r++) {
        if (a->rows.pos[r] < 0)
            continue;
        int n = queries->n++;
        scale_query(row_of(a->qkv, r) + head * HEAD, q[n]);
        queries->q[n] = q[n];
        queries->scores[n] = scores[n];
        queries->out[n] = row_of(a->out, r) + head * HEAD;
        queries->n_keys[n] = a->rows.pos[r] + 1;
        b.slot[n] = a->slots[a->rows.slot[r]].kv_slot;
        b.most = queries->n_keys[n] > b.most ? queries->n_keys[n] : b.most;
    }
    score_beams(job, &b, head);
    for (int i = 0; i < queries->n; i++) {
        float scale = 1.0f / k->exponentials(scores[i], queries->n_keys[i]);
        for (int t = 0; t < queries->n_keys[i]; t++)
            values[t] = (const char *)kv_values(kv, a->layer, b.slot[i][t], head) +
                        (size_t)t * HEAD * kv_value_bytes(kv);
        k->weighted_sum_at(kv->type, values, queries->n_keys[i], scores[i], queries->out[i]);
        for (int d = 0; d < HEAD; d++)
            queries->out[i][d] *= scale;
    }
}

/* The rows from r on that are attended to together: of one beam search, or of one slot. */
static int end_of_rows(const struct self_attention_args *a, int r)
{
    int end = r + 1;
    if (a->rows.pos[r] >= 0 && reads_table(a, r)) {
        int search = a->slots[a->rows.slot[r]].first_slot;
        while (end < a->rows.n && end - r < ROWS_AT_ONCE &&
               (a->rows.pos[end] < 0 ||
                (reads_table(a, end) && a->slots[a->rows.slot[end]].first_slot == search)))
            end++;
        return end;
    }
    while (end < a->rows.n && end - r < ROWS_AT_ONCE && a->rows.slot[end] == a->rows.slot[r])
        end++;
    return end;
}

/* A head is one worker's alone: it stores the new keys and values of all rows, then every row looks back. */
static void self_worker(void *arg, int worker, int n_workers)
{
    struct self_job *job = arg;
    const struct self_attention_args *a = job->args;
    const struct engine_kv *kv = a->kv;
    int first, last, n_state = kv->n_head * HEAD;
    pool_share(kv->n_head, 1, worker, n_workers, &first, &last);
    for (int head = first; head < last; head++) {
        for (int r = 0; r < a->rows.n; r++) {
            const float *row = row_of(a->qkv, r) + head * HEAD;
            if (a->rows.pos[r] >= 0)
                kv_put(job->h, kv, a->layer, a->rows.slot[r], head, a->rows.pos[r], row + n_state,
                       row + 2 * n_state);
        }
        for (int r = 0, end; r < a->rows.n; r = end) {
            end = end_of_rows(a, r);
            if (a->rows.pos[r] >= 0 && reads_table(a, r))
                attend_beams(job, head, r, end);
            else
                attend_self(job, head, r, end);
        }
    }
}

int host_self_attention(struct host_engine *h, const struct self_attention_args *a)
{
    struct self_job job = {h, a};
    pool_run(h->pool, self_worker, &job);
    return 0;
}

/* --- cross-attention ---------------------------------------------------------------------------------------------- */

struct group {
    int row[ROWS_AT_ONCE], n;
    int audio, n_frames;
};

struct cross_job {
    struct host_engine *h;
    const struct cross_attention_args *args;
    float *scores; /* [workers][ROWS_AT_ONCE][score_stride] */
    int score_stride;
    struct group *groups;
    int n_groups;
};

static void record_alignment(const struct cross_attention_args *a, const struct group *g, int head,
                             const struct queries *queries)
{
    if (!a->align || !(a->align_heads >> head & 1))
        return;
    int index = a->align_first + __builtin_popcount(a->align_heads & ((1u << head) - 1));
    for (int i = 0; i < g->n; i++) {
        int r = g->row[i];
        size_t row = (size_t)a->rows.slot[r] * RUN_TOKENS_MAX + (size_t)a->rows.pos[r];
        float *out = a->align + (row * (size_t)a->n_align + (size_t)index) * RUN_AUDIO_FRAMES;
        for (int t = 0; t < g->n_frames; t++)
            out[t] = queries->scores[i][t] * queries->scale[i];
    }
}

static void cross_worker(void *arg, int worker, int n_workers)
{
    struct cross_job *job = arg;
    const struct cross_attention_args *a = job->args;
    int first, last, n_head = a->kv->n_head;
    pool_share(job->n_groups * n_head, 1, worker, n_workers, &first, &last);
    float q[ROWS_AT_ONCE][HEAD];
    for (int unit = first; unit < last; unit++) {
        /* Groups inside heads: rows of one slot that need several groups find the keys in the cache. */
        const struct group *g = &job->groups[unit % job->n_groups];
        int head = unit / job->n_groups;
        struct queries queries = {.n = g->n};
        for (int i = 0; i < g->n; i++) {
            scale_query(row_of(a->q, g->row[i]) + head * HEAD, q[i]);
            queries.q[i] = q[i];
            queries.n_keys[i] = g->n_frames;
            queries.scores[i] = job->scores + (size_t)(worker * ROWS_AT_ONCE + i) * (size_t)job->score_stride;
            queries.out[i] = row_of(a->out, g->row[i]) + head * HEAD;
        }
        attend(job->h->rows, a->kv, kv_keys(a->kv, a->layer, g->audio, head),
               kv_values(a->kv, a->layer, g->audio, head), &queries);
        record_alignment(a, g, head, &queries);
    }
}

static int collect_groups(const struct cross_attention_args *a, struct group *groups)
{
    int n = 0;
    for (int r = 0; r < a->rows.n; r++) {
        if (a->rows.pos[r] < 0)
            continue;
        const struct slot_state *s = &a->slots[a->rows.slot[r]];
        struct group *g = n ? &groups[n - 1] : NULL;
        if (!g || g->n == ROWS_AT_ONCE || g->audio != s->audio || g->n_frames != s->n_frames) {
            g = &groups[n++];
            *g = (struct group){.audio = s->audio, .n_frames = s->n_frames};
        }
        g->row[g->n++] = r;
    }
    return n;
}

int host_cross_attention(struct host_engine *h, const struct cross_attention_args *a)
{
    int stride = panel_count(a->kv->n_ctx) * PANEL;
    size_t score_bytes = (size_t)pool_size(h->pool) * ROWS_AT_ONCE * (size_t)stride * sizeof(float);
    char *scratch = host_scratch(h, score_bytes + (size_t)a->rows.n * sizeof(struct group));
    if (!scratch)
        return -ENOMEM;
    struct cross_job job = {.h = h,
                            .args = a,
                            .scores = (float *)(void *)scratch,
                            .score_stride = stride,
                            .groups = (struct group *)(void *)(scratch + score_bytes)};
    job.n_groups = collect_groups(a, job.groups);
    if (job.n_groups > 0)
        pool_run(h->pool, cross_worker, &job);
    return 0;
}
