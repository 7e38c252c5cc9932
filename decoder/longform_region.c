#include "decoder/longform_region.h"

int64_t longform_region_within(const struct longform_region *regions, int n, int64_t start, int64_t end,
                               int64_t margin)
{
    int64_t heard = 0, from = start;
    for (int i = 0; i < n && regions[i].start - margin < end; i++) {
        int64_t first = regions[i].start - margin > from ? regions[i].start - margin : from;
        int64_t last = regions[i].end + margin < end ? regions[i].end + margin : end;
        if (last <= first)
            continue;
        heard += last - first;
        from = last;
    }
    return heard;
}
