#!/usr/bin/env python3
"""Writes the seed corpus of the fuzz targets: small models, with the numbers of their tensors left out.

    python3 tests/fuzz/make_corpus.py        (into tests/fuzz/corpus)

What an input of a target looks like is said in the target."""
import json
import pathlib
import struct

STATE, VOCAB, MELS, CTX = 64, 51864, 80, 4
FOLDER = pathlib.Path(__file__).parent / "corpus"


def tensors():
    """OpenAI's name and shape of every tensor of a model with 1 + 1 layers."""
    yield "encoder.conv1.weight", [STATE, MELS, 3]
    yield "encoder.conv1.bias", [STATE]
    yield "encoder.conv2.weight", [STATE, STATE, 3]
    yield "encoder.conv2.bias", [STATE]
    yield "encoder.positional_embedding", [CTX, STATE]
    yield "encoder.ln_post.weight", [STATE]
    yield "encoder.ln_post.bias", [STATE]
    yield "decoder.token_embedding.weight", [VOCAB, STATE]
    yield "decoder.positional_embedding", [CTX, STATE]
    yield "decoder.ln.weight", [STATE]
    yield "decoder.ln.bias", [STATE]
    for side in "encoder", "decoder":
        for attention in ["attn", "cross_attn"][: 1 + (side == "decoder")]:
            for part in "query", "key", "value", "out":
                yield f"{side}.blocks.0.{attention}.{part}.weight", [STATE, STATE]
                if part != "key":
                    yield f"{side}.blocks.0.{attention}.{part}.bias", [STATE]
            yield f"{side}.blocks.0.{attention}_ln.weight", [STATE]
            yield f"{side}.blocks.0.{attention}_ln.bias", [STATE]
        yield f"{side}.blocks.0.mlp_ln.weight", [STATE]
        yield f"{side}.blocks.0.mlp_ln.bias", [STATE]
        yield f"{side}.blocks.0.mlp.0.weight", [4 * STATE, STATE]
        yield f"{side}.blocks.0.mlp.0.bias", [4 * STATE]
        yield f"{side}.blocks.0.mlp.2.weight", [STATE, 4 * STATE]
        yield f"{side}.blocks.0.mlp.2.bias", [STATE]


def count(shape):
    n = 1
    for dim in shape:
        n *= dim
    return n


class Runs:
    def __init__(self):
        self.out, self.run = b"", b""

    def put(self, data):
        self.run += data

    def skip(self, n):
        self.out += struct.pack("<H", len(self.run)) + self.run + struct.pack("<I", n)
        self.run = b""


