#!/usr/bin/env python3
"""What a GPU says about the CUDA engine: tests, transcripts, times, as Markdown and JSON. Called by tools/gpu-check.

usage: gpu_check.py BUILD [--packs FOLDER] [--out FOLDER] [--seconds N] [--toy]

BUILD has gpu-probe, gpu-times, captiond-transcribe and tests/gpu/. The report is written anew after each step, so that what was
found stays where the time ends early; what there was no time for is named in it. --toy: the fake GPU of the tests, which is
slow: small batches. Exit status 0; 1: something is wrong, or no test has passed; 77: there is no GPU.
"""
import argparse
import difflib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import cuda_time
import packs

FLOOR_FLOPS, FLOOR_BYTES = 798e12, 3.0e12  # what others measured on an H100 (docs/cuda-time.md)
SANITIZED = ["cross_attention", "select", "layer_norm", "linear", "linear_rows", "self_attention", "attention", "beam", "step"]
PEERS = ["faster-whisper", "openai-whisper"]  # the folders of CTranslate2 that they can read
SHAPES = {"tiny.en": cuda_time.TINY, "base": cuda_time.BASE}
RACES = re.compile(r"(?:Read|Write) access at ([^+\n]+)\+0x")  # racecheck
FOUND = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?, (\d+) warning")
# Words that may be others than the host engine's, beside one: docs/gpu-check.md says why.
FAR = {"transcripts": 0.05, "captions": 0.1, "times": 0.05, "peers": 0.3}
ENOUGH_BYTES = 8e9  # free memory with which none is too little: base with 64 slots takes less than 3 GB (derived)
PROBE_SECONDS = 120
LEAST_SECONDS = 5  # what is not begun any more with less time left
LAG_MS = 1000  # a stream's next pass is due


