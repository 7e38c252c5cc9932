/* A text_run on the host: composed from the model's `logits`, a step at a time, with the rules in plain C.
 *
 * Slow, since all logits cross over from the engine at every step: tests hold an engine's runs against it. Belongs to the
 * thread of the text model. */
#ifndef CAPTIOND_TESTS_HOST_RUN_H
#define CAPTIOND_TESTS_HOST_RUN_H

#include "daemon/base/err.h"
#include "daemon/base/run.h"
#include "decoder/text_model.h"

struct host_run;

/* The model must outlive the object. 0 or -ENOMEM. */
int host_run_create(struct text_model *, struct host_run **, struct err *);
void host_run_destroy(struct host_run *); /* NULL is accepted */

/* As the model's own set_mask; the object has masks of its own. */
int host_run_set_mask(struct host_run *, int index, const int32_t *tokens, int n, struct err *);

/* Does what the model's `run` and `wait` do for one run; a beam search uses its first slot alone. -EINVAL for numbers that do not fit; -ENOTSUP for a run that
 * wants alignment rows, which logits do not carry; or the engine's error. */
int host_run(struct host_run *, struct text_run *, struct err *);

#endif
