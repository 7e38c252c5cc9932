/* Attributes of a terminal's text (ECMA-48). */
#ifndef CAPTIOND_TOOLS_ANSI_H
#define CAPTIOND_TOOLS_ANSI_H

#define ANSI_RESET  "\033[0m"
#define ANSI_DIM    "\033[2m"
#define ANSI_BOLD   "\033[1m"
#define ANSI_RED    "\033[31m"
#define ANSI_GREEN  "\033[32m"
#define ANSI_YELLOW "\033[33m"
#define ANSI_CYAN   "\033[36m"

#endif
