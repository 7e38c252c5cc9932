"""openai-whisper behind a pipe: a JSON request a line in, a JSON answer a line out. See peers.py.

usage: worker_openai.py MODEL_FOLDER THREADS

The weights come from a CTranslate2 folder (half floats, computed with in single precision), so nothing is downloaded.
"""
import hashlib
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "golden"))

import numpy as np
import soundfile
import torch
import whisper
from make_golden import load
from whisper.decoding import DecodingOptions, DecodingTask
from whisper.tokenizer import get_tokenizer

FALLBACK = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class CountingWhisper(whisper.model.Whisper):
    """Counts the decodings at temperatures above 0: without one a transcription is the same as without fallback. Remembers
    those at temperature 0 of the last recording, which are the same in every draw and take most of the time."""

    fallbacks = 0
    known, file = {}, None

    def decode(self, mel, options):
        if options.temperature > 0:
            self.fallbacks += 1
            return super().decode(mel, options)
        key = hashlib.sha256(mel.numpy().tobytes()).digest(), str(options)
        if key not in self.known:
            self.known[key] = super().decode(mel, options)
        return self.known[key]


def open_model(folder):
    model, heads = load(pathlib.Path(folder))
    mask = torch.zeros(model.dims.n_text_layer, model.dims.n_text_head, dtype=torch.bool)
    for layer, head in heads:
        mask[layer, head] = True
    model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    model.__class__ = CountingWhisper
    return model


def read(path):
    pcm, rate = soundfile.read(path, dtype="float32")
    assert rate == whisper.audio.SAMPLE_RATE and pcm.ndim == 1, path
    return np.ascontiguousarray(pcm)


def transcribe(model, request):
    """Options of the command line's defaults, but for what the request says."""
    torch.manual_seed(request.get("seed", 0))
    model.fallbacks = 0
    if "seed" not in request or model.file != request["file"]:
        model.known, model.file = {}, request["file"]
    pcm = read(request["file"])
    begin = time.perf_counter()
    result = model.transcribe(
        pcm, fp16=False, language=request["language"], beam_size=request["beam"] if request["beam"] > 1 else None,
        best_of=5, temperature=FALLBACK if request["fallback"] else (0.0,), word_timestamps=request["words"],
        without_timestamps=not request["timestamps"])
    kept = ["seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"]
    segments = [{k: s[k] for k in kept} for s in result["segments"]]
    words = [{k: float(w[k]) if k != "word" else w[k] for k in ["word", "start", "end", "probability"]}
             for s in result["segments"] for w in s.get("words", [])]
    return {"text": result["text"], "language": result["language"], "segments": segments, "words": words,
            "fallbacks": model.fallbacks, "seconds": time.perf_counter() - begin}


def window(model, path, seek):
    mel = whisper.log_mel_spectrogram(read(path), model.dims.n_mels, padding=whisper.audio.N_SAMPLES)
    frames = min(whisper.audio.N_FRAMES, mel.shape[-1] - whisper.audio.N_FRAMES - seek)
    return whisper.pad_or_trim(mel[:, seek:seek + frames], whisper.audio.N_FRAMES)


def detect(model, request):
    _, probabilities = model.detect_language(window(model, request["file"], 0))
    best = max(probabilities, key=probabilities.get)
    return {"language": best, "probability": probabilities[best]}


def difference(model, request):
    """How near the choice between two tokens was: the difference of their logits after a prefix in a window. Where the rules
    for timestamps decided (a timestamp comes if all of them together are more probable than any text), the difference
    of the two sides of that comparison, for logits too are logarithms."""
    options = DecodingOptions(language=request["language"], fp16=False, prompt=request["prompt"])
    task = DecodingTask(model, options)
    begin = len(task.initial_tokens)
    tokens = torch.tensor([list(task.initial_tokens) + request["prefix"]])
    audio = model.encoder(window(model, request["file"], request["seek"])[None])
    raw = model.decoder(tokens, audio)[:, -1]
    first, second = request["candidates"]
    if (first < task.tokenizer.timestamp_begin) == (second < task.tokenizer.timestamp_begin):
        return {"gap": float(raw[0, first] - raw[0, second]), "kind": "logits"}
    allowed = raw.clone()
    for logit_filter in task.logit_filters[:-1]:
        logit_filter.apply(allowed, tokens[:, :])
    stamp = task.tokenizer.timestamp_begin
    gap = torch.logsumexp(raw[0, stamp:], 0) - allowed[0, :stamp].max()
    return {"gap": float(gap if first >= stamp else -gap), "kind": "timestamp or text", "begin": begin}


def describe(model, request):
    tokenizer = get_tokenizer(model.is_multilingual, num_languages=model.num_languages, language="en", task="transcribe")
    return {"version": f"openai-whisper {whisper.__version__}", "eot": tokenizer.eot,
            "timestamp_begin": tokenizer.timestamp_begin}


ANSWERS = {"transcribe": transcribe, "detect": detect, "difference": difference, "describe": describe}


def main():
    folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = open_model(folder)
    with torch.no_grad():
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(ANSWERS[request["do"]](model, request)), flush=True)


if __name__ == "__main__":
    main()
