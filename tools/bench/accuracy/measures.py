"""What must hold, and whether it does: each function measures one claim and returns rows for the report."""
import dataclasses
import difflib
import math
import statistics

import collection
import draws
import scoring
from modes import BEAM, GREEDY, PLAIN, UNSTAMPED, WORDS

# Percentage points that our pooled error rate may lie above the better peer's, and above our own in f32.
ABOVE_PEER, ABOVE_F32 = 0.2, 0.3
SAME_TOKENS = 95  # percent of the recordings
WORD_MEDIAN, WORD_MOST = 0.020, 0.100  # s; 95 % of the words lie within WORD_MOST
LANGUAGE_LEAST = 3.0  # s of a recording whose language must be found
MUSIC_WORDS = 2
LOST = 5  # reference words in a row
SUNG = "sung"
LOOP_RATIO = 2.4  # OpenAI's threshold

OURS, OURS_DEFAULT, OURS_OPEN, OURS_DEFAULT_OPEN = "captiond f32", "captiond", "captiond f32, gate off", "captiond, gate off"
FASTER, OPENAI = "faster-whisper f32", "openai-whisper f32"
SIDES = [OURS, OURS_DEFAULT, OURS_OPEN, FASTER, OPENAI]


@dataclasses.dataclass
class Claim:
    item: str
    what: str
    bar: str
    value: str
    passed: bool | None  # None: reported only


def pooled(table):
    """{group: {side: Score}} of {recording: {side: Alignment}}."""
    groups = {}
    for recording, sides in table.items():
        group = groups.setdefault(scoring.group(recording), {})
        for side, alignment in sides.items():
            group[side] = group.get(side, scoring.Score()) + alignment.score
    return groups


def better_peer(sides):
    return min((FASTER, OPENAI), key=lambda side: sides[side].errors)


def is_near(sides, side, other, bar, drawn):
    """Whether a difference lies within its standard error of its bar. drawn: [{side: [errors]}] of the recordings that were."""
    variance = sum(draws.variance_of_difference(errors.get(side, []), errors.get(other, [])) for errors in drawn)
    error = 100 * math.sqrt(variance) / max(1, sides[side].total)
    return abs(sides[side].percent - sides[other].percent - bar) < error


def undecided(groups, drawn):
    """The groups in which a claim about error rates could turn out otherwise with other random numbers. drawn: {recording:
    {side: [errors]}}."""
    found = []
    for group, sides in groups.items():
        here = [errors for recording, errors in drawn.items() if scoring.group(recording) == group]
        if scoring.gated(group) and (is_near(sides, OURS, better_peer(sides), ABOVE_PEER, here)
                                     or is_near(sides, OURS_DEFAULT, OURS, ABOVE_F32, here)):
            found.append(group)
    return found


def error_rates(model, mode, groups):
    claims = []
    for group, sides in groups.items():
        if not scoring.gated(group):
            continue
        better = better_peer(sides)
        where = f"{model}, {mode.name}, {group}"
        above = sides[OURS].percent - sides[better].percent
        claims.append(Claim("1", f"{where}: f32 above {better.removesuffix(' f32')}", f"≤ {ABOVE_PEER}", f"{above:+.2f}",
                            above <= ABOVE_PEER))
        above = sides[OURS_DEFAULT].percent - sides[OURS].percent
        claims.append(Claim("1", f"{where}: default precision above f32", f"≤ {ABOVE_F32}", f"{above:+.2f}", above <= ABOVE_F32))
    return claims


@dataclasses.dataclass
class Difference:
    recording: str
    seek: int  # frame at which the window begins
    at: int  # token of the window
    ours: int
    theirs: int
    gap: float | None = None  # of openai-whisper's logits: its own choice above ours
    kind: str = ""


def segments_with_seek(answer):
    return [(s["seek"], s["tokens"]) for s in answer["segments"] if s["tokens"]]


def first_difference(name, ours, theirs):
    """The first token that differs, with the window and what stands before it there; None if there is none."""
    a = [(seek, t) for seek, tokens in segments_with_seek(ours) for t in tokens]
    b = [(seek, t) for seek, tokens in segments_with_seek(theirs) for t in tokens]
    for i in range(max(len(a), len(b))):
        x, y = a[i] if i < len(a) else (None, -1), b[i] if i < len(b) else (None, -1)
        if x == y:
            continue
        seek = y[0] if y[0] is not None else x[0]
        start = next((k for k in range(i) if b[k][0] == seek), i)
        difference = Difference(name, seek, i - start, x[1], y[1], kind="" if x[0] == y[0] else "where the window ends")
        return difference, [t for _, t in b[:start]], [t for _, t in b[start:i]]
    return None


def is_cut_loop(ours, theirs, difference):
    """Ours is where a repetitive text of theirs begins. (The ratio is that of a text before anything was cut.)"""
    n_ours = sum(len(tokens) for seek, tokens in segments_with_seek(ours) if seek == difference.seek)
    return n_ours == difference.at and any(s["compression_ratio"] > LOOP_RATIO for s in theirs["segments"]
                                           if s["seek"] == difference.seek)


