"""faster-whisper behind a pipe: a JSON request a line in, a JSON answer a line out. See peers.py.

usage: worker_faster.py MODEL_FOLDER THREADS TYPE      TYPE: float32, int8
"""
import json
import sys
import time

import ctranslate2
import faster_whisper
import numpy as np
import soundfile
from faster_whisper.audio import decode_audio

FALLBACK = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def transcribe(model, request):
    """The library's defaults, but for what the request says. A thread takes the seed with its first random number and never
    again: another seed needs a model of its own, whose threads are new."""
    ctranslate2.set_random_seed(request.get("seed", 0))
    if "seed" in request:
        model = open_model()
    begin = time.perf_counter()
    segments, info = model.transcribe(
        request["file"], language=request["language"], beam_size=request["beam"],
        temperature=FALLBACK if request["fallback"] else (0.0,), word_timestamps=request["words"],
        without_timestamps=not request["timestamps"])
    kept = ["seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"]
    answer = {"segments": [], "words": []}
    for s in segments:
        answer["segments"].append({k: getattr(s, k) for k in kept})
        answer["words"] += [{"word": w.word, "start": float(w.start), "end": float(w.end),
                             "probability": float(w.probability)} for w in s.words or []]
    answer["text"] = "".join(s["text"] for s in answer["segments"])
    answer["language"] = info.language
    answer["seconds"] = time.perf_counter() - begin
    return answer


def detect(model, request):
    language, probability, _ = model.detect_language(decode_audio(request["file"]))
    return {"language": language, "probability": float(probability)}


def prepare(model, request):
    """The recording as both peers hear it: resampled and mixed by ffmpeg's library to 16 kHz, mono, 16 bits."""
    pcm = decode_audio(request["file"])
    soundfile.write(request["to"], np.round(pcm * 32768).astype(np.int16), 16000, subtype="PCM_16")
    return {"seconds": len(pcm) / 16000}


def describe(model, request):
    return {"version": f"faster-whisper {faster_whisper.__version__}, CTranslate2 {ctranslate2.__version__}"}


ANSWERS = {"transcribe": transcribe, "detect": detect, "prepare": prepare, "describe": describe}


def open_model():
    folder, threads, kind = sys.argv[1:]
    return faster_whisper.WhisperModel(folder, device="cpu", compute_type=kind, cpu_threads=int(threads))


def main():
    model = open_model()
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(ANSWERS[request["do"]](model, request), default=float), flush=True)


if __name__ == "__main__":
    main()
