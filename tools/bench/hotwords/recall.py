"""usage: recall.py BUILD [--models NAME…] [--modes offline live] [--voices NAME…] [--texts NAME…]

How many names and terms come out right without hotwords, with them, and how often one is written that nobody said.

Each text in texts/ has a dozen sentences with one term each. Flite speaks them, half a second of silence between two. Each
recording is transcribed three times: without hotwords; with its own text's terms; with those of another text, none of
which is said. "Recall" counts terms that are written somewhere in the transcript, letter by letter but for case, blanks and
punctuation. "Insertions" are terms of the other list that are written. "Word errors" are insertions, deletions and
substitutions of the whole text.

Offline is captiond-transcribe, live captiond in fast pace: the same passes and commits as on a microphone.
"""
import argparse
import array
import pathlib
import re
import subprocess
import sys
import tempfile
import wave

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from edits import edits

TEXTS = pathlib.Path(__file__).parent / "texts"
PAUSE_S = 0.5


def words_of(text):
    text = re.sub(r"['’]s\b", "", text.lower())
    return re.sub(r"[^\w\s]", " ", text).split()


def written(term, text):
    """Whether the term stands in the text, as one word or in pieces."""
    words, wanted = words_of(text), "".join(words_of(term))
    return any("".join(words[i:i + n]) == wanted for n in (1, 2, 3) for i in range(len(words) - n + 1))


def word_errors(said, text):
    return edits(words_of(said), words_of(text))


def speak(lines, voice, path):
    """One recording of all lines."""
    with tempfile.TemporaryDirectory() as folder, wave.open(str(path), "wb") as out:
        for i, line in enumerate(lines):
            part = f"{folder}/{i}.wav"
            subprocess.run(["flite", "-voice", voice, "-t", line, "-o", part], check=True)
            with wave.open(part, "rb") as spoken:
                if i == 0:
                    out.setparams(spoken.getparams())
                out.writeframes(spoken.readframes(spoken.getnframes()))
                silence = array.array("h", [0]) * int(PAUSE_S * spoken.getframerate())
                out.writeframes(silence.tobytes())


def transcribe(build, mode, model, path, hotwords):
    if mode == "offline":
        command = [f"{build}/captiond-transcribe", "--quiet", "--language", "en", "--model", model, str(path)]
    else:
        command = [f"{build}/captiond", "--config", "/dev/null", "--language", "en", "--model", model, "--pace", "fast",
                   "--once", "--stdout", "text", "--input", f"file:{path}"]
    if hotwords:
        command += ["--hotwords", ", ".join(hotwords)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure(build, mode, model, recordings, terms):
    """recordings: (text's name, its lines, path)."""
    sums = dict.fromkeys(["terms", "without", "with", "inserted", "errors", "errors_with", "errors_other", "words"], 0)
    names = sorted(terms)
    for name, lines, path in recordings:
        said, own, other = " ".join(lines), terms[name], terms[names[(names.index(name) + 1) % len(names)]]
        plain, told, misled = (transcribe(build, mode, model, path, hotwords) for hotwords in (None, own, other))
        sums["terms"] += len(own)
        sums["without"] += sum(written(t, plain) for t in own)
        sums["with"] += sum(written(t, told) for t in own)
        sums["inserted"] += sum(written(t, misled) for t in other)
        sums["words"] += len(words_of(said))
        sums["errors"] += word_errors(said, plain)
        sums["errors_with"] += word_errors(said, told)
        sums["errors_other"] += word_errors(said, misled)
    return sums


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--models", nargs="+", default=["tiny.en", "base"])
    parser.add_argument("--modes", nargs="+", choices=["offline", "live"], default=["offline", "live"])
    parser.add_argument("--voices", nargs="+", default=["slt", "rms"])
    parser.add_argument("--texts", nargs="+", help="only these of texts/")
    options = parser.parse_args()
    texts = {p.stem: p.read_text(encoding="utf-8").splitlines() for p in sorted(TEXTS.glob("*.txt"))}
    terms = {name: (TEXTS / f"{name}.terms").read_text(encoding="utf-8").splitlines() for name in texts}
    for name, lines in texts.items():
        missing = [t for t in terms[name] if not written(t, " ".join(lines))]
        if missing:
            raise SystemExit(f"{name}.txt does not say {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        recordings = []
        for name, lines in ((n, t) for n, t in texts.items() if n in (options.texts or texts)):
            for voice in options.voices:
                path = pathlib.Path(folder) / f"{name}-{voice}.wav"
                speak(lines, voice, path)
                recordings.append((name, lines, path))
        print("| model | | recall without | with hotwords | others inserted | word errors without | with | with others |")
        print("|---|---|---|---|---|---|---|---|")
        for model in options.models:
            for mode in options.modes:
                s = measure(options.build, mode, model, recordings, terms)
                print(f"| {model} | {mode} | {s['without']}/{s['terms']} | {s['with']}/{s['terms']} | "
                      f"{s['inserted']}/{s['terms']} | {s['errors']}/{s['words']} | {s['errors_with']} | "
                      f"{s['errors_other']} |", flush=True)


if __name__ == "__main__":
    main()
