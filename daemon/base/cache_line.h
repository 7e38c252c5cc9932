/* What two threads write goes on lines of its own, or each write takes the other's line away. */
#ifndef CAPTIOND_BASE_CACHE_LINE_H
#define CAPTIOND_BASE_CACHE_LINE_H

#define CACHE_LINE 64 /* bytes */

#endif
