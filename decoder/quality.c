#include "decoder/quality.h"

#include <string.h>

#define ZLIB_CONST
#include <zlib.h>

float quality_compression_ratio(const char *text, size_t n_bytes)
{
    if (n_bytes == 0)
        return 0.0f;
    /* Only the length of the output counts, so it goes to the same few bytes again and again. */
    z_stream z = {0};
    if (deflateInit(&z, Z_DEFAULT_COMPRESSION) != Z_OK)
        return 0.0f;
    unsigned char out[256];
    z.next_in = (const unsigned char *)text;
    z.avail_in = (unsigned)n_bytes;
    int status;
    do {
        z.next_out = out;
        z.avail_out = sizeof(out);
        status = deflate(&z, Z_FINISH);
    } while (status == Z_OK);
    float ratio = (float)n_bytes / (float)z.total_out;
    deflateEnd(&z);
    return ratio;
}

/* Of the ratio that is to be confirmed. A loop decoded anew gives text of less than half its ratio. */
#define CONFIRMING_RATIO 0.9f

static bool improbable(const struct quality *q, const struct quality_limits *limits)
{
    return q->avg_logprob < limits->avg_logprob;
}

bool quality_is_silence(const struct quality *q, const struct quality_limits *limits)
{
    return q->no_speech_prob > limits->no_speech_prob && !(q->avg_logprob > limits->avg_logprob);
}

bool quality_is_poor(const struct quality *q, const struct quality_limits *limits)
{
    if (q->no_speech_prob > limits->no_speech_prob && improbable(q, limits))
        return false;
    return improbable(q, limits) || q->looped || (limits->n_tokens > 0 && q->n_tokens > limits->n_tokens) ||
           (limits->compression_ratio > 0.0f && q->compression_ratio > limits->compression_ratio);
}

bool quality_is_confirmed(const struct quality *poor, const struct quality *other,
                          const struct quality_limits *limits)
{
    struct quality_limits others = *limits;
    others.compression_ratio = 0.0f;
    return !quality_is_poor(poor, &others) &&
           other->compression_ratio >= CONFIRMING_RATIO * poor->compression_ratio;
}
