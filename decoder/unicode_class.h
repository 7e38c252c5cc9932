/* Which code points are letters, numbers and white space, as the regular expressions of tokenizers see them.
 * Constant: any thread. */
#ifndef CAPTIOND_DECODER_UNICODE_CLASS_H
#define CAPTIOND_DECODER_UNICODE_CLASS_H

#include <stdint.h>

enum unicode_class {
    UNICODE_OTHER,
    UNICODE_LETTER, /* \p{L} */
    UNICODE_NUMBER, /* \p{N} */
    UNICODE_SPACE,  /* \s: the property White_Space */
};

enum unicode_class unicode_classify(uint32_t code_point);

#endif
