"""Texts that were sampled: their errors are the mean over several draws, for one says little (between 35 and 59 errors on one
recording of 44 s)."""
import dataclasses
import statistics

import scoring


def sampled(answer):
    """Whether random numbers had a part in it. Only openai-whisper tells of windows that were sampled and gave nothing."""
    return answer.get("fallbacks", 0) > 0 or any(s["temperature"] > 0 for s in answer["segments"])


def wanted(recording, answer):
    """Only what a claim is about is worth the time."""
    return bool(recording.reference) and scoring.gated(scoring.group(recording)) and sampled(answer)


def variance_of_difference(a, b):
    """Of two means over draws, whose random numbers are the same by number if both were drawn; [] was not."""
    apart = [x - y for x, y in zip(a, b)] if a and b else a or b
    return statistics.variance(apart) / len(apart) if len(apart) > 1 else 0.0


def average(recording, alignment, answers):
    """The alignment of the first draw with the mean score of all, and the errors of each."""
    errors = [scoring.align(recording, a["text"]).score.errors for a in answers]
    score = scoring.Score(sum(errors) / len(errors), alignment.score.total)
    return dataclasses.replace(alignment, score=score), errors
