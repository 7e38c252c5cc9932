#!/usr/bin/env python3
"""Writes tests/golden/shapes.txt: what transformers computes with small models in the shapes of the published ones.

    python3 tools/golden/shapes.py >tests/golden/shapes.txt

Needs numpy, torch and transformers. Weights and sound are the numbers of tests/support/tiny_model.c, made again here bit
for bit; the network is computed in double precision. Lines:

model NAME SEED MELS AUDIO_CTX AUDIO_LAYERS VOCAB TEXT_CTX TEXT_LAYERS STATE
prompt TOKEN…
step TOKEN MARGIN LOGIT…      for each position from the prompt's last one on: the greatest logit's token, by how much it
                              exceeds the second, and the logits of the ids 0, 1621, 3242, …
"""
import numpy as np
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

STRIDE = 1621
SHAPES = [  # name, mels, audio layers, vocabulary, text layers, state
    ("tiny.en", 80, 4, 51864, 4, 384),
    ("base", 80, 6, 51865, 6, 128),
    ("large-v3", 128, 4, 51866, 4, 128),
    ("large-v3-turbo", 128, 4, 51866, 2, 320),
    ("distil-small.en", 80, 3, 51864, 1, 192),
    ("distil-large-v3", 128, 2, 51866, 1, 1280),
]
PROMPTS = {51864: [50257, 50362], 51865: [50258, 50259, 50359, 50363], 51866: [50258, 50259, 50360, 50364]}
AUDIO_CTX, TEXT_CTX, SECONDS, N_STEPS = 50, 32, 1, 12
N_SAMPLES = 9600


def stream_of(name, seed):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return (value + seed * 0x9E3779B97F4A7C15) % 2**64


def normal(stream, n):
    with np.errstate(over="ignore"):
        z = np.uint64(stream) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    total = sum((z >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16, 32, 48))
    return (total - 131070).astype(np.float32) * np.float32(float.fromhex("0x1.bb67aep-16"))


def tensor(name, shape, seed):
    """Mean and deviation as in tiny_model_init_dims."""
    norm = name.rsplit(".", 2)[-2] in ("attn_ln", "cross_attn_ln", "mlp_ln", "ln", "ln_post")
    if name == "decoder.token_embedding.weight":
        mean, deviation = 0.0, 0.05
    elif name == "encoder.positional_embedding":
        mean, deviation = 0.0, 0.5
    elif name == "decoder.positional_embedding":
        mean, deviation = 0.0, 0.3
    elif norm and name.endswith("weight"):
        mean, deviation = 1.0, 0.2
    elif ".conv" in name or name.endswith("bias"):
        mean, deviation = 0.0, 0.1
    else:
        mean, deviation = 0.0, np.float32(1.5) / np.sqrt(np.float32(shape[1]))
    values = np.float32(mean) + np.float32(deviation) * normal(stream_of(name, seed), int(np.prod(shape)))
    return values.astype(np.float16).astype(np.float64).reshape(shape)


PARTS = [("encoder_attn_layer_norm", "cross_attn_ln"), ("self_attn_layer_norm", "attn_ln"),
         ("final_layer_norm", "mlp_ln"), ("encoder_attn", "cross_attn"), ("self_attn", "attn"), ("q_proj", "query"),
         ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"), ("fc1", "mlp.0"), ("fc2", "mlp.2"),
         ("embed_tokens", "token_embedding"), ("embed_positions.weight", "positional_embedding"), ("layers", "blocks"),
         ("encoder.layer_norm", "encoder.ln_post"), ("decoder.layer_norm", "decoder.ln"), ("model.", "")]


def openai_name(name):
    for theirs, ours in PARTS:
        name = name.replace(theirs, ours, 1)
    return name


def main():
    for seed, (name, mels, audio_layers, vocab, text_layers, state) in enumerate(SHAPES, 1):
        config = WhisperConfig(
            vocab_size=vocab, num_mel_bins=mels, d_model=state, encoder_layers=audio_layers, decoder_layers=text_layers,
            encoder_attention_heads=state // 64, decoder_attention_heads=state // 64, encoder_ffn_dim=4 * state,
            decoder_ffn_dim=4 * state, max_source_positions=AUDIO_CTX, max_target_positions=TEXT_CTX)
        model = WhisperForConditionalGeneration(config).double().eval()
        with torch.no_grad():
            for theirs, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(tensor(openai_name(theirs), tuple(parameter.shape), seed)))
        pcm = (np.float32(0.1) * normal(stream_of("pcm", seed), N_SAMPLES)).astype(np.float32)
        extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=SECONDS)
        mel = extractor(pcm, sampling_rate=16000, return_tensors="pt").input_features.double()
        tokens = list(PROMPTS[vocab])
        print("model", name, seed, mels, AUDIO_CTX, audio_layers, vocab, TEXT_CTX, text_layers, state)
        print("prompt", *tokens)
        with torch.no_grad():
            audio = model.model.encoder(mel)
            for _ in range(N_STEPS):
                logits = model(encoder_outputs=audio, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
                best = torch.topk(logits, 2)
                tokens.append(int(best.indices[0]))
                print("step", tokens[-1], f"{float(best.values[0] - best.values[1]):.5f}",
                      *(f"{float(x):.6f}" for x in logits[::STRIDE]))


main()
