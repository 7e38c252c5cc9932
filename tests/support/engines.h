/* What the oracle tests share: every engine that this machine can run, and matrices in its memory.
 *
 * The tests see engine memory through upload and download only, so that any engine can face them. Which engines there
 * are is one file's business: engine_cases.c for the host engine, tests/cuda/engine_cases.c for the CUDA engine on the
 * processor, with which the same tests are linked once more. */
#ifndef CAPTIOND_TESTS_ENGINES_H
#define CAPTIOND_TESTS_ENGINES_H

#include "gpu/engine.h"

/* Unit roundoff: half the distance from 1 to the next number. */
#define EPS_F32  0x1p-24
#define EPS_BF16 0x1p-8
#define EPS_F16  0x1p-11

struct engine_case {
    const char *isa; /* CAPTIOND_ISA */
    enum engine_precision precision;
    int n_threads;
    bool deferred;
};

/* Calls fn with an engine for each instruction set of this processor, in f32 and where there is one in bf16, with 1 to
 * 4 threads and once deferred. Prints the case, so that a failure says where it happened. */
void test_engines(void (*fn)(struct engine *));
struct engine *test_engine_open(const struct engine_case *, int n_mels);

/* Whether the engines are emulated, a thousand times slower than they are: tests leave out what is only large. */
extern const bool test_engines_emulated;
/* How often to try: on a processor's own engines, and on emulated ones. Where each access of a kernel is looked at for races as
 * well, a quarter of that: it is the same places that access each time. */
int test_rounds(int own, int emulated);
/* Whether there is a real GPU under the engine instead: nothing is too large for it. */
bool test_on_gpu(void);

/* For tests that name an instruction set: all there are, [0] exists everywhere. An engine that is limited to one, or NULL
 * where there is no such; its memory can be looked at after a wait, until the next operation is submitted. */
#define N_ISAS 4
extern const char *const isa_names[N_ISAS];
struct engine *open_engine(const char *isa, int n_threads, enum engine_precision);
/* The same for many slots, or with weights of 8 bits; NULL where that makes no difference. */
struct engine *open_engine_of_many(const char *isa, int n_threads, enum engine_precision);
struct engine *open_engine_of_bytes(const char *isa, int n_threads, enum engine_precision);
/* For a device of at most so many multiprocessors, as which kernels are chosen, and so many windows together; NULL where neither
 * makes a difference. */
struct engine *open_engine_for(int multiprocessors, int n_windows);
/* Whether it keeps weights and caches as half floats. */
bool test_keeps_half(const char *isa, enum engine_precision);

void test_engine_wait(struct engine *); /* fails the test on an error */

/* A matrix in engine memory whose gaps between rows, and a row behind its end, hold NaN. */
struct mat test_mat(struct engine *, enum dtype, int rows, int cols, int stride);
/* Writes [rows, cols] values, rounded to the matrix's type; `values` becomes what was written. */
void test_mat_write(struct engine *, struct mat, float *values);
/* Reads [rows, cols] values and fails the test if a gap of a matrix of test_mat has been written to. Waits. */
void test_mat_read(struct engine *, struct mat, float *values);
float *test_vector(struct engine *, const float *values, int n);

/* Fails with the place of the worst element unless |got − want| ≤ tolerance everywhere. */
void test_close(const char *what, const float *got, const double *want, const double *tolerance, int rows,
                int cols);

float test_round(enum dtype, float); /* to the nearest value of the type */
double test_half(double); /* to the nearest half float, ties to even: 11 bits, 2^−24 apart below 2^−14 */
double test_rounding(enum dtype, double); /* bound of the error when a result of about that much is stored */

#endif
