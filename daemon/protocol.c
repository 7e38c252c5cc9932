#include "daemon/protocol.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "daemon/jsonl.h"

static const char *const event_names[] = {
    [EVENT_SPEECH_START] = "speech_start",
    [EVENT_PARTIAL] = "partial",
    [EVENT_COMMIT] = "commit",
    [EVENT_FINAL] = "final",
    [EVENT_GAP] = "gap",
    [EVENT_STATUS] = "status",
};
#define N_EVENT_NAMES ((int)(sizeof(event_names) / sizeof(event_names[0])))

static const char *const reason_names[] = {
    [FINAL_SILENCE] = "silence", [FINAL_MAX_LEN] = "max_len", [FINAL_FLUSH] = "flush",
    [FINAL_DEVICE] = "device",   [FINAL_EOF] = "eof",
};

static const char *const cause_names[] = {
    [GAP_OVERLOAD] = "overload", [GAP_OVERRUN] = "overrun", [GAP_DEVICE] = "device",
    [GAP_SHUTDOWN] = "shutdown", [GAP_ENGINE] = "engine",   [GAP_PAUSE] = "pause",
};

static const char *const state_names[] = {
    [STREAM_STARTING] = "starting", [STREAM_LISTENING] = "listening", [STREAM_SPEECH] = "speech",
    [STREAM_SILENT] = "silent",     [STREAM_NO_DEVICE] = "no_device", [STREAM_PAUSED] = "paused",
    [STREAM_ENDED] = "ended",
};

static const char *const cmd_names[] = {
    [REQUEST_SUBSCRIBE] = "subscribe",
    [REQUEST_STATUS] = "status",
    [REQUEST_FLUSH] = "flush",
    [REQUEST_PAUSE] = "pause",
    [REQUEST_RESUME] = "resume",
    [REQUEST_DEVICES] = "devices",
    [REQUEST_SET] = "set",
};
#define N_CMDS ((int)(sizeof(cmd_names) / sizeof(cmd_names[0])))

const char *protocol_state_name(enum stream_state state)
{
    return state_names[state];
}

const char *protocol_cause_name(enum gap_cause cause)
{
    return cause_names[cause];
}

const char *protocol_cmd_name(enum request_cmd cmd)
{
    return cmd_names[cmd];
}

/* --- lines to the clients ------------------------------------------------------------------------------------ */

static void write_words(struct jsonl *j, const struct event *e)
{
    jsonl_array(j, "words");
    for (int i = 0; i < e->n_words; i++) {
        const struct event_word *w = &e->words[i];
        jsonl_object(j, NULL);
        jsonl_bytes(j, "w", e->text + w->offset, w->length);
        jsonl_int(j, "start_ms", w->start_ms);
        jsonl_int(j, "end_ms", w->end_ms);
        jsonl_real(j, "p", (double)w->probability, 2);
        jsonl_object_end(j);
    }
    jsonl_array_end(j);
}

static void write_span(struct jsonl *j, const struct event *e)
{
    jsonl_int(j, "utt", e->utt);
    if (e->type == EVENT_PARTIAL)
        jsonl_int(j, "rev", e->rev);
    jsonl_int(j, "start_ms", e->start_ms);
    if (e->type != EVENT_SPEECH_START)
        jsonl_int(j, "end_ms", e->end_ms);
}

static void write_status(struct jsonl *j, const struct event *e)
{
    jsonl_string(j, "state", state_names[e->state]);
    jsonl_int(j, "at_ms", e->start_ms);
    if (e->t0_unix_ms)
        jsonl_int(j, "t0_unix_ms", e->t0_unix_ms);
    jsonl_int(j, "queue_ms", e->queue_ms);
    jsonl_real(j, "rtf", (double)e->rtf, 2);
    jsonl_real(j, "level_db", (double)e->level_db, 1);
    jsonl_int(j, "overruns", e->overruns);
    jsonl_string(j, "device", e->device);
    if (e->message[0])
        jsonl_string(j, "message", e->message);
}

