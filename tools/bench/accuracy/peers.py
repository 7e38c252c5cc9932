"""The other programs, each in a child process of its own (worker_*.py), and what they answered before (the cache)."""
import hashlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading

import modes

HERE = pathlib.Path(__file__).resolve().parent


class Worker:
    def __init__(self, python, script, *arguments, log):
        environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS=str(arguments[1]))
        self.child = subprocess.Popen([python, str(HERE / script), *map(str, arguments)], text=True, env=environment,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self.script = script

    def ask(self, **request):
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        if not answer:
            sys.exit(f"{self.script} has ended at {request}: see its log")
        return json.loads(answer)

    def close(self):
        self.child.stdin.close()
        self.child.wait()


class Peer:
    """A peer with a model, for any number of threads: each question has a process of one thread for itself, for these programs
    gain little from a second one. A model is loaded when an answer is not in the cache."""

    def __init__(self, name, python, script, model, cache, fresh, *more):
        self.name, self.model = name, model
        self.start = lambda: Worker(python, script, model, 1, *more, log=open(cache / f"{script}.log", "a"))
        self.idle = queue.SimpleQueue()  # workers
        self.folder = cache
        self.fresh = set() if fresh else None  # what was asked for in this run; None: answers of earlier runs are good
        self.kind = "/".join([script, *more])
        versions = cache / "versions.json"
        known = json.loads(versions.read_text()) if versions.exists() and not fresh else {}
        key = f"{python} {self.kind}"
        if key not in known:
            known[key] = self.run(do="describe")
            versions.write_text(json.dumps(known))
        self.version = known[key]["version"]
        self.weights = hashlib.sha256((pathlib.Path(model) / "model.bin").read_bytes()).hexdigest()

    def run(self, **request):
        try:
            worker = self.idle.get_nowait()
        except queue.Empty:
            worker = self.start()
        answer = worker.ask(**request)
        self.idle.put(worker)
        return answer

    def ask(self, recording, **request):
        """As run, for a recording, from the cache if it is there."""
        sound = hashlib.sha256(recording.wav.read_bytes()).hexdigest()
        what = json.dumps([self.version, self.kind, self.weights, sound, request], sort_keys=True)
        path = self.folder / (hashlib.sha256(what.encode()).hexdigest()[:32] + ".json")
        if path.exists() and (self.fresh is None or path in self.fresh):
            return json.loads(path.read_text(encoding="utf-8"))
        answer = self.run(file=str(recording.wav), **request)
        part = path.with_suffix(f".{threading.get_ident()}")
        part.write_text(json.dumps(answer), encoding="utf-8")
        part.rename(path)
        if self.fresh is not None:
            self.fresh.add(path)
        return answer

    def transcribe(self, recording, mode, seed=0):
        if mode == modes.PLAIN:
            answer = self.transcribe(recording, modes.GREEDY)
            if answer.get("fallbacks") == 0:
                return answer  # it is the same decoding
        more = {"seed": seed} if seed else {}
        return self.ask(recording, do="transcribe", language=recording.language, **mode.request(), **more)

    def close(self):
        while not self.idle.empty():
            self.idle.get().close()


def find_python(pythons, module):
    """The first of several Python environments that has a module."""
    for python in pythons:
        if subprocess.run([python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec('{module}') is None)"],
                          stderr=subprocess.DEVNULL).returncode == 0:
            return python
    sys.exit(f"none of {' '.join(pythons)} has the module {module}")


def prepare(recordings, faster, cache):
    """Writes every recording as the peers hear it, once."""
    for recording in recordings:
        recording.wav = cache / f"{recording.name}-{recording.digest()[:16]}.wav"
        if not recording.wav.exists():
            faster.run(do="prepare", file=str(recording.path), to=str(recording.wav))
