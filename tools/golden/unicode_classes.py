"""Writes decoder/unicode_table.h: the letters (L*) and numbers (N*) of Unicode as ranges of code points.

usage: unicode_classes.py > decoder/unicode_table.h
Needs unicodedata2 16.0.0 from PyPI: Unicode 16.0 is what the regular expressions of tiktoken 0.14 follow; with
another version, new letters would be split differently.
"""
import unicodedata2

VERSION = "16.0.0"


def ranges():
    """Yields (first, last, class) of maximal runs of one class, in ascending order."""
    start, current = 0, "-"
    for code in range(0x110001):
        kind = unicodedata2.category(chr(code))[0] if code < 0x110000 else "-"
        kind = kind if kind in "LN" else "-"
        if kind != current:
            if current != "-":
                yield start, code - 1, current
            start, current = code, kind


def main():
    assert unicodedata2.unidata_version == VERSION, unicodedata2.unidata_version
    rows = list(ranges())
    print(f"/* Written by tools/golden/unicode_classes.py from Unicode {VERSION}: {len(rows)} ranges, ascending. */")
    print("/* clang-format off */")
    print("static const struct unicode_range ranges[] = {")
    line = "   "
    for first, last, kind in rows:
        item = f" {{0x{first:X}, 0x{last:X}, {'UNICODE_LETTER' if kind == 'L' else 'UNICODE_NUMBER'}}},"
        if len(line) + len(item) > 108:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")
    print("/* clang-format on */")


main()
