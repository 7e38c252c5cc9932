"""usage: compare.py BUILD FILE "MODEL…" ROUNDS THREADS

Transcribes FILE with captiond-transcribe and with faster-whisper (int8, beam 1, no previous text as prompt, no fallback to
higher temperatures), turn by turn, and prints a Markdown table: least and middle time without loading, peak memory of the
whole process, words wrong against FILE's .txt by OpenAI's English normaliser.

faster-whisper is loaded once a model and transcribes once before the clock runs; captiond-transcribe is started anew each
time and tells its own time after loading.
"""
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys

TIMING = re.compile(r"([0-9.]+) s of audio in ([0-9.]+) s")

# What the child process runs: a line in, a transcription, a line out.
WORKER = r"""
import json, sys, time
from faster_whisper import WhisperModel
folder, file, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads)
for _ in sys.stdin:
    begin = time.perf_counter()
    segments, info = model.transcribe(file, beam_size=1, temperature=0.0, condition_on_previous_text=False,
                                      language="en" if folder.endswith(".en") else None)
    text = "".join(s.text for s in segments)
    seconds = time.perf_counter() - begin
    peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "text": text, "peak_kib": peak}), flush=True)
"""


class FasterWhisper:
    def __init__(self, folder, file, threads):
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")
        self.child = subprocess.Popen([sys.executable, "-c", WORKER, folder, file, str(threads)], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.run()

    def run(self):
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        answer = json.loads(self.child.stdout.readline())
        return answer["seconds"], answer["text"], answer["peak_kib"]

    def close(self):
        self.child.stdin.close()
        self.child.wait()


def captiond(build, model, file, threads):
    child = subprocess.Popen([f"{build}/captiond-transcribe", "--model", model, "--threads", str(threads), file],
                             text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    text = child.stdout.read()
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    timing = TIMING.search(errors)
    if child.returncode or not timing:
        sys.exit(f"captiond-transcribe failed: {errors}")
    return float(timing[2]), text, usage.ru_maxrss, float(timing[1])


def error_rate(reference, text):
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    if not reference:
        return "-"
    normal = EnglishTextNormalizer()
    result = jiwer.process_words(normal(reference), normal(text))
    wrong = result.substitutions + result.insertions + result.deletions
    words = result.hits + result.substitutions + result.deletions
    return f"{100 * wrong / words:.2f} % ({wrong}/{words})"


def row(model, name, runs, reference, audio_seconds):
    seconds = [run[0] for run in runs]
    least, middle = min(seconds), statistics.median(seconds)
    peak = max(run[2] for run in runs) / 1024
    return (f"| {model} | {name} | {least:.2f} | {middle:.2f} | {audio_seconds / least:.0f} | {peak:.0f} "
            f"| {error_rate(reference, runs[0][1])} |")


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    build, file, models, rounds, threads = sys.argv[1:]
    rounds, threads = int(rounds), int(threads)
    text_file = pathlib.Path(file).with_suffix(".txt")
    reference = text_file.read_text() if text_file.exists() else ""
    rows = []
    for model in models.split():
        folder = subprocess.run([f"{build}/captiond-model", "path", model], text=True, stdout=subprocess.PIPE)
        if folder.returncode:
            sys.exit(1)
        if not list(pathlib.Path(folder.stdout.strip()).glob("vocabulary.*")):
            sys.exit(f"{model}: faster-whisper reads CTranslate2 folders with their vocabulary only")
        peer = FasterWhisper(folder.stdout.strip(), file, threads)
        captiond(build, model, file, threads)
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(captiond(build, model, file, threads))
            theirs.append(peer.run())
        peer.close()
        audio_seconds = ours[0][3]
        rows.append(row(model, "captiond-transcribe", ours, reference, audio_seconds))
        rows.append(row(model, "faster-whisper int8, beam 1", theirs, reference, audio_seconds))
        ratios = [statistics.median(r[0] for r in theirs) / statistics.median(r[0] for r in ours),
                  min(r[0] for r in theirs) / min(r[0] for r in ours)]
        print(f"{model}: captiond takes {1 / ratios[1]:.2f} of faster-whisper's least time, "
              f"{1 / ratios[0]:.2f} of its middle time", file=sys.stderr)
    version = subprocess.run([sys.executable, "-m", "pip", "show", "faster-whisper"], text=True,
                             stdout=subprocess.PIPE).stdout
    version = re.search(r"Version: (\S+)", version)
    print(f"{pathlib.Path(file).name}, {audio_seconds:.1f} s; {processor()}, {threads} threads; {rounds} rounds, "
          f"turn by turn; seconds without loading; faster-whisper {version[1] if version else ''}\n")
    print("| model | program | least, s | middle, s | times real time | peak memory, MiB | word errors |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
