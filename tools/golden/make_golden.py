#!/usr/bin/env python3
"""Writes golden data for tests/golden/test_whisper.c; see README.md beside this file.

usage: make_golden.py MODEL_FOLDER OUT.tsv [SPEECH_FOLDER]

A line is a name, the dimensions joined by "x", and the values, separated by tabs.
"""
import json
import pathlib
import struct
import sys

import numpy as np
import soundfile
import torch
import whisper
from whisper.decoding import DecodingOptions, DecodingTask
from whisper.model import ModelDimensions, Whisper, disable_sdpa
from whisper.tokenizer import get_tokenizer

FIXTURE = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/harbour.flac"
MEL_FRAMES = [0, 1, 2, 47, 500, 1095, 1096, 1097, 1098, 2998, 2999]
AUDIO_ROWS = [0, 1, 7, 300, 548, 1499]
ATTENTION_FRAMES = list(range(0, 1500, 25))
RECORDINGS = {
    "en": ["en_ls_1995", "en_ls_6930", "en_ls_7902", "en_arctic_aew_a0001", "en_arctic_aew_a0002",
           "en_arctic_aew_a0003", "en_night_15s_there_are_two", "en_mfa_acoustic_corpus", "en_cards_005", "en_pico_a"],
    "de": ["de_fleurs_000", "de_fleurs_003"],
    "es": ["es_fleurs_002"],
    "fr": ["fr_fleurs_000", "fr_fleurs_004"],
    "ja": ["ja_fleurs_1837"],
}


