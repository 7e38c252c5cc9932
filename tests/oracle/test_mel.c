/* Log-mel spectrograms against a plain transform in double precision. */
#include "tests/support/support.h"
#include "tests/support/engines.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 400, HOP = 160, BINS = 201 };

static const double pi = 3.14159265358979323846;

/* --- the oracle: textbook formulas, nothing folded, nothing fast ----------------------------------------------------- */

struct spectrum {
    double power[BINS];
    double error[BINS]; /* bound of the error of the power */
};

static double table[WINDOW]; /* cos(2πi/400) */

/* A sum of 101 folded products, each with a few roundings of its own: at most 110 roundings of Σ |w x|, as amplitude. */
static void transform(const double *x, struct spectrum *s)
{
    double size = 0.0, w[WINDOW];
    for (int n = 0; n < WINDOW; n++) {
        table[n] = cos(2.0 * pi * n / WINDOW);
        w[n] = x[n] * (0.5 - 0.5 * table[n]);
        size += fabs(w[n]);
    }
    double amplitude = 110.0 * EPS_F32 * size;
    for (int k = 0; k < BINS; k++) {
        double re = 0.0, im = 0.0;
        for (int n = 0; n < WINDOW; n++) {
            re += w[n] * table[k * n % WINDOW];
            im += w[n] * table[(k * n + 300) % WINDOW]; /* cos(a − 90°) = sin a, the sign is squared away */
        }
        s->power[k] = re * re + im * im;
        s->error[k] = 2.0 * sqrt(2.0 * s->power[k]) * amplitude + 2.0 * amplitude * amplitude;
    }
}

static double hz_of(double mel)
{
    return mel < 15.0 ? mel * 200.0 / 3.0 : 1000.0 * pow(6.4, (mel - 15.0) / 27.0);
}

/* librosa.filters.mel(sr=16000, n_fft=400, n_mels): triangles over Slaney's scale, each of unit area. */
static double filter(int m, int n_mels, int bin)
{
    double top_mel = 15.0 + 27.0 * log(8.0) / log(6.4), hz = 40.0 * bin;
    double a = hz_of(top_mel * m / (n_mels + 1)), b = hz_of(top_mel * (m + 1) / (n_mels + 1));
    double c = hz_of(top_mel * (m + 2) / (n_mels + 1));
    return fmax(0.0, fmin((hz - a) / (b - a), (c - hz) / (c - b))) * 2.0 / (c - a);
}

struct window {
    const float *recording; /* all samples from its beginning */
    int n_recording;
    int start; /* of the window */
    int n_mels, n_frames;
};

/* The recording is mirrored at its beginning and followed by silence. */
static double sample(const struct window *w, int i)
{
    i += w->start;
    i = i < 0 ? -i : i;
    return i < w->n_recording ? w->recording[i] : 0.0;
}

/* Logarithms before scaling, and the bound of their error. */
static void oracle(const struct window *w, double *logs, double *errors)
{
    static double filters[128][BINS];
    for (int m = 0; m < w->n_mels; m++) {
        for (int k = 0; k < BINS; k++)
            filters[m][k] = filter(m, w->n_mels, k);
    }
    for (int f = 0; f < w->n_frames; f++) {
        double x[WINDOW];
        struct spectrum s;
        for (int n = 0; n < WINDOW; n++)
            x[n] = sample(w, f * HOP - WINDOW / 2 + n);
        transform(x, &s);
        for (int m = 0; m < w->n_mels; m++) {
            double sum = 0.0, error = 0.0;
            for (int k = 0; k < BINS; k++) {
                sum += filters[m][k] * s.power[k];
                error += filters[m][k] * s.error[k];
            }
            /* The filter's sum and coefficients round, too; the logarithm errs by 2e-7 of itself. */
            error += 40.0 * EPS_F32 * sum;
            logs[f * w->n_mels + m] = log10(fmax(sum, 1e-10));
            errors[f * w->n_mels + m] = log10((fmax(sum, 1e-10) + error) / fmax(sum, 1e-10)) +
                                        4.0 * EPS_F32 * fabs(log10(fmax(sum, 1e-10)));
        }
    }
}

/* --- comparing ---------------------------------------------------------------------------------------------------- */

static void submit(struct engine *e, const struct window *w, enum mel_scale scale, float *log_max,
                   struct mat out)
{
    int before = w->start < 200 ? w->start : 200;
    e->v->mel(e, &(struct mel_args){.pcm = w->recording + w->start,
                                    .n_samples = w->n_recording - w->start,
                                    .n_before = before,
                                    .scale = scale,
                                    .log_max = log_max,
                                    .out = out});
}

