/* captionctl as a user runs it, against a daemon played by the test: what it asks for, what it prints, how it ends.
 * tests/run: shared */
#include "tests/support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PATIENCE_MS 10000 /* for what happens at once on an idle machine */

static char folder[] = "/tmp/captiond-ctl-XXXXXX";
static char captions_path[64], control_path[64], program[512];

/* --- the daemon ------------------------------------------------------------------------------------------------ */

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static void wait_readable(int fd, const char *what)
{
    struct pollfd in = {.fd = fd, .events = POLLIN};
    if (poll(&in, 1, PATIENCE_MS) != 1)
        fail_msg("no %s within %d ms", what, PATIENCE_MS);
}

static int accept_client(int listener)
{
    wait_readable(listener, "connection");
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void say(int fd, const char *lines)
{
    assert_int_equal(send(fd, lines, strlen(lines), MSG_NOSIGNAL), (ssize_t)strlen(lines));
}

static void hear_line(int fd, char *line, size_t size)
{
    size_t n = 0;
    do {
        wait_readable(fd, "request");
        assert_true(n + 1 < size);
        assert_int_equal(read(fd, line + n, 1), 1);
    } while (line[n++] != '\n');
    line[n] = 0;
}

static void expect_request(int fd, const char *const *parts)
{
    char line[1024];
    hear_line(fd, line, sizeof(line));
    for (; *parts; parts++) {
        if (!strstr(line, *parts))
            fail_msg("request %s lacks %s", line, *parts);
    }
}

#define EXPECT_REQUEST(fd, ...) expect_request((fd), (const char *const[]){__VA_ARGS__, NULL})

#define HELLO(session, seq)                                                                                  \
    "{\"type\":\"hello\",\"v\":1,\"session\":\"" session "\",\"seq\":" seq                                   \
    ",\"oldest_seq\":1,\"t0_unix_ms\":0,\"model\":\"tiny.en\",\"policy\":\"la2\",\"streams\":[\"mic\"]}\n"
#define COMMIT(seq, utt, text)                                                                               \
    "{\"type\":\"commit\",\"seq\":" seq ",\"stream\":\"mic\",\"utt\":" utt                                   \
    ",\"start_ms\":0,\"end_ms\":10,\"text\":\"" text "\",\"words\":[],\"lag_ms\":840}\n"
#define FINAL(seq, utt)                                                                                      \
    "{\"type\":\"final\",\"seq\":" seq ",\"stream\":\"mic\",\"utt\":" utt                                    \
    ",\"start_ms\":0,\"end_ms\":10,\"text\":\"x\",\"reason\":\"silence\"}\n"
#define PARTIAL(utt, text)                                                                                   \
    "{\"type\":\"partial\",\"stream\":\"mic\",\"utt\":" utt                                                  \
    ",\"rev\":1,\"start_ms\":0,\"end_ms\":10,\"text\":\"" text "\"}\n"
#define BYE(reason) "{\"type\":\"bye\",\"reason\":\"" reason "\",\"message\":\"\"}\n"

/* --- the client ------------------------------------------------------------------------------------------------ */

struct client {
    pid_t pid;
    int out, errors;
    char text[8192], error_text[4096]; /* read so far */
};

static void start(struct client *c, const char *const *args)
{
    const char *argv[16] = {program};
    int n = 1, out[2], errors[2];
    memset(c, 0, sizeof(*c));
    while (*args)
        argv[n++] = *args++;
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    assert_int_equal(pipe2(errors, O_CLOEXEC), 0);
    fflush(NULL);
    c->pid = fork();
    if (c->pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        dup2(errors[1], STDERR_FILENO);
        execv(program, (char *const *)argv);
        _exit(127);
    }
    close(out[1]);
    close(errors[1]);
    c->out = out[0];
    c->errors = errors[0];
}

#define START(c, ...) start((c), (const char *const[]){__VA_ARGS__, NULL})

static bool read_some(int fd, char *text, size_t size)
{
    size_t n = strlen(text);
    ssize_t got = read(fd, text + n, size - 1 - n);
    if (got > 0)
        text[n + (size_t)got] = 0;
    return got > 0;
}

/* Waits until the output contains `part`. */
static void expect_output(struct client *c, const char *part)
{
    while (!strstr(c->text, part)) {
        struct pollfd in = {.fd = c->out, .events = POLLIN};
        if (poll(&in, 1, PATIENCE_MS) != 1 || !read_some(c->out, c->text, sizeof(c->text)))
            fail_msg("no \"%s\" in the output, which is \"%s\"", part, c->text);
    }
}

/* Waits for the end; the rest of the output is in c->text and c->error_text afterwards. */
static int finish(struct client *c)
{
    int status = 0, waited_ms = 0;
    while (waitpid(c->pid, &status, WNOHANG) == 0) {
        usleep(5000);
        waited_ms += 5;
        if (waited_ms > PATIENCE_MS) {
            kill(c->pid, SIGKILL);
            waitpid(c->pid, &status, 0);
            fail_msg("captionctl does not end; output \"%s\"", c->text);
        }
    }
    while (c->out >= 0 && read_some(c->out, c->text, sizeof(c->text)))
        ;
    while (c->errors >= 0 && read_some(c->errors, c->error_text, sizeof(c->error_text)))
        ;
    close(c->out);
    close(c->errors);
    if (!WIFEXITED(status))
        fail_msg("ended by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}

static int set_up(void **state)
{
    (void)state;
    const char *build = getenv("CAPTIOND_BUILD");
    snprintf(program, sizeof(program), "%s/captionctl", build ? build : "build");
    if (access(program, X_OK) != 0)
        fail_msg("%s is not there", program);
    signal(SIGPIPE, SIG_IGN);
    assert_non_null(mkdtemp(folder));
    snprintf(captions_path, sizeof(captions_path), "%s/captions.sock", folder);
    snprintf(control_path, sizeof(control_path), "%s/control.sock", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(captions_path);
    unlink(control_path);
    return rmdir(folder);
}

/* --- follow ---------------------------------------------------------------------------------------------------- */

static void text_is_a_sentence_or_utterance_a_line(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--socket", captions_path);
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "0"));
    EXPECT_REQUEST(fd, "\"cmd\":\"subscribe\"");
    say(fd, COMMIT("1", "1", " Ask not what") PARTIAL("1", " your")
                COMMIT("2", "1", " your country can do. Ask"));
    expect_output(&c, "Ask not what your country can do.\n");
    say(fd, COMMIT("3", "1", " what you\\ncan") FINAL("4", "1") BYE("end"));
    close(fd);
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, "Ask not what your country can do.\nAsk what you can\n");
    assert_string_equal(c.error_text, "");
    close(listener);
}

static void stream_prints_pieces_at_once(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--socket", captions_path, "--format", "stream");
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "0") COMMIT("1", "1", " Ask"));
    expect_output(&c, "Ask");
    say(fd, COMMIT("2", "1", " not"));
    expect_output(&c, "Ask not");
    say(fd, FINAL("3", "1") COMMIT("4", "2", " What") BYE("end"));
    close(fd);
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, "Ask not\nWhat\n");
    close(listener);
}

