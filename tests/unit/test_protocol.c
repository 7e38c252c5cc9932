/* Every line is read back by jansson, which is not what wrote it. */
#include "tests/support/support.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "daemon/jsonl.h"
#include "daemon/message.h"
#include "daemon/protocol.h"

static char line[PROTOCOL_LINE_MAX];

static json_t *parse(size_t n)
{
    json_error_t why;
    assert_true(n > 0);
    assert_int_equal(line[n - 1], '\n');
    assert_int_equal(strlen(line), n);
    assert_null(memchr(line, '\n', n - 1));
    json_t *object = json_loadb(line, n, JSON_REJECT_DUPLICATES, &why);
    if (!object)
        fail_msg("%s in %s", why.text, line);
    return object;
}

static void check_string(const json_t *object, const char *key, const char *value)
{
    const char *is = json_string_value(json_object_get(object, key));
    assert_non_null(is);
    assert_string_equal(is, value);
}

static void check_int(const json_t *object, const char *key, int64_t value)
{
    assert_true(json_is_integer(json_object_get(object, key)));
    assert_int_equal(json_integer_value(json_object_get(object, key)), value);
}

static struct event commit_event(void)
{
    struct event e = {.type = EVENT_COMMIT, .utt = 7, .start_ms = 81230, .end_ms = 81900, .lag_ms = 840};
    strcpy(e.text, " my \"own\"\\");
    strcpy(e.language, "en");
    e.n_words = 2;
    e.words[0] = (struct event_word){0, 3, 81230, 81410, 0.971f};
    e.words[1] = (struct event_word){3, 7, 81410, 81900, 0.5f};
    return e;
}

static void writes_a_commit(void **state)
{
    struct event e = commit_event();
    json_t *o = parse(protocol_write_event(line, sizeof(line), &e, 43, "mic", (struct protocol_text){0}));
    check_string(o, "type", "commit");
    check_int(o, "seq", 43);
    check_string(o, "stream", "mic");
    check_int(o, "utt", 7);
    check_int(o, "start_ms", 81230);
    check_int(o, "end_ms", 81900);
    check_string(o, "text", e.text);
    check_string(o, "lang", "en");
    check_int(o, "lag_ms", 840);
    const json_t *words = json_object_get(o, "words");
    assert_int_equal(json_array_size(words), 2);
    char joined[64];
    snprintf(joined, sizeof(joined), "%s%s",
             json_string_value(json_object_get(json_array_get(words, 0), "w")),
             json_string_value(json_object_get(json_array_get(words, 1), "w")));
    assert_string_equal(joined, e.text);
    check_int(json_array_get(words, 1), "start_ms", 81410);
    assert_float_equal(json_real_value(json_object_get(json_array_get(words, 0), "p")), 0.97, 1e-6);
    json_decref(o);
}

/* With pace fast there is no lag to tell. */
static void leaves_out_what_is_unknown(void **state)
{
    struct event e = commit_event();
    e.lag_ms = -1;
    e.language[0] = '\0';
    json_t *o = parse(protocol_write_event(line, sizeof(line), &e, 1, "mic", (struct protocol_text){0}));
    assert_null(json_object_get(o, "lag_ms"));
    assert_null(json_object_get(o, "lang"));
    json_decref(o);
}

static void writes_a_partial_without_seq(void **state)
{
    struct event e = {.type = EVENT_PARTIAL, .utt = 7, .rev = 3, .start_ms = 1, .end_ms = 2};
    strcpy(e.text, " fellow Amer");
    json_t *o = parse(protocol_write_event(line, sizeof(line), &e, 0, "mic", (struct protocol_text){0}));
    check_string(o, "type", "partial");
    assert_null(json_object_get(o, "seq"));
    check_int(o, "rev", 3);
    check_string(o, "text", " fellow Amer");
    json_decref(o);
}

