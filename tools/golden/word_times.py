"""Writes tests/golden/word_times.tsv: the words of our recordings and their times by openai-whisper.

usage: word_times.py MODEL_FOLDER… > tests/golden/word_times.tsv
Needs what make_golden.py needs. A line a word: model, recording, start and end in milliseconds, probability, the word.
"""
import pathlib
import sys

import soundfile
import torch
import whisper

import make_golden

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures"


def words(folder, name):
    model, heads = make_golden.load(folder)
    mask = torch.zeros(model.dims.n_text_layer, model.dims.n_text_head, dtype=torch.bool)
    for layer, head in heads:
        mask[layer, head] = True
    model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    pcm, rate = soundfile.read(FIXTURES / name, dtype="float32")
    assert rate == 16000
    return whisper.transcribe(model, pcm, language="en", word_timestamps=True, fp16=False, temperature=0.0)


for folder in sys.argv[1:]:
    for name in ["harbour.flac", "speech.flac"]:
        result = words(pathlib.Path(folder).expanduser(), name)
        for segment in result["segments"]:
            for w in segment["words"]:
                print(pathlib.Path(folder).name, name, round(w["start"] * 1000), round(w["end"] * 1000),
                      f"{w['probability']:.3f}", w["word"], sep="\t")