static void jsonl_is_what_the_daemon_wrote(void **state)
{
    (void)state;
    static const char lines[] =
        HELLO("s1", "0") COMMIT("1", "1", " Größe \\ud83d\\ude00") FINAL("2", "1") BYE("end");
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--socket", captions_path, "--format", "jsonl");
    int fd = accept_client(listener);
    /* Cut anywhere: lines are put together again. */
    for (const char *at = lines; *at; at++) {
        assert_int_equal(send(fd, at, 1, MSG_NOSIGNAL), 1);
    }
    close(fd);
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, lines);
    close(listener);
}

static void from_seq_is_asked_for(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--socket", captions_path, "--from-seq", "5", "--stream", "mic", "--no-reconnect");
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "9"));
    EXPECT_REQUEST(fd, "\"from_seq\":5", "\"streams\":[\"mic\"]");
    say(fd, "{\"type\":\"missed\",\"from_seq\":5,\"to_seq\":7}\n" COMMIT("8", "1", " Late."));
    close(fd);
    assert_int_equal(finish(&c), 3);
    assert_string_equal(c.text, "Late.\n");
    assert_non_null(strstr(c.error_text, "events 5 to 7"));
    close(listener);
}

static void it_comes_back_at_the_event_after_the_last(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--socket", captions_path);
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "0") COMMIT("1", "1", " First sentence.") COMMIT("2", "1", " Second sentence. And"));
    expect_output(&c, "Second sentence.\n");
    close(fd);
    fd = accept_client(listener);
    say(fd, HELLO("s1", "3"));
    EXPECT_REQUEST(fd, "\"from_seq\":3", "\"session\":\"s1\"");
    say(fd, COMMIT("2", "1", " Second sentence. And") COMMIT("3", "1", " three.") BYE("end"));
    close(fd);
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, "First sentence.\nSecond sentence.\nAnd three.\n");
    close(listener);
}