static void writes_final_gap_and_status(void **state)
{
    struct event e = {.type = EVENT_FINAL, .utt = 7, .start_ms = 5, .end_ms = 9, .reason = FINAL_MAX_LEN};
    json_t *o = parse(protocol_write_event(line, sizeof(line), &e, 2, "a",
                                           (struct protocol_text){.text = " one two", .n = 8}));
    check_string(o, "text", " one two");
    check_string(o, "reason", "max_len");
    assert_null(json_object_get(o, "truncated"));
    json_decref(o);

    e = (struct event){.type = EVENT_GAP, .start_ms = 90000, .lost_ms = 500, .cause = GAP_OVERLOAD};
    o = parse(protocol_write_event(line, sizeof(line), &e, 3, "a", (struct protocol_text){0}));
    check_string(o, "cause", "overload");
    check_int(o, "lost_ms", 500);
    json_decref(o);

    e = (struct event){.type = EVENT_STATUS, .state = STREAM_NO_DEVICE, .rtf = 0.14f, .level_db = -50.0f};
    strcpy(e.device,
           "M\xFCller \x01 mic"); /* Latin-1 and a control character, as a sound card may be called */
    strcpy(e.message, "gone");
    o = parse(protocol_write_event(line, sizeof(line), &e, 4, "a", (struct protocol_text){0}));
    check_string(o, "state", "no_device");
    assert_null(json_object_get(o, "t0_unix_ms"));
    check_string(o, "device", "M\xEF\xBF\xBDller \x01 mic");
    check_string(o, "message", "gone");
    json_decref(o);

    e.t0_unix_ms = 1700000000000;
    o = parse(protocol_write_event(line, sizeof(line), &e, 4, "a", (struct protocol_text){0}));
    check_int(o, "t0_unix_ms", 1700000000000);
    json_decref(o);
}

/* The longest event there can be, all of it escaped, still fits: 0 would lose it. */
static void fits_the_longest_line(void **state)
{
    static char text[PROTOCOL_TEXT_MAX];
    struct event e = commit_event();
    memset(text, 1, sizeof(text));
    memset(e.text, 1, EVENT_TEXT_MAX - 1);
    e.n_words = EVENT_WORDS_MAX;
    for (int i = 0; i < EVENT_WORDS_MAX; i++)
        e.words[i] = (struct event_word){(uint16_t)(i * 15), 15, INT64_MIN, INT64_MIN, 1.0f};
    json_decref(
        parse(protocol_write_event(line, sizeof(line), &e, INT64_MAX, "stream", (struct protocol_text){0})));
    e.type = EVENT_FINAL;
    json_t *o = parse(protocol_write_event(line, sizeof(line), &e, INT64_MAX, "stream",
                                           (struct protocol_text){text, sizeof(text), true}));
    assert_int_equal(json_string_length(json_object_get(o, "text")), sizeof(text));
    assert_true(json_is_true(json_object_get(o, "truncated")));
    json_decref(o);
}

static void tells_a_buffer_too_small(void **state)
{
    struct event e = commit_event();
    size_t n = protocol_write_event(line, sizeof(line), &e, 1, "mic", (struct protocol_text){0});
    char small[1024];
    assert_int_equal(protocol_write_event(small, n, &e, 1, "mic", (struct protocol_text){0}), 0);
    assert_int_equal(protocol_write_event(small, n + 1, &e, 1, "mic", (struct protocol_text){0}), n);
}

static void writes_hello_and_the_rest(void **state)
{
    const char *streams[] = {"mic", "monitor"};
    const struct protocol_hello hello = {.session = "s",
                                         .model = "tiny.en",
                                         .engine = "host f32",
                                         .seq = 41,
                                         .oldest_seq = 3,
                                         .t0_unix_ms = 1700000000000,
                                         .streams = streams,
                                         .n_streams = 2};
    json_t *o = parse(protocol_write_hello(line, sizeof(line), &hello));
    check_string(o, "type", "hello");
    check_int(o, "v", 1);
    check_int(o, "seq", 41);
    check_int(o, "oldest_seq", 3);
    check_int(o, "t0_unix_ms", 1700000000000);
    check_string(o, "policy", "la2");
    assert_string_equal(json_string_value(json_array_get(json_object_get(o, "streams"), 1)), "monitor");
    json_decref(o);
    o = parse(protocol_write_missed(line, sizeof(line), 3, 17));
    check_int(o, "from_seq", 3);
    check_int(o, "to_seq", 17);
    json_decref(o);
    o = parse(protocol_write_error(line, sizeof(line), "pause", "a \"b\""));
    check_string(o, "cmd", "pause");
    check_string(o, "message", "a \"b\"");
    json_decref(o);
    o = parse(protocol_write_bye(line, sizeof(line), "shutdown", "m"));
    check_string(o, "reason", "shutdown");
    json_decref(o);
}

static const char *const names[] = {"mic", "monitor"};

static int parse_request(const char *text, struct request *r, struct err *err)
{
    return protocol_parse_request(text, strlen(text), names, 2, r, err);
}

