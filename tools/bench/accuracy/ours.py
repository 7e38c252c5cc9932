"""captiond-transcribe, started anew for each recording, and what it answered before (by the program's own hash)."""
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

SUMMARY = re.compile(r" s of audio in ([0-9.]+) s, ")


class Captiond:
    def __init__(self, build, model, threads, cache, fresh):
        self.program = f"{build}/captiond-transcribe"
        self.model, self.threads, self.folder = model, threads, cache
        self.fresh = set() if fresh else None
        self.digest = hashlib.sha256(pathlib.Path(self.program).read_bytes()).hexdigest()
        self.version = subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout.strip()

    def transcribe(self, recording, mode, precision="auto", gate=True, language=True, prepared=False, seed=0):
        """prepared: from the samples that the peers hear, not from the file. language: it is told."""
        options = ["--precision", precision, "--gate", "on" if gate else "off", "--beam-size", str(mode.beam)]
        if language and recording.language and not self.model.endswith(".en"):
            options += ["--language", recording.language]
        if not mode.fallback:
            options += ["--temperature-increment", "0"]
        if mode.words:
            options += ["--word-timestamps"]
        if not mode.timestamps:
            options += ["--without-timestamps"]
        if seed:
            options += ["--seed", str(seed)]
        file = recording.wav if prepared else recording.path
        what = json.dumps([self.digest, self.model, recording.digest(), prepared, options])
        path = self.folder / (hashlib.sha256(what.encode()).hexdigest()[:32] + ".json")
        if not path.exists() or (self.fresh is not None and path not in self.fresh):
            path.write_text(json.dumps(self.run(file, options)), encoding="utf-8")
            if self.fresh is not None:
                self.fresh.add(path)
        return json.loads(path.read_text(encoding="utf-8"))

    def run(self, file, options):
        command = [self.program, "--model", self.model, "--threads", str(self.threads), "--format", "json", *options, str(file)]
        result = subprocess.run(command, capture_output=True, text=True)
        summary = SUMMARY.search(result.stderr)
        if result.returncode or not summary:
            sys.exit(f"{' '.join(command)}: {result.stderr}")
        answer = json.loads(result.stdout)
        segments = answer["segments"]
        return {"text": "".join(s["text"] for s in segments), "language": answer["language"], "seconds": float(summary[1]),
                "segments": segments, "words": [w for s in segments for w in s.get("words", [])]}
