#include "tools/control_call.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "daemon/base/clock.h"
#include "daemon/protocol.h"
#include "tools/line_socket.h"

#define TIMEOUT_MS 15000

/* --- the answer in words ------------------------------------------------------------------------------------- */

static const char *string_of(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static int64_t integer_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static void print_duration(int64_t ms)
{
    int64_t s = ms / 1000;
    if (s >= 86400)
        printf("%" PRId64 " d ", s / 86400);
    if (s >= 3600)
        printf("%" PRId64 " h ", s / 3600 % 24);
    if (s >= 60)
        printf("%" PRId64 " min", s / 60 % 60);
    else
        printf("%" PRId64 " s", s);
}

static void print_stream(const json_t *s)
{
    const char *message = string_of(s, "message"), *device = string_of(s, "device");
    printf("%-10s %s", string_of(s, "stream"), string_of(s, "state"));
    if (device[0])
        printf(", %s", device);
    if (message[0])
        printf(" (%s)", message);
    printf("\n           level %.0f dB, %.1f s waiting, real-time factor %.2f", number_of(s, "level_db"),
           number_of(s, "queue_ms") / 1000.0, number_of(s, "rtf"));
    if (integer_of(s, "overruns"))
        printf(", %.1f s lost that nobody took in time", (double)integer_of(s, "overruns") / 16000.0);
    printf("\n");
}

static void print_status(const json_t *reply)
{
    const json_t *counters = json_object_get(reply, "counters"),
                 *lag = json_object_get(reply, "commit_lag_ms");
    size_t i;
    json_t *stream;
    printf("captiond   %s, process %" PRId64 ", up ", string_of(reply, "version"), integer_of(reply, "pid"));
    print_duration(integer_of(reply, "uptime_ms"));
    printf(", %.0f MiB\nmodel      %s on %s\nlanguage   %s%s\n", number_of(reply, "rss_kib") / 1024.0,
           string_of(reply, "model"), string_of(reply, "engine"), string_of(reply, "language"),
           strcmp(string_of(reply, "task"), "translate") == 0 ? ", translated into English" : "");
    json_array_foreach(json_object_get(reply, "streams"), i, stream)
    {
        print_stream(stream);
    }
    int64_t finals = integer_of(counters, "finals");
    printf("captions   %" PRId64 " words in %" PRId64 " utterance%s", integer_of(counters, "words"), finals,
           finals == 1 ? "" : "s");
    if (integer_of(lag, "n"))
        printf("; latency %.1f s (median), %.1f s (99 %%)", number_of(lag, "p50") / 1000.0,
               number_of(lag, "p99") / 1000.0);
    printf("\n");
    if (integer_of(counters, "gaps"))
        printf("gaps       %" PRId64 ", %.1f s of sound not transcribed\n", integer_of(counters, "gaps"),
               number_of(counters, "lost_ms") / 1000.0);
    printf("clients    %" PRId64 " now, %" PRId64 " in all", integer_of(reply, "clients"),
           integer_of(counters, "clients_total"));
    if (integer_of(counters, "clients_slow"))
        printf(", %" PRId64 " disconnected as too slow", integer_of(counters, "clients_slow"));
    printf("\nhistory    events %" PRId64 " to %" PRId64 ", %.0f KiB\n", integer_of(reply, "oldest_seq"),
           integer_of(reply, "seq"), number_of(reply, "history_bytes") / 1024.0);
}

static void print_devices(const json_t *reply)
{
    size_t i;
    json_t *device;
    const json_t *devices = json_object_get(reply, "devices");
    if (json_array_size(devices) == 0)
        printf("The daemon finds no sound devices.\n");
    json_array_foreach(devices, i, device)
    {
        printf("%s %s  (%s, %" PRId64 " channel%s, %" PRId64 " Hz%s)\n",
               json_is_true(json_object_get(device, "default")) ? "*" : " ", string_of(device, "name"),
               string_of(device, "host_api"), integer_of(device, "channels"),
               integer_of(device, "channels") == 1 ? "" : "s", integer_of(device, "default_rate"),
               json_is_true(json_object_get(device, "monitor")) ? ", what the computer plays" : "");
    }
}

static void print_settings(const json_t *reply)
{
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(reply, "settings"), key, value)
    {
        printf("%s = %s\n", key, json_string_value(value) ? json_string_value(value) : "");
    }
}

