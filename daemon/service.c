#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "daemon/log.h"
#include "daemon/model_path.h"
#include "daemon/notify.h"
#include "daemon/service_state.h"
#include "daemon/service_status.h"

/* A stop on a signal, in milliseconds from it: the captioner is given until FINISH_MS for the last words, what it has
 * not decoded is written off at GIVE_UP_MS, and the process is gone at EXIT_MS whatever else still waits. */
#define FINISH_MS  1300
#define GIVE_UP_MS 1600
#define EXIT_MS    1900

static void take_events(struct service *);

/* --- the end ------------------------------------------------------------------------------------------------- */

/* Some wrong settings show only with the model: its languages, how many tokens a prompt has. */
static enum exit_status exit_status(const struct service *s)
{
    return s->status >= 0 ? EXIT_OK : s->pipeline.refused ? EXIT_USAGE : EXIT_RUNTIME;
}

/* Words that a sleeping reader of standard output never took change no status, like those of a gap: the stop was asked for and
 * went well, and a service manager would call the service failed. */
static void exit_now(struct service *s, enum exit_status status)
{
    printer_give_up(&s->printer);
    listener_close(&s->captions_socket);
    listener_close(&s->control_socket);
    _exit(status);
}

/* Only what still has to be written keeps the loop alive from here on. */
static void end_phase(struct service *s, const char *message)
{
    const char *reason = s->failure[0] ? "error" : s->hurried ? "shutdown" : "end";
    if (s->failure[0])
        message = s->failure;
    s->phase = PHASE_ENDING;
    subscribers_end(&s->subscribers, reason, message);
    printer_end(&s->printer, reason, message);
    control_close(&s->control);
    uv_unref((uv_handle_t *)&s->on_term);
    uv_unref((uv_handle_t *)&s->on_int);
    uv_unref((uv_handle_t *)&s->on_hup);
    uv_unref((uv_handle_t *)&s->wake);
    uv_unref((uv_handle_t *)&s->deadline);
    uv_timer_stop(&s->watchdog);
    uv_timer_stop(&s->subscribers.greeting);
}

/* The captioner did not make it in time: what it has not decoded is said to be lost. */
static void give_up(struct service *s, int64_t *undecoded_ms)
{
    int64_t heard_ms[STREAMS_MAX];
    s->unfinished = true;
    pipeline_heard_ms(&s->pipeline, heard_ms);
    for (int i = 0; i < s->hub.n_streams; i++) {
        heard_ms[i] += s->hub.streams[i].skipped_ms;
        if (undecoded_ms[i] >= 0)
            undecoded_ms[i] += s->hub.streams[i].skipped_ms;
    }
    hub_close_utterances(&s->hub, undecoded_ms, heard_ms);
    hub_poke(&s->hub);
    end_phase(s, "captiond is stopping");
}

/* With what is not decoded behind them. The captioner goes on meanwhile, so that is looked at until it stays. */
static void take_all_events(struct service *s, int64_t *undecoded_ms)
{
    int64_t before_ms[STREAMS_MAX];
    do {
        pipeline_undecoded_ms(&s->pipeline, before_ms);
        take_events(s);
        pipeline_undecoded_ms(&s->pipeline, undecoded_ms);
    } while (memcmp(before_ms, undecoded_ms, (size_t)s->hub.n_streams * sizeof(*before_ms)) != 0);
}

static void on_deadline(uv_timer_t *timer)
{
    struct service *s = timer->data;
    if (s->phase == PHASE_STOPPING) {
        uv_timer_start(timer, on_deadline, EXIT_MS - GIVE_UP_MS, 0);
        int64_t undecoded_ms[STREAMS_MAX];
        take_all_events(s, undecoded_ms); /* the captioner may have finished while this loop was busy */
        if (s->phase == PHASE_STOPPING)
            give_up(s, undecoded_ms);
    } else {
        exit_now(s, exit_status(s));
    }
}

static void work_stop_inputs(uv_work_t *work)
{
    struct service *s = work->data;
    pipeline_stop_inputs(&s->pipeline, FINISH_MS);
}