static void the_request_after_a_break_names_session_and_event(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--socket", captions_path);
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "41") COMMIT("42", "1", " Yes indeed."));
    expect_output(&c, "Yes indeed.\n");
    close(fd);
    fd = accept_client(listener);
    say(fd, HELLO("s1", "42"));
    EXPECT_REQUEST(fd, "\"from_seq\":43", "\"session\":\"s1\"");
    say(fd, BYE("end"));
    close(fd);
    assert_int_equal(finish(&c), 0);
    close(listener);
}

static void a_new_session_is_read_from_its_beginning(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--socket", captions_path);
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "99") COMMIT("100", "7", " Unfinished"));
    EXPECT_REQUEST(fd, "subscribe");
    close(fd);
    close(listener);
    unlink(captions_path); /* the daemon is gone for a while */
    usleep(300000);
    listener = listen_at(captions_path);
    fd = accept_client(listener);
    say(fd, HELLO("s2", "2"));
    EXPECT_REQUEST(fd, "\"session\":\"s1\"");
    say(fd, COMMIT("1", "7", " New") COMMIT("2", "7", " words.") BYE("end"));
    close(fd);
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, "Unfinished\nNew words.\n");
    assert_non_null(strstr(c.error_text, "waiting for it"));
    close(listener);
}

static void without_reconnecting_it_ends_with_3(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--socket", captions_path, "--no-reconnect");
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "0") COMMIT("1", "1", " Half"));
    expect_output(&c, "");
    close(fd);
    assert_int_equal(finish(&c), 3);
    assert_string_equal(c.text, "Half\n");
    close(listener);
    unlink(captions_path);
    START(&c, "follow", "--socket", captions_path, "--no-reconnect");
    assert_int_equal(finish(&c), 3);
    assert_non_null(strstr(c.error_text, captions_path));
}

/* Waiting helps where a daemon may come, not where the path is wrong or forbidden. */
static void what_cannot_be_reached_is_not_waited_for(void **state)
{
    (void)state;
    struct client c;
    START(&c, "follow", "--socket", "/dev/null/captions.sock");
    assert_int_equal(finish(&c), 1);
    assert_non_null(strstr(c.error_text, "/dev/null/captions.sock: Not a directory"));
}

static void a_closed_pipe_ends_it_quietly(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--socket", captions_path);
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "0"));
    EXPECT_REQUEST(fd, "subscribe");
    close(c.out); /* nobody reads any more: noticed without another caption */
    c.out = -1;
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.error_text, "");
    close(fd);
    close(listener);
}

