"""Writes tests/golden/align.txt: what openai-whisper makes of seeded attention, costs and token sequences.

usage: align.py > tests/golden/align.txt
Needs openai-whisper 20250625 and torch from PyPI. Three kinds of lines:
path SEED N M VALUES : FIRST…        dtw() of a cost matrix; VALUES 0: 24-bit fractions, 1: quarters, so that ties abound
rows SEED ROWS HEADS FRAMES : FIRST… find_alignment() from the softmax on, of weights that test_align.c draws alike
words SPACED HEX… : N…               split_to_word_tokens() and the opening half of merge_punctuations() of tokens
                                     that are given by their bytes: the tokens of each word
"""
import random

import numpy as np
import torch
from whisper.timing import WordTiming, dtw, median_filter, merge_punctuations
from whisper.tokenizer import get_tokenizer

MASK = (1 << 64) - 1
TEXTS = [
    ("en", " And so, my fellow Americans: ask not what your country can do for you... (applause) \"Yes!\" he said."),
    ("en", " It's 3.14, isn't it? She paid $5 - no, €7.50 - for a \"well-being\" class (so to say)."),
    ("en", "No leading space [here] ... 'twas"), ("de", " Zwölf Boxkämpfer – jagen „Viktor“ quer; über §5!"),
    ("es", " ¿Dónde está? ¡Aquí! (en casa) «sí»"), ("ru", " Съешь ещё этих мягких французских булок, да?"),
    ("ja", "色は匂へど散りぬるを、東京タワー。「カタカナ」です！"), ("zh", "天地玄黄,宇宙洪荒。「你好」世界 2024年"),
    ("en", " emoji 👋🏽 and 𝔘𝔫𝔦 é"), ("en", " -- - ( \" ' word"), ("en", "!"), ("en", " ("),
]


def splitmix(seed):
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def first_columns(text_indices, time_indices):
    jumps = np.pad(np.diff(text_indices), (1, 0), constant_values=1).astype(bool)
    return time_indices[jumps]


def show(*head, values):
    print(*head, ":", *(int(v) for v in values))


def paths():
    for seed, n, m, coarse in [(1, 1, 1, 0), (2, 1, 9, 0), (3, 9, 1, 0), (4, 5, 40, 0), (5, 40, 5, 0), (6, 30, 200, 0),
                               (7, 8, 30, 1), (8, 25, 25, 1), (9, 60, 300, 1), (10, 100, 700, 0)]:
        draw = splitmix(seed)
        x = [(next(draw) >> 62) * 0.25 if coarse else (next(draw) >> 40) * 2.0**-24 - 0.5 for _ in range(n * m)]
        cost = torch.tensor(x, dtype=torch.float32).reshape(n, m)
        show("path", seed, n, m, coarse, values=first_columns(*dtw(cost)))


def rows():
    for seed, n, heads, frames in [(21, 2, 1, 10), (22, 5, 6, 60), (23, 12, 3, 3), (24, 20, 8, 250), (25, 45, 8, 700),
                                   (26, 100, 4, 1500), (27, 7, 2, 8)]:
        draw = splitmix(seed)
        w = np.zeros((n, heads, frames), dtype=np.float32)
        for i in range(n):
            for h in range(heads):
                for f in range(frames):
                    near = abs(f * n - i * frames) < 2 * frames
                    w[i, h, f] = np.float32((next(draw) >> 40) * 2.0**-24) + (np.float32(2.0) if near else np.float32(0.0))
        weights = torch.tensor(w).permute(1, 0, 2)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
        weights = median_filter((weights - mean) / std, 7)
        matrix = weights.mean(axis=0)
        show("rows", seed, n, heads, frames, values=first_columns(*dtw(-matrix)))


def words():
    rng = random.Random(5)
    cases = [(language, text) for language, text in TEXTS]
    pieces = " \"'“¿([{-.。,，!！?？:：”)]}、abc é你あ"
    for i in range(40):
        cases.append(("ja" if i % 4 == 0 else "en", "".join(rng.choice(pieces) for _ in range(rng.randint(1, 25)))))
    for language, text in cases:
        tokenizer = get_tokenizer(True, num_languages=99, language=language, task="transcribe")
        tokens = tokenizer.encoding.encode(text)
        split, groups = tokenizer.split_to_word_tokens(tokens)
        timing = [WordTiming(w, t, 0, 0, 1.0) for w, t in zip(split, groups)]
        merge_punctuations(timing, "\"'“¿([{-", "")
        counts = [len(t.tokens) for t in timing if t.tokens]
        hexes = [tokenizer.encoding.decode_single_token_bytes(t).hex() for t in tokens]
        show("words", int(language not in ("ja", "zh")), *hexes, values=counts)


if __name__ == "__main__":
    paths()
    rows()
    words()