/* Begins the end. At the end of a recording it has no deadline, since the words are all there and only have to be read,
 * unless it is given one later. */
static void begin_stop(struct service *s, bool hurried)
{
    bool loading = s->phase == PHASE_LOADING;
    if (hurried && !s->hurried) {
        s->hurried = true;
        uv_timer_start(&s->deadline, on_deadline, loading || s->phase == PHASE_ENDING ? EXIT_MS : GIVE_UP_MS,
                       0);
        uv_async_send(&s->wake); /* nobody waits for standard output any more */
    }
    if (s->phase >= PHASE_STOPPING)
        return;
    s->phase = PHASE_STOPPING;
    notify_stopping();
    listener_close(&s->captions_socket);
    listener_close(&s->control_socket);
    if (loading || !s->opened) {
        end_phase(s, "captiond is stopping");
        return;
    }
    pipeline_stop(&s->pipeline, clock_now_ns() + FINISH_MS * NS_A_MS);
    uv_queue_work(&s->loop, &s->stop_inputs, work_stop_inputs, NULL);
    uv_async_send(&s->wake); /* a captioner that never started has finished, and nobody else says so */
}

/* --- events -------------------------------------------------------------------------------------------------- */

static void tell_manager(const struct service *s)
{
    char text[400];
    service_status_line(&s->hub, text, sizeof(text));
    notify_status("%s", text);
}

/* What the log and the service manager hear about a stream: changes of its device, and of the reason why there is none,
 * never words. */
static void report_state(struct service *s, int stream)
{
    const struct event *e = &s->hub.streams[stream].status;
    enum stream_state state = e->state == STREAM_SPEECH ? STREAM_LISTENING : e->state;
    const char *reason = state == STREAM_NO_DEVICE || state == STREAM_SILENT ? e->message : "";
    if (state == s->state_logged[stream] && strcmp(reason, s->reason_logged[stream]) == 0)
        return;
    s->state_logged[stream] = state;
    snprintf(s->reason_logged[stream], sizeof(s->reason_logged[stream]), "%s", reason);
    const char *name = s->names[stream], *state_name = protocol_state_name(state);
    if (state == STREAM_ENDED && pipeline_input_failed(&s->pipeline, stream)) {
        log_error("%s: %s", name, e->message);
        s->status = s->config->once ? -EIO : s->status;
    } else if (state == STREAM_NO_DEVICE)
        log_warning("%s: %s: %s", name, state_name, e->message);
    else if (state == STREAM_SILENT) /* muted, or nothing is played: somebody's wish */
        log_info("%s: %s: %s", name, state_name, e->message);
    else
        log_info("%s: %s%s%s", name, state_name, e->device[0] ? ", " : "", e->device);
    tell_manager(s);
}

/* Only a new process gets the device back. */
static void fail_on_stuck_input(struct service *s, int stream)
{
    snprintf(s->failure, sizeof(s->failure), "%s: %s", s->names[stream],
             s->hub.streams[stream].status.message);
    log_error("%s: captiond ends, as only another one can open it again", s->failure);
    s->status = -ETIMEDOUT;
    begin_stop(s, true);
}

/* What is said in a pause is left out because somebody wants it so. */
static void report_gap(const struct service *s, const struct event *e)
{
    if (e->cause == GAP_PAUSE)
        log_info("%s: %lld ms were not captioned (%s)", s->names[e->stream], (long long)e->lost_ms,
                 protocol_cause_name(e->cause));
    else
        log_warning("%s: %lld ms of sound are lost (%s)", s->names[e->stream], (long long)e->lost_ms,
                    protocol_cause_name(e->cause));
}

static void take_event(struct service *s, const struct event *event)
{
    if (event->type == EVENT_GAP)
        report_gap(s, event);
    hub_publish(&s->hub, event);
    if (event->type != EVENT_STATUS)
        return;
    if (pipeline_stuck(&s->pipeline, event->stream) && s->phase == PHASE_RUNNING)
        fail_on_stuck_input(s, event->stream);
    else
        report_state(s, event->stream);
}