static void what_is_not_captiond_is_refused(void **state)
{
    (void)state;
    static const char *const greetings[] = {"HTTP/1.1 400 Bad Request\n", "{\"type\":\"welcome\"}\n", "[1]\n",
                                            "{\"type\":\"hello\",\"v\":2,\"session\":\"s1\"}\n"};
    for (size_t i = 0; i < sizeof(greetings) / sizeof(greetings[0]); i++) {
        struct client c;
        int listener = listen_at(captions_path);
        START(&c, "follow", "--socket", captions_path);
        int fd = accept_client(listener);
        say(fd, greetings[i]);
        assert_int_equal(finish(&c), 1);
        assert_non_null(strstr(c.error_text, captions_path));
        assert_string_equal(c.text, "");
        close(fd);
        close(listener);
    }
}

/* --- commands -------------------------------------------------------------------------------------------------- */

static void commands_go_to_the_control_socket(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(control_path);
    START(&c, "pause", "--socket", captions_path, "--stream", "mic");
    int fd = accept_client(listener);
    EXPECT_REQUEST(fd, "\"cmd\":\"pause\"", "\"streams\":[\"mic\"]");
    say(fd, "{\"type\":\"reply\",\"cmd\":\"pause\"}\n");
    assert_int_equal(finish(&c), 0);
    close(fd);
    START(&c, "status", "--control", control_path, "--json");
    fd = accept_client(listener);
    EXPECT_REQUEST(fd, "\"cmd\":\"status\"");
    say(fd, "{\"type\":\"reply\",\"cmd\":\"status\",\"model\":\"base\"}\n");
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, "{\"type\":\"reply\",\"cmd\":\"status\",\"model\":\"base\"}\n");
    close(fd);
    START(&c, "set", "client-timeout=700", "--control", control_path);
    fd = accept_client(listener);
    EXPECT_REQUEST(fd, "\"cmd\":\"set\"", "\"key\":\"client-timeout\"", "\"value\":\"700\"");
    say(fd, "{\"type\":\"reply\",\"cmd\":\"set\",\"settings\":{\"client-timeout\":\"700\"}}\n");
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, "");
    close(fd);
    START(&c, "set", "--control", control_path);
    fd = accept_client(listener);
    EXPECT_REQUEST(fd, "{\"cmd\":\"set\"}");
    say(fd,
        "{\"type\":\"reply\",\"cmd\":\"set\",\"settings\":{\"language\":\"de\",\"task\":\"transcribe\"}}\n");
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, "language = de\ntask = transcribe\n");
    close(fd);
    START(&c, "devices", "--control", control_path);
    fd = accept_client(listener);
    say(fd, "{\"type\":\"reply\",\"cmd\":\"devices\",\"devices\":[]}\n");
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, "The daemon finds no sound devices.\n");
    close(fd);
    START(&c, "flush", "--control", control_path);
    fd = accept_client(listener);
    say(fd, "{\"type\":\"error\",\"message\":\"not now\"}\n");
    assert_int_equal(finish(&c), 1);
    assert_non_null(strstr(c.error_text, "not now"));
    close(fd);
    close(listener);
    unlink(control_path);
    START(&c, "status", "--control", control_path);
    assert_int_equal(finish(&c), 3);
}

static void bad_command_lines_end_with_2(void **state)
{
    (void)state;
    struct client c;
    START(&c, "fellow");
    assert_int_equal(finish(&c), 2);
    START(&c, "follow", "--format", "srt");
    assert_int_equal(finish(&c), 2);
    START(&c, "follow", "--from-seq", "-1");
    assert_int_equal(finish(&c), 2);
    START(&c, "set", "language", "--control", control_path);
    assert_int_equal(finish(&c), 2);
    START(&c, "set", "=de", "--control", control_path);
    assert_int_equal(finish(&c), 2);
}

