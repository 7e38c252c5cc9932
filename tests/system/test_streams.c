/* Four streams at once on one engine: each has its own words under its own name, none is starved, and what is not captioned
 * is told. Needs the model tiny.en.
 * tests/run: 300 s */
#include "tests/support/daemon.h"

#include <ctype.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <sndfile.h>

enum { N_STREAMS = 4, WORDS_MAX = 64 };

/* A few seconds of a recording, cut out so that the test is short. */
struct excerpt {
    const char *file;
    int from_s, n_s;
};

/* What a stream said. */
struct said {
    char text[8192]; /* of its commits, joined */
    int n_commits, n_finals;
    int first_commit, last_line; /* places in the output */
    bool gap, ended;
};

static struct daemon d;
static char inputs[N_STREAMS][160]; /* "a=file:…" */
static struct said alone[N_STREAMS];
static bool available;

static void cut(const char *path, const struct excerpt *e, const char *to)
{
    SF_INFO info = {0};
    SNDFILE *in = sf_open(path, SFM_READ, &info);
    if (!in)
        fail_msg("%s: %s", path, sf_strerror(NULL));
    sf_count_t n = (sf_count_t)e->n_s * info.samplerate;
    short *frames = malloc((size_t)n * (size_t)info.channels * sizeof(*frames));
    assert_non_null(frames);
    assert_true(sf_seek(in, (sf_count_t)e->from_s * info.samplerate, SEEK_SET) >= 0);
    n = sf_readf_short(in, frames, n);
    SF_INFO as = {
        .samplerate = info.samplerate, .channels = info.channels, .format = SF_FORMAT_WAV | SF_FORMAT_PCM_16};
    SNDFILE *out = sf_open(to, SFM_WRITE, &as);
    assert_non_null(out);
    assert_int_equal(sf_writef_short(out, frames, n), n);
    sf_close(out);
    sf_close(in);
    free(frames);
}

static void cut_all(void)
{
    static const struct excerpt real[N_STREAMS] = {{"en_ls_1995.flac", 0, 7},
                                                   {"en_fleurs_001.flac", 0, 7},
                                                   {"en_jfk_stereo.flac", 0, 7},
                                                   {"en_fleurs_000.flac", 0, 7}},
                                ours[N_STREAMS] = {{"tests/fixtures/speech.flac", 0, 7},
                                                   {"tests/fixtures/speech.flac", 8, 7},
                                                   {"tests/fixtures/harbour.flac", 0, 5},
                                                   {"tests/fixtures/harbour.flac", 5, 5}};
    bool all = true;
    for (int i = 0; i < N_STREAMS; i++)
        all &= test_speech(real[i].file) != NULL;
    for (int i = 0; i < N_STREAMS; i++) {
        char path[128];
        snprintf(path, sizeof(path), "%s/%c.wav", d.dir, 'a' + i);
        cut(all ? test_speech(real[i].file) : ours[i].file, all ? &real[i] : &ours[i], path);
        snprintf(inputs[i], sizeof(inputs[i]), "%c=file:%s", 'a' + i, path);
    }
}

/* --- a run ------------------------------------------------------------------------------------------------------- */

static void note(struct said *s, const char *line, int place)
{
    s->last_line = place;
    s->gap |= line_is(line, "gap") && line_int(line, "lost_ms") > 0;
    s->n_finals += line_is(line, "final");
    if (line_is(line, "status"))
        s->ended |= strcmp(line_string(line, "state"), "ended") == 0;
    if (!line_is(line, "commit"))
        return;
    if (s->n_commits++ == 0)
        s->first_commit = place;
    test_append(s->text, sizeof(s->text), line_string(line, "text"));
}

/* Captions streams first … first + n − 1. Every line that is about a stream must name one of them. */
static void caption(int first, int n, const char *pace, struct said *said)
{
    static struct lines l;
    const char *args[DAEMON_ARGS_MAX] = {"--model",     test_model("tiny.en"),
                                         "--threads",   "2",
                                         "--beam-size", "1",
                                         "--step",      "1000",
                                         "--pace",      pace,
                                         "--once",      "--stdout",
                                         "jsonl",       "--socket",
                                         "none"};
    int n_args = 15;
    for (int i = 0; i < n; i++) {
        args[n_args++] = "--input";
        args[n_args++] = inputs[first + i];
        said[i] = (struct said){.first_commit = -1};
    }
    daemon_exec(&d, args, NULL, NULL, 0);
    lines_init(&l, d.out);
    char *line;
    for (int place = 0; (line = lines_next(&l, DAEMON_TIMEOUT_MS)); place++) {
        char name[16];
        snprintf(name, sizeof(name), "%s", line_string(line, "stream"));
        if (!name[0])
            continue;
        int i = name[1] ? -1 : name[0] - 'a' - first;
        if (i < 0 || i >= n)
            fail_msg("a line of a stream that is not there: %s", line);
        note(&said[i], line, place);
    }
    if (daemon_wait(&d) != 0)
        fail_msg("%s", daemon_log(&d));
    for (int i = 0; i < n; i++) {
        print_message("%s %c:%s%s\n", pace, 'a' + first + i, said[i].text, said[i].gap ? " (gap)" : "");
        assert_true(said[i].ended);
        assert_true(said[i].n_finals > 0 && (said[i].n_commits > 0 || said[i].gap));
    }
}

/* --- words --------------------------------------------------------------------------------------------------------- */

struct words {
    char text[sizeof(((struct said *)0)->text)];
    const char *at[WORDS_MAX];
    int n;
};