def write(name, data):
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def ggml(number, block, block_bytes):
    r = Runs()
    r.put(struct.pack("<I11i", 0x67676D6C, VOCAB, CTX, STATE, 1, 1, CTX, STATE, 1, 1, MELS, 2000 + number))
    r.put(struct.pack("<2i", MELS, 201))
    r.skip(4 * MELS * 201)
    r.put(struct.pack("<i", 2) + struct.pack("<i", 1) + b"a" + struct.pack("<i", 2) + b" b")
    for name, shape in tensors():
        matrix = len(shape) == 2
        r.put(struct.pack("<3i", len(shape), len(name), number if matrix else 0))
        r.put(b"".join(struct.pack("<i", dim) for dim in reversed(shape)) + name.encode())
        r.skip(count(shape) // block * block_bytes if matrix else 4 * count(shape))
    return r.out


CT2_TOP = {"ln_post": "layer_norm", "ln": "layer_norm", "token_embedding": "embeddings"}
CT2_LAYER = [("attn_ln", "self_attention/layer_norm", 0), ("attn.query", "self_attention/linear_0", 3),
             ("attn.out", "self_attention/linear_1", 1), ("cross_attn_ln", "attention/layer_norm", 0),
             ("cross_attn.query", "attention/linear_0", 1), ("cross_attn.key", "attention/linear_1", 2),
             ("cross_attn.out", "attention/linear_2", 1), ("mlp_ln", "ffn/layer_norm", 0), ("mlp.0", "ffn/linear_0", 1),
             ("mlp.2", "ffn/linear_1", 1)]


def ct2_variables():
    shapes = dict(tensors())
    for name, shape in shapes.items():
        side, rest = name.split(".", 1)
        if rest == "positional_embedding":
            yield f"{side}/position_encodings/encodings", shape
        elif not rest.startswith("blocks"):
            stem, kind = rest.rsplit(".", 1)
            kind = {"weight": "gamma", "bias": "beta"}[kind] if stem.startswith("ln") else kind
            yield f"{side}/{CT2_TOP.get(stem, stem)}/{kind}", shape
    for side in "encoder", "decoder":
        for stem, target, parts in CT2_LAYER:
            for kind, norm in ("weight", "gamma"), ("bias", "beta"):
                shape = shapes.get(f"{side}.blocks.0.{stem}.{kind}")
                if shape is None and stem == "cross_attn.key" and side == "decoder":
                    shape = [STATE]
                if shape:
                    yield f"{side}/layer_0/{target}/{kind if parts else norm}", [max(parts, 1) * shape[0]] + shape[1:]


def string(text):
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def ct2(type_number, size, quantised):
    r = Runs()
    variables = [("encoder/num_heads", None), ("decoder/num_heads", None)] + list(ct2_variables())
    matrices = [name for name, shape in variables if shape and len(shape) > 1 and name.endswith("weight")]
    r.put(struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<I", 3))
    r.put(struct.pack("<I", len(variables) + (len(matrices) if quantised else 0)))
    for name, shape in variables:
        if shape is None:
            r.put(string(name) + b"\0\2" + struct.pack("<Ih", 2, 1))
            continue
        small = quantised and name in matrices
        dims = b"".join(struct.pack("<I", dim) for dim in shape)
        r.put(string(name) + bytes([len(shape)]) + dims + bytes([1 if small else type_number]))
        r.put(struct.pack("<I", count(shape) * (1 if small else size)))
        r.skip(count(shape) * (1 if small else size))
        if small:
            r.put(string(name + "_scale") + b"\1" + struct.pack("<IBI", shape[0], 0, 4 * shape[0]))
            if shape[0] <= 256:
                r.put(struct.pack("<f", 100.0) * shape[0])
            else:
                r.skip(4 * shape[0])
    r.put(struct.pack("<I", 1) + string("decoder/projection/weight") + string("decoder/embeddings/weight"))
    r.skip(0)
    return r.out


HUB = {"attn_ln": "self_attn_layer_norm", "attn.query": "self_attn.q_proj", "attn.key": "self_attn.k_proj",
       "attn.value": "self_attn.v_proj", "attn.out": "self_attn.out_proj", "cross_attn_ln": "encoder_attn_layer_norm",
       "cross_attn.query": "encoder_attn.q_proj", "cross_attn.key": "encoder_attn.k_proj",
       "cross_attn.value": "encoder_attn.v_proj", "cross_attn.out": "encoder_attn.out_proj", "mlp_ln": "final_layer_norm",
       "mlp.0": "fc1", "mlp.2": "fc2", "ln_post": "layer_norm", "ln": "layer_norm", "token_embedding": "embed_tokens"}


def hub_name(name):
    side, rest = name.split(".", 1)
    if rest == "positional_embedding":
        return f"model.{side}.embed_positions.weight"
    layer = "layers.0." if rest.startswith("blocks.0.") else ""
    stem, kind = rest.removeprefix("blocks.0.").rsplit(".", 1)
    return f"model.{side}.{layer}{HUB.get(stem, stem)}.{kind}"


def safetensors(dtype, size):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors():
        end = at + size * count(shape)
        header[hub_name(name)] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    return struct.pack("<I", at) + json.dumps(header, separators=(",", ":")).encode()


def main():
    write("ggml/f16", ggml(1, 1, 2))
    write("ggml/q4_1", ggml(3, 32, 20))
    write("ggml/q5_0", ggml(6, 32, 22))
    write("ggml/q8_0", ggml(8, 32, 34))
    write("ct2/f16", ct2(4, 2, False))
    write("ct2/int8", ct2(0, 4, True))
    write("safetensors/f16", safetensors("F16", 2))
    write("safetensors/bf16", safetensors("BF16", 2))
    write("safetensors/raw", struct.pack("<IQ", 0x80000004, 2) + b"{}")
    vocabulary = {chr(0x100 + i): i for i in range(33)} | {"a": 40, "\u0120b": 41, "<|endoftext|>": 50256}
    config = {"model_type": "whisper", "activation_function": "gelu", "d_model": STATE, "encoder_layers": 1,
              "encoder_attention_heads": 1, "decoder_layers": 1, "decoder_attention_heads": 1, "num_mel_bins": MELS,
              "max_source_positions": CTX, "max_target_positions": CTX, "vocab_size": VOCAB, "scale_embedding": False}
    names = [hub_name(name) for name, _ in tensors()]
    for i, (name, content) in enumerate([
            ("tokenizer", {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}}), ("vocab", vocabulary),
            ("vocabulary", list(vocabulary)), ("config", config),
            ("generation_config", {"alignment_heads": [[0, 0]], "suppress_tokens": [1, 2]}),
            ("index", {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model.safetensors")})]):
        write(f"json/{name}", bytes([i]) + json.dumps(content, separators=(",", ":")).encode())


main()
