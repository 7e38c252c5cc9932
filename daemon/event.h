/* What the captioner tells the loop: plain data, passed by value through an SPSC queue.
 *
 * Times are milliseconds on the stream's audio clock. Text is UTF-8, NUL-terminated, never cut inside a
 * character; a commit longer than one event is sent as several. */
#ifndef CAPTIOND_DAEMON_EVENT_H
#define CAPTIOND_DAEMON_EVENT_H

#include <stdbool.h>
#include <stdint.h>

#define EVENT_TEXT_MAX  1024
#define EVENT_WORDS_MAX 64
#define STREAMS_MAX     16

enum event_type {
    EVENT_SPEECH_START, /* start_ms */
    EVENT_PARTIAL,      /* the whole tentative tail: replaces the one before; empty text clears it */
    EVENT_COMMIT,       /* text and words that are final */
    EVENT_FINAL,        /* the utterance ends; reason */
    EVENT_GAP,          /* audio that was not transcribed: start_ms, lost_ms, cause */
    EVENT_STATUS,       /* the stream's state changed, or a few seconds have passed */
};

enum final_reason { FINAL_SILENCE, FINAL_MAX_LEN, FINAL_FLUSH, FINAL_DEVICE, FINAL_EOF };
enum gap_cause { GAP_OVERLOAD, GAP_OVERRUN, GAP_DEVICE, GAP_SHUTDOWN, GAP_ENGINE, GAP_PAUSE };
enum stream_state {
    STREAM_STARTING,
    STREAM_LISTENING, /* the device delivers; nobody speaks */
    STREAM_SPEECH,
    STREAM_SILENT,    /* the device delivers nothing but zeros, a pipe nothing at all */
    STREAM_NO_DEVICE, /* being reopened with back-off */
    STREAM_PAUSED,
    STREAM_ENDED, /* the file or pipe is done */
};

/* Whom a status is for. */
enum status_use {
    STATUS_NEWS,      /* every client: something has changed */
    STATUS_HEARTBEAT, /* whoever listens now: nothing has; no seq */
    STATUS_SAMPLE,    /* `captionctl status` alone */
};

struct event_word {
    uint16_t offset, length; /* bytes in text, leading space included */
    int64_t start_ms, end_ms;
    float probability;
};

struct event {
    enum event_type type;
    int stream;               /* index of the input */
    int64_t utt;              /* utterance of the stream, from 1 */
    int rev;                  /* of the partial within the utterance */
    int64_t start_ms, end_ms; /* the latter: PARTIAL, COMMIT, FINAL */
    int64_t lag_ms;           /* COMMIT: from the end of the last word to the hand-over; −1 in fast pace */
    enum final_reason reason;
    enum gap_cause cause;
    int64_t lost_ms;
    char language[8];
    /* STATUS */
    enum status_use use;
    enum stream_state state;
    int64_t t0_unix_ms; /* time of day at the audio clock's 0, by the newest sample; 0: not known */
    int queue_ms;       /* audio heard and not yet seen by a pass */
    float rtf;          /* wall time spent over audio time heard, smoothed */
    float level_db;     /* RMS of the last 100 ms relative to full scale, −120 for silence */
    int64_t overruns;
    char device[128];
    char message[256]; /* why, for people; never speech */
    /* PARTIAL, COMMIT */
    int n_words;
    struct event_word words[EVENT_WORDS_MAX];
    char text[EVENT_TEXT_MAX];
};

#endif
