#!/usr/bin/env python3
"""Writes tests/golden/beam.tsv: what OpenAI's beam search finds; see README.md beside this file.

usage: beam.py OUT.tsv SPEECH_FOLDER MODEL_FOLDER…

A line is one window: model, recording (of tests/fixtures or the collection), beams, patience, length penalty (-1: none),
whether there are timestamps, the average log-probability, and the tokens.
"""
import pathlib
import sys

import torch
import whisper
from make_golden import FIXTURE, load, read_audio
from whisper.decoding import DecodingOptions, DecodingTask

WINDOWS = [
    ("harbour", 5, 1.0, None, True), ("en_night_15s_there_are_two", 5, 1.0, None, True),
    ("en_ls_1995", 5, 1.0, None, True), ("harbour", 3, 2.0, 0.6, False), ("en_ls_7902", 5, 0.5, 0.3, False),
]


def main():
    out, speech = open(sys.argv[1], "w", encoding="ascii"), pathlib.Path(sys.argv[2])
    for folder in map(pathlib.Path, sys.argv[3:]):
        model, _ = load(folder.expanduser())
        for name, beams, patience, penalty, stamps in WINDOWS:
            pcm = read_audio(FIXTURE if name == "harbour" else speech / f"{name}.flac")
            options = DecodingOptions(language="en", fp16=False, beam_size=beams, patience=patience,
                                      length_penalty=penalty, without_timestamps=not stamps)
            with torch.no_grad():
                mel = whisper.log_mel_spectrogram(pcm, n_mels=model.dims.n_mels)
                result = DecodingTask(model, options).run(mel[None])[0]
            numbers = [beams, patience, -1 if penalty is None else penalty, int(stamps), f"{result.avg_logprob:.7g}"]
            out.write("\t".join(map(str, [folder.name, name, *numbers, *result.tokens])) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