/* A source that can wait does so for standard output. A live one, or an end with a deadline, cannot: then the printer
 * reads what the history still has. */
static bool must_wait(const struct service *s)
{
    return s->config->pace == PACE_FAST && !s->hurried && !pipeline_is_live(&s->pipeline) &&
           printer_full(&s->printer);
}

/* Without an engine there are no captions. */
static void look_at_engine(struct service *s)
{
    struct err err;
    const char *engine = pipeline_engine_name(&s->pipeline);
    if (engine != s->hub.engine) {
        s->hub.engine = engine;
        tell_manager(s);
    }
    if (s->phase != PHASE_RUNNING || !pipeline_failed(&s->pipeline, &err))
        return;
    snprintf(s->failure, sizeof(s->failure), "%s", err.msg);
    log_error("%s", s->failure);
    s->status = -EIO;
    begin_stop(s, true);
}

/* Takes what the captioner has queued. */
static void take_events(struct service *s)
{
    struct event event;
    bool ended = captioner_ended(s->pipeline.captioner), finished = captioner_finished(s->pipeline.captioner);
    for (int n = 1; n > 0;) {
        for (n = 0; !must_wait(s) && captioner_next_event(s->pipeline.captioner, &event); n++)
            take_event(s, &event);
        hub_poke(&s->hub);
    }
    /* The flags were read before the queue was found empty: nothing can follow. */
    if (must_wait(s))
        return;
    if (s->phase == PHASE_RUNNING && ended && s->config->once)
        begin_stop(s, false);
    else if (s->phase == PHASE_STOPPING && finished)
        end_phase(s, s->hurried ? "captiond is stopping" : "the input has ended");
}

static void on_wake(uv_async_t *async)
{
    struct service *s = async->data;
    if (s->opened)
        look_at_engine(s);
    if (s->opened && (s->phase == PHASE_RUNNING || s->phase == PHASE_STOPPING))
        take_events(s);
}

/* Any thread. */
static void wake_loop(void *ctx)
{
    uv_async_send(&((struct service *)ctx)->wake);
}

static void on_printed(void *ctx)
{
    struct service *s = ctx;
    bool sockets = s->captions_socket.open || s->control_socket.open;
    if (s->printer.failed)
        s->status = s->printer.failed;
    if (s->printer.gone && s->phase == PHASE_RUNNING) {
        if (!sockets)
            begin_stop(s, true);
        else if (!s->printer.failed)
            log_info("nobody reads standard output any more: captions go on on the socket");
    }
    on_wake(&s->wake);
}

/* --- signals ------------------------------------------------------------------------------------------------- */

/* timeout(1), and a shell that passes on what its terminal has sent, signal the process and then its group: one signal. */
enum { ECHO_MS = 300 };

static void on_stop_signal(uv_signal_t *handle, int signum)
{
    struct service *s = handle->data;
    int64_t now_ns = clock_now_ns();
    if (s->stop_asked && (signum != s->stop_signal || now_ns - s->stop_ns > ECHO_MS * NS_A_MS)) {
        log_warning("second signal: ending at once");
        exit_now(s, EXIT_RUNTIME);
    }
    if (s->stop_asked)
        return;
    s->stop_asked = true;
    s->stop_signal = signum;
    s->stop_ns = now_ns;
    log_info("stopping on signal %d", signum);
    begin_stop(s, true);
}

static void on_reload_signal(uv_signal_t *handle, int signum)
{
    struct service *s = handle->data;
    /* The signal of a terminal that has been closed, under which nobody sees any more that the microphone is open. Both
     * the shell and the kernel send it: it never is a second signal. */
    if (s->terminal && !isatty(STDERR_FILENO)) {
        if (!s->stop_asked)
            on_stop_signal(handle, signum);
    } else if (s->phase == PHASE_RUNNING) {
        service_reload(s);
    }
    s->reload_due = s->phase == PHASE_LOADING;
}