static void check(struct engine *e, const struct window *w, enum dtype type)
{
    size_t n = (size_t)w->n_frames * (size_t)w->n_mels;
    double *want = malloc(n * sizeof(double)), *tolerance = malloc(n * sizeof(double));
    float *got = malloc(n * sizeof(float));
    struct mat out = test_mat(e, type, w->n_frames, w->n_mels, w->n_mels + 3);
    submit(e, w, MEL_SCALE_OWN, NULL, out);
    test_mat_read(e, out, got);
    oracle(w, want, tolerance);
    double max = -HUGE_VAL, max_error = 0.0;
    for (size_t i = 0; i < n; i++) {
        if (want[i] > max) {
            max = want[i];
            max_error = tolerance[i];
        }
    }
    for (size_t i = 0; i < n; i++) {
        /* Within 40 dB of the maximum the bound may not be an excuse: there it is 1e-4 at most. */
        double error = want[i] > max - 4.0 ? fmin(tolerance[i], 1e-4) : tolerance[i];
        want[i] = (fmax(want[i], max - 8.0) + 4.0) / 4.0;
        tolerance[i] = fmax(error, max_error) / 4.0 + 4.0 * EPS_F32 * (fabs(want[i]) + 1.0);
        tolerance[i] += test_rounding(type, fabs(want[i]) + tolerance[i]);
    }
    test_close("log-mel", got, want, tolerance, w->n_frames, w->n_mels);
    e->v->free(e, out.data);
    free(want);
    free(tolerance);
    free(got);
}

enum signal {
    SIGNAL_NOISE,
    SIGNAL_TONE,   /* one bin is 1e9 times another: leakage and rounding of the transform show */
    SIGNAL_SPEECH, /* a chirp of harmonics with pauses */
    SIGNAL_IMPULSE,
    SIGNAL_SILENCE,
    SIGNAL_CONSTANT,
    SIGNAL_SQUARE, /* full scale */
    SIGNAL_FAINT,
    SIGNALS
};

static float *make_signal(enum signal kind, int n)
{
    float *x = calloc((size_t)n + 1, sizeof(*x));
    struct test_rng rng;
    test_rng_init(&rng, (uint64_t)kind);
    assert_non_null(x);
    for (int i = 0; i < n; i++) {
        double t = i / 16000.0, phase = 2.0 * pi * (120.0 * t + 30.0 * sin(3.0 * t));
        float noise = test_rng_normal(&rng);
        const float values[SIGNALS] = {
            [SIGNAL_NOISE] = 0.1f * noise,
            [SIGNAL_TONE] = (float)sin(2.0 * pi * 997.0 * t),
            [SIGNAL_SPEECH] = (float)((sin(phase) + 0.5 * sin(2.0 * phase) + 0.1 * sin(11.0 * phase)) *
                                      (sin(5.0 * t) > 0.0 ? 0.3 : 0.001)) +
                              1e-4f * noise,
            [SIGNAL_IMPULSE] = i == n / 3 ? 1.0f : 0.0f,
            [SIGNAL_CONSTANT] = 0.5f,
            [SIGNAL_SQUARE] = i / 40 % 2 ? 1.0f : -1.0f,
            [SIGNAL_FAINT] = 1e-6f * noise,
        };
        x[i] = values[kind];
    }
    return x;
}

static void all_signals(struct engine *e)
{
    for (int kind = 0; kind < SIGNALS; kind++) {
        float *x = make_signal((enum signal)kind, 9000);
        const struct window windows[] = {
            {x, 9000, 0, 80, 40},    /* from the beginning, ends within the recording */
            {x, 9000, 160, 80, 31},  /* one hop in: less than 200 samples before it */
            {x, 9000, 3200, 80, 47}, /* runs past the end */
            {x, 9000, 8999, 80, 4},
        };
        for (size_t i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
            check(e, &windows[i], DTYPE_F32);
            check(e, &windows[i], e->wide_type);
        }
        free(x);
    }
}

static void test_against_double(void **state)
{
    test_engines(all_signals);
}

static void short_recordings(struct engine *e)
{
    static const int lengths[] = {0, 1, 2, 159, 160, 161, 199, 200, 201, 399, 400, 401, 640};
    float *x = make_signal(SIGNAL_NOISE, 640);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        /* An exact allocation, so that a sanitizer sees any read past its end. */
        float *exact = malloc((size_t)lengths[i] * sizeof(float) + 1);
        memcpy(exact, x, (size_t)lengths[i] * sizeof(float));
        check(e, &(struct window){exact, lengths[i], 0, 80, 7}, DTYPE_F32);
        free(exact);
    }
    free(x);
}

static void test_short_recordings(void **state)
{
    test_engines(short_recordings);
}

static void test_whole_windows(void **state)
{
    const int n_frames = test_rounds(3000, 3000), n = n_frames * HOP;
    for (int n_mels = 80; n_mels <= 128; n_mels += 48) {
        struct engine *e = test_engine_open(&(struct engine_case){.isa = "best", .n_threads = 2}, n_mels);
        float *x = make_signal(SIGNAL_SPEECH, n);
        check(e, &(struct window){x, n, 0, n_mels, n_frames}, DTYPE_F32);
        free(x);
        engine_close(e);
    }
}

