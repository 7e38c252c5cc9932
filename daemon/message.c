#include "daemon/message.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/protocol.h"

struct message *message_create(enum message_type type, const char *data, size_t size)
{
    struct message *m = malloc(sizeof(*m) + size + 1);
    if (!m)
        return NULL;
    *m = (struct message){.refs = 1, .type = type, .stream = -1, .size = size};
    memcpy(m->data, data, size);
    m->data[size] = '\0';
    return m;
}

struct message *message_bye(const char *reason, const char *text)
{
    char line[MESSAGE_ERR_MAX];
    return message_create(MESSAGE_OTHER, line, protocol_write_bye(line, sizeof(line), reason, text));
}

struct message *message_ref(struct message *m)
{
    m->refs++;
    return m;
}

void message_unref(struct message *m)
{
    if (!m)
        return;
    assert(m->refs > 0);
    if (--m->refs == 0)
        free(m);
}
