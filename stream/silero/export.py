#!/usr/bin/env python3
"""Writes silero16k.bin, the weights of the voice gate's network (16 kHz), from Silero's ONNX file.

    export.py silero_vad_16k_sequence.onnx silero16k.bin

The model is silero_vad/data/silero_vad_16k_sequence.onnx of the package silero-vad 6.2.3 (MIT, see LICENSE). The
safetensors file beside it holds other weights. Needs numpy and onnx.

The file is little-endian float32 without a header, each matrix [input][output], in this order:

    four convolutions   weights [3 taps][inputs][outputs] and bias: 129→128, 128→64, 64→64, 64→128
    LSTM                input weights [128][512], hidden weights [128][512], bias [512] (both biases added); gates in
                        the order input, forget, cell, output
    output              weights [128], bias [1]
"""
import sys

import numpy as np
import onnx
from onnx import numpy_helper


def torch_gates(a):
    """ONNX keeps the gates as input, output, forget, cell."""
    i, o, f, c = np.split(a, 4)
    return np.concatenate([i, f, c, o])


def main():
    source, target = sys.argv[1:]
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}

    parts = []
    for layer in range(4):
        parts += [tensors[f"encoder.{layer}.weight"].transpose(2, 1, 0), tensors[f"encoder.{layer}.bias"]]
    weight_in, weight_hidden, bias = (tensors[n][0] for n in sorted(n for n in tensors if "LSTM_" in n))
    parts += [torch_gates(weight_in).T, torch_gates(weight_hidden).T]
    parts += [torch_gates(bias[:512]) + torch_gates(bias[512:])]
    parts += [tensors["output.weight"], tensors["output.bias"]]
    data = b"".join(np.ascontiguousarray(p, "<f4").tobytes() for p in parts)
    assert len(data) == 972292
    with open(target, "wb") as out:
        out.write(data)


if __name__ == "__main__":
    main()