static void parses_requests(void **state)
{
    struct request r;
    struct err err;
    assert_int_equal(parse_request("{\"cmd\":\"subscribe\",\"from_seq\":44,\"types\":[\"commit\",\"final\"],"
                                   "\"streams\":[\"monitor\"],\"session\":\"ab\"}",
                                   &r, &err),
                     0);
    assert_int_equal(r.cmd, REQUEST_SUBSCRIBE);
    assert_int_equal(r.from_seq, 44);
    assert_int_equal(r.types, 1u << MESSAGE_COMMIT | 1u << MESSAGE_FINAL);
    assert_int_equal(r.streams, 2);
    assert_string_equal(r.session, "ab");
    assert_int_equal(parse_request(" {\"cmd\" : \"pause\"} ", &r, &err), 0);
    assert_int_equal(r.cmd, REQUEST_PAUSE);
    assert_int_equal(r.from_seq, -1);
    assert_int_equal(r.types, ~0u);
    assert_int_equal(r.streams, ~0u);
    assert_int_equal(parse_request("{\"cmd\":\"set\",\"key\":\"language\",\"value\":\"de\"}", &r, &err), 0);
    assert_int_equal(r.cmd, REQUEST_SET);
    assert_string_equal(r.key, "language");
    assert_string_equal(r.value, "de");
    assert_int_equal(parse_request("{\"cmd\":\"set\"}", &r, &err), 0);
    assert_string_equal(r.key, "");
    assert_string_equal(r.value, "");
}

/* A value may be empty, and as long as a prompt. */
static void takes_values_of_any_length(void **state)
{
    char text[PROTOCOL_REQUEST_MAX], value[PROTOCOL_VALUE_MAX + 1];
    struct request r;
    struct err err = {0};
    assert_int_equal(parse_request("{\"cmd\":\"set\",\"key\":\"prompt\",\"value\":\"\"}", &r, &err), 0);
    assert_string_equal(r.key, "prompt");
    assert_string_equal(r.value, "");
    for (size_t n = PROTOCOL_VALUE_MAX - 1; n <= PROTOCOL_VALUE_MAX; n++) {
        memset(value, 'x', n);
        value[n] = '\0';
        snprintf(text, sizeof(text), "{\"cmd\":\"set\",\"key\":\"prompt\",\"value\":\"%s\"}", value);
        assert_int_equal(parse_request(text, &r, &err), n < PROTOCOL_VALUE_MAX ? 0 : -ENOTSUP);
        assert_int_equal(strlen(r.value), PROTOCOL_VALUE_MAX - 1);
    }
    assert_string_equal(err.msg, "\"value\" must be a string of 0 to 2047 bytes");
}

/* Each is refused with the code that tells "garbage" from "not this", a message and, if it is known, what was
 * asked; else the request is untouched. */