size_t protocol_write_event(char *buf, size_t size, const struct event *e, int64_t seq,
                            const char *stream_name, struct protocol_text utterance)
{
    struct jsonl j;
    jsonl_init(&j, buf, size);
    jsonl_object(&j, NULL);
    jsonl_string(&j, "type", event_names[e->type]);
    if (seq)
        jsonl_int(&j, "seq", seq);
    jsonl_string(&j, "stream", stream_name);
    switch (e->type) {
    case EVENT_SPEECH_START:
        write_span(&j, e);
        break;
    case EVENT_PARTIAL:
        write_span(&j, e);
        jsonl_string(&j, "text", e->text);
        break;
    case EVENT_COMMIT:
        write_span(&j, e);
        jsonl_string(&j, "text", e->text);
        if (e->language[0])
            jsonl_string(&j, "lang", e->language);
        write_words(&j, e);
        if (e->lag_ms >= 0)
            jsonl_int(&j, "lag_ms", e->lag_ms);
        break;
    case EVENT_FINAL:
        write_span(&j, e);
        jsonl_bytes(&j, "text", utterance.text, utterance.n);
        if (utterance.cut)
            jsonl_bool(&j, "truncated", true);
        jsonl_string(&j, "reason", reason_names[e->reason]);
        break;
    case EVENT_GAP:
        jsonl_int(&j, "start_ms", e->start_ms);
        jsonl_int(&j, "lost_ms", e->lost_ms);
        jsonl_string(&j, "cause", cause_names[e->cause]);
        break;
    case EVENT_STATUS:
        write_status(&j, e);
        break;
    }
    jsonl_object_end(&j);
    return jsonl_finish_line(&j);
}

size_t protocol_write_hello(char *buf, size_t size, const struct protocol_hello *h)
{
    struct jsonl j;
    jsonl_init(&j, buf, size);
    jsonl_object(&j, NULL);
    jsonl_string(&j, "type", "hello");
    jsonl_int(&j, "v", PROTOCOL_VERSION);
    jsonl_string(&j, "session", h->session);
    jsonl_int(&j, "seq", h->seq);
    jsonl_int(&j, "oldest_seq", h->oldest_seq);
    jsonl_int(&j, "t0_unix_ms", h->t0_unix_ms);
    jsonl_string(&j, "model", h->model);
    jsonl_string(&j, "engine", h->engine);
    jsonl_string(&j, "policy", "la2");
    jsonl_array(&j, "streams");
    for (int i = 0; i < h->n_streams; i++)
        jsonl_string(&j, NULL, h->streams[i]);
    jsonl_array_end(&j);
    jsonl_string(&j, "version", CAPTIOND_VERSION);
    jsonl_object_end(&j);
    return jsonl_finish_line(&j);
}

size_t protocol_write_missed(char *buf, size_t size, int64_t from_seq, int64_t to_seq)
{
    struct jsonl j;
    jsonl_init(&j, buf, size);
    jsonl_object(&j, NULL);
    jsonl_string(&j, "type", "missed");
    jsonl_int(&j, "from_seq", from_seq);
    jsonl_int(&j, "to_seq", to_seq);
    jsonl_object_end(&j);
    return jsonl_finish_line(&j);
}

size_t protocol_write_error(char *buf, size_t size, const char *cmd, const char *message)
{
    struct jsonl j;
    jsonl_init(&j, buf, size);
    jsonl_object(&j, NULL);
    jsonl_string(&j, "type", "error");
    if (cmd)
        jsonl_string(&j, "cmd", cmd);
    jsonl_string(&j, "message", message);
    jsonl_object_end(&j);
    return jsonl_finish_line(&j);
}

size_t protocol_write_bye(char *buf, size_t size, const char *reason, const char *message)
{
    struct jsonl j;
    jsonl_init(&j, buf, size);
    jsonl_object(&j, NULL);
    jsonl_string(&j, "type", "bye");
    jsonl_string(&j, "reason", reason);
    jsonl_string(&j, "message", message);
    jsonl_object_end(&j);
    return jsonl_finish_line(&j);
}

/* --- requests ------------------------------------------------------------------------------------------------ */

static int find_name(const char *name, const char *const *names, int n)
{
    for (int i = 0; i < n; i++) {
        if (names[i] && strcmp(name, names[i]) == 0)
            return i;
    }
    return -1;
}

/* An array of names to a set of their indices. */
static int parse_set(const json_t *value, const char *field, const char *const *names, int n, unsigned *set,
                     struct err *err)
{
    if (!json_is_array(value))
        return err_set(err, -ENOTSUP, "\"%s\" must be an array of strings", field);
    unsigned bits = 0;
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item)
    {
        if (!json_is_string(item))
            return err_set(err, -ENOTSUP, "\"%s\" must be an array of strings", field);
        int index = find_name(json_string_value(item), names, n);
        if (index < 0)
            return err_set(err, -ENOTSUP, "\"%s\": there is no \"%.40s\"", field, json_string_value(item));
        bits |= 1u << index;
    }
    if (bits == 0)
        return err_set(err, -ENOTSUP, "\"%s\" is empty; leave it out for all", field);
    *set = bits;
    return 0;
}

