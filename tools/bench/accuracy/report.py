"""The report: Markdown for people, figures for programs."""
import datetime
import platform
import statistics

import measures
import scoring

TITLES = {"1": "Error rates", "2": "Tokens", "3": "Word times", "4": "Languages", "5": "Words where nobody speaks",
          "6": "Lost speech", "7": "Speed"}
COLUMNS = [measures.OURS_DEFAULT, measures.OURS, measures.OURS_OPEN, measures.FASTER, measures.OPENAI]
STRAY_COLUMNS = [measures.OURS_DEFAULT, measures.OURS_DEFAULT_OPEN, measures.OURS, measures.OURS_OPEN, measures.FASTER,
                 measures.OPENAI]


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def verdict(claim):
    return {True: "pass", False: "**short**", None: ""}[claim.passed]


def claims_table(studies):
    claims = sorted((claim for study in studies for claim in study.claims), key=lambda claim: claim.item)
    return table(["", "claim", "bar", "measured", ""],
                 [[c.item, c.what, c.bar, c.value, verdict(c)] for c in claims])


def pooled_table(study, mode):
    rows = []
    for group, sides in measures.pooled(study.tables[mode]).items():
        name = group if scoring.gated(group) else f"{group} (not gated)"
        rows.append([name, sides[measures.OURS].total, *[sides[side] for side in COLUMNS]])
    return table([f"{study.model}, {mode.name}", "units", *COLUMNS], rows)


def stray_table(study, mode):
    rows = [[recording.name, recording.kind + (", singing" if measures.SUNG in recording.notes else ""),
             *[sides[side] for side in STRAY_COLUMNS]] for recording, sides in study.stray[mode].items()]
    return table([f"{study.model}, {mode.name}", "", *STRAY_COLUMNS], rows)


def file_table(study):
    """Errors of each recording, greedy and beam 5, where any two sides differ."""
    rows = []
    for mode, alignments in study.tables.items():
        for recording, sides in alignments.items():
            errors = [sides[side].score.errors for side in COLUMNS]
            if len(set(errors)) > 1:
                rows.append([recording.name, mode.name, sides[measures.OURS].score.total, *map(scoring.count, errors)])
    return table([study.model, "", "units", *COLUMNS], sorted(rows))


def draw_table(studies):
    rows = [[study.model, mode.name, recording.name, side, " ".join(map(str, sorted(errors))),
             f"{statistics.mean(errors):.1f}"]
            for study in studies for mode, recordings in study.draws.items()
            for recording, sides in recordings.items() for side, errors in sides.items()]
    return table(["model", "", "recording", "side", "errors of each draw", "mean"], rows)


def difference_table(study):
    rows = [[d.recording, f"{d.seek / 100:.2f} s", d.at, "not comparable" if d.gap is None else f"{d.gap:+.5f}",
             d.kind] for d in study.differences]
    return table([study.model, "window at", "token", "openai-whisper's choice above ours", "of"], rows)


def speed_table(studies):
    rows = []
    for study in studies:
        for (side, mode), seconds in study.timings.items():
            rows.append([study.model, mode, side, f"{min(seconds):.2f}", f"{statistics.median(seconds):.2f}",
                         f"{study.timed.seconds / min(seconds):.0f}"])
    return table(["model", "", "program", "least, s", "median, s", "times real time"], rows)


def introduction(studies, options):
    names = ", ".join(dict.fromkeys(version for s in studies for version in (s.captiond.version, s.faster.version,
                                                                             s.openai.version)))
    recordings = {r.name: r for s in studies for r in s.recordings}
    minutes = sum(r.seconds for r in recordings.values()) / 60
    chinese = "" if scoring.simplified or not any(r.language == "zh" for r in recordings.values()) else \
        " Chinese was not mapped to simplified characters, because opencc is missing."
    drawn = {recording.name for s in studies for of_mode in s.draws.values() for recording in of_mode}
    return f"""# Accuracy

Written by `make accuracy` on {datetime.date.today()}: {names}; {processor()}, {options.threads} threads; {len(recordings)}
recordings, {minutes:.0f} minutes. Everything is measured by one command with the same weights and recordings{
    "" if options.fresh else "; answers of earlier runs with the same versions, weights, recordings and options are reused"}.

Error rates are by word with OpenAI's normalisers, by character for Chinese (simplified), Japanese and bare digits.{chinese}
The language is told. "captiond" is what users get: default precision, voice gate on. openai-whisper and faster-whisper
compute in float32, each with its own defaults and fallback to higher temperatures; both hear the recording as ffmpeg's library
resamples it. References of low trust, which machines have made, are reported, and nothing is gated on them.

Where a side sampled a text (at a temperature above 0, as the most probable one looked wrong), one draw says little: with a
trusted reference its errors are the mean over {options.draws} draws with different seeds, each side by itself, and over {
    3 * options.draws} in a group where a claim's value was within a standard error of its bar. That is so on
{len(drawn)} recordings, and the claims use these means. Tokens and lost speech are those of the first draw.
"""


def markdown(studies, options):
    parts = [introduction(studies, options), "## What is claimed\n", claims_table(studies), "## Error rates, % (errors)\n"]
    parts += [pooled_table(study, mode) for study in studies for mode in study.tables]
    if any(study.draws for study in studies):
        parts += ["## Sampled texts\n", draw_table(studies)]
    parts += ["## Words put out where nobody speaks\n"]
    parts += [stray_table(study, mode) for study in studies for mode in study.stray]
    parts += ["## Tokens that differ from openai-whisper's\n",
              "Greedy, temperature 0, f32, gate off, from the same samples: the first difference of each recording, and by how "
              "much openai-whisper's own logits prefer its token. Where the rule decides whether a timestamp comes, it is "
              "the difference between the two sides of that comparison.\n"]
    parts += [difference_table(study) for study in studies]
    losses = [loss for study in studies for loss in study.losses]
    if losses:
        parts += ["## Lost speech\n", table(["recording", "", "side", "words of the reference"],
                                            [[x.recording, x.mode, x.side, x.words] for x in losses])]
    if any(study.timings for study in studies):
        parts += [f"## Speed\n\n{studies[0].timed.name}, {studies[0].timed.seconds:.1f} s, turn by turn, without loading:\n",
                  speed_table(studies)]
    parts += ["## Recordings on which the sides differ, errors\n"]
    parts += [file_table(study) for study in studies]
    return "\n".join(parts)


def figures(studies):
    """Everything, for programs."""
    return [{"model": study.model,
             "claims": [vars(claim) for claim in study.claims],
             "differences": [vars(difference) for difference in study.differences],
             "losses": [vars(loss) for loss in study.losses],
             "errors": {mode.name: {recording.name: {side: [a.score.errors, a.score.total] for side, a in sides.items()}
                                    for recording, sides in alignments.items()} for mode, alignments in study.tables.items()},
             "draws": {mode.name: {recording.name: sides for recording, sides in recordings.items()}
                       for mode, recordings in study.draws.items()},
             "stray": {mode.name: {recording.name: sides for recording, sides in words.items()}
                       for mode, words in study.stray.items()},
             "timings": [[side, mode, seconds] for (side, mode), seconds in study.timings.items()]} for study in studies]