static void help_that_cannot_be_written_is_an_error(void **state)
{
    (void)state;
    char command[600];
    snprintf(command, sizeof(command),
             "[ \"$(%s --help 2>&1 >/dev/full; echo $?)\" = \"$(echo %s; echo 1)\" ]", program,
             "captionctl: cannot write to standard output: No space left on device");
    assert_int_equal(system(command), 0); /* NOLINT: the test's own words */
}

/* After the longest utterance the sentence goes on, so its line does too. */
static void an_utterance_cut_for_its_length_ends_no_line(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--socket", captions_path);
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "0") COMMIT("1", "1", " one two"));
    say(fd, "{\"type\":\"final\",\"seq\":2,\"stream\":\"mic\",\"utt\":1,\"start_ms\":0,\"end_ms\":10,"
            "\"text\":\" one two\",\"reason\":\"max_len\"}\n" COMMIT("3", "2", " three.") BYE("end"));
    close(fd);
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, "one two three.\n");
    close(listener);
}

static void ctrl_c_loses_no_word(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path), status;
    START(&c, "follow", "--socket", captions_path);
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "0") COMMIT("1", "1", " Done. And"));
    expect_output(&c, "Done.\n");
    assert_int_equal(kill(c.pid, SIGINT), 0);
    expect_output(&c, "And\n");
    assert_int_equal(waitpid(c.pid, &status, 0), c.pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT); /* as scripts expect */
    close(c.out);
    close(c.errors);
    close(fd);
    close(listener);
}

static void a_daemon_that_goes_during_a_command_is_none(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(control_path);
    START(&c, "status", "--control", control_path);
    close(accept_client(listener));
    assert_int_equal(finish(&c), 3);
    close(listener);
}

/* --- live ------------------------------------------------------------------------------------------------------ */

/* Starts `captionctl follow --format live` on a terminal of its own. */
static void start_on_terminal(struct client *c, struct termios *before)
{
    memset(c, 0, sizeof(*c));
    c->errors = -1;
    c->out = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_int_equal(grantpt(c->out), 0);
    assert_int_equal(unlockpt(c->out), 0);
    struct winsize size = {.ws_col = 40, .ws_row = 8};
    int slave = open(ptsname(c->out), O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_int_equal(ioctl(slave, TIOCSWINSZ, &size), 0);
    assert_int_equal(tcgetattr(slave, before), 0);
    fflush(NULL);
    c->pid = fork();
    if (c->pid == 0) {
        setsid();
        ioctl(slave, TIOCSCTTY, 0);
        for (int fd = 0; fd < 3; fd++)
            dup2(slave, fd);
        execl(program, program, "follow", "--format", "live", "--socket", captions_path, (char *)NULL);
        _exit(127);
    }
    close(slave);
}

static void live_shows_tentative_words_and_gives_the_terminal_back(void **state)
{
    (void)state;
    struct client c;
    struct termios before, after;
    int listener = listen_at(captions_path);
    start_on_terminal(&c, &before);
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "0") "{\"type\":\"status\",\"seq\":1,\"stream\":\"mic\",\"state\":\"listening\","
                             "\"queue_ms\":0,\"rtf\":0.1,"
                             "\"level_db\":-30,\"device\":\"Test Microphone\"}\n" COMMIT("2", "1", " Ask not")
                                 PARTIAL("1", " what your"));
    expect_output(&c, "Ask not\033[2m what your");
    expect_output(&c, "listening");
    struct winsize size = {.ws_col = 10, .ws_row = 8};
    c.text[0] = 0;
    assert_int_equal(ioctl(c.out, TIOCSWINSZ, &size), 0); /* the terminal tells the program by SIGWINCH */
    expect_output(&c, "Ask not");
    expect_output(&c, "what your"); /* on a line of its own now */
    assert_null(strstr(c.text, "Ask not\033[2m what"));
    c.text[0] = 0;
    assert_int_equal(write(c.out, "\003", 1), 1); /* Ctrl-C */
    expect_output(&c, "\033[?1049l");
    expect_output(&c, "Ask not\r\n"); /* what was committed stays in the scrollback */
    assert_int_equal(tcgetattr(c.out, &after), 0);
    assert_int_equal(after.c_lflag, before.c_lflag);
    assert_int_equal(after.c_cc[VMIN], before.c_cc[VMIN]);
    assert_int_equal(finish(&c), 0);
    close(fd);
    close(listener);
}

