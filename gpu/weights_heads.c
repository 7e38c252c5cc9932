/* Alignment heads: the cross-attention heads whose weights follow the time of the words.
 *
 * The tables are those of OpenAI's whisper/__init__.py, recognised by the model's shape. large-v1 and large-v2 have
 * the same shape; v2's are taken. */
#include <stdlib.h>
#include <string.h>

#include "gpu/weights_file.h"

struct head_table {
    int n_layer, n_head, n_vocab; /* of the text decoder */
    int n;
    struct align_head heads[RUN_ALIGN_HEADS];
};

static const struct head_table tables[] = {
    /* tiny.en */ {4, 6, 51864, 8, {{1, 0}, {2, 0}, {2, 5}, {3, 0}, {3, 1}, {3, 2}, {3, 3}, {3, 4}}},
    /* tiny */ {4, 6, 51865, 6, {{2, 2}, {3, 0}, {3, 2}, {3, 3}, {3, 4}, {3, 5}}},
    /* base.en */ {6, 8, 51864, 5, {{3, 3}, {4, 7}, {5, 1}, {5, 5}, {5, 7}}},
    /* base */ {6, 8, 51865, 8, {{3, 1}, {4, 2}, {4, 3}, {4, 7}, {5, 1}, {5, 2}, {5, 4}, {5, 6}}},
    /* small.en */
    {12,
     12,
     51864,
     19,
     {{6, 6},
      {7, 0},
      {7, 3},
      {7, 8},
      {8, 2},
      {8, 5},
      {8, 7},
      {9, 0},
      {9, 4},
      {9, 8},
      {9, 10},
      {10, 0},
      {10, 1},
      {10, 2},
      {10, 3},
      {10, 6},
      {10, 11},
      {11, 2},
      {11, 4}}},
    /* small */
    {12, 12, 51865, 10, {{5, 3}, {5, 9}, {8, 0}, {8, 4}, {8, 7}, {8, 8}, {9, 0}, {9, 7}, {9, 9}, {10, 5}}},
    /* medium.en */
    {24,
     16,
     51864,
     18,
     {{11, 4},
      {14, 1},
      {14, 12},
      {14, 14},
      {15, 4},
      {16, 0},
      {16, 4},
      {16, 9},
      {17, 12},
      {17, 14},
      {18, 7},
      {18, 10},
      {18, 15},
      {20, 0},
      {20, 3},
      {20, 9},
      {20, 14},
      {21, 12}}},
    /* medium */ {24, 16, 51865, 6, {{13, 15}, {15, 4}, {15, 15}, {16, 1}, {20, 0}, {23, 4}}},
    /* large-v2 */ {32, 20, 51865, 23, {{10, 12}, {13, 17}, {16, 11}, {16, 12}, {16, 13}, {17, 15},
                                        {17, 16}, {18, 4},  {18, 11}, {18, 19}, {19, 11}, {21, 2},
                                        {21, 3},  {22, 3},  {22, 9},  {22, 12}, {23, 5},  {23, 7},
                                        {23, 13}, {25, 5},  {26, 1},  {26, 12}, {27, 15}}},
    /* large-v3 */
    {32,
     20,
     51866,
     10,
     {{7, 0}, {10, 17}, {12, 18}, {13, 12}, {16, 1}, {17, 14}, {19, 11}, {21, 4}, {24, 1}, {25, 6}}},
    /* large-v3-turbo */ {4, 20, 51866, 6, {{2, 4}, {2, 11}, {3, 3}, {3, 6}, {3, 11}, {3, 14}}},
};

static int compare_heads(const void *a, const void *b)
{
    const struct align_head *x = a, *y = b;
    return x->layer != y->layer ? x->layer - y->layer : x->head - y->head;
}

/* What OpenAI's model takes where no heads are known; the last ones where they are more than there is room for. */
static void take_later_half(struct weights *w)
{
    const struct whisper_dims *d = &w->dims;
    int last = d->n_text_layer * d->n_text_head, first = d->n_text_layer / 2 * d->n_text_head;
    first = last - first > RUN_ALIGN_HEADS ? last - RUN_ALIGN_HEADS : first;
    for (int i = first; i < last; i++)
        w->align[w->n_align++] = (struct align_head){i / d->n_text_head, i % d->n_text_head};
}

void weights_choose_align_heads(struct weights *w)
{
    const struct whisper_dims *d = &w->dims;
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]) && w->n_align == 0; i++) {
        const struct head_table *t = &tables[i];
        if (t->n_layer != d->n_text_layer || t->n_head != d->n_text_head || t->n_vocab != d->n_vocab)
            continue;
        memcpy(w->align, t->heads, (size_t)t->n * sizeof(t->heads[0]));
        w->n_align = t->n;
    }
    if (w->n_align == 0)
        take_later_half(w);
    qsort(w->align, (size_t)w->n_align, sizeof(w->align[0]), compare_heads);
    w->dims.n_align = w->n_align;
}