/* `set` says what is set only where nothing was to be changed. */
static int print_reply(const char *line, const json_t *reply, const char *command, const char *setting,
                       bool json)
{
    if (json)
        printf("%s\n", line);
    else if (strcmp(command, "status") == 0)
        print_status(reply);
    else if (strcmp(command, "devices") == 0)
        print_devices(reply);
    else if (strcmp(command, "set") == 0 && !setting)
        print_settings(reply);
    return fflush(stdout) == 0 || errno == EPIPE ? 0 : -errno;
}

/* --- the call ------------------------------------------------------------------------------------------------ */

static int send_request(struct line_socket *s, const char *command, const char *stream, const char *setting,
                        struct err *err)
{
    bool takes_stream = strcmp(command, "pause") == 0 || strcmp(command, "resume") == 0;
    size_t key = setting ? strcspn(setting, "=") : 0;
    json_t *request = setting ? json_pack("{s:s, s:s%, s:s}", "cmd", command, "key", setting, key, "value",
                                          setting + key + 1)
                      : stream && takes_stream ? json_pack("{s:s, s:[s]}", "cmd", command, "streams", stream)
                                               : json_pack("{s:s}", "cmd", command);
    return line_socket_send(s, request, setting ? setting : "the stream's name", err);
}

/* Waits for a line. 1, or a negative errno. */
static int wait_line(struct line_socket *s, char **line, size_t *n, struct err *err)
{
    int64_t deadline_ns = clock_now_ns() + TIMEOUT_MS * 1000000LL;
    for (;;) {
        int r = line_socket_read(s, line, n, err);
        if (r != 0)
            return r;
        int64_t left_ms = (deadline_ns - clock_now_ns()) / 1000000;
        struct pollfd in = {.fd = s->fd, .events = POLLIN};
        if (left_ms <= 0)
            return err_set(err, -ETIMEDOUT, "the daemon does not answer");
        if (poll(&in, 1, (int)left_ms) < 0 && errno != EINTR)
            return err_set(err, -errno, "poll: %s", strerror(errno));
    }
}

static int call(struct line_socket *s, const char *command, const char *stream, const char *setting,
                bool json, struct err *err)
{
    char *line = NULL;
    size_t n = 0;
    int r = send_request(s, command, stream, setting, err);
    if (r == 0)
        r = wait_line(s, &line, &n, err);
    if (r < 0)
        return r;
    json_t *reply = json_loadb(line, n, 0, NULL);
    const char *type = string_of(reply, "type");
    if (strcmp(type, "reply") == 0) {
        r = print_reply(line, reply, command, setting, json);
        if (r < 0)
            err_set(err, r, "standard output: %s", strerror(-r));
    } else if (strcmp(type, "error") == 0 || strcmp(type, "bye") == 0) {
        r = err_set(err, -EREMOTEIO, "%s", string_of(reply, "message"));
    } else {
        r = err_set(err, -EPROTO, "what answers there is not captiond");
    }
    json_decref(reply);
    return r;
}

int control_call(const char *path, const char *command, const char *stream, const char *setting, bool json,
                 struct err *err)
{
    struct line_socket s;
    line_socket_init(&s, PROTOCOL_LINE_MAX);
    int r = line_socket_connect(&s, path, err);
    if (r == -ENOENT || r == -ECONNREFUSED)
        r = err_set(err, -ENOTCONN, "no captiond is listening at %s", path);
    if (r == 0)
        r = call(&s, command, stream, setting, json, err);
    if (r == -EPIPE)
        r = err->code = -ENOTCONN;
    line_socket_finish(&s);
    return r;
}
