#!/usr/bin/env python3
"""Blocks of ggml's quantised types with the numbers that ggml itself makes of them: tests/golden/ggml_blocks.txt.

    python3 tools/golden/ggml_blocks.py >tests/golden/ggml_blocks.txt

Needs numpy and pywhispercpp, whose wheel carries ggml's library. A line is: the type, the block's bytes, and its 32
numbers as the bits of f32. Some blocks are ggml's quantisation of numbers, the others random bytes with a finite scale."""
import ctypes
import glob
import os

import numpy as np
import pywhispercpp

TYPES = {"q4_0": (2, 18, 1), "q4_1": (3, 20, 2), "q5_0": (6, 22, 1), "q5_1": (7, 24, 2), "q8_0": (8, 34, 1)}


def library():
    folder = os.path.join(os.path.dirname(pywhispercpp.__file__), "..")
    return ctypes.CDLL(sorted(glob.glob(os.path.join(folder, "**/libggml-base*.so*"), recursive=True))[0])


def quantise(ggml, number, n_bytes, values):
    block = ctypes.create_string_buffer(n_bytes)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    written = ggml.ggml_quantize_chunk(number, values.ctypes.data_as(ctypes.c_void_p), block, ctypes.c_int64(0),
                                       ctypes.c_int64(1), ctypes.c_int64(32), None)
    assert written == n_bytes
    return block.raw


def main():
    ggml = library()
    rng = np.random.default_rng(1)
    for name, (number, n_bytes, n_halves) in TYPES.items():
        values = [np.zeros(32), np.linspace(-1, 1, 32), np.linspace(3, 5, 32), -np.ones(32)]
        values += [rng.normal(0, scale, 32) for scale in (1e-6, 1e-3, 0.05, 1.0, 300.0)]
        blocks = [quantise(ggml, number, n_bytes, v.astype(np.float32)) for v in values]
        for _ in range(8):
            halves = rng.integers(0, 65536, n_halves).astype(np.uint16)
            halves &= np.where((halves & 0x7C00) == 0x7C00, 0xBFFF, 0xFFFF).astype(np.uint16)
            blocks.append(halves.tobytes() + rng.bytes(n_bytes - 2 * n_halves))
        for block in blocks:
            numbers = np.empty(32, np.float32)
            getattr(ggml, "dequantize_row_" + name)(block, numbers.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(32))
            print(name, block.hex(), " ".join(f"{bits:08x}" for bits in numbers.view(np.uint32)))


main()