/* The loop lives, or this would not run; the captioner does if its counter moves, in a pause or without a device too. */
static void on_watchdog(uv_timer_t *timer)
{
    struct service *s = timer->data;
    uint64_t progress = pipeline_progress(&s->pipeline);
    if (progress != s->progress_seen)
        notify_watchdog();
    s->progress_seen = progress;
}

/* --- control ------------------------------------------------------------------------------------------------- */

static void control_flush(void *ctx)
{
    captioner_flush(((struct service *)ctx)->pipeline.captioner);
}

static void control_pause(void *ctx, unsigned streams, bool pause)
{
    struct service *s = ctx;
    unsigned before = s->paused;
    pipeline_pause(&s->pipeline, streams, pause);
    s->paused = pause ? s->paused | streams : s->paused & ~streams;
    for (int i = 0; i < s->config->n_inputs; i++) {
        if ((before ^ s->paused) >> i & 1)
            notify_keep_pause(s->config->inputs[i].name, pause);
    }
}

/* Who has paused a microphone and sees captiond start anew, be it after a crash, trusts that it is paused still. */
static void find_kept_pauses(struct service *s)
{
    for (int i = 0; i < s->config->n_inputs; i++) {
        const char *name = s->config->inputs[i].name;
        if (!notify_kept_pause(name))
            continue;
        s->paused |= 1u << i;
        log_info("input %s is paused, as before the restart: captionctl resume ends it", name);
    }
}

static int control_set(void *ctx, const char *name, const char *value, struct err *err)
{
    return service_set(ctx, name, value, err);
}

static void control_write_settings(void *ctx, struct jsonl *j)
{
    service_write_settings(ctx, j);
}

static void control_write_status(void *ctx, struct jsonl *j)
{
    struct service *s = ctx;
    const char *language = pipeline_language(s->config);
    service_status_write(&s->hub, &s->stats, s->paused, s->subscribers.n, j);
    jsonl_string(j, "language", language ? language : "auto");
    jsonl_string(j, "task", s->config->task == TASK_TRANSLATE ? "translate" : "transcribe");
}

static const struct control_ops control_ops = {.flush = control_flush,
                                               .pause = control_pause,
                                               .set = control_set,
                                               .write_settings = control_write_settings,
                                               .write_status = control_write_status};

/* --- the beginning ------------------------------------------------------------------------------------------- */

static void name_model(struct service *s)
{
    const char *name = pipeline_model_name(s->config);
    const char *slash = strrchr(name, '/');
    snprintf(s->model_name, sizeof(s->model_name), "%s", slash && slash[1] ? slash + 1 : name);
    s->hub.model = s->model_name;
    s->hub.engine = pipeline_engine_name(&s->pipeline);
}

static int start(struct service *s, struct err *err)
{
    s->hub.t0_ns = clock_now_ns();
    name_model(s);
    if (s->config->stdout_format != STDOUT_NONE)
        printer_init(&s->printer, &s->loop, &s->hub, s->config->stdout_format == STDOUT_TEXT, on_printed, s);
    int r = listener_start(&s->captions_socket, &s->loop, subscribers_accept, &s->subscribers, err);
    if (r == 0)
        r = listener_start(&s->control_socket, &s->loop, control_accept, &s->control, err);
    if (r < 0)
        return r;
    return pipeline_start(&s->pipeline, err);
}

static void work_load(uv_work_t *work)
{
    struct service *s = work->data;
    s->load_result = pipeline_open(&s->pipeline, s->config, s->paused, wake_loop, s, &s->load_error);
}

static void on_loaded(uv_work_t *work, int status)
{
    struct service *s = work->data;
    s->opened = s->load_result == 0;
    if (s->phase != PHASE_LOADING) {
        s->unfinished = s->opened; /* stopped meanwhile: a device need not close in time */
        return;
    }
    int r = s->load_result;
    if (r == 0) {
        s->phase = PHASE_RUNNING;
        r = start(s, &s->load_error);
    }
    if (r < 0) {
        log_error("%s", s->load_error.msg);
        snprintf(s->failure, sizeof(s->failure), "%.299s", s->load_error.msg);
        s->status = r;
        begin_stop(s, true);
        return;
    }
    log_info("ready: model %s on %s, %d input%s%s%s", s->hub.model, s->hub.engine, s->pipeline.n_inputs,
             s->pipeline.n_inputs == 1 ? "" : "s", s->captions_socket.path[0] ? ", captions on " : "",
             s->captions_socket.path);
    uint64_t watchdog_ms = notify_watchdog_ms();
    if (watchdog_ms)
        uv_timer_start(&s->watchdog, on_watchdog, 0, watchdog_ms / 4 + 1);
    notify_ready();
    if (s->reload_due)
        service_reload(s);
}

