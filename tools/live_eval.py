"""Latency of live captions on the audio's clock, from live-eval's output.

usage: live_eval.py OUTPUT.jsonl [REFERENCE.jsonl] [--text HYPOTHESES.tsv]

For each committed word: the audio heard when it was first shown at its place (as part of the tentative tail or
committed at once) and when it was committed, minus the time at which the word ended. The end comes from REFERENCE
(lines of ["NAME", [[word, start, end], …]] by another aligner) where the word is found there, else the word is left out;
without REFERENCE from the captions' own word times. --text writes `file<TAB>text` for scoring.
"""
import argparse
import difflib
import json
import os
import re
import statistics


def plain(word):
    return re.sub(r"[^\w']", "", word.lower())


def read(path):
    """Yields (name, seconds, passes, totals) for each recording."""
    name = seconds = None
    passes = []
    for line in open(path, encoding="utf-8"):
        row = json.loads(line)
        if "file" in row:
            name, seconds, passes = os.path.basename(row["file"]), row["seconds"], []
        elif "pass" in row:
            passes.append(row)
        else:
            yield name, seconds, passes, row


def timeline(passes):
    """Committed words as [text, start, end, shown, committed]."""
    words, shown = [], {}
    for p in passes:
        now = [w for w in p["commit"] if plain(w[0])]
        tail = [plain(w) for w in p["partial"].split() if plain(w)]
        seen = [plain(w[0]) for w in now] + tail
        for k, w in enumerate(seen):
            shown.setdefault((len(words) + k, w), p["heard"])
        for w in now:
            words.append([w[0], w[1], w[2], shown[(len(words), plain(w[0]))], p["heard"]])
    return words


def spread(values):
    values = sorted(values)
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} {values[int(0.9 * (len(values) - 1))]:.2f} {values[-1]:.2f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("reference", nargs="?")
    parser.add_argument("--text")
    args = parser.parse_args()
    reference = dict(json.loads(line) for line in open(args.reference)) if args.reference else None
    text = open(args.text, "w", encoding="utf-8") if args.text else None
    shown, committed, totals, audio, revised, partials = [], [], {}, 0.0, 0, 0
    for name, seconds, passes, row in read(args.output):
        audio += seconds
        for key, value in row.items():
            totals[key] = totals.get(key, 0) + value
        if text:
            said = "".join(w[0] for p in passes for w in p["commit"])
            text.write(f"{name}\t{' '.join(said.split())}\n")
        words = timeline(passes)
        ends = {i: w[2] for i, w in enumerate(words)}
        if reference is not None:
            known = reference.get(name.rsplit(".", 1)[0], [])
            match = difflib.SequenceMatcher(None, [plain(w[0]) for w in known], [plain(w[0]) for w in words], False)
            ends = {b + i: known[a + i][2] for a, b, n in match.get_matching_blocks() for i in range(n)}
        for i, w in enumerate(words):
            if i in ends:
                shown.append(w[3] - ends[i])
                committed.append(w[4] - ends[i])
        before = ""
        for p in passes:
            partials += bool(before)
            now = "".join(w[0] for w in p["commit"]) + p["partial"]
            a, b = [plain(w) for w in before.split()], [plain(w) for w in now.split()]
            revised += bool(before) and b[: len(a)] != a
            before = p["partial"]
    print(f"{audio:.0f} s, {len(committed)} words with a known end")
    print(f"shown after its end, median / p90 / max s: {spread(shown)}")
    print(f"committed after its end:                   {spread(committed)}")
    print(f"tentative tails that were not simply continued: {revised} of {partials}")
    if totals.get("passes"):
        print(f"passes {totals['passes']}, decoder steps {totals['steps']} ({totals['steps'] / totals['passes']:.2f} "
              f"a pass), draft tokens {totals['draft']}, accepted {totals['accepted']} "
              f"({100 * totals['accepted'] / max(1, totals['draft']):.0f} %), spent {totals['spent']:.1f} s")


if __name__ == "__main__":
    main()