/* Where a window is cut does not change a bit of its frames, given the maximum of the whole: neither do the threads. */
static void cutting(struct engine *e)
{
    enum { SAMPLES = 32000, FRAMES = SAMPLES / HOP };
    float *x = make_signal(SIGNAL_SPEECH, SAMPLES);
    float *whole = malloc(FRAMES * 80 * sizeof(float)), *part = malloc(FRAMES * 80 * sizeof(float));
    struct mat out = test_mat(e, DTYPE_F32, FRAMES, 80, 80);
    const float least = -HUGE_VALF;
    float *log_max = test_vector(e, &least, 1), own, scanned;
    struct window w = {x, SAMPLES, 0, 80, FRAMES};
    submit(e, &w, MEL_SCALE_OWN, NULL, out);
    test_mat_read(e, out, whole);
    for (int first = 0; first < FRAMES; first += 50) { /* a recording's maximum is found window by window */
        w.start = first * HOP;
        submit(e, &w, MEL_SCALE_SCAN, log_max, mat_view(NULL, DTYPE_F32, 50, 80, 80));
    }
    for (int first = 0; first < FRAMES; first += 37) {
        int n = FRAMES - first < 61 ? FRAMES - first : 61;
        w.start = first * HOP;
        w.n_frames = n;
        submit(e, &w, MEL_SCALE_GIVEN, log_max, mat_rows(out, 0, n));
        test_mat_read(e, out, part);
        assert_memory_equal(part, whole + first * 80, (size_t)n * 80 * sizeof(float));
    }
    /* Scanning only raises the maximum, and GIVEN leaves it alone. */
    e->v->download(e, &own, log_max, sizeof(own));
    const float high = 7.5f;
    e->v->upload(e, log_max, &high, sizeof(high));
    submit(e, &w, MEL_SCALE_SCAN, log_max, mat_view(NULL, DTYPE_F32, 50, 80, 80));
    e->v->download(e, &scanned, log_max, sizeof(scanned));
    test_engine_wait(e);
    assert_true(own < high && own > -10.0f);
    assert_true(scanned == high);
    e->v->free(e, log_max);
    e->v->free(e, out.data);
    free(x);
    free(whole);
    free(part);
}

static void test_cutting_changes_nothing(void **state)
{
    test_engines(cutting);
}

/* One after the other without a wait: the samples of the next ones are on their way while one is transformed. */
static void test_in_a_row(void **state)
{
    enum { N = 24, FRAMES = 30 };
    float *x[N], alone[FRAMES * 80], got[FRAMES * 80];
    struct mat out[N];
    struct engine *one = open_engine_for(4, 1), *e = open_engine_for(4, 2);
    if (!e)
        test_skip("samples are read where they are");
    for (int i = 0; i < N; i++) {
        x[i] = make_signal((enum signal)(i % 6), 8000 - 200 * i);
        out[i] = test_mat(e, DTYPE_F32, FRAMES, 80, 80);
    }
    for (int i = 0; i < N; i++)
        submit(e, &(struct window){x[i], 8000 - 200 * i, 0, 80, FRAMES}, MEL_SCALE_OWN, NULL, out[i]);
    test_engine_wait(e);
    struct mat single = test_mat(one, DTYPE_F32, FRAMES, 80, 80);
    for (int i = 0; i < N; i++) {
        test_mat_read(e, out[i], got);
        submit(one, &(struct window){x[i], 8000 - 200 * i, 0, 80, FRAMES}, MEL_SCALE_OWN, NULL, single);
        test_mat_read(one, single, alone);
        assert_memory_equal(got, alone, sizeof(got));
        e->v->free(e, out[i].data);
        free(x[i]);
    }
    one->v->free(one, single.data);
    engine_close(one);
    engine_close(e);
}

/* With a given maximum, what lies past the recording's last whole frame is 0 and not the floor that silence gives. */
static void past_the_end(struct engine *e)
{
    float *x = make_signal(SIGNAL_SPEECH, 1700), frames[20 * 80];
    const float max = 1.0f;
    struct mat out = test_mat(e, DTYPE_F32, 20, 80, 80);
    float *log_max = test_vector(e, &max, 1);
    const struct window w = {x, 1700, 0, 80, 20}; /* 10 frames and 100 samples */
    submit(e, &w, MEL_SCALE_GIVEN, log_max, out);
    test_mat_read(e, out, frames);
    for (int i = 0; i < 20 * 80; i++)
        assert_true((frames[i] != 0.0f) == (i < 10 * 80));
    e->v->free(e, log_max);
    e->v->free(e, out.data);
    free(x);
}

static void test_past_the_end_of_a_recording(void **state)
{
    test_engines(past_the_end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_short_recordings),
        cmocka_unit_test(test_past_the_end_of_a_recording),
        cmocka_unit_test(test_whole_windows),
        cmocka_unit_test(test_cutting_changes_nothing),
        cmocka_unit_test(test_in_a_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
