"""The first 30 s of a recording through faster-whisper and openai-whisper, whichever are installed: a line of JSON each.

usage: peers.py MODEL RECORDING cuda|cpu      MODEL: a folder of CTranslate2; ggml's files neither can read
"""
import json
import pathlib
import sys
import time

REPEATS = 5


def least(transcribe):
    best, text = 1e9, ""
    for _ in range(REPEATS):
        begin = time.perf_counter()
        text = transcribe()
        best = min(best, time.perf_counter() - begin)
    return {"ms": 1e3 * best, "words": len(text.split())}


def window(path):
    import soundfile
    pcm, rate = soundfile.read(path, frames=480000, dtype="float32")
    assert rate == 16000 and pcm.ndim == 1, path
    return pcm


def faster(folder, pcm, device):
    import faster_whisper
    model = faster_whisper.WhisperModel(str(folder), device=device, compute_type="float16" if device == "cuda" else "int8")

    def transcribe():
        segments, _ = model.transcribe(pcm, language="en", beam_size=1, temperature=0.0, without_timestamps=True)
        return "".join(s.text for s in segments)

    return {"program": f"faster-whisper {faster_whisper.__version__}, beam 1", **least(transcribe)}


def openai(folder, pcm, device):
    import numpy as np
    import quantise
    import torch
    import whisper
    variables, _ = quantise.read_ct2(folder / "model.bin")
    for name in [n for n in variables if n + "_scale" in variables]:
        variables[name] = variables[name].astype(np.float32) / np.atleast_1d(variables[name + "_scale"])[:, None]
    state = {n: torch.tensor(v.astype(np.float32)) for n, v in quantise.openai_tensors(
        {n: v for n, v in variables.items() if not n.endswith("_scale")}).items()}
    n_state, n_mels, _ = state["encoder.conv1.weight"].shape
    layers = [sum(n.startswith(side) and n.endswith(".mlp.0.bias") for n in state) for side in ("encoder", "decoder")]
    model = whisper.model.Whisper(whisper.model.ModelDimensions(
        n_mels, len(state["encoder.positional_embedding"]), n_state, n_state // 64, layers[0],
        len(state["decoder.token_embedding.weight"]), len(state["decoder.positional_embedding"]), n_state, n_state // 64, layers[1]))
    model.load_state_dict(state, strict=False)
    model = model.to(device)
    options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=device == "cuda")

    def transcribe():
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.tensor(pcm)).to(device), n_mels)
        return whisper.decode(model, mel, options).text

    return {"program": f"openai-whisper {whisper.__version__}, greedy", **least(transcribe)}


def main():
    folder, recording, device = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if not (folder / "model.bin").exists():
        return
    for peer in (faster, openai):
        try:
            print(json.dumps(peer(folder, window(recording), device)), flush=True)
        except ImportError as e:
            print(f"{peer.__name__}: not installed: {e}", flush=True)
        except Exception as e:  # a peer that fails must not cost the other
            print(f"{peer.__name__}: {type(e).__name__}: {e}", flush=True)


if __name__ == "__main__":
    main()