static void split(const char *text, struct words *w)
{
    char *rest = w->text;
    snprintf(w->text, sizeof(w->text), "%s", text);
    for (char *c = w->text; *c; c++)
        *c = (char)(isalnum((unsigned char)*c) ? tolower((unsigned char)*c) : ' ');
    w->n = 0;
    for (char *word; w->n < WORDS_MAX && (word = strtok_r(rest, " ", &rest));)
        w->at[w->n++] = word;
}

/* How many words of `a` come in `b` in the same order: their longest common subsequence. */
static int in_common(const char *a, const char *b)
{
    static struct words x, y;
    int best[WORDS_MAX + 1][WORDS_MAX + 1] = {0};
    split(a, &x);
    split(b, &y);
    for (int i = 1; i <= x.n; i++) {
        for (int k = 1; k <= y.n; k++) {
            int skip = best[i - 1][k] > best[i][k - 1] ? best[i - 1][k] : best[i][k - 1];
            best[i][k] = strcmp(x.at[i - 1], y.at[k - 1]) == 0 ? best[i - 1][k - 1] + 1 : skip;
        }
    }
    return best[x.n][y.n];
}

static int n_words(const char *text)
{
    static struct words w;
    split(text, &w);
    return w.n;
}

/* --- tests --------------------------------------------------------------------------------------------------------- */

/* In fast pace all of them want the engine all the time. Each says to the letter what it says alone, and has its first words
 * before any other one has said its last. */
static void each_says_what_it_says_alone(void **state)
{
    struct said together[N_STREAMS];
    if (!available)
        test_skip("no model tiny.en");
    for (int i = 0; i < N_STREAMS; i++)
        caption(i, 1, "fast", &alone[i]);
    caption(0, N_STREAMS, "fast", together);
    for (int i = 0; i < N_STREAMS; i++) {
        assert_true(n_words(alone[i].text) >= 5);
        assert_string_equal(together[i].text, alone[i].text);
        for (int k = 0; k < N_STREAMS; k++) {
            if (together[i].first_commit > together[k].last_line)
                fail_msg("%c waited for all of %c", 'a' + i, 'a' + k);
        }
    }
}

/* In real time a machine may be too slow for four: then a stream says which sound it gave up, and goes on. What it says are its
 * own words. Passes fall elsewhere than in fast pace, so one word in four may differ, as the end of a word that is heard at the
 * edge of a pass does; where there was a gap, half of what was said must be right. */
static void in_real_time_nothing_is_lost_in_silence(void **state)
{
    struct said said[N_STREAMS];
    if (!available || !alone[0].n_commits)
        test_skip("no model tiny.en");
    caption(0, N_STREAMS, "realtime", said);
    for (int i = 0; i < N_STREAMS; i++) {
        int own = in_common(said[i].text, alone[i].text), n = n_words(said[i].text);
        if (said[i].gap ? 2 * own < n : 4 * own < 3 * n_words(alone[i].text))
            fail_msg("%c says \"%s\", not \"%s\"", 'a' + i, said[i].text, alone[i].text);
        for (int k = 0; n > 0 && k < N_STREAMS; k++)
            assert_true(k == i || in_common(said[i].text, alone[k].text) < own);
    }
}

/* A second of silence for each of n inputs, to the end. */
static void caption_silence(int n)
{
    static const short silence[16000];
    const char *args[DAEMON_ARGS_MAX] = {"--model", test_model("tiny.en"), "--pace", "fast", "--once"};
    char file[16][160];
    int n_args = 5;
    if (!available)
        test_skip("no model tiny.en");
    for (int i = 0; i < n; i++) {
        SF_INFO as = {.samplerate = 16000, .channels = 1, .format = SF_FORMAT_WAV | SF_FORMAT_PCM_16};
        snprintf(file[i], sizeof(file[i]), "file:%s/silence.wav", d.dir);
        SNDFILE *out = i == 0 ? sf_open(file[i] + 5, SFM_WRITE, &as) : NULL;
        assert_true(i > 0 || sf_writef_short(out, silence, 16000) == 16000);
        sf_close(out);
        args[n_args++] = "--input";
        args[n_args++] = file[i];
    }
    unlink(d.log);
    daemon_exec(&d, args, NULL, NULL, 0);
    assert_int_equal(daemon_wait(&d), 0);
}

/* Sixteen inputs with the default number of hypotheses would be more than the engine has room for. */
static void as_many_as_there_may_be(void **state)
{
    caption_silence(16);
    assert_non_null(strstr(daemon_log(&d), "beam-size: 4 instead of 5, which is the most for 16 inputs"));
}

/* What a user may lock by default is enough for the sound of one input. */
static void a_user_locks_the_sound_of_one_input(void **state)
{
    const struct rlimit usual = {8 << 20, 8 << 20};
    if (DAEMON_SLOWNESS > 1)
        test_skip("sanitizers lock no memory");
    if (geteuid() == 0 && prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK) < 0) /* which knows no limit */
        test_skip("root locks what it likes");
    if (setrlimit(RLIMIT_MEMLOCK, &usual) < 0)
        test_skip("less than 8 MiB may be locked");
    caption_silence(1);
    assert_null(strstr(daemon_log(&d), "cannot lock"));
    caption_silence(2);
    assert_non_null(strstr(daemon_log(&d), "captiond: input file-2: cannot lock 8000 kB of audio"));
    assert_null(strstr(daemon_log(&d), "input file: cannot lock"));
}

static int set_up(void **state)
{
    daemon_init(&d);
    available = test_model("tiny.en") != NULL;
    if (available)
        cut_all();
    return 0;
}

static int tear_down(void **state)
{
    daemon_finish(&d);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_says_what_it_says_alone),
        cmocka_unit_test(in_real_time_nothing_is_lost_in_silence),
        cmocka_unit_test(as_many_as_there_may_be),
        cmocka_unit_test(a_user_locks_the_sound_of_one_input),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
