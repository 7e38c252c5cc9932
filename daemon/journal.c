#include "daemon/journal.h"

#include <errno.h>
#include <stdlib.h>

int journal_init(struct journal *j, int64_t n_max, size_t bytes_max)
{
    struct message **ring = calloc((size_t)n_max, sizeof(struct message *));
    if (!ring)
        return -ENOMEM;
    *j = (struct journal){.ring = ring, .capacity = n_max, .oldest = 1, .next = 1, .bytes_max = bytes_max};
    return 0;
}

static struct message **slot(const struct journal *j, int64_t seq)
{
    return &j->ring[seq % j->capacity];
}

static void forget_oldest(struct journal *j)
{
    struct message **m = slot(j, j->oldest++);
    j->bytes -= (*m)->size;
    message_unref(*m);
    *m = NULL;
}

void journal_finish(struct journal *j)
{
    if (!j)
        return;
    while (j->oldest < j->next)
        forget_oldest(j);
    free(j->ring);
    j->ring = NULL;
}

void journal_append(struct journal *j, struct message *m)
{
    if (j->next - j->oldest == j->capacity)
        forget_oldest(j);
    m->seq = j->next++;
    *slot(j, m->seq) = message_ref(m);
    j->bytes += m->size;
    while (j->bytes > j->bytes_max && j->next - j->oldest > 1)
        forget_oldest(j);
}

struct message *journal_get(const struct journal *j, int64_t seq)
{
    return seq >= j->oldest && seq < j->next ? *slot(j, seq) : NULL;
}

size_t journal_bytes_from(const struct journal *j, int64_t seq)
{
    size_t bytes = 0;
    for (seq = seq > j->oldest ? seq : j->oldest; seq < j->next; seq++)
        bytes += (*slot(j, seq))->size;
    return bytes;
}

int journal_resize(struct journal *j, int64_t n_max, size_t bytes_max)
{
    struct message **ring = calloc((size_t)n_max, sizeof(struct message *));
    if (!ring)
        return -ENOMEM;
    while (j->next - j->oldest > n_max || (j->bytes > bytes_max && j->next - j->oldest > 1))
        forget_oldest(j);
    for (int64_t seq = j->oldest; seq < j->next; seq++)
        ring[seq % n_max] = *slot(j, seq);
    free(j->ring);
    j->ring = ring;
    j->capacity = n_max;
    j->bytes_max = bytes_max;
    return 0;
}