class Check:
    def __init__(self, a):
        self.a, self.begin = a, time.monotonic()
        self.said = ""  # all that the last command has written
        kit = a.build / "source"
        self.result = {"kit": kit.read_text().strip() if kit.exists() else None, "gpu": {}, "tests": [], "transcripts": [],
                       "captions": [], "times": [], "streams": [], "peers": [], "sanitizer": [], "left_out": [], "failures": []}

    def left(self):
        return self.a.seconds - (time.monotonic() - self.begin)

    def run(self, what, command, limit, env=None, may_lack_memory=False):
        """Output of a command, or None: it failed, or there was no time for it or not enough; all are noted."""
        self.said = ""
        if self.left() < LEAST_SECONDS:
            self.result["left_out"].append(what)
            return None
        whole, limit = limit, min(limit, self.left())
        try:
            child = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                     errors="replace", env={**os.environ, **(env or {})}, start_new_session=True)
        except OSError as e:
            self.fail(f"{what}: {e}", "")
            return None
        try:
            out, err = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            out = self.end(child)
            if limit < whole:
                self.result["left_out"].append(what)
            else:
                self.fail(f"{what}: not done within {limit:.0f} s", out)
            return None
        except BaseException:  # somebody ends us: no kernel is left behind
            self.end(child)
            raise
        self.said = out + err
        if (child.returncode and may_lack_memory and "engine cuda: no memory for" in err
                and self.result["gpu"].get("memory_free_bytes", 0) < ENOUGH_BYTES):
            self.result["left_out"].append(f"{what}: this GPU has too little memory")
            return None
        if child.returncode:
            self.fail(f"{what}: status {child.returncode}", self.said)
            return None
        return out

    @staticmethod
    def end(child):
        """With what it has started: a sanitizer's program would share the GPU with the next step."""
        os.killpg(child.pid, signal.SIGKILL)
        return child.communicate()[0]

    def fail(self, what, said):
        self.result["failures"].append({"what": what, "output": said[-4000:], "others_alone": others_alone(said)})
        print(f"FAILED {what}\n{said[-4000:]}", file=sys.stderr)

    # --- steps ------------------------------------------------------------------------------------------------------

    def probe(self):
        done = subprocess.run([str(self.a.build / "gpu-probe"), *(["toy"] if self.a.toy else [])], capture_output=True, text=True,
                              timeout=PROBE_SECONDS)
        if done.returncode == 1 and done.stderr.startswith("gpu-probe: "):
            print(f"gpu-check: no GPU that can be used (make cuda-setup says what is missing): {done.stderr.strip()}", file=sys.stderr)
            sys.exit(77)
        if done.returncode:  # a library that is missing, a crash
            raise RuntimeError(f"status {done.returncode}: {done.stderr.strip()}")
        self.result["gpu"] = json.loads(done.stdout)

    def tests(self):
        """The wrappers' first: everything else stands on them."""
        programs = [p for p in sorted((self.a.build / "tests/gpu").glob("test_*")) if not p.suffix]
        for program in sorted(programs, key=lambda p: p.name != "test_harness"):
            begin = time.monotonic()
            failures = len(self.result["failures"])
            self.run(program.name, [program], 60)
            if program.name in self.result["left_out"]:
                continue
            passed, skipped = counted(self.said, "PASSED"), counted(self.said, "SKIPPED")
            if len(self.result["failures"]) == failures and passed + skipped == 0:
                self.fail(f"{program.name}: ran no test", self.said)
            verdict = "FAILED" if len(self.result["failures"]) > failures else "passed" if passed else "skipped"
            self.result["tests"].append({"name": program.name, "verdict": verdict, "skipped": skipped,
                                         "seconds": round(time.monotonic() - begin, 1)})
        if not programs:
            self.fail(f"tests: there are none in {self.a.build}/tests/gpu; make gpu-tests builds them", "")
        elif not any(t["verdict"] == "passed" for t in self.result["tests"]):
            self.fail(f"tests: none has passed, so nothing is known of the engine; {self.a.seconds:.0f} s were given", "")

    def packs(self):
        for file in sorted(self.a.packs.glob("*/reference.json")):
            reference = json.loads(file.read_text())
            if not reference["recordings"]:
                raise ValueError(f"{file} has no recordings; tools/bench/gpu_check/packs.py makes packs")
            yield file.parent.name, file.parent / reference["model"], file.parent, reference["recordings"]

    def transcripts(self):
        if not list(self.packs()):
            self.result["left_out"].append(f"transcripts, captions, times, streams, peers: there is no pack in {self.a.packs}; "
                                           "docs/gpu-check.md says how they are made")
        for name, model, folder, recordings in self.packs():
            for r in recordings:
                text = self.run(f"transcript of {r['file']} by {name}",
                                [self.a.build / "captiond-transcribe", "--engine", "cuda", *packs.OPTIONS, "--model", model, folder / r["file"]], 60)
                if text is not None:
                    self.compare("transcripts", name, r, text)

    def compare(self, what, name, recording, text):
        host, ours = packs.words(recording["text"]), packs.words(text)
        differ, examples = differences(host, ours)
        self.result[what].append({"model": name, "file": recording["file"], "words": len(host), "differ": differ, "differences": examples})
        if far(what, host, ours):
            self.fail(f"{name}, {recording['file']}: {differ} of {len(host)} words of the {what} are not the host engine's", text)

    def captions(self):
        """The daemon's way, which none of the others is: samples from the pinned ring, and streams whose runs join a batch and leave it."""
        few = ["--step", "5000", "--beam-size", "1"] if self.a.toy else []
        for name, model, folder, recordings in self.packs():
            streams = {f"s{i}": r for i, r in enumerate((recordings * 2)[:2])}
            inputs = [o for stream, r in streams.items() for o in ("--input", f"{stream}=file:{folder / r['file']}")]
            output = self.run(f"captions by {name}", [self.a.build / "captiond", "--config", "/dev/null", "--socket", "none", "--once", "--pace", "fast",
                                                      "--stdout", "jsonl", "--engine", "cuda", "--model", model, *few, *inputs], 90)
            if output is None:
                continue
            events = [json.loads(line) for line in output.splitlines()]
            for stream, r in streams.items():
                self.compare("captions", name, r, "".join(e["text"] for e in events if e["type"] == "final" and e["stream"] == stream))
            for e in events:
                if e["type"] == "gap":
                    self.fail(f"captions by {name}: {e['lost_ms']} ms are lost ({e['cause']})", output)

    def gpu_times(self, name, model, window, what):
        output = self.run(f"{name}, {what}", [self.a.build / "gpu-times", "cuda", model, window, what], 90, may_lack_memory=True)
        return None if output is None else {"model": name, **json.loads(output)}

    def times(self):
        batches = [1, 2] if self.a.toy else [1, 2, 4, 8, 16, 32, 64, 128, 256]
        for name, model, folder, recordings in self.packs():
            for batch in batches:
                failures = len(self.result["failures"])
                row = self.gpu_times(name, model, folder / recordings[0]["file"], f"batch:{batch}")
                if row is None and len(self.result["failures"]) == failures:  # no time or no memory: less still for the next
                    if batch != batches[-1]:
                        self.result["left_out"].append(f"{name}, batches above {batch}")
                    break
                if row is not None:
                    self.expect_text(name, recordings[0], row)
                    self.result["times"].append({**row, **self.shares(name, batch, row)})

    def expect_text(self, name, recording, row):
        """What was measured must be the recording's words: as many as half of the tokens surely are, which end in midsentence."""
        host, ours = begin_alike(recording["text"], row["text"], row["tokens"] // 2)
        row["differ"], _ = differences(host, ours)
        if far("times", host, ours):
            self.fail(f"{name}, batch:{row['batch']}: {row['differ']} of the first {len(host)} words are not the host engine's: "
                      "its times are of something else", row["text"])
        if not (row["encode_ms"] > 0 and row["step_us"] > 0):
            self.fail(f"{name}, batch:{row['batch']}: {row['encode_ms']} ms to encode and {row['step_us']} µs a step are no times", "")
        if not row["pinned"]:
            self.result["left_out"].append(f"{name}, batch:{row['batch']}: samples that are pinned, so encoding is slower than the daemon's")

    def shares(self, name, batch, row):
        if name not in SHAPES or not row["step_us"] > 0:
            return {}
        slots = min(batch, row["slots"])
        flops = cuda_time.encoder_flops(SHAPES[name]) / (1e-3 * row["encode_ms"])
        weights, logits, cross = cuda_time.token_bytes(SHAPES[name])
        steps = -(-batch // slots)
        rate = (steps * (weights + logits) + batch * cross) / (1e-6 * row["step_us"])
        gpu = self.result["gpu"]
        out = {"encode_flop_s": flops, "encode_share": flops / FLOOR_FLOPS, "step_bytes_s": rate, "step_share": rate / FLOOR_BYTES}
        if gpu.get("product_flop_s"):
            out["encode_share_here"] = flops / gpu["product_flop_s"]
        if gpu.get("copy_bytes_s"):
            out["step_share_here"] = rate / gpu["copy_bytes_s"]
        return out

    def streams(self):
        """The most live inputs whose 99th percentile of lag is below a second: doubled until it is not, then between. The most is
        not known where that ended early."""
        for name, model, folder, recordings in self.packs():
            window = folder / recordings[0]["file"]
            good, bad, n, rows, known = 0, None, 1 if self.a.toy else 32, [], False
            while n and len(rows) < (2 if self.a.toy else 9):
                row = self.gpu_times(name, model, window, f"streams:{n}")
                if row is None:
                    break
                rows.append(row)
                if row["lag_ms_p99"] <= LAG_MS:
                    good, n = n, min(2 * n, 1024) if bad is None else (n + bad) // 2
                else:
                    bad, n = n, (good + n) // 2
                known = bad is not None and bad - good <= max(1, good // 16)
                if known or n == good:
                    break
            if rows:
                self.result["streams"].append({"model": name, "most": good, "at_least": not known, "limit_ms": LAG_MS, "measured": rows})

    def peers(self):
        """One that is late, broken or not installed is no fault of ours: it is left out, and why."""
        for name, model, folder, recordings in self.packs():
            for peer in PEERS if (model / "model.bin").exists() else []:
                failures = len(self.result["failures"])
                output = self.run(f"{peer} with {name}", [sys.executable, HERE / "peers.py", peer, model, folder / recordings[0]["file"],
                                                          "cpu" if self.a.toy else "cuda"], 100)
                self.result["left_out"] += [f["what"] for f in self.result["failures"][failures:]]
                del self.result["failures"][failures:]
                for line in (output or "").splitlines():
                    row = json.loads(line) if line.startswith("{") else None
                    if row is None:
                        self.result["left_out"].append(line)
                    elif far("peers", *begin_alike(recordings[0]["text"], row["text"], cuda_time.TOKENS // 2)):
                        self.result["left_out"].append(f"{row['program']} with {name}, which has another text: {row['text'][:200]!r}")
                    else:
                        self.result["peers"].append({"model": name, **row, "words": len(row["text"].split())})

    def sanitizer(self):
        program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not pathlib.Path(program).exists():
            self.result["left_out"].append("compute-sanitizer, which is not here")
            return
        for name in SANITIZED:
            test = self.a.build / f"tests/gpu/test_{name}"
            if not test.exists():
                self.result["left_out"].append(f"sanitizer: there is no test_{name}")
                continue
            for tool in ("memcheck", "racecheck"):
                failures = len(self.result["failures"])
                what = f"{tool}, test_{name}"
                output = self.run(what, [program, "--tool", tool, "--error-exitcode", "1", test], 45)
                if output is None and len(self.result["failures"]) == failures:
                    continue
                verdict = self.verdict(what, output is not None)
                if output is None and verdict != "FINDINGS":  # says nothing against a kernel of ours
                    self.result["failures"].pop()
                self.result["sanitizer"].append({"tool": tool, "test": name, "verdict": verdict})

    def verdict(self, what, ended_well):
        """Clean is what says so itself, of a test that has run."""
        if not ended_well:
            failure = self.result["failures"][-1]
            return "too slow" if "not done" in failure["what"] else "in libcublas' kernels alone" if failure["others_alone"] else "FINDINGS"
        found = FOUND.search(self.said)
        if not found or not counted(self.said, "PASSED"):
            return "nothing: no summary, or no test was run"
        errors, warnings = int(found[1] or found[2]), int(found[3] or 0)
        if errors:
            self.fail(f"{what}: {errors} errors", self.said)
        return "FINDINGS" if errors else f"{warnings} warnings" if warnings else "clean"

    # --- the report -------------------------------------------------------------------------------------------------

    def write(self):
        self.result["seconds"] = round(time.monotonic() - self.begin, 1)
        self.a.out.mkdir(parents=True, exist_ok=True)
        (self.a.out / "gpu-check.json").write_text(json.dumps(self.result, indent=1) + "\n")
        (self.a.out / "gpu-check.md").write_text(markdown(self.result))

    def all(self):
        try:
            self.probe()
        except Exception as e:  # a GPU that hangs: nothing else would end
            self.fail(f"probe: {type(e).__name__}: {e}", "")
            self.write()
            return 1
        for step in (self.tests, self.transcripts, self.captions, self.times, self.streams, self.peers, self.sanitizer):
            try:
                step()
            except Exception as e:  # a fault of this script must not cost the other steps
                self.fail(f"{step.__name__}: {type(e).__name__}: {e}", "")
            self.write()
        return 1 if self.result["failures"] else 0


def others_alone(said):
    """Whether racecheck has found something, nothing of it in our kernels, whose names all end so, and the test has passed."""
    kernels = RACES.findall(said)
    return (bool(kernels) and not any(re.match(r"(void )?\w+_kernel\b", k) for k in kernels) and counted(said, "PASSED") > 0
            and counted(said, "FAILED") == 0)


def counted(said, word):
    """The number in cmocka's "[  WORD  ] N test(s)", which has it at the end, even after a failure."""
    return sum(int(n) for n in re.findall(rf"\[ *{word} *\] (\d+) test\(s\)", said))


def differences(host, ours):
    """How many words differ, and where."""
    parts = [o for o in difflib.SequenceMatcher(None, host, ours, autojunk=False).get_opcodes() if o[0] != "equal"]
    return (sum(max(j - i, m - k) for _, i, j, k, m in parts),
            [f"{' '.join(host[i:j])} → {' '.join(ours[k:m])}" for _, i, j, k, m in parts])


def far(what, host, ours):
    return not host or not ours or differences(host, ours)[0] > FAR[what] * len(host) + 1


def begin_alike(host, ours, n):
    """The first n words of the host engine's text, or all there are, and as many of another one."""
    host = packs.words(host)[:n]
    return host, packs.words(ours)[:len(host)]


def table(head, rows):
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines) + "\n\n"


def percent(row, key):
    return f"{100 * row[key]:.0f} %" if key in row else ""


def markdown(r):
    gpu = r["gpu"]
    def rate(key, unit, scale):
        return f"{gpu[key] / scale:.3g} {unit}" if gpu.get(key) else "not measured"
    out = f"# CUDA engine on {gpu.get('name', 'a GPU')}\n\n"
    out += (f"Compute capability {gpu.get('capability', 0) / 10:.1f}, {gpu.get('multiprocessors')} multiprocessors, CUDA "
            f"{gpu.get('runtime_cuda', 0) // 1000} on a driver of {gpu.get('driver_cuda', 0) // 1000}.{gpu.get('driver_cuda', 0) % 1000 // 10}. "
            f"Measured here: a copy {rate('copy_bytes_s', 'TB/s', 1e12)}, libcublas {rate('product_flop_s', 'TFLOP/s', 1e12)}. "
            f"All of this took {r['seconds']:.0f} s.\n\n")
    if r["kit"]:
        out += f"Programs of a kit, made from {r['kit']}.\n\n"
    if r["failures"]:
        out += "## Failures\n\n" + "".join(f"- {f['what']}\n" for f in r["failures"]) + "\n"
    if r["left_out"]:
        out += "## Left out\n\n" + "".join(f"- {w}\n" for w in r["left_out"]) + "\n"
    out += "## Tests\n\n" + table(["test", "", "s"], [[t["name"], t["verdict"] + (f", {t['skipped']} skipped" if t["skipped"] else ""),
                                                        t["seconds"]] for t in r["tests"]])
    out += table(["compute-sanitizer", "test", ""], [[s["tool"], s["test"], s["verdict"]] for s in r["sanitizer"]])
    for what, title in (("transcripts", "Text beside the host engine's, in single precision"),
                        ("captions", "Live captions of two recordings at once beside the host engine's text of each")):
        if r[what]:
            out += f"## {title}\n\n"
            out += table(["model", "recording", "words", "that differ", "host → GPU"],
                         [[t["model"], t["file"], t["words"], t["differ"], "; ".join(t["differences"][:5]).replace("|", "/")]
                          for t in r[what]])
    if r["times"]:
        out += "## Times\n\nWindows of 30 s, 90 tokens each unless the model is smaller. Shares are of 798 TFLOP/s and 3.0 TB/s, in brackets of what was measured here.\n\n"
        out += table(["model", "batch", "encode, ms a window", "µs a step", "µs a token", "steps by", "all, ms", "ms a window", "times real time",
                      "FLOP, encoder", "bytes, step"],
                     [[t["model"], t["batch"] if t["batch"] <= t["slots"] else f"{t['batch']}, in groups of {t['slots']}", f"{t['encode_ms']:.3f}", f"{t['step_us']:.0f}", f"{t['step_us'] / t['batch']:.1f}", t["steps"],
                       f"{t['windows_ms']:.1f}", f"{t['windows_ms'] / t['batch']:.2f}", f"{t['times_real_time']:.0f}",
                       f"{percent(t, 'encode_share')} ({percent(t, 'encode_share_here')})",
                       f"{percent(t, 'step_share')} ({percent(t, 'step_share_here')})"] for t in r["times"]])
    if r["streams"]:
        out += f"## Live streams\n\nA pass a second each; the most whose 99th percentile of lag is at most {LAG_MS} ms.\n\n"
        out += table(["model", "most", "measured: streams, lag p50 / p99, ms"],
                     [[s["model"], f"{'at least ' if s['at_least'] else ''}{s['most']}",
                       ", ".join(f"{m['streams']}: {m['lag_ms_p50']:.0f} / {m['lag_ms_p99']:.0f}" for m in s["measured"])]
                      for s in r["streams"]])
    out += "## The same window through others\n\n"
    out += table(["model", "program", "ms", "words"], [[p["model"], p["program"], f"{p['ms']:.1f}", p["words"]] for p in r["peers"]]) or \
        "Neither faster-whisper nor openai-whisper is installed, or can read the packs.\n"
    return out


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("build", type=pathlib.Path)
    arguments.add_argument("--packs", type=pathlib.Path, default=pathlib.Path("gpu-packs"))
    arguments.add_argument("--out", type=pathlib.Path)
    arguments.add_argument("--seconds", type=float, default=450)
    arguments.add_argument("--toy", action="store_true")
    a = arguments.parse_args()
    a.build = a.build.resolve()
    a.out = a.out or a.build
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    check = Check(a)
    status = check.all()
    print((a.out / "gpu-check.md").read_text())
    print(f"{a.out}/gpu-check.md and gpu-check.json: {len(check.result['failures'])} failures, {len(check.result['left_out'])} left out")
    return status


if __name__ == "__main__":
    sys.exit(main())