def read_ctranslate2(folder):
    """The variables of model.bin as arrays, and the heads of config.json."""
    data = (folder / "model.bin").read_bytes()
    at = 0

    def take(fmt):
        nonlocal at
        values = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return values[0] if len(values) == 1 else values

    def text():
        nonlocal at
        n = take("H")
        at += n
        return data[at - n:at - 1].decode()

    types = [np.float32, np.int8, np.int16, np.int32, np.float16]
    assert take("I") == 6 and text() == "WhisperSpec" and take("I") == 3
    variables = {}
    for _ in range(take("I")):
        name = text()
        dims = [take("I") for _ in range(take("B"))]
        kind, n = take("B"), take("I")
        variables[name] = np.frombuffer(data, types[kind], n // np.dtype(types[kind]).itemsize, at).reshape(dims)
        at += n
    return variables, json.loads((folder / "config.json").read_text())["alignment_heads"]


def state_dict(v):
    """OpenAI's names. Fused projections are split; the bias of keys, zeros in the file, is left out."""
    out = {}

    def linear(name, source, part=0, parts=1, bias=True):
        for kind in ["weight", "bias"] if bias else ["weight"]:
            rows = v[f"{source}/{kind}"]
            n = len(rows) // parts
            out[f"{name}.{kind}"] = rows[part * n:(part + 1) * n]

    def norm(name, source):
        out[f"{name}.weight"], out[f"{name}.bias"] = v[f"{source}/gamma"], v[f"{source}/beta"]

    for side in ["encoder", "decoder"]:
        out[f"{side}.positional_embedding"] = v[f"{side}/position_encodings/encodings"]
        layer = 0
        while f"{side}/layer_{layer}/ffn/linear_0/weight" in v:
            to, source = f"{side}.blocks.{layer}", f"{side}/layer_{layer}"
            norm(f"{to}.attn_ln", f"{source}/self_attention/layer_norm")
            linear(f"{to}.attn.query", f"{source}/self_attention/linear_0", 0, 3)
            linear(f"{to}.attn.key", f"{source}/self_attention/linear_0", 1, 3, bias=False)
            linear(f"{to}.attn.value", f"{source}/self_attention/linear_0", 2, 3)
            linear(f"{to}.attn.out", f"{source}/self_attention/linear_1")
            if side == "decoder":
                norm(f"{to}.cross_attn_ln", f"{source}/attention/layer_norm")
                linear(f"{to}.cross_attn.query", f"{source}/attention/linear_0")
                linear(f"{to}.cross_attn.key", f"{source}/attention/linear_1", 0, 2, bias=False)
                linear(f"{to}.cross_attn.value", f"{source}/attention/linear_1", 1, 2)
                linear(f"{to}.cross_attn.out", f"{source}/attention/linear_2")
            norm(f"{to}.mlp_ln", f"{source}/ffn/layer_norm")
            linear(f"{to}.mlp.0", f"{source}/ffn/linear_0")
            linear(f"{to}.mlp.2", f"{source}/ffn/linear_1")
            layer += 1
    linear("encoder.conv1", "encoder/conv1")
    linear("encoder.conv2", "encoder/conv2")
    norm("encoder.ln_post", "encoder/layer_norm")
    norm("decoder.ln", "decoder/layer_norm")
    out["decoder.token_embedding.weight"] = v["decoder/embeddings/weight"]
    return {name: torch.tensor(value.astype(np.float32)) for name, value in out.items()}


def load(folder):
    v, heads = read_ctranslate2(folder)
    state = state_dict(v)
    n_state, n_mels, _ = state["encoder.conv1.weight"].shape
    n_layers = [sum(name.startswith(side) and name.endswith(".mlp.0.bias") for name in state)
                for side in ["encoder", "decoder"]]
    dims = ModelDimensions(n_mels=n_mels, n_audio_ctx=1500, n_audio_state=n_state, n_audio_head=n_state // 64,
                           n_audio_layer=n_layers[0], n_vocab=len(state["decoder.token_embedding.weight"]),
                           n_text_ctx=448, n_text_state=n_state, n_text_head=n_state // 64, n_text_layer=n_layers[1])
    model = Whisper(dims)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("mask" in name for name in missing), (missing, unexpected)
    return model.eval(), heads


class Writer:
    def __init__(self, path):
        self.file = open(path, "w", encoding="ascii")

    def ints(self, name, values):
        self.file.write(f"{name}\t{len(values)}\t" + "\t".join(str(int(x)) for x in values) + "\n")

    def floats(self, name, values):
        values = np.asarray(values, np.float32)
        shape = "x".join(str(n) for n in values.shape)
        self.file.write(f"{name}\t{shape}\t" + "\t".join(f"{x:.7g}" for x in values.flat) + "\n")


def read_audio(path):
    pcm, rate = soundfile.read(path, dtype="float32")
    assert rate == 16000 and pcm.ndim == 1, path
    return whisper.pad_or_trim(pcm[:480000])


def greedy(model, writer, name, pcm, language, stamps):
    options = DecodingOptions(language=language, fp16=False, temperature=0.0, without_timestamps=not stamps)
    task = DecodingTask(model, options)
    mel = whisper.log_mel_spectrogram(pcm, n_mels=model.dims.n_mels)
    result = task.run(mel[None])[0]
    writer.ints(f"greedy.{name}.prompt", task.initial_tokens)
    writer.ints(f"greedy.{name}.tokens", result.tokens)
    writer.floats(f"greedy.{name}.avg_logprob", [result.avg_logprob])
    writer.floats(f"greedy.{name}.no_speech_prob", [result.no_speech_prob])
    return list(task.initial_tokens), result.tokens


def stages(model, heads, writer, prompt, tokens, eot):
    """Every stage for the fixture, and the decoder's answers to prompt and tokens."""
    mel = whisper.log_mel_spectrogram(read_audio(FIXTURE), n_mels=model.dims.n_mels)
    writer.ints("mel.frames", MEL_FRAMES)
    writer.floats("mel", mel.T[MEL_FRAMES])
    seen = {}
    encoder = model.encoder
    hooks = [encoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.update({"encoder.0": args[0]}))]
    for i, block in enumerate(encoder.blocks):
        hooks.append(block.register_forward_hook(lambda _, __, out, i=i: seen.update({f"encoder.{i + 1}": out})))
    audio = model.encoder(mel[None])
    for hook in hooks:
        hook.remove()
    writer.ints("encoder.rows", AUDIO_ROWS)
    for name in sorted(seen):
        writer.floats(name, seen[name][0][AUDIO_ROWS])
    writer.floats("encoder.final", audio[0][AUDIO_ROWS])

    fed = prompt + tokens
    weights = {}
    hooks = [block.cross_attn.register_forward_hook(
        lambda _, __, out, i=i: weights.update({i: out[-1].softmax(dim=-1)}))
        for i, block in enumerate(model.decoder.blocks)]
    with disable_sdpa():
        logits = model.decoder(torch.tensor([fed]), audio)[0]
    for hook in hooks:
        hook.remove()
    sampled = list(range(0, model.dims.n_vocab, 2593)) + [eot]
    writer.ints("decoder.fed", fed)
    writer.ints("decoder.ids", sampled)
    writer.floats("decoder.logits", logits[:, sampled])
    top = logits.topk(5, dim=-1)
    writer.ints("decoder.top_ids", top.indices.flatten())
    writer.floats("decoder.top", top.values)
    begin = len(prompt) - 1
    rows = torch.stack([weights[layer][0, head, begin:] for layer, head in sorted(map(tuple, heads))], dim=1)
    writer.ints("align.frames", ATTENTION_FRAMES)
    writer.floats("align", rows[:, :, ATTENTION_FRAMES])


def main():
    folder, out = pathlib.Path(sys.argv[1]).expanduser(), sys.argv[2]
    speech = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None
    model, heads = load(folder)
    writer = Writer(out)
    tokenizer = get_tokenizer(model.is_multilingual, num_languages=model.num_languages, language="en",
                              task="transcribe")
    task = DecodingTask(model, DecodingOptions(language="en", fp16=False))
    writer.ints("suppress", task._get_suppress_tokens())
    writer.ints("suppress_first", tokenizer.encode(" ") + [tokenizer.eot])
    writer.ints("special", [tokenizer.eot, tokenizer.sot, tokenizer.no_speech, tokenizer.no_timestamps,
                            tokenizer.timestamp_begin])
    with torch.no_grad():
        harbour = read_audio(FIXTURE)
        prompt, tokens = greedy(model, writer, "harbour", harbour, "en", stamps=False)
        stages(model, heads, writer, prompt, tokens, tokenizer.eot)
        greedy(model, writer, "harbour.stamps", harbour, "en", stamps=True)
        for language, names in RECORDINGS.items():
            for name in names if speech and (language == "en" or model.is_multilingual) else []:
                pcm = read_audio(speech / f"{name}.flac")
                greedy(model, writer, name, pcm, language, stamps=False)
                greedy(model, writer, f"{name}.stamps", pcm, language, stamps=True)


if __name__ == "__main__":
    main()
