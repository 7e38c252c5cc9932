"""The first 30 s of a recording through faster-whisper or openai-whisper: a line of JSON, or of why there is none.

usage: peers.py faster-whisper|openai-whisper MODEL RECORDING cuda|cpu      MODEL: a folder of CTranslate2
"""
import json
import pathlib
import sys
import time

REPEATS = 3


def least(transcribe):
    best, text = 1e9, ""
    for _ in range(REPEATS):
        begin = time.perf_counter()
        text = transcribe()
        best = min(best, time.perf_counter() - begin)
    return {"ms": 1e3 * best, "text": text}


def window(path):
    import soundfile
    pcm, rate = soundfile.read(path, frames=480000, dtype="float32")
    if rate != 16000 or pcm.ndim != 1:
        raise ValueError(f"{path} is not 16 kHz mono")
    return pcm


def faster(folder, pcm, device):
    import faster_whisper
    model = faster_whisper.WhisperModel(str(folder), device=device, compute_type="float16" if device == "cuda" else "int8")

    def transcribe():
        segments, _ = model.transcribe(pcm, language="en", beam_size=1, temperature=0.0, without_timestamps=True)
        return "".join(s.text for s in segments)  # which are decoded only now

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
    name, folder, recording, device = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    peer = {"faster-whisper": faster, "openai-whisper": openai}[name]
    try:
        print(json.dumps(peer(folder, window(recording), device)))
    except ImportError as e:
        print(f"{name}, which is not installed: {e}")
    except Exception as e:
        print(f"{name}: {type(e).__name__}: {e}")


if __name__ == "__main__":
    main()