def same_tokens(model, recordings, ours, theirs, peer):
    """ours, theirs: {recording name: answer}."""
    differences = []
    for recording in recordings:
        found = first_difference(recording.name, ours[recording.name], theirs[recording.name])
        if not found:
            continue
        difference, prompt, prefix = found
        if is_cut_loop(ours[recording.name], theirs[recording.name], difference):
            difference.kind = "a loop, of which captiond keeps one round"
        if not difference.kind:
            answer = peer.ask(recording, do="difference", language=recording.language or theirs[recording.name]["language"],
                              seek=difference.seek, prompt=prompt, prefix=prefix,
                              candidates=[difference.theirs, difference.ours])
            difference.gap, difference.kind = answer["gap"], answer["kind"]
        differences.append(difference)
    share = 100 * (1 - len(differences) / max(1, len(recordings)))
    claim = Claim("2", f"{model}: recordings with openai-whisper's tokens", f"≥ {SAME_TOKENS} %",
                  f"{share:.1f} % ({len(recordings) - len(differences)}/{len(recordings)})", share >= SAME_TOKENS)
    return [claim], differences


def word_times(model, recordings, ours, theirs):
    """Words that both have, paired in order; the starts and the ends of each."""
    apart = []
    for recording in recordings:
        a, b = ours[recording.name]["words"], theirs[recording.name]["words"]
        matcher = difflib.SequenceMatcher(None, [w["word"].strip() for w in a], [w["word"].strip() for w in b], autojunk=False)
        for i, j, n in matcher.get_matching_blocks():
            for x, y in zip(a[i:i + n], b[j:j + n]):
                apart += [abs(x["start"] - y["start"]), abs(x["end"] - y["end"])]
    if not apart:
        return [Claim("3", f"{model}: word times", f"≤ {1000 * WORD_MEDIAN:.0f} ms", "no words", False)]
    apart.sort()
    median, most = statistics.median(apart), apart[int(0.95 * (len(apart) - 1))]
    return [Claim("3", f"{model}: median difference of {len(apart) // 2} words' times", f"≤ {1000 * WORD_MEDIAN:.0f} ms",
                  f"{1000 * median:.0f} ms", median <= WORD_MEDIAN + 1e-6),
            Claim("3", f"{model}: 95 % of them", f"≤ {1000 * WORD_MOST:.0f} ms", f"{1000 * most:.0f} ms",
                  most <= WORD_MOST + 1e-6)]


def languages(model, recordings, ours, theirs):
    """Recordings of a known language longer than LANGUAGE_LEAST: {name: language}."""
    asked = [r for r in recordings if r.language and r.seconds > LANGUAGE_LEAST]
    right = [r for r in asked if theirs[r.name] == r.language]
    wrong = [f"{r.name} ({ours[r.name]})" for r in right if ours[r.name] != r.language]
    return [Claim("4", f"{model}: language found where openai-whisper finds it ({len(right)} of {len(asked)})", "all",
                  ", ".join(wrong) or f"all {len(right)}", not wrong)]


def stray_words(model, mode, table):
    """table: {recording: {side: words}} of what has no speech."""
    claims = []
    silent = [r for r in table if r.kind in ("silence", "noise")]
    music = [r for r in table if r.kind == "music" and SUNG not in r.notes]
    for side in (OURS, OURS_DEFAULT):
        words = sum(table[r][side] for r in silent)
        claims.append(Claim("5", f"{model}, {mode.name}: words of {side} on silence and noise", "0", str(words), words == 0))
        words = sum(table[r][side] for r in music)
        claims.append(Claim("5", f"{model}, {mode.name}: words of {side} on music", f"≤ {MUSIC_WORDS}", str(words),
                            words <= MUSIC_WORDS))
    return claims


@dataclasses.dataclass
class Loss:
    recording: str
    mode: str
    side: str
    words: str


def lost_speech(model, mode, table, peers_table):
    """table: {recording: {side: Alignment}}, ours; peers_table: the peers', which may come from another mode."""
    losses = []
    for recording, sides in table.items():
        better = better_peer({side: a.score for side, a in peers_table[recording].items()})
        for side in (OURS, OURS_DEFAULT):
            for first, end in scoring.lost_runs(sides[side], peers_table[recording][better], LOST):
                words = " ".join(sides[side].reference[first:end])
                losses.append(Loss(recording.name, mode.name, side, words))
    claim = Claim("6", f"{model}, {mode.name}: runs of {LOST} words or more lost", "0", str(len(losses)), not losses)
    return [claim], losses


def speeds(model, timings):
    """timings: {(side, mode name): [seconds]}."""
    claims = []
    for mode in (GREEDY, BEAM):
        ours = timings[OURS_DEFAULT, mode.name]
        for side in sorted({side for side, name in timings if name == mode.name and side != OURS_DEFAULT}):
            theirs = timings[side, mode.name]
            value = f"{min(ours) / min(theirs):.2f} of the least, {statistics.median(ours) / statistics.median(theirs):.2f} of the median"
            claims.append(Claim("7", f"{model}, {mode.name}: time beside {side}", "≤ 1", value,
                                min(ours) <= min(theirs) and statistics.median(ours) <= statistics.median(theirs)))
    return claims