static void init_handles(struct service *s)
{
    uv_loop_t *loop = &s->loop;
    uv_signal_init(loop, &s->on_term);
    uv_signal_init(loop, &s->on_int);
    uv_signal_init(loop, &s->on_hup);
    uv_async_init(loop, &s->wake, on_wake);
    uv_timer_init(loop, &s->deadline);
    uv_timer_init(loop, &s->watchdog);
    s->on_term.data = s->on_int.data = s->on_hup.data = s->wake.data = s;
    s->deadline.data = s->watchdog.data = s->load.data = s->stop_inputs.data = s;
    subscribers_init(&s->subscribers, loop, &s->hub, s->config->clients_max, s->config->client_timeout_ms);
    control_init(&s->control, &s->hub, &control_ops, s, s->config->client_timeout_ms);
}

static int init_hub(struct service *s, struct err *err)
{
    for (int i = 0; i < s->config->n_inputs; i++)
        s->names[i] = s->config->inputs[i].name;
    const struct hub_options options = {.stream_names = s->names,
                                        .n_streams = s->config->n_inputs,
                                        .history_events = s->config->history_events,
                                        .history_bytes = (size_t)s->config->history_kib * 1024,
                                        .stats = &s->stats};
    s->stats.started_ns = clock_now_ns();
    return hub_init(&s->hub, &options, err);
}

int service_create(struct config *config, int argc, char *const *argv, struct service **out, struct err *err)
{
    struct service *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(err, -ENOMEM, "out of memory");
    s->config = config;
    s->argc = argc;
    s->argv = argv;
    s->terminal = isatty(STDERR_FILENO);
    int r = uv_loop_init(&s->loop);
    if (r < 0) {
        free(s);
        return err_set(err, r, "no event loop: %s", uv_strerror(r));
    }
    init_handles(s);
    find_kept_pauses(s);
    r = sockets_bind(config, &s->captions_socket, &s->control_socket, err);
    if (r == 0)
        r = init_hub(s, err);
    if (r < 0) {
        service_destroy(s);
        return r;
    }
    *out = s;
    return 0;
}

enum exit_status service_run(struct service *s)
{
    uv_signal_start(&s->on_term, on_stop_signal, SIGTERM);
    uv_signal_start(&s->on_int, on_stop_signal, SIGINT);
    uv_signal_start(&s->on_hup, on_reload_signal, SIGHUP);
    notify_status("loading the model");
    int r = uv_queue_work(&s->loop, &s->load, work_load, on_loaded);
    if (r < 0) {
        log_error("no worker thread: %s", uv_strerror(r));
        return EXIT_RUNTIME;
    }
    uv_run(&s->loop, UV_RUN_DEFAULT);
    /* A thread that was given up cannot be joined, nor what it uses be freed; and what may hang is not waited for. */
    if (s->unfinished || s->pipeline.inputs_stuck)
        exit_now(s, exit_status(s));
    return exit_status(s);
}

static void close_handle(uv_handle_t *handle, void *arg)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

void service_destroy(struct service *s)
{
    if (!s)
        return;
    if (s->opened)
        pipeline_close(&s->pipeline);
    listener_close(&s->captions_socket);
    listener_close(&s->control_socket);
    subscribers_close(&s->subscribers);
    control_close(&s->control);
    uv_run(&s->loop, UV_RUN_NOWAIT);
    uv_walk(&s->loop, close_handle, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
    printer_finish(&s->printer);
    hub_finish(&s->hub);
    free(s);
}