static void refuses_bad_requests(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *says;
        enum request_cmd cmd;
    } cases[] = {
        {"", -EINVAL, "not JSON", REQUEST_UNKNOWN},
        {"hello", -EINVAL, "not JSON", REQUEST_UNKNOWN},
        {"[1,2]", -EINVAL, "one JSON object", REQUEST_UNKNOWN},
        {"{\"cmd\":\"subscribe\"", -EINVAL, "not JSON", REQUEST_UNKNOWN},
        {"{\"cmd\":\"subscribe\",\"cmd\":\"subscribe\"}", -EINVAL, "not JSON", REQUEST_UNKNOWN},
        {"{\"cmd\":\"\xFF\"}", -EINVAL, "not JSON", REQUEST_UNKNOWN},
        {"{}", -ENOTSUP, "\"cmd\"", REQUEST_UNKNOWN},
        {"{\"cmd\":1}", -ENOTSUP, "\"cmd\"", REQUEST_UNKNOWN},
        {"{\"cmd\":\"sing\"}", -ENOTSUP, "unknown cmd", REQUEST_UNKNOWN},
        {"{\"cmd\":\"subscribe\",\"types\":[]}", -ENOTSUP, "\"types\" is empty", REQUEST_SUBSCRIBE},
        {"{\"cmd\":\"subscribe\",\"from_sec\":1}", -ENOTSUP, "takes no \"from_sec\"", REQUEST_SUBSCRIBE},
        {"{\"cmd\":\"subscribe\",\"from_seq\":\"1\"}", -ENOTSUP, "from_seq", REQUEST_SUBSCRIBE},
        {"{\"cmd\":\"subscribe\",\"from_seq\":-1}", -ENOTSUP, "from_seq", REQUEST_SUBSCRIBE},
        {"{\"cmd\":\"subscribe\",\"from_seq\":1e3}", -ENOTSUP, "from_seq", REQUEST_SUBSCRIBE},
        {"{\"cmd\":\"subscribe\",\"types\":\"commit\"}", -ENOTSUP, "types", REQUEST_SUBSCRIBE},
        {"{\"cmd\":\"subscribe\",\"types\":[\"hello\"]}", -ENOTSUP, "no \"hello\"", REQUEST_SUBSCRIBE},
        {"{\"cmd\":\"subscribe\",\"streams\":[\"mice\"]}", -ENOTSUP, "no \"mice\"", REQUEST_SUBSCRIBE},
        {"{\"cmd\":\"pause\",\"from_seq\":1}", -ENOTSUP, "pause takes no", REQUEST_PAUSE},
        {"{\"cmd\":\"status\",\"streams\":[]}", -ENOTSUP, "status takes no", REQUEST_STATUS},
        {"{\"cmd\":\"status\",\"key\":\"task\"}", -ENOTSUP, "status takes no", REQUEST_STATUS},
        {"{\"cmd\":\"set\",\"key\":\"task\"}", -ENOTSUP, "both", REQUEST_SET},
        {"{\"cmd\":\"set\",\"value\":\"de\"}", -ENOTSUP, "both", REQUEST_SET},
        {"{\"cmd\":\"set\",\"key\":\"\",\"value\":\"\"}", -ENOTSUP, "\"key\" must be a string", REQUEST_SET},
        {"{\"cmd\":\"set\",\"key\":\"clients-max\",\"value\":5}", -ENOTSUP, "\"value\" must be a string",
         REQUEST_SET},
        {"{\"cmd\":\"set\",\"value\":\"x\",\"key\":"
         "\"0123456789012345678901234567890123456789012345678901234567890123\"}",
         -ENOTSUP, "\"key\" must be a string of 1 to 63", REQUEST_SET},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct request r = {.cmd = REQUEST_DEVICES, .from_seq = 4711};
        struct err err = {0};
        int code = parse_request(cases[i].text, &r, &err);
        if (code != cases[i].code || !strstr(err.msg, cases[i].says))
            fail_msg("%s: %d %s", cases[i].text, code, err.msg);
        assert_int_equal(r.cmd, cases[i].cmd);
        assert_int_equal(r.from_seq, 4711);
    }
}

/* Random bytes and nesting never do more than fail. */
static void survives_garbage(void **state)
{
    struct test_rng rng;
    static const char alphabet[] = "{}[]\":,\\u0cmdsubscribe \xC3\xFF\x00";
    char text[PROTOCOL_REQUEST_MAX];
    struct request r;
    test_rng_init(&rng, 2);
    for (int k = 0; k < 3000; k++) {
        int n = test_rng_int(&rng, 0, 64);
        for (int i = 0; i < n; i++)
            text[i] = alphabet[test_rng_int(&rng, 0, sizeof(alphabet) - 1)];
        protocol_parse_request(text, (size_t)n, names, 2, &r, NULL);
    }
    memset(text, '[', sizeof(text));
    assert_int_equal(protocol_parse_request(text, sizeof(text), names, 2, &r, NULL), -EINVAL);
}

/* Whatever an error's text is made of, the last line of a connection is whole. */
static void says_goodbye_with_any_error(void **state)
{
    struct err err;
    char text[ERR_MSG_MAX];
    memset(text, '\001', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    err_set(&err, -EINVAL, "%s", text);
    struct message *m = message_bye("error", err.msg);
    assert_non_null(m);
    json_t *o = json_loadb(m->data, m->size, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(o, "type")), "bye");
    assert_string_equal(json_string_value(json_object_get(o, "message")), text);
    json_decref(o);
    message_unref(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_a_commit),
        cmocka_unit_test(leaves_out_what_is_unknown),
        cmocka_unit_test(writes_a_partial_without_seq),
        cmocka_unit_test(writes_final_gap_and_status),
        cmocka_unit_test(fits_the_longest_line),
        cmocka_unit_test(tells_a_buffer_too_small),
        cmocka_unit_test(writes_hello_and_the_rest),
        cmocka_unit_test(parses_requests),
        cmocka_unit_test(takes_values_of_any_length),
        cmocka_unit_test(refuses_bad_requests),
        cmocka_unit_test(survives_garbage),
        cmocka_unit_test(says_goodbye_with_any_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
