/* The line that a service manager shows. */
#include "tests/support/support.h"

#include <string.h>

#include "daemon/hub.h"
#include "daemon/service_status.h"

static const char *const names[] = {"mic", "monitor"};

static void publish(struct hub *hub, int stream, enum stream_state state, const char *device,
                    const char *message)
{
    struct event e = {.type = EVENT_STATUS, .stream = stream, .state = state};
    strcpy(e.device, device);
    strcpy(e.message, message);
    hub_publish(hub, &e);
}

/* It stays there until something changes, and that somebody speaks is over by then. */
static void a_line_is_true_for_longer_than_a_word(void **state)
{
    struct hub hub;
    struct stats stats = {0};
    struct err err;
    char line[400];
    const struct hub_options options = {.stream_names = names,
                                        .n_streams = 2,
                                        .history_events = 16,
                                        .history_bytes = 1 << 20,
                                        .stats = &stats};
    assert_int_equal(hub_init(&hub, &options, &err), 0);
    hub.model = "base";
    hub.engine = "host";
    publish(&hub, 0, STREAM_SPEECH, "Built-in", "");
    publish(&hub, 1, STREAM_NO_DEVICE, "Other", "it is gone");
    service_status_line(&hub, line, sizeof(line));
    assert_string_equal(line, "base on host; mic: listening (Built-in); monitor: no_device (it is gone)");
    hub_finish(&hub);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_is_true_for_longer_than_a_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
