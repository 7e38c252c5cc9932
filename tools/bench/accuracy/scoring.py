"""Error rates, as openai-whisper's authors count them: OpenAI's normalisers, words (characters for Chinese, Japanese, Korean
and bare digits), an alignment with the fewest edits."""
import dataclasses
import re

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

try:
    from opencc import OpenCC
    simplified = OpenCC("t2s").convert
except ImportError:  # Chinese is then scored as it was written
    simplified = None

ENGLISH, BASIC = EnglishTextNormalizer(), BasicTextNormalizer(remove_diacritics=False)
DIGITS = {word: str(i) for i, word in enumerate("zero one two three four five six seven eight nine".split())} | {"oh": "0"}
BY_CHARACTER = ("zh", "ja", "ko")


def only_digits(text):
    return re.sub(r"\D", "", re.sub(r"[a-z]+", lambda match: DIGITS.get(match.group(), ""), text.lower()))


def is_digits(recording):
    return recording.english and re.fullmatch(r"[\d ]+", ENGLISH(recording.reference)) is not None


def by_character(recording):
    return recording.language in BY_CHARACTER or is_digits(recording)


def units(text, recording):
    """What errors are counted in: a list of words or characters."""
    if recording.language == "zh" and simplified:
        text = simplified(text)
    text = ENGLISH(text) if recording.english else BASIC(text)
    if is_digits(recording):
        text = only_digits(text)
    return list(text.replace(" ", "")) if by_character(recording) else text.split()


def count(errors):
    return f"{errors:.1f}" if errors % 1 else f"{errors:.0f}"


@dataclasses.dataclass
class Score:
    errors: float = 0  # a mean over several draws may have a fraction
    total: int = 0  # units of the reference

    def __add__(self, other):
        return Score(self.errors + other.errors, self.total + other.total)

    @property
    def percent(self):
        return 100 * self.errors / max(1, self.total)

    def __str__(self):
        return f"{self.percent:.2f} ({count(self.errors)})"


@dataclasses.dataclass
class Alignment:
    score: Score
    kept: list  # for each unit of the reference, whether it was recognised
    missing: list  # … whether nothing stands in its place
    reference: list
    steps: list  # jiwer's


LOW_TRUST = "low trust"


def group(recording):
    """What a recording is pooled with. References of low trust, those of the film among them, are reported and nothing is
    gated on them."""
    if not recording.trusted:
        return LOW_TRUST
    if not recording.english:
        return recording.language
    return "digits" if is_digits(recording) else f"English, {'mixed' if recording.kind == 'mixed' else 'clean'}"


def gated(name):
    return name != LOW_TRUST


def align(recording, text):
    reference, heard = units(recording.reference, recording), units(text, recording)
    result = jiwer.process_words(" ".join(reference), " ".join(heard))
    kept, missing = [False] * len(reference), [False] * len(reference)
    for step in result.alignments[0]:
        for i in range(step.ref_start_idx, step.ref_end_idx):
            kept[i], missing[i] = step.type == "equal", step.type == "delete"
    errors = result.substitutions + result.deletions + result.insertions
    return Alignment(Score(errors, len(reference)), kept, missing, reference, result.alignments[0])


def lost_runs(ours, theirs, least):
    """Stretches of the reference of which ours has nothing right and misses `least` units or more, while theirs has as many
    right: [(first, end)]."""
    runs, first = [], None
    for i in range(len(ours.kept) + 1):
        inside = i < len(ours.kept) and not ours.kept[i]
        if inside and first is None:
            first = i
        if not inside and first is not None:
            if sum(ours.missing[first:i]) >= least and sum(theirs.kept[first:i]) >= least:
                runs.append((first, i))
            first = None
    return runs


def word_count(text):
    return len(text.split())
