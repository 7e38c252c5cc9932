"""A CTranslate2 model in half floats as CTranslate2's int8 or as ggml's q5_0: what a pack for gpu-check holds.

Layouts: CTranslate2's model.bin (version 6), python/ctranslate2/specs/model_spec.py; whisper.cpp's models/convert-pt-to-ggml.py
and examples/quantize. Needs numpy.
"""
import json
import shutil
import struct

import numpy as np

F32, I8, F16 = 0, 1, 4
TYPES = {F32: np.float32, I8: np.int8, 2: np.int16, 3: np.int32, F16: np.float16}
GGML_MAGIC, GGML_F32, GGML_F16, GGML_Q5_0 = 0x67676D6C, 0, 1, 6
Q5_0_FILE = 2 * 1000 + 8  # layout 2 of blocks, mostly q5_0


class Reader:
    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 0

    def take(self, fmt):
        (value,) = struct.unpack_from("<" + fmt, self.data, self.at)
        self.at += struct.calcsize("<" + fmt)
        return value

    def text(self):
        n = self.take("H")
        self.at += n
        return self.data[self.at - n:self.at - 1].decode()


def read_ct2(path):
    """{name: array} in the file's order, and its aliases."""
    r = Reader(path)
    if (r.take("I"), r.text(), r.take("I")) != (6, "WhisperSpec", 3):
        raise SystemExit(f"{path}: not a Whisper model of CTranslate2's version 6")
    variables = {}
    for _ in range(r.take("I")):
        name = r.text()
        dims = [r.take("I") for _ in range(r.take("B"))]
        kind, n_bytes = r.take("B"), r.take("I")
        variables[name] = np.frombuffer(r.data, TYPES[kind], n_bytes // np.dtype(TYPES[kind]).itemsize, r.at).reshape(dims)
        r.at += n_bytes
    return variables, [(r.text(), r.text()) for _ in range(r.take("I"))]


def is_matrix(name, values):
    return values.ndim == 2 and values.dtype == np.float16 and name.endswith("/weight")


# --- CTranslate2, int8 ---------------------------------------------------------------------------------------------


def text(s):
    return struct.pack("<H", len(s.encode()) + 1) + s.encode() + b"\0"


def to_i8(values):
    """Whole numbers and what each row was multiplied by."""
    values = values.astype(np.float32)
    largest = np.abs(values).max(axis=1)
    scales = np.where(largest == 0, 1, 127 / np.where(largest == 0, 1, largest)).astype(np.float32)
    return np.rint(values * scales[:, None]).astype(np.int8), scales


def vocabulary(folder, n):
    """The n tokens by their numbers, as CTranslate2's own library wants them beside the model."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = {**tokenizer["model"]["vocab"], **{t["content"]: t["id"] for t in tokenizer["added_tokens"]}}
    names = {i: t for t, i in ids.items()}
    return [names.get(i, f"<|{i}|>") for i in range(n)]


def write_ct2_int8(source, to):
    """A folder with the matrices in 8 bits, a scale a row; everything else as it was."""
    variables, aliases = read_ct2(source / "model.bin")
    out = {}
    for name, values in variables.items():
        if is_matrix(name, values):
            out[name], out[name + "_scale"] = to_i8(values)
        else:
            out[name] = values
    aliases += [(a + "_scale", t + "_scale") for a, t in aliases if t + "_scale" in out]
    kinds = {np.dtype(t): k for k, t in TYPES.items()}
    to.mkdir(parents=True, exist_ok=True)
    with open(to / "model.bin", "wb") as f:
        f.write(struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(out)))
        for name, values in out.items():
            f.write(text(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape))
            f.write(struct.pack("<BI", kinds[values.dtype], values.nbytes) + values.tobytes())
        f.write(struct.pack("<I", len(aliases)) + b"".join(text(a) + text(t) for a, t in aliases))
    for path in source.iterdir():
        if path.name != "model.bin":
            shutil.copy(path, to / path.name)
    if not list(to.glob("vocabulary.*")):
        (to / "vocabulary.json").write_text(json.dumps(vocabulary(source, len(variables["decoder/embeddings/weight"])), ensure_ascii=False))


# --- ggml, q5_0 ------------------------------------------------------------------------------------------------------


def to_q5_0(values):
    """Blocks of 32: the extreme of greater magnitude lies at the grid's negative end, as ggml has it."""
    x = values.astype(np.float32).reshape(-1, 32)
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)
    scale = (extreme / -16).astype(np.float16)
    step = (extreme / -16).astype(np.float32)
    q = np.clip(np.where(step == 0, 16, np.floor(x / np.where(step == 0, 1, step) + 16.5)), 0, 31).astype(np.uint32)
    fifth = ((q >> 4) << np.arange(32, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
    nibbles = (q[:, :16] & 15 | (q[:, 16:] & 15) << 4).astype(np.uint8)
    return np.hstack([scale.view(np.uint8), fifth[:, None].view(np.uint8), nibbles]).tobytes()


def mel_filters(n_mels):
    """Slaney's filterbank over 201 bins of 40 Hz, each filter of area 1."""
    def to_hz(mel):
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))

    edges = to_hz(np.linspace(0, 15 + np.log(8) * 27 / np.log(6.4), n_mels + 2))
    hz = np.arange(201) * 40.0
    rising = (hz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hz) / np.diff(edges)[1:, None]
    return (np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def token_bytes(folder, n):
    """The bytes of the first n tokens: GPT-2's tokenizer shows a byte as a printable character."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown = {chr(b): b for b in plain}
    shown.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in plain)})
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)[:n]
    return [bytes(shown[c] for c in t) if all(c in shown for c in t) else t.encode() for t in tokens]


FUSED = {"self_attention/linear_0": ("attn", ("query", "key", "value")), "attention/linear_1": ("cross_attn", ("key", "value"))}
PLAIN = {"self_attention/linear_1": "attn.out", "attention/linear_0": "cross_attn.query", "attention/linear_2": "cross_attn.out",
         "ffn/linear_0": "mlp.0", "ffn/linear_1": "mlp.2", "self_attention/layer_norm": "attn_ln",
         "attention/layer_norm": "cross_attn_ln", "ffn/layer_norm": "mlp_ln", "conv1": "conv1", "conv2": "conv2",
         "embeddings": "token_embedding"}
KINDS = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


def openai_tensors(variables):
    """{OpenAI's name: array}; the bias of keys, zeros in the file, is left out."""
    out = {}
    for name, values in variables.items():
        side, _, rest = name.partition("/")
        layer = ""
        if rest.startswith("layer_") and rest[6].isdigit():
            number, _, rest = rest[6:].partition("/")
            layer = f"blocks.{number}."
        part, _, kind = rest.rpartition("/")
        if part == "position_encodings":
            out[f"{side}.positional_embedding"] = values
        elif kind not in KINDS or side == "decoder" and part == "projection":
            continue
        elif part in FUSED:
            stem, parts = FUSED[part]
            for which, rows in zip(parts, np.split(values, len(parts))):
                if which != "key" or kind != "bias":
                    out[f"{side}.{layer}{stem}.{which}.{kind}"] = rows
        elif part == "layer_norm":
            out[f"{side}.{'ln_post' if side == 'encoder' else 'ln'}.{KINDS[kind]}"] = values
        else:
            out[f"{side}.{layer}{PLAIN[part]}.{KINDS[kind]}"] = values
    return out


def write_ggml_q5_0(source, to):
    """A ggml file with the matrices in 5 bits; convolutions and positions stay half floats, vectors single ones."""
    variables, _ = read_ct2(source / "model.bin")
    tensors = openai_tensors(variables)
    n_state, n_mels, _ = tensors["encoder.conv1.weight"].shape
    n_vocab = len(tensors["decoder.token_embedding.weight"])
    layers = {side: sum(t.startswith(side) and t.endswith(".mlp.0.bias") for t in tensors) for side in ("encoder", "decoder")}
    contexts = {side: len(tensors[f"{side}.positional_embedding"]) for side in layers}
    tokens = token_bytes(source, 50256 + (n_vocab > 51864))
    with open(to, "wb") as f:
        f.write(struct.pack("<12I", GGML_MAGIC, n_vocab, contexts["encoder"], n_state, n_state // 64, layers["encoder"],
                            contexts["decoder"], n_state, n_state // 64, layers["decoder"], n_mels, Q5_0_FILE))
        f.write(struct.pack("<2I", n_mels, 201) + mel_filters(n_mels).tobytes())
        f.write(struct.pack("<I", len(tokens)) + b"".join(struct.pack("<I", len(t)) + t for t in tokens))
        for name, values in tensors.items():
            if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
                values = values[:, None]
            blocks = values.ndim == 2 and values.shape[1] % 32 == 0 and "positional" not in name
            half = not blocks and values.ndim > 1 and values.shape[1] > 1
            kind = GGML_Q5_0 if blocks else GGML_F16 if half else GGML_F32
            f.write(struct.pack(f"<3I{values.ndim}I", values.ndim, len(name), kind, *reversed(values.shape)) + name.encode())
            f.write(to_q5_0(values) if blocks else values.astype(np.float16 if half else np.float32).tobytes())
