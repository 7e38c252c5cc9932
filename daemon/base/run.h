/* What decoder/ asks of a text model and what it gets back: plain data that crosses between decoder/ and
 * gpu/, which do not include one another.
 *
 * A *slot* holds one sequence of tokens and its self-attention cache. An *audio slot* holds one encoded
 * window (its cross-attention keys and values); several slots may read the same audio slot. A *run* extends
 * one slot: it feeds the tokens that the slot's cache has not seen, verifies a draft if there is one, and then
 * samples token by token until end of text, a limit, or a rule stops it. With beams it keeps several hypotheses, each in
 * a slot of its own, and reports the best. Rules go in as data and tokens come out, so that an engine on a device
 * never waits for the host between tokens. After a run with beams only the prompt is cached, in the first slot. */
#ifndef CAPTIOND_BASE_RUN_H
#define CAPTIOND_BASE_RUN_H

#include <stdint.h>

#define RUN_TOKENS_MAX   448  /* n_text_ctx of every Whisper */
#define RUN_TOKEN_MASKS  8    /* suppression masks a model keeps in engine memory */
#define RUN_ALIGN_HEADS  32   /* upper bound over all Whisper sizes */
#define RUN_AUDIO_FRAMES 1500 /* n_audio_ctx: 20 ms each, 30 s */
#define RUN_BEAMS_MAX    8    /* hypotheses of a beam search */

#define RUN_TEMPERATURE_LEAST 1e-6f /* 1 / temperature is a number */

/* The decoding rules of OpenAI's whisper/decoding.py (SuppressBlank, SuppressTokens, ApplyTimestampRules), as
 * numbers. Token ids are the model's own. */
struct token_rules {
    int32_t eot;             /* end of text: ends the run and is reported as its last token */
    int32_t timestamp_begin; /* <|0.00|>; every id from here on is a timestamp */
    int32_t no_timestamps;   /* never sampled when `timestamps` is set */
    int32_t timestamps;      /* 1: timestamps come in pairs, never decrease, and win over text when their
                                summed probability exceeds the best text token's */
    int32_t max_initial_timestamp; /* greatest index of the first timestamp (50 = 1.00 s), -1: any */
    int32_t mask;                  /* index of the suppression mask for every sampled token, -1: none */
    int32_t first_mask;            /* the same, in addition, for the first sampled token only, -1: none */
    float temperature; /* 0: argmax, ties to the lower id; else, from RUN_TEMPERATURE_LEAST on: sample from
                          softmax(logits / temperature) */
    uint64_t seed;     /* of the sampling, together with the position: a run can be repeated exactly */
};

/* Beam search as in OpenAI's whisper/decoding.py (BeamSearchDecoder, MaximumLikelihoodRanker). In each step every
 * hypothesis offers its width + 1 most probable continuations. They are ranked by the sum of their log-probabilities; those
 * that rank before the width-th unfinished one and end the text are finished, the best `width` others go on. The search
 * ends with round(width · patience) finished ones (halves to even) or at the run's limits, and then, if fewer than
 * `width` are finished, the best unfinished ones fill up. The result is the one with the greatest sum of
 * log-probabilities divided by a penalty for its length, which is the number of tokens produced without eot, at least 1.
 *
 * Where it differs: a continuation that the rules forbid is never taken, so that beams may be empty. */
struct beam_search {
    int32_t width;        /* hypotheses that are kept, at most RUN_BEAMS_MAX; 0 or 1: no search, greedy */
    float patience;       /* 1: ends with `width` finished hypotheses; 0 stands for 1 */
    float length_penalty; /* α: the penalty is ((5 + length) / 6)^α; negative: it is the length */
};

#define RUN_FLAW "the text decoder's numbers became too large for the engine, or the model is damaged"

enum run_stop {
    RUN_STOP_EOT, /* the last token is eot */
    RUN_STOP_LIMIT, /* max_tokens were produced; or with a patience below 1 the search ended before its result did */
    RUN_STOP_CTX, /* the text context is full */
    RUN_STOP_FLAW, /* the logits were no numbers, so that there is no text: an error, in the words of RUN_FLAW */
    RUN_IN_WORK, /* it has not ended: only in a batch that goes on */
};

struct text_run {
    /* What is asked. Arrays are read until the wait. */
    int32_t slot;          /* the first of beam.width slots */
    int32_t audio;         /* audio slot that cross-attention reads */
    int32_t n_cached;      /* leading tokens whose keys and values the slot already holds; 0 starts anew */
    int32_t n_prompt;      /* tokens that are given; 0 < n_prompt, n_cached < n_prompt */
    int32_t n_draft;       /* tokens after the prompt that are a guess to be verified, ≥ 0; 0 with beams */
    const int32_t *tokens; /* [n_prompt + n_draft] */
    int32_t sample_begin;  /* index at which "sampled" begins for the rules (first_mask, timestamp pairs):
                                   n_prompt, or less where part of the prompt is earlier output */
    int32_t max_tokens;    /* most tokens to produce, verified ones included; > 0 */
    struct token_rules rules; /* with beams the temperature is 0 */
    struct beam_search beam;
    int32_t probe_token; /* token whose probability is wanted at probe_index, or -1. It is the softmax over
                                   all unmasked logits: no-speech detection */
    int32_t
        probe_index; /* index of the prompt token after which it is looked for, n_cached ≤ it < n_prompt */
    int32_t want_align; /* 1: return the alignment heads' rows */

    /* What comes back, valid after the wait. The arrays are the caller's. */
    int32_t out_capacity; /* entries in out_tokens and out_logprobs, ≥ max_tokens */
    int32_t *out_tokens;  /* [n_out] the produced tokens, verified ones included, eot last where it stopped */
    float *out_logprobs;  /* [n_out] log-probability under the rules, at temperature 1 */
    float *out_align;     /* NULL, or [n_align_rows, n_align_heads, RUN_AUDIO_FRAMES] post-softmax
                                   cross-attention of the alignment heads. Row 0 belongs to the input token at
                                   sample_begin − 1 (the one that predicted the token at sample_begin); the last one to
                                   the last non-eot token that was fed. Rows of cached tokens are those of the run that
                                   fed them, if it wanted them. The caller gives room for
                                   (n_prompt − sample_begin + max_tokens + 1) rows. */
    int32_t n_out;
    int32_t n_accepted; /* of the draft */
    int32_t n_align_rows;
    int32_t n_steps; /* decoder passes spent, the first batched one included */
    enum run_stop stop;
    float probe_prob;
};

#endif
