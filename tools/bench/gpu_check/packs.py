#!/usr/bin/env python3
"""Makes the packs of gpu-check: a small model, recordings, and what the host engine makes of them. No network.

usage: packs.py BUILD TO [--models FOLDER] [--speech FOLDER]

TO/tiny.en has the model in 8 bits as CTranslate2's folder, TO/base in 5 bits as ggml's file; each at most 55 MB with its
recordings. reference.json is the text that captiond-transcribe's host engine has of these very files, in single precision.
A pack whose text is far from what was said is an error. Needs numpy.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from edits import edits

OPTIONS = ["--temperature-increment", "0"]  # the same text each time, and nothing sampled
MOST_BYTES = 55_000_000
MOST_ERRORS = 0.15  # of the words; the models in half floats have 0.03 and less on these recordings
WANTED = ["en_two_cities", "en_ls_1995"]  # 44 s of one speaker, so a window of 30 s, and 9 s
ROOT = pathlib.Path(__file__).resolve().parents[3]


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower().replace("-", " "))


def recordings(speech):
    found = [speech / f"{name}.flac" for name in WANTED if (speech / f"{name}.flac").exists()]
    if len(found) < len(WANTED):
        print(f"packs.py: {speech} has not all of {', '.join(WANTED)}: no window of the pack may be full", file=sys.stderr)
    return found + sorted((ROOT / "tests/fixtures").glob("*.flac"))


def transcribe(build, model, recording):
    done = subprocess.run([build / "captiond-transcribe", "--engine", "host", "--precision", "f32", *OPTIONS, "--model", model, recording],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{model}: {done.stderr.strip()}")
    return " ".join(done.stdout.split())


def finish(build, folder, model, speech):
    """Adds recordings and reference. Returns a line for the reader."""
    files, errors, spoken = [], 0, 0
    for recording in recordings(speech):
        shutil.copy(recording, folder / recording.name)
        text, said = transcribe(build, model, recording), words(recording.with_suffix(".txt").read_text())
        files.append({"file": recording.name, "text": text})
        errors, spoken = errors + edits(words(text), said), spoken + len(said)
    (folder / "reference.json").write_text(json.dumps({"model": model.relative_to(folder).as_posix(), "recordings": files}, indent=1))
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    if errors > MOST_ERRORS * spoken:
        sys.exit(f"{folder}: {errors} of {spoken} words are wrong: {files}")
    if size > MOST_BYTES:
        sys.exit(f"{folder}: {size} bytes, more than {MOST_BYTES}")
    return f"{folder}: {size / 1e6:.1f} MB, {errors} of {spoken} words wrong"


def make(build, models, name, to, speech):
    import quantise  # numpy, which who reads packs need not have
    folder, source = to / name, models / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if name == "base":
        model = folder / "ggml-base-q5_0.bin"
        quantise.write_ggml_q5_0(source, model)
    else:
        model = folder / "model"
        quantise.write_ct2_int8(source, model)
    return finish(build, folder, model, speech)


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("build", type=pathlib.Path)
    arguments.add_argument("to", type=pathlib.Path)
    arguments.add_argument("--models", type=pathlib.Path, default=cache / "captiond/models")
    arguments.add_argument("--speech", type=pathlib.Path, default=ROOT / "../shared/speech")
    a = arguments.parse_args()
    for name in ("tiny.en", "base"):
        if not (a.models / name / "model.bin").exists():
            sys.exit(f"{a.models}: there is no {name}; captiond-model get {name} fetches it")
        print(make(a.build.resolve(), a.models, name, a.to, a.speech), flush=True)


if __name__ == "__main__":
    main()
