#include "tools/download.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "tools/progress.h"

#define ATTEMPTS         5 /* one after another that bring less than this: */
#define WORTH_BYTES      1000000
#define CONNECT_SECONDS  20L
#define STALL_SECONDS    30L /* without a byte: the transfer is given up and taken up again */
#define PAINT_EVERY_NS   100000000LL
#define BAR_MOST         24
#define BAR_LEAST        5
#define STATUS_RANGE_BAD 416 /* the part file is complete, or longer than the file */

struct transfer {
    CURL *curl;
    FILE *file;
    const char *label;
    const volatile sig_atomic_t *cancelled;
    curl_off_t begin; /* bytes that were there before */
    bool terminal;
    int write_error;
    int64_t started_ns, painted_ns;
    curl_off_t received;
};

/* --- progress ------------------------------------------------------------------------------------------------ */

static void paint(const struct transfer *t, curl_off_t total, curl_off_t now)
{
    double seconds = (double)(clock_now_ns() - t->started_ns) / 1e9;
    double rate = seconds > 0.5 ? (double)now / seconds : 0;
    double have = (double)(t->begin + now), all = (double)(t->begin + total);
    char figures[96], bar[BAR_MOST + 4] = "", line[256];
    int n = snprintf(figures, sizeof(figures), "  %3.0f %%  %.0f of %.0f MB", all > 0 ? 100 * have / all : 0,
                     have / 1e6, all / 1e6);
    if (rate > 0 && n > 0 && (size_t)n < sizeof(figures))
        n += snprintf(figures + n, sizeof(figures) - (size_t)n, "  %.1f MB/s  %.0f s left", rate / 1e6,
                      (all - have) / rate);
    int columns = progress_columns(), room = columns - 1 - (int)strlen(t->label) - n - 4;
    int cells = room < BAR_MOST ? room : BAR_MOST;
    if (cells >= BAR_LEAST) {
        int filled = all > 0 ? (int)(have / all * cells) : 0;
        snprintf(bar, sizeof(bar), "  [%.*s%.*s]", filled, "########################", cells - filled,
                 "........................");
    }
    snprintf(line, sizeof(line), "%s%s%s", t->label, bar, figures);
    fprintf(stderr, "\r%.*s\033[K", columns - 1, line); /* a line that wraps could not be painted over */
}

static int on_progress(void *ctx, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up_now)
{
    struct transfer *t = ctx;
    int64_t clock = clock_now_ns();
    (void)up_total;
    (void)up_now;
    t->received = now;
    if (t->terminal && total > 0 && (clock - t->painted_ns >= PAINT_EVERY_NS || now == total)) {
        t->painted_ns = clock;
        paint(t, total, now);
    }
    return *t->cancelled ? 1 : 0;
}

static size_t on_data(char *data, size_t size, size_t n, void *ctx)
{
    struct transfer *t = ctx;
    errno = 0;
    size_t written = fwrite(data, size, n, t->file);
    if (written != n)
        t->write_error = errno ? errno : EIO;
    return written * size;
}

/* --- one attempt --------------------------------------------------------------------------------------------- */

static void set_options(struct transfer *t, const char *url)
{
    CURL *c = t->curl;
    curl_easy_setopt(c, CURLOPT_URL, url);
#if LIBCURL_VERSION_NUM >= 0x075500 /* 7.85 */
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 8L);
    curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "captiond/" CAPTIOND_VERSION);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, STALL_SECONDS);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, t);
}

enum outcome { OUTCOME_DONE, OUTCOME_AGAIN, OUTCOME_FROM_START, OUTCOME_FAILED };

static enum outcome judge(struct transfer *t, CURLcode code, const char *url, struct err *err)
{
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_OK)
        return OUTCOME_DONE;
    if (*t->cancelled) {
        err_set(err, -ECANCELED, "interrupted");
        return OUTCOME_FAILED;
    }
    if (t->write_error) {
        err_set(err, -t->write_error, "the download cannot be stored: %s", strerror(t->write_error));
        return OUTCOME_FAILED;
    }
    if (code == CURLE_RANGE_ERROR || (code == CURLE_HTTP_RETURNED_ERROR && status == STATUS_RANGE_BAD)) {
        err_set(err, -EPROTO, "%s: the server cannot continue the download", url);
        return OUTCOME_FROM_START;
    }
    if (code == CURLE_HTTP_RETURNED_ERROR) {
        err_set(err, status == 404 ? -ENOENT : -EPROTO, "%s: the server answers %ld", url, status);
        return status >= 500 || status == 429 ? OUTCOME_AGAIN : OUTCOME_FAILED;
    }
    err_set(err, -EIO, "%s: %s", url, curl_easy_strerror(code));
    return code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_URL_MALFORMAT ||
                   code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_PEER_FAILED_VERIFICATION
               ? OUTCOME_FAILED
               : OUTCOME_AGAIN;
}

static enum outcome attempt(struct transfer *t, const char *url, const char *part, bool from_start,
                            struct err *err)
{
    t->file = fopen(part, from_start ? "we" : "ae");
    if (!t->file || fseeko(t->file, 0, SEEK_END) < 0) {
        err_set(err, -errno, "%s: %s", part, strerror(errno));
        if (t->file)
            fclose(t->file);
        return OUTCOME_FAILED;
    }
    t->begin = ftello(t->file);
    t->started_ns = clock_now_ns();
    t->received = 0;
    curl_easy_setopt(t->curl, CURLOPT_RESUME_FROM_LARGE, t->begin);
    CURLcode code = curl_easy_perform(t->curl);
    errno = 0;
    if (fclose(t->file) != 0 && !t->write_error)
        t->write_error = errno ? errno : EIO;
    if (t->write_error && code == CURLE_OK)
        code = CURLE_WRITE_ERROR;
    if (t->terminal && t->painted_ns)
        fputs("\n", stderr);
    t->painted_ns = 0;
    return judge(t, code, url, err);
}

static void wait_before(int attempt_number, const volatile sig_atomic_t *cancelled)
{
    for (int i = 0; i < 5 << attempt_number && !*cancelled; i++)
        usleep(100000);
}

static int attempts(struct transfer *t, const char *url, const char *part, struct err *err)
{
    bool from_start = false;
    for (int n = 0;;) {
        enum outcome outcome = attempt(t, url, part, from_start, err);
        if (outcome == OUTCOME_DONE)
            return 0;
        if (outcome == OUTCOME_FAILED || (outcome == OUTCOME_FROM_START && from_start))
            return err->code;
        from_start = outcome == OUTCOME_FROM_START;
        if (outcome == OUTCOME_AGAIN) {
            n = t->received >= WORTH_BYTES ? 0 : n + 1;
            if (n == ATTEMPTS)
                return err->code;
            fprintf(stderr, "%s; trying again\n", err->msg);
            wait_before(n, t->cancelled);
        }
    }
}

int download_file(const char *url, const char *part, const char *label,
                  const volatile sig_atomic_t *cancelled, struct err *err)
{
    struct err own = {0};
    struct transfer t = {
        .curl = curl_easy_init(), .label = label, .cancelled = cancelled, .terminal = isatty(STDERR_FILENO)};
    if (!t.curl)
        return err_set(err, -ENOMEM, "out of memory");
    set_options(&t, url);
    int r = attempts(&t, url, part, &own);
    curl_easy_cleanup(t.curl);
    if (r < 0 && err)
        *err = own;
    return r;
}
