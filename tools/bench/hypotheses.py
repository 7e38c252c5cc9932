"""usage: hypotheses.py BUILD FOLDER MODEL offline|live OUT.tsv

Transcribes the recordings that FOLDER/MANIFEST.tsv lists, and writes `file<TAB>text` for FOLDER/score.py: with
captiond-transcribe (offline), or with captiond reading each file in fast pace (live: the same passes, commits and
voice gate as on a microphone). An English model takes the English recordings and those without speech; others are told the
language, as the baselines were.
"""
import csv
import subprocess
import sys
import tempfile


def run(build, mode, model, language, path):
    if mode == "offline":
        command = [f"{build}/captiond-transcribe", "--quiet", "--model", model]
        command += ["--language", language] if language else []
        command += [path]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as empty:
        command = [f"{build}/captiond", "--config", empty.name, "--model", model, "--input", f"file:{path}", "--pace", "fast",
                   "--once", "--stdout", "text"]
        command += ["--language", language] if language else []
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    build, folder, model, mode, out = sys.argv[1:]
    with open(f"{folder}/MANIFEST.tsv", encoding="utf-8") as manifest:
        rows = list(csv.DictReader(manifest, delimiter="\t", quoting=csv.QUOTE_NONE))
    english_only = model.endswith(".en")
    with open(out, "w", encoding="utf-8") as hypotheses:
        for row in rows:
            language = row["language"] if len(row["language"]) == 2 else ""
            if english_only and language not in ("", "en"):
                continue
            text = run(build, mode, model, "" if english_only else language, f"{folder}/{row['file']}")
            print(row["file"], " ".join(text.split()), sep="\t", file=hypotheses, flush=True)


if __name__ == "__main__":
    main()
