#!/usr/bin/env python3
"""Writes vad.txt: the probability of speech of every 32 ms frame of a recording, by the reference implementation.

    vad.py MODEL.onnx RECORDING.flac > vad.txt

MODEL.onnx is silero_vad/data/silero_vad.onnx of the package silero-vad 6.2.3. Needs numpy, onnxruntime, soundfile.
"""
import sys

import numpy as np
import onnxruntime
import soundfile

FRAME, CONTEXT, RATE = 512, 64, 16000


def main():
    model, recording = sys.argv[1:]
    pcm, rate = soundfile.read(recording, dtype="float32")
    assert rate == RATE and pcm.ndim == 1
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    state = np.zeros((2, 1, 128), np.float32)
    context = np.zeros(CONTEXT, np.float32)
    for start in range(0, len(pcm) - FRAME + 1, FRAME):
        frame = np.concatenate([context, pcm[start:start + FRAME]])
        inputs = {"input": frame[None], "state": state, "sr": np.array(RATE, np.int64)}
        probability, state = session.run(None, inputs)
        context = frame[-CONTEXT:]
        print(f"{probability.item():.7f}")


if __name__ == "__main__":
    main()
