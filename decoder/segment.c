#include "decoder/segment.h"

#define FRAMES_PER_STAMP 2 /* a timestamp counts 20 ms */

static int frame_of(int32_t token, int32_t timestamp_begin)
{
    return token >= timestamp_begin ? (token - timestamp_begin) * FRAMES_PER_STAMP : 0;
}

/* No pair of timestamps lies within the tokens: they are one segment, up to its last timestamp if it has one. */
static int whole_window(const int32_t *tokens, int n_tokens, int32_t timestamp_begin, int n_frames,
                        struct segment *segment)
{
    *segment = (struct segment){.first = 0, .n_tokens = n_tokens, .start = 0, .end = n_frames};
    for (int i = n_tokens - 1; i >= 0; i--) {
        if (tokens[i] < timestamp_begin)
            continue;
        if (tokens[i] > timestamp_begin)
            segment->end = frame_of(tokens[i], timestamp_begin);
        break;
    }
    return 1;
}

bool segment_ends_with_single(const int32_t *tokens, int n_tokens, int32_t timestamp_begin)
{
    return n_tokens >= 2 && tokens[n_tokens - 2] < timestamp_begin && tokens[n_tokens - 1] >= timestamp_begin;
}

int segment_tokens(const int32_t *tokens, int n_tokens, int32_t timestamp_begin, int n_frames,
                   struct segment *segments, int *advance)
{
    int n = 0, first = 0;
    bool ends_with_single = segment_ends_with_single(tokens, n_tokens, timestamp_begin);
    for (int i = 1; i <= n_tokens; i++) {
        bool cut = i < n_tokens ? tokens[i - 1] >= timestamp_begin && tokens[i] >= timestamp_begin
                                : n > 0 && ends_with_single;
        if (!cut)
            continue;
        segments[n++] = (struct segment){.first = first,
                                         .n_tokens = i - first,
                                         .start = frame_of(tokens[first], timestamp_begin),
                                         .end = frame_of(tokens[i - 1], timestamp_begin)};
        first = i;
    }
    if (n == 0) {
        *advance = n_frames;
        return whole_window(tokens, n_tokens, timestamp_begin, n_frames, segments);
    }
    /* A single timestamp at the end says that no speech follows it. */
    *advance = ends_with_single ? n_frames : segments[n - 1].end;
    return n;
}