/* A setting's name or value, the latter of which may be empty. */
static int parse_setting(const json_t *value, const char *field, char *out, size_t least, size_t size,
                         struct err *err)
{
    size_t n = json_string_length(value);
    if (!json_is_string(value) || n < least || n >= size || strlen(json_string_value(value)) != n)
        return err_set(err, -ENOTSUP, "\"%s\" must be a string of %zu to %zu bytes", field, least, size - 1);
    memcpy(out, json_string_value(value), n + 1);
    return 0;
}

static int parse_field(const char *key, const json_t *value, const char *const *streams, int n_streams,
                       struct request *r, struct err *err)
{
    bool subscribe = r->cmd == REQUEST_SUBSCRIBE;
    if (strcmp(key, "cmd") == 0)
        return 0;
    if (strcmp(key, "streams") == 0 && (subscribe || r->cmd == REQUEST_PAUSE || r->cmd == REQUEST_RESUME))
        return parse_set(value, key, streams, n_streams, &r->streams, err);
    if (strcmp(key, "types") == 0 && subscribe)
        return parse_set(value, key, event_names, N_EVENT_NAMES, &r->types, err);
    if (strcmp(key, "key") == 0 && r->cmd == REQUEST_SET)
        return parse_setting(value, key, r->key, 1, sizeof(r->key), err);
    if (strcmp(key, "value") == 0 && r->cmd == REQUEST_SET)
        return parse_setting(value, key, r->value, 0, sizeof(r->value), err);
    if (strcmp(key, "from_seq") == 0 && subscribe) {
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return err_set(err, -ENOTSUP, "\"from_seq\" must be an integer of at least 0");
        r->from_seq = json_integer_value(value);
        return 0;
    }
    if (strcmp(key, "session") == 0 && subscribe) {
        if (!json_is_string(value))
            return err_set(err, -ENOTSUP, "\"session\" must be a string");
        /* One that is too long is not ours, and stays different when cut. */
        strncpy(r->session, json_string_value(value), sizeof(r->session) - 1);
        return 0;
    }
    return err_set(err, -ENOTSUP, "%s takes no \"%.40s\"", cmd_names[r->cmd], key);
}

static int parse_object(json_t *object, const char *const *streams, int n_streams, struct request *r,
                        struct err *err)
{
    if (!json_is_object(object))
        return err_set(err, -EINVAL, "a request is one JSON object a line, like {\"cmd\":\"subscribe\"}");
    const json_t *cmd = json_object_get(object, "cmd");
    if (!json_is_string(cmd))
        return err_set(err, -ENOTSUP, "a request needs \"cmd\", a string");
    int index = find_name(json_string_value(cmd), cmd_names, N_CMDS);
    if (index < 0)
        return err_set(err, -ENOTSUP, "unknown cmd \"%.40s\"", json_string_value(cmd));
    *r = (struct request){.cmd = (enum request_cmd)index, .from_seq = -1, .types = ~0u, .streams = ~0u};
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        int failed = parse_field(key, value, streams, n_streams, r, err);
        if (failed < 0)
            return failed;
    }
    if (r->cmd == REQUEST_SET && !json_object_get(object, "key") != !json_object_get(object, "value"))
        return err_set(err, -ENOTSUP, "set needs both \"key\" and \"value\", or neither");
    return 0;
}

int protocol_parse_request(const char *line, size_t n, const char *const *streams, int n_streams,
                           struct request *request, struct err *err)
{
    json_error_t why;
    struct request parsed = {.cmd = REQUEST_UNKNOWN};
    json_t *object = json_loadb(line, n, JSON_REJECT_DUPLICATES, &why);
    request->cmd = REQUEST_UNKNOWN;
    if (!object)
        return err_set(err, -EINVAL, "not JSON: %s", why.text);
    int r = parse_object(object, streams, n_streams, &parsed, err);
    json_decref(object);
    if (r == 0)
        *request = parsed;
    else
        request->cmd = parsed.cmd;
    return r;
}
