/* Settings that change while the daemon runs: by a reload of the configuration, or one at a time by a client. */
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/service_state.h"

/* Takes the value of one key from another configuration. */
static void take_setting(struct service *s, struct config *from, const struct config_key *key)
{
    char value[CONFIG_VALUE_MAX];
    config_swap(s->config, from, key);
    if (key->offset == offsetof(struct config, language))
        s->language_choice++;
    s->decoding_changes |= key->decoding;
    config_value(s->config, key, 0, value, sizeof(value));
    if (key->type == CONFIG_TEXT)
        log_info("%s has changed", key->name); /* names of people, perhaps */
    else
        log_info("%s is now %s", key->name, value);
}

static void apply_decoding_settings(struct service *s)
{
    struct live_settings settings;
    struct err err;
    if (pipeline_settings(&s->pipeline, s->config, &settings, &err) < 0) {
        log_error("%s", err.msg);
        return;
    }
    settings.language_choice = s->language_choice;
    captioner_set(s->pipeline.captioner, &settings);
    s->decoding_changes = false;
}

static void apply_live_settings(struct service *s)
{
    const struct config *c = s->config;
    if (s->decoding_changes)
        apply_decoding_settings(s);
    log_set_level((enum log_level)c->log_level);
    subscribers_allow(&s->subscribers, c->clients_max);
    s->subscribers.timeout_ms = s->control.timeout_ms = c->client_timeout_ms;
    if (journal_resize(&s->hub.journal, c->history_events, (size_t)c->history_kib * 1024) < 0)
        log_error("out of memory for a longer history: it stays as it was");
}

void service_reload(struct service *s)
{
    struct config fresh;
    struct err err;
    enum config_action action;
    int n_keys;
    const struct config_key *keys = config_keys(&n_keys);
    notify_reloading();
    if (config_load(&fresh, s->argc, s->argv, &action, &err) < 0) {
        log_error("the configuration stays as it was: %s", err.msg);
        notify_ready();
        return;
    }
    struct live_settings settings;
    pipeline_fit(&s->pipeline, &fresh);
    bool decodable = pipeline_settings(&s->pipeline, &fresh, &settings, &err) == 0;
    if (!decodable)
        log_error("the settings of decoding stay as they were: %s%s%s", fresh.file ? fresh.file : "",
                  fresh.file ? ": " : "", err.msg);
    for (int i = 0; i < n_keys; i++) {
        if (!config_differs(s->config, &fresh, &keys[i]))
            continue;
        if (!keys[i].live)
            log_warning("%s has changed: it takes effect after a restart", keys[i].name);
        else if (decodable || !keys[i].decoding)
            take_setting(s, &fresh, &keys[i]);
    }
    char *file = s->config->file; /* another may be there now, or none any more */
    s->config->file = fresh.file;
    fresh.file = file;
    config_finish(&fresh);
    apply_live_settings(s);
    log_info("configuration reread%s%s%s", s->config->file ? " from " : "",
             s->config->file ? s->config->file : "", decodable ? "" : ", all but the settings of decoding");
    notify_ready();
}

int service_set(struct service *s, const char *name, const char *value, struct err *err)
{
    struct config fresh = {0};
    struct live_settings settings;
    const struct config_key *key;
    int r = config_set_live(&fresh, name, value, &key, err);
    if (r == 0) {
        config_swap(s->config, &fresh, key);
        r = pipeline_settings(&s->pipeline, s->config, &settings, err);
        config_swap(s->config, &fresh, key);
    }
    if (r == 0) {
        take_setting(s, &fresh, key);
        apply_live_settings(s);
    }
    config_finish(&fresh);
    return r;
}

void service_write_settings(const struct service *s, struct jsonl *j)
{
    int n;
    const struct config_key *keys = config_keys(&n);
    for (int i = 0; i < n; i++) {
        char value[CONFIG_VALUE_MAX];
        if (!keys[i].live)
            continue;
        config_value(s->config, &keys[i], 0, value, sizeof(value));
        jsonl_string(j, keys[i].name, value);
    }
}
