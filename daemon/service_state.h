/* Inside service.c and service_settings.c. */
#ifndef CAPTIOND_DAEMON_SERVICE_STATE_H
#define CAPTIOND_DAEMON_SERVICE_STATE_H

#include "daemon/control.h"
#include "daemon/pipeline.h"
#include "daemon/printer.h"
#include "daemon/service.h"
#include "daemon/sockets.h"
#include "daemon/subscriber.h"

enum phase {
    PHASE_LOADING,
    PHASE_RUNNING,
    PHASE_STOPPING, /* the captioner finishes the open words */
    PHASE_ENDING,   /* everything is said; clients and output take what is left */
};

struct service {
    struct config *config;
    int argc;
    char *const *argv;
    uv_loop_t loop;
    enum phase phase;
    int status;        /* of the process: 0 or a negative errno */
    char failure[300]; /* what clients are told of it */
    bool terminal;     /* standard error was one at the start */
    bool stop_asked;   /* by a signal */
    int stop_signal;   /* the first one, and when it came */
    int64_t stop_ns;
    bool hurried;    /* the stop has a deadline */
    bool unfinished; /* the pipeline is left as it is: given up by a stop, or never started */

    uv_signal_t on_term, on_int, on_hup;
    uv_async_t wake;
    uv_timer_t deadline, watchdog;
    uv_work_t load, stop_inputs;
    bool reload_due; /* asked for while the model was loading */
    struct err load_error;
    int load_result;
    uint64_t progress_seen;

    struct pipeline pipeline;
    bool opened; /* the pipeline is there */
    struct stats stats;
    struct hub hub;
    const char *names[STREAMS_MAX];
    enum stream_state state_logged[STREAMS_MAX];
    char reason_logged[STREAMS_MAX][256];
    unsigned language_choice; /* grows when a language is set, be it the same */
    bool decoding_changes;    /* what the captioner has yet to be told */
    unsigned paused;          /* streams that have been told to; their devices may take a moment to close */
    struct subscribers subscribers;
    struct control control;
    struct listener captions_socket, control_socket;
    struct printer printer;
    char model_name[MODEL_NAME_MAX];
};

/* --- service_settings.c: what can change while it runs; all on the loop ------------------------------------------ */

/* The configuration file and the command line once more. What is wrong in them changes nothing and is logged. */
void service_reload(struct service *);
/* One setting. 0, or a negative errno with the reason: nothing has changed. */
int service_set(struct service *, const char *name, const char *value, struct err *);
/* All that can change, with their values. */
void service_write_settings(const struct service *, struct jsonl *);

#endif
