/* Text in a terminal's cells: how many it takes, and where to break and cut it. Widths are wcwidth's, for which the
 * process must have a UTF-8 locale (cells_init). Strings are valid UTF-8. Any thread. */
#ifndef CAPTIOND_TOOLS_CELLS_H
#define CAPTIOND_TOOLS_CELLS_H

#include <stdio.h>

/* Takes the user's locale for the widths of characters, else C.UTF-8 where that is none of UTF-8. */
void cells_init(void);

int cells_text(const char *s);

/* Where the line that begins at s ends: as many words as fit into `columns`, or characters of a word that is longer than a
 * line, one at least. Between wide characters, which are written without spaces, a line may end anywhere. */
const char *cells_line_end(const char *s, int columns);

/* Writes s, cut with an ellipsis where it has more than `max` cells. Returns the cells. */
int cells_put(FILE *, const char *s, int max);

#endif
