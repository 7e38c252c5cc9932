"""usage: read_subtitles.py FILE.srt|FILE.vtt     exit status 0: a parser that is not ours reads all of it

Prints a line a cue: start and end in milliseconds, and the text with " / " between its lines. By Debian's python3-srt and
python3-webvtt; exit status 77 where they are not installed.
"""
import sys

try:
    import srt
    import webvtt
except ImportError:
    sys.exit(77)


def milliseconds(t):
    return round(t.total_seconds() * 1000)


def clock(text):
    h, m, s = text.split(":")
    return round((int(h) * 3600 + int(m) * 60 + float(s)) * 1000)


path = sys.argv[1]
if path.endswith(".srt"):
    cues = list(srt.parse(open(path, encoding="utf-8").read(), ignore_errors=False))
    assert [c.index for c in cues] == list(range(1, len(cues) + 1)), "cues are not numbered from 1"
    cues = [(milliseconds(c.start), milliseconds(c.end), c.content) for c in cues]
else:
    cues = [(clock(c.start), clock(c.end), c.text) for c in webvtt.read(path)]
before = 0
for start, end, text in cues:
    assert before <= start < end, f"{start} to {end} ms after {before} ms"
    assert text.strip() and "\n\n" not in text, "an empty cue or line"
    before = start
    print(start, end, text.replace("\n", " / "))