/* F1, F2, Alt-P and Alt-Q send letters behind an Escape; Ctrl-S would hold the picture; Ctrl-Z where no shell waits would
 * stop us for ever. */
static void live_takes_no_key_for_another(void **state)
{
    (void)state;
    static const char *const keys[] = {"\033OP", "\033OQ", "\033p", "\033q", "\023", "\032"};
    struct client c;
    struct termios before;
    int listener = listen_at(captions_path), control = listen_at(control_path);
    start_on_terminal(&c, &before);
    int fd = accept_client(listener), asks = accept_client(control);
    say(fd, HELLO("s1", "0"));
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        char text[128], word[16];
        assert_int_equal(write(c.out, keys[i], strlen(keys[i])), (ssize_t)strlen(keys[i]));
        snprintf(word, sizeof(word), " word%zu", i);
        snprintf(text, sizeof(text), COMMIT("1", "1", "%s"), word);
        say(fd, text);
        expect_output(&c, word + 1);
    }
    char line[256];
    hear_line(asks, line, sizeof(line));
    assert_string_equal(line, "{\"cmd\":\"status\"}\n"); /* and no pause behind it */
    struct pollfd more = {.fd = asks, .events = POLLIN};
    assert_int_equal(poll(&more, 1, 0), 0);
    c.text[0] = 0;
    assert_int_equal(write(c.out, "q", 1), 1);
    expect_output(&c, "\033[?1049l");
    assert_int_equal(finish(&c), 0);
    close(asks);
    close(control);
    close(fd);
    close(listener);
}

static void live_without_a_terminal_is_text(void **state)
{
    (void)state;
    struct client c;
    int listener = listen_at(captions_path);
    START(&c, "follow", "--format", "live", "--socket", captions_path);
    int fd = accept_client(listener);
    say(fd, HELLO("s1", "0") COMMIT("1", "1", " Plain.") BYE("end"));
    close(fd);
    assert_int_equal(finish(&c), 0);
    assert_string_equal(c.text, "Plain.\n");
    close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_a_sentence_or_utterance_a_line),
        cmocka_unit_test(stream_prints_pieces_at_once),
        cmocka_unit_test(jsonl_is_what_the_daemon_wrote),
        cmocka_unit_test(from_seq_is_asked_for),
        cmocka_unit_test(it_comes_back_at_the_event_after_the_last),
        cmocka_unit_test(the_request_after_a_break_names_session_and_event),
        cmocka_unit_test(a_new_session_is_read_from_its_beginning),
        cmocka_unit_test(without_reconnecting_it_ends_with_3),
        cmocka_unit_test(what_cannot_be_reached_is_not_waited_for),
        cmocka_unit_test(a_closed_pipe_ends_it_quietly),
        cmocka_unit_test(what_is_not_captiond_is_refused),
        cmocka_unit_test(commands_go_to_the_control_socket),
        cmocka_unit_test(bad_command_lines_end_with_2),
        cmocka_unit_test(help_that_cannot_be_written_is_an_error),
        cmocka_unit_test(an_utterance_cut_for_its_length_ends_no_line),
        cmocka_unit_test(ctrl_c_loses_no_word),
        cmocka_unit_test(a_daemon_that_goes_during_a_command_is_none),
        cmocka_unit_test(live_shows_tentative_words_and_gives_the_terminal_back),
        cmocka_unit_test(live_takes_no_key_for_another),
        cmocka_unit_test(live_without_a_terminal_is_text),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
